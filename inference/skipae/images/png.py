"""PNG: 16 bits per color, and the chunks that Pillow drops or refuses."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from skipae.errors import ImageError
from skipae.images import exif, pillow
from skipae.images.extra import require, require_16bit
from skipae.images.metadata import OF_PIXELS, OLD_PIXELS, Loss, Metadata, resolution
from skipae.images.raster import Raster, from_channels, from_image, upright

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from PIL.ImageFile import ImageFile

_XMP = b"XML:com.adobe.xmp"
_RAW_EXIF = b"Raw profile type exif"
_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_CARRIED = (b"cICP", b"cHRM", b"gAMA", b"sRGB", b"mDCV", b"cLLI", b"tIME", b"pCAL", b"sCAL", b"oFFs", b"sTER", b"sBIT")
"""Chunks that stay, although they are not marked as safe to copy."""
_HINTS = (b"iDOT",)
"""Chunks that help to decode the very file."""
_MOST_METADATA = 256 << 20  # bytes of all chunks but the pixels
_MOST_INFLATED = 64 << 20  # bytes of all that is compressed but the pixels: profile, XMP and EXIF data
_HEADER_END = 33  # of signature and IHDR


@dataclass
class _Layout:
    """What there is in a PNG, and where."""

    depth: int = 8
    """Bits per channel."""
    color: int = 0
    """0 gray, 2 RGB, 3 palette, 4 and 6 with alpha."""
    has_clear_color: bool = False
    chunks: list[tuple[bytes, bytes]] = field(default_factory=list)
    """All but those that the decoder needs."""
    needed: list[tuple[int, int]] = field(default_factory=list)
    """Beginnings and ends of the chunks that the decoder needs."""
    damaged: list[bytes] = field(default_factory=list)
    frames: int = 1
    """Pictures of an animation, with the one that is shown instead of it."""
    end: int = 0
    """Offset at which the last chunk ends; 0 where it is not there."""
    left: int = _MOST_INFLATED
    """Bytes that metadata may still grow to."""

    @property
    def is_deep(self) -> bool:
        """True if Pillow would truncate the pixels."""
        return self.depth == 16 and (self.color != 0 or self.has_clear_color)

    @property
    def keeps_kind(self) -> bool:
        """True if a PNG that is written has the same kind of pixels."""
        return self.color != 3 and self.depth >= 8 and not self.has_clear_color


def read(file: IO[bytes]) -> pillow.Opened:
    """Open a PNG.

    Raises:
        ImageError: it is of a kind that no decoder here knows, or of 16 bits without the extra.
    """
    layout = _layout(file)
    if layout.is_deep:
        require_16bit()
    view = io.BufferedReader(pillow.Ranges(file, [(0, 8), *layout.needed]))
    image = pillow.open_header(view, "PNG")

    def finish(image: ImageFile, metadata: Metadata, notes: list[str]) -> None:
        gray = image.info.get("transparency")
        if layout.depth < 8 and image.mode == "L" and isinstance(gray, int):
            image.info["transparency"] = gray * 255 // ((1 << layout.depth) - 1)  # Pillow scales the pixels alone

    def decode(notes: list[str]) -> tuple[Raster, Metadata]:
        metadata = Metadata("PNG")
        with closing(image):
            _check_pixels(file, layout)
            _take_chunks(layout, metadata)
            if layout.frames > 1:
                pillow.note_pictures(layout.frames, metadata)
            if layout.end:
                file.seek(layout.end)
                pillow.note_trailer(file.read(), metadata)
            else:
                notes.append("the end of the file is missing; all pixels are there")
            turn = pillow.load(image, metadata, notes, finish)
            if turn in (5, 6, 7, 8):
                metadata.png_chunks = [(k, _turned_aspect(d) if k == b"pHYs" else d) for k, d in metadata.png_chunks]
            if not layout.is_deep:
                return from_image(image, "PNG", notes), metadata
            if layout.has_clear_color:
                notes.append("the transparent color becomes an alpha channel")
            view.seek(0)
            pixels = _decode_16bit(view.read(), layout)
        kind = "rgb" if pixels.shape[2] > 2 else "gray"
        return from_channels(upright(pixels, turn), kind, pixels.shape[2] in (2, 4)), metadata  # type: ignore[arg-type]

    return pillow.Opened(image.size, decode)


def write(file: BinaryIO, image: Image.Image, metadata: Metadata, quality: pillow.Quality | None) -> list[Loss]:
    """Write a PNG of 8 bits, or of gray of 16."""
    arguments = pillow.common_arguments(metadata)
    chunks = metadata.png_chunks + metadata.png_text
    xmp = arguments.pop("xmp", None)
    if xmp is not None:
        chunks = [*chunks, (b"iTXt", _XMP + bytes(5) + xmp)]
    pillow.save(file, image, "PNG", arguments, (_HEADER_END, b"".join(_chunk(*chunk) for chunk in chunks)))
    return []


def write_16bit(file: BinaryIO, raster: Raster, metadata: Metadata, quality: pillow.Quality | None) -> list[Loss]:
    """Write a PNG of 16 bits per color."""
    require("16bit", "cannot be written as a PNG of 16 bits per color: to do so")
    from PIL import Image

    pixels = raster.take_channels()
    like = io.BytesIO()
    write(like, Image.new("RGB", (1, 1)), metadata, None)
    file.write(encode_16bit(pixels, like.getvalue()))
    return []


def encode_16bit(pixels: NDArray[Any], like: bytes) -> bytes:
    """Return a PNG of these pixels, uint16 [H, W, C], with all other chunks of the PNG ``like``."""
    import imagecodecs

    ours = list(_chunks(bytes(imagecodecs.png_encode(pixels))))
    rest = [chunk for kind, chunk in _chunks(like) if kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND")]
    before = [chunk for kind, chunk in ours if kind == b"IHDR"]
    return b"".join([like[:8], *before, *rest, *(chunk for kind, chunk in ours if kind in (b"IDAT", b"IEND"))])


def _decode_16bit(data: bytes, layout: _Layout) -> NDArray[Any]:
    """Return the pixels of a PNG, uint16 [H, W, C]; a transparent color becomes alpha."""
    import imagecodecs

    pillow.quiet_log("imagecodecs")
    # Without chunks that do not suit the pixels.
    kinds = (b"IHDR", b"IDAT", b"IEND") + ((b"tRNS",) if layout.has_clear_color else ())
    chunks = (chunk for kind, chunk in _chunks(data) if kind in kinds)
    pixels: NDArray[Any] = imagecodecs.png_decode(b"".join([data[:8], *chunks]))
    return pixels


def _layout(file: IO[bytes]) -> _Layout:
    """Return all chunks; from where there is none, the rest is left to the decoder.

    Raises:
        ImageError: a chunk is needed that no decoder here knows.
    """
    found = _Layout()
    place, taken, begun = 8, 0, False
    while True:
        file.seek(place)
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        end = place + 12 + length
        if len(head) < 8 or not kind.isalpha():
            size = file.seek(0, io.SEEK_END)
            if place < size:
                found.needed.append((place, size))
            return found
        if kind in _NEEDED:
            found.needed.append((place, end))
            begun |= kind == b"IDAT"
        if kind == b"IHDR":
            header = file.read(13)
            if len(header) == 13:
                found.depth, found.color = header[8], header[9]
                if header[10] or header[11] or header[12] > 1:
                    raise ValueError("its compression, filters or interlacing are of a kind that no PNG has")
        elif kind == b"tRNS":
            found.has_clear_color = found.color in (0, 2, 3) and not begun
        elif kind == b"IEND":
            found.end = end
            return found
        elif kind in (b"acTL", b"fcTL"):
            found.frames += int.from_bytes(file.read(4), "big") if kind == b"acTL" else -(not begun)
        elif kind[:1].isupper() and kind not in _NEEDED:
            raise ImageError(f"has a chunk {kind.decode()}, without which it cannot be decoded and which is not known")
        elif kind not in _NEEDED + _ANIMATION:
            taken += length
            data = file.read(length) if taken <= _MOST_METADATA else b""
            crc = file.read(4)
            if len(data) == length and crc == struct.pack(">I", zlib.crc32(kind + data)):
                found.chunks.append((kind, data))
            else:
                found.damaged.append(kind)
        place = end


def _check_pixels(file: IO[bytes], layout: _Layout) -> None:
    """Compare the pixels' checksums, which Pillow does not."""
    for begin, end in layout.needed:
        file.seek(begin + 4)
        data = file.read(end - begin - 4)
        whole = len(data) == end - begin - 4
        if whole and data[:4] == b"IDAT" and zlib.crc32(memoryview(data)[:-4]) != int.from_bytes(data[-4:], "big"):
            raise ValueError("a chunk of pixels has another checksum than the file says")


