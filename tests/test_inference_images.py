"""Fidelity: what a file says survives, what cannot survive is said, what would be truncated is refused."""

# ruff: noqa: E501 (the tables have a case per line)

from __future__ import annotations

import io
import itertools
import re
import struct
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin

from skipae import ImageError, images
from skipae.files import write_atomically
from skipae.images import Picture, Quality, read_header

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def photo(mode: str = "RGB", size: tuple[int, int] = (37, 22)) -> Image.Image:
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    channels = [(x * 5) % 256, (y * 9) % 256, (x * 2 + y * 3) % 256, 128 + (x % 100)]
    if mode == "I;16":
        return Image.fromarray((channels[0] * 256 + channels[1]).astype(np.uint16))
    bands = {"L": [0], "LA": [0, 3], "RGB": [0, 1, 2], "RGBA": [0, 1, 2, 3], "CMYK": [0, 1, 2, 3]}[mode]
    return Image.merge(mode, [Image.fromarray(channels[k].astype(np.uint8)) for k in bands])


def exif(orientation: int | None = None) -> Image.Exif:
    data = Image.Exif()
    data[ExifTags.Base.Make] = "Camera"
    data[ExifTags.IFD.Exif] = {ExifTags.Base.ISOSpeedRatings: 3200}
    if orientation is not None:
        data[ExifTags.Base.Orientation] = orientation
    loaded = Image.Exif()  # what Pillow writes into a TIFF must have been read
    loaded.load(data.tobytes())
    return loaded


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def passed(data: bytes, format: str | None = None, quality: Quality | None = None) -> tuple[Image.Image, list[str]]:
    """Decoded and encoded without restoring."""
    with read_header(data) as opened:
        picture = opened.decode()
    buffer = io.BytesIO()
    notes = picture.encode(buffer, format=format, quality=quality)
    result = Image.open(io.BytesIO(buffer.getvalue()))
    result.load()
    return result, picture.notes + [str(loss) for loss in notes]


