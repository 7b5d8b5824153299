"""Metadata of a file, and what a format cannot hold of it."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from skipae.images import exif, xmp
from skipae.images.exif import Tag

DAMAGED_EXIF = "EXIF data is damaged and is left out"

SRGB_CODES = [bytes((primaries, transfer)) for primaries in (1, 2) for transfer in (1, 2, 13)]
"""First two bytes of a ``cICP`` chunk that say sRGB, or nothing."""

_SRGB_LIGHT = {
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
}
OF_PIXELS = (b"bKGD", b"hIST", b"sBIT")
"""Chunks of a PNG that suit one kind of pixels."""
OLD_PIXELS = "chunks of a PNG that suit only the pixels as they were"
_LIGHT = (b"cICP", b"cHRM", b"gAMA", b"sRGB")
_MOST_DPI = 65_535  # that a JPEG holds
_MOST_NAMED = 8
_WITH_PICTURES = (b"FLIR\0", b"FPXR\0")
"""Beginnings of a JPEG's segments that hold other copies of the picture."""


@dataclass(frozen=True)
class Loss:
    """A part of a picture that a file could not hold.

    >>> photo = open_image("photo.jpg")
    >>> photo.save("photo.ppm")[0].what
    'dpi'
    """

    what: str
    """``16 bits``, ``cmyk``, ``alpha``, ``colors``, ``icc``, ``exif``, ``xmp``, ``dpi``, ``iptc``, ``text``,
    ``comment``, ``light`` (gamma, chromaticities, cICP), ``thumbnail``, ``tables`` (of a JPEG), ``segments``,
    ``chunks`` or ``tags`` (what JPEG, PNG or TIFF alone hold), ``pictures`` (further ones, gain maps, videos),
    ``c2pa`` or ``trailer`` (what follows the picture)."""
    message: str
    """The same as one line of text."""

    def __str__(self) -> str:
        """Return the message."""
        return self.message