def _take_chunks(layout: _Layout, metadata: Metadata) -> None:
    """Put what chunks say into the metadata."""
    gone: list[bytes] = []
    for kind, data in layout.chunks:
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            _take_text(kind, data, layout, metadata)
        elif kind == b"iCCP":
            metadata.icc = _profile(data, layout, metadata)
        elif kind == b"eXIf":
            metadata.exif = exif.complete(data)
        elif kind == b"pHYs" and data[8:] == b"\1":
            metadata.dpi = resolution(tuple(value * 0.0254 for value in struct.unpack(">2I", data[:8])))
        elif kind == b"pHYs":
            if data[:4] != data[4:8]:  # pixels that are not square
                metadata.png_chunks.append((kind, data))
        elif kind == b"caBX":
            metadata.left_out.append(pillow.content_credentials())
        elif kind in OF_PIXELS and not layout.keeps_kind:
            gone.append(kind)
        elif kind in _CARRIED or kind in OF_PIXELS or kind[3:].islower():  # which says that it is safe to copy
            metadata.png_chunks.append((kind, data))
        elif kind not in _HINTS:
            gone.append(kind)
    metadata.leave_out(OLD_PIXELS, gone)
    metadata.leave_out("chunks of a PNG that are damaged or too large", layout.damaged)


