"""WebP: a lossless file stays lossless."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from skipae.images import pillow
from skipae.images.metadata import Metadata
from skipae.images.pillow import Quality, number

if TYPE_CHECKING:
    from PIL import Image


_KNOWN = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ")


def inspect(file: IO[bytes]) -> Metadata:
    """Return whether a WebP is lossless; chunks that are not carried, and what follows the picture, are noted."""
    found = Metadata("WEBP", lossless=_is_lossless(file))
    file.seek(4)
    end = 8 + int.from_bytes(file.read(4), "little")
    place, further = 12, []
    while place + 8 <= end:
        file.seek(place)
        header = file.read(8)
        if len(header) < 8:
            break
        if header[:4] not in _KNOWN:
            further.append(header[:4])
        size = int.from_bytes(header[4:], "little")
        place += 8 + size + size % 2
    if b"C2PA" in further:
        found.left_out.append(pillow.content_credentials())
    found.leave_out("chunks of a WebP that are not known", (kind for kind in further if kind != b"C2PA"))
    file.seek(end + end % 2)
    pillow.note_trailer(file.read(), found)
    return found


def arguments(image: Image.Image, metadata: Metadata, quality: Quality | None) -> dict[str, Any]:
    """Return the arguments of ``Image.save``."""
    if metadata.lossless and not isinstance(quality, int):
        return {"lossless": True, "exact": True}
    return {"quality": number(quality)}


def _is_lossless(file: IO[bytes]) -> bool:
    place = 12
    while True:
        file.seek(place)
        header = file.read(8)
        if len(header) < 8 or header[:4] == b"VP8 ":
            return False
        if header[:4] == b"VP8L":
            return True
        size = int.from_bytes(header[4:], "little")
        # The chunk of an animation's frame holds other chunks, after 16 bytes of its own.
        place += 24 if header[:4] == b"ANMF" else 8 + size + size % 2
