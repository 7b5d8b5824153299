"""The container of AVIF and HEIC (HEIF): colors, orientation, and what it has besides the picture."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO

from skipae.images import pillow
from skipae.images.metadata import SRGB_CODES, Loss, Metadata, listed, printable
from skipae.images.raster import upright

_FILE = (b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"styp", b"moof", b"mfra", b"sidx", b"idat")
_PICTURES = (b"av01", b"grid", b"iovl", b"hvc1", b"jpeg", b"j2k1", b"iden", b"sato")
_PROPERTIES = (
    b"ispe",
    b"pixi",
    b"av1C",
    b"hvcC",
    b"colr",
    b"irot",
    b"imir",
    b"auxC",
    b"a1lx",
    b"a1op",
    b"lsel",
    b"free",
    b"pasp",
)
_ALPHA = (b"alpha", b"hevc:2015:auxid:1")
_DEPTH = (b"depth", b"disparity", b"hevc:2015:auxid:2")
_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_GAIN_MAP = Loss("pictures", "the gain map (HDR) is left out")
_MOST_META = 1 << 20


def top_level(file: IO[bytes]) -> set[bytes]:
    """Return the kinds of the boxes that a file consists of."""
    return {kind for kind, _, _ in _top(file)}


def boxes(file: IO[bytes], name: bytes) -> list[bytes]:
    """Return the bytes after each ``name`` in the headers of a file."""
    found = []
    for kind, place, length in _top(file):
        if kind in (b"meta", b"moov"):
            file.seek(place + 8)
            found += file.read(min(length - 8, _MOST_META)).split(name)[1:]
    return found


def take_colors(file: IO[bytes], metadata: Metadata) -> None:
    """Add the colors that the container describes, as in a PNG, unless there is a profile or they are sRGB's."""
    colors = boxes(file, b"colr")
    codes = next((box[5:8:2] for box in colors if box[:4] == b"nclx"), SRGB_CODES[0])
    if codes not in SRGB_CODES and not any(box[:4] in (b"prof", b"rICC") for box in colors):
        metadata.png_chunks.append((b"cICP", codes + b"\0\1"))


def orientation(file: IO[bytes]) -> int:
    """Return how the container says that the picture is turned, 1 to 8 by EXIF's numbers."""
    import numpy as np

    meta = next((_meta(file, place, length) for kind, place, length in _top(file) if kind == b"meta"), {})
    parts = dict(_children(meta.get(b"iprp", b"")))
    properties = [(b"", b""), *_children(parts.get(b"ipco", b""))]
    stored = turned = np.arange(6).reshape(2, 3, 1)
    for number in _associated(parts.get(b"ipma", b""), _primary(meta)):
        kind, data = properties[number] if number < len(properties) else properties[0]
        if kind == b"irot" and data:
            turned = np.rot90(turned, data[0] & 3)
        elif kind == b"imir" and data:
            turned = turned[:, ::-1] if data[0] & 1 else turned[::-1]
    return next(turn for turn in range(1, 9) if np.array_equal(upright(stored, turn), turned))


def note_rest(file: IO[bytes], metadata: Metadata, applied: tuple[bytes, ...] = ()) -> None:
    """Name gain maps, other pictures, properties and boxes that are not carried, and what follows the last box.

    Args:
        file: an AVIF or HEIC.
        metadata: gets what is left out.
        applied: properties that the decoder applies, besides those that all decoders do.
    """
    name = f"{'an' if metadata.format == 'AVIF' else 'a'} {metadata.format}"
    losses: list[Loss] = []
    end = 0
    for kind, place, length in _top(file):
        end = place + length
        if kind == b"meta":
            losses += _of_items(_meta(file, place, length), name, applied)
        elif kind == b"uuid":
            file.seek(place + 8)
            is_signed = file.read(16) == _C2PA
            losses.append(pillow.content_credentials() if is_signed else Loss("chunks", "a box uuid is left out"))
        elif kind not in _FILE:
            losses.append(Loss("chunks", f"a box {kind.decode()} is left out"))
    file.seek(end)
    pillow.note_trailer(file.read(), metadata)
    metadata.left_out += dict.fromkeys(losses)


