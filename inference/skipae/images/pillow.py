"""What all formats have in common: read and written by Pillow, with metadata upright and complete."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal

from skipae.images.metadata import DAMAGED_EXIF, Loss, Metadata, resolution
from skipae.images.raster import Raster, from_image

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

QUALITY = 95
"""Quality of JPEG, WebP and AVIF output unless another is asked for."""

Quality = int | Literal["keep"]
"""Quality of lossy output: 1 to 100, or ``keep`` for a JPEG input's quantization tables in JPEG output."""

ORIENTATION = 274
"""EXIF tag."""


@dataclass
class Opened:
    """A file whose header was read."""

    size: tuple[int, int]
    """Width and height in pixels as they are stored."""
    decode: Callable[[list[str]], tuple[Raster, Metadata]]
    """Once only; the list gets what was changed or left out, a line each."""
    samples: int = 1
    """Values per pixel, where a file may claim any number of them."""


def reader(
    format: str,
    inspect: Callable[[IO[bytes]], Metadata] | None = None,
    finish: Callable[[ImageFile, Metadata, list[str]], None] | None = None,
) -> Callable[[IO[bytes]], Opened]:
    """A function that opens files of a format.

    Args:
        format: Pillow's name.
        inspect: reads from the header what Pillow does not report, or refuses the file.
        finish: completes the metadata after the pixels are decoded.
    """

    def read(file: IO[bytes]) -> Opened:
        found = Metadata(format) if inspect is None else inspect(file)
        image = open_header(file, format)

        def decode(notes: list[str]) -> tuple[Raster, Metadata]:
            with closing(image):
                note_frames(image, notes)
                load(image, found, notes, finish)
                return from_image(image, format, notes), found

        return Opened(image.size, decode)

    return read


def open_header(file: IO[bytes], format: str) -> ImageFile:
    """Pillow's image of a file, not decoded yet."""
    # Not Image.open: its limit of pixels is one global variable, and it loads every plugin there is.
    from importlib import import_module

    from PIL import Image

    plugins = {"WEBP": "WebP"}
    import_module(f"PIL.{plugins.get(format, format.capitalize())}ImagePlugin")
    factory: Callable[[IO[bytes], str], ImageFile] = Image.OPEN[format][0]
    file.seek(0)
    return factory(file, "")


def note_frames(image: ImageFile, notes: list[str]) -> None:
    """Say that further pictures are left out."""
    if getattr(image, "is_animated", False):
        notes.append(f"only the first of {getattr(image, 'n_frames', 'several')} pictures is kept")


def load(
    image: ImageFile,
    metadata: Metadata,
    notes: list[str],
    finish: Callable[[ImageFile, Metadata, list[str]], None] | None = None,
) -> int:
    """Decode an image, turn it upright and complete the metadata; the EXIF orientation it had."""
    from PIL import ImageOps

    image.load()
    turn = _orientation(image, notes)
    ImageOps.exif_transpose(image, in_place=True)
    info = image.info
    exif = info.get("exif")
    if exif is None and len(image.getexif()):
        exif = image.getexif().tobytes()
    metadata.exif = exif if exif and len(exif) > 20 else None  # 20 bytes hold no tag
    metadata.dpi = resolution(info.get("dpi"))
    take_info(image, metadata, turn)
    if finish is not None:
        finish(image, metadata, notes)
    return turn


def take_info(image: ImageFile, metadata: Metadata, turn: int) -> None:
    """Profile, XMP and comment as Pillow gives them, and the resolution turned with the image."""
    info = image.info
    xmp = info.get("xmp")
    metadata.icc = info.get("icc_profile") or None
    metadata.xmp = xmp.encode() if isinstance(xmp, str) else xmp or None
    metadata.comment = info.get("comment") if isinstance(info.get("comment"), bytes) else None
    if turn in (5, 6, 7, 8) and metadata.dpi is not None:
        metadata.dpi = metadata.dpi[::-1]


def _orientation(image: ImageFile, notes: list[str]) -> int:
    """As EXIF data says, or XMP data; EXIF data that cannot be read is left out."""
    exif: Image.Exif
    image._exif = None  # of a JPEG it was read before, and Pillow kept quiet about errors
    try:
        exif = image.getexif()
        if ORIENTATION in exif or "exif" not in image.info:
            exif.tobytes()  # as it will be without an orientation
    except Exception:  # Pillow raises nearly anything for damaged EXIF data
        notes.append(DAMAGED_EXIF)
        for name in ("exif", "Raw profile type exif"):
            image.info.pop(name, None)
        image._exif = None
        exif = image.getexif()
    turn: int = exif.get(ORIENTATION, 1)
    return turn


def writer(
    format: str, arguments: Callable[[Image.Image, Metadata, Quality | None], dict[str, Any]] | None = None
) -> Callable[[BinaryIO, Image.Image, Metadata, Quality | None], list[Loss]]:
    """A function that writes files of a format.

    Args:
        format: Pillow's name.
        arguments: gives further arguments of ``Image.save`` for an image, its metadata and the quality asked for.
    """

    def write(file: BinaryIO, image: Image.Image, metadata: Metadata, quality: Quality | None) -> list[Loss]:
        more = {} if arguments is None else arguments(image, metadata, quality)
        save(file, image, format, common_arguments(metadata) | more)
        return []

    return write


def number(quality: Quality | None) -> int:
    """A quality from 1 to 100; the default for ``keep``, where there is nothing to keep."""
    return quality if isinstance(quality, int) else QUALITY


def common_arguments(metadata: Metadata) -> dict[str, Any]:
    """Arguments of ``Image.save`` that most formats understand."""
    values = {"icc_profile": metadata.icc, "exif": metadata.exif, "xmp": metadata.xmp, "dpi": metadata.dpi}
    return {key: value for key, value in values.items() if value is not None}


def save(file: BinaryIO, image: Image.Image, format: str, arguments: dict[str, Any]) -> None:
    """Encode an image."""
    image.info.clear()  # Pillow would take some of it up again
    image.save(_Plain(file), format=format, **arguments)  # type: ignore[arg-type]


class _Plain:
    """A file without ``fileno``: Pillow then writes through Python, whose errors say what happened."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write
        self.seek = file.seek
        self.tell = file.tell
        self.flush = file.flush
        self.read = file.read
