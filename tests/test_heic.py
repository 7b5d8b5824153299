"""HEIC files are read and written with what they say; without the extra they are refused with its command."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from skipae import ImageError, UsageError, images, open_image
from skipae.images import Picture, heif
from skipae.images.raster import upright

pillow_heif = pytest.importorskip("pillow_heif")

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
ALPHA = b"urn:mpeg:hevc:2015:auxid:1"


def photo(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    if mode in ("LA", "RGBA"):
        image.putalpha(image.getchannel(0))
    return image.convert(mode)


def heic(image: Image.Image | None = None, **options: Any) -> bytes:
    image = photo() if image is None else image
    buffer = io.BytesIO()
    arguments = {"quality": 100, "subsampling": "4:4:4"} | options
    pillow_heif.encode(image.mode, image.size, image.tobytes(), buffer, **arguments)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[271], data[274], data[256], data[257] = "Camera", orientation, 64, 48
    return data.tobytes()


def encoded(picture: Picture, format: str | None = "HEIC", **options: Any) -> tuple[bytes, list[str]]:
    buffer = io.BytesIO()
    losses = picture.copy().encode(buffer, format=format, **options)
    return buffer.getvalue(), [str(loss) for loss in losses]


def left_out(data: bytes) -> list[str]:
    return [str(loss) for loss in open_image(data).metadata.left_out]


def distance(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one).astype(float) - np.asarray(other)).mean())


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pixels_are_read_and_written(mode: str) -> None:
    image = photo(mode)
    picture = open_image(heic(image))
    assert (picture.kind, picture.bits, picture.notes) == ("gray" if mode == "L" else "rgb", 8, [])
    assert distance(picture.to_array(), image) < 1
    again, losses = encoded(picture)
    assert losses == [] and distance(open_image(again).to_array(), image) < 2
    assert picture.alpha is None or distance(open_image(again).alpha, image.getchannel("A")) < 1


def test_gray_with_alpha_is_written() -> None:
    gray, alpha = photo("LA").split()
    found = open_image(encoded(images.from_pil(photo("LA")))[0])
    assert found.alpha is not None and distance(found.alpha, alpha) < 1
    assert distance(found.rgb(), np.dstack([np.asarray(gray)] * 3)) < 1


@pytest.mark.parametrize("turn", range(1, 9))
def test_an_image_is_turned_once_and_its_exif_data_too(turn: int) -> None:
    data = heic(exif=exif(turn))  # pillow-heif writes irot and imir for it
    assert heif.orientation(io.BytesIO(data)) == turn
    picture = open_image(data)
    assert distance(picture.to_array(), upright(np.asarray(photo()), turn)) < 1
    said = Image.Exif()
    said.load(picture.metadata.exif or b"")
    assert (said[274], said[271]) == (1, "Camera")
    assert (said[256], said[257]) == picture.size == ((64, 48) if turn < 5 else (48, 64))
    again = open_image(encoded(picture)[0])
    assert again.size == picture.size and again.metadata.exif == picture.metadata.exif
    assert distance(again.to_array(), picture.to_array()) < 1


def test_an_orientation_that_exif_alone_says_is_not_applied() -> None:
    plain, data = heic(exif=exif(1)), exif(1)
    picture = open_image(plain.replace(data.removeprefix(b"Exif\0\0"), exif(6).removeprefix(b"Exif\0\0")))
    assert picture.size == (64, 48)  # as the standard has it, and as phones show it
    said = Image.Exif()
    said.load(picture.metadata.exif or b"")
    assert said[274] == 1


def test_metadata_is_kept() -> None:
    picture = open_image(heic(exif=exif(1), xmp=XMP, icc_profile=SRGB))
    for format in ("HEIC", "PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
        data, losses = encoded(picture, format)
        found = open_image(data).metadata
        assert (losses, found.icc, found.xmp) == ([], SRGB, XMP), format
        assert format == "TIFF" or found.exif == picture.metadata.exif, format


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_subsampling_is_kept(subsampling: str) -> None:
    picture = open_image(heic(subsampling=subsampling))
    assert picture.metadata.subsampling == subsampling
    assert open_image(encoded(picture)[0]).metadata.subsampling == subsampling
    assert open_image(encoded(images.from_pil(photo()))[0]).metadata.subsampling == "4:2:0"


def test_quality() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    picture = images.from_pil(Image.fromarray(noise))
    low, default, high = (encoded(picture, quality=quality)[0] for quality in (30, None, 100))
    assert len(low) < len(default) <= len(high)
    assert encoded(picture, quality=95)[0] == default == encoded(picture, quality="keep")[0]


@pytest.mark.parametrize("bits", [10, 12])
def test_more_than_8_bits_are_read_as_16(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    for mode, channels in (("I;16", 1), ("RGB;16", 3), ("RGBA;16", 4)):
        ramp = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
        pixels = np.dstack([ramp] * channels)
        buffer = io.BytesIO()
        pillow_heif.encode(mode, (64, 48), pixels.tobytes(), buffer, quality=100, subsampling="4:4:4")
        picture = open_image(buffer.getvalue())
        assert (picture.bits, picture.kind) == (16, "gray" if channels == 1 else "rgb")
        found = picture.to_array().reshape(pixels.shape)
        assert found.min() == 0 and found.max() == 65535 and distance(found, pixels) < 65536 / (1 << bits)
        data, losses = encoded(picture)
        assert losses == ([] if bits == 10 else ["HEIC cannot hold 12 bits here: reduced to 10"])
        assert distance(open_image(data).to_array(), picture.to_array()) < 100
        assert encoded(picture, "TIFF")[1] == []


def test_16_bits_become_10() -> None:
    pixels = np.random.default_rng(0).integers(0, 65535, (48, 64), dtype=np.uint16)
    data, losses = encoded(images.from_pil(Image.fromarray(pixels)))
    assert losses == ["HEIC cannot hold 16 bits here: reduced to 10"] and open_image(data).bits == 16


def test_colors_without_a_profile_are_kept() -> None:
    p3 = open_image(heic(color_primaries=12, transfer_characteristics=16, matrix_coefficients=6, full_range_flag=1))
    assert p3.metadata.png_chunks == [(b"cICP", bytes((12, 16, 0, 1)))]
    data, losses = encoded(p3)
    assert losses == [] and open_image(data).metadata.png_chunks == p3.metadata.png_chunks
    assert encoded(p3, "JPEG")[1] == ["JPEG cannot hold how the numbers become light (cICP)"]
    gamma = images.from_pil(photo())
    gamma.metadata.png_chunks = [(b"gAMA", struct.pack(">I", 100_000))]
    assert encoded(gamma)[1] == ["HEIC cannot hold how the numbers become light (gAMA)"]


def test_what_a_heic_has_besides_is_named() -> None:
    alpha = heic(photo("RGBA"))
    assert left_out(alpha) == []
    for purpose, said in (
        (b"urn:mpeg:hevc:2015:auxid:2", "a depth map is left out"),
        (b"urn:x:apple:aux:hdrgainmap", "the gain map (HDR) is left out"),
        (b"urn:x:photo:aux:sky__matte", "an auxiliary picture is left out"),
    ):
        assert left_out(alpha.replace(ALPHA, purpose)) == [said]
    assert left_out(heic(thumbnails=[32])) == ["the thumbnail of a HEIC is left out"]
    assert left_out(heic() + b"\0\0\0\x18ftypmp42" + bytes(12)) == ["a video after the picture is left out"]
    assert left_out(heic() + b"\0\0\0\x08mpvd") == ["a box mpvd is left out"]


def test_the_primary_picture_is_read_and_others_are_named() -> None:
    pictures = pillow_heif.HeifFile()
    for image in (photo(), photo().rotate(180), photo().rotate(180)):
        pictures.add_frombytes(image.mode, image.size, image.tobytes())
    buffer = io.BytesIO()
    pictures.save(buffer, quality=100, subsampling="4:4:4", primary_index=1)
    picture = open_image(buffer.getvalue())
    assert distance(picture.to_array(), photo().rotate(180)) < 1
    assert picture.remarks == ["only the first of 3 pictures is kept"]


def test_a_sequence_without_a_still_picture_is_refused() -> None:
    data = b"\0\0\0\x14ftypmsf1\0\0\0\0hevc\0\0\0\x08moov"
    with pytest.raises(ImageError, match="is a sequence without a still picture, which skipae does not read"):
        open_image(data)


def test_size_is_limited_before_pixels_are_decoded() -> None:
    with pytest.raises(ImageError, match="has 64 x 48 = 3072 pixels, more than 3071"):
        open_image(heic(), max_pixels=3071)
    data = heic()
    place = data.index(b"ispe") + 8
    with pytest.raises(ImageError, match=r"^(has 30000 x 30000 = 900000000 pixels|is damaged)"):
        open_image(data[:place] + struct.pack(">II", 30000, 30000) + data[place + 8 :])


def test_damaged_files_are_refused_in_one_line() -> None:
    whole = heic(exif=exif(6), xmp=XMP, icc_profile=SRGB)
    dice = random.Random(0)
    damaged = [whole[: len(whole) * k // 8] for k in range(1, 8)]
    for _ in range(60):
        changed = bytearray(whole)
        changed[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        damaged.append(bytes(changed))
    refused = 0
    for data in damaged:
        try:
            open_image(data)
        except ImageError as error:
            refused += 1
            assert "\n" not in str(error) and 0 < len(str(error)) < 500
    assert refused >= 7


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(heic())
    assert open_image(tmp_path / "photo.jpg").metadata.format == "HEIC"
    assert images.sniff(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic") == "HEIC"
    assert images.sniff(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif") == "AVIF"
    assert images.sniff(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom") is None


def test_without_the_extra_its_command_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, picture = heic(), images.from_pil(photo())
    monkeypatch.setattr("skipae.images.extra.find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r'^is a HEIC: to read it, type: pip install ".+\[heic\]"$'):
        open_image(data)
    with pytest.raises(UsageError, match=r'HEIC cannot be written here: to do so, type: pip install ".+\[heic\]"$'):
        picture.save(tmp_path / "photo.heic")
    assert list(tmp_path.iterdir()) == []