def _top(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, place and length of the boxes that a file consists of; what follows the last one is not a box."""
    place, size = 0, file.seek(0, io.SEEK_END)
    while place < size:
        file.seek(place)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 0:  # to the end
            length = size - place
        elif length == 1:
            length = int.from_bytes(header[8:], "big")
        if length < 8 or not kind.isalnum() or (place and kind == b"ftyp"):  # of another file
            return
        yield kind, place, length
        place += length


def _meta(file: IO[bytes], place: int, length: int) -> dict[bytes, bytes]:
    """Return the boxes in a ``meta`` box; none of one that is too long."""
    file.seek(place + 12)
    return dict(_children(file.read(length - 12))) if 12 < length <= _MOST_META else {}


def _primary(meta: dict[bytes, bytes]) -> int:
    """Return the number of the item that is the picture."""
    return int.from_bytes(meta.get(b"pitm", b"")[4:], "big")


def _associated(data: bytes, item: int) -> list[int]:
    """Return numbers, from 1, of an item's properties, in order; ``data`` is of an ``ipma`` box."""
    width, is_wide = (2 if data[:1] == b"\0" else 4), data[3:4] != b"" and data[3] & 1
    at, step = 8, 2 if is_wide else 1
    while at + width < len(data):
        number, count = int.from_bytes(data[at : at + width], "big"), data[at + width]
        at += width + 1
        values = [int.from_bytes(data[k : k + step], "big") for k in range(at, at + count * step, step)]
        if number == item:
            return [value & (0x7FFF if is_wide else 0x7F) for value in values]
        at += count * step
    return []


def _auxiliary(purpose: bytes) -> Loss | None:
    """Return the loss of an auxiliary picture; None for alpha, which is read."""
    if any(word in purpose for word in _ALPHA):
        return None
    if b"hdrgainmap" in purpose:
        return _GAIN_MAP
    is_depth = any(word in purpose for word in _DEPTH)
    return Loss("pictures", f"{'a depth map' if is_depth else 'an auxiliary picture'} is left out")


def _of_items(meta: dict[bytes, bytes], name: str, applied: tuple[bytes, ...]) -> list[Loss]:
    """Return the losses among the items of a ``meta`` box; ``name`` is that of the format, with its article."""
    items = meta.get(b"iinf", b"")
    kinds: dict[int, bytes] = {}
    for _, data in _children(items[6 if items[:1] == b"\0" else 8 :]):
        if len(data) >= 12 and data[0] in (2, 3):
            at = 6 if data[0] == 2 else 8
            kinds[int.from_bytes(data[4:at], "big")] = data[at + 2 : at + 6] + data[at + 6 :]
    used = {_primary(meta)}
    references = meta.get(b"iref", b"")
    width = 2 if references[:1] == b"\0" else 4
    thumbnails, auxiliary = set(), set()
    for kind, data in _children(references[4:]):
        numbers = [int.from_bytes(data[k : k + width], "big") for k in (0, *range(width + 2, len(data), width))]
        if kind == b"dimg":  # of what a picture consists
            used |= set(numbers[1:]) if numbers[0] in used else set()
        elif kind == b"thmb":
            thumbnails.add(numbers[0])
        elif kind == b"auxl":
            auxiliary.add(numbers[0])
    properties = dict(_children(meta.get(b"iprp", b""))).get(b"ipco", b"")
    purposes = [data[4:] for kind, data in _children(properties) if kind == b"auxC"]
    losses = []
    if any(kind[:4] == b"tmap" for kind in kinds.values()):
        losses.append(_GAIN_MAP)
    further = {n for n, kind in kinds.items() if kind[:4] in _PICTURES} - used - thumbnails - auxiliary
    if further and not losses:
        losses.append(Loss("pictures", f"only the first of {len(further) + 1} pictures is kept"))
    if thumbnails:
        losses.append(Loss("thumbnail", f"the thumbnail of {name} is left out"))
    if auxiliary:
        losses += [loss for loss in map(_auxiliary, purposes) if loss is not None]
    for kind in kinds.values():
        if kind[:4] == b"mime" and b"application/rdf+xml" not in kind:
            losses.append(Loss("chunks", f"an item of {name} that is not known is left out"))
    known = _PROPERTIES + applied
    unknown = listed(printable(kind) or "without a name" for kind, _ in _children(properties) if kind not in known)
    if unknown:
        losses.append(Loss("chunks", f"properties of {name} are left out: {unknown}"))
    return losses


def _children(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of boxes that follow each other."""
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if length < 8:
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length