@dataclass
class Metadata:
    """Metadata of a file."""

    format: str
    """Name of the format, a key of ``FORMATS``."""
    icc: bytes | None = None
    exif: bytes | None = None
    """Upright, beginning with :data:`skipae.images.exif.PREFIX`."""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    jpeg: dict[str, Any] = field(default_factory=dict)
    """Arguments for Pillow that keep a JPEG's quantization tables and subsampling."""
    segments: list[tuple[int, bytes]] = field(default_factory=list)
    """Markers and content of further application segments of a JPEG, extended XMP data too."""
    iptc: bytes | None = None
    """IPTC data of a TIFF; that of a JPEG is in ``photoshop``."""
    photoshop: bytes | None = None
    """Photoshop's resources, from a JPEG (APP13) or TIFF."""
    subsampling: str | None = None
    """AVIF and HEIC alone, for example ``4:2:0``."""
    bits: int = 16
    """Bits per color of the file, where its pixels are kept as 16."""
    compression: int | None = None
    """TIFF alone: the number of the tag."""
    lossless: bool = False
    """WebP alone."""
    png_chunks: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Further chunks of a PNG, among them those that say how its numbers become light; for an AVIF, what a PNG would
    say of that."""
    png_text: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Texts of a PNG, as chunks."""
    tags: list[Tag] = field(default_factory=list)
    """Tags of a TIFF that no other format holds."""
    tag_order: str = "<"
    """Byte order of their values, ``<`` or ``>``."""
    comments: list[bytes] = field(default_factory=list)
    left_out: list[Loss] = field(default_factory=list)
    """What the file has, and no output."""

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
        """Return what a format must carry to keep all of it, by :attr:`Loss.what`, each with its name for people."""
        chunks = [kind.decode("latin-1") for kind, _ in self.png_chunks if kind not in _LIGHT]
        found = {
            "icc": ("the color profile", self.icc),
            "exif": ("EXIF data", self.exif),
            "xmp": ("XMP data", self.xmp),
            "dpi": ("the resolution", self.dpi),
            "iptc": ("IPTC or Photoshop data", self.iptc or self.photoshop),
            "text": ("texts of a PNG", self.png_text),
            "comment": ("a comment" if len(self.comments) == 1 else "comments", self.comments),
            "segments": (_names("segment", [_segment_name(*segment) for segment in self.segments]), self.segments),
            "chunks": (_names("PNG chunk", chunks), chunks),
            "tags": (_names("TIFF tag", [str(tag.number) for tag in self.tags]), self.tags),
            "light": (f"how the numbers become light ({self.light})", self.light),
        }
        return {what: name for what, (name, value) in found.items() if value}

    def without(self, lost: Collection[str]) -> Metadata:
        """Return a copy without what a format cannot hold; ``lost`` are keys of :meth:`needs`."""
        # Text, light and chunks: PNG alone writes them.
        fields = {"iptc": ("iptc", "photoshop"), "text": (), "light": (), "chunks": (), "comment": (), "tags": ()}
        none: dict[str, Any] = {name: None for what in lost for name in fields.get(what, (what,)) if what != "segments"}
        kept = replace(self, **none)
        if "segments" in lost and kept.xmp is not None and any(map(is_extended_xmp, kept.segments)):
            kept.xmp = xmp.correct(kept.xmp, extended=True).data
        return kept

    def leave_out(self, kinds: str, names: Iterable[bytes]) -> None:
        """Note that parts of the file are left out, if there are any; each is named once."""
        found = listed(printable(name[:16]) or "without a name" for name in names)
        if found:
            self.left_out.append(Loss("chunks", f"{kinds} are left out: {found}"))

    def correct_xmp(self) -> None:
        """Take out of XMP data what it says of other parts of the file, which are left out."""
        if self.xmp is None:
            return
        found = xmp.correct(self.xmp)
        self.xmp = found.data
        if found.promised:
            does = "no longer speaks" if found.is_corrected else "still speaks"
            self.left_out.append(Loss("xmp", f"XMP data {does} of {' and '.join(found.promised)}, left out"))

    def upright(self, notes: list[str], size: tuple[int, int], turn: int | None = None) -> int:
        """Update the metadata for the image turned upright.

        Args:
            notes: get a note about damaged EXIF data, which is left out.
            size: width and height as stored.
            turn: how it is turned, by EXIF's numbers, where the format itself says it.

        Returns:
            The orientation to apply, 1 to 8.
        """
        said = 0
        if self.exif is not None:
            try:
                said = exif.orientation(self.exif)
            except ValueError:
                notes.append(DAMAGED_EXIF)
                self.exif = None
        in_xmp = xmp.orientation(self.xmp) if self.xmp is not None else 0
        if turn is None:
            turn = said or in_xmp or 1
        if self.exif is not None and (turn, said or 1) != (1, 1):
            self.exif, dropped = exif.turned(self.exif, turn, size)
            if dropped:
                self.left_out.append(Loss("thumbnail", "the thumbnail in EXIF data cannot be turned and is left out"))
        if in_xmp > 1 and self.xmp is not None:
            self.xmp = xmp.without_orientation(self.xmp)
        if turn in (5, 6, 7, 8) and self.dpi is not None:
            self.dpi = self.dpi[::-1]
        return turn

    def drop_thumbnails(self) -> bool:
        """Leave out the small copies in EXIF, XMP and Photoshop's data; whether there were any."""
        before = self.exif, self.xmp, self.photoshop, self.segments
        self.exif = (self.exif and exif.without_thumbnail(self.exif)) or None  # None where it is damaged
        self.xmp = self.xmp and xmp.without_thumbnails(self.xmp)
        self.photoshop = self.photoshop and _without_thumbnails(self.photoshop)
        self.segments = [segment for segment in self.segments if not segment[1].startswith(_WITH_PICTURES)]
        return before != (self.exif, self.xmp, self.photoshop, self.segments)

    def drop_pixel_chunks(self) -> None:
        """Leave out chunks of a PNG that suit one kind of pixels, and note it: the pixels become of another kind."""
        self.leave_out(OLD_PIXELS, [kind for kind, _ in self.png_chunks if kind in OF_PIXELS])
        self.png_chunks = [chunk for chunk in self.png_chunks if chunk[0] not in OF_PIXELS]


def resolution(value: tuple[Any, Any] | None) -> tuple[float, float] | None:
    """Return a resolution; None where it is none (0/0) or absurd, which other formats cannot hold."""
    if value is None or not all(0 < float(number) <= _MOST_DPI for number in value):
        return None
    return float(value[0]), float(value[1])


def is_extended_xmp(segment: tuple[int, bytes]) -> bool:
    """Return whether a segment of a JPEG has XMP data for which there was no room in the first."""
    return segment[0] == 0xE1 and segment[1].startswith(b"http://ns.adobe.com/xmp/extension/\0")


def _segment_name(marker: int, data: bytes) -> str:
    """Return the name of a segment, for example ``APP1 FLIR``."""
    if is_extended_xmp((marker, data)):
        return "extended XMP"
    return " ".join([f"APP{marker & 15}", *printable(data[:16]).split()[:1]])


def printable(data: bytes) -> str:
    """Return bytes that should be a name as text, with spaces for what cannot be printed."""
    return "".join(chr(byte) if 32 <= byte < 127 else " " for byte in data).strip()


def listed(names: Iterable[str]) -> str:
    """Return names, each once, the first few of them."""
    unique = list(dict.fromkeys(names))
    more = len(unique) - _MOST_NAMED
    return ", ".join(unique[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _names(kind: str, names: list[str]) -> str:
    """Name some things of a kind, each once."""
    return f"the {kind}{'s' if len(set(names)) > 1 else ''} {listed(names)}"


def _without_thumbnails(photoshop: bytes) -> bytes:
    """Return Photoshop's resources except the small copies; a damaged resource and what follows it are left out."""
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
