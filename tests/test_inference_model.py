"""from_pretrained and Model.denoise: what goes in comes out alike."""

from __future__ import annotations

import doctest
import io
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import imagecodecs
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import skipae
import skipae_train
import skipae_zoo
from conftest import tiny_graph, write_checkpoint
from skipae import (
    DenoiseOptions,
    DrawOptions,
    FeatureSpec,
    ImageError,
    Model,
    ModelError,
    Picture,
    UsageError,
    cli,
    from_pretrained,
    open_image,
)
from skipae.checkpoints import resolve
from skipae.options import DenoiseKeywords, DrawKeywords, FeatureKeywords, TileKeywords, TileOptions
from skipae_zoo import Head, network_1


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    return from_pretrained(checkpoint, device="cpu", threads=1)


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    random = np.random.default_rng(3)
    if np.issubdtype(dtype, np.floating):
        return random.random(shape).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def reference(checkpoint: Path, rgb: np.ndarray) -> np.ndarray:
    """One plain run on float64 RGB in [0, 1]."""
    import onnxruntime

    session = onnxruntime.InferenceSession(checkpoint / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    batch = rgb.transpose(2, 0, 1)[None].astype(np.float32)
    restored: np.ndarray = session.run(None, {"pixel_values": batch})[0][0]
    return restored.transpose(1, 2, 0).clip(0, 1)  # (C, H, W) -> (H, W, C)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_arrays_keep_shape_and_dtype(model: Model, checkpoint: Path, dtype: type, channels: tuple[int, ...]) -> None:
    image = noise(23, 18, *channels, dtype=dtype)
    before = image.copy()
    result = model.denoise(image)
    assert np.array_equal(image, before)
    assert result.shape == image.shape and result.dtype == image.dtype
    top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    gray = channels in ((), (1,))
    rgb = np.repeat(image.reshape(23, 18, 1), 3, axis=2) if gray else image[..., :3]
    expected = reference(checkpoint, rgb.astype(np.float64) / top) * top
    if gray:
        expected = expected.mean(axis=2).reshape(image.shape)
    tolerance = 0.51 if top > 1 else 1e-3
    if gray:
        tolerance = max(tolerance, top * 0.15)  # clipped before the mean there, after it here
    assert np.abs(result[..., :3] - expected if channels == (4,) else result - expected).max() <= tolerance
    if channels == (4,):
        assert np.array_equal(result[..., 3], image[..., 3])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_strength(model: Model, dtype: type) -> None:
    image = noise(20, 20, 3, dtype=dtype)
    assert np.allclose(model.denoise(image, strength=0.0), image, rtol=0, atol=1e-6)
    full, half = model.denoise(image).astype(float), model.denoise(image, strength=0.5).astype(float)
    top = 1 if dtype is np.float32 else np.iinfo(dtype).max
    inside = (full > 0) & (full < top)  # the others were clipped
    assert np.abs(half - (full + image) / 2)[inside].max() <= (1.01 if top > 1 else 1e-6)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "I;16"])
def test_pil_in_pil_out(model: Model, mode: str) -> None:
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}.get(mode, 0)
    pixels = noise(21, 34, bands) if bands > 1 else noise(21, 34, dtype=np.uint8 if bands else np.uint16)
    image = Image.frombytes(mode, (34, 21), pixels.tobytes())
    image.info["dpi"] = (72, 72)
    result = model.denoise(image)
    assert (result.mode, result.size, result.info["dpi"]) == (mode, image.size, (72, 72))
    assert result.tobytes() != image.tobytes()
    assert model.denoise(image, strength=0).tobytes() == image.tobytes()
    if mode in ("LA", "RGBA"):
        assert result.getchannel("A").tobytes() == image.getchannel("A").tobytes()


def test_path_and_bytes(model: Model, tmp_path: Path) -> None:
    image = Image.fromarray(noise(12, 15, 3))
    path = tmp_path / "photo.png"
    image.save(path)
    expected = model.denoise(image).tobytes()
    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes())):
        result = model.denoise(source)
        assert isinstance(result, Picture)
        assert result.to_pil().tobytes() == expected


