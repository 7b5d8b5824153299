"""TIFF: 16 bits per color, the tags that describe the picture, and compression beside EXIF data."""

from __future__ import annotations

import io
import math
import re
import zlib
from contextlib import closing
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from skipae.errors import ImageError
from skipae.images import pillow
from skipae.images.extra import require_16bit
from skipae.images.metadata import DAMAGED_EXIF, Loss, Metadata, resolution
from skipae.images.raster import CHANNELS, Kind, Raster, from_channels, from_image, to_array, upright

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from PIL.ImageFile import ImageFile

_TEXTS = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432)  # that describe the picture and not the file
_PLACES = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)  # on the map (GeoTIFF)
_IFDS = (34665, 34853)  # EXIF and GPS
_IPTC, _PHOTOSHOP, _INTEROPERABILITY = 33723, 34377, 40965
_LOSSLESS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma", "zstd")
_STRIP_BYTES = 1 << 20


def read(file: IO[bytes]) -> pillow.Opened:
    """Open a TIFF.

    Raises:
        ImageError: it holds a kind of pixels that would be truncated.
    """
    tags = _tags(file)
    samples = int(tags.get(277, 1))
    if _is_deep(tags):
        size = int(tags[256]), int(tags[257])
        return pillow.Opened(size, lambda notes: _decode_16bit(file, tags, (*size, samples), notes), samples)
    try:
        image = pillow.open_header(file, "TIFF")
    except SyntaxError as error:
        if str(error) == "unknown pixel mode":
            raise ImageError("holds a kind of pixels that skipae does not read: convert it to 8 or 16 bits") from None
        raise
    return pillow.Opened(image.size, lambda notes: _decode(image, notes), samples)


def write(file: BinaryIO, image: Image.Image, metadata: Metadata, quality: pillow.Quality | None) -> list[Loss]:
    """Write a TIFF of 8 bits, or of gray of 16."""
    tags, losses = _tags_of(metadata)
    if any(ifd in tags for ifd in _IFDS):
        # Pillow cannot compress a TIFF that has EXIF data.
        kinds: dict[str, Kind] = {"RGB": "rgb", "RGBA": "rgb", "CMYK": "cmyk"}
        _write(file, to_array(image, len(image.getbands())), kinds.get(image.mode, "gray"), tags, metadata)
        return losses
    arguments = pillow.common_arguments(metadata)
    for name in ("exif", "xmp"):  # among the tags
        arguments.pop(name, None)
    compression = metadata.compression
    if metadata.format != "TIFF" or compression not in _LOSSLESS:
        compression = "tiff_adobe_deflate"
    if compression != "raw":
        arguments["compression"] = compression
    pillow.save(file, image, "TIFF", arguments | {"tiffinfo": tags})
    return losses


def write_16bit(file: BinaryIO, raster: Raster, metadata: Metadata) -> list[Loss]:
    """Write a TIFF of 16 bits per color."""
    tags, losses = _tags_of(metadata)
    _write(file, raster.take_channels(), raster.kind, tags, metadata)
    return losses


def _tags(file: IO[bytes]) -> Image.Exif:
    """All tags of a TIFF's first page."""
    from PIL import Image

    tags = Image.Exif()
    file.seek(0)
    head = file.read(16)
    tags.endian = "<" if head[:1] == b"I" else ">"
    tags.bigtiff = 43 in head[2:4]
    first, size = (8, 8) if tags.bigtiff else (4, 4)
    tags.load_from_fp(file, int.from_bytes(head[first : first + size], "little" if tags.endian == "<" else "big"))
    return tags


def _is_deep(tags: Image.Exif) -> bool:
    """Whether Pillow would truncate it; refused where nothing can read it."""
    bits = tags.get(258, 1)
    bits = max(bits) if isinstance(bits, tuple) else bits
    kind = tags.get(339, 1)
    kind = max(kind) if isinstance(kind, tuple) else kind
    what = {2: "signed", 3: "floating-point"}.get(kind) or (f"{bits}-bit" if bits > 8 and bits != 16 else None)
    photometric = tags.get(262, 1)
    if bits > 8 and photometric not in (0, 1, 2, 5):
        what = what or "16-bit palette or Lab"
    if what is not None:
        raise ImageError(
            f"holds {what} pixels, which skipae does not read: convert it to 8 or 16 bits, or give an array in "
            "[0, 1] to Model.denoise"
        )
    if bits == 16 and (photometric != 1 or tags.get(277, 1) > 1):
        require_16bit()
        return True
    return False


def _decode(image: ImageFile, notes: list[str]) -> tuple[Raster, Metadata]:
    from PIL import ImageOps

    with closing(image):
        pillow.note_frames(image, notes)
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        samples, bands = tags.get(277, 1), len(image.getbands())
        if samples > bands:
            notes.append(f"only the first {bands} of {samples} channels are kept")
        turn = tags.get(pillow.ORIENTATION, 1)
        image.load()  # turns it
        ImageOps.exif_transpose(image, in_place=True)
        exif = image.getexif()
        found = Metadata(
            "TIFF",
            exif=_described(exif, notes),
            # Pillow makes up 1 dpi for a file that says nothing (tag 282).
            dpi=resolution(image.info.get("dpi")) if 282 in tags else None,
            compression=image.info.get("compression"),
            iptc=_raw(exif, _IPTC),
            photoshop=_raw(exif, _PHOTOSHOP),
        )
        pillow.take_info(image, found, turn)
        return from_image(image, "TIFF", notes), found


