"""Read a picture from a file."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeGuard

from skipae.errors import ImageError, UsageError
from skipae.images.exif import complete
from skipae.images.formats import FORMATS, sniff
from skipae.images.metadata import Metadata
from skipae.images.picture import Picture
from skipae.images.pillow import Opened
from skipae.images.raster import from_image
from skipae.options import check_max_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

Source = str | os.PathLike[str] | bytes | bytearray | memoryview
"""The path of an image file, or its bytes."""

MAX_PIXELS = 178_956_970
"""The largest image to decode, in pixels; Pillow's own limit."""

RAW = re.compile(r"\.(arw|cr2|cr3|dng|nef|nrw|orf|pef|raf|rw2|srw)")
"""Extensions of camera raw files.  Most look like a TIFF that is no more than a thumbnail."""

_UNKNOWN = re.compile(r"\b(unsupported|not supported|not implemented|support not installed)\b", re.IGNORECASE)
"""Words by which decoders say that they do not know something."""

_PIXEL_SAMPLES = 4  # values per pixel; a pixel of more counts as several


class OpenedImage:
    """An image file whose header was read and whose pixels were not; a context manager."""

    def __init__(self, file: IO[bytes], format: str, opened: Opened) -> None:
        """Use :func:`read_header` instead."""
        self._file = file
        self._opened: Opened | None = opened
        self.format = format
        self.notes: list[str] = []
        self.size = opened.size

    def __enter__(self) -> OpenedImage:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file and free what was decoded."""
        self._opened = None
        self._file.close()

    def decode(self) -> Picture:
        """Return the pixels, upright, and the metadata.  Once only: what Pillow decoded is freed.

        Raises:
            ImageError: the file is damaged, or holds a kind of pixels that would be truncated.
        """
        opened, self._opened = self._opened, None
        if opened is None:
            raise ImageError("was decoded already")
        try:
            raster, metadata = opened.decode(self.notes)
        except ImageError:
            raise
        except MemoryError:
            raise ImageError(f"not enough memory to decode {self.size[0]} x {self.size[1]} pixels") from None
        except Exception as error:  # decoders raise nearly anything for damaged files
            raise ImageError(_reason(self.format, error)) from error
        finally:
            self._file.close()
        return Picture(raster.kind, raster.planes, raster.alpha, metadata, self.notes)


def open_image(source: Source, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read an image file with all its metadata.

    Args:
        source: path or bytes of the file.
        max_pixels: the largest image to accept, in pixels.

    Returns:
        The picture, upright.

    Raises:
        ImageError: the file cannot be read, is not an image, is too large or damaged, or has pixels that would be
            truncated.
        UsageError: an argument has the wrong type or is out of range.

    >>> open_image("photo.jpg")
    <skipae.Picture 48 x 32, 8-bit rgb, from JPEG>
    """
    if not isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        raise UsageError(f"source must be the path or the bytes of an image file, not {type(source).__name__}")
    check_max_pixels(max_pixels)
    return to_picture(source, max_pixels=max_pixels)


