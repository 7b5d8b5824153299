"""WebP: a lossless file stays lossless."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from skipae.images.metadata import Metadata
from skipae.images.pillow import Quality, number

if TYPE_CHECKING:
    from PIL import Image


def inspect(file: IO[bytes]) -> Metadata:
    """Whether a WebP is lossless."""
    return Metadata("WEBP", lossless=_is_lossless(file))


def arguments(image: Image.Image, metadata: Metadata, quality: Quality | None) -> dict[str, Any]:
    """Arguments of ``Image.save``."""
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
