"""Image files of training data: found below a folder, and decoded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from skipae.errors import SkipaeError

Pixels = NDArray[np.uint8]
_MOST_TEXT = 256 << 20
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats of Pillow that are read.  Another would start Ghostscript for a file that says it is PostScript, whatever
its name."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm"})


class DataError(SkipaeError, ValueError):
    """Unusable training data; the message names the folder or file and what to do."""

    exit_code = 5


def find_images(folder: Path) -> list[Path]:
    """Return the image files below ``folder``, sorted, without hidden ones.  Links to folders are not followed."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: --data takes a folder of images")
    found, folders = [], [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:  # which know what they are without a call: ImageNet has 1.3 million
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not entry.is_dir():
                    if not entry.is_file():
                        raise DataError(f"{entry.path} is a broken link, a pipe or a device: remove it")
                    found.append(Path(entry.path))
    found.sort()
    if not found:
        raise DataError(f"{folder} contains no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def is_hidden(name: str) -> bool:
    """Return whether the name is that of a system's own file: ``._a.jpg``, ``.ipynb_checkpoints``, ``__MACOSX``."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def require_file(path: Path) -> None:
    """Raise :class:`DataError` for anything but a regular file: reading a pipe would wait forever."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a regular file: replace it with a file, or remove it")


def read_small(path: Path) -> bytes:
    """Return a list or description of a data set; :class:`DataError` where it is larger than any is."""
    require_file(path)
    with path.open("rb") as file:
        data = file.read(_MOST_TEXT + 1)
    if len(data) > _MOST_TEXT:
        raise DataError(f"{path} is larger than {_MOST_TEXT >> 20} MiB, which no list is: unpack the set again")
    return data


def read_text(path: Path) -> str:
    """Return the same as text in UTF-8."""
    try:
        return read_small(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error}): save it in that encoding, or unpack the set again"
        ) from None


def open_pillow(file: Path | BinaryIO) -> ImageFile:
    """Return Pillow's image, not decoded yet; :class:`DataError` if it is not a file, nearly any
    error for damaged ones.
    """
    if isinstance(file, Path):
        require_file(file)
    Image.init()
    return Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])


def open_rgb(file: Path | BinaryIO, name: object, short_side: int = 0) -> Image.Image:
    """Decode one image, RGB, upright.  A JPEG may come out smaller, its short side still >= ``short_side`` if > 0."""
    try:
        with open_pillow(file) as stored:
            if short_side:
                stored.draft("RGB", (short_side, short_side))
            image: Image.Image = ImageOps.exif_transpose(stored)
            if image.mode.startswith("I;16"):  # which convert would clip at 255
                image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
            return image.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # damaged files raise nearly anything
        raise DataError(f"{name} cannot be decoded ({error}): repair or remove it") from error


def load_rgb(path: Path) -> Pixels:
    """Decode one file, uint8 [H, W, 3], upright."""
    return np.array(open_rgb(path, path))
