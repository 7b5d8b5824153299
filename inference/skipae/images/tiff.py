"""TIFF: 16 bits per color, compressions that Pillow lacks, and tags as they are."""

from __future__ import annotations

import io
import itertools
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from skipae.errors import ImageError
from skipae.images import exif, pillow, xmp
from skipae.images.exif import Directory, Reader, Tag
from skipae.images.extra import require, require_16bit
from skipae.images.metadata import DAMAGED_EXIF, Loss, Metadata, resolution
from skipae.images.raster import CHANNELS, Kind, Raster, from_channels, from_image, upright

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from PIL.ImageFile import ImageFile

_DESCRIPTION, _XMP, _ICC, _IPTC, _PHOTOSHOP = 270, 700, 34675, 33723, 34377
_SUB_PICTURES, _LAYERS, _IMAGEJ = 330, 37724, (50838, 50839)
_STRUCTURE = frozenset(
    itertools.chain(
        [*range(254, 267), 273, 274, *range(277, 285), *range(288, 294), 296, 297, 317, 320, *range(322, 329), 330],
        [*range(338, 342), 347, *range(512, 522), *range(529, 533), *range(32995, 32999)],
    )
)
"""Tags that say how the old file has the pixels."""
_GEO = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
_DESCRIBING = frozenset(
    [269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096), 50341, *_GEO]
)
"""Tags that go where EXIF data goes."""
_ELSEWHERE = frozenset((_XMP, _ICC, _IPTC, _PHOTOSHOP, exif.EXIF, exif.GPS, exif.INTEROPERABILITY))
_MOST_IN_EXIF = 60_000

