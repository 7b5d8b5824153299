"""Image files in and out, with everything that a file says besides its pixels.

A file is decoded by its content, whatever its name.  What the net restores are planes: one [H, W] (grey) or
[H, W, 3] (RGB) array, and for CMYK the inks cyan, magenta and yellow as one and black as another, so that the
separation survives.  Alpha, colour profile, EXIF, XMP, IPTC and resolution are carried over; what a format cannot
hold is said in ``notes``.  Of a file of several pictures the first is taken, and said so.  docs/images.md tells users
what happens to each kind of file.
"""

from __future__ import annotations

import io
import os
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal, TypeGuard

from skipae.errors import ImageError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from PIL.ImageFile import ImageFile

    Pixels = NDArray[np.uint8] | NDArray[np.uint16]

Source = str | os.PathLike[str] | bytes | bytearray | memoryview
"""The path of an image file, or its bytes."""

MAX_PIXELS = 178_956_970
"""The largest image to decode, in pixels; Pillow's own limit."""

QUALITY = 95
"""Of JPEG, WebP and AVIF files whose input does not set it."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM")
"""Formats read and written, by Pillow's names."""

SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".avif": "AVIF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
}
"""Format of each file name's extension, lower case."""

RAW = re.compile(r"\.(arw|cr2|cr3|dng|nef|nrw|orf|pef|raf|rw2|srw)")
"""Extensions of camera raw files.  Most look like a TIFF that is no more than a thumbnail."""

_PIXEL_SAMPLES = 4  # of a TIFF's pixel; one of more counts as several pixels
_STRIP_PIXELS = 4 << 20  # images are converted from and to arrays by strips of about so many pixels
_TIFF_TEXTS = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432)  # that describe the picture and not the file
_TIFF_PLACES = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)  # on the map (GeoTIFF)
_TIFF_IFDS = (34665, 34853)  # EXIF and GPS
_IPTC, _PHOTOSHOP, _INTEROPERABILITY = 33723, 34377, 40965
_PNG_LIGHT = (b"cICP", b"cHRM", b"gAMA", b"sRGB")
_SRGB_CODES = [bytes((primaries, transfer)) for primaries in (1, 2) for transfer in (1, 2, 13)]  # as cICP has them
_SRGB_LIGHT = {
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
}
_ORIENTATION = 274
_TIFF_LOSSLESS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma", "zstd")
_THUMBNAILS_END = b"</xmp:Thumbnails>"
_DAMAGED_EXIF = "EXIF data is damaged and is left out"
_MOST_DPI = 65_535  # that a JPEG holds
_JPEG_SEGMENT = 65_533 - 64  # bytes of EXIF or XMP that fit in a segment


