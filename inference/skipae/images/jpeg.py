"""JPEG: tables, subsampling and segments are kept where they can be; what follows the picture is named."""

from __future__ import annotations

import io
import re
import struct
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from skipae.errors import ImageError
from skipae.images import exif, pillow
from skipae.images.metadata import Loss, Metadata, resolution
from skipae.images.pillow import QUALITY, Quality, number
from skipae.images.raster import Raster, from_image

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

SEGMENT = 65_533 - 64
"""Most bytes of EXIF or XMP data, which must fit in a segment."""

_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_ALONE = (0x01, *range(0xD0, 0xDA))
"""Markers without content."""
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers whose content is the size and the channels."""
_NEXT_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")  # the bytes 0xff that may fill up before it are skipped
_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_PADDING = re.compile(rb"\0*")
_MOST_AT_ONCE = 1 << 16  # bytes that are searched for a marker
_MOST_BYTES = 65_533
_USUAL_TABLES = ([0], [0, 0, 0], [0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1])
"""Which table each channel has, as Pillow gives them."""


@dataclass
class _Header:
    """What comes before the pixels."""

    segments: list[tuple[int, bytes]] = field(default_factory=list)
    """Marker and content of application segments and comments."""
    needed: list[tuple[int, int]] = field(default_factory=list)
    """Beginnings and ends of all others."""
    tables: list[int] = field(default_factory=list)
    """Number of each channel's quantization table."""
    scan: int = 0
    """Offset at which the pixels begin."""

    def with_start(self, marker: int, start: bytes) -> list[bytes]:
        """Return the contents after ``start``."""
        return [data[len(start) :] for kind, data in self.segments if kind == marker and data.startswith(start)]


def read(file: IO[bytes]) -> pillow.Opened:
    """Open a JPEG.

    Raises:
        ImageError: it is of a kind that the decoder does not know.
    """
    from PIL.JpegImagePlugin import JpegImageFile

    header = _header(file)
    size = file.seek(0, io.SEEK_END)
    # The decoder ignores damaged metadata and further pictures.
    parts = [(0, 2), *header.needed, (header.scan, size)]
    image = JpegImageFile(io.BufferedReader(pillow.Ranges(file, parts)), "")

    def decode(notes: list[str]) -> tuple[Raster, Metadata]:
        metadata = Metadata("JPEG")
        with closing(image):
            _take_segments(header, metadata)
            pillow.load(image, metadata, notes, _finish(header))
            _note_rest(file, header, metadata)
            return from_image(image, "JPEG", notes), metadata

    return pillow.Opened(image.size, decode)


def write(file: BinaryIO, image: Image.Image, metadata: Metadata, quality: Quality | None) -> list[Loss]:
    """Write a JPEG, with the tables of the one that was read where they are asked for and the encoder takes them."""
    arguments: dict[str, Any] = pillow.common_arguments(metadata) | {"extra": _extra_segments(metadata)} | metadata.jpeg
    tables = arguments.pop("qtables", None)
    if image.mode == "RGB":
        arguments.setdefault("subsampling", _subsampling(metadata))
    else:
        arguments.pop("subsampling", None)
    losses = []
    if quality == "keep" and metadata.jpeg:
        start = file.tell()
        try:
            pillow.save(file, image, "JPEG", arguments | {"qtables": tables})
            return []
        except OSError as error:
            if error.errno is not None:  # of the disk
                raise
        except (ValueError, TypeError, OverflowError):
            pass
        file.seek(start)
        file.truncate()
        losses = [Loss("tables", f"the quantization tables cannot be kept: written with quality {QUALITY}")]
    pillow.save(file, image, "JPEG", arguments | {"quality": number(quality)})
    return losses


