"""What Pillow cannot do of PNG and TIFF: 16 bits per colour, and a compressed TIFF that has EXIF data.

Reading needs imagecodecs and tifffile, the extra ``deep``.  Arrays are [H, W] or [H, W, C], whose channels are grey,
grey and alpha, RGB, RGB and alpha, or the four inks of CMYK.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from skipae.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from PIL import Image

Kind = Literal["grey", "rgb", "cmyk"]

CHANNELS: dict[Kind, int] = {"grey": 1, "rgb": 3, "cmyk": 4}
"""Channels without alpha."""

_STRIP_BYTES = 1 << 20


def require() -> None:
    """Refuse a file of 16 bits per colour, with the line to type, where the extra is not installed."""
    if find_spec("imagecodecs") is None or find_spec("tifffile") is None:
        raise ImageError(
            "has 16 bits per colour, of which 8 would be lost: to keep them, type: pip install 'skipae[deep]'"
        )


def read_png(data: bytes) -> NDArray[Any]:
    """The pixels of a PNG, uint16; a transparent colour becomes alpha."""
    import imagecodecs

    # The other chunks are read by Pillow; the decoder would talk about damaged ones on standard error.
    chunks = (chunk for kind, chunk in _chunks(data) if kind in (b"IHDR", b"tRNS", b"IDAT", b"IEND"))
    pixels: NDArray[Any] = imagecodecs.png_decode(b"".join([data[:8], *chunks]))
    return pixels


def read_tiff(data: bytes, shape: tuple[int, int, int]) -> tuple[NDArray[Any], Kind, bool, list[str]]:
    """The first page of a TIFF of 16 bits per channel: pixels, kind, whether alpha follows its colours, and notes.

    Raises:
        ValueError: its width, height and samples per pixel are not ``shape``, or it is damaged.
    """
    import tifffile

    notes = []
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if len(file.pages) > 1:
            notes.append(f"only the first of {len(file.pages)} pictures is kept")
        page = file.pages.first
        if (page.imagewidth, page.imagelength, page.samplesperpixel) != shape or page.imagedepth != 1:
            raise ValueError("its tags contradict each other")
        kind: Kind = {5: "cmyk", 2: "rgb"}.get(page.photometric, "grey")  # type: ignore[assignment]
        if len(page.dataoffsets) < math.prod(page.chunked):
            raise ValueError("strips are missing")  # which tifffile would make zeros of
        pixels = page.asarray()
        if page.planarconfig == 2 and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
        pixels = pixels.reshape(page.imagelength, page.imagewidth, -1)
        if page.photometric == 0:
            pixels[..., 0] ^= 0xFFFF  # of which 0 is white
        extras = tuple(page.extrasamples)
    channels = CHANNELS[kind]
    if pixels.shape[2] < channels:
        raise ValueError(f"{pixels.shape[2]} channels are too few")
    alpha = kind != "cmyk" and pixels.shape[2] > channels and extras[:1] in ((1,), (2,))
    if pixels.shape[2] > channels + alpha:
        notes.append(f"only the first {channels + alpha} of {pixels.shape[2]} channels are kept")
    if alpha and extras[0] == 1:
        notes.append("colours that were multiplied by alpha are divided by it")
        for row in pixels:
            opaque = np.maximum(row[:, channels : channels + 1], 1)
            row[:, :channels] = np.minimum(np.rint(row[:, :channels] * (65535 / opaque)), 65535)
    return pixels[..., : channels + alpha], kind, alpha, notes


def encode_png(pixels: NDArray[Any], like: bytes) -> bytes:
    """A PNG with these pixels, uint16, and what else the PNG ``like`` says."""
    import imagecodecs

    ours = list(_chunks(bytes(imagecodecs.png_encode(pixels))))
    rest = [chunk for kind, chunk in _chunks(like) if kind not in (b"IHDR", b"PLTE", b"IDAT", b"IEND")]
    before = [chunk for kind, chunk in ours if kind == b"IHDR"]
    return b"".join([like[:8], *before, *rest, *(chunk for kind, chunk in ours if kind in (b"IDAT", b"IEND"))])


def write_tiff(
    file: BinaryIO,
    pixels: NDArray[Any],
    kind: Kind,
    *,
    tags: Image.Exif,
    icc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> None:
    """Write a TIFF, compressed without loss.

    Args:
        file: where to, at its beginning.
        pixels: uint8 or uint16, with or without alpha.
        kind: what its channels are.
        tags: more to say, EXIF and GPS data too.
        icc: the colour profile.
        dpi: pixels per inch.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2
    from PIL.TiffTags import TAGS_V2_GROUPS

    height, width = pixels.shape[:2]
    pixels = pixels.reshape(height, width, -1)
    channels, bits = pixels.shape[2], 8 * pixels.itemsize
    rows = max(1, _STRIP_BYTES // (width * channels * pixels.itemsize))
    strips = []
    for top in range(0, height, rows):
        strip = pixels[top : top + rows].astype(pixels.dtype.newbyteorder("<"))  # a copy
        strip[:, 1:] -= pixels[top : top + rows, :-1]  # modulo: what the format calls a predictor
        strips.append(zlib.compress(strip.tobytes()))
    lengths = [len(strip) for strip in strips]
    directory = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    for tag in tags:
        directory[tag] = tags.get_ifd(tag) if tag in TAGS_V2_GROUPS else tags[tag]
    directory[256], directory[257], directory[258] = width, height, (bits,) * channels
    directory[259], directory[262], directory[317] = 8, {"grey": 1, "rgb": 2, "cmyk": 5}[kind], 2
    directory[277], directory[278] = channels, rows
    # Pillow adds where the pixels begin.
    directory[273], directory[279] = tuple(np.cumsum([0, *lengths[:-1]]).tolist()), tuple(lengths)
    if channels > CHANNELS[kind]:
        directory[338] = 2
    if dpi is not None:
        directory[282], directory[283], directory[296] = dpi[0], dpi[1], 2
    if icc is not None:
        directory[34675] = icc
    directory.save(file)
    file.writelines(strips)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each chunk's kind, and the whole of it."""
    place = 8
    while place < len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        yield kind, png[place : place + 12 + length]
        place += 12 + length