def png(
    bits: int,
    color: int,
    width: int = 3,
    height: int = 2,
    rows: bytes = b"",
    more: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """A whole PNG, of zeros where no rows are given."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    rows = rows or b"".join(b"\0" * (1 + width * channels * bits // 8) for _ in range(min(height, 10)))
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def deep(mode: str) -> NDArray[np.uint16]:
    """16 bits per channel, each value once at most in its row."""
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    values = np.random.default_rng(len(mode)).permutation(22 * 37 * channels).reshape(22, 37, channels) * 19
    return values.astype(np.uint16)[..., 0] if channels == 1 else values.astype(np.uint16)


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **{"photometric": "rgb", "metadata": None, "software": False} | options)
    return buffer.getvalue()


def frames(format: str) -> bytes:
    first = photo().quantize(8) if format == "GIF" else photo()
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format in ("AVIF", "MPO") else {}
    return saved(first, format, save_all=True, append_images=[first.rotate(180), first.rotate(90)], **options)


def pixels_of(data: bytes) -> NDArray[Any]:
    """By other code than ours: [H, W] or [H, W, C], whatever the depth."""
    if data[:4] in (b"II*\0", b"MM\0*"):
        return np.asarray(tifffile.imread(io.BytesIO(data)))
    return np.asarray(imagecodecs.png_decode(data) if data[1:4] == b"PNG" else Image.open(io.BytesIO(data)))


PALETTE = photo().quantize(16)
CLEAR = PALETTE.convert("RGBA")
CLEAR.putalpha(Image.fromarray(np.where(np.asarray(PALETTE) == 3, 0, 255).astype(np.uint8)))
TO_RGB, TO_RGBA = "palette pixels become 8-bit RGB", "palette pixels become 8-bit RGBA"
TO_ALPHA = "the transparent color becomes an alpha channel"
NO_EXIF = "EXIF data is damaged and is left out"
TO_GREY = "1-bit pixels become 8-bit gray"
FIRST = "only the first of 3 pictures is kept"
TO_GIF = "GIF cannot hold more than 256 colors: reduced to a palette"
GRAY_16 = (np.asarray(photo("L")).astype(np.uint16) * 257)[:, :, None]

TIFFS: dict[str, dict[str, Any]] = {
    "plain": {},
    "LZW": {"compression": "lzw", "predictor": True},
    "tiled, zstd": {"compression": "zstd", "tile": (16, 16)},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
}
CASES: list[tuple[str, Any, str | None, str, object, list[str]]] = [
    # what it is, the file, the format asked for, format and mode of the result, its pixels (None: within 12 of those
    # that Pillow decodes), what is said
    *((f"{m} PNG", saved(photo(m), "PNG"), None, f"PNG {m}", photo(m), []) for m in ("L", "LA", "RGB", "RGBA", "I;16")),
    *((f"{m} TIFF", saved(photo(m), "TIFF"), None, f"TIFF {m}", photo(m), []) for m in ("L", "LA", "RGB", "RGBA")),
    *((f"{m} TIFF", saved(photo(m), "TIFF"), None, f"TIFF {m}", photo(m), []) for m in ("CMYK", "I;16")),
    *((f"{m} BMP", saved(photo(m), "BMP"), None, f"BMP {m}", photo(m), []) for m in ("L", "RGB")),
    *((f"{m} PPM", saved(photo(m), "PPM"), None, f"PPM {m}", photo(m), []) for m in ("L", "RGB")),
    ("16-bit PGM", saved(photo("I;16"), "PPM"), None, "PPM I", photo("I;16"), []),
    ("10-bit PGM", b"P5 2 1 1023\n\0\0\3\xff", None, "PPM I", [[0, 65535]], []),
    ("ASCII PPM", b"P3 1 1 15 0 7 15\n", None, "PPM RGB", [[[0, 119, 255]]], []),
    *(
        (f"lossless {m} WebP", saved(photo(m), "WEBP", lossless=True, exact=True), None, f"WEBP {m}", photo(m), [])
        for m in ("RGB", "RGBA")
    ),
    *((f"{m} WebP", saved(photo(m), "WEBP", quality=98), None, f"WEBP {m}", None, []) for m in ("RGB", "RGBA")),
    *((f"{m} JPEG", saved(photo(m), "JPEG", quality=95), None, f"JPEG {m}", None, []) for m in ("L", "RGB", "CMYK")),
    *((f"{m} AVIF", saved(photo(m), "AVIF", quality=95), None, f"AVIF {m}", None, []) for m in ("L", "RGB", "RGBA")),
    ("big-endian 16-bit TIFF", tiff(deep("L"), photometric=1, byteorder=">"), None, "TIFF I;16", deep("L"), []),
    ("TIFF with white 0", tiff(deep("L") >> 8 & 255, photometric=0), None, "TIFF I;16", 65535 - (deep("L") >> 8), []),
    ("8-bit TIFF with white 0", tiff(np.asarray(photo("L")), photometric=0), None, "TIFF L", 255 - GRAY_16[..., 0] // 257, []),
    ("BigTIFF", tiff(np.asarray(photo()), bigtiff=True), None, "TIFF RGB", photo(), []),
    ("planar TIFF", tiff(np.asarray(photo()).transpose(2, 0, 1), planarconfig=2), None, "TIFF RGB", photo(), []),
    ("tiled TIFF", tiff(np.asarray(photo()), tile=(16, 16)), None, "TIFF RGB", photo(), []),
    ("RGB and infrared", tiff(np.asarray(photo("RGBA")), extrasamples=[0]), None, "TIFF RGB", photo(), ["only the first 3 of 4 channels are kept"]),
    # 1 bit, palettes, transparent colors
    ("1-bit PNG", saved(photo("L").convert("1"), "PNG"), None, "PNG L", photo("L").convert("1").convert("L"), [TO_GREY]),
    ("fax TIFF", saved(photo("L").convert("1"), "TIFF", compression="group4"), None, "TIFF L", photo("L").convert("1").convert("L"), [TO_GREY]),
    ("PBM", b"P1 2 1 0 1\n", None, "PPM L", [[255, 0]], [TO_GREY]),
    ("2-bit gray PNG", png(2, 0, 4, 1, b"\0\x1b"), None, "PNG L", [[0, 85, 170, 255]], []),
    ("2-bit gray PNG, 1 clear", png(2, 0, 4, 1, b"\0\x1b", [(b"tRNS", b"\0\1")]), None, "PNG LA", [[[0, 255], [85, 0], [170, 255], [255, 255]]], [TO_ALPHA]),
    ("palette PNG", saved(PALETTE, "PNG"), None, "PNG RGB", PALETTE.convert("RGB"), [TO_RGB]),
    ("4-bit palette PNG, clear", saved(PALETTE, "PNG", bits=4, transparency=3), None, "PNG RGBA", CLEAR, [TO_RGBA]),
    ("palette TIFF", saved(PALETTE, "TIFF"), None, "TIFF RGB", PALETTE.convert("RGB"), [TO_RGB]),
    ("palette BMP", saved(PALETTE, "BMP"), None, "BMP RGB", PALETTE.convert("RGB"), [TO_RGB]),
    ("RGB PNG, a color clear", saved(photo(), "PNG", transparency=(1, 1, 1)), None, "PNG RGBA", photo().convert("RGBA"), [TO_ALPHA]),
    ("GIF", saved(PALETTE, "GIF"), None, "GIF P", PALETTE.convert("RGB"), [TO_RGB, TO_GIF]),
    ("GIF, a color clear", saved(PALETTE, "GIF", transparency=3), None, "GIF P", CLEAR, [TO_RGBA, TO_GIF]),
    ("gray to GIF", saved(photo("L"), "PNG"), "GIF", "GIF P", photo("L").convert("RGB"), []),
    ("RGB to GIF", saved(PALETTE.convert("RGB"), "PNG"), "GIF", "GIF P", PALETTE.convert("RGB"), [TO_GIF]),
    # several pictures: the first
    *((f"{f} of 3", frames(f), None, f"{f} RGB", None, [FIRST]) for f in ("PNG", "WEBP", "TIFF", "AVIF")),
    ("GIF of 3", frames("GIF"), None, "GIF P", None, [TO_RGB, FIRST, TO_GIF]),
    ("JPEG that hides 2", frames("MPO"), None, "JPEG RGB", None, [FIRST]),
    # what the other format cannot hold
    ("RGBA to JPEG", saved(photo("RGBA"), "PNG"), "JPEG", "JPEG RGB", ..., ["JPEG cannot hold transparency: laid on white"]),
    ("LA to PPM", saved(photo("LA"), "PNG"), "PPM", "PPM L", ..., ["PPM cannot hold transparency: laid on white"]),
    ("RGBA to BMP", saved(photo("RGBA"), "PNG"), "BMP", "BMP RGB", ..., ["BMP cannot hold transparency: laid on white"]),
    ("16 bits to JPEG", saved(photo("I;16"), "PNG"), "JPEG", "JPEG L", ..., ["JPEG cannot hold 16 bits: reduced to 8"]),
    ("16 bits to BMP", saved(Image.fromarray(GRAY_16[..., 0]), "PNG"), "BMP", "BMP L", photo("L"), ["BMP cannot hold 16 bits: reduced to 8"]),
    ("CMYK to PNG", saved(photo("CMYK"), "TIFF"), "PNG", "PNG RGB", photo("CMYK").convert("RGB"), ["PNG cannot hold CMYK: converted to RGB"]),
    ("CMYK by a broken profile", saved(photo("CMYK"), "TIFF", icc_profile=b"none"), "PNG", "PNG RGB", photo("CMYK").convert("RGB"), ["PNG cannot hold CMYK: converted to RGB"]),
    ("LA to WebP", saved(photo("LA"), "PNG"), "WEBP", "WEBP RGBA", ..., []),
    ("RGBA to AVIF", saved(photo("RGBA"), "PNG"), "AVIF", "AVIF RGBA", ..., []),
    ("RGBA to GIF", saved(photo("RGBA"), "PNG"), "GIF", "GIF P", ..., [TO_GIF, "GIF cannot hold partial transparency: pixels become clear or opaque"]),
    # EXIF data that is none
    *(
        (f"{f} with damaged EXIF to {to}", saved(photo(), f, exif=b"Exif\0\0none", lossless=True), to, f"{to} RGB", ..., [NO_EXIF])
        for f, to in (("PNG", "PNG"), ("WEBP", "WEBP"), ("JPEG", "TIFF"))
    ),
    # 16-bit color, through the extra `16bit`
    *((f"16-bit {m} PNG", imagecodecs.png_encode(deep(m)), None, "PNG deep", deep(m), []) for m in ("LA", "RGB", "RGBA")),
    ("16-bit gray PNG, 772 clear", png(16, 0, 2, 1, b"\0\1\2\3\4", [(b"tRNS", b"\3\4")]), None, "PNG deep", [[[258, 65535], [772, 0]]], [TO_ALPHA]),
    *(
        (f"16-bit RGB TIFF, {name}", tiff(deep("RGB"), **options), None, "TIFF deep", deep("RGB"), [])
        for name, options in TIFFS.items()
    ),
    ("16-bit planar TIFF", tiff(deep("RGB").transpose(2, 0, 1), planarconfig=2), None, "TIFF deep", deep("RGB"), []),
    ("16-bit RGBA TIFF", tiff(deep("RGBA"), extrasamples=[2]), None, "TIFF deep", deep("RGBA"), []),
    ("16-bit gray and alpha TIFF", tiff(deep("LA"), photometric=1, planarconfig=1, extrasamples=[2]), None, "TIFF deep", deep("LA"), []),
    ("16-bit CMYK TIFF", tiff(deep("CMYK"), photometric=5), None, "TIFF deep", deep("CMYK"), []),
    ("16-bit RGB and infrared", tiff(deep("RGBA"), extrasamples=[0]), None, "TIFF deep", deep("RGBA")[..., :3], ["only the first 3 of 4 channels are kept"]),
    ("multiplied by alpha", tiff(np.array([[[100, 50, 0, 32768]]], np.uint16), extrasamples=[1]), None, "TIFF deep", [[[200, 100, 0, 32768]]], ["colors that were multiplied by alpha are divided by it"]),
    ("16-bit TIFF of 2 pages", tiff(deep("RGB")[None].repeat(3, 0)), None, "TIFF deep", deep("RGB"), [FIRST]),
    ("16-bit PNG to TIFF", imagecodecs.png_encode(deep("RGBA")), "TIFF", "TIFF deep", deep("RGBA"), []),
    ("16-bit TIFF to PNG", tiff(deep("RGB")), "PNG", "PNG deep", deep("RGB"), []),
    ("16-bit color to BMP", tiff(np.asarray(photo()).astype(np.uint16) * 257), "BMP", "BMP RGB", photo(), ["BMP cannot hold 16 bits: reduced to 8"]),
    ("16-bit color to PPM", tiff(np.asarray(photo()).astype(np.uint16) * 257), "PPM", "PPM RGB", photo(), ["PPM cannot hold 16 bits here: reduced to 8"]),
    ("16-bit RGBA to WebP", imagecodecs.png_encode(deep("RGBA")), "WEBP", "WEBP RGBA", ..., ["WEBP cannot hold 16 bits: reduced to 8"]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "to", "becomes", "pixels", "said"), [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_conformance(data: bytes, to: str | None, becomes: str, pixels: Any, said: list[str]) -> None:
    with read_header(data) as opened:
        picture = opened.decode()
    buffer = io.BytesIO()
    notes = picture.encode(buffer, format=to)
    assert picture.notes + [str(loss) for loss in notes] == said
    format, mode = becomes.split()
    written = buffer.getvalue()
    assert images.sniff(written) == format
    if mode == "deep":
        found = pixels_of(written)
        assert found.dtype == np.uint16
    else:
        result: Image.Image = Image.open(io.BytesIO(written))
        assert result.mode == mode
        assert not getattr(result, "is_animated", False)
        if mode == "P":
            result = result.convert(pixels.mode if isinstance(pixels, Image.Image) else "RGB")
        found = np.asarray(result)
    if pixels is None:
        pixels = Image.open(io.BytesIO(data)).convert(result.mode)
        assert np.abs(found.astype(int) - np.asarray(pixels)).mean() < 12
    elif pixels is not ...:
        if mode == "P" and found.shape[2:] == (4,):
            found = found * (found[..., 3:] > 0)
            pixels = np.asarray(pixels) * (np.asarray(pixels)[..., 3:] > 0)
        assert np.array_equal(found, np.asarray(pixels))


REFUSED = [
    ("float TIFF", tiff(np.zeros((2, 2, 3), np.float32)), "holds floating-point pixels"),
    ("half-float TIFF", tiff(np.zeros((2, 2), np.float16), photometric=1), "holds floating-point pixels"),
    ("signed TIFF", tiff(np.zeros((2, 2), np.int16), photometric=1), "holds signed pixels"),
    ("32-bit TIFF", tiff(np.zeros((2, 2), np.uint32), photometric=1), "holds 32-bit pixels"),
    ("Lab TIFF", saved(Image.new("LAB", (3, 3)), "TIFF"), "Pillow's mode LAB): convert it"),
    ("CMYK with alpha", tiff(np.zeros((2, 2, 5), np.uint8), photometric=5, planarconfig=1, extrasamples=[2]), "holds a kind of pixels"),
    ("PFM", b"Pf\n1 1\n-1.0\n\0\0\0\0", "Pillow's mode F): convert it"),
    ("16-bit PPM", b"P6 1 1 65535\n" + bytes(6), "has 16 bits per color, of which 8 would be lost: convert it to a PNG"),
    ("10-bit PPM", b"P6\n# x\n1 1\n1023\n" + bytes(6), "has 16 bits per color, of which 8 would be lost"),
    ("16-bit color PNG, damaged", imagecodecs.png_encode(deep("RGB"))[:-900], "is damaged and cannot be decoded as PNG"),
    ("16-bit color TIFF, cut", tiff(deep("RGB"))[:-9], "is damaged and cannot be decoded as TIFF"),
    ("16-bit color TIFF without a strip", tiff(deep("RGB"), rowsperstrip=11).replace(struct.pack("<HHI", 273, 4, 2), struct.pack("<HHI", 273, 4, 1)), "strips are missing"),
    ("16-bit color TIFF, damaged", tiff(deep("RGB"), compression="lzw")[:-900], "is damaged and cannot be decoded as T"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED])
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=re.escape(message)), read_header(data) as opened:
        opened.decode()


@pytest.mark.parametrize(
    "data", [png(16, 2), png(16, 4), png(16, 6), tiff(deep("RGB")), tiff(deep("CMYK"), photometric=5)]
)
def test_16_bit_color_without_the_extra(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipae.images.extra.find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r'of which 8 would be lost: to keep them, type: pip install ".*\[16bit\]"'):
        read_header(data)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_color_keeps_what_the_file_says(format: str, turn: int) -> None:
    # Written by ourselves from an upright picture, then given an orientation.
    small = saved(photo(), "JPEG", exif=exif(turn), icc_profile=SRGB, xmp=b"<x/>", dpi=(300, 150))
    with read_header(small) as opened:
        metadata = opened.decode().metadata
    pixels = deep("RGB")
    picture = Picture("rgb", [pixels.copy()], None, metadata, [])
    buffer = io.BytesIO()
    assert picture.encode(buffer, format=format) == []
    result = Image.open(io.BytesIO(buffer.getvalue()))
    assert result.info["dpi"] == pytest.approx((150, 300) if turn > 4 else (300, 150), abs=0.1)
    assert result.info["icc_profile"] == SRGB and result.info["xmp"] == b"<x/>"
    assert result.getexif()[ExifTags.Base.Make] == "Camera"
    assert result.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 3200
    # The turning itself, beside Pillow's of the same file in 8 bits.
    orientation = exif(turn) if format == "PNG" else exif(turn).tobytes()
    turned = [saved(photo(), format, exif=orientation)]
    if format == "PNG":
        turned.append(deep_png_like(turned[0], np.asarray(photo()).astype(np.uint16) * 257))
    else:
        xmp = f'<a tiff:Orientation="{turn}"/>'.encode()
        tags = [(274, 3, 1, turn, True), (700, 1, len(xmp), xmp, True)]
        turned.append(tiff(np.asarray(photo()).astype(np.uint16) * 257, extratags=tags))
    eight, sixteen = (read_header(data).decode().planes[0] for data in turned)
    if format == "TIFF":
        assert read_header(turned[1]).decode().metadata.xmp == b"<a/>"
    assert np.array_equal(sixteen, eight.astype(np.uint16) * 257)


def deep_png_like(data: bytes, pixels: NDArray[Any]) -> bytes:
    """Another PNG's chunks around these pixels."""
    from skipae.images.png import encode_16bit

    return encode_16bit(pixels, data)


def test_16_bit_color_cannot_become_a_pil_image() -> None:
    with read_header(png(16, 2)) as opened, pytest.raises(ImageError, match=r"a PIL\.Image cannot hold"):
        opened.decode().to_pil()


# docs/images.md is the specification of what each format holds.

DOCS = (Path(__file__).parent.parent / "docs" / "images.md").read_text(encoding="utf-8")


def rows_after(heading: str) -> list[list[str]]:
    lines = itertools.takewhile(lambda line: not line.startswith("## "), DOCS.partition(heading)[2].splitlines()[1:])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [rows[0], *rows[2:]]


HOLDS = rows_after("## What each format holds")


@pytest.mark.parametrize("row", HOLDS[1:], ids=lambda row: row[0])
def test_what_the_docs_say_each_format_holds(row: list[str]) -> None:
    about = {"exif": exif(), "icc_profile": SRGB, "xmp": b"<x/>", "dpi": (300, 300)}
    files = {
        "16-bit gray": (saved(photo("I;16"), "PNG"), "16 bits"),
        "16-bit color": (png(16, 2), "16 bits"),
        "alpha": (saved(photo("RGBA"), "PNG"), "transparency"),
        "CMYK": (saved(photo("CMYK"), "TIFF"), "CMYK"),
        "ICC profile": (saved(photo(), "JPEG", **about), "the color profile"),
        "EXIF": (saved(photo(), "JPEG", **about), "EXIF"),
        "XMP": (saved(photo(), "JPEG", **about), "XMP"),
        "resolution": (saved(photo(), "JPEG", **about), "the resolution"),
    }
    assert HOLDS[0] == ["format", *files] and [row[0] for row in HOLDS[1:]] == list(images.FORMATS)
    if not images.FORMATS[row[0]].is_installed:
        pytest.skip("its extra is not installed")
    for (what, (data, name)), cell in zip(files.items(), row[1:], strict=True):
        with read_header(data) as opened:
            notes = opened.decode().encode(io.BytesIO(), format=row[0])
        lost = [note for note in notes if re.search(rf"cannot hold (partial )?{name}", str(note))]
        assert bool(lost) == (cell != "yes"), (what, cell, notes)


def test_the_docs_have_the_table_of_the_formats() -> None:
    assert images.formats.table() in DOCS
    for row in images.FORMATS.values():
        assert all(images.SUFFIXES[suffix] == row.name for suffix in row.suffixes)


def test_what_the_docs_quote_is_said() -> None:
    said = {note for case in CASES for note in case[5]} | {
        "HEIC cannot hold 12 bits here: reduced to 10"
    }  # test_heic.py
    quoted = [cell.strip("`") for _, _, cell in rows_after("## What becomes of each kind of file")[1:] if cell]
    assert len(quoted) == 8 and set(quoted) <= said


def test_large_images_go_by_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipae.images.raster._STRIP_PIXELS", 37 * 5)
    for mode in ("L", "LA", "RGB", "RGBA", "CMYK", "I;16"):
        image = photo(mode)
        assert passed(saved(image, "TIFF"))[0].tobytes() == image.tobytes(), mode


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", None])
def test_tiff_compression_is_kept(compression: str | None) -> None:
    result, _ = passed(saved(photo(), "TIFF", compression=compression))
    assert result.info["compression"] == (compression or "raw")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_applied_and_the_rest_of_exif_kept(format: str, orientation: int) -> None:
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    if format in ("JPEG", "AVIF"):
        options = {"quality": 100, "subsampling": 0 if format == "JPEG" else "4:4:4"}
    upright = photo()
    # Stored such that a viewer that applies the orientation sees ``upright``.
    undo = Image.Transpose
    inverse = {
        2: undo.FLIP_LEFT_RIGHT,
        3: undo.ROTATE_180,
        4: undo.FLIP_TOP_BOTTOM,
        5: undo.TRANSPOSE,
        6: undo.ROTATE_90,
        7: undo.TRANSVERSE,
        8: undo.ROTATE_270,
    }.get(orientation)
    stored = upright if inverse is None else upright.transpose(inverse)
    result, notes = passed(saved(stored, format, exif=exif(orientation), **options))
    assert notes == []
    assert result.size == upright.size
    assert np.abs(np.asarray(result).astype(int) - np.asarray(upright)).mean() < 4
    found = result.getexif()
    assert found.get(ExifTags.Base.Orientation, 1) == 1
    assert found[ExifTags.Base.Make] == "Camera"
    assert found.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 3200


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_profile_and_xmp(format: str) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">title</x:xmpmeta>'
    options: dict[str, Any] = {"xmp": xmp, "icc_profile": SRGB}
    if format == "PNG":
        from PIL.PngImagePlugin import PngInfo

        del options["xmp"]
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    elif format == "TIFF":
        del options["xmp"]
        options["tiffinfo"] = {700: xmp}
    result, notes = passed(saved(photo(), format, **options))
    assert notes == []
    assert result.info["icc_profile"] == SRGB
    assert result.info["xmp"] == xmp


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_resolution(format: str) -> None:
    result, notes = passed(saved(photo(), format, dpi=(300, 150)))
    assert result.info["dpi"] == pytest.approx((300, 150), abs=0.1) and notes == []


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "BMP"])
def test_a_resolution_that_is_none(format: str) -> None:
    plain = saved(photo(), "TIFF", dpi=(300, 300))
    for wrong in (0, 0), (1, 0), (0, 1), (4_000_000_000, 1):
        data = plain.replace(struct.pack("<II", 300, 1), struct.pack("<II", *wrong))
        assert data != plain
        result, notes = passed(data, format)
        assert notes == [] and result.info.get("dpi", (96,))[0] < 97  # Pillow makes one up for TIFF and BMP