def _decode_16bit(
    file: IO[bytes], tags: Image.Exif, shape: tuple[int, int, int], notes: list[str]
) -> tuple[Raster, Metadata]:
    inches = {2: 1.0, 3: 2.54}.get(tags.get(296, 2))
    turn, xmp = tags.get(pillow.ORIENTATION, 1), tags.get(700)
    dpi = resolution((tags[282] * inches, tags[283] * inches)) if inches and 282 in tags and 283 in tags else None
    metadata = Metadata(
        "TIFF",
        icc=tags.get(34675),
        exif=_described(tags, notes),
        xmp=xmp and re.sub(rb'\s?tiff:Orientation="[1-8]"|<tiff:Orientation>[1-8]</tiff:Orientation>', b"", xmp),
        dpi=dpi[::-1] if dpi and turn in (5, 6, 7, 8) else dpi,
        iptc=_raw(tags, _IPTC),
        photoshop=_raw(tags, _PHOTOSHOP),
    )
    file.seek(0)
    pixels, kind, alpha, more = _pixels_16bit(file.read(), shape)
    notes += more
    return from_channels(upright(pixels, turn), kind, alpha), metadata


def _pixels_16bit(data: bytes, shape: tuple[int, int, int]) -> tuple[NDArray[Any], Kind, bool, list[str]]:
    """The first page of a TIFF of 16 bits per channel: pixels [H, W, C], kind, whether it has alpha, and notes.

    Raises:
        ValueError: its width, height and samples per pixel are not ``shape``, or it is damaged.
    """
    import numpy as np
    import tifffile

    notes = []
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if len(file.pages) > 1:
            notes.append(f"only the first of {len(file.pages)} pictures is kept")
        page = file.pages.first
        if (page.imagewidth, page.imagelength, page.samplesperpixel) != shape or page.imagedepth != 1:
            raise ValueError("its tags contradict each other")
        kind: Kind = {5: "cmyk", 2: "rgb"}.get(page.photometric, "gray")  # type: ignore[assignment]
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


def _write(file: BinaryIO, pixels: NDArray[Any], kind: Kind, tags: Image.Exif, metadata: Metadata) -> None:
    """Write pixels of uint8 or uint16, with or without alpha, compressed without loss; ``file`` is at its beginning."""
    import numpy as np
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
    directory[259], directory[262], directory[317] = 8, {"gray": 1, "rgb": 2, "cmyk": 5}[kind], 2
    directory[277], directory[278] = channels, rows
    # Pillow adds where the pixels begin.
    directory[273], directory[279] = tuple(np.cumsum([0, *lengths[:-1]]).tolist()), tuple(lengths)
    if channels > CHANNELS[kind]:
        directory[338] = 2
    if metadata.dpi is not None:
        directory[282], directory[283], directory[296] = *metadata.dpi, 2
    if metadata.icc is not None:
        directory[34675] = metadata.icc
    directory.save(file)
    file.writelines(strips)


def _tags_of(metadata: Metadata) -> tuple[Image.Exif, list[Loss]]:
    """Metadata as tags, without profile and resolution."""
    from PIL import Image

    tags = Image.Exif()
    notes: list[str] = []
    if metadata.exif is not None:
        old = Image.Exif()
        old.load(metadata.exif)
        tags.load(_described(old, notes) or b"")
    for tag, value in ((700, metadata.xmp), (_IPTC, metadata.iptc), (_PHOTOSHOP, metadata.photoshop)):
        if value:
            tags[tag] = value
    return tags, [Loss("exif", note) for note in notes]


def _described(exif: Image.Exif, notes: list[str]) -> bytes | None:
    """The tags that describe the picture; the others (size, strips, compression) are the old file's."""
    from PIL import Image

    clean, found = Image.Exif(), False
    try:
        for tag in _TEXTS + _PLACES:
            if tag in exif:
                clean[tag] = exif[tag]
                found = True
        for ifd in _IFDS:
            values = dict(exif.get_ifd(ifd))
            # An offset in the old file, which in a TIFF that Pillow wrote points anywhere.
            if values.pop(_INTEROPERABILITY, None) is not None:
                notes.append("the interoperability index of EXIF data is left out")
            if values:
                clean[ifd] = values
                found = True
        return clean.tobytes() if found else None
    except Exception:  # Pillow raises nearly anything for damaged EXIF data
        notes.append(DAMAGED_EXIF)
        return None


def _raw(tags: Image.Exif, tag: int) -> bytes | None:
    """As it stands in a TIFF: IPTC data may claim to be 32-bit numbers, of which Pillow gives the first."""
    return None if tags._info is None else tags._info._tagdata.get(tag)
