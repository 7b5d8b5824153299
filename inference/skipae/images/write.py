"""Write a picture to a file: what the format lacks is converted or left out, and listed as losses."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from skipae.errors import ImageError, UsageError
from skipae.images.formats import FORMATS, SUFFIXES, Format
from skipae.images.metadata import Loss, Metadata
from skipae.images.pillow import Quality
from skipae.images.raster import Raster, cmyk_to_rgb

if TYPE_CHECKING:
    from PIL import Image


def encode(
    raster: Raster, metadata: Metadata, file: BinaryIO, *, format: str | None = None, quality: Quality | None = None
) -> list[Loss]:
    """Write an image; the raster's planes are given up to save memory.

    Args:
        raster: the pixels.
        metadata: what else to write.
        file: where to, seekable.
        format: a key of ``FORMATS``; by default the one of ``metadata``.
        quality: for JPEG, WebP and AVIF, 1 to 100 [95], or ``keep`` for the tables of a JPEG input.

    Returns:
        What the format cannot hold.

    Raises:
        ImageError: the format cannot hold the image, for example its size.
        OSError: the file cannot be written.
    """
    row = FORMATS[format or metadata.format]
    losses = list(metadata.left_out)
    if raster.bits == 16 and not row.holds_16bit(raster):
        here = " here" if row.gray_16bit else ""
        losses.append(Loss("16 bits", f"{row.name} cannot hold 16 bits{here}: reduced to 8"))
        raster.reduce()
    try:
        if raster.is_deep and row.write_16bit is not None:
            metadata = _fit_metadata(row, metadata, losses)
            return losses + row.write_16bit(file, raster, metadata, quality)
        image = raster.take_image()
        if image.mode == "CMYK" and not row.cmyk:
            losses.append(Loss("cmyk", f"{row.name} cannot hold CMYK: converted to RGB"))
            image = cmyk_to_rgb(image, metadata.icc)
            metadata = replace(metadata, icc=None)  # it no longer applies
        if image.mode in ("LA", "RGBA") and row.alpha == "no":
            losses.append(Loss("alpha", f"{row.name} cannot hold transparency: laid on white"))
            image = _on_white(image)
        metadata = _fit_metadata(row, metadata, losses)
        return losses + row.write(file, image, metadata, quality)
    except ImageError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise ImageError(f"cannot be written as {row.name}: {error}") from error
    except Exception as error:  # Pillow's encoders raise nearly anything for what they cannot hold
        raise ImageError(f"cannot be written as {row.name}: {error or type(error).__name__}") from error


def _fit_metadata(row: Format, metadata: Metadata, losses: list[Loss]) -> Metadata:
    """Return the metadata that a format carries."""
    needs = metadata.needs()
    lost = {what: name for what, name in needs.items() if what not in row.carries}
    if row.segment is not None:
        for what, value in (("exif", metadata.exif), ("xmp", metadata.xmp)):
            if value is not None and len(value) > row.segment:
                lost[what] = f"{needs[what]} of {len(value)} bytes"
    losses += [Loss(what, f"{row.name} cannot hold {name}") for what, name in lost.items()]
    return metadata.without(lost)


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    solid = image.convert(image.mode[:-1])
    return Image.composite(solid, Image.new(solid.mode, solid.size, "white"), image.getchannel("A"))


def format_of(path: Path) -> str:
    """Format that a file name's extension asks for; :class:`UsageError` where it names none that is written here."""
    found = SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise UsageError(
            f"{path} does not say which format to write: end it in one of {', '.join(SUFFIXES)}, or in {os.sep} for a "
            "folder"
        )
    require_writer(found)
    return found


def require_writer(format: str) -> None:
    """Raise :class:`UsageError`, before anything is computed, if a format's extra is not installed."""
    row = FORMATS[format]
    if row.extra is not None and not row.is_installed:
        from skipae.install import install_command

        raise UsageError(f"{format} cannot be written here: to do so, type: {install_command(row.extra)}")