def test_png_gamma_and_texts() -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add(b"gAMA", struct.pack(">I", 100_000))
    info.add_text("Title", "a photo")
    result, _ = passed(saved(photo(), "PNG", pnginfo=info))
    assert result.info["gamma"] == 1 and result.text["Title"] == "a photo"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("quality", "subsampling"), [(60, 0), (75, 1), (92, 2)])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_jpeg_subsampling_is_kept_and_its_tables_on_demand(
    quality: int, subsampling: int, progressive: bool, kept: bool
) -> None:
    data = saved(photo(), "JPEG", quality=quality, subsampling=subsampling, progressive=progressive, comment=b"hi")
    before = Image.open(io.BytesIO(data) if kept else io.BytesIO(saved(photo(), "JPEG", quality=95)))
    after, notes = passed(data, quality="keep" if kept else None)
    assert after.quantization == before.quantization  # type: ignore[attr-defined]
    assert JpegImagePlugin.get_sampling(after) == subsampling
    assert bool(after.info.get("progressive")) == progressive
    assert after.info["comment"] == b"hi" and notes == []


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_jpegs(mode: str) -> None:
    data = saved(photo(mode), "JPEG", quality=90)
    before = Image.open(io.BytesIO(data))
    after, notes = passed(data, quality="keep")
    assert after.mode == mode and notes == []
    assert after.quantization == before.quantization  # type: ignore[attr-defined]
    assert np.abs(np.asarray(after).astype(int) - np.asarray(before)).max() <= 6