def _take_text(kind: bytes, data: bytes, layout: _Layout, metadata: Metadata) -> None:
    key, _, text = data.partition(b"\0")
    if key == _XMP and kind == b"iTXt" and metadata.xmp is None:
        metadata.xmp = _international(text, layout)
        if metadata.xmp is None:
            metadata.left_out.append(Loss("xmp", "XMP data is damaged and is left out"))
        return
    if key == _RAW_EXIF and metadata.exif is None:
        with suppress(ValueError):
            plain = text if kind == b"tEXt" else _inflated(text[1:], layout)
            lines = plain.split(b"\n", 3)  # an empty one, "exif", the length, and the data
            metadata.exif = exif.complete(bytes.fromhex(lines[3].decode("latin-1")) if len(lines) > 3 else b"")
            return
    metadata.png_text.append((kind, data))


def _international(text: bytes, layout: _Layout) -> bytes | None:
    """Return the text of an ``iTXt`` chunk after its key; None where it is damaged."""
    parts = text[2:].split(b"\0", 2)  # language, translated key
    if len(parts) < 3:
        return None
    try:
        return _inflated(parts[2], layout) if text[:1] == b"\1" else parts[2]
    except ValueError:
        return None


def _profile(data: bytes, layout: _Layout, metadata: Metadata) -> bytes | None:
    try:
        return _inflated(data.partition(b"\0")[2][1:], layout)
    except ValueError as error:
        metadata.left_out.append(Loss("icc", f"the color profile {error} and is left out"))
        return None


def _inflated(data: bytes, layout: _Layout) -> bytes:
    """Return decompressed data; :class:`ValueError` where it is damaged, or too much with what came before."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, max(1, layout.left))
    except zlib.error:
        raise ValueError("is damaged") from None
    layout.left -= len(found)
    if not stream.eof:
        raise ValueError(f"is larger than {_MOST_INFLATED >> 20} MB" if stream.unconsumed_tail else "is damaged")
    return found


def _turned_aspect(data: bytes) -> bytes:
    return data[4:8] + data[:4] + data[8:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each chunk's kind, and the whole of it."""
    place = 8
    while place < len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        yield kind, png[place : place + 12 + length]
        place += 12 + length