@dataclass
class Metadata:
    """What a file says besides its pixels."""

    format: str
    """Pillow's name, one of :data:`FORMATS`."""
    icc: bytes | None = None
    exif: bytes | None = None
    """Upright: without an orientation."""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    jpeg: dict[str, Any] = field(default_factory=dict)
    """Arguments for Pillow that keep a JPEG's quantisation tables and subsampling."""
    iptc: bytes | None = None
    """Of a TIFF; that of a JPEG is among ``photoshop``."""
    photoshop: bytes | None = None
    """Photoshop's resources, of a JPEG (APP13) or TIFF."""
    subsampling: str | None = None
    """Of an AVIF, for example ``4:2:0``."""
    compression: str | None = None
    """Of a TIFF."""
    lossless: bool = False
    """Of a WebP."""
    png_chunks: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Chunks of a PNG that say how its numbers become light; of an AVIF, what a PNG would say."""
    png_text: dict[str, str] = field(default_factory=dict)
    comment: bytes | None = None


@dataclass
class Picture:
    """A decoded image: planes to restore, and the rest to carry over."""

    kind: Literal["grey", "rgb", "cmyk"]
    planes: list[NDArray[Any]]
    """One array, two for CMYK: [H, W] or [H, W, 3], uint8 or uint16."""
    alpha: Image.Image | None
    """Of mode L, or I;16 beside planes of uint16."""
    metadata: Metadata
    notes: list[str]
    """What was changed or lost, a line each."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.planes[0].shape[:2]
        return width, height

    def rgb(self) -> NDArray[Any]:
        """Pixels without alpha, [H, W] (grey) or [H, W, 3] (RGB); of CMYK the planes are given up."""
        if self.kind != "cmyk":
            return self.planes[0]
        import numpy as np

        return np.asarray(_cmyk_to_rgb(self.to_pil(), self.metadata))

    def restore(self, restore: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        """Replace each plane by what ``restore`` gives for it."""
        for k, plane in enumerate(self.planes):
            self.planes[k] = restore(plane)

    def drop_thumbnails(self) -> None:
        """Leave out the small copies in EXIF, XMP and Photoshop's data, which show what the image no longer does."""
        found = self.metadata
        before = found.exif, found.xmp, found.photoshop
        found.exif = (found.exif and _without_thumbnail(found.exif)) or None  # None where it is damaged
        found.xmp = found.xmp and _without_xmp_thumbnails(found.xmp)
        found.photoshop = found.photoshop and _without_thumbnails(found.photoshop)
        if before != (found.exif, found.xmp, found.photoshop):
            self.notes.append("thumbnails in its metadata, which show what was filled, are left out")

    @property
    def is_deep(self) -> bool:
        """Whether Pillow has no mode for it: 16 bits, and more than one channel."""
        channels = len(self.planes) + self.planes[0].ndim + (self.alpha is not None)
        return self.planes[0].itemsize == 2 and channels > 3

    def require_pil(self) -> None:
        """Refuse what a ``PIL.Image`` cannot hold."""
        if self.is_deep:
            raise ImageError(
                "has 16 bits per colour, which a PIL.Image cannot hold: read it into an array, for example by "
                "imagecodecs.imread"
            )

    def to_pil(self) -> Image.Image:
        """The image, upright, with its metadata in ``info``; the planes are given up to save memory.

        Raises:
            ImageError: a ``PIL.Image`` cannot hold it.
        """
        self.require_pil()
        image = _from_planes(self.kind, self.planes)
        if self.alpha is not None:
            image.putalpha(self.alpha)
        found = self.metadata
        info = {"icc_profile": found.icc, "exif": found.exif, "xmp": found.xmp, "dpi": found.dpi}
        image.info.update({key: value for key, value in info.items() if value is not None})
        return image

    def encode(self, file: BinaryIO, *, format: str | None = None, quality: int | None = None) -> list[str]:
        """Write the image; the planes are given up to save memory.

        Args:
            file: where to, seekable.
            format: Pillow's name; by default the input's.
            quality: of JPEG, WebP and AVIF, 1 to 100; by default the JPEG input's tables, else 95.

        Returns:
            What the format cannot hold, a line each.

        Raises:
            ImageError: the format cannot hold the image, for example its size.
            OSError: the file cannot be written.
        """
        notes: list[str] = []
        target = format or self.metadata.format
        holds = {"TIFF": True, "PNG": self.kind != "cmyk", "PPM": not self.is_deep}
        if self.planes[0].itemsize == 2 and not holds.get(target, False):
            notes.append(f"{target} cannot hold 16 bits{' here' if target in holds else ''}: reduced to 8")
            self._reduce()
        try:
            if self.is_deep:
                self._encode_deep(file, target, notes)
                return notes
            image = self.to_pil()
            image.info.clear()  # Pillow would take some of it up again
            image = _fit(image, target, self.metadata, notes)
            arguments = _arguments(image, self.metadata, target, quality, notes)
            if target == "TIFF" and any(ifd in arguments["tiffinfo"] for ifd in _TIFF_IFDS):
                # Pillow cannot compress a TIFF that has EXIF data.
                _write_tiff(file, _to_array(image, len(image.getbands())), self.kind, arguments)
            else:
                image.save(_Plain(file), format=target, **arguments)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno is not None:
                raise
            raise ImageError(f"cannot be written as {target}: {error}") from error
        except Exception as error:  # Pillow's encoders raise nearly anything for what they cannot hold
            raise ImageError(f"cannot be written as {target}: {error or type(error).__name__}") from error
        return notes

    def _reduce(self) -> None:
        """From 16 bits to 8."""
        self.restore(_to_8_bits)
        if self.alpha is not None:
            self.alpha = reduced_alpha(self.alpha)

    def _encode_deep(self, file: BinaryIO, format: str, notes: list[str]) -> None:
        import numpy as np
        from PIL import Image

        from skipae import deep

        parts = self.planes if self.alpha is None else [*self.planes, np.asarray(self.alpha)]
        pixels = np.dstack(parts)
        if self.kind == "cmyk":
            pixels[..., :3] ^= 0xFFFF
        self.planes.clear()
        del parts
        tiny = Image.new("RGB", (1, 1))
        arguments = _arguments(tiny, self.metadata, format, None, notes)
        if format == "TIFF":
            _write_tiff(file, pixels, self.kind, arguments)
        else:
            like = io.BytesIO()
            tiny.save(like, format="PNG", **arguments)
            file.write(deep.encode_png(pixels, like.getvalue()))


def reduced_alpha(alpha: Image.Image) -> Image.Image:
    """Alpha of 8 bits."""
    import numpy as np
    from PIL import Image

    return alpha if alpha.mode == "L" else Image.fromarray(_to_8_bits(np.asarray(alpha)))


def _to_8_bits(values: NDArray[Any]) -> NDArray[Any]:
    """From 16 bits."""
    import numpy as np

    result = np.empty(values.shape, np.uint8)
    for k, row in enumerate(values):
        result[k] = np.rint(row / np.float32(257))
    return result


class OpenedImage:
    """An image file whose header was read and whose pixels were not; a context manager."""

    def __init__(
        self, file: IO[bytes], format: str, size: tuple[int, int], decode: Callable[[list[str]], Picture]
    ) -> None:
        """Use :func:`open_image` instead."""
        self._file = file
        self._decode: Callable[[list[str]], Picture] | None = decode
        self.format = format
        self.notes: list[str] = []
        self.size = size

    def __enter__(self) -> OpenedImage:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file and free what was decoded."""
        self._decode = None
        self._file.close()

    def decode(self) -> Picture:
        """The pixels, upright, and the metadata.  Once only: what Pillow decoded is freed.

        Raises:
            ImageError: the file is damaged, or holds a kind of pixels that would be truncated.
        """
        decode, self._decode = self._decode, None
        if decode is None:
            raise ImageError("was decoded already")
        try:
            return decode(self.notes)
        except ImageError:
            raise
        except MemoryError:
            raise ImageError(f"not enough memory to decode {self.size[0]} x {self.size[1]} pixels") from None
        except Exception as error:  # decoders raise nearly anything for damaged files
            raise ImageError(f"is damaged and cannot be decoded as {self.format}: {error}") from error
        finally:
            self._file.close()


def sniff(head: bytes) -> str | None:
    """Format of a file by its first 64 bytes, one of :data:`FORMATS`, or None."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:2] == b"BM" and head[14:18] in [struct.pack("<I", size) for size in (12, 40, 52, 56, 64, 108, 124)]:
        return "BMP"
    if head[4:8] == b"ftyp" and (b"avif" in head[8:64] or b"avis" in head[8:64]):
        return "AVIF"
    if re.match(rb"P(?:[1-6]\s+(?:#|\d)|[fF]\s)", head):
        return "PPM"
    return None


def open_image(source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS) -> OpenedImage:
    """Read the header of an image file.

    Args:
        source: its path, or its bytes.
        max_pixels: the largest image to accept.

    Raises:
        ImageError: there is no such file, it is not an image, it is too large, or it holds a kind of pixels
            that would be truncated (16-bit colour, AVIF of 10 or 12 bits, floats).
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
            raise ImageError("is a camera raw file, of which a small preview alone could be read: develop it first")
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
    """Planes and alpha of an image in memory, as it stands: its EXIF orientation is not applied.

    Raises:
        ImageError: its mode would be truncated.
    """
    info = image.info
    metadata = Metadata(
        format="PNG", icc=info.get("icc_profile"), exif=info.get("exif"), xmp=info.get("xmp"), dpi=info.get("dpi")
    )
    return _to_picture(image, metadata, [])


def read(image: Image.Image | Source, name: str = "image", *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode an image file, given by its path or its bytes, or take one in memory as it stands.

    Raises:
        UsageError: it is none of these; ``name`` is what the message calls it.
        ImageError: see :func:`open_image` and :func:`from_pil`.
    """
    if isinstance(image, str | os.PathLike | bytes | bytearray | memoryview):
        source = bytes(image) if isinstance(image, bytearray | memoryview) else image
        with open_image(source, max_pixels=max_pixels) as opened:
            return opened.decode()
    if is_pil(image):
        return from_pil(image)
    raise UsageError(
        f"{name} must be a PIL.Image, a numpy array, or the path or bytes of a file, not {type(image).__name__}"
    )


def is_pil(value: object) -> TypeGuard[Image.Image]:
    """Whether a value is a ``PIL.Image``, without loading Pillow where nobody did."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def check_array(array: NDArray[Any]) -> None:
    """Refuse an array that is no image with a :class:`UsageError` that says what is."""
    if array.dtype.newbyteorder("=").name not in ("uint8", "uint16", "float16", "float32", "float64"):
        raise UsageError(f"image: an array must be uint8, uint16, or float in [0, 1], not {array.dtype}")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or 0 in array.shape:
        raise UsageError(
            f"image: an array must have the shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], not {list(array.shape)}"
        )


def format_of(path: Path) -> str:
    """Format that a file name's extension asks for; :class:`UsageError` where it names none."""
    found = SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise UsageError(
            f"{path} does not say which format to write: end it in one of {', '.join(SUFFIXES)}, or in {os.sep} for a "
            "folder"
        )
    return found


def _open(file: IO[bytes], max_pixels: int) -> OpenedImage:
    head = file.read(64)
    if not head:
        raise ImageError("is empty (zero bytes)")
    format = sniff(head)
    if format is None:
        what = "text" if head.isascii() and head.decode("ascii").isprintable() else "its content"
        raise ImageError(f"is not an image that skipae reads ({', '.join(FORMATS)}), by {what}")
    image: ImageFile | None = None
    deep, samples = False, 1
    try:
        if format == "TIFF":
            tags = _tiff_tags(file)
            deep = _is_deep_tiff(tags)
            size, samples = (int(tags[256]), int(tags[257])), int(tags.get(277, 1))
        _refuse_truncation(file, format)
        about = _about(file, format)
        if not deep:
            file.seek(0)
            image = _factory(format)(file, "")
            size = image.size
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything for damaged headers
        if format == "TIFF" and str(error) == "unknown pixel mode":
            raise ImageError("holds a kind of pixels that skipae does not read: convert it to 8 or 16 bits") from None
        raise ImageError(f"is damaged and cannot be decoded as {format}: {error}") from error
    pixels = size[0] * size[1]
    counted = pixels * max(samples, _PIXEL_SAMPLES) // _PIXEL_SAMPLES  # by the memory that they take
    if counted > max_pixels:
        of = f" of {samples} samples, which count as {counted}" if counted > pixels else ""
        raise ImageError(
            f"has {size[0]} x {size[1]} = {pixels} pixels{of}, more than {max_pixels}: give a larger max_pixels "
            "(--max-pixels) if the file is to be trusted"
        )
    if image is None:
        return OpenedImage(file, format, size, lambda notes: _decode_deep_tiff(file, tags, (*size, samples), notes))
    opened = image  # never None in what follows
    return OpenedImage(file, format, size, lambda notes: _decode(opened, file, format, about, notes))


@dataclass
class _About:
    """What Pillow does not tell of a file."""

    lossless: bool = False
    """Of a WebP."""
    depth: int = 8
    """Bits of a channel of a PNG."""
    colour: int = 0
    """Kind of colours of a PNG; 0 is grey."""
    light: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Chunks of a PNG that say how its numbers become light; of an AVIF, what a PNG would say."""
    subsampling: str | None = None
    """Of an AVIF."""

    @property
    def deep(self) -> bool:
        """Whether it is a PNG that Pillow would truncate."""
        return self.depth == 16 and self.colour != 0


def _about(file: IO[bytes], format: str) -> _About:
    about = _About()
    if format == "WEBP":
        about.lossless = _is_lossless_webp(file)
    elif format == "PNG":
        file.seek(8)
        while len(header := file.read(8)) == 8 and header[4:] != b"IDAT":
            length = int.from_bytes(header[:4], "big")
            data = file.read(length) if length < 1024 else b""
            if header[4:] == b"IHDR":
                about.depth, about.colour = data[8], data[9]
            elif header[4:] in _PNG_LIGHT:
                about.light.append((header[4:], data))
            elif header[4:] == b"tRNS" and about.depth == 16:
                about.colour |= 4
            file.seek(4 if data else length + 4, os.SEEK_CUR)
        if about.deep:
            from skipae import deep

            deep.require()
    elif format == "AVIF":
        for config in _av1_configurations(file):
            about.subsampling = {0: "4:4:4", 8: "4:2:2", 12: "4:2:0"}.get(config & 12)
            if config & 16:
                about.subsampling = "4:0:0"
            break
        colours = _avif_boxes(file, b"colr")
        codes = next((box[5:8:2] for box in colours if box[:4] == b"nclx"), _SRGB_CODES[0])
        if codes not in _SRGB_CODES and not any(box[:4] in (b"prof", b"rICC") for box in colours):
            about.light.append((b"cICP", codes + b"\0\1"))
    return about


def _decode(image: ImageFile, file: IO[bytes], format: str, about: _About, notes: list[str]) -> Picture:
    from PIL import ImageOps

    try:
        if getattr(image, "is_animated", False):
            notes.append(f"only the first of {getattr(image, 'n_frames', 'several')} pictures is kept")
        if format == "TIFF":
            samples, bands = image.tag_v2.get(277, 1), len(image.getbands())  # type: ignore[attr-defined]
            if samples > bands:
                notes.append(f"only the first {bands} of {samples} channels are kept")
            turn = image.tag_v2.get(_ORIENTATION, 1)  # type: ignore[attr-defined]
        image.load()  # turns a TIFF
        if format != "TIFF":
            turn = _orientation(image, notes)
        grey = image.info.get("transparency")
        if about.depth < 8 and image.mode == "L" and isinstance(grey, int):
            image.info["transparency"] = grey * 255 // ((1 << about.depth) - 1)  # Pillow scales the pixels alone
        ImageOps.exif_transpose(image, in_place=True)
        metadata = _metadata(image, format, about, notes)
        if turn in (5, 6, 7, 8) and metadata.dpi is not None:
            metadata.dpi = metadata.dpi[::-1]
        if not about.deep:
            return _to_picture(image, metadata, notes)
        if "transparency" in image.info:
            notes.append("the transparent colour becomes an alpha channel")
        file.seek(0)
        data = file.read()
    finally:
        image.close()
    from skipae import deep

    pixels = deep.read_png(data)
    kind: Literal["grey", "rgb"] = "rgb" if pixels.shape[2] > 2 else "grey"
    return _deep_picture(_upright(pixels, turn), kind, pixels.shape[2] in (2, 4), metadata, notes)


def _orientation(image: ImageFile, notes: list[str]) -> int:
    """As EXIF data says, or XMP data; EXIF data that cannot be read is left out."""
    exif: Image.Exif
    image._exif = None  # of a JPEG it was read before, and Pillow kept quiet about errors
    try:
        exif = image.getexif()
        if _ORIENTATION in exif or "exif" not in image.info:
            exif.tobytes()  # as it will be without an orientation
    except Exception:  # Pillow raises nearly anything for damaged EXIF data
        notes.append(_DAMAGED_EXIF)
        for name in ("exif", "Raw profile type exif"):
            image.info.pop(name, None)
        image._exif = None
        exif = image.getexif()
    turn: int = exif.get(_ORIENTATION, 1)
    return turn


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A view of [H, W, C], turned as the EXIF orientation asks."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


def _deep_picture(
    pixels: NDArray[Any], kind: Literal["grey", "rgb", "cmyk"], alpha: bool, metadata: Metadata, notes: list[str]
) -> Picture:
    import numpy as np
    from PIL import Image

    colours = np.ascontiguousarray(pixels[..., 0] if kind == "grey" else pixels[..., :3])
    planes = [colours]
    if kind == "cmyk":
        colours ^= 0xFFFF  # ink to light
        planes.append(np.ascontiguousarray(pixels[..., 3]))
    return Picture(
        kind, planes, Image.fromarray(np.ascontiguousarray(pixels[..., -1])) if alpha else None, metadata, notes
    )


def _tiff_tags(file: IO[bytes]) -> Image.Exif:
    """All of a TIFF's first page."""
    from PIL import Image

    tags = Image.Exif()
    file.seek(0)
    head = file.read(16)
    tags.endian = "<" if head[:1] == b"I" else ">"
    tags.bigtiff = 43 in head[2:4]
    first, size = (8, 8) if tags.bigtiff else (4, 4)
    tags.load_from_fp(file, int.from_bytes(head[first : first + size], "little" if tags.endian == "<" else "big"))
    return tags


def _is_deep_tiff(tags: Image.Exif) -> bool:
    """Whether Pillow would truncate it; refused where nobody can read it."""
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
        from skipae import deep

        deep.require()
        return True
    return False


def _decode_deep_tiff(file: IO[bytes], tags: Image.Exif, shape: tuple[int, int, int], notes: list[str]) -> Picture:
    from skipae import deep

    inches = {2: 1.0, 3: 2.54}.get(tags.get(296, 2))
    turn, xmp = tags.get(_ORIENTATION, 1), tags.get(700)
    dpi = _dpi((tags[282] * inches, tags[283] * inches)) if inches and 282 in tags and 283 in tags else None
    metadata = Metadata(
        format="TIFF",
        icc=tags.get(34675),
        exif=_tiff_exif(tags, notes),
        xmp=xmp and re.sub(rb'\s?tiff:Orientation="[1-8]"|<tiff:Orientation>[1-8]</tiff:Orientation>', b"", xmp),
        dpi=dpi[::-1] if dpi and turn in (5, 6, 7, 8) else dpi,
        iptc=_raw(tags, _IPTC),
        photoshop=_raw(tags, _PHOTOSHOP),
    )
    file.seek(0)
    pixels, kind, alpha, more = deep.read_tiff(file.read(), shape)
    notes += more
    return _deep_picture(_upright(pixels, turn), kind, alpha, metadata, notes)


def _is_lossless_webp(file: IO[bytes]) -> bool:
    place = 12
    while True:
        file.seek(place)
        header = file.read(8)
        if len(header) < 8 or header[:4] == b"VP8 ":
            return False
        if header[:4] == b"VP8L":
            return True
        size = int.from_bytes(header[4:], "little")
        # The chunk of an animation's frame holds other chunks, after 16 bytes of its own.
        place += 24 if header[:4] == b"ANMF" else 8 + size + size % 2


def _factory(format: str) -> Callable[[IO[bytes], str], ImageFile]:
    # Not Image.open: its limit of pixels is one global variable, and it loads every plugin there is.
    from importlib import import_module

    from PIL import Image

    plugins = {"PNG": "Png", "JPEG": "Jpeg", "WEBP": "WebP", "BMP": "Bmp", "GIF": "Gif", "PPM": "Ppm"}
    import_module(f"PIL.{plugins.get(format, format.capitalize())}ImagePlugin")
    factory: Callable[[IO[bytes], str], ImageFile] = Image.OPEN[format][0]
    return factory


def _refuse_truncation(file: IO[bytes], format: str) -> None:
    """Refuse what Pillow would make 8 bits of, without a word, and nobody keeps."""
    if format == "PPM":
        file.seek(0)
        fields = re.sub(rb"#[^\n]*\n", b" ", file.read(1024)).split(maxsplit=4)
        if fields[0] in (b"P3", b"P6") and len(fields) > 3 and fields[3].isdigit() and int(fields[3]) > 255:
            raise ImageError("has 16 bits per colour, of which 8 would be lost: convert it to a PNG of 16 bits first")
    elif format == "AVIF" and any(config & 64 for config in _av1_configurations(file)):
        # imagecodecs would read it, but gives neither its transfer function nor its profile.
        raise ImageError(
            "has 10 or 12 bits per colour, of which 2 or 4 would be lost: convert it to a PNG of 16 bits first"
        )


def _av1_configurations(file: IO[bytes]) -> list[int]:
    """Of each picture of an AVIF, the byte that says depth (64), grey (16) and subsampling (8 and 4)."""
    return [box[2] for box in _avif_boxes(file, b"av1C") if len(box) > 2]


def _avif_boxes(file: IO[bytes], name: bytes) -> list[bytes]:
    """What follows each ``name`` in an AVIF's headers."""
    found = []
    file.seek(0)
    while len(header := file.read(8)) == 8:
        place, size = file.tell(), int.from_bytes(header[:4], "big")
        if size < 8:
            break
        if header[4:] in (b"meta", b"moov"):
            found += file.read(min(size - 8, 1 << 20)).split(name)[1:]
        file.seek(place + size - 8)
    return found


def _dpi(value: tuple[Any, Any] | None) -> tuple[float, float] | None:
    """A resolution; None where it is none (0/0) or absurd, which other formats cannot hold."""
    if value is None or not all(0 < float(number) <= _MOST_DPI for number in value):
        return None
    return float(value[0]), float(value[1])


def _metadata(image: ImageFile, format: str, about: _About, notes: list[str]) -> Metadata:
    info = image.info
    exif = info.get("exif")
    if format == "TIFF":
        exif = _tiff_exif(image.getexif(), notes)
    elif exif is None and len(image.getexif()):
        exif = image.getexif().tobytes()
    xmp = info.get("xmp")
    found = Metadata(
        format=format,
        icc=info.get("icc_profile") or None,
        exif=exif if exif and len(exif) > 20 else None,  # 20 bytes hold no tag
        xmp=xmp.encode() if isinstance(xmp, str) else xmp or None,
        # Pillow makes up 1 dpi for a TIFF that says nothing (tag 282).
        dpi=_dpi(info.get("dpi")) if format != "TIFF" or 282 in image.tag_v2 else None,  # type: ignore[attr-defined]
        compression=info.get("compression") if format == "TIFF" else None,
        lossless=about.lossless,
        subsampling=about.subsampling,
        png_chunks=about.light,
        comment=info.get("comment") if isinstance(info.get("comment"), bytes) else None,
    )
    if format == "JPEG":
        from PIL import JpegImagePlugin

        subsampling = JpegImagePlugin.get_sampling(image)
        names = [layer[0] for layer in image.layer]  # type: ignore[attr-defined]
        found.jpeg = {
            "qtables": dict(image.quantization),  # type: ignore[attr-defined]
            # An unusual one becomes none, which loses nothing.
            "subsampling": max(subsampling, 0),
            "progressive": bool(info.get("progressive")),
            "keep_rgb": image.mode == "RGB" and (names == [82, 71, 66] or info.get("adobe_transform") == 0),
        }
        segments: list[tuple[str, bytes]] = image.applist  # type: ignore[attr-defined]
        photoshop = [data[14:] for name, data in segments if name == "APP13" and data[:14] == b"Photoshop 3.0\0"]
        found.photoshop = b"".join(photoshop) or None
        if any(name == "APP1" and data.startswith(b"http://ns.adobe.com/xmp/extension/\0") for name, data in segments):
            notes.append("extended XMP data is left out")
    if format == "TIFF":
        found.iptc, found.photoshop = (_raw(image.getexif(), tag) for tag in (_IPTC, _PHOTOSHOP))
    if format == "PNG":
        texts: dict[str, Any] = getattr(image, "text", {})
        skip = {"XML:com.adobe.xmp", "Raw profile type exif"}
        found.png_text = {key: str(text) for key, text in texts.items() if key not in skip}
    return found


def _raw(tags: Image.Exif, tag: int) -> bytes | None:
    """As it stands in a TIFF: IPTC data may claim to be 32-bit numbers, of which Pillow gives the first."""
    return None if tags._info is None else tags._info._tagdata.get(tag)


def _without_thumbnail(exif: bytes) -> bytes:
    """EXIF data without a link to its second directory, and blank where that has the thumbnail."""
    data = bytearray(exif)
    start = 6 if exif[:6] == b"Exif\0\0" else 0
    order = "<" if exif[start : start + 2] == b"II" else ">"

    def number(at: int, code: str = "I") -> int:
        return int(struct.unpack_from(order + code, data, start + at)[0])

    try:
        link = number(4) + 2 + 12 * number(number(4), "H")
        second = number(link)
        if second:
            places = [second + 2 + 12 * k for k in range(number(second, "H"))]
            values = {number(at, "H"): number(at + 8, "H" if number(at + 2, "H") == 3 else "I") for at in places}
            for place, length in ((513, 514), (273, 279)):  # of a JPEG, or of strips
                at = start + values.get(place, 0)
                if at > start:
                    data[at : at + values.get(length, 0)] = bytes(len(data[at : at + values.get(length, 0)]))
            struct.pack_into(order + "I", data, start + link, 0)
    except struct.error:  # damaged
        return b""
    return bytes(data)


def _without_xmp_thumbnails(xmp: bytes) -> bytes:
    """XMP data without its small copies, in time linear in its length."""
    kept, at = [], 0
    for element in re.finditer(rb"<xmp:Thumbnails\b", xmp):
        if element.start() < at:  # inside the one before
            continue
        end = xmp.find(_THUMBNAILS_END, element.end())
        if end < 0:
            break
        kept.append(xmp[at : element.start()])
        at = end + len(_THUMBNAILS_END)
    return b"".join([*kept, xmp[at:]])


def _without_thumbnails(photoshop: bytes) -> bytes:
    """Photoshop's resources except the small copies; a damaged resource and what follows it are left out."""
    kept, at = [], 0
    while photoshop[at : at + 4] == b"8BIM" and len(photoshop) >= at + 12:
        name = at + 6 + (photoshop[at + 6] + 2) // 2 * 2  # a text with its length before it, of an even number of bytes
        size = int.from_bytes(photoshop[name : name + 4], "big")
        if name + 4 + size > len(photoshop):
            break
        end = name + 4 + (size + 1) // 2 * 2
        if int.from_bytes(photoshop[at + 4 : at + 6], "big") not in (1033, 1036):
            kept.append(photoshop[at:end])
        at = end
    return b"".join(kept)


def _tiff_exif(exif: Image.Exif, notes: list[str]) -> bytes | None:
    """The tags that describe the picture; the others (size, strips, compression) are the old file's."""
    from PIL import Image

    clean, found = Image.Exif(), False
    try:
        for tag in _TIFF_TEXTS + _TIFF_PLACES:
            if tag in exif:
                clean[tag] = exif[tag]
                found = True
        for ifd in _TIFF_IFDS:
            values = dict(exif.get_ifd(ifd))
            # An offset in the old file, which in a TIFF that Pillow wrote points anywhere.
            if values.pop(_INTEROPERABILITY, None) is not None:
                notes.append("the interoperability index of EXIF data is left out")
            if values:
                clean[ifd] = values
                found = True
        return clean.tobytes() if found else None
    except Exception:  # Pillow raises nearly anything for damaged EXIF data
        notes.append(_DAMAGED_EXIF)
        return None


def _to_picture(image: Image.Image, metadata: Metadata, notes: list[str]) -> Picture:
    mode = image.mode
    if 0 in image.size:
        raise ImageError(f"has no pixels: its size is {image.size[0]} x {image.size[1]}")
    if mode == "I" and metadata.format in ("PPM", "PNG"):
        # Pillow's mode for 16-bit grey of these files.
        import numpy as np

        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("has values that 16 bits cannot hold (Pillow's mode I): scale it to 0 to 65535 first")
        return Picture("grey", [values.astype(np.uint16)], None, metadata, notes)
    converted: str | None = None
    if mode in ("P", "PA", "1"):
        clear = mode == "PA" or "transparency" in image.info
        converted = ("LA" if clear else "L") if mode == "1" else ("RGBA" if clear else "RGB")
        names = {"L": "grey", "LA": "grey and alpha"}
        notes.append(f"{'1-bit' if mode == '1' else 'palette'} pixels become 8-bit {names.get(converted, converted)}")
    elif mode in ("L", "RGB") and "transparency" in image.info:
        converted = {"L": "LA", "RGB": "RGBA"}[mode]
        notes.append("the transparent colour becomes an alpha channel")
    elif mode in ("RGBX", "YCbCr", "RGBa", "La"):
        converted = {"RGBX": "RGB", "YCbCr": "RGB", "RGBa": "RGBA", "La": "LA"}[mode]
        notes.append(f"{mode} pixels become {converted}")
    elif mode not in ("L", "LA", "RGB", "RGBA", "CMYK", "I;16", "I;16L", "I;16B", "I;16N"):
        raise ImageError(f"has pixels of a kind that skipae does not restore (Pillow's mode {mode}): convert it first")
    elif "transparency" in image.info:
        notes.append("the transparent colour is lost")
    if converted is not None:
        image = image.convert(converted)
        mode = converted
    alpha = image.getchannel("A") if mode in ("LA", "RGBA") else None
    if mode == "CMYK":
        inks = _to_array(image, 4)
        black = inks[..., 3].copy()
        colours = inks[..., :3].copy()
        colours ^= 255  # ink to light
        return Picture("cmyk", [colours, black], None, metadata, notes)
    if mode in ("RGB", "RGBA"):
        return Picture("rgb", [_to_array(image, 3)], alpha, metadata, notes)
    return Picture("grey", [_to_array(image, 1)], alpha, metadata, notes)


def _to_array(image: Image.Image, channels: int) -> NDArray[Any]:
    """The first ``channels`` channels, [H, W] where it is one."""
    # By strips: Pillow's way takes three times the memory.
    import numpy as np

    width, height = image.size
    sixteen = image.mode.startswith("I;16")
    shape = (height, width) if channels == 1 else (height, width, channels)
    array = np.empty(shape, np.uint16 if sixteen else np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        values = np.asarray(strip)
        if values.ndim == 3:
            values = values[..., 0] if channels == 1 else values[..., :channels]
        array[top:bottom] = values
    return array


def _from_planes(kind: Literal["grey", "rgb", "cmyk"], planes: list[NDArray[Any]]) -> Image.Image:
    import numpy as np
    from PIL import Image

    height, width = planes[0].shape[:2]
    sixteen = planes[0].dtype == np.uint16
    mode = "I;16" if sixteen else {"grey": "L", "rgb": "RGB", "cmyk": "CMYK"}[kind]
    rows = max(1, _STRIP_PIXELS // width)
    image = Image.new(mode, (width, height), None)
    for top in range(0, height, rows):
        strip = planes[0][top : top + rows]
        if kind == "cmyk":
            strip = np.dstack([strip ^ 255, planes[1][top : top + rows]])
        if sixteen:
            strip = strip.astype("<u2")
        piece = Image.frombuffer(mode, (width, len(strip)), np.ascontiguousarray(strip), "raw", mode, 0, 1)
        image.paste(piece, (0, top))
    planes.clear()
    return image


_CARRIES = {
    "PNG": ("icc_profile", "exif", "dpi", "xmp"),
    "JPEG": ("icc_profile", "exif", "dpi", "xmp"),
    "WEBP": ("icc_profile", "exif", "xmp"),
    "TIFF": ("icc_profile", "exif", "dpi", "xmp"),
    "BMP": ("dpi",),
    "GIF": (),
    "AVIF": ("icc_profile", "exif", "xmp"),
    "PPM": (),
}
"""What each format holds, by the names of Pillow's arguments."""


def _fit(image: Image.Image, format: str, metadata: Metadata, notes: list[str]) -> Image.Image:
    """Convert to a mode that the format holds; ``notes`` get what is lost."""
    if image.mode == "CMYK" and format not in ("JPEG", "TIFF"):
        notes.append(f"{format} cannot hold CMYK: converted to RGB")
        image = _cmyk_to_rgb(image, metadata)
    if image.mode in ("LA", "RGBA") and format in ("JPEG", "PPM", "BMP"):
        from PIL import Image

        notes.append(f"{format} cannot hold transparency: laid on white")
        alpha = image.getchannel("A")
        solid = image.convert(image.mode[:-1])
        image = Image.composite(solid, Image.new(solid.mode, solid.size, "white"), alpha)
    if format == "GIF" and image.mode != "L":
        notes.append("GIF cannot hold more than 256 colours: reduced to a palette")
        image = _to_palette(image, notes)
    return image


def _to_palette(image: Image.Image, notes: list[str]) -> Image.Image:
    # Pillow's way for images with alpha merges colours that are far apart.
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    palette = image.convert("RGB").quantize(256 if alpha is None else 255)
    if alpha is not None:
        if any(alpha.histogram()[1:255]):
            notes.append("GIF cannot hold partial transparency: pixels become clear or opaque")
        palette.paste(255, mask=alpha.point(lambda value: 255 * (value < 128)))
        palette.info["transparency"] = 255
    return palette


def _cmyk_to_rgb(image: Image.Image, metadata: Metadata) -> Image.Image:
    """By the embedded profile where there is one; the profile then no longer applies."""
    profile, metadata.icc = metadata.icc, None
    if profile is not None:
        from PIL import ImageCms

        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (OSError, ImageCms.PyCMSError):
            pass  # a profile that is damaged is as good as none
    return image.convert("RGB")


def _arguments(
    image: Image.Image, metadata: Metadata, format: str, quality: int | None, notes: list[str]
) -> dict[str, Any]:
    """Arguments of ``Image.save``; ``notes`` get what is lost."""
    values = {"icc_profile": metadata.icc, "exif": metadata.exif, "xmp": metadata.xmp, "dpi": metadata.dpi}
    named = {"icc_profile": "the colour profile", "exif": "EXIF data", "xmp": "XMP data", "dpi": "the resolution"}
    others: dict[str, tuple[str, object]] = {
        "IPTC or Photoshop data": ("JPEG TIFF", metadata.iptc or metadata.photoshop),
        "texts of a PNG": ("PNG", metadata.png_text),
    }
    others["a comment"] = ("JPEG GIF", metadata.comment)
    light = _light(metadata)
    others[f"how the numbers become light ({light}){' here' if format == 'AVIF' else ''}"] = ("PNG", light)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if value is None:
            continue
        if key not in _CARRIES[format]:
            notes.append(f"{format} cannot hold {named[key]}")
        elif format == "JPEG" and isinstance(value, bytes) and key != "icc_profile" and len(value) > _JPEG_SEGMENT:
            notes.append(f"JPEG cannot hold {named[key]} of {len(value)} bytes")
        else:
            arguments[key] = value
    notes += [
        f"{format} cannot hold {what}" for what, (holds, value) in others.items() if value and format not in holds
    ]
    if metadata.comment is not None and format in ("JPEG", "GIF"):
        arguments["comment"] = metadata.comment
    if format == "JPEG":
        if quality is None and metadata.jpeg:
            arguments |= metadata.jpeg
            if image.mode != "RGB":
                del arguments["subsampling"]
        else:
            arguments["quality"] = QUALITY if quality is None else quality
        arguments["extra"] = _photoshop_segments(metadata)
    elif format == "WEBP":
        if metadata.lossless and quality is None:
            arguments |= {"lossless": True, "exact": True}
        else:
            arguments["quality"] = QUALITY if quality is None else quality
    elif format == "AVIF":
        arguments["quality"] = QUALITY if quality is None else quality
        if metadata.subsampling is not None:
            arguments["subsampling"] = metadata.subsampling
    elif format == "PNG":
        arguments["pnginfo"] = _png_info(metadata, arguments.pop("xmp", None))
    elif format == "TIFF":
        arguments |= _tiff_arguments(metadata, arguments.pop("exif", None), arguments.pop("xmp", None), notes)
    return arguments


def _light(metadata: Metadata) -> str:
    """The chunks that make the numbers other light than sRGB's."""
    chunks = dict(metadata.png_chunks)
    if b"cICP" in chunks:
        return "" if chunks[b"cICP"][:2] in _SRGB_CODES else "cICP"
    if metadata.icc is not None or b"sRGB" in chunks:  # they outweigh the others
        return ""
    return ", ".join(name.decode() for name, value in _SRGB_LIGHT.items() if chunks.get(name, value) != value)


def _photoshop_segments(metadata: Metadata) -> bytes:
    """Of a JPEG."""
    resources = metadata.photoshop or b""
    if metadata.iptc and b"8BIM\x04\x04" not in resources:
        iptc = metadata.iptc + b"\0" * (len(metadata.iptc) % 2)
        resources = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(metadata.iptc)) + iptc + resources
    parts = [resources[k : k + _JPEG_SEGMENT] for k in range(0, len(resources), _JPEG_SEGMENT)]
    return b"".join(b"\xff\xed" + struct.pack(">H", len(part) + 16) + b"Photoshop 3.0\0" + part for part in parts)


def _png_info(metadata: Metadata, xmp: bytes | None) -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for kind, data in metadata.png_chunks:
        info.add(kind, data)
    for key, text in metadata.png_text.items():
        info.add_itxt(key, text)
    if xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", xmp.decode(errors="replace"))
    return info


def _tiff_arguments(metadata: Metadata, exif: bytes | None, xmp: bytes | None, notes: list[str]) -> dict[str, Any]:
    from PIL import Image

    compression = metadata.compression
    if metadata.format != "TIFF" or compression not in _TIFF_LOSSLESS:
        compression = "tiff_adobe_deflate"
    tags = Image.Exif()
    if exif is not None:
        old = Image.Exif()
        old.load(exif)
        tags.load(_tiff_exif(old, notes) or b"")
    if xmp is not None:
        tags[700] = xmp
    if metadata.iptc:
        tags[_IPTC] = metadata.iptc
    if metadata.photoshop:
        tags[_PHOTOSHOP] = metadata.photoshop
    arguments: dict[str, Any] = {"tiffinfo": tags}
    if compression != "raw":
        arguments["compression"] = compression
    return arguments


def _write_tiff(
    file: BinaryIO, pixels: NDArray[Any], kind: Literal["grey", "rgb", "cmyk"], arguments: dict[str, Any]
) -> None:
    from skipae import deep

    more = {"icc": arguments.get("icc_profile"), "dpi": arguments.get("dpi")}
    deep.write_tiff(file, pixels, kind, tags=arguments["tiffinfo"], **more)


class _Plain:
    """A file without ``fileno``: Pillow then writes through Python, whose errors say what happened."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write
        self.seek = file.seek
        self.tell = file.tell
        self.flush = file.flush
        self.read = file.read