def test_quality() -> None:
    data = saved(photo(size=(200, 150)), "JPEG", quality=90)
    coarse, fine = (passed(data, quality=q)[0].quantization[0][0] for q in (20, 98))  # type: ignore[attr-defined]
    assert coarse > fine
    from_png, _ = passed(saved(photo(), "PNG"), format="JPEG")
    reference = Image.open(io.BytesIO(saved(photo(), "JPEG", quality=95)))
    assert from_png.quantization == reference.quantization  # type: ignore[attr-defined]
    kept, _ = passed(saved(photo(), "PNG"), format="JPEG", quality="keep")  # nothing to keep
    assert kept.quantization == reference.quantization  # type: ignore[attr-defined]
    webp = [len(saved_as(data, "WEBP", q)) for q in (20, 98)]
    avif = [len(saved_as(data, "AVIF", q)) for q in (20, 98)]
    assert webp[0] < webp[1] and avif[0] < avif[1]


@pytest.mark.parametrize(
    ("format", "options", "subsampling"),
    [
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 90}, 2),
        ("AVIF", {"subsampling": "4:4:4"}, 0),
        ("AVIF", {"subsampling": "4:2:2"}, 1),
        ("AVIF", {"subsampling": "4:2:0"}, 2),
    ],
)
def test_a_jpeg_has_the_color_resolution_of_its_input(format: str, options: dict[str, Any], subsampling: int) -> None:
    result, _ = passed(saved(photo(), format, **options), format="JPEG")
    assert JpegImagePlugin.get_sampling(result) == subsampling


