"""int8: rewrite a float graph so that ONNX Runtime computes it in 8-bit integers.

Activations are uint8 with one scale per tensor, weights int8 with one scale per output channel, written as pairs of
QuantizeLinear and DequantizeLinear (QDQ), which every runtime understands.  Four things keep the loss small: channels
are scaled to similar ranges where that changes nothing in float (balance), each tensor's range is the one with the
least squared error, weights are rounded one after the other so that later ones make up for the errors of earlier ones
(Frantar et al. 2022, "GPTQ"), and biases take over the mean error that is left.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from skipae_train.export import session, weave

PIECES = 5
"""uint8 tensors whose sum is the output of the last convolution: 255 levels are too few for it, 1275 are not."""

_OUTPUTS = 16
"""ONNX Runtime's int8 convolutions are several times faster where their outputs are a multiple of this."""
_COLUMNS = 640
"""Convolutions with at most so many weights per output channel are rounded by GPTQ; larger ones do not gain by it."""
_SAMPLES = 6000
"""Places of the calibration images that the weights of a convolution are fitted to, at most."""

Array = NDArray[Any]
Float = NDArray[np.float32]

_MOVES = ("Transpose", "Reshape", "Slice")
"""Operators that move values and change none."""

_JOINS = ("Add", "Concat")
"""Operators that join a shortcut, where all that they take is computed from the image."""


