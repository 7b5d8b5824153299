"""Reduce an ONNX file to the nodes that some of its outputs need, without the package onnx.

ONNX Runtime runs the whole graph regardless of the requested outputs, so an early layer would cost as much as the
last.  An ONNX file is a protobuf message, a sequence of fields (number, wire type, value); only the fields named below
are parsed, and the rest, including weights, is copied unchanged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_FUNCTIONS = 7, 8, 25
_OPSET_DOMAIN = 1
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT, _GRAPH_VALUE_INFO, _GRAPH_SPARSE = 1, 5, 12, 13, 15
_FUNCTION_NODE = 7
_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE = 1, 2, 5
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_SPARSE_TENSORS = (1, 2)
_TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 13, 14
_INFO_NAME = 1

_INSIDE: dict[str, dict[int, str]] = {
    "model": {_MODEL_GRAPH: "graph", _MODEL_FUNCTIONS: "function"},
    "function": {_FUNCTION_NODE: "node"},
    "graph": {_GRAPH_NODE: "node", _GRAPH_INITIALIZER: "tensor", _GRAPH_SPARSE: "sparse"},
    "node": {_NODE_ATTRIBUTE: "attribute"},
    "attribute": {
        **dict.fromkeys(_ATTRIBUTE_TENSORS, "tensor"),
        **dict.fromkeys(_ATTRIBUTE_GRAPHS, "graph"),
        **dict.fromkeys(_ATTRIBUTE_SPARSE, "sparse"),
    },
    "sparse": dict.fromkeys(_SPARSE_TENSORS, "tensor"),
}
"""The fields of a message that lead to tensors, and what they hold."""


def cut(model: bytes, outputs: Collection[str]) -> bytes:
    """Return the model with only some outputs, and the nodes and weights that they need.

    Args:
        model: an ONNX file with embedded weights and without nested graphs.
        outputs: names of outputs; they keep their order in the file.

    Raises:
        ValueError: ``model`` is not an ONNX file, or lacks an output.
    """
    try:
        parts = [
            _field(number, _cut_graph(memoryview(payload), frozenset(outputs))) if number == _MODEL_GRAPH else whole
            for number, payload, whole in _fields(memoryview(model))
        ]
    except IndexError:
        raise ValueError("not an ONNX file, or damaged") from None
    return b"".join(parts)


def with_standard_operators(model: bytes) -> bytes:
    """Return the model without the unused custom operator sets that ONNX Runtime declares in the files it writes.

    Raises:
        ValueError: ``model`` is not an ONNX file.
    """
    try:
        return b"".join(
            bytes(whole)
            for number, payload, whole in _fields(memoryview(model))
            if number != _MODEL_OPSET or not _text(payload, _OPSET_DOMAIN)
        )
    except IndexError:
        raise ValueError("not an ONNX file, or damaged") from None


def has_external_data(model: bytes) -> bool:
    """Return whether weights of an ONNX file are in other files, which no sha256 covers.

    Raises:
        ValueError: ``model`` is not an ONNX file.
    """
    waiting = [("model", memoryview(model))]
    try:
        while waiting:
            kind, message = waiting.pop()
            for number, payload, _ in _fields(message):
                if kind == "tensor":
                    location = _varint(payload, 0)[0] if number == _TENSOR_LOCATION and len(payload) else 0
                    if location or number == _TENSOR_EXTERNAL:
                        return True
                elif number in _INSIDE[kind]:
                    waiting.append((_INSIDE[kind][number], payload))
    except IndexError:
        raise ValueError("not an ONNX file, or damaged") from None
    return False


def _cut_graph(graph: memoryview, outputs: frozenset[str]) -> bytes:
    fields = list(_fields(graph))
    missing = outputs - {_text(payload, _INFO_NAME) for number, payload, _ in fields if number == _GRAPH_OUTPUT}
    if missing:
        raise ValueError(f"the graph has no output {', '.join(sorted(missing))}")
    needed = set(outputs)
    nodes: set[int] = set()
    for place in range(len(fields) - 1, -1, -1):  # nodes come after those that they depend on
        number, payload, _ = fields[place]
        if number == _GRAPH_NODE and needed.intersection(_texts(payload, _NODE_OUTPUT)):
            nodes.add(place)
            needed.update(_texts(payload, _NODE_INPUT))

    def stays(place: int, number: int, payload: memoryview) -> bool:
        if number == _GRAPH_NODE:
            return place in nodes
        if number == _GRAPH_OUTPUT:
            return _text(payload, _INFO_NAME) in outputs
        if number == _GRAPH_INITIALIZER:
            return _text(payload, _TENSOR_NAME) in needed
        return number != _GRAPH_VALUE_INFO  # the runtime infers shapes

    return b"".join(whole for place, (number, payload, whole) in enumerate(fields) if stays(place, number, payload))


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield number, value and all bytes of each field; :class:`IndexError` if the message ends too early."""
    place = 0
    while place < len(message):
        start = place
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            first = place
            _, place = _varint(message, place)
        elif kind in (1, 5):
            first, place = place, place + (8 if kind == 1 else 4)
        elif kind == 2:
            size, first = _varint(message, place)
            place = first + size
        else:
            raise IndexError
        if place > len(message):
            raise IndexError
        yield key >> 3, message[first:place], message[start:place]


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Read an integer at ``place``, seven bits per byte, lowest first, and return it with the place after it."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _field(number: int, payload: bytes) -> bytes:
    """Encode a field of bytes."""
    encoded = bytearray()
    for value in (number << 3 | 2, len(payload)):
        while value > 0x7F:
            encoded.append(value & 0x7F | 0x80)
            value >>= 7
        encoded.append(value)
    return bytes(encoded) + payload


def _texts(message: memoryview, number: int) -> list[str]:
    return [str(payload, "utf-8") for found, payload, _ in _fields(message) if found == number]


def _text(message: memoryview, number: int) -> str:
    return next(iter(_texts(message, number)), "")