def saved_as(data: bytes, format: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    with read_header(data) as opened:
        opened.decode().encode(buffer, format=format, quality=quality)
    return buffer.getvalue()


def test_what_only_one_format_holds_is_kept_or_missed() -> None:
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x0a\x1c\x02\x50\0\x05Alice"
    plain = saved(photo(), "JPEG", comment=b"hi")
    jpeg = plain[:2] + b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc + plain[2:]
    result, notes = passed(jpeg)
    assert result.applist[-1] == ("APP13", iptc) or (("APP13", iptc) in result.applist and notes == [])  # type: ignore[attr-defined]
    assert passed(jpeg, format="PNG")[1] == ["PNG cannot hold IPTC or Photoshop data", "PNG cannot hold a comment"]
    light = png(8, 2, more=[(b"cICP", bytes([9, 16, 0, 1])), (b"tEXt", b"Title\0a photo")])
    buffer = io.BytesIO()
    with read_header(light) as opened:
        assert opened.decode().encode(buffer) == []
    assert b"cICP\x09\x10\0\1" in buffer.getvalue() and b"a photo" in buffer.getvalue()
    assert passed(light, format="TIFF")[1] == [
        "TIFF cannot hold texts of a PNG",
        "TIFF cannot hold how the numbers become light (cICP)",
    ]
    place = {33550: (12, 3, (0.5, 0.5, 0.0)), 34735: (3, 4, (1, 1, 0, 0))}
    geo = tiff(np.asarray(photo()), extratags=[(tag, *value, True) for tag, value in place.items()])
    for format in ("TIFF", "PNG", "JPEG", "WEBP", "AVIF"):
        result, notes = passed(geo, format)
        found = result.getexif()
        assert {tag: found[tag] for tag in place} == {tag: value[2] for tag, value in place.items()} and notes == []


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ({b"gAMA": (100_000,)}, "gAMA"),
        ({b"gAMA": (45_455,), b"cHRM": (31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000)}, "cHRM"),
        ({b"gAMA": (45_455,), b"cHRM": (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)}, None),
        ({b"gAMA": (100_000,), b"cICP": (0x010D0001,)}, None),
    ],
)
def test_gamma_and_chromaticities_are_missed(chunks: dict[bytes, tuple[int, ...]], said: str | None) -> None:
    data = png(8, 2, more=[(name, struct.pack(f">{len(values)}I", *values)) for name, values in chunks.items()])
    lost = [] if said is None else [f"JPEG cannot hold how the numbers become light ({said})"]
    assert passed(data, "JPEG")[1] == lost and passed(data, "PNG")[1] == []
    profile = (b"iCCP", b"sRGB\0\0" + zlib.compress(SRGB))  # outweighs gamma and chromaticities
    with_profile = png(8, 2, more=[profile, (b"gAMA", struct.pack(">I", 100_000))])
    assert passed(with_profile, "JPEG")[1] == []


