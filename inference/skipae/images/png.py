"""PNG: 16 bits per color, and the chunks and texts that Pillow drops."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from skipae.images import pillow
from skipae.images.extra import require_16bit
from skipae.images.metadata import Loss, Metadata
from skipae.images.raster import Raster, from_channels, from_image, upright

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from PIL.ImageFile import ImageFile

_LIGHT = (b"cICP", b"cHRM", b"gAMA", b"sRGB")
_XMP = "XML:com.adobe.xmp"


@dataclass
class _Header:
    depth: int = 8
    """Bits per channel."""
    is_gray: bool = True
    """Whether it is gray without a transparent color, which Pillow keeps in 16 bits."""
    light: list[tuple[bytes, bytes]] = field(default_factory=list)


def read(file: IO[bytes]) -> pillow.Opened:
    """Open a PNG."""
    header = _header(file)
    deep = header.depth == 16 and not header.is_gray
    if deep:
        require_16bit()
    found = Metadata("PNG", png_chunks=header.light)
    image = pillow.open_header(file, "PNG")

    def finish(image: ImageFile, metadata: Metadata, notes: list[str]) -> None:
        gray = image.info.get("transparency")
        if header.depth < 8 and image.mode == "L" and isinstance(gray, int):
            image.info["transparency"] = gray * 255 // ((1 << header.depth) - 1)  # Pillow scales the pixels alone
        texts: dict[str, Any] = getattr(image, "text", {})
        skip = {_XMP, "Raw profile type exif"}
        metadata.png_text = {key: str(text) for key, text in texts.items() if key not in skip}

    def decode(notes: list[str]) -> tuple[Raster, Metadata]:
        with closing(image):
            pillow.note_frames(image, notes)
            turn = pillow.load(image, found, notes, finish)
            if not deep:
                return from_image(image, "PNG", notes), found
            if "transparency" in image.info:
                notes.append("the transparent colour becomes an alpha channel")
            file.seek(0)
            data = file.read()
        pixels = _decode_16bit(data)
        kind = "rgb" if pixels.shape[2] > 2 else "gray"
        return from_channels(upright(pixels, turn), kind, pixels.shape[2] in (2, 4)), found  # type: ignore[arg-type]

    return pillow.Opened(image.size, decode)


def write(file: BinaryIO, image: Image.Image, metadata: Metadata, quality: pillow.Quality | None) -> list[Loss]:
    """Write a PNG of 8 bits, or of gray of 16."""
    arguments = pillow.common_arguments(metadata)
    xmp = arguments.pop("xmp", None)
    pillow.save(file, image, "PNG", arguments | {"pnginfo": _info(metadata, xmp)})
    return []


def write_16bit(file: BinaryIO, raster: Raster, metadata: Metadata) -> list[Loss]:
    """Write a PNG of 16 bits per color."""
    from PIL import Image

    pixels = raster.take_channels()
    like = io.BytesIO()
    write(like, Image.new("RGB", (1, 1)), metadata, None)
    file.write(encode_16bit(pixels, like.getvalue()))
    return []


def encode_16bit(pixels: NDArray[Any], like: bytes) -> bytes:
    """A PNG of these pixels, uint16 [H, W, C], with all other chunks of the PNG ``like``."""
    import imagecodecs

    ours = list(_chunks(bytes(imagecodecs.png_encode(pixels))))
    rest = [chunk for kind, chunk in _chunks(like) if kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND")]
    before = [chunk for kind, chunk in ours if kind == b"IHDR"]
    return b"".join([like[:8], *before, *rest, *(chunk for kind, chunk in ours if kind in (b"IDAT", b"IEND"))])


def _decode_16bit(data: bytes) -> NDArray[Any]:
    """The pixels of a PNG, uint16 [H, W, C]; a transparent color becomes alpha."""
    import imagecodecs

    # The other chunks are read by Pillow; the decoder would report damaged ones on standard error.
    chunks = (chunk for kind, chunk in _chunks(data) if kind in (b"IHDR", b"tRNS", b"IDAT", b"IEND"))
    pixels: NDArray[Any] = imagecodecs.png_decode(b"".join([data[:8], *chunks]))
    return pixels


def _header(file: IO[bytes]) -> _Header:
    found = _Header()
    file.seek(8)
    while len(header := file.read(8)) == 8 and header[4:] != b"IDAT":
        length = int.from_bytes(header[:4], "big")
        data = file.read(length) if length < 1024 else b""
        if header[4:] == b"IHDR":
            found.depth, found.is_gray = data[8], data[9] == 0
        elif header[4:] in _LIGHT:
            found.light.append((header[4:], data))
        elif header[4:] == b"tRNS" and found.depth == 16:
            found.is_gray = False
        file.seek(4 if data else length + 4, os.SEEK_CUR)
    return found


def _info(metadata: Metadata, xmp: bytes | None) -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for kind, data in metadata.png_chunks:
        info.add(kind, data)
    for key, text in metadata.png_text.items():
        info.add_itxt(key, text)
    if xmp is not None:
        info.add_itxt(_XMP, xmp.decode(errors="replace"))
    return info


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each chunk's kind, and the whole of it."""
    place = 8
    while place < len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        yield kind, png[place : place + 12 + length]
        place += 12 + length