def test_a_picture_in_a_picture_out(model: Model, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(24, 40, 3)).save(path, quality=70, exif=exif, dpi=(300, 300), comment=b"hi")
    photo = open_image(path)
    before = photo.to_array()
    assert photo.size == (24, 40) and before.shape == (40, 24, 3)
    result = model.denoise(photo)
    assert np.array_equal(photo.to_array(), before)
    assert not np.array_equal(result.to_array(), before)
    assert np.array_equal(np.asarray(result), model.denoise(before))
    assert result.save(tmp_path / "b.jpg") == []
    assert [loss.what for loss in result.save(tmp_path / "b.png")] == ["comment"]
    assert (tmp_path / "b.jpg").read_bytes() == saved_again(result, tmp_path / "c.jpg")  # saving does not change it
    holes = np.zeros((40, 24), bool)
    holes[10:14, 10:14] = True
    filled = model.inpaint(photo, holes)
    assert isinstance(filled, Picture)
    changed = (filled.to_array() != before).any(axis=2)
    assert changed.any() and not changed[~holes].any()
    assert np.array_equal(photo.to_array(), before)


def saved_again(picture: Picture, path: Path) -> bytes:
    picture.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("channels", [(2,), (3,), (4,)])
def test_a_picture_of_16_bits(model: Model, tmp_path: Path, channels: tuple[int, ...]) -> None:
    pixels = noise(20, 30, *channels, dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    photo = open_image(tmp_path / "a.png")
    assert np.array_equal(photo.to_array(), pixels)
    model.denoise(photo, strength=0).save(tmp_path / "b.tiff")
    assert np.array_equal(open_image(tmp_path / "b.tiff").to_array(), pixels)
    result = model.denoise(tmp_path / "a.png").to_array()
    assert result.dtype == np.uint16 and not np.array_equal(result, pixels)
    with pytest.raises(ImageError, match=r"16 bits per color, which a PIL.Image cannot hold: use to_array"):
        photo.to_pil()


def test_what_cannot_be_opened_or_saved(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^image .*none\.png: no such file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(UsageError, match="source must be the path or the bytes of an image file, not int"):
        open_image(3)  # type: ignore[arg-type]
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    photo = open_image(tmp_path / "a.png")
    assert repr(photo) == "<skipae.Picture 3 x 2, 8-bit gray, from PNG>"
    with pytest.raises(UsageError, match="max_pixels must be at least 1, not 0"):
        open_image(tmp_path / "a.png", max_pixels=0)
    with pytest.raises(UsageError, match="does not say which format to write"):
        photo.save(tmp_path / "b.xyz")
    with pytest.raises(UsageError, match="quality must be from 1 to 100, or 'keep', not 0"):
        photo.save(tmp_path / "b.jpg", quality=0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_models_are_listed() -> None:
    assert skipae.list_models()[0] == "skipae-natural"
    assert set(skipae.list_models("segmentation")) < set(skipae.list_models())


EXAMPLES = [name for name in skipae.__all__ if name not in ("LabelMap", "__version__")]  # a type, and a text


@pytest.mark.parametrize("name", [*EXAMPLES, "FeatureExtractor"])
def test_examples_of_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("photo.jpg", "a.png", "b.png"):
        Image.fromarray(noise(32, 48, 3)).save(file, dpi=(300, 300))
    public = {name: getattr(skipae, name) for name in [*skipae.__all__, "FeatureExtractor"]} | {"np": np}
    found = [test for test in doctest.DocTestFinder().find(public[name], name, globs=public) if test.examples]
    assert found, f"{name} has no example"
    for example in found:
        assert doctest.DocTestRunner().run(example).failed == 0


def test_errors_name_arguments_in_python_and_options_on_the_command_line() -> None:
    error = UsageError("{path!s}: {batch_size} and {overwrite} do not suit {output}, use another {output:name}",
                       path="{a}.png", batch_size=3, overwrite=True, output="x y")  # fmt: skip
    assert str(error) == "{a}.png: batch_size=3 and overwrite=True do not suit output='x y', use another output"
    assert error.command_line() == "{a}.png: --batch-size 3 and --overwrite do not suit -o x y, use another -o"
    assert UsageError("{not} a template").command_line() == "{not} a template"
    again = pickle.loads(pickle.dumps(error))  # workers send them
    assert (str(again), again.command_line()) == (str(error), error.command_line())


def test_keywords_are_the_fields_of_the_options() -> None:
    pairs = (
        (DenoiseOptions, DenoiseKeywords),
        (DrawOptions, DrawKeywords),
        (FeatureSpec, FeatureKeywords),
        (TileOptions, TileKeywords),
    )
    for options, keywords in pairs:
        typed = get_type_hints(keywords)
        assert {field.name: get_type_hints(options)[field.name] for field in fields(options)} == typed


def test_options_as_one_value_and_by_keywords(model: Model) -> None:
    image = noise(30, 40, 3)
    expected = model.denoise(image, strength=0.5, tile=20)
    assert np.array_equal(model.denoise(image, DenoiseOptions(strength=0.5, tile=20)), expected)
    assert np.array_equal(model.denoise(image, DenoiseOptions(strength=0.1, tile=20), strength=0.5), expected)
    with pytest.raises(UsageError, match="strength must be from 0 to 1, not 2"):
        DenoiseOptions(strength=2)
    spec = FeatureSpec("enc1", pool="max")
    (found,) = model.features(image, spec, l2=True).values()
    assert np.array_equal(found, model.features(image, layers=["enc1"], pool="max", l2=True)["enc1"])


def test_the_command_line_and_python_write_the_same_bytes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x010F] = "camera"
    Image.fromarray(noise(50, 60, 3)).save("a.jpg", exif=exif, dpi=(300, 300), quality=90)
    words = ["denoise", "a.jpg", "-o", "cli.jpg", "--model", str(checkpoint), "--strength", "0.8", "--device", "cpu"]
    assert CliRunner().invoke(cli.main, words).exit_code == 0
    model = from_pretrained(checkpoint, device="cpu")
    assert model.denoise(open_image("a.jpg"), strength=0.8).save("python.jpg") == []
    assert Path("cli.jpg").read_bytes() == Path("python.jpg").read_bytes()


USER = """
from collections.abc import Sequence
from typing import assert_type

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skipae import Loss, Model, Picture, from_pretrained, list_models, open_image

model = from_pretrained(list_models("restoration")[0], device="cpu")
assert_type(model, Model)
photo = open_image("a.jpg", max_pixels=1000)
assert_type(photo, Picture)
assert_type(model.denoise(photo), Picture)
assert_type(model.denoise("a.jpg", strength=0.5), Picture)
assert_type(model.inpaint(b"", np.zeros((3, 3), bool)), Picture)
assert_type(model.denoise(Image.new("L", (3, 3))), Image.Image)
assert_type(photo.to_pil(), Image.Image)
losses = photo.save("b.jpg", quality=90)
assert_type(losses, list[Loss])
names: Sequence[str] = [layer.name for layer in model.layers]
model.denoise(3)
"""


def test_types_of_a_user_s_file(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    for package in (skipae, skipae_zoo, skipae_train):
        assert (Path(package.__path__[0]) / "py.typed").is_file()
    file = tmp_path / "user.py"
    file.write_text(USER)
    config = tmp_path / "mypy.ini"  # what user code never sees is not followed: it takes mypy a minute
    config.write_text(
        "[mypy]\nstrict = true\n[mypy-huggingface_hub.*,onnxruntime.*,sklearn.*]\nfollow_imports = skip\n"
    )
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("mypy")
    words = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(cache), str(file)]
    result = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=500)
    problems = [line for line in result.stdout.splitlines() if "error:" in line]
    assert len(problems) == 1 and 'No overload variant of "denoise"' in problems[0], result.stdout + result.stderr


def test_tiles_give_the_same(model: Model) -> None:
    image = noise(61, 50, 3)
    difference = model.denoise(image).astype(int) - model.denoise(image, tile=20)
    assert np.abs(difference).max() <= 1  # 1e-4 may round the other way


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"shape .* not \[4, 4, 2\]"),
        (np.zeros((0, 4), np.uint8), r"not \[0, 4\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"not \[1, 4, 4, 3\]"),
        (np.zeros((4, 4), np.int32), "not int32"),
        (np.zeros((4, 4), bool), "not bool"),
        (np.full((4, 4), 200.0), r"floats must be in \[0, 1\], but these range from 200 to 200"),
        (np.full((4, 4), np.nan), "some are NaN or infinite"),
        (7, "not int"),
        ([1, 2], "not list"),
    ],
)
def test_images_that_cannot_be_used(model: Model, image: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.denoise(image)


@pytest.mark.parametrize(
    "options", [{"strength": 1.5}, {"strength": float("nan")}, {"tile": 0}, {"halo": -1}, {"max_pixels": 0}]
)
def test_options_out_of_range(model: Model, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        model.denoise(np.zeros((4, 4), np.uint8), **options)


def test_bad_files(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^mask .*gone.png: no such file"):
        model.inpaint(np.zeros((4, 4), np.uint8), tmp_path / "gone.png")
    with pytest.raises(ImageError, match=r"^image .*none.png: no such file"):
        model.inpaint(tmp_path / "none.png")
    with pytest.raises(ImageError, match=r"^image .*none.png: no such file"):
        model.denoise(tmp_path / "none.png")
    with pytest.raises(ImageError, match="zero bytes"):
        model.denoise(b"")
    with pytest.raises(ImageError, match="mode F"):
        model.denoise(Image.new("F", (3, 3)))


def test_describes_itself(model: Model) -> None:
    assert model.name == "tiny" and model.config.name == "tiny"
    assert model.layers == (("enc1", 4, 1, 3), ("enc2", 4, 2, 5))
    assert repr(model) == "<skipae.Model tiny on cpu (1 thread)>"


def test_pickle_threads_and_fork(model: Model) -> None:
    image = noise(30, 30, 3)
    expected = model.denoise(image)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).denoise(image), expected)
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(model.denoise(image))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(np.array_equal(result, expected) for result in results)


def test_works_after_a_fork(checkpoint: Path) -> None:
    # In a process of its own: forking pytest's would warn of its threads.
    code = f"""
import os, sys, warnings
import numpy as np
from skipae import from_pretrained
model = from_pretrained({str(checkpoint)!r}, device="cpu", threads=2)
image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
expected = model.denoise(image)
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    sys.exit(0 if np.array_equal(model.denoise(image), expected) else 1)
status = os.waitpid(child, 0)[1]
assert np.array_equal(model.denoise(image), expected)
sys.exit(os.waitstatus_to_exitcode(status))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_loads_no_torch(checkpoint: Path) -> None:
    code = f"""
import sys
import skipae
assert not {{"numpy", "PIL", "onnxruntime", "torch"}} & set(sys.modules), "import skipae is not light"
skipae.from_pretrained({str(checkpoint)!r}, device="cpu").denoise(__import__("numpy").zeros((4, 4), "uint8"))
assert "onnxruntime" in sys.modules
assert not {{"torch", "onnx", "ray", "skipae_train"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment())


def test_public_names() -> None:
    assert set(dir(skipae)) >= {"from_pretrained", "Model", "SkipaeError", "__version__"}
    with pytest.raises(AttributeError, match="nothing"):
        _ = skipae.nothing


def test_options_of_another_kind() -> None:
    model = from_pretrained("skipae-natural", device="cpu")
    image: Any = np.zeros((9, 9), np.uint8)
    wrong: Any = 0.8
    with pytest.raises(UsageError, match=r"options must be DenoiseOptions, not 0\.8; pass single options by name"):
        model.denoise(image, wrong)
    wrong = "enc4"
    with pytest.raises(UsageError, match="options must be FeatureSpec, not 'enc4'"):
        model.features(image, wrong)


@pytest.mark.parametrize(
    ("method", "keyword", "said"),
    [
        ("denoise", "strong", "'strong' (did you mean strength?); DenoiseOptions has tile, halo, strength, luma, "),
        ("features", "layer", "'layer' (did you mean layers?); FeatureSpec has layers, pool, "),
        ("draw_features", "zzz", "'zzz'; DrawOptions has maps, blocks, "),
    ],
)
def test_a_mistyped_keyword(method: str, keyword: str, said: str) -> None:
    model = from_pretrained("skipae-natural", device="cpu")
    words = ["enc1"] if method == "draw_features" else []
    with pytest.raises(TypeError, match=re.escape(f"unexpected keyword argument {said}")):
        getattr(model, method)(np.zeros((9, 9), np.uint8), *words, **{keyword: 1})


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("denoise", {"strength": "0.5"}, "strength must be from 0 to 1, not '0.5'"),
        ("denoise", {"strength": None}, "strength must be from 0 to 1, not None"),
        ("denoise", {"luma": "1"}, "luma must be from 0 to 1, not '1'"),
        ("denoise", {"tile": "64"}, "tile must be a whole number, not '64'"),
        ("denoise", {"max_pixels": "9"}, "max_pixels must be at least 1, not '9'"),
        ("features", {"batch_size": "4"}, "batch_size must be a whole number, not '4'"),
        ("features", {"pool": None}, "pool must be none, avg, max or spatial:N with N from 1 to 999, not None"),
        ("features", {"layers": [4]}, "layers must be names of layers, for example 'enc4', not 4"),
        ("features", {"layers": 4}, "layers must be names of layers, for example 'enc4', not 4"),
        ("features", {"resize": "64"}, "resize must be a whole number, not '64'"),
        ("draw_features", {"layer": "enc1", "maps": "8"}, "maps must be at least 1, not '8'"),
        ("draw_features", {"layer": "enc1", "sigma": "8"}, "sigma must be a number from 0 on, not '8'"),
    ],
)
def test_values_of_the_wrong_type(model: Model, method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        getattr(model, method)(noise(9, 9, 3), **options)


def test_values_of_the_wrong_type_when_loading(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match=r"device must be auto, cpu, .*, not None"):
        from_pretrained(checkpoint, device=None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="threads must be at least 1, not '2'"):
        from_pretrained(checkpoint, device="cpu", threads="2")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_pixels must be at least 1, not '9'"):
        open_image(b"", max_pixels="9")  # type: ignore[arg-type]
    numbers: dict[str, Any] = {"strength": np.float32(0.5), "tile": np.int64(64), "max_pixels": np.int64(99)}
    assert from_pretrained(checkpoint, device="cpu").denoise(noise(9, 9, 3), **numbers).shape == (9, 9, 3)


def test_unknown_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SKIPAE_MIRROR", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="did you mean skipae-natural"):
        from_pretrained("skipae-natura")
    with pytest.raises(ModelError, match=r"bundled with skipae: .*natural.*finetune stl10.*skipae-train export"):
        from_pretrained("skipae-stl10")
    with pytest.raises(ModelError, match="does not exist"):
        from_pretrained("./some/folder")
    with pytest.raises(ModelError, match="does not exist"):
        from_pretrained(Path("some/folder"))
    with pytest.raises(ModelError, match=r"'~nosuch/x' does not exist; use the folder"):
        from_pretrained("~nosuch/x")
    monkeypatch.setenv("SKIPAE_MIRROR", "~nosuch/x")
    with pytest.raises(ModelError, match=r"unknown model 'tiny'.*SKIPAE_MIRROR=.*~nosuch/x does not contain it"):
        from_pretrained("tiny")
    monkeypatch.delenv("SKIPAE_MIRROR")
    with pytest.raises(ModelError, match=r"no config\.json"):
        from_pretrained(tmp_path)
    (tmp_path / "recipe.json").touch()
    with pytest.raises(ModelError, match=r"the folder of a training run: export it with 'skipae-train export'"):
        from_pretrained(tmp_path)
    with pytest.raises(UsageError, match="not int"):
        from_pretrained(3)  # type: ignore[arg-type]


def test_a_relative_mirror_is_that_of_the_folder_in_which_the_process_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resolve, "_STARTED", str(tmp_path))
    monkeypatch.setattr(resolve, "BUNDLED", tmp_path / "none")
    monkeypatch.setenv("SKIPAE_MIRROR", "models")
    (tmp_path / "models" / "skipae-imagenet").mkdir(parents=True)
    (tmp_path / "models" / "skipae-imagenet" / "config.json").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resolve.find_folder("skipae-imagenet") == tmp_path / "models" / "skipae-imagenet"
    with pytest.raises(ModelError, match=rf"SKIPAE_MIRROR={tmp_path}/models does not contain it"):
        resolve.find_folder("skipae-stl10")


