"""Classifying and segmenting: ``Model.classify``, ``Model.segment``, and their commands."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from conftest import COLOR_BIAS, LABELS, color_graph, write_checkpoint
from skipae import ImageError, ModelError, UsageError, cli, from_pretrained
from skipae.tasks import labels as labelling
from skipae.tasks.labels import Area
from skipae_zoo import Head, Preprocessing, read_config, write_config

Run = Callable[..., Result]


def stripes(height: int = 24, width: int = 30) -> NDArray[np.uint8]:
    """Red, green, blue and black columns of equal width."""
    image = np.zeros((height, width, 3), np.uint8)
    for k in range(3):
        image[:, k * width // 4 : (k + 1) * width // 4, k] = 255
    return image


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def by_hand(image: NDArray[np.uint8]) -> NDArray[np.intp]:
    """What the tiny segmenter's graph says."""
    padded = np.pad(image / 255, ((1, 1), (1, 1), (0, 0)))
    height, width = image.shape[:2]
    mean = sum(padded[y : y + height, x : x + width] for y in range(3) for x in range(3)) / 9
    logits = np.concatenate([np.zeros((height, width, 1)), mean], axis=-1) + COLOR_BIAS
    return np.asarray(logits.argmax(-1))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SKIPAE_MIRROR", raising=False)

    def invoke(command: str, model: Path, *arguments: object, **options: Any) -> Result:
        words = [command, "--model", str(model), "--device", "cpu", "--threads", "1", *map(str, arguments)]
        return CliRunner().invoke(cli.main, words, **options)

    return invoke


def test_classes_in_order_with_their_scores(classifier: Path) -> None:
    model = from_pretrained(classifier, device="cpu")
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0] = 255
    scores = model.classify(red, top=3)
    assert [score.label for score in scores] == ["red", "background", "blue"]
    # The graph sees 8 x 8 pixels of red, less the zero padding: 1 - 2 * 24 / 8 / 24.
    logits = np.array([(22 / 24) ** 2, 0, 0, 0]) + [COLOR_BIAS[k] for k in (1, 0, 3, 2)]
    np.testing.assert_allclose([s.score for s in scores], (np.exp(logits) / np.exp(logits).sum())[:3], rtol=1e-5)
    assert sum(score.score for score in model.classify(red, top=9)) == pytest.approx(1)
    assert len(model.classify(red, top=9)) == 4


def test_all_kinds_of_images_give_the_same_class(classifier: Path, tmp_path: Path) -> None:
    model = from_pretrained(classifier, device="cpu")
    green = np.zeros((13, 40, 3), np.uint8)
    green[..., 1] = 200
    Image.fromarray(green).save(tmp_path / "green.png")
    expected = model.classify(green)
    assert expected[0].label == "green"
    opaque = np.concatenate([green, np.full_like(green[..., :1], 9)], axis=-1)
    for image in (tmp_path / "green.png", (tmp_path / "green.png").read_bytes(), Image.fromarray(green), opaque):
        assert model.classify(image) == expected
    for image in (green.astype(np.uint16) * 257, green / 255):
        for found, wanted in zip(model.classify(image), expected, strict=True):
            assert found.label == wanted.label and found.score == pytest.approx(wanted.score, abs=1e-5)
    assert model.classify(np.zeros((13, 40), np.uint8))[0].label == "background"
    # The middle of the image counts: 8 x 8 of the 12 x 37 that it is scaled to.
    green[:, :15], green[:, 25:] = (255, 0, 0), (255, 0, 0)
    assert model.classify(green)[0].label == "green"


def test_an_image_smaller_than_the_crop_is_enlarged(tmp_path: Path) -> None:
    pixels = Preprocessing((0.5,) * 3, (0.5,) * 3, (0.5,) * 3, crop=10)
    folder = write_checkpoint(
        tmp_path / "x",
        color_graph(pooled=True, size=10),
        task="classification",
        labels=LABELS,
        head=Head("fc", 4, "sigmoid"),
        preprocessing=pixels,
    )
    model = from_pretrained(folder, device="cpu")
    blue = np.zeros((3, 5, 3), np.uint8)
    blue[..., 2] = 255
    scores = model.classify(blue)
    assert scores[0].label == "blue"
    # Independent scores: each the sigmoid of its logit.
    np.testing.assert_allclose([s.score for s in scores[1:]], [1 / (1 + np.exp(-0.25005)), 0.5, 0.5], rtol=1e-4)
    model.trim()


