"""Supported formats, one row each, with everything that the format can hold."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, BinaryIO, Literal

from skipae.images import avif, bmp, extra, gif, heic, jpeg, pillow, png, ppm, tiff, webp
from skipae.images.metadata import Loss, Metadata
from skipae.images.raster import Raster

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Format:
    """What a format can hold, and its reader and writer."""

    name: str
    """Name in messages; also Pillow's name, if Pillow reads the format."""
    suffixes: tuple[str, ...]
    """Extensions of file names, lower case."""
    is_head: Callable[[bytes], bool]
    """Returns whether a file that begins with these 64 bytes has this format."""
    read: Callable[[IO[bytes]], pillow.Opened]
    write: Callable[[BinaryIO, Image.Image, Metadata, pillow.Quality | None], list[Loss]]
    """Writes what Pillow has a mode for: file, image, metadata that it carries, quality."""
    write_16bit: Callable[[BinaryIO, Raster, Metadata, pillow.Quality | None], list[Loss]] | None = None
    """Writes more than 8 bits in more than one channel."""
    gray_16bit: bool = False
    most_bits: int = 16
    """Bits per color that are written of 16; the writer says what is lost."""
    alpha: Literal["no", "yes", "clear or opaque"] = "no"
    cmyk: bool = False
    carries: frozenset[str] = field(default_factory=frozenset)
    """Metadata by :attr:`Loss.what`."""
    segment: int | None = None
    """Most bytes of EXIF or XMP data."""
    extra: extra.Extra | None = None
    """What must be installed to read or write it."""

    @property
    def is_installed(self) -> bool:
        """True if the format needs no extra, or its extra is installed."""
        return self.extra is None or extra.has(self.extra)

    def holds_16bit(self, raster: Raster) -> bool:
        """Return whether it holds these 16-bit pixels as they are."""
        if raster.kind == "cmyk" and not self.cmyk:
            return False
        return self.write_16bit is not None if raster.is_deep else self.gray_16bit


_BMP_HEADERS = [struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124)]

FORMATS = {
    row.name: row
    for row in (
        Format(
            "PNG",
            (".png",),
            lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"),
            png.read,
            png.write,
            png.write_16bit,
            gray_16bit=True,
            alpha="yes",
            carries=frozenset({"icc", "exif", "xmp", "dpi", "text", "light", "chunks"}),
        ),
        Format(
            "JPEG",
            (".jpg", ".jpeg", ".jpe", ".jfif"),
            lambda head: head.startswith(b"\xff\xd8\xff"),
            jpeg.read,
            jpeg.write,
            cmyk=True,
            carries=frozenset({"icc", "exif", "xmp", "dpi", "iptc", "comment", "segments"}),
            segment=jpeg.SEGMENT,
        ),
        Format(
            "WEBP",
            (".webp",),
            lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
            pillow.reader("WEBP", webp.inspect),
            pillow.writer("WEBP", webp.arguments),
            alpha="yes",
            carries=frozenset({"icc", "exif", "xmp"}),
        ),
        Format(
            "TIFF",
            (".tif", ".tiff"),
            lambda head: head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
            tiff.read,
            tiff.write,
            tiff.write_16bit,
            gray_16bit=True,
            alpha="yes",
            cmyk=True,
            carries=frozenset({"icc", "exif", "xmp", "dpi", "iptc", "tags"}),
        ),
        Format(
            "BMP",
            (".bmp",),
            lambda head: head[:2] == b"BM" and head[14:18] in _BMP_HEADERS,
            pillow.reader("BMP", bmp.inspect),
            pillow.writer("BMP"),
            carries=frozenset({"dpi"}),
        ),
        Format(
            "GIF",
            (".gif",),
            lambda head: head[:6] in (b"GIF87a", b"GIF89a"),
            pillow.reader("GIF", gif.inspect),
            gif.write,
            alpha="clear or opaque",
            carries=frozenset({"comment"}),
        ),
        Format(
            "AVIF",
            (".avif",),
            lambda head: head[4:8] == b"ftyp" and (b"avif" in head[8:64] or b"avis" in head[8:64]),
            avif.read,
            avif.write,
            alpha="yes",
            carries=frozenset({"icc", "exif", "xmp"}),
        ),
        Format(
            "PPM",
            (".ppm", ".pgm", ".pbm", ".pnm"),
            lambda head: re.match(rb"P(?:[1-6]\s+(?:#|\d)|[fF]\s)", head) is not None,
            ppm.read,
            ppm.write,
            gray_16bit=True,
            carries=frozenset({"comment"}),
        ),
        Format(
            "HEIC",
            (".heic", ".heif", ".hif"),
            lambda head: head[4:8] == b"ftyp" and any(brand in head[8:64] for brand in heic.BRANDS),
            heic.read,
            heic.write,
            heic.write_16bit,
            gray_16bit=True,
            most_bits=heic.WRITTEN_BITS,
            alpha="yes",
            carries=frozenset({"icc", "exif", "xmp", "light"}),
            extra="heic",
        ),
    )
}
"""Every format by its name."""

SUFFIXES = {suffix: row.name for row in FORMATS.values() for suffix in row.suffixes}
"""Format of each file name's extension, lower case."""


def sniff(head: bytes) -> str | None:
    """Format of a file by its first 64 bytes, a key of :data:`FORMATS`, or None."""
    return next((row.name for row in FORMATS.values() if row.is_head(head)), None)


def table() -> str:
    """Return what each format holds, as a table in Markdown."""
    metadata = {"icc": "ICC profile", "exif": "EXIF", "xmp": "XMP", "dpi": "resolution"}
    lines = [["format", "16-bit gray", "16-bit color", "alpha", "CMYK", *metadata.values()], ["---"] * 9]
    for row in FORMATS.values():
        deep = "yes" if row.most_bits == 16 else f"{row.most_bits} bits"
        holds = [
            row.gray_16bit and deep,
            row.write_16bit is not None and deep,
            row.alpha,
            row.cmyk,
            *(k in row.carries for k in metadata),
        ]
        lines.append([row.name, *(cell if isinstance(cell, str) else "yes" if cell else "no" for cell in holds)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
