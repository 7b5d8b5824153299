"""Inpainting: Model.inpaint and ``skipae inpaint``."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from conftest import failed
from skipae import ImageError, Model, UsageError, cli, from_pretrained, images
from skipae.tasks import inpaint, kriging, masks

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    return from_pretrained(checkpoint, device="cpu", threads=1)


def gradient(height: int, width: int, top: float = 255) -> np.ndarray:
    """[H, W, 3], linear in both directions, so that the right fill is known."""
    y, x = np.mgrid[0:height, 0:width]
    red = 0.2 + 0.5 * x / width
    return top * np.dstack([red, 0.9 - 0.4 * y / height, 0.3 + 0.2 * (x / width + y / height)])


def cross(height: int, width: int) -> np.ndarray:
    """A hole of two strokes, one of them at the edge."""
    mask = np.zeros((height, width), bool)
    mask[height // 2 : height // 2 + 4, : width // 2] = True
    mask[5:-5, width // 3 : width // 3 + 6] = True
    return mask


def fake(restore: Callable[[np.ndarray], np.ndarray], halo: int = 8) -> Any:
    """A model with a net of our own."""
    return SimpleNamespace(
        config=SimpleNamespace(halo=halo, preprocessing=SimpleNamespace(fill=(0.0, 1.0, 0.0))), restore=restore
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_only_masked_pixels_change(model: Model, dtype: type, channels: tuple[int, ...]) -> None:
    top = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    truth = gradient(40, 51, top)
    truth = np.dstack([truth, truth[..., 0]])[..., : channels[0]] if channels else truth[..., 0]
    truth = truth.astype(dtype)
    mask = cross(40, 51)
    damaged = truth.copy()
    damaged[mask, ...] = top if top == 1 else top // 7
    if channels == (4,):
        damaged[..., 3] = truth[..., 3]
    before = damaged.copy()
    result = model.inpaint(damaged, mask)
    assert np.array_equal(damaged, before)
    assert result.shape == truth.shape and result.dtype == dtype
    assert np.array_equal(result[~mask], damaged[~mask])
    error = np.abs(result.astype(float) - truth.astype(float))[mask].max() / top
    assert error < 0.02
    if channels == (4,):
        assert np.array_equal(result[..., 3], truth[..., 3])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "I;16"])
def test_pil_kinds(model: Model, mode: str) -> None:
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}.get(mode, 0)
    truth = np.dstack([gradient(31, 44), gradient(31, 44)[..., 0]])
    pixels = truth[..., : max(bands, 1)].astype(np.uint8) if bands else (truth[..., 0] * 257).astype("<u2")
    mask = cross(31, 44)
    damaged = pixels.copy()
    colors = {"LA": 1, "RGBA": 3}.get(mode, max(bands, 1))
    damaged.reshape(31, 44, -1)[mask, :colors] = 7
    image = Image.frombytes(mode, (44, 31), damaged.tobytes())
    image.info["dpi"] = (72, 72)
    result = model.inpaint(image, Image.fromarray(mask))
    assert (result.mode, result.size, result.info["dpi"]) == (mode, image.size, (72, 72))
    got = np.frombuffer(result.tobytes(), pixels.dtype).reshape(pixels.shape)
    assert np.array_equal(got[~mask], damaged[~mask])
    assert np.abs(got.astype(float) - pixels)[mask].max() < 0.02 * (255 if bands else 65535)


def test_transparent_pixels_are_filled_and_become_opaque(model: Model) -> None:
    mask = cross(30, 30)
    pixels = np.dstack([gradient(30, 30), np.full((30, 30), 255)]).astype(np.uint8)
    truth = pixels.copy()
    pixels[mask] = 0
    for result in (model.inpaint(pixels), np.asarray(model.inpaint(Image.fromarray(pixels)))):
        assert np.array_equal(result[~mask], pixels[~mask])
        assert (result[mask, 3] == 255).all()
        assert np.abs(result[mask].astype(int) - truth[mask]).max() < 6
    light = pixels / 255
    assert (model.inpaint(light)[mask, 3] == 1).all()
    assert np.array_equal(model.inpaint(pixels[..., :3]), pixels[..., :3])  # none is transparent
    kept = model.inpaint(pixels, mask)
    assert np.array_equal(kept[..., 3], pixels[..., 3])  # a mask that is given leaves alpha alone


def test_soft_edges_are_laid_over_what_is_filled(model: Model) -> None:
    y, x = np.mgrid[:30, :40]
    alpha = np.clip((13 - np.hypot(y - 15, x - 20)) * 60, 0, 255).astype(np.uint8)
    pixels = np.dstack([np.full((30, 40, 3), (200, 120, 60)), alpha]).astype(np.uint8)
    pixels[alpha == 0, :3] = 0
    soft = (alpha > 0) & (alpha < 255)
    assert soft.sum() > 50
    light = model.inpaint(pixels / 255)
    for result in (model.inpaint(pixels), np.asarray(model.inpaint(Image.fromarray(pixels))), light * 255):
        assert (result[..., 3] == 255).all()
        assert np.array_equal(np.rint(result[alpha == 255]), pixels[alpha == 255])
        assert np.abs(result[..., :3].astype(int) - (200, 120, 60))[soft].max() < 8
    deep = images.Picture(
        "rgb",
        [pixels[..., :3].astype(np.uint16) * 257],
        Image.fromarray(alpha.astype(np.uint16) * 257),
        images.Metadata("PNG"),
        [],
    )
    filled = model.inpaint(deep)
    assert np.asarray(filled.alpha).min() == 65535 and filled.notes == []


def test_a_picture_without_an_opaque_pixel_keeps_its_soft_ones_and_says_so(model: Model) -> None:
    pixels = np.dstack([gradient(20, 30), np.full((20, 30), 100)]).astype(np.uint8)
    pixels[5:9, 7:12, 3] = 0
    picture = images.Picture(
        "rgb", [pixels[..., :3]], Image.fromarray(pixels[..., 3].copy()), images.Metadata("PNG"), []
    )
    filled = model.inpaint(picture)
    assert filled.notes == ["580 pixels stay partly transparent: none is opaque to fill them from"]
    assert (np.asarray(filled.alpha)[5:9, 7:12] == 255).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_black_and_white_stays_so_where_it_is_filled(model: Model, dtype: Any) -> None:
    top = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    gray = (np.random.default_rng(0).random((40, 50)) * top).astype(dtype)
    pixels = np.dstack([gray] * 3)
    mask = cross(40, 50)
    pixels[mask] = np.array([0, top, 0], dtype)  # what is masked may have any color
    filled = model.inpaint(pixels, mask)
    assert np.array_equal(filled[..., 0], filled[..., 1]) and np.array_equal(filled[..., 0], filled[..., 2])
    assert np.array_equal(filled[..., 0], model.inpaint(gray, mask))


def test_nearly_black_pixels_of_a_mask_are_named(model: Model) -> None:
    shape = cross(40, 50)
    image = gradient(40, 50).astype(np.uint8)
    for mask, said in (
        (np.where(shape, 255, 0), None),
        (np.where(shape, 1, 0), None),  # numbers from 0 to 1
        (np.where(shape, 0.3, 0), None),
        (np.where(shape, 200, 0) + np.eye(40, 50, 3) * 17, "nearly black (17 to 17 of 2"),
        (
            np.dstack([np.where(shape, 255, 0), np.eye(40, 50, 3) * 9, 0 * shape]),
            "nearly black (9 to 9 of 255) and are filled",
        ),
    ):
        assert (masks.load_mask(mask)[1] is None) == (said is None), mask.max()
        assert said is None or said in str(masks.load_mask(mask)[1])
    never_black = Image.fromarray(np.where(shape, 255, 16).astype(np.uint8))
    with pytest.raises(ImageError, match=r"every pixel is masked: .* are nearly black \(16 to 16 of 255\)"):
        model.inpaint(image, never_black)
    lossy = as_file(Image.fromarray(np.where(shape, 255, 0).astype(np.uint8)), "JPEG", quality=60)
    (note,) = model.inpaint(as_file(Image.fromarray(image), "PNG"), lossy).notes
    assert note.startswith("mask: ") and "make them black to keep them" in note


def test_the_network_dominates_where_it_fills_well(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    truth = random.random((60, 60, 3)).astype(np.float32)
    mask = cross(60, 60)
    damaged = np.where(mask[..., None], np.float32(0.5), truth)
    painted: list[np.ndarray] = []

    def restore(pixels: np.ndarray) -> np.ndarray:
        painted.append((pixels == (0, 1, 0)).all(axis=2))
        return truth

    monkeypatch.setattr(kriging, "krige", lambda guess, hole, inside, grid: guess[inside])  # noise is not predictable
    filled = inpaint.fill(fake(restore, halo=60), damaged, mask)
    assert np.array_equal(painted[1], mask)
    assert painted[0].any() and not (painted[0] & mask).any()  # holes of the same shape, where the truth is known
    # The test holes are painted into the truth, so this network is never wrong.
    assert np.abs(filled - truth).max() < 1e-5


def test_a_network_that_fills_badly_has_no_effect() -> None:
    truth = gradient(60, 60, 1).astype(np.float32)
    truth += np.random.default_rng(0).normal(0, 0.02, truth.shape).astype(np.float32)
    mask = cross(60, 60)
    filled = inpaint.fill(fake(lambda pixels: pixels), truth, mask)  # leaves the painted color
    assert np.abs(filled - gradient(60, 60, 1))[mask].max() < 0.1
    assert np.array_equal(filled[~mask], truth[~mask])


@pytest.mark.parametrize("angle", [0, 35, 90, 120])
def test_stripes_run_on_through_a_hole(angle: float) -> None:
    """A smooth surface alone leaves the middle gray."""
    y, x = np.mgrid[:70, :80]
    phase = (x * np.cos(np.radians(angle)) + y * np.sin(np.radians(angle))) / 7
    truth = np.dstack([0.5 + 0.3 * np.sin(2 * np.pi * phase + shift) for shift in (0, 0.2, 0.4)]).astype(np.float32)
    truth += np.random.default_rng(0).normal(0, 0.02, truth.shape).astype(np.float32)
    mask = np.zeros((70, 80), bool)
    mask[27:41, 33:47] = True
    error = inpaint.fill(fake(lambda pixels: pixels), truth, mask) - truth
    smooth = inpaint._plate(np.where(mask[..., None], 0, truth), mask) - truth
    assert np.square(error)[mask].mean() < 0.25 * np.square(smooth)[mask].mean()


def test_squares_of_kriging_fade_into_each_other() -> None:
    """Each tile in a picture of its own would show as a square."""
    place = np.arange(-kriging.OVERLAP, kriging.TILE + kriging.OVERLAP)
    cover = np.zeros(4 * kriging.TILE)
    for tile in range(1, 3):
        cover[kriging.TILE * tile + place] += kriging._fade(place)
    both = slice(kriging.TILE + kriging.OVERLAP, 3 * kriging.TILE - kriging.OVERLAP)
    assert cover[both] == pytest.approx(1) and np.abs(np.diff(cover)).max() < 0.3


def test_kriging_is_the_same_wherever_a_window_begins() -> None:
    guess = np.random.default_rng(0).random((90, 100, 3)).astype(np.float32)
    hole = cross(90, 100)
    inside = slice(40, 52), slice(30, 60)
    whole = kriging.krige(guess, hole, inside, (0, 0))
    part = slice(5, 85), slice(3, 97)
    moved = slice(35, 47), slice(27, 57)
    assert np.abs(kriging.krige(guess[part], hole[part], moved, (3, 5)) - whole).max() < 1e-5
    assert np.abs(whole - guess[inside])[hole[inside]].max() > 0.1
    assert np.array_equal(whole[~hole[inside]], guess[inside][~hole[inside]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("side", [33, 90, 150])
def test_large_holes_go_from_coarse_to_fine(model: Model, side: int, dtype: Any) -> None:
    top = 1 if dtype is np.float32 else np.iinfo(dtype).max
    truth = gradient(181, 203, top).astype(dtype)
    mask = np.zeros((181, 203), bool)
    mask[7 : 7 + side, 21 : 21 + side] = True
    damaged = truth.copy()
    damaged[mask] = 0
    result = model.inpaint(damaged, mask)
    assert np.array_equal(result[~mask], truth[~mask])
    assert np.abs(result.astype(float) - truth)[mask].max() < 0.1 * top


def test_no_frames_show_in_large_holes() -> None:
    """Where one scale follows another, the result bends no more than beside that place."""
    noise = np.random.default_rng(0).uniform(0, 255, (60, 60, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(noise).resize((240, 240), Image.Resampling.BICUBIC)).astype(np.float32) / 255
    mask = np.zeros((240, 240), bool)
    mask[60:180, 60:180] = True
    filled = from_pretrained(device="cpu", precision="fp32", threads=1).inpaint(pixels, mask)[90:150].astype(float)
    bend = np.abs(filled[:, 2:] - 2 * filled[:, 1:-1] + filled[:, :-2]).mean(axis=(0, 2))
    bend = bend[60 + inpaint.DEPTH // 2 - 1 : 119]  # by column, from within the first scale to the middle
    beside = np.maximum(bend[:-8], bend[8:])
    assert (bend[4:-4] < 1.5 * beside).all()


@pytest.mark.parametrize("side", [20, 100])
def test_cells_join_without_seams(model: Model, monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    image = (gradient(160, 170) + np.random.default_rng(0).normal(0, 3, (160, 170, 3))).astype(np.uint8)
    mask = cross(160, 170)
    mask[30 : 30 + side, 60 : 60 + side] = True
    monkeypatch.setattr(inpaint, "_decoy", lambda taken: taken & False)  # its holes differ between windows
    whole = model.inpaint(image, mask)
    monkeypatch.setattr(inpaint, "CELL", 32)
    assert np.abs(model.inpaint(image, mask).astype(int) - whole).max() <= 2


def test_only_windows_around_holes_are_computed() -> None:
    areas: list[int] = []

    def restore(pixels: np.ndarray) -> np.ndarray:
        areas.append(pixels.shape[0] * pixels.shape[1])
        return pixels + 0.01

    image = gradient(900, 1100).astype(np.uint8)
    mask = np.zeros((900, 1100), bool)
    mask[:10, :10] = mask[700:710, 500:520] = True
    shares: list[float] = []
    inpaint.fill(fake(restore), image, mask, shares.append)
    assert areas and max(areas) <= 74 * 84
    assert shares == [0.5, 1.0]


def test_grey_is_painted_in_color() -> None:
    seen: list[tuple[int, ...]] = []

    def restore(pixels: np.ndarray) -> np.ndarray:
        seen.append(pixels.shape)
        return pixels

    inpaint.fill(fake(restore), gradient(50, 50)[..., 0].astype(np.uint8), cross(50, 50))
    assert seen and all(shape[2] == 3 for shape in seen)


def as_file(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_masks_of_all_kinds(tmp_path: Path) -> None:
    mask = cross(20, 30)
    gray = Image.fromarray(mask.astype(np.uint8))  # 1 is not zero too
    blue = Image.fromarray(np.dstack([0 * mask, 0 * mask, 90 * mask]).astype(np.uint8))
    indexed = Image.fromarray(mask.astype(np.uint8), "P")
    indexed.putpalette([0, 0, 0, 128, 0, 0])
    white_on_clear = Image.fromarray((255 * np.dstack([mask] * 4)).astype(np.uint8))
    black = Image.new("RGB", (30, 20))
    white_on_black = Image.composite(Image.new("RGB", (30, 20), "white"), black, Image.fromarray(mask)).convert("RGBA")
    path = tmp_path / "mask.png"
    gray.save(path)
    for source in (
        mask,
        mask * 0.5,
        mask.astype(np.int64)[..., None],
        np.asarray(blue),
        np.asarray(white_on_clear),
        gray,
        gray.convert("RGB"),
        Image.fromarray(mask),
        blue,
        indexed,
        white_on_clear,
        white_on_black,
        Image.fromarray(255 * mask.astype(np.uint8)).convert("CMYK"),
        Image.fromarray(mask.astype(np.uint16)),
        path,
        str(path),
        path.read_bytes(),
        as_file(indexed, "GIF"),
    ):
        assert np.array_equal(masks.load_mask(source)[0], mask), source


def test_masks_are_in_the_frame_of_the_upright_image(model: Model) -> None:
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees to the right
    image = Image.fromarray(gradient(20, 30).astype(np.uint8))
    data = as_file(image, "PNG", exif=exif)
    mask = np.zeros((30, 20), bool)
    mask[2:8, 12:18] = True
    result = np.asarray(model.inpaint(data, mask))
    upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(result[~mask], upright[~mask])
    turned = as_file(Image.fromarray(mask).transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    assert np.array_equal(masks.load_mask(turned)[0], mask)
    with pytest.raises(UsageError, match=r"has 30 x 20 pixels, but the image 20 x 30 \(upright\)"):
        model.inpaint(data, mask.T)


def test_what_cannot_be_used(model: Model, tmp_path: Path) -> None:
    image = gradient(10, 12).astype(np.uint8)
    with pytest.raises(UsageError, match="mask: it has 10 x 12 pixels, but the image 12 x 10"):
        model.inpaint(image, np.zeros((12, 10)))
    with pytest.raises(UsageError, match=r"mask: an array must be numbers .* not uint8 \[2, 10, 12, 1\]"):
        model.inpaint(image, np.zeros((2, 10, 12, 1), np.uint8))
    with pytest.raises(UsageError, match=r"mask: an array must be numbers .* not <U1 \[10, 12\]"):
        model.inpaint(image, np.full((10, 12), "x"))
    with pytest.raises(UsageError, match=r"mask must be a PIL\.Image, .* not int"):
        model.inpaint(image, 3)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match=r"image must be a PIL\.Image, .* not list"):
        model.inpaint([1], np.zeros((10, 12)))  # type: ignore[call-overload]
    with pytest.raises(UsageError, match=r"an array must have the shape .* not \[10\]"):
        model.inpaint(image[:, 0, 0], None)
    with pytest.raises(UsageError, match=r"floats must be in \[0, 1\]"):
        model.inpaint(image.astype(float), np.eye(10, 12))
    holes = image / 255
    holes[3:5, 4:7] = np.nan
    with pytest.raises(UsageError, match=r"floats must be in \[0, 1\], but some are NaN or infinite"):
        model.inpaint(holes, np.eye(10, 12))
    filled = model.inpaint(holes, np.isnan(holes))  # only known pixels matter
    assert np.array_equal(filled, model.inpaint(np.nan_to_num(holes), np.isnan(holes))) and np.isfinite(filled).all()
    with pytest.raises(ImageError, match="every pixel is masked"):
        model.inpaint(image, np.ones((10, 12)))
    with pytest.raises(ImageError, match="no such file"):
        model.inpaint(image, tmp_path / "none.png")
    with pytest.raises(UsageError, match="max_pixels"):
        model.inpaint(image, np.eye(10, 12), max_pixels=0)
    assert np.array_equal(model.inpaint(image, np.zeros((10, 12))), image)


# The command.


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``skipae inpaint`` with the tiny model in an empty folder that holds photo.png, 30 x 20, and mask.png."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo()).save("photo.png")
    Image.fromarray(cross(20, 30)).save("mask.png")

    def invoke(*arguments: object, **options: Any) -> Result:
        words = ["inpaint", "--model", str(checkpoint), "--device", "cpu", "--threads", "1"]
        return CliRunner().invoke(cli.main, words + [str(word) for word in arguments], **options)

    return invoke


def photo() -> np.ndarray:
    return gradient(20, 30).astype(np.uint8)


def changed(path: str) -> np.ndarray:
    """Where a result differs from photo.png."""
    different: np.ndarray = (np.asarray(Image.open(path).convert("RGB")) != photo()).any(axis=2)
    return different


def test_mask_file(run: Run, checkpoint: Path) -> None:
    result = run("photo.png", "--mask", "mask.png", "--report", "r.jsonl")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    expected = from_pretrained(checkpoint, device="cpu", threads=1).inpaint(photo(), cross(20, 30))
    assert np.array_equal(np.asarray(Image.open("photo.inpainted.png")), expected)
    assert json.loads(Path("r.jsonl").read_text())["masked_pixels"] == cross(20, 30).sum()


def test_boxes(run: Run) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save("noise.png")
    before = np.asarray(Image.open("noise.png"))
    expected = np.zeros((20, 30), bool)
    expected[2:6, 3:8] = expected[10:20, 20:30] = True
    assert run("noise.png", "--box", "3,2,5,4", "--box", "20,10,10,10").exit_code == 0
    after = np.asarray(Image.open("noise.inpainted.png"))
    assert np.array_equal((after != before).any(axis=2), expected)
    assert run("noise.png", "--box", "3,2,5,4", "--mask", "mask.png", "-o", "both.png").exit_code == 0
    both = (np.asarray(Image.open("both.png")) != before).any(axis=2)
    assert both[2:6, 3:8].all() and not (both & ~cross(20, 30))[7:].any()
    failed(run("photo.png", "--box", "25,2,6,4"), 2, "--box 25,2,6,4 exceeds photo.png (upright), which has 30 x 20")
    failed(run("photo.png", "--box", "1,2,3"), 2, "'1,2,3' is not a box; use x,y,w,h in pixels")
    failed(run("photo.png", "--box", "1,2,3,0"), 2, "'1,2,3,0' is not a box; x and y must be at least 0, w")
    failed(run("photo.png", "--box=-1,2,3,4"), 2, "'-1,2,3,4' is not a box")


def test_transparent_pixels(run: Run) -> None:
    alpha = Image.fromarray(np.where(cross(20, 30), 0, 255).astype(np.uint8))
    image = Image.fromarray(photo())
    image.putalpha(alpha)
    image.save("holes.png")
    assert run("holes.png").stderr == ""
    result = Image.open("holes.inpainted.png")
    assert result.mode == "RGBA" and result.getchannel("A").getextrema() == (255, 255)


def test_an_image_may_be_its_own_mask(run: Run) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[4:9, 5:12] = 200
    Image.fromarray(image).save("self.png")
    assert run("self.png", "--mask", "self.png", "-o", "filled.png").exit_code == 0
    assert np.asarray(Image.open("filled.png"))[4:9, 5:12].max() < 200
    Path("x/masks").mkdir(parents=True)
    for name in ("x/masks/a.png", "x/masks/b.png"):
        Image.fromarray(image).save(name)
    failed(run("x", "--mask", "x", "-o", "out"), 2, "--mask x leaves no input: images and masks must be in separate")


def test_no_thumbnail_shows_what_was_filled(run: Run) -> None:
    small = io.BytesIO()
    Image.fromarray(photo()).save(small, "JPEG")
    thumb = small.getvalue()
    # II, first directory at 8 with one tag and the second at 26: of a JPEG, at 56, of this many bytes.
    entries = [struct.pack("<HHII", 513, 4, 1, 56), struct.pack("<HHII", 514, 4, 1, len(thumb))]
    exif = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHI4s", 271, 2, 4, b"abc\0") + struct.pack("<I", 26)
    exif = b"Exif\0\0" + exif + struct.pack("<H", 2) + b"".join(entries) + struct.pack("<I", 0) + thumb
    resources = b"".join(
        b"8BIM" + struct.pack(">HHI", kind, 0, len(data)) + data + b"\0" * (len(data) % 2)
        for kind, data in ((1028, b"caption."), (1036, bytes(28) + thumb))
    )
    photoshop = b"Photoshop 3.0\0" + resources
    xmp = b"<x:xmpmeta><xmp:Thumbnails><a>" + b"QUJD" * 9 + b"</a></xmp:Thumbnails><kept/></x:xmpmeta>"
    segment = b"\xff\xed" + struct.pack(">H", len(photoshop) + 2) + photoshop
    Image.fromarray(photo()).save("camera.jpg", exif=exif, xmp=xmp, extra=segment)
    assert Path("camera.jpg").read_bytes().count(thumb) == 2
    for name in ("x.jpg", "x.png", "x.webp", "x.tif"):
        result = run("camera.jpg", "--box", "4,4,6,6", "-o", name)
        assert result.exit_code == 0 and "thumbnails in its metadata, which show what was filled" in result.stderr
        data = Path(name).read_bytes()
        with Image.open(name) as image:
            exif_after = image.getexif()
        assert thumb not in data and b"QUJD" not in data and thumb[-60:-10] not in data
        assert exif_after[271] == "abc"
    left = Path("x.jpg").read_bytes()
    assert b"caption." in left and b"<kept/>" in left


def test_nothing_to_fill_is_refused(run: Run) -> None:
    Image.new("L", (30, 20)).save("black.png")
    failed(run("photo.png", "--mask", "black.png"), 2, "--mask black.png is entirely black: there is nothing to fill")
    failed(run("photo.png"), 2, "every pixel is opaque; use --mask or --box to select what to fill")
    assert not Path("photo.inpainted.png").exists()
    Image.open("photo.png").save("other.png")
    nothing = "every pixel is opaque"
    failed(run("photo.png", "other.png"), 1, f"photo.png: {nothing}", f"other.png: {nothing}")
    assert run("photo.png", "--box", "1,1,3,3").exit_code == 0  # nothing is in the way


def test_a_wrong_mask_is_reported_before_an_existing_output(run: Run) -> None:
    Image.open("photo.png").save("photo.inpainted.png")
    Image.new("L", (29, 20), 1).save("small.png")
    failed(run("photo.png", "--mask", "small.png"), 2, "--mask small.png has 29 x 20 pixels")
    failed(run("photo.png", "--box", "25,2,6,4"), 2, "--box 25,2,6,4 exceeds photo.png")
    failed(run("photo.png", "--mask", "mask.png"), 1, "photo.inpainted.png already exists")


def test_bad_masks(run: Run) -> None:
    Image.new("L", (29, 20), 1).save("small.png")
    Image.new("L", (30, 20), 1).save("all.png")
    Path("text.png").write_text("no image")
    wrong = "--mask small.png has 29 x 20 pixels, but photo.png (upright) 30 x 20"
    failed(run("photo.png", "--mask", "small.png"), 2, wrong)
    failed(run("photo.png", "--mask", "text.png"), 2, "--mask text.png: is not a supported image")
    failed(run("photo.png", "--mask", "none.png"), 2, "--mask none.png: no such file or folder")
    failed(run("photo.png", "--mask", "all.png"), 1, "photo.png: every pixel is masked")
    failed(run("photo.png", "--mask", "mask.png", "-o", "mask.png", "--overwrite"), 2, "would be mask.png, among the")
    failed(run("none.png", "--mask", "mask.png"), 5, "none.png: no such file")
    assert not Path("photo.inpainted.png").exists()
    # Among several images it is the one input that fails.
    Image.fromarray(photo()[:, :29]).save("narrow.png")
    result = run("photo.png", "narrow.png", "--mask", "mask.png")
    failed(result, 1, "narrow.png: --mask mask.png has 30 x 20 pixels, but narrow.png (upright) 29 x 20")
    assert Path("photo.inpainted.png").exists()


@pytest.mark.parametrize(("side", "said"), [(64, False), (66, True)])
def test_wide_holes_are_said_to_be_filled_smoothly(run: Run, side: int, said: bool) -> None:
    Image.new("RGB", (100, 90), (9, 99, 199)).save("wide.png")
    result = run("wide.png", "--box", f"10,10,{side},{side}")
    assert result.exit_code == 0
    assert ("a hole is wider than 64 pixels: it is filled smoothly" in result.stderr) is said


def test_a_folder_of_masks(run: Run, tmp_path: Path) -> None:
    for name in ("in/a.png", "in/b/c.jpg", "in/b/d.png", "in/masks/a.png", "in/masks/b/c.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.open("mask.png" if "masks" in name else "photo.png").save(name)
    result = run("in", "--mask", "in/masks", "-o", "out")
    failed(result, 1, "in/b/d.png: no unique mask (no in/masks/b/d.png); use one mask of the same name in in/masks")
    names = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file())
    assert names == ["a.png", "b/c.jpg"]
    assert not (changed("out/a.png") & ~cross(20, 30)).any()
    Image.open("mask.png").save("in/masks/b/c.webp", lossless=True)
    failed(run("in/b/c.jpg", "--mask", "in/masks/b"), 2, "both in/masks/b/c.png and in/masks/b/c.webp match")
    Path("in/masks/b/c.webp").rename("in/masks/b/d.webp")
    Path("names").write_text("in")
    result = run("--list", "names", "--mask", "in/masks", "-o", "listed")
    assert (result.exit_code, result.stderr) == (0, "")
    assert run("in/a.png", "--mask", "in/masks").exit_code == 0
    data = Path("photo.png").read_bytes()
    failed(run("-", "--mask", "in/masks", input=data), 2, "standard input has no name")


def test_masks_among_the_inputs_are_not_failed_images(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("in/a.png", "in/masks/a.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.open("mask.png" if "masks" in name else "photo.png").save(name)
    with monkeypatch.context() as patch:
        read_only = {Path("in/masks"): "Permission denied"}
        patch.setattr("skipae.batch.plan.flaw_of_folder", read_only.get)
        result = run("in", "--mask", "in/masks")
    assert (result.exit_code, result.stderr) == (0, "")
    Path("in/a.inpainted.png").rename("in/masks/a.inpainted.png")  # where the mask's output would be
    result = run("in", "--mask", "in/masks")
    assert (result.exit_code, result.stderr) == (0, "skipae: skipped 1 output(s) of earlier runs (*.inpainted.*)\n")


def test_streams_dry_run_and_defaults(run: Run) -> None:
    result = run("-", "--box", "3,3,4,4", input=Path("photo.png").read_bytes())
    assert result.exit_code == 0 and Image.open(io.BytesIO(result.stdout_bytes)).size == (30, 20)
    result = run("photo.png", "--mask", "mask.png", "--dry-run")
    assert result.stdout == "photo.png -> photo.inpainted.png\n" and not Path("photo.inpainted.png").exists()
