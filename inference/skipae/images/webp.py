"""WebP: a lossless file stays lossless."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from skipae.images import pillow
from skipae.images.metadata import Metadata
from skipae.images.pillow import Quality, number

if TYPE_CHECKING:
    from PIL import Image


_KNOWN = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ", b"C2PA")


def inspect(file: IO[bytes]) -> Metadata:
    """Whether a WebP is lossless; chunks that are not carried, and what follows the picture, are noted."""
    file.seek(4)
    end = 8 + int.from_bytes(file.read(4), "little")
    kinds = list(_chunks(file, end))
    is_lossless = next((kind == b"VP8L" for kind in kinds if kind in (b"VP8 ", b"VP8L")), False)
    found = Metadata("WEBP", lossless=is_lossless)
    if b"C2PA" in kinds:
        found.left_out.append(pillow.content_credentials())
    found.leave_out("chunks of a WebP that are not known", (kind for kind in kinds if kind not in _KNOWN))
    file.seek(end + end % 2)
    pillow.note_trailer(file.read(), found)
    return found


def _chunks(file: IO[bytes], end: int) -> Iterator[bytes]:
    """Kinds of the chunks up to a place, those of an animation's frames too."""
    place = 12
    while place + 8 <= end:
        file.seek(place)
        header = file.read(8)
        if len(header) < 8:
            return
        yield header[:4]
        size = int.from_bytes(header[4:], "little")
        place += 24 if header[:4] == b"ANMF" else 8 + size + size % 2  # a frame's begin after 16 bytes of its own


def arguments(image: Image.Image, metadata: Metadata, quality: Quality | None) -> dict[str, Any]:
    """Arguments of ``Image.save``."""
    if metadata.lossless and not isinstance(quality, int):
        return {"lossless": True, "exact": True}
    return {"quality": number(quality)}
