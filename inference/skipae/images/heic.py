"""HEIC: read and written by pillow-heif, which turns the picture upright; 10 and 12 bits are kept as 16."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, BinaryIO

from skipae.errors import ImageError
from skipae.images import exif, extra, heif, pillow
from skipae.images.metadata import Loss, Metadata
from skipae.images.pillow import Quality, number
from skipae.images.raster import Kind, Raster, from_channels, from_image

if TYPE_CHECKING:
    from PIL import Image

BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
"""Brands of HEIC in the first box of a file."""

WRITTEN_BITS = 10
"""Bits per color of what is written from 16, which is what other programs read."""

_KINDS: dict[str, tuple[Kind, bool]] = {
    "I;16": ("gray", False),
    "LA;16": ("gray", True),
    "RGB;16": ("rgb", False),
    "RGBA;16": ("rgb", True),
}
"""Kind, and whether there is alpha, of pillow-heif's modes of more than 8 bits."""
_DEEP_MODES = {1: "I;16", 2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}


def read(file: IO[bytes]) -> pillow.Opened:
    """Open a HEIC.

    Raises:
        ImageError: the extra is not installed, or the file has no still picture.
    """
    extra.require("heic", "is a HEIC: to read it")
    import pillow_heif

    kinds = heif.top_level(file)
    if b"moov" in kinds and b"meta" not in kinds:
        raise ImageError("is a sequence without a still picture, which skipae does not read: convert it first")
    found = Metadata("HEIC")
    file.seek(0)
    pictures = pillow_heif.open_heif(file, convert_hdr_to_8bit=False)
    picture: Any = pictures[pictures.primary_index]

    def decode(notes: list[str]) -> tuple[Raster, Metadata]:
        info = picture.info
        chroma = str(info.get("chroma", ""))
        found.subsampling = ":".join(chroma) or None
        found.bits = info["bit_depth"]
        found.icc = info.get("icc_profile") or None
        found.exif = exif.complete(info["exif"])
        found.xmp = info.get("xmp") or None
        heif.take_colors(file, found)
        heif.note_rest(file, found, applied=(b"clap",))
        raster = _raster(picture, notes)
        turn = heif.orientation(file)
        found.upright(notes, raster.size[::-1] if turn > 4 else raster.size, turn)
        found.correct_xmp()
        return raster, found

    return pillow.Opened(picture.size, decode)


def write(file: BinaryIO, image: Image.Image, metadata: Metadata, quality: Quality | None) -> list[Loss]:
    """Write a HEIC of 8 bits, or of gray of 10."""
    return _write(file, image.mode, image.size, image.tobytes(), metadata, quality)


def write_16bit(file: BinaryIO, raster: Raster, metadata: Metadata, quality: Quality | None) -> list[Loss]:
    """Write a HEIC of 10 bits per color."""
    size = raster.size
    pixels = raster.take_channels()
    return _write(file, _DEEP_MODES[pixels.shape[2]], size, pixels.astype("<u2").tobytes(), metadata, quality)


def _raster(picture: Any, notes: list[str]) -> Raster:
    """Return the pixels as they are shown."""
    import numpy as np

    if picture.info["bit_depth"] <= 8:
        return from_image(picture.to_pillow(), "HEIC", notes)
    if picture.mode not in _KINDS:
        raise ImageError(f"holds pixels that skipae does not read ({picture.mode}): convert it first")
    pixels = np.array(picture)  # a copy, with the bits at the upper end
    pixels |= pixels >> picture.info["bit_depth"]  # so that white is 65535
    return from_channels(pixels.reshape(*pixels.shape[:2], -1), *_KINDS[picture.mode])


def _write(
    file: BinaryIO, mode: str, size: tuple[int, int], pixels: bytes, metadata: Metadata, quality: Quality | None
) -> list[Loss]:
    extra.require("heic", "cannot be written as HEIC: to do so")
    import pillow_heif

    losses = []
    if mode.endswith(";16") and metadata.bits > WRITTEN_BITS:
        losses.append(Loss("16 bits", f"HEIC cannot hold {metadata.bits} bits here: reduced to {WRITTEN_BITS}"))
    arguments: dict[str, Any] = {
        "quality": number(quality),
        "subsampling": metadata.subsampling or "4:2:0",
        "enc_params": {"preset": "medium"},  # the default takes twice the time for the same quality and size
    }
    if metadata.icc is not None:
        arguments["icc_profile"] = metadata.icc
    if metadata.exif is not None:
        arguments["exif"] = metadata.exif
    if metadata.xmp is not None:
        arguments["xmp"] = metadata.xmp
    if metadata.light == "cICP":
        primaries, transfer = dict(metadata.png_chunks)[b"cICP"][:2]
        arguments |= {"color_primaries": primaries, "transfer_characteristics": transfer}
        arguments |= {"matrix_coefficients": 9 if primaries == 9 else 6, "full_range_flag": 1}
    elif metadata.light:
        losses.append(Loss("light", f"HEIC cannot hold {metadata.needs()['light']}"))
    pillow_heif.encode(mode, size, pixels, file, **arguments)
    return losses