def test_colors_of_an_avif_without_a_profile() -> None:
    plain = saved(photo(), "AVIF")
    p3 = plain.replace(b"colrnclx\0\1\0\x0d", b"colrnclx\0\x0c\0\x0d")
    assert p3 != plain and passed(plain, "PNG")[1] == passed(plain)[1] == []
    assert passed(p3)[1] == ["AVIF cannot hold how the numbers become light (cICP)"]
    assert passed(p3, "JPEG")[1] == ["JPEG cannot hold how the numbers become light (cICP)"]
    buffer = io.BytesIO()
    with read_header(p3) as opened:
        assert opened.decode().encode(buffer, format="PNG") == []
    assert b"cICP\x0c\x0d\0\1" in buffer.getvalue()
    profile = saved(photo(), "AVIF", icc_profile=SRGB)
    both = profile.replace(b"colrnclx\0\2", b"colrnclx\0\x0c")
    assert both != profile and passed(both, "PNG")[1] == []


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize(("kind", "byteorder"), [(7, "<"), (4, "<"), (4, ">")])  # bytes, or as if 32-bit numbers
def test_iptc_of_a_tiff(compression: str | None, byteorder: str, kind: int) -> None:
    iptc = b"\x1c\x02\x50\0\x05Alice\0\0"
    resources = b"8BIM\x04\x0a\0\0\0\0\0\x04abcd"
    values = iptc if kind == 7 else struct.unpack(f"{byteorder}3I", iptc)
    tags: list[Any] = [(33723, kind, len(values), values, True), (34377, 1, len(resources), resources, True)]
    tags += [(269, 2, 0, "roll 5", True), (285, 2, 0, "frame 7", True)]
    for pixels in (np.asarray(photo()), deep("RGB")):
        data = tiff(pixels, compression=compression, byteorder=byteorder, extratags=tags)
        buffer = io.BytesIO()
        with read_header(data) as opened:
            assert opened.decode().encode(buffer) == []
        with tifffile.TiffFile(io.BytesIO(buffer.getvalue())) as file:
            found = {tag: file.pages.first.tags[tag].value for tag in (33723, 34377, 269, 285)}
        assert found == {33723: iptc, 34377: resources, 269: "roll 5", 285: "frame 7"}
    data = tiff(np.asarray(photo()), byteorder=byteorder, extratags=tags)
    result, notes = passed(data, "JPEG")
    assert notes == [] and result.info["photoshop"] == {0x0404: iptc, 0x040A: b"abcd"}
    assert passed(data, "PNG")[1] == ["PNG cannot hold IPTC or Photoshop data"]


