"""PPM: comments are kept, further pictures are named, and color of 16 bits is refused, which Pillow would reduce."""

from __future__ import annotations

import io
import re
from typing import IO, TYPE_CHECKING, BinaryIO

from skipae.errors import ImageError
from skipae.images import pillow
from skipae.images.metadata import Loss, Metadata

if TYPE_CHECKING:
    from PIL import Image

_HEAD = 4096  # bytes that hold all numbers and comments
_MAGIC_END = 3
_PLAIN = (b"P1", b"P2", b"P3")
"""Kinds whose numbers are text."""
_COMMENT = re.compile(rb"#[^\r\n]*[\r\n]?")
_CHANNELS = {b"P4": 1, b"P5": 1, b"P6": 3}


def read(file: IO[bytes]) -> pillow.Opened:
    """Open a PPM; errors: see :func:`inspect`."""
    found = inspect(file)
    file.seek(0)
    if file.read(2) in _PLAIN:  # where Pillow takes comments out one by one, and copies what follows each time
        file.seek(0)
        file = io.BytesIO(_COMMENT.sub(b"", file.read()))
    return pillow.reader("PPM", lambda _: found)(file)


def inspect(file: IO[bytes]) -> Metadata:
    """Return comments, and how many pictures follow each other.

    Raises:
        ImageError: it has more than 8 bits per color.
    """
    file.seek(0)
    head = file.read(_HEAD)
    found = Metadata("PPM")
    numbers, comments, end = _header(head)
    if head[:2] in (b"P3", b"P6") and len(numbers) > 2 and numbers[2] > 255:
        raise ImageError("has 16 bits per color, of which 8 would be lost: convert it to a PNG of 16 bits first")
    found.comments = comments
    length = _length(head[:2], numbers)
    if length:
        file.seek(end + length)
        rest, at = file.read(), 0
        count = 1
        while rest.startswith(head[:2], at):
            numbers, _, end = _header(rest[at : at + _HEAD])
            length = _length(head[:2], numbers)
            if not length or len(rest) < at + end + length:
                break
            at += end + length
            count += 1
        if count > 1:
            pillow.note_pictures(count, found)
        pillow.note_trailer(rest[at:], found)
    return found


def write(file: BinaryIO, image: Image.Image, metadata: Metadata, quality: pillow.Quality | None) -> list[Loss]:
    """Write a PPM, PGM or PBM."""
    lines = b"\n".join(metadata.comments).replace(b"\r", b"\n").split(b"\n") if metadata.comments else []
    comments = b"".join(b"#" + line + b"\n" for line in lines)
    pillow.save(file, image, "PPM", pillow.common_arguments(metadata), (_MAGIC_END, comments))
    return []


def _header(data: bytes) -> tuple[list[int], list[bytes], int]:
    """Return the width, height and white (not of P4 and P1); comments; and where the pixels begin."""
    numbers: list[int] = []
    comments: list[bytes] = []
    at = 2
    while len(numbers) < (2 if data[:2] in (b"P1", b"P4") else 3):
        item = re.compile(rb"\s*(?:#([^\r\n]*)[\r\n]|(\d{1,9})(?=[\s#]))").match(data, at)
        if item is None:
            return [], comments, at
        if item[2] is None:
            comments.append(item[1])
        else:
            numbers.append(int(item[2]))
        at = item.end()
    return numbers, comments, at + 1


def _length(magic: bytes, numbers: list[int]) -> int:
    """Return bytes of the pixels; 0 where they are text, or where there is no header."""
    if magic not in _CHANNELS or not numbers:
        return 0
    if magic == b"P4":
        return (numbers[0] + 7) // 8 * numbers[1]
    return numbers[0] * numbers[1] * _CHANNELS[magic] * (1 + (numbers[2] > 255))