@pytest.mark.parametrize("size", [(24, 30), (1, 1), (33, 47), (64, 5)])
def test_a_label_map_has_the_size_of_the_image(segmenter: Path, size: tuple[int, int]) -> None:
    model = from_pretrained(segmenter, device="cpu")
    image = noise(*size)
    labels = model.segment(image)
    assert labels.shape == size and labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, by_hand(image))


@pytest.mark.parametrize("size", [(61, 90), (64, 64), (37, 200)])
def test_windows_change_nothing(segmenter: Path, size: tuple[int, int]) -> None:
    model = from_pretrained(segmenter, device="cpu")
    image = noise(*size)
    shares: list[float] = []
    labels = model.segment(image, tile=24, progress=shares.append)
    np.testing.assert_array_equal(labels, model.segment(image))
    assert len(shares) > 4 and shares == sorted(shares) and shares[-1] == 1


def test_an_image_in_memory_or_a_file_gives_a_palette_image(segmenter: Path, tmp_path: Path) -> None:
    model = from_pretrained(segmenter, device="cpu")
    Image.fromarray(stripes()).save(tmp_path / "a.png")
    for image in (Image.fromarray(stripes()), tmp_path / "a.png", str(tmp_path / "a.png")):
        found = model.segment(image)
        assert found.mode == "P" and found.size == (30, 24)
        np.testing.assert_array_equal(np.asarray(found), by_hand(stripes()))
        assert found.convert("RGB").getpixel((3, 5)) == (128, 0, 0)


def test_a_segmenter_with_a_scale_works_at_it(segmenter: Path, tmp_path: Path) -> None:
    config = read_config(segmenter)
    folder = write_checkpoint(
        tmp_path / "scaled",
        color_graph(pooled=False),
        task="segmentation",
        labels=LABELS,
        head=Head("decoder"),
        preprocessing=replace(config.preprocessing, resize=12),
    )
    labels = from_pretrained(folder, device="cpu").segment(stripes(48, 64))
    assert labels.shape == (48, 64)
    assert labels[24, 5::16].tolist() == [1, 2, 3, 0]
    # Blue ends at 47, and fades over 4 pixels: a quarter of it, as much as the background's, is left at 50.
    assert np.flatnonzero(np.diff(labels[24].astype(int))).tolist() == [15, 31, 50]


