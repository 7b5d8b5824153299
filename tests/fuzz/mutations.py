"""Changes of files: of bytes and numbers anywhere, and of the parts that a format consists of."""

from __future__ import annotations

import itertools
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

Split = Callable[[bytes], list[bytes]]
"""Takes a file apart; ``b"".join`` of the parts is the file again."""

_NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3.5, 2**31, 2**64, 10**400, 1e308, float("inf"), float("nan"), "", "\0", "\ud800", "../x",
    "/etc/passwd", "a" * 5000, [], {}, [[]], [1, 2, 3], {"a": None}, ["x"] * 1000, "enc1", "float32", "\x1b[31m",
    "x\ny",
)  # fmt: skip


def mutate(
    rng: random.Random, seeds: Sequence[bytes], split: Split | None, *, is_json: bool = False
) -> tuple[bytes, str]:
    """A changed file, and how it was changed; ``cut`` alone is a file without its end."""
    data = rng.choice(seeds)
    if rng.random() < 0.1:
        return data[: rng.randrange(len(data))], "cut"
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        kinds = [*_BYTES, *(["parts", "parts", "parts"] if split else []), *(["json"] * 6 if is_json else [])]
        kind = rng.choice(kinds)
        if kind == "json":
            data = mutate_json(rng, data)
        elif kind == "parts" and split is not None:
            data = _parts(rng, data, rng.choice(seeds), split)
        elif kind != "parts" and data:
            data = _BYTES[kind](rng, data, rng.choice(seeds))
        done.append(kind)
    return data, "+".join(done)


def _place(rng: random.Random, data: bytes) -> int:
    # Headers are at the beginning of most files.
    return min(len(data) - 1, int(len(data) * rng.random() ** rng.choice((1, 3))))


def _flip(rng: random.Random, data: bytes, _: bytes) -> bytes:
    changed = bytearray(data)
    for _k in range(rng.choice((1, 2, 8))):
        changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _number(rng: random.Random, data: bytes, _: bytes) -> bytes:
    width = rng.choice((1, 2, 4, 4, 8))
    value = rng.choice((*_NUMBERS, rng.getrandbits(32))) % (1 << 8 * width)
    at = _place(rng, data)
    return data[:at] + value.to_bytes(width, rng.choice(("big", "little"))) + data[at + width :]