def test_photoshop_data_of_several_segments() -> None:
    resources = b"8BIM\x04\x24\0\0" + struct.pack(">I", 100_000) + bytes(100_000)
    parts = (b"Photoshop 3.0\0" + part for part in (resources[:60_000], resources[60_000:]))
    plain = saved(photo(), "JPEG")
    jpeg = plain[:2] + b"".join(b"\xff\xed" + struct.pack(">H", len(part) + 2) + part for part in parts) + plain[2:]
    with read_header(jpeg) as opened:
        assert opened.decode().metadata.photoshop == resources
    for format in ("JPEG", "TIFF"):
        buffer = io.BytesIO()
        with read_header(jpeg) as opened:
            assert opened.decode().encode(buffer, format=format) == []
        with read_header(buffer.getvalue()) as opened:
            assert opened.decode().metadata.photoshop == resources


@pytest.mark.parametrize("format", ["JPEG", "TIFF", "PNG"])
def test_the_interoperability_index_is_kept(format: str) -> None:
    data = exif()
    data.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: "R98", 2: b"0100"}
    result, notes = passed(saved(photo(), "JPEG", exif=data.tobytes()), format)
    assert notes == [] and result.getexif().get_ifd(ExifTags.IFD.Interop)[1] == "R98"


def test_extended_xmp_stays_in_a_jpeg_and_is_missed_elsewhere() -> None:
    note = b'<a xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="AAAA"/>'
    more = b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32 + struct.pack(">II", 4, 0) + b"<y/>"
    plain = saved(photo(), "JPEG", xmp=note)
    jpeg = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(more) + 2) + more + plain[2:]
    result, notes = passed(jpeg)
    assert notes == [] and ("APP1", more) in result.applist and result.info["xmp"] == note  # type: ignore[attr-defined]
    result, notes = passed(jpeg, "WEBP")
    assert notes == ["WEBP cannot hold the segment extended XMP"]
    assert result.info["xmp"] == b'<a xmlns:xmpNote="http://ns.adobe.com/xmp/note/"/>'


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_avif_subsampling_is_kept(subsampling: str) -> None:
    with read_header(saved(photo(), "AVIF", subsampling=subsampling)) as opened:
        picture = opened.decode()
    buffer = io.BytesIO()
    picture.encode(buffer)
    with read_header(buffer.getvalue()) as opened:
        assert opened.decode().metadata.subsampling == subsampling == picture.metadata.subsampling


def test_jpeg_of_rgb_stays_rgb() -> None:
    result, notes = passed(saved(photo(), "JPEG", quality=95, keep_rgb=True))
    assert [layer[0] for layer in result.layer] == [82, 71, 66] and notes == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "data",
    [
        saved(photo(), "JPEG", dpi=(300, 150), exif=exif(6)),
        saved(photo(), "TIFF", dpi=(300, 150), exif=exif(6).tobytes()),
        tiff(deep("RGB"), resolution=(300, 150), resolutionunit=2, extratags=[(274, 3, 1, 6, True)]),
    ],
)
def test_resolution_turns_with_the_image(data: bytes) -> None:
    assert passed(data)[0].info["dpi"] == (150, 300)


def test_images_in_memory_are_not_wrapped_round() -> None:
    with pytest.raises(ImageError, match="has values that 16 bits cannot hold"):
        images.from_pil(Image.fromarray(np.array([[-5, 70_000]], np.int32)))


def test_jpeg_to_tiff_has_the_new_file_s_structure() -> None:
    # Pillow copies the size and the compression of the old file when it is given all of its EXIF.
    upright, turned = photo(), photo().size[::-1]
    plain = Image.Exif()
    plain[ExifTags.Base.Make], plain[ExifTags.Base.Orientation] = "Camera", 6
    result, notes = passed(saved(upright, "TIFF", exif=plain, compression="tiff_lzw"))
    assert (result.size, result.info["compression"], notes) == (turned, "tiff_lzw", [])
    assert result.getexif()[ExifTags.Base.Make] == "Camera"
    xmp = b"<x:xmpmeta>title</x:xmpmeta>"
    result, notes = passed(saved(upright, "JPEG", exif=exif(6), xmp=xmp), format="TIFF")
    assert result.size == turned and result.getexif()[ExifTags.Base.Make] == "Camera"
    assert result.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 3200
    assert result.info["xmp"] == xmp
    assert notes == [] and result.info["compression"] == "tiff_adobe_deflate"
    assert result.tobytes() == Image.open(io.BytesIO(saved(upright, "JPEG"))).rotate(-90, expand=True).tobytes()


def test_deep_avif_is_refused() -> None:
    data = saved(photo(), "AVIF")
    place = data.index(b"av1C") + 6
    deep = data[:place] + bytes([data[place] | 0x40]) + data[place + 1 :]
    with pytest.raises(ImageError, match="has 10 or 12 bits"):
        read_header(deep)
    assert passed(data)[0].size == photo().size