def test_the_palette_is_that_of_voc_unless_the_data_set_has_its_own() -> None:
    own = labelling.palette([(1, 2, 3), (4, 5, 6)])
    assert own[:3].tolist() == [[1, 2, 3], [4, 5, 6], [0, 128, 0]]
    colors = labelling.palette()
    # From the development kit's documentation: background, aeroplane .. tvmonitor, void.
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 8: (64, 0, 0), 12: (64, 0, 128)}
    known |= {15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {k: tuple(colors[k].tolist()) for k in known} == known
    assert len({tuple(color) for color in colors.tolist()}) == 256


def test_areas_are_sorted_and_complete() -> None:
    labels = np.array([[2, 2, 0], [2, 2, 0]], np.uint8)
    assert labelling.areas(labels, LABELS) == [Area("green", 4, 4 / 6), Area("background", 2, 2 / 6)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("gray", [False, True])
def test_an_overlay_tints_all_but_the_background(dtype: Any, gray: bool) -> None:
    labels = np.array([[0, 1], [2, 0]], np.uint8)
    white = 255 if dtype == np.uint8 else 65535
    pixels = np.full((2, 2) if gray else (2, 2, 3), white, dtype)
    found = labelling.overlay(pixels, labels, LABELS)
    assert found.tolist() == [[[255] * 3, [191, 127, 127]], [[127, 191, 127], [255] * 3]]


def test_a_legend_names_the_classes_that_are_there_in_their_colors() -> None:
    labels = np.zeros((200, 300), np.uint8)
    labels[:, 150:] = 2
    pixels = np.full((200, 300), 255, np.uint8)
    plain = labelling.overlay(pixels, labels, LABELS, [(0, 0, 0), (9, 90, 9), (10, 200, 30), (70, 7, 7)])
    found = labelling.overlay(pixels, labels, LABELS, [(0, 0, 0), (9, 90, 9), (10, 200, 30), (70, 7, 7)], legend=True)
    changed = (found != plain).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert rows[0] > 150 and columns[-1] < 100 and changed.sum() < 200 * 300 / 3  # the lower left corner
    colors = {tuple(color) for color in found[changed].tolist()}
    assert (10, 200, 30) in colors and not {(9, 90, 9), (70, 7, 7)} & colors  # green alone is there, unmixed
    small = labelling.overlay(pixels[:20, :30], labels[:20, :30], LABELS, legend=True)
    assert (small == labelling.overlay(pixels[:20, :30], labels[:20, :30], LABELS)).all()  # no room


def test_a_checkpoint_that_cannot_says_which_can(checkpoint: Path, classifier: Path, segmenter: Path) -> None:
    with pytest.raises(ModelError, match=r"tiny is for .* cannot classify; use skipae-cifar10-4k, skipae-voc07-cls"):
        from_pretrained(checkpoint, device="cpu").classify(stripes())
    with pytest.raises(ModelError, match=r"cannot segment; use skipae-voc12-seg, skipae-camvid-seg"):
        from_pretrained(classifier, device="cpu").segment(stripes())
    with pytest.raises(ModelError, match=r"tiny-seg is for segmentation and cannot denoise"):
        from_pretrained(segmenter, device="cpu").denoise(stripes())


def test_bad_arguments(classifier: Path, segmenter: Path) -> None:
    with pytest.raises(UsageError, match=r"top must be at least 1, not 0"):
        from_pretrained(classifier, device="cpu").classify(stripes(), top=0)
    model = from_pretrained(segmenter, device="cpu")
    with pytest.raises(UsageError, match="tile=3 is too small"):
        model.segment(stripes(), tile=3)
    with pytest.raises(UsageError, match=r"floats must be in \[0, 1\]"):
        model.segment(stripes() * 1.0)
    with pytest.raises(ImageError, match=r"more than 10; use a larger max_pixels"):
        buffer = io.BytesIO()
        Image.fromarray(stripes()).save(buffer, "PNG")
        model.segment(buffer.getvalue(), max_pixels=10)


def test_memory_that_runs_out(classifier: Path, segmenter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = from_pretrained(segmenter, device="cpu")
    whole = model.net.graph.run

    def small_only(image: NDArray[np.float32]) -> NDArray[np.float32]:
        if image.shape[2] * image.shape[3] > 3000:
            raise MemoryError
        return whole(image)

    monkeypatch.setattr(model.net.graph, "run", small_only)
    image = noise(90, 110)
    np.testing.assert_array_equal(model.segment(image), by_hand(image))

    def none(image: NDArray[np.float32]) -> NDArray[np.float32]:
        raise MemoryError

    other = from_pretrained(classifier, device="cpu")
    for each in (model, other):
        monkeypatch.setattr(each.net.graph, "run", none)
    with pytest.raises(ImageError, match=r"not enough memory for a tile of"):
        model.segment(image)
    with pytest.raises(ImageError, match=r"not enough memory to classify 8 x 8 pixels"):
        other.classify(image)


def save(path: str, image: NDArray[np.uint8] | None = None, **options: Any) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stripes() if image is None else image).save(path, **options)
    return Path(path)


def test_classify_prints_a_table(run: Run, classifier: Path) -> None:
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 255
    save("photos/a.png", red)
    save("photos/b.png", red[..., ::-1].copy())
    result = run("classify", classifier, "photos", "--top", 2)
    assert (result.exit_code, result.stderr) == (0, "")
    first, *lines = result.stdout.splitlines()
    assert first == "photos/a.png" and lines[2] == "photos/b.png"
    assert [line.split()[1] for line in (lines[0], lines[1], lines[3], lines[4])] == [
        "red",
        "background",
        "blue",
        "background",
    ]
    assert [float(line.split()[0]) for line in lines[:2]] == pytest.approx([0.4, 0.21], abs=0.1)


def test_an_image_given_twice_is_classified_and_reported_twice(run: Run, classifier: Path) -> None:
    name = str(save("a.png"))
    result = run("classify", classifier, name, name, "--top", 1, "--report", "r.jsonl")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("a.png") == 2
    assert [json.loads(line)["status"] for line in Path("r.jsonl").read_text().splitlines()] == ["done", "done"]


def test_classify_prints_json_and_continues_after_a_bad_file(run: Run, classifier: Path) -> None:
    save("a.png")
    Path("bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    result = run("classify", classifier, "a.png", "bad.png", "gone.png", "--json", "--report", "r.jsonl")
    assert result.exit_code == 1
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert found["input"] == "a.png" and len(found["classes"]) == 4
    assert set(found["classes"][0]) == {"label", "score"}
    assert [text.split(": ")[2] for text in result.stderr.splitlines()] == ["gone.png", "bad.png"]
    report = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert next(entry for entry in report if entry["status"] == "done")["classes"] == found["classes"]
    assert run("classify", classifier, "bad.png").exit_code == 5


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
def test_file_names_that_are_not_text(run: Run, classifier: Path, segmenter: Path) -> None:
    name = os.fsdecode(b"b\xe9.png")
    for image in ("x/a.png", f"x/{name}", "x/c.png"):
        save(image)
    plain, told = (run("classify", classifier, "x", "--report", "r.jsonl", *words) for words in ((), ("--json",)))
    assert plain.exit_code == told.exit_code == 0 and "x/b\\udce9.png\n" in plain.stdout
    assert [json.loads(line)["input"] for line in told.stdout.splitlines()] == ["x/a.png", f"x/{name}", "x/c.png"]
    assert len(Path("r.jsonl").read_text().splitlines()) == 6  # of both
    cut = run("segment", segmenter, "x", "-o", "out", "--json")
    assert cut.exit_code == 0 and len(cut.stdout.splitlines()) == 3
    save("x/c.jpg")
    both = run("segment", segmenter, "x", "-o", "two")
    assert both.exit_code == 2 and "would both write two/c.png: rename one or use separate" in both.stderr


def test_classify_standard_input(run: Run, classifier: Path) -> None:
    result = run("classify", classifier, "-", "--json", input=save("a.png").read_bytes())
    assert json.loads(result.stdout)["input"] == "-"


@pytest.mark.parametrize("command", ["classify", "segment"])
def test_the_wrong_model(run: Run, checkpoint: Path, command: str) -> None:
    save("a.png")
    result = run(command, checkpoint, "a.png")
    assert result.exit_code == 4 and result.stdout == ""
    assert f"cannot {command}; use skipae-" in result.stderr and len(result.stderr.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["a.png"]


def test_segment_writes_a_palette_png_beside_the_image(run: Run, segmenter: Path) -> None:
    save("photo.jpg", quality=100, subsampling=0)
    result = run("segment", segmenter, "photo.jpg")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    with Image.open("photo.segmented.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (30, 24))
        labels = np.asarray(image)
        palette = image.getpalette()
    assert labels[12, [3, 11, 18, 26]].tolist() == [1, 2, 3, 0]
    assert palette is not None and palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


def test_segment_prints_areas(run: Run, segmenter: Path) -> None:
    save("in/photo.png")
    result = run("segment", segmenter, "in", "-o", "out", "--json", "--report", "r.jsonl")
    entry = json.loads(result.stdout)
    assert entry["input"] == "in/photo.png" and entry["output"] == "out/photo.png"
    labels = by_hand(stripes())
    assert {area["label"]: area["pixels"] for area in entry["areas"]} == {
        name: int((labels == k).sum()) for k, name in enumerate(LABELS)
    }
    assert sum(area["share"] for area in entry["areas"]) == pytest.approx(1, abs=1e-5)
    assert json.loads(Path("r.jsonl").read_text())["areas"] == entry["areas"]


def test_segment_writes_an_overlay_in_the_images_own_format(run: Run, segmenter: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a place"
    save("photo.png", dpi=(72, 72), exif=exif)
    assert run("segment", segmenter, "photo.png", "--overlay").exit_code == 0
    with Image.open("photo.overlay.png") as image:
        assert image.mode == "RGB" and image.getexif()[0x010E] == "a place"
        assert [image.getpixel((x, 12)) for x in (3, 11, 26)] == [(191, 0, 0), (0, 191, 0), (0, 0, 0)]
    # A second run over the folder takes neither result for an image.
    run("segment", segmenter, ".", "--json")
    result = run("segment", segmenter, ".", "--overlay", "--overwrite", "--json")
    assert [json.loads(line)["input"] for line in result.stdout.splitlines()] == ["photo.png"]
    assert "skipped 2 output(s)" in result.stderr


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "I;16", "P", "1"])
def test_all_modes_can_be_segmented(run: Run, segmenter: Path, mode: str) -> None:
    image = Image.fromarray(stripes())
    image = (
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        if mode == "I;16"
        else image.convert(mode)
    )
    name = "photo.tif" if mode == "CMYK" else "photo.png"
    image.save(name)
    assert run("segment", segmenter, name).exit_code == 0
    result = run("segment", segmenter, name, "--overlay")
    assert result.exit_code == 0, result.stderr
    with Image.open(f"photo.overlay{Path(name).suffix}") as shown, Image.open("photo.segmented.png") as labels:
        assert shown.size == labels.size == (30, 24)
        assert ("A" in shown.mode) == ("A" in mode)


def test_overlays_of_16_bits_with_alpha_and_of_grey_avif(run: Run, segmenter: Path) -> None:
    clear = np.linspace(0, 65535, 24 * 30).astype(np.uint16).reshape(24, 30)
    deep = np.dstack([stripes().astype(np.uint16) * 257, clear])
    for name, pixels in (("color", deep), ("gray", deep[..., 2:])):
        Path(f"{name}.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
        assert run("segment", segmenter, f"{name}.png", "--overlay").exit_code == 0
        with Image.open(f"{name}.overlay.png") as shown:
            assert shown.mode == "RGBA"
            np.testing.assert_array_equal(np.asarray(shown)[..., 3], np.rint(clear / 257))
    Image.fromarray(stripes()[..., 2] // 2 + 128).save("gray.avif")
    assert run("segment", segmenter, "gray.avif", "--overlay").exit_code == 0
    with Image.open("gray.avif") as image, Image.open("gray.overlay.avif") as shown:
        assert image.mode == "L"
        assert shown.mode == "RGB" and np.ptp(np.asarray(shown)[12, 18]) > 50  # tinted


@pytest.mark.parametrize("kind", ["gray", "gray and alpha", "16-bit gray", "16-bit color", "color"])
def test_chunks_of_an_overlay_suit_its_pixels(run: Run, segmenter: Path, kind: str) -> None:
    colors: NDArray[Any] = stripes()
    if kind.startswith("16-bit"):
        colors = colors.astype(np.uint16) * 257
    channels, bits = {"gray and alpha": 2}.get(kind, 1 if "gray" in kind else 3), 8 * colors.itemsize
    pixels = colors[..., 0] if channels == 1 else colors[..., :channels]
    data = imagecodecs.png_encode(np.ascontiguousarray(pixels))
    chunks = [(b"sBIT", bytes([bits] * channels)), (b"bKGD", bytes(2 if "gray" in kind else 6)), (b"tIME", bytes(7))]
    chunks += [] if "gray" not in kind else [(b"iCCP", b"gray\0\0" + zlib.compress(b"a profile of gray"))]
    added = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    Path("photo.png").write_bytes(data[:33] + added + data[33:])
    result = run("segment", segmenter, "photo.png", "--overlay")
    said = ["an overlay cannot hold 16 bits: reduced to 8"] if bits == 16 else []
    said += ["the color profile is one of gray and is left out"] if "gray" in kind else []
    chunked = kind != "color"
    said += ["chunks of a PNG that suit only the pixels as they were are left out: sBIT, bKGD"] if chunked else []
    assert (result.exit_code, result.stderr) == (0, "".join(f"skipae: photo.png: {line}\n" for line in said))
    written = Path("photo.overlay.png").read_bytes()
    assert [name in written for name in (b"tIME", b"sBIT", b"bKGD")] == [True, kind == "color", kind == "color"]


def test_an_overlay_rounds_16_bits() -> None:
    pixels = np.array([[128, 129, 65535, 65407, 65406]], np.uint16)
    found = labelling.overlay(pixels, np.zeros(pixels.shape, np.uint8), LABELS)
    assert found[0, :, 0].tolist() == [0, 1, 255, 255, 254]


def test_segment_standard_output_and_usage(run: Run, segmenter: Path) -> None:
    data = save("a.png").read_bytes()
    result = run("segment", segmenter, "-", "-o", "-", input=data)
    with Image.open(io.BytesIO(result.stdout_bytes)) as image:
        np.testing.assert_array_equal(np.asarray(image), by_hand(stripes()))
    for arguments, message in (
        (["-", "-o", "-", "--json"], "--json and the label map would both go to standard output"),
        (["-", "--json"], "--json and the label map would both go to standard output"),
        (["a.png", "-o", "b.jpg"], "b.jpg: a label map is a PNG"),
        (["a.png", "--quality", "90"], "--quality needs --overlay"),
        (["a.png", "--tile", "3"], "--tile 3 is too small for a halo of"),
    ):
        result = run("segment", segmenter, *arguments, input=data)
        assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1
    save("a.jpg")
    assert "would both write out/a.png" in run("segment", segmenter, "a.png", "a.jpg", "-o", "out/").stderr


def test_a_damaged_checkpoint(run: Run, segmenter: Path, tmp_path: Path) -> None:
    config = read_config(segmenter)
    (tmp_path / "model/onnx").mkdir(parents=True)
    (tmp_path / "model/onnx/model.onnx").write_bytes(b"nothing")
    write_config(tmp_path / "model", config)
    save("a.png")
    result = run("segment", tmp_path / "model", "a.png")
    assert result.exit_code == 4 and "does not match its config.json" in result.stderr