def _delete(rng: random.Random, data: bytes, _: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 4, 12, 100, len(data) // 4)) :]


def _insert(rng: random.Random, data: bytes, _: bytes) -> bytes:
    at, length = _place(rng, data), rng.choice((1, 2, 4, 12, 300, 100_000))  # the last is for quadratic work
    return data[:at] + rng.choice((bytes(length), b"\xff" * length, b" " * length, rng.randbytes(length))) + data[at:]


def _repeat(rng: random.Random, data: bytes, _: bytes) -> bytes:
    at, length = _place(rng, data), rng.choice((1, 12, 100, 1000))
    return data[:at] + data[at : at + length] * rng.choice((2, 2, 3, 50)) + data[at + length :]


def _splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at, there, length = _place(rng, data), _place(rng, other), rng.choice((4, 12, 100, 5000))
    return data[:at] + other[there : there + length] + data[at + rng.choice((0, length)) :]


_BYTES: dict[str, Callable[[random.Random, bytes, bytes], bytes]] = {
    "flip": _flip,
    "number": _number,
    "delete": _delete,
    "insert": _insert,
    "repeat": _repeat,
    "splice": _splice,
}


def _parts(rng: random.Random, data: bytes, other: bytes, split: Split) -> bytes:
    parts = split(data)
    if not parts:
        return data
    k = rng.randrange(len(parts))
    match rng.choice(("drop", "double", "swap", "move", "foreign", "content")):
        case "drop":
            del parts[k]
        case "double":
            parts.insert(rng.randrange(len(parts)), parts[k])
        case "swap":
            j = rng.randrange(len(parts))
            parts[j], parts[k] = parts[k], parts[j]
        case "move":
            parts.insert(rng.randrange(len(parts)), parts.pop(k))
        case "foreign":
            parts.insert(k, rng.choice(split(other) or [b""]))
        case "content":
            parts[k] = repaired(rng, parts[k])
    return b"".join(parts)


def repaired(rng: random.Random, part: bytes) -> bytes:
    """A part with other content, whose length and checksum are right, where it is of a format that has such."""
    if len(part) < 8:
        return part
    if part[4:8].isalpha() and len(part) >= 12 and struct.unpack(">I", part[:4])[0] == len(part) - 12:  # of a PNG
        content = _content(rng, part[8:-4])
        return (
            struct.pack(">I", len(content)) + part[4:8] + content + struct.pack(">I", zlib.crc32(part[4:8] + content))
        )
    if part[0] == 0xFF and len(part) > 4:  # a segment of a JPEG
        content = _content(rng, part[4:])[:65_533]
        return part[:2] + struct.pack(">H", len(content) + 2) + content
    if part[:4].isascii() and struct.unpack("<I", part[4:8])[0] in (len(part) - 8, len(part) - 9):  # of a RIFF file
        content = _content(rng, part[8:])
        return part[:4] + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    if struct.unpack(">I", part[:4])[0] == len(part):  # a box
        content = _content(rng, part[8:])
        return struct.pack(">I", len(content) + 8) + part[4:8] + content
    return _content(rng, part)


def _content(rng: random.Random, content: bytes) -> bytes:
    if not content:
        return rng.randbytes(rng.randrange(20))
    return _BYTES[rng.choice(list(_BYTES))](rng, content, content)


def mutate_json(rng: random.Random, text: bytes) -> bytes:
    """JSON with a value changed, taken away or added; or text that is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key in list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
            places.append((part, key))
            walk(part[key])

    walk(value)
    if not places or rng.random() < 0.02:
        return rng.choice(
            (b"[" * 5000, b"{}", b"[]", b"null", b"\xff", b'{"a":' * 3000, json.dumps(rng.choice(_VALUES)).encode())
        )
    part, key = rng.choice(places)
    match rng.choice(("value", "value", "drop", "add", "nest")):
        case "value":
            part[key] = rng.choice(_VALUES)
        case "drop":
            del part[key]
        case "add" if isinstance(part, dict):
            part[rng.choice(("x", "", "\0", "files", "layers", "name"))] = rng.choice(_VALUES)
        case "add":
            part.insert(key, rng.choice(_VALUES))
        case "nest":
            part[key] = [part[key]] if rng.random() < 0.5 else {"x": part[key]}
    return json.dumps(value).encode()


def split_png(data: bytes) -> list[bytes]:
    """Chunks, after the signature."""
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]]


def split_jpeg(data: bytes) -> list[bytes]:
    """Segments up to the pixels, which are one part with all that follows."""
    parts, at = [data[:2]], 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]]


def split_riff(data: bytes) -> list[bytes]:
    """Chunks, after the head of 12 bytes."""
    parts, at = [data[:12]], 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        parts.append(data[at : at + 8 + size + size % 2])
        at += 8 + size + size % 2
    return [*parts, data[at:]]


def split_boxes(data: bytes) -> list[bytes]:
    """Boxes, those of ``meta`` one by one."""
    parts, at = [], 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size < 8:
            break
        if data[at + 4 : at + 8] == b"meta":
            parts.append(data[at : at + 12])
            at += 12
            continue
        parts.append(data[at : at + size])
        at += size
    return [*parts, data[at:]]


def split_tiff(data: bytes) -> list[bytes]:
    """The entries of the first directory, one by one, with what is before and after."""
    if len(data) < 8:
        return [data]
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack(order + "I", data[4:8])[0]
    if at + 2 > len(data):
        return [data]
    count = struct.unpack_from(order + "H", data, at)[0]
    places = [0, at, at + 2, *(at + 2 + 12 * (k + 1) for k in range(min(count, 100))), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


def split_image(data: bytes) -> list[bytes]:
    """The parts of a PNG, JPEG, WebP or TIFF; another file is one part."""
    if data[:4] == b"\x89PNG":
        return split_png(data)
    if data[:2] == b"\xff\xd8":
        return split_jpeg(data)
    if data[:4] == b"RIFF":
        return split_riff(data)
    return split_tiff(data) if data[:2] in (b"II", b"MM") else [data]


def split_lines(data: bytes) -> list[bytes]:
    """Lines, with their ends."""
    return data.splitlines(keepends=True)
