"""What all formats have in common: read and written by Pillow, with metadata upright and complete."""

from __future__ import annotations

import io
import logging
from bisect import bisect_right
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal

from skipae.images import exif
from skipae.images.metadata import Loss, Metadata, resolution
from skipae.images.raster import Raster, from_image

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

QUALITY = 95
"""Quality of JPEG, WebP and AVIF output unless another is asked for."""

Quality = int | Literal["keep"]
"""Quality of lossy output: 1 to 100, or ``keep`` for a JPEG input's quantization tables in JPEG output."""


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
    """Return a function that opens files of a format.

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
                note_frames(image, found)
                load(image, found, notes, finish)
                return from_image(image, format, notes), found

        return Opened(image.size, decode)

    return read


def open_header(file: IO[bytes], format: str) -> ImageFile:
    """Return Pillow's image of a file, not decoded yet."""
    # Not Image.open: its limit of pixels is one global variable, and it loads every plugin there is.
    from importlib import import_module

    from PIL import Image

    quiet_log("PIL")
    plugins = {"WEBP": "WebP"}
    import_module(f"PIL.{plugins.get(format, format.capitalize())}ImagePlugin")
    factory: Callable[[IO[bytes], str], ImageFile] = Image.OPEN[format][0]
    file.seek(0)
    return factory(file, "")


def quiet_log(name: str) -> None:
    """Keep a library's remarks on damaged files from standard error, where nobody asked for its log."""
    log = logging.getLogger(name)
    if not log.handlers:
        log.addHandler(logging.NullHandler())


def note_frames(image: ImageFile, metadata: Metadata) -> None:
    """Say that further pictures are left out."""
    if getattr(image, "is_animated", False):
        note_pictures(getattr(image, "n_frames", "several"), metadata)


def note_pictures(count: int | str, metadata: Metadata) -> None:
    """Say that of so many pictures all but one are left out."""
    metadata.left_out.append(Loss("pictures", f"only the first of {count} pictures is kept"))


def note_trailer(data: bytes, metadata: Metadata) -> None:
    """Say that what follows the picture in its file is left out, unless it is padding."""
    if not data.strip(b"\0\xff\t\n\r "):
        return
    video = b"ftyp" in data[: 1 << 16] or b"moov" in data[-(1 << 16) :]
    what = "a video" if video else f"{len(data)} bytes"
    metadata.left_out.append(Loss("trailer", f"{what} after the picture {'is' if video else 'are'} left out"))


def content_credentials() -> Loss:
    """Return the loss of a file whose pixels were signed."""
    return Loss("c2pa", "content credentials (C2PA) are left out: their signature no longer holds")


def load(
    image: ImageFile,
    metadata: Metadata,
    notes: list[str],
    finish: Callable[[ImageFile, Metadata, list[str]], None] | None = None,
    turn: int | None = None,
) -> int:
    """Decode an image, turn it upright and complete the metadata; the EXIF orientation it had.

    ``metadata`` keeps what the reader of its format found; ``turn`` is the orientation where the format itself says it.
    """
    size = image.size
    image.load()
    info = image.info
    take_info(image, metadata)
    if metadata.exif is None:
        metadata.exif = exif.complete(info.get("exif"))
    if metadata.dpi is None:
        metadata.dpi = resolution(info.get("dpi"))
    turn = metadata.upright(notes, size, turn)
    method = exif.method(turn)
    if method is not None:
        image.im = image.im.transpose(method)
        image._size = image.im.size
    if finish is not None:
        finish(image, metadata, notes)
    metadata.correct_xmp()
    return turn


def take_info(image: ImageFile, metadata: Metadata) -> None:
    """Profile, XMP and comment as Pillow gives them, where the reader of the format found none."""
    info = image.info
    xmp = info.get("xmp")
    metadata.icc = metadata.icc or info.get("icc_profile") or None
    metadata.xmp = metadata.xmp or (xmp.encode() if isinstance(xmp, str) else xmp) or None
    if isinstance(info.get("comment"), bytes) and not metadata.comments:
        metadata.comments = [info["comment"]]


def writer(
    format: str, arguments: Callable[[Image.Image, Metadata, Quality | None], dict[str, Any]] | None = None
) -> Callable[[BinaryIO, Image.Image, Metadata, Quality | None], list[Loss]]:
    """Return a function that writes files of a format.

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
    """Return a quality from 1 to 100; the default for ``keep``, where there is nothing to keep."""
    return quality if isinstance(quality, int) else QUALITY


def common_arguments(metadata: Metadata) -> dict[str, Any]:
    """Return the arguments of ``Image.save`` that most formats understand."""
    values = {"icc_profile": metadata.icc, "exif": metadata.exif, "xmp": metadata.xmp, "dpi": metadata.dpi}
    return {key: value for key, value in values.items() if value is not None}


def save(
    file: BinaryIO,
    image: Image.Image,
    format: str,
    arguments: dict[str, Any],
    insert: tuple[int, bytes] = (0, b""),
) -> None:
    """Encode an image; ``insert`` are bytes that the encoder cannot write, and how many of its own precede them."""
    image.info.clear()  # Pillow would take some of it up again
    image.save(_Plain(file, *insert), format=format, **arguments)  # type: ignore[arg-type]


class Ranges(io.RawIOBase):
    """A file that consists of parts of another, so that a library does not see the rest."""

    def __init__(self, file: IO[bytes], ranges: list[tuple[int, int]]) -> None:
        """Join ``ranges``, beginnings and ends in ``file``, in order."""
        self._file = file
        self._ranges = ranges
        self._starts = [0]
        for begin, end in ranges:
            self._starts.append(self._starts[-1] + end - begin)
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in this file."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move, as in every file."""
        self._at = max(0, offset + {0: 0, 1: self._at, 2: self._starts[-1]}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, at most to the end of a part."""
        k = bisect_right(self._starts, self._at) - 1
        if k >= len(self._ranges):
            return 0
        begin, end = self._ranges[k]
        self._file.seek(begin + self._at - self._starts[k])
        data = self._file.read(min(len(buffer), end - begin - (self._at - self._starts[k])))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Plain:
    """A file without ``fileno``: Pillow then writes through Python, whose errors say what happened."""

    def __init__(self, file: BinaryIO, before: int, inserted: bytes) -> None:
        self._before = before
        self._inserted = inserted
        self._write = file.write
        self.seek = file.seek
        self.tell = file.tell
        self.flush = file.flush
        self.read = file.read
        if not inserted:
            self.write = file.write  # type: ignore[method-assign, assignment]

    def write(self, data: bytes) -> int:
        """Write, and what is inserted where its place comes."""
        if not self._inserted:
            return self._write(data)
        first = data[: self._before]
        self._write(first)
        self._before -= len(first)
        if not self._before:
            self._write(self._inserted)
            self._inserted = b""
            self._write(data[len(first) :])
        return len(data)
