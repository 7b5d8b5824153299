"""Fidelity: what a file says survives, what cannot survive is said, what would be truncated is refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin

from skipae import ImageError, images
from skipae.images import Picture, open_image, write_atomically

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


def passed(data: bytes, format: str | None = None, quality: int | None = None) -> tuple[Image.Image, list[str]]:
    """Decoded and encoded without restoring."""
    with open_image(data) as opened:
        picture = opened.decode()
    buffer = io.BytesIO()
    notes = picture.encode(buffer, format=format, quality=quality)
    result = Image.open(io.BytesIO(buffer.getvalue()))
    result.load()
    return result, picture.notes + notes


LOSSLESS = [("PNG", mode) for mode in ("L", "LA", "RGB", "RGBA", "I;16")]
LOSSLESS += [("TIFF", mode) for mode in ("L", "LA", "RGB", "RGBA", "CMYK", "I;16")]
LOSSLESS += [("BMP", "L"), ("BMP", "RGB"), ("PPM", "L"), ("PPM", "RGB")]


@pytest.mark.parametrize(("format", "mode"), LOSSLESS)
def test_lossless_formats_keep_every_pixel(format: str, mode: str) -> None:
    image = photo(mode)
    result, notes = passed(saved(image, format))
    assert (result.format, result.mode, result.tobytes()) == (format, mode, image.tobytes())
    assert notes == []


def test_large_images_go_by_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_STRIP_PIXELS", 37 * 5)
    for format, mode in LOSSLESS:
        image = photo(mode)
        assert passed(saved(image, format))[0].tobytes() == image.tobytes(), (format, mode)


def test_16_bit_pgm() -> None:
    image = photo("I;16")
    result, notes = passed(saved(image, "PPM"))
    assert np.array_equal(np.asarray(result), np.asarray(image)) and notes == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_lossless_webp_stays_lossless(mode: str) -> None:
    image = photo(mode)
    assert passed(saved(image, "WEBP", lossless=True, exact=True))[0].tobytes() == image.tobytes()


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


def test_png_gamma_and_texts() -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add(b"gAMA", struct.pack(">I", 100_000))
    info.add_text("Title", "a photo")
    result, _ = passed(saved(photo(), "PNG", pnginfo=info))
    assert result.info["gamma"] == 1 and result.text["Title"] == "a photo"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("quality", "subsampling"), [(60, 0), (75, 1), (92, 2)])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_tables_and_subsampling_are_kept(quality: int, subsampling: int, progressive: bool) -> None:
    data = saved(photo(), "JPEG", quality=quality, subsampling=subsampling, progressive=progressive, comment=b"hi")
    before = Image.open(io.BytesIO(data))
    after, notes = passed(data)
    assert after.quantization == before.quantization  # type: ignore[attr-defined]
    assert JpegImagePlugin.get_sampling(after) == subsampling
    assert bool(after.info.get("progressive")) == progressive
    assert after.info["comment"] == b"hi" and notes == []


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_jpegs(mode: str) -> None:
    data = saved(photo(mode), "JPEG", quality=90)
    before = Image.open(io.BytesIO(data))
    after, notes = passed(data)
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
    webp = [len(saved_as(data, "WEBP", q)) for q in (20, 98)]
    avif = [len(saved_as(data, "AVIF", q)) for q in (20, 98)]
    assert webp[0] < webp[1] and avif[0] < avif[1]


def saved_as(data: bytes, format: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    with open_image(data) as opened:
        opened.decode().encode(buffer, format=format, quality=quality)
    return buffer.getvalue()


def test_palette_becomes_colour_and_says_so() -> None:
    image = photo().quantize(16)
    result, notes = passed(saved(image, "PNG"))
    assert result.mode == "RGB" and result.tobytes() == image.convert("RGB").tobytes()
    assert notes == ["palette pixels become 8-bit RGB"]
    clear, notes = passed(saved(image, "PNG", transparency=3))
    assert clear.mode == "RGBA" and notes == ["palette pixels become 8-bit RGBA"]


def test_one_bit_becomes_grey_and_says_so() -> None:
    result, notes = passed(saved(photo("L").convert("1"), "PNG"))
    assert result.mode == "L" and notes == ["1-bit pixels become 8-bit grey"]


def test_a_transparent_colour_becomes_alpha() -> None:
    result, notes = passed(saved(photo(), "PNG", transparency=(0, 0, 0)))
    assert result.mode == "RGBA" and notes == ["the transparent colour becomes an alpha channel"]


def test_gif_takes_the_first_frame() -> None:
    first, second = photo().quantize(8), photo().rotate(180).quantize(8)
    data = saved(first, "GIF", save_all=True, append_images=[second])
    result, notes = passed(data)
    assert result.format == "GIF" and not result.is_animated  # type: ignore[attr-defined]
    assert np.abs(np.asarray(result.convert("RGB")).astype(int) - np.asarray(first.convert("RGB"))).mean() < 8
    assert "only the first of 2 pictures is kept" in notes
    assert any("256 colours" in note for note in notes)


def test_tiff_of_two_pages_takes_the_first() -> None:
    data = saved(photo(), "TIFF", save_all=True, append_images=[photo().rotate(180)])
    result, notes = passed(data)
    assert result.tobytes() == photo().tobytes() and notes == ["only the first of 2 pictures is kept"]


@pytest.mark.parametrize(
    ("mode", "format", "becomes", "said"),
    [
        ("RGBA", "JPEG", "RGB", "JPEG cannot hold transparency: laid on white"),
        ("LA", "PPM", "L", "PPM cannot hold transparency: laid on white"),
        ("RGBA", "BMP", "RGB", "BMP cannot hold transparency: laid on white"),
        ("I;16", "JPEG", "L", "JPEG cannot hold 16 bits: reduced to 8"),
        ("I;16", "WEBP", "RGB", "WEBP cannot hold 16 bits: reduced to 8"),
        ("CMYK", "PNG", "RGB", "PNG cannot hold CMYK: converted to RGB"),
        ("LA", "WEBP", "RGBA", None),
        ("RGBA", "AVIF", "RGBA", None),
        ("LA", "GIF", "P", "GIF cannot hold more than 256 colours: reduced to a palette"),
        ("RGBA", "GIF", "P", "GIF cannot hold more than 256 colours: reduced to a palette"),
    ],
)
def test_other_formats_say_what_they_lose(mode: str, format: str, becomes: str, said: str | None) -> None:
    result, notes = passed(saved(photo(mode), "TIFF"), format=format)
    assert (result.format, result.mode) == (format, becomes)
    assert notes == ([said] if said else [])


def test_metadata_that_a_format_cannot_hold() -> None:
    data = saved(photo(), "JPEG", exif=exif(), icc_profile=SRGB, dpi=(300, 300))
    assert passed(data, format="PPM")[1] == [
        "PPM cannot hold the colour profile",
        "PPM cannot hold EXIF data",
        "PPM cannot hold the resolution",
    ]


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
    assert notes == ["written without compression, because Pillow cannot compress a TIFF that has EXIF data"]


def test_cmyk_by_its_profile_when_it_must_become_rgb() -> None:
    result, notes = passed(saved(photo("CMYK"), "TIFF", icc_profile=b"not a profile"), format="PNG")
    assert result.mode == "RGB" and "icc_profile" not in result.info
    assert notes == ["PNG cannot hold CMYK: converted to RGB"]


def png(bits: int, colour: int, width: int = 3, height: int = 2) -> bytes:
    """A whole PNG of zeros."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    rows = b"".join(b"\0" * (1 + width * channels * bits // 8) for _ in range(min(height, 10)))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def tiff_16() -> bytes:
    """A little-endian RGB TIFF of 1 x 1 pixel, 16 bits per colour."""
    entries = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 210), (277, 3, 1, 3), (278, 3, 1, 1), (279, 4, 1, 6)]
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0" * 4
    data = b"II*\0" + struct.pack("<I", 8) + ifd
    return data.ljust(200, b"\0") + struct.pack("<3H", 16, 16, 16) + b"\0" * 4 + b"\1\2\3\4\5\6"


