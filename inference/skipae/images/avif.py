"""AVIF: subsampling is kept, colors without a profile are reported, and more than 8 bits are refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from skipae.errors import ImageError
from skipae.images import exif, pillow
from skipae.images.metadata import SRGB_CODES, Loss, Metadata
from skipae.images.pillow import Quality, number
from skipae.images.raster import Raster, from_image

if TYPE_CHECKING:
    from PIL import Image


def inspect(file: IO[bytes]) -> Metadata:
    """Subsampling and colors of an AVIF.

    Raises:
        ImageError: it has 10 or 12 bits per color.
    """
    found = Metadata("AVIF")
    # Of each picture, the byte that says depth (64), gray (16) and subsampling (8 and 4).
    configurations = [box[2] for box in _boxes(file, b"av1C") if len(box) > 2]
    if any(config & 64 for config in configurations):
        # imagecodecs would read it, but gives neither its transfer function nor its profile.
        raise ImageError(
            "has 10 or 12 bits per color, of which 2 or 4 would be lost: convert it to a PNG of 16 bits first"
        )
    for config in configurations[:1]:
        found.subsampling = "4:0:0" if config & 16 else {0: "4:4:4", 8: "4:2:2", 12: "4:2:0"}.get(config & 12)
    colors = _boxes(file, b"colr")
    codes = next((box[5:8:2] for box in colors if box[:4] == b"nclx"), SRGB_CODES[0])
    if codes not in SRGB_CODES and not any(box[:4] in (b"prof", b"rICC") for box in colors):
        found.png_chunks.append((b"cICP", codes + b"\0\1"))
    return found


def read(file: IO[bytes]) -> pillow.Opened:
    """Open an AVIF; errors: see :func:`inspect`."""
    found = inspect(file)
    image: Any = pillow.open_header(file, "AVIF")

    def decode(notes: list[str]) -> tuple[Raster, Metadata]:
        with closing(image):
            pillow.note_frames(image, found)
            _note_rest(file, found)
            # Pillow writes EXIF data anew where its orientation is not the one that the format itself says.
            _, _, _, _, data, turn, _ = image._decoder.get_info()
            image.info.pop("exif", None)
            found.exif = exif.complete(data)
            pillow.load(image, found, notes, turn=turn)
            return from_image(image, "AVIF", notes), found

    return pillow.Opened(image.size, decode)


def write(file: BinaryIO, image: Image.Image, metadata: Metadata, quality: Quality | None) -> list[Loss]:
    """Write an AVIF; :class:`ImageError` for one that no reader would take."""
    if max(image.size) > _MOST_SIDE:
        size = f"{image.size[0]} x {image.size[1]}"
        raise ImageError(f"cannot be written as AVIF: it has {size} pixels, and readers take sides of {_MOST_SIDE}")
    arguments: dict[str, Any] = pillow.common_arguments(metadata)
    arguments["quality"] = number(quality)
    if metadata.subsampling is not None:
        arguments["subsampling"] = metadata.subsampling
    data = arguments.get("exif", b"").removeprefix(exif.PREFIX)
    hidden = exif.without_orientation_number(data) if data else data
    if hidden == data:
        pillow.save(file, image, "AVIF", arguments)
        return []
    # Pillow writes EXIF data anew that has an orientation, be it 1.
    buffer = io.BytesIO()
    pillow.save(buffer, image, "AVIF", arguments | {"exif": hidden})
    file.write(buffer.getvalue().replace(hidden, data))
    return []


_FILE = (b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"styp", b"moof", b"mfra", b"sidx", b"idat")
_PICTURES = (b"av01", b"grid", b"iovl", b"hvc1", b"jpeg", b"j2k1", b"iden", b"sato")
_PROPERTIES = (
    b"ispe",
    b"pixi",
    b"av1C",
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
_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_MOST_META = 1 << 20
_MOST_SIDE = 32_768  # that libavif reads


def _note_rest(file: IO[bytes], metadata: Metadata) -> None:
    """Name gain maps, other pictures, properties and boxes that are not carried, and what follows the last box."""
    losses: list[Loss] = []
    place, size = 0, file.seek(0, io.SEEK_END)
    while place < size:
        file.seek(place)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 0:  # to the end
            length = size - place
        elif length == 1:
            length = int.from_bytes(header[8:], "big")
        if length < 8 or not kind.isalnum():
            file.seek(place)
            pillow.note_trailer(file.read(), metadata)
            break
        if kind == b"meta" and length <= _MOST_META:
            file.seek(place + 12)
            losses += _of_items(dict(_children(file.read(length - 12))))
        elif kind == b"uuid":
            what = pillow.content_credentials() if header[8:] == _C2PA[:8] else Loss("chunks", "a box uuid is left out")
            losses.append(what)
        elif kind not in _FILE:
            losses.append(Loss("chunks", f"a box {kind.decode()} is left out"))
        place += length
    metadata.left_out += dict.fromkeys(losses)


def _of_items(meta: dict[bytes, bytes]) -> list[Loss]:
    """What is lost of the items that a ``meta`` box lists."""
    items = meta.get(b"iinf", b"")
    kinds: dict[int, bytes] = {}
    for _, data in _children(items[6 if items[:1] == b"\0" else 8 :]):
        if len(data) >= 12 and data[0] in (2, 3):
            at = 6 if data[0] == 2 else 8
            kinds[int.from_bytes(data[4:at], "big")] = data[at + 2 : at + 6] + data[at + 6 :]
    primary = meta.get(b"pitm", b"")
    used = {int.from_bytes(primary[4:], "big")}
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
    is_alpha = [b"alpha" in purpose or b"hevc:2015:auxid:1" in purpose for purpose in purposes]
    losses = []
    if any(kind[:4] == b"tmap" for kind in kinds.values()):
        losses.append(Loss("pictures", "the gain map (HDR) is left out"))
    further = {n for n, kind in kinds.items() if kind[:4] in _PICTURES} - used - thumbnails - auxiliary
    if further and not losses:
        losses.append(Loss("pictures", f"only the first of {len(further) + 1} pictures is kept"))
    if thumbnails:
        losses.append(Loss("thumbnail", "the thumbnail of an AVIF is left out"))
    if auxiliary and not all(is_alpha):
        losses.append(Loss("pictures", "an auxiliary picture (for example of depth) is left out"))
    for kind in kinds.values():
        if kind[:4] == b"mime" and b"application/rdf+xml" not in kind:
            losses.append(Loss("chunks", "an item of an AVIF that is not known is left out"))
    names = ", ".join(
        dict.fromkeys(kind.decode("latin-1") for kind, _ in _children(properties) if kind not in _PROPERTIES)
    )
    if names:
        losses.append(Loss("chunks", f"properties of an AVIF are left out: {names}"))
    return losses


def _children(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of boxes that follow each other."""
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if length < 8:
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length


def _boxes(file: IO[bytes], name: bytes) -> list[bytes]:
    """What follows each ``name`` in an AVIF's headers."""
    found = []
    file.seek(0)
    while len(header := file.read(8)) == 8:
        place, size = file.tell(), int.from_bytes(header[:4], "big")
        if size < 8:
            break
        if header[4:] in (b"meta", b"moov"):
            found += file.read(min(size - 8, 1 << 20)).split(name)[1:]
        file.seek(place + size - 8)
    return found