def _header(file: IO[bytes]) -> _Header:
    """Return all segments up to the pixels; a file that ends before has no scan.

    Raises:
        ImageError: it is of a kind that the decoder does not know.
    """
    found = _Header()
    file.seek(2)
    while True:
        start = file.tell()
        marker = _next_marker(file)
        if marker is None or marker in (_SOS, _EOI):
            found.scan = start if marker is not None else file.seek(0, io.SEEK_END)
            return found
        if marker in _ALONE:
            continue
        length = int.from_bytes(file.read(2), "big")
        data = file.read(max(0, length - 2))
        if marker == _COM or 0xE0 <= marker <= 0xEF:
            found.segments.append((marker, data))
            if not ((marker == 0xE0 and data.startswith(b"JFIF\0")) or (marker == 0xEE and data.startswith(b"Adobe"))):
                continue  # but for those that say what the channels are
        if marker in _FRAMES or marker == 0xF7:
            _refuse_kinds(marker, data)
            found.tables = [data[at] for at in range(8, len(data), 3)]
        found.needed.append((start, file.tell()))


def _next_marker(file: IO[bytes]) -> int | None:
    """Return the next marker; what is not one is skipped, as decoders do."""
    start, before, size = file.tell(), b"", 64
    while block := file.read(size):
        found = _MARKER.search(before + block)
        if found is not None:
            file.seek(start - len(before) + found.end())
            return found[1][0]
        start, before, size = start + len(block), block[-1:], min(2 * size, _MOST_AT_ONCE)
    return None


def _refuse_kinds(marker: int, data: bytes) -> None:
    """Raise :class:`ImageError` for features that the decoder does not support, which are not damage."""
    kinds = {0xF7: "JPEG-LS", 0xCB: "a lossless JPEG with arithmetic coding"}
    what = kinds.get(marker, "a hierarchical JPEG" if marker in (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF) else None)
    if what is None and len(data) > 5 and data[0] != 8 and data[0] <= 16:
        what = f"a JPEG of {data[0]} bits per color"
    if what is None and len(data) > 5 and len(data) == 6 + 3 * data[5] and data[5] not in (1, 3, 4):
        what = f"a JPEG of {data[5]} channels"
    if what is not None:
        raise ImageError(f"is {what}, which skipae does not read: convert it to a PNG or TIFF first")


def _take_segments(header: _Header, metadata: Metadata) -> None:
    """Put what segments say into the metadata."""
    metadata.exif = exif.complete(b"".join(header.with_start(0xE1, exif.PREFIX)))
    packets = header.with_start(0xE1, _XMP)
    metadata.xmp = packets[0] if packets else None
    if len(packets) > 1:
        metadata.left_out.append(Loss("xmp", "a second packet of XMP data is left out"))
    metadata.photoshop = b"".join(header.with_start(0xED, _PHOTOSHOP)) or None
    metadata.comments = [data for marker, data in header.segments if marker == _COM]
    metadata.icc = _profile(header.with_start(0xE2, b"ICC_PROFILE\0"))
    if metadata.icc is None and header.with_start(0xE2, b"ICC_PROFILE\0"):
        metadata.left_out.append(Loss("icc", "the color profile is damaged and is left out"))
    known: dict[int, tuple[bytes, ...]] = {
        0xE0: (b"JFIF\0", b"JFXX\0"),
        0xE1: (exif.PREFIX, _XMP),
        0xE2: (b"ICC_PROFILE\0", b"MPF\0", _GAIN_MAP),
        0xED: (_PHOTOSHOP,),
        0xEE: (b"Adobe",),
    }
    boxes: list[bytes] = []
    for marker, data in header.segments:
        if marker == 0xEB and data.startswith(b"JP"):  # JUMBF, in boxes
            boxes.append(data)
        elif marker != _COM and not data.startswith(known.get(marker, ())):
            metadata.segments.append((marker, data))
    if boxes:
        metadata.left_out.append(pillow.content_credentials() if any(b"c2pa" in data for data in boxes) else _jumbf())
    if header.with_start(0xE0, b"JFXX\0"):
        metadata.left_out.append(Loss("thumbnail", "the thumbnail in a JFXX segment is left out"))
    if header.with_start(0xE2, _GAIN_MAP):
        metadata.left_out.append(Loss("pictures", "the gain map (HDR) is left out"))