def test_order_of_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("bundled", "mirror", "here")}
    name = "skipae-imagenet"
    monkeypatch.setattr(resolve, "BUNDLED", places["bundled"])
    monkeypatch.setenv("SKIPAE_MIRROR", str(places["mirror"]))
    places["here"].mkdir()
    monkeypatch.chdir(places["here"])
    (places["here"] / name).mkdir()  # not a checkpoint: hides nothing
    with pytest.raises(ModelError, match=r"SKIPAE_MIRROR=.* does not contain it"):
        resolve.find_folder(name)
    for place in ("mirror", "bundled"):
        (places[place] / name).mkdir(parents=True)
        (places[place] / name / "config.json").touch()
        assert resolve.find_folder(name) == places[place] / name
    (places["here"] / name / "config.json").touch()
    assert resolve.find_folder(name) == places["bundled"] / name  # a bare name is never a folder
    assert resolve.find_folder(f"./{name}") == Path(name)


@pytest.mark.parametrize("name", ["someone/net", "net"])
def test_a_folder_that_is_no_checkpoint_hides_no_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path, name: str
) -> None:
    monkeypatch.setenv("SKIPAE_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "here" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    missing = "is not in the cache" if "/" in name else "is not a checkpoint folder: it has no config.json"
    with pytest.raises(ModelError, match=missing):
        from_pretrained(name)
    copied = shutil.copytree(checkpoint, tmp_path / "mirror" / name)
    assert resolve.find_folder(name) == copied
    for path in (f"./{name}", Path(name) if "/" in name else tmp_path / "here" / name):
        with pytest.raises(ModelError, match=r"is not a checkpoint folder: it has no config\.json"):
            from_pretrained(path)
    recipe = Path(name, "recipe.json")
    recipe.touch()
    with pytest.raises(ModelError, match=r"the folder of a training run: export it with 'skipae-train export'"):
        from_pretrained(name)
    recipe.rename(recipe.with_name("config.json"))
    assert resolve.find_folder(name) == Path(name)


def test_damaged_weights(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny", tiny_graph())
    path = folder / "onnx" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"does not match its config\.json"):
        from_pretrained(folder, device="cpu")
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        from_pretrained(folder, device="cpu")


def test_a_file_that_is_not_a_model(tmp_path: Path) -> None:
    graph = tiny_graph()
    graph.ClearField("graph")
    with pytest.raises(ModelError, match="cannot be loaded by onnxruntime"):
        from_pretrained(write_checkpoint(tmp_path / "tiny", graph), device="cpu")


def test_another_task(tmp_path: Path) -> None:
    head = Head("pool-fc")
    folder = write_checkpoint(tmp_path / "tiny", tiny_graph(), task="classification", labels=("a", "b"), head=head)
    model = from_pretrained(folder, device="cpu")
    with pytest.raises(ModelError, match="is for classification and cannot denoise; use skipae-natural"):
        model.denoise(np.zeros((4, 4), np.uint8))


def test_default_halo_is_the_config_s(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny", tiny_graph(), halo=0)
    model, exact = from_pretrained(folder, device="cpu"), network_1((2, 0, 0, 0), 4).reach
    image = noise(50, 50, 3)
    whole = model.denoise(image)
    assert not np.array_equal(model.denoise(image, tile=20), whole)
    assert np.abs(model.denoise(image, tile=20, halo=exact).astype(int) - whole).max() <= 1


def test_reads_the_model_s_bytes_from_memory_too(model: Model) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(5, 5, 3)).save(buffer, "BMP")
    assert model.denoise(memoryview(buffer.getvalue())).size == (5, 5)


def test_memory_can_be_given_back(model: Model) -> None:
    image = noise(40, 40, 3)
    expected = model.denoise(image)
    model.trim()
    assert np.array_equal(model.denoise(image), expected)


@pytest.mark.parametrize("verb", ["denoise", "inpaint", "features"])
def test_a_pil_image_that_cannot_be_decoded_is_an_image_error(verb: str, model: Model) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 50).save(buffer, "JPEG")
    good, cut = (Image.open(io.BytesIO(buffer.getvalue()[:length])) for length in (None, 900))
    closed = Image.open(io.BytesIO(buffer.getvalue()))
    closed.close()
    for broken, why in ((cut, "image file is truncated"), (closed, "Operation on closed image")):
        with pytest.raises(ImageError, match=rf"the PIL\.Image cannot be decoded: {why}"):
            getattr(model, verb)(broken)
    with pytest.raises(ImageError, match=r"images\[1\]: the PIL\.Image cannot be decoded"):
        model.features([good, cut])