_BY_PILLOW = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000))
"""Compressions."""
_OTHERS = {50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL", 34887: "LERC", 34712: "JPEG 2000", 33003: "JPEG 2000"}
_OTHERS |= {33004: "JPEG 2000", 33005: "JPEG 2000", 22610: "JPEG XR", 34934: "JPEG XR", 34933: "PNG", 34892: "JPEG"}
_OTHERS |= {32771: "none, in words", 32809: "ThunderScan", 34676: "SGI Log", 34677: "SGI Log", 32766: "NeXT", 9: "JBIG"}
_LOSSLESS = {5: "tiff_lzw", 32773: "packbits", 34925: "lzma", 50000: "zstd"}
"""Compressions that Pillow writes."""
_STRIP_BYTES = 1 << 20
_MOST_PLACES = 1 << 22
"""Numbers of a tag that says where the pixels are: an image of as many rows has as many strips."""


def read(file: IO[bytes]) -> pillow.Opened:
    """Open a TIFF.

    Raises:
        ImageError: it holds a kind of pixels that would be truncated, or is compressed by what nothing here reads.
    """
    reader = Reader(file)
    page = reader.directory(reader.first)
    for tag in page.tags.values():
        if tag.number in _STRUCTURE and tag.count > _MOST_PLACES:  # decoders make a number of Python's of each
            raise ValueError(f"the tag {tag.number} has {tag.count} numbers")
    samples = _value(reader, page, 277, 1)
    compression = _value(reader, page, 259, 1)
    other = compression not in _BY_PILLOW
    if _is_deep(reader, page):
        require_16bit()
        other = True
    elif other:
        require("16bit", f"is compressed by {_OTHERS.get(compression, 'a compression')} ({compression}): to read it")
    if other:
        size = _value(reader, page, 256, 0), _value(reader, page, 257, 0)
        return pillow.Opened(size, lambda notes: _decode_other(file, reader, page, notes), samples)
    try:
        image = pillow.open_header(file, "TIFF")
    except SyntaxError as error:
        if str(error) == "unknown pixel mode":
            raise ImageError("holds a kind of pixels that skipae does not read: convert it to 8 or 16 bits") from None
        raise
    return pillow.Opened(image.size, lambda notes: _decode(image, reader, page, notes), samples)


def write(file: BinaryIO, image: Image.Image, metadata: Metadata, quality: pillow.Quality | None) -> list[Loss]:
    """Write a TIFF of 8 bits, or of gray of 16."""
    import numpy as np

    kinds: dict[str, Kind] = {"RGB": "rgb", "RGBA": "rgb", "CMYK": "cmyk"}
    kind = kinds.get(image.mode, "gray")
    width = image.size[0]

    def rows(top: int, bottom: int) -> NDArray[Any]:
        values = np.asarray(image.crop((0, top, width, bottom)))
        return values.reshape(bottom - top, width, -1)

    container = _Container(metadata, kind, image.size)
    compression = metadata.compression if metadata.format == "TIFF" else None
    deep = image.mode.startswith("I;16")
    if compression in _LOSSLESS and not (deep and container.order == ">"):
        return container.write_as_pillow_does(file, image, _LOSSLESS[compression])
    bits = 16 if deep else 8
    return container.write(file, rows, bits, len(image.getbands()), compress=compression != 1)


def write_16bit(file: BinaryIO, raster: Raster, metadata: Metadata, quality: pillow.Quality | None) -> list[Loss]:
    """Write a TIFF of 16 bits per color."""
    container = _Container(metadata, raster.kind, raster.size)
    pixels = raster.take_channels()
    return container.write(file, lambda top, bottom: pixels[top:bottom], 16, pixels.shape[2], compress=True)


def _value(reader: Reader, page: Directory, number: int, default: int) -> int:
    """Return the largest value of a tag."""
    tag = page.tags.get(number)
    return max(tag.values(reader.order), default=default) if tag is not None else default


def _is_deep(reader: Reader, page: Directory) -> bool:
    """Return whether Pillow would truncate it; refused where nothing can read it."""
    bits = _value(reader, page, 258, 1)
    kind = _value(reader, page, 339, 1)
    what = {2: "signed", 3: "floating-point"}.get(kind) or (f"{bits}-bit" if bits > 8 and bits != 16 else None)
    photometric = _value(reader, page, 262, 1)
    if bits > 8 and photometric not in (0, 1, 2, 5):
        what = what or "16-bit palette or Lab"
    if what is not None:
        raise ImageError(
            f"holds {what} pixels, which skipae does not read: convert it to 8 or 16 bits, or pass an array in "
            "[0, 1] to Model.denoise"
        )
    return bits == 16 and (photometric != 1 or _value(reader, page, 277, 1) > 1)


def _decode(image: ImageFile, reader: Reader, page: Directory, notes: list[str]) -> tuple[Raster, Metadata]:
    from PIL import ImageOps

    with closing(image):
        samples, bands = _value(reader, page, 277, 1), len(image.getbands())
        if samples > bands:
            notes.append(f"only the first {bands} of {samples} channels are kept")
        metadata = _take_tags(reader, page, notes)
        image.load()  # turns it
        ImageOps.exif_transpose(image, in_place=True)
        return from_image(image, "TIFF", notes), metadata


def _decode_other(file: IO[bytes], reader: Reader, page: Directory, notes: list[str]) -> tuple[Raster, Metadata]:
    """Return what Pillow does not read."""
    metadata = _take_tags(reader, page, notes)
    shape = tuple(_value(reader, page, number, default) for number, default in ((256, 0), (257, 0), (277, 1)))
    file.seek(0)
    pixels, kind, alpha, more = _pixels(file.read(), shape)
    notes += more
    turn = _orientation(reader, page)
    return from_channels(upright(pixels, turn), kind, alpha), metadata


def _pixels(data: bytes, shape: tuple[int, ...]) -> tuple[NDArray[Any], Kind, bool, list[str]]:
    """Return the first page of a TIFF, uint8 or uint16: pixels [H, W, C], kind, whether it has alpha, and notes.

    Raises:
        ImageError: no decoder here reads it.
        ValueError: its width, height and samples per pixel are not ``shape``, or it is damaged.
    """
    import numpy as np
    import tifffile

    pillow.quiet_log("tifffile")
    notes = []
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        if (page.imagewidth, page.imagelength, page.samplesperpixel) != shape or page.imagedepth != 1:
            raise ValueError("its tags contradict each other")
        kinds: dict[int, Kind] = {0: "gray", 1: "gray", 2: "rgb", 5: "cmyk"}
        kind = kinds.get(int(page.photometric))
        if kind is None:
            raise ImageError("holds a kind of pixels that skipae does not read: convert it to RGB")
        if len(page.dataoffsets) < math.prod(page.chunked):
            raise ValueError("strips are missing")  # which tifffile would make zeros of
        try:
            pixels = page.asarray()
        except (ImportError, NotImplementedError) as error:  # a codec that this build of imagecodecs lacks
            raise ImageError(
                f"is compressed by what this imagecodecs does not read ({error}): convert it first"
            ) from error
        if pixels.dtype not in (np.uint8, np.uint16):
            raise ImageError(f"holds pixels of {pixels.dtype}, which skipae does not read: convert it to 8 or 16 bits")
        if page.planarconfig == 2 and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
        pixels = pixels.reshape(page.imagelength, page.imagewidth, -1)
        white = np.iinfo(pixels.dtype).max
        if page.photometric == 0:
            pixels[..., 0] ^= white  # of which 0 is white
        extras = tuple(page.extrasamples)
    channels = CHANNELS[kind]
    if pixels.shape[2] < channels:
        raise ValueError(f"{pixels.shape[2]} channels are too few")
    alpha = kind != "cmyk" and pixels.shape[2] > channels and extras[:1] in ((1,), (2,))
    if pixels.shape[2] > channels + alpha:
        notes.append(f"only the first {channels + alpha} of {pixels.shape[2]} channels are kept")
    if alpha and extras[0] == 1:
        notes.append("colors that were multiplied by alpha are divided by it")
        step = max(1, _STRIP_BYTES // pixels.shape[1])
        for top in range(0, len(pixels), step):
            rows = pixels[top : top + step]
            opaque = np.maximum(rows[..., channels : channels + 1], 1)
            rows[..., :channels] = np.minimum(np.rint(rows[..., :channels] * (white / opaque)), white)
    return pixels[..., : channels + alpha], kind, alpha, notes


def _orientation(reader: Reader, page: Directory) -> int:
    """Return the orientation that Pillow finds."""
    turn = _value(reader, page, exif.ORIENTATION, 1)
    if exif.ORIENTATION not in page.tags and _XMP in page.tags:
        turn = xmp.orientation(page.tags[_XMP].data)
    return turn if 1 <= turn <= 8 else 1


def _take_tags(reader: Reader, page: Directory, notes: list[str]) -> Metadata:
    """Return what the tags of the first page say of the picture, upright."""
    tags = {number: tag for number, tag in page.tags.items() if number not in _STRUCTURE}
    data = {number: tags[number].data for number in (_XMP, _ICC, _IPTC, _PHOTOSHOP) if number in tags}
    inches = {2: 1.0, 3: 2.54}.get(_value(reader, page, 296, 2))
    metadata = Metadata(
        "TIFF",
        icc=data.get(_ICC),
        xmp=data.get(_XMP),
        iptc=data.get(_IPTC),
        photoshop=data.get(_PHOTOSHOP),
        compression=_value(reader, page, 259, 1),
    )
    if inches:
        with suppress(ZeroDivisionError, struct.error, KeyError):
            pairs = [struct.unpack_from(reader.order + "II", page.tags[number].data) for number in (282, 283)]
            metadata.dpi = resolution((inches * pairs[0][0] / pairs[0][1], inches * pairs[1][0] / pairs[1][1]))
    _note_pictures(reader, tags, metadata)
    if _SUB_PICTURES in page.tags:
        metadata.left_out.append(Loss("pictures", "further pictures of a TIFF (SubIFDs) are left out"))
    if tags.pop(_LAYERS, None) is not None:
        metadata.left_out.append(Loss("tags", "Photoshop's layers are left out: they show the picture as it was"))
    first, more = [], []
    for number, tag in tags.items():
        classic = _classic(tag, reader.order)
        if number in _ELSEWHERE:
            continue
        if classic is None:
            metadata.left_out.append(Loss("tags", f"the tag {number} of a TIFF, which points elsewhere, is left out"))
        elif number in _DESCRIBING and len(tag.data) <= _MOST_IN_EXIF:
            first.append(classic)
        else:
            more.append(classic)
    below = {number: _below(reader, page, number) for number in (exif.EXIF, exif.GPS)}
    details = reader.below(page, exif.EXIF)
    below[exif.INTEROPERABILITY] = _below(reader, details, exif.INTEROPERABILITY)
    if any(number in tags and not below[number] for number in (exif.EXIF, exif.GPS)):
        notes.append(DAMAGED_EXIF)
    metadata.tags = more
    metadata.tag_order = reader.order
    if first or any(below.values()):
        metadata.exif, moved = exif.build(reader.order, first, below)
        if moved:
            metadata.left_out.append(
                Loss("exif", "the maker's note in EXIF data moves: places in the file that it may hold are lost")
            )
    metadata.upright(notes, (_value(reader, page, 256, 1), _value(reader, page, 257, 1)), _orientation(reader, page))
    if metadata.xmp is not None:
        metadata.xmp = xmp.without_orientation(metadata.xmp)
    metadata.correct_xmp()
    return metadata


def _note_pictures(reader: Reader, tags: dict[int, Tag], metadata: Metadata) -> None:
    """Name further pages, and planes that ImageJ has after the first without a page of their own."""
    description = tags[_DESCRIPTION].data if _DESCRIPTION in tags else b""
    planes = re.search(rb"^images=(\d{1,9})\b", description, re.MULTILINE) if description[:7] == b"ImageJ=" else None
    count = max(reader.count(), int(planes[1]) if planes else 1)
    if count <= 1:
        return
    pillow.note_pictures(count, metadata)
    if planes or description.lstrip().startswith((b'{"shape"', b"<?xml", b"<OME")):
        for number in (_DESCRIPTION, *_IMAGEJ):
            tags.pop(number, None)
        metadata.left_out.append(Loss("tags", "the description of all pictures (ImageDescription) is left out"))


def _below(reader: Reader, directory: Directory, pointer: int) -> list[Tag]:
    """Return the tags of another directory, but those that point to further ones."""
    found = reader.below(directory, pointer).tags.values()
    classic = (_classic(tag, reader.order) for tag in found if tag.number not in _ELSEWHERE)
    return [tag for tag in classic if tag is not None]


def _classic(tag: Tag, order: str) -> Tag | None:
    """Return a tag as in a TIFF that is not a BigTIFF; None if that is impossible."""
    if tag.type in (13, 18):  # the place of a directory
        return None
    if tag.type not in (16, 17):
        return tag
    import numpy as np

    kind = {16: "u", 17: "i"}[tag.type]
    values = np.frombuffer(tag.data, f"{order}{kind}8")
    narrow = values.astype(f"{order}{kind}4")
    if (narrow != values).any():
        return None
    return replace(tag, type={16: 4, 17: 9}[tag.type], data=narrow.tobytes())


class _Container:
    """A TIFF around pixels.  It begins with the EXIF data as it is, so that places in it stay right."""

    def __init__(self, metadata: Metadata, kind: Kind, size: tuple[int, int]) -> None:
        self.losses: list[Loss] = []
        self.kind = kind
        self.size = size
        self.order = metadata.tag_order if metadata.tags else "<"
        self.start = bytearray(8)
        self.tags: dict[int, Tag] = {}
        if metadata.exif is not None:
            self._begin_with(metadata.exif.removeprefix(exif.PREFIX))
        if metadata.tags and metadata.tag_order == self.order:
            self.tags |= {tag.number: tag for tag in metadata.tags}
        parts = {_XMP: metadata.xmp, _ICC: metadata.icc, _IPTC: metadata.iptc, _PHOTOSHOP: metadata.photoshop}
        for number, data in parts.items():
            self.tags.pop(number, None)
            if data:
                self.tags[number] = Tag(number, 1 if number == _XMP else 7, len(data), data)
        if metadata.dpi is not None:
            for number, value in zip((282, 283), metadata.dpi, strict=True):
                fraction = Fraction(value).limit_denominator(10_000)
                self.put(number, 5, fraction.numerator, fraction.denominator)
            self.put(296, 3, 2)

    def put(self, number: int, type: int, *values: int) -> None:
        """Set a tag: 3 SHORT, 4 LONG, 5 RATIONAL (two numbers a value)."""
        count = len(values) // 2 if type == 5 else len(values)
        self.tags[number] = Tag(
            number, type, count, struct.pack(f"{self.order}{len(values)}{' HII'[type - 2]}", *values)
        )

    def write(
        self, file: BinaryIO, rows: Callable[[int, int], NDArray[Any]], bits: int, channels: int, *, compress: bool
    ) -> list[Loss]:
        """Write pixels without loss; ``rows`` gives some of them, uint8 or uint16 [h, W, C]."""
        width, height = self.size
        row_bytes = width * channels * bits // 8
        step = max(1, _STRIP_BYTES // row_bytes)

        def strip(top: int) -> bytes:
            pixels = rows(top, min(top + step, height))
            ordered = pixels.astype(f"{self.order}u{bits // 8}")  # a copy
            if compress:
                ordered[:, 1:] -= pixels[:, :-1]  # modulo: what the format calls a predictor
                return zlib.compress(ordered.tobytes())
            return ordered.tobytes()

        tops = range(0, height, step)
        self.put(258, 3, *(bits,) * channels)
        self.put(259, 3, 8 if compress else 1)
        self.put(262, 3, {"gray": 1, "rgb": 2, "cmyk": 5}[self.kind])
        self.put(277, 3, channels)
        self.put(278, 4, step)
        self.put(284, 3, 1)
        if compress:
            self.put(317, 3, 2)
            strips = [strip(top) for top in tops]
            self._finish(file, [len(data) for data in strips], iter(strips), channels)
        else:
            self._finish(
                file, [row_bytes * (min(top + step, height) - top) for top in tops], map(strip, tops), channels
            )
        return self.losses

    def write_as_pillow_does(self, file: BinaryIO, image: Image.Image, compression: str) -> list[Loss]:
        """Write with another compression."""
        buffer = io.BytesIO()
        channels = len(image.getbands())
        pillow.save(buffer, image, "TIFF", {"compression": compression})
        reader = Reader(buffer)
        page = reader.directory(reader.first)
        for number in (258, 259, 262, 266, 277, 278, 284, 317):
            if number in page.tags:
                self.put(number, 4 if page.tags[number].type == 4 else 3, *page.tags[number].values(reader.order))
        places, lengths = (page.tags[number].values(reader.order, _MOST_PLACES) for number in (273, 279))
        data = buffer.getbuffer()
        pieces = (data[place : place + length] for place, length in zip(places, lengths, strict=True))
        self._finish(file, list(lengths), pieces, channels)
        return self.losses

    def _begin_with(self, data: bytes) -> None:
        try:
            reader = Reader(io.BytesIO(data))
            first = reader.directory(reader.first)
        except ValueError:
            self.losses.append(Loss("exif", DAMAGED_EXIF))
            return
        if reader.is_big:
            self.losses.append(Loss("exif", DAMAGED_EXIF))
            return
        if first.following:
            self.losses.append(Loss("thumbnail", "TIFF cannot hold the thumbnail in EXIF data"))
            data = exif.without_thumbnail(data)
        self.order = reader.order
        self.start = bytearray(data + bytes(len(data) % 2))
        self.tags = {number: tag for number, tag in first.tags.items() if number not in _STRUCTURE}

    def _finish(self, file: BinaryIO, lengths: list[int], strips: Iterator[bytes | memoryview], channels: int) -> None:
        """Write all, where the strips have such lengths."""
        self.put(256, 4, self.size[0])
        self.put(257, 4, self.size[1])
        if channels > CHANNELS[self.kind]:
            self.put(338, 3, 2)
        self.put(279, 4, *lengths)
        self.put(273, 4, *lengths)
        place = len(self.start)
        begin = place + len(self._directory(place))
        self.put(273, 4, *itertools.accumulate(lengths[:-1], initial=begin))
        struct.pack_into(self.order + "2sHI", self.start, 0, b"II" if self.order == "<" else b"MM", 42, place)
        file.write(self.start)
        file.write(self._directory(place))
        for data in strips:
            file.write(data)

    def _directory(self, place: int) -> bytes:
        """Return the directory at a place, of an even length."""
        table = bytearray(struct.pack(self.order + "H", len(self.tags)))
        values = bytearray()
        after = place + 2 + 12 * len(self.tags) + 4
        for number, tag in sorted(self.tags.items()):
            table += struct.pack(self.order + "HHI", number, tag.type, tag.count)
            if len(tag.data) <= 4:
                table += tag.data.ljust(4, b"\0")
            else:
                table += struct.pack(self.order + "I", after + len(values))
                values += tag.data + bytes(len(tag.data) % 2)
        return bytes(table + bytes(4) + values)
