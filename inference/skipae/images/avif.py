"""AVIF: subsampling is kept, colors without a profile are reported, and more than 8 bits are refused."""

from __future__ import annotations

import io
from contextlib import closing
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from skipae.errors import ImageError
from skipae.images import exif, heif, pillow
from skipae.images.metadata import Loss, Metadata
from skipae.images.pillow import Quality, number
from skipae.images.raster import Raster, from_image

if TYPE_CHECKING:
    from PIL import Image

_MOST_SIDE = 32_768  # that libavif reads


def inspect(file: IO[bytes]) -> Metadata:
    """Return subsampling and colors of an AVIF.

    Raises:
        ImageError: it has 10 or 12 bits per color.
    """
    found = Metadata("AVIF")
    # Of each picture, the byte that says depth (64), gray (16) and subsampling (8 and 4).
    configurations = [box[2] for box in heif.boxes(file, b"av1C") if len(box) > 2]
    if any(config & 64 for config in configurations):
        # imagecodecs would read it, but gives neither its transfer function nor its profile.
        raise ImageError(
            "has 10 or 12 bits per color, of which 2 or 4 would be lost: convert it to a PNG of 16 bits first"
        )
    for config in configurations[:1]:
        found.subsampling = "4:0:0" if config & 16 else {0: "4:4:4", 8: "4:2:2", 12: "4:2:0"}.get(config & 12)
    heif.take_colors(file, found)
    return found


def read(file: IO[bytes]) -> pillow.Opened:
    """Open an AVIF; errors: see :func:`inspect`."""
    found = inspect(file)
    image: Any = pillow.open_header(file, "AVIF")

    def decode(notes: list[str]) -> tuple[Raster, Metadata]:
        with closing(image):
            pillow.note_frames(image, found)
            heif.note_rest(file, found)
            # Pillow rewrites EXIF data if its orientation differs from that of the format itself.
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
    # Pillow rewrites EXIF data that has an orientation, even 1.
    buffer = io.BytesIO()
    pillow.save(buffer, image, "AVIF", arguments | {"exif": hidden})
    file.write(buffer.getvalue().replace(hidden, data))
    return []