def _jumbf() -> Loss:
    return Loss("segments", "the segment APP11 JUMBF is left out: it belongs to the pixels as they were")


def _profile(parts: list[bytes]) -> bytes | None:
    """Return the ICC profile of segments, each with its number and their count before it."""
    parts = sorted(part for part in parts if len(part) > 2)
    if not parts or [part[0] for part in parts] != list(range(1, len(parts) + 1)) or parts[0][1] != len(parts):
        return None
    return b"".join(part[2:] for part in parts)


def _finish(header: _Header) -> Any:
    def finish(image: ImageFile, metadata: Metadata, notes: list[str]) -> None:
        from PIL import JpegImagePlugin

        names = [layer[0] for layer in image.layer]  # type: ignore[attr-defined]
        tables: Any = dict(image.quantization)  # type: ignore[attr-defined]
        if header.tables not in _USUAL_TABLES and all(number in tables for number in header.tables):
            tables = [tables[number] for number in header.tables]  # in the order of the channels
        if metadata.dpi is None and metadata.exif is not None:
            metadata.dpi = resolution(exif.resolution(metadata.exif))
        metadata.jpeg = {
            "qtables": tables,
            # An unusual one becomes none, which loses nothing.
            "subsampling": max(JpegImagePlugin.get_sampling(image), 0),
            "progressive": bool(image.info.get("progressive")),
            "keep_rgb": image.mode == "RGB" and (names == [82, 71, 66] or image.info.get("adobe_transform") == 0),
        }

    return finish


def _note_rest(file: IO[bytes], header: _Header, metadata: Metadata) -> None:
    """Name what follows the picture: others, videos, anything else."""
    file.seek(header.scan)
    data = file.read()
    end = _end_of_picture(data, 0)
    indexed, pictures = _pictures_of_index(header) if end < len(data) else 1, 1
    while (padding := _PADDING.match(data, end)) is not None:
        start = padding.end()
        if data[start : start + 3] != b"\xff\xd8\xff":
            break
        pictures += 1
        end = _end_of_picture(data, start + 2)
    if max(pictures, indexed) > 1:
        pillow.note_pictures(max(pictures, indexed), metadata)
    if indexed <= pictures:
        pillow.note_trailer(data[end:], metadata)


def _end_of_picture(data: bytes, at: int) -> int:
    """Return where a picture ends that has a marker at, or after, a place."""
    while (found := _NEXT_MARKER.search(data, at)) is not None:
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            return at
        if marker == _SOI:  # of another: this one has no end
            return found.start()
        at += int.from_bytes(data[at : at + 2], "big")
    return len(data)


def _pictures_of_index(header: _Header) -> int:
    """Return how many pictures a multi-picture index (MPF) has."""
    for data in header.with_start(0xE2, b"MPF\0"):
        with suppress(ValueError):
            index = exif.Reader(io.BytesIO(data))
            entries = index.directory(index.first).tags.get(0xB002)
            return 1 if entries is None else max(1, len(entries.data) // 16)
    return 1


def _subsampling(metadata: Metadata) -> str:
    """Return the subsampling for a file that was not a JPEG: full color resolution must not be lost silently."""
    if metadata.format == "WEBP" and not metadata.lossless:
        return "4:2:0"
    return metadata.subsampling if metadata.subsampling in ("4:2:2", "4:2:0") else "4:4:4"


def _extra_segments(metadata: Metadata) -> bytes:
    """Return the segments and comments besides EXIF, XMP and profile."""

    resources = metadata.photoshop or b""
    if metadata.iptc and b"8BIM\x04\x04" not in resources:
        iptc = metadata.iptc + b"\0" * (len(metadata.iptc) % 2)
        resources = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(metadata.iptc)) + iptc + resources
    parts = [resources[k : k + SEGMENT] for k in range(0, len(resources), SEGMENT)]
    segments = [(0xED, _PHOTOSHOP + part) for part in parts] + metadata.segments
    segments += [(_COM, comment[:_MOST_BYTES]) for comment in metadata.comments]
    return b"".join(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in segments)