@pytest.mark.parametrize(
    "data",
    [png(16, 2), png(16, 4), png(16, 6), tiff_16(), b"P6 1 1 65535\n" + bytes(6), b"P6\n# x\n1 1\n1023\n" + bytes(6)],
)
def test_deep_colour_is_refused_and_not_truncated(data: bytes) -> None:
    with pytest.raises(ImageError, match="has 16 bits per colour, of which 8 would be lost"):
        open_image(data)


def test_deep_avif_is_refused() -> None:
    data = saved(photo(), "AVIF")
    place = data.index(b"av1C") + 6
    deep = data[:place] + bytes([data[place] | 0x40]) + data[place + 1 :]
    with pytest.raises(ImageError, match="has 10 or 12 bits"):
        open_image(deep)
    assert passed(data)[0].size == photo().size


def test_kinds_of_pixels_that_are_not_restored() -> None:
    for mode in ("F", "I", "LAB"):
        with (
            pytest.raises(ImageError, match="convert it"),
            open_image(saved(Image.new(mode, (3, 3)), "TIFF")) as opened,
        ):
            opened.decode()


def broken() -> list[tuple[bytes, str]]:
    jpeg, whole = saved(photo(size=(200, 200)), "JPEG"), saved(photo(size=(200, 200)), "PNG")
    return [
        (b"", "is empty"),
        (b"hello, this is text\n", "is not an image that skipae reads"),
        (bytes(range(200)), "is not an image that skipae reads"),
        (jpeg[: len(jpeg) // 2], "is damaged and cannot be decoded as JPEG"),
        (jpeg[:30], "is damaged and cannot be decoded as JPEG"),
        (whole[: len(whole) // 2], "is damaged and cannot be decoded as PNG"),
        (whole[:20], "is damaged and cannot be decoded as PNG"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "is damaged and cannot be decoded as WEBP"),
        (b"II*\0\xff\xff\xff\xff", "is damaged and cannot be decoded as TIFF"),
        (b"GIF89a", "is damaged and cannot be decoded as GIF"),
        (b"P6 9", "is damaged and cannot be decoded as PPM"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "is damaged and cannot be decoded as AVIF"),
        (png(8, 2, 100_000, 100_000), "has 100000 x 100000 = 10000000000 pixels, more than --max-pixels 178956970"),
        (b"P6 100000 100000 255\n", "more than --max-pixels"),
    ]


@pytest.mark.parametrize(("data", "message"), broken())
def test_broken_files(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught, open_image(data) as opened:
        opened.decode()
    assert "\n" not in str(caught.value)


def test_max_pixels_can_be_changed() -> None:
    data = saved(photo(), "PNG")
    assert open_image(data, max_pixels=37 * 22).size == (37, 22)
    with pytest.raises(ImageError, match="more than --max-pixels 813"):
        open_image(data, max_pixels=813)


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(saved(photo(), "PNG"))
    with open_image(path) as opened:
        assert opened.format == "PNG"


def test_unreadable_paths(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "none.png", "no such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "a\0b.png", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=message):
            open_image(path)


def write_bytes(data: bytes) -> Callable[[Any], None]:
    return lambda file: file.write(data)


def test_atomic_writing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.png"
    write_atomically(path, write_bytes(b"one"))
    assert path.read_bytes() == b"one"
    (tmp_path / "probe").touch()
    assert path.stat().st_mode == (tmp_path / "probe").stat().st_mode

    def full(file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ImageError, match=r"cannot write .*x\.png: No space left on device"):
        write_atomically(path, full)

    def interrupted(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert [child.name for child in path.parent.iterdir()] == ["x.png"]
    assert path.read_bytes() == b"one"


class FullDisk(io.BytesIO):
    """Takes 100 bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 100:
            raise OSError(28, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("format", images.FORMATS)
def test_a_full_disk_is_named(format: str, tmp_path: Path) -> None:
    with open_image(saved(photo(size=(64, 64)), "PNG")) as opened:
        picture = opened.decode()

    def write(file: Any) -> None:
        full = FullDisk()
        picture.encode(full, format=format)

    with pytest.raises(ImageError, match="No space left on device"):
        write_atomically(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_a_format_cannot_hold() -> None:
    with open_image(saved(Image.new("L", (70_000, 1)), "PNG")) as opened:
        picture: Picture = opened.decode()
    with pytest.raises(ImageError, match="cannot be written as JPEG"):
        picture.encode(io.BytesIO(), format="JPEG")