def to_picture(image: Picture | Image.Image | Source, name: str = "image", *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an image file, given by its path or its bytes, or take one in memory as it is.

    Raises:
        UsageError: it is none of these; ``name`` is what the message calls it.
        ImageError: see :func:`read_header` and :func:`from_pil`.
    """
    if isinstance(image, Picture):
        return image.copy()
    if isinstance(image, str | os.PathLike | bytes | bytearray | memoryview):
        source = bytes(image) if isinstance(image, bytearray | memoryview) else image
        try:
            with read_header(source, max_pixels=max_pixels) as opened:
                return opened.decode()
        except ImageError as error:
            if isinstance(source, bytes):
                raise
            raise ImageError(f"{name} {os.fspath(source)}: {error}") from error
    if is_pil(image):
        return from_pil(image)
    raise UsageError(
        f"{name} must be a PIL.Image, a skipae.Picture, a numpy array, or the path or bytes of a file, not "
        f"{type(image).__name__}"
    )


def read_header(source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS) -> OpenedImage:
    """Read the header of an image file.

    Args:
        source: its path, or its bytes.
        max_pixels: the largest image to accept.

    Raises:
        ImageError: there is no such file, it is not an image, it is too large, or it holds a kind of pixels
            that would be truncated (16-bit color, AVIF of 10 or 12 bits, floats).
    """
    try:
        # Closed by the OpenedImage that it becomes.
        file: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")  # noqa: SIM115
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # a null character in the path
        raise ImageError(f"cannot be read: {error}") from error
    try:
        if not isinstance(source, bytes) and RAW.fullmatch(Path(source).suffix.lower()):
            raise ImageError("is a camera raw file, of which only a small preview could be read: develop it first")
        if not file.seekable():  # a pipe
            with file:
                file = io.BytesIO(file.read())
        return _open(file, max_pixels)
    except ImageError:
        file.close()
        raise
    except OSError as error:
        file.close()
        raise ImageError(f"cannot be read: {error.strerror or error}") from error


def from_pil(image: Image.Image) -> Picture:
    """Return a picture of an image in memory, as it is: its EXIF orientation is not applied.

    Raises:
        ImageError: its mode would be truncated, or it was opened without being decoded, and that fails now.
    """
    notes: list[str] = []
    try:
        image.load()
        raster = from_image(image, "PNG", notes)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything for damaged files, and Pillow for closed ones
        name = getattr(image, "filename", "")
        raise ImageError(f"the PIL.Image{f' of {name}' if name else ''} cannot be decoded: {error}") from error
    info = image.info
    metadata = Metadata(
        "PNG",
        icc=info.get("icc_profile"),
        exif=complete(info.get("exif")),
        xmp=info.get("xmp"),
        dpi=info.get("dpi"),
    )
    return Picture(raster.kind, raster.planes, raster.alpha, metadata, notes)


def is_pil(value: object) -> TypeGuard[Image.Image]:
    """Return whether a value is a ``PIL.Image``, without loading Pillow where nobody did."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def check_array(array: NDArray[Any]) -> None:
    """Raise :class:`UsageError` for an array that is not an image; the message says what is."""
    if array.dtype.newbyteorder("=").name not in ("uint8", "uint16", "float16", "float32", "float64"):
        raise UsageError(f"image: an array must be uint8, uint16, or float in [0, 1], not {array.dtype}")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or 0 in array.shape:
        raise UsageError(
            f"image: an array must have the shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], not {list(array.shape)}"
        )


def _reason(format: str, error: Exception) -> str:
    """Return why a file cannot be decoded: what the decoder does not know is not the file's damage."""
    text = " ".join(str(error).split()) or type(error).__name__
    if _UNKNOWN.search(text):
        return f"is a {format} of a kind that skipae does not read ({text}): convert it to a PNG or TIFF first"
    return f"is damaged and cannot be decoded as {format}: {text}"


def _open(file: IO[bytes], max_pixels: int) -> OpenedImage:
    head = file.read(64)
    if not head:
        raise ImageError("is empty (zero bytes)")
    format = sniff(head)
    if format is None:
        what = ": it is text" if head.isascii() and b"\0" not in head else ""
        raise ImageError(f"is not a supported image ({', '.join(FORMATS)}){what}")
    try:
        opened = FORMATS[format].read(file)
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything for damaged headers
        raise ImageError(_reason(format, error)) from error
    width, height = opened.size
    pixels = width * height
    counted = pixels * max(opened.samples, _PIXEL_SAMPLES) // _PIXEL_SAMPLES  # by the memory that they take
    if counted > max_pixels:
        of = f" of {opened.samples} samples, which count as {counted}" if counted > pixels else ""
        raise ImageError(
            f"has {width} x {height} = {pixels} pixels{of}, more than {{max_pixels!s}}; "
            f"use a larger {{max_pixels:name}} if you trust the file",
            max_pixels=max_pixels,
        )
    return OpenedImage(file, format, opened)
