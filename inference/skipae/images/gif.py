"""GIF: colors become a palette."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from skipae.images import pillow
from skipae.images.metadata import Loss, Metadata

if TYPE_CHECKING:
    from PIL import Image


def write(file: BinaryIO, image: Image.Image, metadata: Metadata, quality: pillow.Quality | None) -> list[Loss]:
    """Write a GIF of one picture."""
    losses = []
    if image.mode != "L":
        losses.append(Loss("colors", "GIF cannot hold more than 256 colours: reduced to a palette"))
        image, partial = _to_palette(image)
        if partial:
            losses.append(Loss("alpha", "GIF cannot hold partial transparency: pixels become clear or opaque"))
    transparency = image.info.get("transparency")
    arguments = {} if transparency is None else {"transparency": transparency}
    if metadata.comments:
        arguments["comment"] = b"\n".join(metadata.comments)
    pillow.save(file, image, "GIF", arguments)
    return losses


def _to_palette(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image with a palette, and whether some of its pixels were neither clear nor opaque."""
    # Pillow's way for images with alpha merges colors that are far apart.
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    palette = image.convert("RGB").quantize(256 if alpha is None else 255)
    if alpha is None:
        return palette, False
    palette.paste(255, mask=alpha.point(lambda value: 255 * (value < 128)))
    palette.info["transparency"] = 255
    return palette, any(alpha.histogram()[1:255])