class Graph:
    """A float graph as nodes and weights, in the form that int8 runs fastest.

    The mean color is not subtracted from the image: a fourth channel of ones carries it, so that the pixels of 8-bit
    files are exact in uint8, and zero padding stays what it was.  The sum of a full-size shortcut is left to the
    convolution that follows, which takes both terms, so that it is not rounded.  Deconvolutions become a 2x2
    convolution whose four phases are woven together with the channels last, as ONNX Runtime's int8 convolutions have
    them, so that its Transpose nodes cancel.  Sizes are computed from the image's, so that no activation is needed in
    float for its shape.  Batch norm that stands apart, because a shortcut carries what comes before it, is folded into
    the convolutions on both ends of the shortcut, which then carries what comes after it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.image: str = model.graph.input[0].name
        self.weights: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.nodes: list[NodeProto] = []
        for node in model.graph.node:
            if node.op_type == "Cast" and node.input[0] in self.weights:  # weights stored in half precision
                self.weights[node.output[0]] = self.weights.pop(node.input[0]).astype(np.float32)
            else:
                self.nodes.append(_copy(node))
        self.outputs = frozenset(output.name for output in model.graph.output)
        self._fold()
        self.nodes = list(self._tapped())
        self.nodes = list(self._counted())
        self.nodes = list(self._woven())
        self.nodes = list(self._sized())
        self.nodes = list(self._apart())
        users, rounded = self.consumers(), _rounded(self)
        self.residual = frozenset(  # convolutions whose output is added to the image
            node.output[0]
            for node in self.convolutions()
            if (found := users.get(node.output[0])) and all(u.op_type == "Add" and self.image in u.input for u in found)
        )
        sources = {n for n, node in self.activations().items() if node.op_type in (*_MOVES, "Pad") or n in rounded}
        self.in_float = frozenset(
            node.output[0]
            for node in self.convolutions()
            if node.input[0] not in sources
            or not (
                node.output[0] in rounded
                or node.output[0] in self.residual
                or any(user.op_type == "Relu" for user in users.get(node.output[0], []))
            )
        )
        """Convolutions that have no int8 form: they take the image, or make logits or a sum's raw part."""

    def copy(self) -> Graph:
        """Return one whose nodes and weights can be replaced."""
        other = copy.copy(self)
        other.nodes, other.weights = list(self.nodes), dict(self.weights)
        return other

    def activations(self) -> dict[str, NodeProto]:
        """Return tensors that are computed from the image's pixels, with the nodes that make
        them, in the graph's order.
        """
        found: dict[str, NodeProto] = {}
        for node in self.nodes:
            if node.op_type != "Shape" and any(name in found or name == self.image for name in node.input):
                found[node.output[0]] = node
        return found

    def convolutions(self) -> list[NodeProto]:
        """Return the convolutions in the graph's order."""
        return [node for node in self.nodes if node.op_type == "Conv"]

    def is_tap(self, node: NodeProto) -> bool:
        """Return whether it gives an inner activation the name of an output."""
        return node.op_type == "Identity" and node.output[0] in self.outputs

    def consumers(self) -> dict[str, list[NodeProto]]:
        """Return nodes by the tensors that they take."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    def to_model(self, more: Sequence[str] = ()) -> onnx.ModelProto:
        """Return the graph, with ``more`` outputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        for field in (graph.node, graph.initializer, graph.value_info):
            del field[:]
        graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in self.weights.items() if k in used)
        graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in more)
        if not more:
            onnx.checker.check_model(model)
        return model

    def _fold(self) -> None:
        """Take Mul and Add of batch norm into the convolutions around them, where all its factors are positive.

        With r the raw output of an encoder layer and y = s r + t, the decoder's relu(u (d + r) + v) is
        u / s relu(s d + y + v s / u - t): the deconvolution takes the factors s and the constant, and the layers that
        follow take u / s.
        """
        made, users = {node.output[0]: node for node in self.nodes}, self.consumers()
        raw: dict[str, tuple[Array, Array]] = {}
        gone: set[str] = set()
        renamed: dict[str, str] = {}
        found = [n for n in self.nodes if n.op_type == "Mul" and n.input[1] in self.weights]
        if any((self.weights[n.input[1]] <= 0).any() for n in found):
            return
        for mul in found:
            (add,) = users[mul.output[0]]
            scale, shift = (self.weights[node.input[1]].reshape(-1).astype(np.float64) for node in (mul, add))
            before = made[mul.input[0]]
            if before.op_type == "Conv":
                raw[before.output[0]] = scale, shift
                self._scale(before, scale, shift)
            else:
                (shortcut,) = (x for x in before.input if x in raw)
                (decoded,) = (x for x in before.input if x not in raw)
                while made[decoded].op_type in ("DepthToSpace", "Slice"):
                    decoded = made[decoded].input[0]
                factor, carried = raw[shortcut]
                self._scale(made[decoded], factor, shift * factor / scale - carried)
                (relu,) = users[add.output[0]]
                for user in users[relu.output[0]]:
                    along = (1, -1, 1, 1) if user.op_type == "Conv" else (-1, 1, 1, 1)
                    weight = self.weights[user.input[1]] * (scale / factor).reshape(along)
                    self.weights[user.input[1]] = weight.astype(np.float32)
            gone.update((mul.output[0], add.output[0]))
            renamed[add.output[0]] = mul.input[0]
        self.nodes = [
            _node_with(node, [renamed.get(x, x) for x in node.input])
            for node in self.nodes
            if node.output[0] not in gone
        ]

    def _scale(self, node: NodeProto, factor: Array, shift: Array) -> None:
        """Multiply the outputs of a convolution or deconvolution, or the phases of its outputs, and add to them."""
        name, along = node.input[1], 0 if node.op_type == "Conv" else 1
        weight = self.weights[name]
        phases = weight.shape[along] // len(factor)
        factor, shift = np.tile(factor, phases), np.tile(shift, phases)
        shape = [1] * 4
        shape[along] = -1
        self.weights[name] = (weight * factor.reshape(shape)).astype(np.float32)
        if len(node.input) < 3:
            node.input.append(f"{node.output[0]}.bias")
            self.weights[node.input[2]] = np.zeros(len(factor), np.float32)
        self.weights[node.input[2]] = (self.weights[node.input[2]] * factor + shift).astype(np.float32)

    def _tapped(self) -> Iterator[NodeProto]:
        """Give outputs that other nodes take a name of their own inside the graph."""
        users = self.consumers()
        inner = {
            name: f"{name}.inner"
            for node in self.nodes
            if (name := node.output[0]) in self.outputs and (node.op_type == "Relu" or name in users)
        }
        for node in self.nodes:
            name = node.output[0]
            node = _node_with(node, [inner.get(x, x) for x in node.input])
            if name in inner:
                node.output[0] = node.name = inner[name]
            yield node
            if name in inner:
                yield _node("Identity", [inner[name]], name)

    def _counted(self) -> Iterator[NodeProto]:
        users = self.consumers()
        for node in self.nodes:
            if node.op_type != "Sub" or node.input[0] != self.image:
                yield node
                continue
            mean = self.weights[node.input[1]].reshape(1, -1, 1, 1)
            for user in users[node.output[0]]:
                weight = self.weights[user.input[1]]
                ones = -(weight * mean).sum(1, keepdims=True)
                self.weights[user.input[1]] = np.concatenate([weight, ones], 1).astype(np.float32)
            self.weights["one.pads"] = np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64)
            self.weights["one"] = np.array(1, np.float32)
            yield _node("Pad", [self.image, "one.pads", "one"], node.output[0])

    def _woven(self) -> Iterator[NodeProto]:
        made = {node.output[0]: node for node in self.nodes}
        users = self.consumers()
        moved = set()
        for node in self.nodes:
            name = node.output[0]
            if name in moved:
                continue
            if node.op_type == "ConvTranspose":
                _, weight, bias = node.input
                channels = self.weights[weight].shape[1]
                self.weights[weight] = weave(self.weights[weight])
                self.weights[bias] = np.tile(self.weights[bias], 4)
                attributes = {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "strides": [1, 1]}
                yield _node("Conv", node.input, f"{name}.phases", **attributes)
                x = f"{name}.phases"
                (user,) = users[name]
                if user.op_type == "Relu":  # before weaving, where ONNX Runtime fuses it with the convolution
                    name = user.output[0]
                    moved.add(name)
                    yield _node("Relu", [x], f"{name}.phases")
                    x = f"{name}.phases"
                yield from self._weave(x, name, channels)
            elif node.op_type == "DepthToSpace":
                source = made[node.input[0]]
                while source.op_type != "Conv":
                    source = made[source.input[0]]
                yield from self._weave(node.input[0], name, len(self.weights[source.input[1]]) // 4)
            else:
                yield node

    def _weave(self, x: str, y: str, channels: int) -> Iterator[NodeProto]:
        """Yield depth to space (2 x 2, DCR) of [N, 4C, H, W] by blocks of 2C values."""
        self.weights["zero"], self.weights["two"] = np.zeros(1, np.int64), np.full(1, 2, np.int64)
        self.weights[f"{y}.phased"] = np.array([0, 0, 0, 2, 2 * channels], np.int64)
        self.weights[f"{y}.channels"] = np.array([channels], np.int64)
        yield _node("Transpose", [x], f"{y}.last", perm=[0, 2, 3, 1])
        yield _node("Reshape", [f"{y}.last", f"{y}.phased"], f"{y}.rows")  # [N, H, W, 2, 2C]
        yield _node("Transpose", [f"{y}.rows"], f"{y}.interlaced", perm=[0, 1, 3, 2, 4])
        yield _node("Shape", [x], f"{y}.half", start=2, end=4)
        yield _node("Mul", [f"{y}.half", "two"], f"{y}.size")
        yield _node("Concat", ["zero", f"{y}.size", f"{y}.channels"], f"{y}.shape", axis=0)
        yield _node("Reshape", [f"{y}.interlaced", f"{y}.shape"], f"{y}.image")  # [N, 2H, 2W, C]
        yield _node("Transpose", [f"{y}.image"], y, perm=[0, 3, 1, 2])

    def _sized(self) -> Iterator[NodeProto]:
        strides: dict[str, int] = {self.image: 1}  # input pixels from one value to the next
        self.full: set[str] = set()  # tensors of the image's height and width, or those before they shrink
        sizes: dict[str, str] = {}
        made: set[str] = set()

        def size(stride: int) -> Iterator[NodeProto]:
            """Yield the nodes of height and width of a tensor with this total stride."""
            if "size.1" not in made:
                made.add("size.1")
                yield _node("Shape", [self.image], "size.1", start=2, end=4)
            if f"size.{stride}" not in made:
                made.add(f"size.{stride}")
                self.weights[f"stride.{stride}"] = np.full(1, stride, np.int64)
                self.weights[f"less.{stride}"] = np.full(1, stride - 1, np.int64)
                yield _node("Add", ["size.1", f"less.{stride}"], f"size.{stride}.up")
                yield _node("Div", [f"size.{stride}.up", f"stride.{stride}"], f"size.{stride}")

        for node in self.nodes:
            name = node.output[0]
            if node.op_type == "Shape":
                stride = strides[node.input[0]]
                yield from size(stride)
                sizes[name] = f"size.{stride}"
                continue
            node = _node_with(node, [sizes.get(x, x) for x in node.input])
            found = [strides[x] for x in node.input if x in strides]
            if found:
                strides[name] = found[0]
                if found[0] == 1:
                    self.full.add(name)
                if node.op_type == "Conv":
                    strides[name] *= _attribute(node, "strides", [1])[0]
                elif node.op_type == "Transpose" and len(_attribute(node, "perm", [])) == 5:  # phases come together
                    strides[name] //= 2
            yield node

    def _apart(self) -> Iterator[NodeProto]:
        users, nodes = self.consumers(), self.activations()
        for node in self.nodes:
            name = node.output[0]
            following = users.get(name, [])
            if (
                node.op_type == "Add"
                and name in self.full
                and name not in self.outputs
                and all(x in nodes for x in node.input)
                and len(following) == 1
                and following[0].op_type == "Conv"
            ):
                weight = following[0].input[1]
                self.weights[weight] = np.concatenate([self.weights[weight]] * 2, 1)
                yield _node("Concat", node.input, name, axis=1)
            else:
                yield node


class Calibration:
    """What a float graph computes for some images: ranges of channels, samples of tensors, patches of convolutions."""

    def __init__(self, graph: Graph, images: Sequence[Float]) -> None:
        """Run ``graph`` on ``images``, float32 [1, 3, H, W] in [0, 1]."""
        nodes = graph.activations()
        convolutions = graph.convolutions()
        wanted = list(dict.fromkeys([*_rounded(graph), *(n.input[0] for n in convolutions if n.input[0] in nodes)]))
        rng = np.random.default_rng(0)
        ranges: dict[str, list[Array]] = {}
        samples: dict[str, list[Array]] = {}
        patches: dict[str, list[Array]] = {}
        each = -(-_SAMPLES // len(images))
        opened = session(graph.to_model(wanted))
        for image in images:
            found = dict(zip(wanted, opened.run(wanted, {graph.image: image}), strict=True))
            for name in wanted:
                channels = found[name][0].reshape(found[name].shape[1], -1)
                ranges.setdefault(name, []).append(np.abs(channels).max(1))
                places = rng.choice(channels.shape[1], min(each, channels.shape[1]), replace=False)
                samples.setdefault(name, []).append(channels[:, places])
            for node in convolutions:
                if node.input[0] in nodes:
                    shape = graph.weights[node.input[1]].shape
                    count = each if np.prod(shape[1:]) <= _COLUMNS else -(-each // 8)  # their mean is all that is used
                    patches.setdefault(node.output[0], []).append(
                        _patches(found[node.input[0]][0], shape[2:], node, count, rng)
                    )
        self.ranges = {name: np.max(rows, axis=0) for name, rows in ranges.items()}
        """Largest magnitude in each channel."""
        self.samples = {name: np.concatenate(parts, axis=1) for name, parts in samples.items()}
        """Values [C, n]."""
        self.patches = {name: np.concatenate(parts) for name, parts in patches.items()}
        """Inputs [n, C, kh, kw] of convolutions, by the names of their outputs."""


def quantize(
    graph: Graph, calibration: Calibration, *, kept: frozenset[str], balance: float, levels: int = 127
) -> onnx.ModelProto:
    """Return the int8 form of a graph.

    Args:
        graph: in float.
        calibration: of this graph.
        kept: outputs of the convolutions to leave in float32.
        balance: 0 leaves channels as they are, 1 scales them to one range.
        levels: largest magnitude of a weight; up to 64, two products with bytes fit into the 16 bits in which
            processors without a byte dot product add them.
    """
    return rounding(graph, calibration, balance=balance, levels=levels)(kept)


def rounding(
    graph: Graph, calibration: Calibration, *, balance: float, levels: int = 127
) -> Callable[[frozenset[str]], onnx.ModelProto]:
    """Round all weights once; returns what makes the int8 form from the convolutions to keep, as :func:`quantize`."""
    graph = graph.copy()
    scales = _balance(graph, calibration, balance)
    steps = {name: _step(_scaled(calibration.samples[name], scales.get(name), 0)) for name in _rounded(graph)}
    integers = {
        name: _round_weights(graph, node, _scaled(calibration.patches[name], scales.get(node.input[0]), 1), levels)
        for node in graph.convolutions()
        if (name := node.output[0]) not in graph.in_float
    }
    return lambda kept: _Writer(graph, kept | graph.in_float, steps, integers, scales).write()


def _balance(graph: Graph, calibration: Calibration, power: float) -> dict[str, Float]:
    """Divide channels by powers of their ranges, the weights that follow make up for it; the divisors by tensor."""
    nodes = graph.activations()
    leader = {name: name for name in [graph.image, *nodes]}

    def lead(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    fixed = {graph.image}
    for name, node in nodes.items():
        inputs = [x for x in node.input if x in leader]
        if node.op_type in (*_MOVES, "Relu") or (node.op_type == "Add" and len(inputs) == 2):
            for x in inputs:  # share their channels, or the phases of them
                leader[lead(x)] = lead(name)
        elif node.op_type not in ("Conv", "Concat") and not graph.is_tap(node):
            fixed.update((name, *inputs))
        if name in graph.outputs:
            fixed.add(name)
    fixed = {lead(name) for name in fixed}
    ranges: dict[str, Array] = {}
    phases = _phases(graph)
    for name, found in calibration.ranges.items():
        group = lead(name)
        if nodes[name].op_type == "Concat":  # has the channels of both
            continue
        if name in phases:
            found = found.reshape(4, -1).max(0)
        ranges[group] = np.maximum(ranges[group], found) if group in ranges else found
    scales = {
        group: np.where(found > 0, np.maximum(found / max(found.max(), 1e-12), 1e-3) ** power, 1).astype(np.float32)
        for group, found in ranges.items()
        if group not in fixed
    }
    for name, node in nodes.items():
        if node.op_type == "Concat":
            parts = [scales.get(lead(x)) for x in node.input]
            ones = [np.ones(len(calibration.ranges[name]) // 2, np.float32)] * 2
            scales[lead(name)] = np.concatenate([o if p is None else p for p, o in zip(parts, ones, strict=True)])
    for node in graph.convolutions():
        before, after = scales.get(lead(node.input[0])), scales.get(lead(node.output[0]))
        weight = graph.weights[node.input[1]]
        if before is not None:
            weight = weight * before.reshape(1, -1, 1, 1)
        if after is not None:
            after = np.tile(after, len(weight) // len(after))
            weight = weight / after.reshape(-1, 1, 1, 1)
            if len(node.input) > 2:
                graph.weights[node.input[2]] = (graph.weights[node.input[2]] / after).astype(np.float32)
        graph.weights[node.input[1]] = weight.astype(np.float32)
    return {name: scales[lead(name)] for name in calibration.ranges if lead(name) in scales}


def _phases(graph: Graph) -> set[str]:
    """Return tensors [N, 4C, H, W] that hold the phases of a woven tensor [N, C, 2H, 2W]."""
    nodes, found = graph.activations(), set()
    for node in nodes.values():
        if node.op_type == "Transpose" and _attribute(node, "perm", []) == [0, 2, 3, 1]:
            name = node.input[0]
            found.add(name)
            while nodes[name].op_type != "Conv":
                name = nodes[name].input[0]
                found.add(name)
    return found


def _step(values: Array) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 with the least squared error on a sample."""
    values = values.ravel()[:: max(1, values.size // 100_000)]
    low, high = min(0.0, float(values.min())), max(1e-6, float(values.max()))
    best = (np.inf, np.float32(1), np.uint8(0))
    for share in np.linspace(0.3, 1, 15):
        scale = np.float32(share * (high - low) / 255)
        zero = np.rint(-share * low / scale)
        error = float(np.square((np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale - values).mean())
        best = min(best, (error, scale, np.uint8(zero)))
    return best[1:]


def _round_weights(graph: Graph, node: NodeProto, patches: Array, levels: int) -> tuple[NDArray[np.int8], Float, Float]:
    """Return integers [O, I, kh, kw] and scales [O] for the weights of a convolution, and its bias
    with their mean error.
    """
    weight = graph.weights[node.input[1]]
    flat, x = weight.reshape(len(weight), -1).astype(np.float64), patches.reshape(len(patches), -1)
    scale = (np.maximum(np.abs(flat).max(1), 1e-12) / levels).astype(np.float32)
    steps = scale[:, None].astype(np.float64)
    rounded = _gptq(flat / steps, x, levels) if x.shape[1] <= _COLUMNS else np.rint(flat / steps)
    missed = (flat - rounded * steps) @ x.mean(0)
    bias = graph.weights[node.input[2]] if len(node.input) > 2 else 0
    return rounded.reshape(weight.shape).astype(np.int8), scale, (bias + missed).astype(np.float32)


def _gptq(weights: Array, inputs: Array, levels: int = 127) -> Array:
    """Round [O, K] to whole numbers so that products with inputs [n, K] change little."""
    centered = (inputs - inputs.mean(0)).astype(np.float32)
    curvature = (centered.T @ centered).astype(np.float64) / len(inputs)
    count = len(curvature)
    curvature[np.diag_indices(count)] += max(0.01 * np.diag(curvature).mean(), 1e-12)
    order = np.argsort(-np.diag(curvature))  # what matters most first
    upper = np.linalg.cholesky(np.linalg.inv(curvature[np.ix_(order, order)])).T
    left, rounded = weights[:, order].copy(), np.zeros_like(weights)
    block = 64
    for start in range(0, count, block):
        end = min(start + block, count)
        errors = np.zeros((len(weights), end - start))
        for k in range(start, end):
            rounded[:, order[k]] = np.clip(np.rint(left[:, k]), -levels, levels)
            error = (left[:, k] - rounded[:, order[k]]) / upper[k, k]
            errors[:, k - start] = error
            left[:, k:end] -= np.outer(error, upper[k, k:end])
        left[:, end:] -= errors @ upper[start:end, end:]
    return rounded


class _Writer:
    """Puts the pairs of QuantizeLinear and DequantizeLinear into a graph."""

    def __init__(
        self,
        graph: Graph,
        kept: frozenset[str],
        steps: dict[str, tuple[np.float32, np.uint8]],
        integers: dict[str, tuple[NDArray[np.int8], Float, Float]],
        scales: dict[str, Float],
    ) -> None:
        self.graph, self.integers, self.scales = graph, integers, scales
        self.nodes = graph.activations()
        self.rounded = frozenset(_rounded(graph))
        self.in_int8 = _in_int8(graph, kept)
        self.steps = dict(steps)
        for name, node in self.nodes.items():
            if node.op_type == "Concat":  # without rounding again
                self.steps.update(dict.fromkeys(_sources(self.nodes, node), self.steps[name]))
        for name, node in self.nodes.items():
            if node.input[0] in self.steps and (node.op_type in _MOVES or self._cuts(node)):
                self.steps[name] = self.steps[node.input[0]]
            elif node.op_type == "Pad":  # the pixels of a file, and ones
                self.steps[name] = np.float32(1 / 255), np.uint8(0)
        self.result = graph.copy()
        self.result.nodes = []
        self.paired: set[str] = set()

    def write(self) -> onnx.ModelProto:
        for node in self.graph.nodes:
            name = node.output[0]
            int8 = self.in_int8.get(name, False)
            if self.graph.is_tap(node) and node.input[0] in self.steps:
                self._tap(node)
                continue
            if int8 and self._cuts(node):
                self._cut(node)
                continue
            inputs = list(node.input)
            for place, x in enumerate(inputs):
                follows = int8 or self.in_int8.get(x, False)
                if x in self.nodes and follows and not (node.op_type == "Relu" and int8):  # fused with its convolution
                    inputs[place] = self._pair(x)
            if node.op_type == "Conv" and int8:
                self._convolution(_node_with(node, inputs), node)
            else:
                self.result.nodes.append(_node_with(node, inputs))
        return self.result.to_model()

    def _cuts(self, node: NodeProto) -> bool:
        """Return whether it is the ReLU of what a shortcut carries without it: both are rounded in the same steps."""
        return node.op_type == "Relu" and node.input[0] in self.rounded

    def _cut(self, node: NodeProto) -> None:
        """Add a ReLU of integers."""
        x, y = node.input[0], node.output[0]
        self._pair(x)
        self.paired.add(y)
        self.result.nodes.append(_node("Max", [f"{x}.int8", f"{x}.zero"], f"{y}.int8"))
        rest = [f"{x}.scale", f"{x}.zero"]
        self.result.nodes.append(_node("DequantizeLinear", [f"{y}.int8", *rest], f"{y}.rounded"))

    def _tap(self, node: NodeProto) -> None:
        """Add an output, its channels in the units that they had before they were balanced."""
        x, y = node.input[0], node.output[0]
        scales = self.scales.get(x)
        if not self.in_int8.get(x, False):
            factors = [] if scales is None else [self._constant(f"{y}.scale", scales.reshape(-1, 1, 1))]
            self.result.nodes.append(_node("Mul" if factors else "Identity", [x, *factors], y))
        elif scales is None:
            self.result.nodes.append(_node("Identity", [self._pair(x)], y))
        else:
            self._pair(x)
            step, zero = self.steps[x]
            rest = [
                self._constant(f"{y}.scale", (step * scales).astype(np.float32)),
                self._constant(f"{y}.zero", np.full(len(scales), zero, np.uint8)),
            ]
            self.result.nodes.append(_node("DequantizeLinear", [f"{x}.int8", *rest], y, axis=1))

    def _constant(self, name: str, value: Any) -> str:
        self.result.weights[name] = np.asarray(value)
        return name

    def _pair(self, name: str) -> str:
        if name not in self.paired:
            self.paired.add(name)
            scale, zero = self.steps[name]
            rest = [self._constant(f"{name}.scale", scale), self._constant(f"{name}.zero", zero)]
            self.result.nodes.append(_node("QuantizeLinear", [name, *rest], f"{name}.int8"))
            self.result.nodes.append(_node("DequantizeLinear", [f"{name}.int8", *rest], f"{name}.rounded"))
        return f"{name}.rounded"

    def _stored(self, name: str, integers: Array, scale: Float) -> str:
        rest = [
            self._constant(f"{name}.int", integers),
            self._constant(f"{name}.scale", scale),
            self._constant(f"{name}.zero", np.zeros(len(scale), integers.dtype)),
        ]
        self.result.nodes.append(_node("DequantizeLinear", rest, f"{name}.rounded", axis=0))
        return f"{name}.rounded"

    def _convolution(self, node: NodeProto, old: NodeProto) -> None:
        """Add a convolution in int8."""
        name = node.output[0]
        integers, scale, bias = self.integers[name]
        bias = bias.astype(np.float64)
        x_scale = self.steps[old.input[0]][0]
        fine = name in self.graph.residual
        if fine:
            # The sum of saturating parts: each holds a fifth of [-1, 1], in which what is added to an image lies.
            part, channels = 2 / PIECES, len(bias)
            bias = np.concatenate([bias + 1 - k * part for k in range(PIECES)])
            integers, scale = np.tile(integers, (PIECES, 1, 1, 1)), np.tile(scale, PIECES)
            more = -len(bias) % _OUTPUTS
            bias, scale = np.pad(bias, (0, more)), np.pad(scale, (0, more), constant_values=1)
            integers = np.pad(integers, ((0, more), (0, 0), (0, 0), (0, 0)))
        bias_scale = (scale * x_scale).astype(np.float32)
        whole = np.clip(np.rint(bias / bias_scale), -(2**31), 2**31 - 1).astype(np.int32)
        inputs = [
            node.input[0],
            self._stored(node.input[1], integers, scale),
            self._stored(node.input[2] if len(node.input) > 2 else f"{name}.bias", whole, bias_scale),
        ]
        if not fine:
            self.result.nodes.append(_node_with(node, inputs))
            return
        parts = _node_with(node, inputs)
        parts.output[0] = parts.name = f"{name}.parts"
        self.result.nodes.append(parts)
        self.steps[f"{name}.parts"] = (np.float32(part / 255), np.uint8(0))
        ones = np.tile(np.eye(channels, dtype=np.float32), PIECES)
        ones = np.pad(ones, ((0, 0), (0, more)))[:, :, None, None]
        rest = [
            self._constant(f"{name}.sum.weight", ones),
            self._constant(f"{name}.sum.bias", np.full(channels, -1, np.float32)),
        ]
        self.result.nodes.append(_node("Conv", [self._pair(f"{name}.parts"), *rest], name, kernel_shape=[1, 1]))
        self.in_int8[name] = False


def _sources(nodes: dict[str, NodeProto], node: NodeProto) -> Iterator[str]:
    """Yield the tensors that a node takes, and those that these are moved from."""
    for name in node.input:
        yield name
        while nodes[name].op_type in _MOVES:
            name = nodes[name].input[0]
            yield name


def _inner_users(graph: Graph) -> dict[str, list[NodeProto]]:
    """Return nodes by the tensors that they take, without those that only name an output."""
    return {name: [n for n in found if not graph.is_tap(n)] for name, found in graph.consumers().items()}


def _rounded(graph: Graph) -> list[str]:
    """Return tensors that int8 convolutions and additions make: after ReLU, where nothing else takes their output."""
    nodes, users = graph.activations(), _inner_users(graph)
    found = []
    for name, node in nodes.items():
        following = users.get(name, [])
        if node.op_type == "Relu":
            found.append(name)
        elif node.op_type == "Conv" or _joins(node, nodes):
            fused = bool(following) and all(user.op_type == "Relu" for user in following)
            if not fused and _leads_to_convolution(name, users, nodes):
                found.append(name)
    return found


def _joins(node: NodeProto, nodes: dict[str, NodeProto]) -> bool:
    """Return whether it joins activations."""
    return node.op_type in _JOINS and all(x in nodes for x in node.input)


def _leads_to_convolution(name: str, users: dict[str, list[NodeProto]], nodes: dict[str, NodeProto]) -> bool:
    """Return whether what takes this tensor, by way of nodes that keep its channels, is all convolutions."""
    found = users.get(name, [])
    return bool(found) and all(
        user.op_type == "Conv"
        or (
            (user.op_type in (*_MOVES, "Relu") or _joins(user, nodes))
            and _leads_to_convolution(user.output[0], users, nodes)
        )
        for user in found
    )


def _in_int8(graph: Graph, kept: frozenset[str]) -> dict[str, bool]:
    """Return whether each tensor is computed in int8."""
    nodes, users = graph.activations(), _inner_users(graph)
    found: dict[str, bool] = {}

    def follow() -> None:
        for name, node in nodes.items():
            if node.op_type == "Conv":
                found[name] = name not in kept
            elif node.op_type in (*_MOVES, "Relu"):
                found[name] = found.get(node.input[0], False)

    def takers(name: str) -> Iterator[str]:
        """Yield the convolutions and additions that take this tensor."""
        for user in users.get(name, []):
            if user.op_type == "Conv" or _joins(user, nodes):
                yield user.output[0]
            elif user.op_type in (*_MOVES, "Relu"):
                yield from takers(user.output[0])
            else:
                yield ""

    follow()
    for name, node in reversed(nodes.items()):
        if _joins(node, nodes):
            following = list(takers(name))
            found[name] = bool(following) and all(found.get(other, False) for other in following)
    follow()
    return found


def _patches(x: Array, kernel: tuple[int, ...], node: NodeProto, count: int, rng: np.random.Generator) -> Array:
    """Return some of the inputs [n, C, kh, kw] that a convolution sees in x [C, H, W]."""
    top, left, bottom, right = _attribute(node, "pads", [0] * 4)
    stride = _attribute(node, "strides", [1])[0]
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))[:, ::stride, ::stride]
    height, width = windows.shape[1:3]
    places = rng.choice(height * width, min(count, height * width), replace=False)
    return windows[:, places // width, places % width].swapaxes(0, 1)  # (C, n, kh, kw) -> (n, C, kh, kw)


def _scaled(values: Array, scale: Float | None, axis: int) -> Array:
    """Divide values by the scales of their channels, which are along ``axis``."""
    if scale is None:
        return values
    scale = np.tile(scale, values.shape[axis] // len(scale))
    return values / scale.reshape(-1, *[1] * (values.ndim - 1 - axis))


def _node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, list(inputs), [output], name=output, **attributes)


def _node_with(node: NodeProto, inputs: Sequence[str]) -> NodeProto:
    other = _copy(node)
    del other.input[:]
    other.input.extend(inputs)
    return other


def _copy(node: NodeProto) -> NodeProto:
    other = NodeProto()
    other.CopyFrom(node)
    return other


def _attribute(node: NodeProto, name: str, default: list[int]) -> list[int]:
    found = (helper.get_attribute_value(a) for a in node.attribute if a.name == name)
    return list(next(found, default))