def broken() -> list[tuple[bytes, str]]:
    jpeg, whole = saved(photo(size=(200, 200)), "JPEG"), saved(photo(size=(200, 200)), "PNG")
    return [
        (b"", "is empty"),
        (b"hello, this is text\n", r"is not a supported image \(PNG, .*\): it is text"),
        (bytes(range(200)), r"is not a supported image \(PNG, .*\)$"),
        (jpeg[: len(jpeg) // 2], "is damaged and cannot be decoded as JPEG"),
        (jpeg[:30], "is damaged and cannot be decoded as JPEG"),
        (whole[: len(whole) // 2], "is damaged and cannot be decoded as PNG"),
        (whole[:20], "is damaged and cannot be decoded as PNG"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "is damaged and cannot be decoded as WEBP"),
        (b"II*\0\xff\xff\xff\xff", "is damaged and cannot be decoded as TIFF"),
        (b"GIF89a", "is damaged and cannot be decoded as GIF"),
        (b"P6 9", "is damaged and cannot be decoded as PPM"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "is damaged and cannot be decoded as AVIF"),
        (
            png(8, 2, 100_000, 100_000),
            "has 100000 x 100000 = 10000000000 pixels, more than 178956970; use a larger max_pixels",
        ),
        (b"P6 100000 100000 255\n", "more than 178956970"),
    ]


@pytest.mark.parametrize(("data", "message"), broken())
def test_broken_files(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught, read_header(data) as opened:
        opened.decode()
    assert "\n" not in str(caught.value)


HOSTILE_XMP = [b" " * 3_000_000, b"<xmp:Thumbnails " * 200_000, b'tiff:Orientation="' * 170_000]


@pytest.mark.parametrize("xmp", HOSTILE_XMP, ids=lambda xmp: xmp[:16].decode())
def test_hostile_xmp_takes_linear_time(xmp: bytes) -> None:
    turned = tiff(deep("RGB"), extratags=[(274, 3, 1, 6, True), (700, 1, len(xmp), xmp, True)])
    start = time.process_time()
    with read_header(turned) as opened:
        picture = opened.decode()
    picture.drop_thumbnails()
    assert time.process_time() - start < 1
    assert picture.metadata.xmp == xmp


def test_thumbnails_of_xmp_are_left_out() -> None:
    one = b"<xmp:Thumbnails><rdf:Alt>x</rdf:Alt></xmp:Thumbnails>"
    for xmp, left in [
        (b"<a>" + one + b"<b/>" + one + b"</a>", b"<a><b/></a>"),
        (b"<xmp:Thumbnails>" + one + b"</a>", b"</a>"),
        (b"<xmp:ThumbnailsX>" + one, b"<xmp:ThumbnailsX>"),
        (b"<a>" + one[:-1], b"<a>" + one[:-1]),
    ]:
        picture = Picture("gray", [np.zeros((2, 2), np.uint8)], None, images.Metadata("PNG", xmp=xmp), [])
        picture.drop_thumbnails()
        assert picture.metadata.xmp == left
        assert bool(picture.notes) == (left != xmp)


def test_photoshop_data_cut_anywhere_loses_the_cut_resource_alone() -> None:
    first, second = b"8BIM\x04\x04\0\0\0\0\0\x04abcd", b"8BIM\x04\x0a\x03abc\0\0\0\x04abcd"
    thumbnail = b"8BIM\x04\x0c\0\0\0\0\0\x02xy"
    for length in range(len(thumbnail + second) + 1):
        found = images.Metadata("JPEG", photoshop=first + (thumbnail + second)[:length])
        picture = Picture("gray", [np.zeros((2, 2), np.uint8)], None, found, [])
        picture.drop_thumbnails()
        assert found.photoshop == first + (second if length == len(thumbnail + second) else b"")
    many = b"8BIM\x04\x04\0\0\0\0\0\0" * 250_000
    picture = Picture("gray", [np.zeros((2, 2), np.uint8)], None, images.Metadata("JPEG", photoshop=many), [])
    start = time.process_time()
    picture.drop_thumbnails()
    assert time.process_time() - start < 1 and picture.metadata.photoshop == many


def test_samples_of_a_tiff_count_as_pixels() -> None:
    data = tiff(np.zeros((30, 20, 60), np.uint16), planarconfig=1, photometric="rgb", extrasamples=[0] * 57)
    message = "has 20 x 30 = 600 pixels of 60 samples, which count as 9000, more than 8999; use a larger max_pixels"
    with pytest.raises(ImageError, match=message):
        read_header(data, max_pixels=8999)
    with read_header(data, max_pixels=9000) as opened:
        assert opened.decode().notes == ["only the first 3 of 60 channels are kept"]


def test_a_tiff_that_says_it_is_deep_in_images() -> None:
    plain = tiff(deep("RGB"), extratags=[(65000, 4, 1, 4, True)])
    data = plain.replace(struct.pack("<HHII", 65000, 4, 1, 4), struct.pack("<HHII", 32997, 4, 1, 4))
    assert data != plain
    with pytest.raises(ImageError, match="its tags contradict each other"), read_header(data) as opened:
        opened.decode()


def test_max_pixels_can_be_changed() -> None:
    data = saved(photo(), "PNG")
    assert read_header(data, max_pixels=37 * 22).size == (37, 22)
    with pytest.raises(ImageError, match=r"more than 813; use a larger max_pixels if"):
        read_header(data, max_pixels=813)


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(saved(photo(), "PNG"))
    with read_header(path) as opened:
        assert opened.format == "PNG"


def test_unreadable_paths(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "none.png", "no such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "a\0b.png", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=message):
            read_header(path)


class FullDisk(io.BytesIO):
    """Takes 100 bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 100:
            raise OSError(28, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("format", [row.name for row in images.FORMATS.values() if row.is_installed])
def test_a_full_disk_is_named(format: str, tmp_path: Path) -> None:
    with read_header(saved(photo(size=(64, 64)), "PNG")) as opened:
        picture = opened.decode()

    def write(file: Any) -> None:
        full = FullDisk()
        picture.encode(full, format=format)

    with pytest.raises(ImageError, match="No space left on device"):
        write_atomically(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_a_format_cannot_hold() -> None:
    with read_header(saved(Image.new("L", (70_000, 1)), "PNG")) as opened:
        picture: Picture = opened.decode()
    with pytest.raises(ImageError, match="cannot be written as JPEG"):
        picture.encode(io.BytesIO(), format="JPEG")
