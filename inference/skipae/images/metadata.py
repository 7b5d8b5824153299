"""What a file says besides its pixels, and what a format loses of it."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

DAMAGED_EXIF = "EXIF data is damaged and is left out"

SRGB_CODES = [bytes((primaries, transfer)) for primaries in (1, 2) for transfer in (1, 2, 13)]
"""First two bytes of a ``cICP`` chunk that say sRGB, or nothing."""

_SRGB_LIGHT = {
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
}
_MOST_DPI = 65_535  # that a JPEG holds
_THUMBNAILS_END = b"</xmp:Thumbnails>"


@dataclass(frozen=True)
class Loss:
    """Something of a picture that a file could not hold."""

    what: str
    """``16 bits``, ``cmyk``, ``alpha``, ``colors``, ``icc``, ``exif``, ``xmp``, ``dpi``, ``iptc``, ``text``,
    ``comment`` or ``light`` (gamma, chromaticities, cICP)."""
    message: str
    """The same in a line for people."""

    def __str__(self) -> str:
        """The message."""
        return self.message


@dataclass
class Metadata:
    """What a file says besides its pixels."""

    format: str
    """Name of the format, a key of ``FORMATS``."""
    icc: bytes | None = None
    exif: bytes | None = None
    """Upright: without an orientation."""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    jpeg: dict[str, Any] = field(default_factory=dict)
    """Arguments for Pillow that keep a JPEG's quantization tables and subsampling."""
    iptc: bytes | None = None
    """From a TIFF; that of a JPEG is in ``photoshop``."""
    photoshop: bytes | None = None
    """Photoshop's resources, from a JPEG (APP13) or TIFF."""
    subsampling: str | None = None
    """AVIF alone, for example ``4:2:0``."""
    compression: str | None = None
    """TIFF alone."""
    lossless: bool = False
    """WebP alone."""
    png_chunks: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Chunks of a PNG that say how its numbers become light; for an AVIF, what a PNG would say."""
    png_text: dict[str, str] = field(default_factory=dict)
    comment: bytes | None = None

    @property
    def light(self) -> str:
        """Names of the chunks that make the numbers other light than sRGB's."""
        chunks = dict(self.png_chunks)
        if b"cICP" in chunks:
            return "" if chunks[b"cICP"][:2] in SRGB_CODES else "cICP"
        if self.icc is not None or b"sRGB" in chunks:  # they outweigh the others
            return ""
        return ", ".join(name.decode() for name, value in _SRGB_LIGHT.items() if chunks.get(name, value) != value)

    def needs(self) -> dict[str, str]:
        """What a format must carry to keep all of it, by :attr:`Loss.what`, each with its name for people."""
        found = {
            "icc": ("the colour profile", self.icc),
            "exif": ("EXIF data", self.exif),
            "xmp": ("XMP data", self.xmp),
            "dpi": ("the resolution", self.dpi),
            "iptc": ("IPTC or Photoshop data", self.iptc or self.photoshop),
            "text": ("texts of a PNG", self.png_text),
            "comment": ("a comment", self.comment),
            "light": (f"how the numbers become light ({self.light})", self.light),
        }
        return {what: name for what, (name, value) in found.items() if value}

    def without(self, lost: Collection[str]) -> Metadata:
        """A copy without what a format cannot hold; ``lost`` are keys of :meth:`needs`."""
        fields = {"iptc": ("iptc", "photoshop"), "text": (), "light": ()}  # the last two: PNG alone writes them
        none: dict[str, Any] = {name: None for what in lost for name in fields.get(what, (what,))}
        return replace(self, **none)

    def drop_thumbnails(self) -> bool:
        """Leave out the small copies in EXIF, XMP and Photoshop's data; whether there were any."""
        before = self.exif, self.xmp, self.photoshop
        self.exif = (self.exif and _without_thumbnail(self.exif)) or None  # None where it is damaged
        self.xmp = self.xmp and _without_xmp_thumbnails(self.xmp)
        self.photoshop = self.photoshop and _without_thumbnails(self.photoshop)
        return before != (self.exif, self.xmp, self.photoshop)


def resolution(value: tuple[Any, Any] | None) -> tuple[float, float] | None:
    """A resolution; None where it is none (0/0) or absurd, which other formats cannot hold."""
    if value is None or not all(0 < float(number) <= _MOST_DPI for number in value):
        return None
    return float(value[0]), float(value[1])


def _without_thumbnail(exif: bytes) -> bytes:
    """EXIF data without a link to its second directory, and blank where that has the thumbnail."""
    data = bytearray(exif)
    start = 6 if exif[:6] == b"Exif\0\0" else 0
    order = "<" if exif[start : start + 2] == b"II" else ">"

    def number(at: int, code: str = "I") -> int:
        return int(struct.unpack_from(order + code, data, start + at)[0])

    try:
        link = number(4) + 2 + 12 * number(number(4), "H")
        second = number(link)
        if second:
            places = [second + 2 + 12 * k for k in range(number(second, "H"))]
            values = {number(at, "H"): number(at + 8, "H" if number(at + 2, "H") == 3 else "I") for at in places}
            for place, length in ((513, 514), (273, 279)):  # of a JPEG, or of strips
                at = start + values.get(place, 0)
                if at > start:
                    data[at : at + values.get(length, 0)] = bytes(len(data[at : at + values.get(length, 0)]))
            struct.pack_into(order + "I", data, start + link, 0)
    except struct.error:  # damaged
        return b""
    return bytes(data)


def _without_xmp_thumbnails(xmp: bytes) -> bytes:
    """XMP data without its small copies, in time linear in its length."""
    kept, at = [], 0
    for element in re.finditer(rb"<xmp:Thumbnails\b", xmp):
        if element.start() < at:  # inside the one before
            continue
        end = xmp.find(_THUMBNAILS_END, element.end())
        if end < 0:
            break
        kept.append(xmp[at : element.start()])
        at = end + len(_THUMBNAILS_END)
    return b"".join([*kept, xmp[at:]])


def _without_thumbnails(photoshop: bytes) -> bytes:
    """Photoshop's resources except the small copies; a damaged resource and what follows it are left out."""
    kept, at = [], 0
    while photoshop[at : at + 4] == b"8BIM" and len(photoshop) >= at + 12:
        name = at + 6 + (photoshop[at + 6] + 2) // 2 * 2  # a text with its length before it, of an even number of bytes
        size = int.from_bytes(photoshop[name : name + 4], "big")
        if name + 4 + size > len(photoshop):
            break
        end = name + 4 + (size + 1) // 2 * 2
        if int.from_bytes(photoshop[at + 4 : at + 6], "big") not in (1033, 1036):
            kept.append(photoshop[at:end])
        at = end
    return b"".join(kept)
