"""Layer features: the graph that is cut, the arrays, the files, the scikit-learn transformer."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

import skipae
from conftest import tiny_features, tiny_graph, write_checkpoint
from skipae import ImageError, Model, UsageError, from_pretrained
from skipae.checkpoints import resolve
from skipae.engine.device import Device, load_runtime
from skipae.engine.onnx_subgraph import cut
from skipae.engine.session import Session
from skipae.options import FeatureSpec
from skipae.tasks import features
from skipae_zoo import Preprocessing, read_config

BUNDLED = resolve.BUNDLED / resolve.DEFAULT


@pytest.mark.parametrize("names", [["enc1"], ["enc3"], ["enc7"], ["enc2", "enc5"]])
def test_a_cut_graph_gives_what_the_whole_gives(names: list[str]) -> None:
    whole = (BUNDLED / "onnx" / "features.onnx").read_bytes()
    part = onnx.load_from_string(cut(whole, names))
    onnx.checker.check_model(part, full_check=True)
    deepest = max(int(name[3:]) for name in names)
    assert [output.name for output in part.graph.output] == names
    assert sum(node.op_type == "Conv" for node in part.graph.node) == deepest
    assert part.metadata_props == onnx.load_from_string(whole).metadata_props
    session = Session(BUNDLED, read_config(BUNDLED), "onnx/features.onnx", Device("cpu"), tuple(names))
    image = np.random.default_rng(0).random((2, 3, 37, 30), np.float32)
    runtime = load_runtime().InferenceSession(whole, providers=["CPUExecutionProvider"])
    expected = dict(zip(names, runtime.run(names, {"pixel_values": image}), strict=True))
    found = session.run_all(image)
    assert list(found) == names
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)


def test_a_cut_graph_keeps_no_weights_that_it_does_not_need() -> None:
    whole = tiny_features().SerializeToString()
    assert {w.name for w in onnx.load_from_string(cut(whole, ["enc1"])).graph.initializer} == {"w1"}
    assert onnx.load_from_string(cut(whole, ["enc1", "enc2"])) == onnx.load_from_string(whole)


def test_what_cannot_be_cut() -> None:
    whole = tiny_features().SerializeToString()
    with pytest.raises(ValueError, match="the graph has no output enc8, enc9"):
        cut(whole, ["enc9", "enc1", "enc8"])
    for damaged in (whole[:-40], b"\x0f\x01", b"\xff" * 20):
        with pytest.raises(ValueError, match="not an ONNX file, or damaged"):
            cut(damaged, ["enc1"])


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    return from_pretrained(checkpoint, device="cpu", threads=1)


def photos(count: int, *sizes: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Noise, [H, W, 3] of uint8, in turns of these sizes (height, width)."""
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*sizes[k % len(sizes)], 3), np.uint8) for k in range(count)]


def layer_maps(checkpoint: Path, image: np.ndarray) -> dict[str, np.ndarray]:
    """One plain run of the whole graph, [C, h, w] by layer."""
    session = load_runtime().InferenceSession(
        str(checkpoint / "onnx" / "features.onnx"), providers=["CPUExecutionProvider"]
    )
    batch = (image.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)
    names = [output.name for output in session.get_outputs()]
    return {name: values[0] for name, values in zip(names, session.run(None, {"pixel_values": batch}), strict=True)}


def adaptive(values: np.ndarray, grid: int) -> np.ndarray:
    """Adaptive average pooling of [C, h, w], cell by cell."""
    _, height, width = values.shape
    pooled = np.empty((len(values), grid, grid), np.float32)
    for i in range(grid):
        for j in range(grid):
            rows = [y for y in range(height) if (y + 1) * grid > i * height and y * grid < (i + 1) * height]
            columns = [x for x in range(width) if (x + 1) * grid > j * width and x * grid < (j + 1) * width]
            pooled[:, i, j] = values[:, rows][:, :, columns].mean((1, 2))
    return pooled


def test_pools(model: Model, checkpoint: Path) -> None:
    images = photos(3, (19, 26))
    expected = [layer_maps(checkpoint, image) for image in images]
    for pool, reduce in {
        "none": lambda x: x,
        "avg": lambda x: x.mean((1, 2)),
        "max": lambda x: x.max((1, 2)),
        "spatial:1": lambda x: x.mean((1, 2), keepdims=True),
        "spatial:4": lambda x: adaptive(x, 4),
        "spatial:30": lambda x: adaptive(x, 30),  # more cells than values
    }.items():
        found = model.features(images, layers=["enc2", "enc1"], pool=pool)
        assert list(found) == ["enc2", "enc1"]
        for name, values in found.items():
            want = np.stack([reduce(maps[name]) for maps in expected])
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, want, rtol=0, atol=1e-5, err_msg=f"{pool} {name}")


def test_the_default_is_the_last_layer_averaged(model: Model) -> None:
    image = photos(1, (12, 9))[0]
    found = model.features(image)
    assert list(found) == ["enc2"] and found["enc2"].shape == (1, 4)


def test_l2_and_dtype(model: Model) -> None:
    images = [*photos(2, (12, 9)), np.zeros((12, 9))]  # no bias: all its features are 0
    plain = model.features(images, layers="enc1", pool="spatial:2")["enc1"]
    scaled = model.features(images, layers="enc1", pool="spatial:2", l2=True)["enc1"]
    assert not plain[2].any() and not scaled[2].any()
    np.testing.assert_allclose(
        scaled[:2], plain[:2] / np.linalg.norm(plain[:2].reshape(2, -1), axis=1)[:, None, None, None], atol=1e-6
    )
    half = model.features(images, layers="enc1", dtype="float16")["enc1"]
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, model.features(images, layers="enc1")["enc1"], rtol=1e-3)


@pytest.mark.parametrize("name", [None, "tiny"])
def test_results_do_not_depend_on_the_batch(checkpoint: Path, name: str | None) -> None:
    model = from_pretrained(checkpoint if name else BUNDLED, device="cpu", threads=1)
    images = photos(7, (40, 33))
    images.insert(3, photos(1, (21, 50))[0])
    names = [layer.name for layer in model.layers]
    for pool in ("none", "avg", "spatial:3"):
        alone = [model.features(image, layers=names, pool=pool) for image in images]
        for size in (1, 3, 64):
            together = list(model.iter_features(iter(images), layers=names, pool=pool, batch_size=size))
            for one, other in zip(alone, together, strict=True):
                for layer in names:
                    np.testing.assert_allclose(one[layer][0], other[layer], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(303, 220), (128, 401)])
def test_windows_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    model = from_pretrained(BUNDLED, device="cpu", threads=1)
    image = photos(1, size)[0]
    names = [layer.name for layer in model.layers]
    runs: list[tuple[int, ...]] = []
    run_all = Session.run_all

    def noted(self: Session, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        runs.append(image.shape)
        return run_all(self, image)

    monkeypatch.setattr(Session, "run_all", noted)
    for pool in ("none", "max", "spatial:5"):
        whole = model.features(image, layers=names, pool=pool)
        extractor = features.Extractor(model.net, FeatureSpec(names, pool))
        extractor.tiling = replace(extractor.tiling, area=140 * 140)
        runs.clear()
        (parts,) = extractor.run([image])
        assert len(runs) > 3 and max(shape[2] * shape[3] for shape in runs) < size[0] * size[1] / 2
        for name in names:
            np.testing.assert_allclose(parts[name], whole[name][0], rtol=0, atol=1e-5, err_msg=f"{pool} {name}")


def test_memory_that_runs_out(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    images = photos(5, (60, 50))
    expected = model.features(images, pool="none")["enc2"]
    run_all = Session.run_all

    def poor(self: Session, image: np.ndarray) -> dict[str, np.ndarray]:
        if image.size > limit:
            raise MemoryError
        return run_all(self, image)

    monkeypatch.setattr(Session, "run_all", poor)
    for limit in (2 * 3 * 60 * 50, 3 * 30 * 30):  # noqa: B007 (read by poor)
        np.testing.assert_allclose(model.features(images, pool="none")["enc2"], expected, rtol=0, atol=1e-5)
    limit = 10
    with pytest.raises(ImageError, match="not enough memory for features of 50 x 60 pixels"):
        model.features(images)


def test_images_of_all_kinds(model: Model, tmp_path: Path) -> None:
    pixels = photos(1, (20, 14))[0]
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    alpha = np.dstack([pixels, np.zeros((20, 14), np.uint8)])
    kinds = [
        path, str(path), path.read_bytes(), bytearray(path.read_bytes()), Image.open(path), pixels, alpha,
        pixels.astype(np.uint16) * 257, pixels / 255,
    ]  # fmt: skip
    expected = model.features(pixels, layers=["enc1"])["enc1"]
    for kind in kinds:
        np.testing.assert_allclose(model.features(kind, layers=["enc1"])["enc1"], expected, atol=1e-6)
    for images in (kinds, tuple(kinds)):
        assert model.features(images, layers=["enc1"])["enc1"].shape == (9, 4)
    assert model.features(np.stack([pixels, pixels]), layers=["enc1"])["enc1"].shape == (2, 4)
    gray = pixels[..., 0]
    np.testing.assert_allclose(
        model.features(gray)["enc2"], model.features(np.repeat(gray[..., None], 3, 2))["enc2"], atol=1e-6
    )
    cmyk = Image.fromarray(pixels).convert("CMYK")
    np.testing.assert_allclose(model.features(cmyk)["enc2"], model.features(cmyk.convert("RGB"))["enc2"], atol=1e-6)


def test_an_iterator_is_read_no_further_than_a_batch(model: Model) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield photos(1, (8, 8), seed=taken)[0]

    found = model.iter_features(endless(), batch_size=4)
    first = [next(found)["enc2"] for _ in range(5)]
    assert taken == 8
    np.testing.assert_allclose(first[4], model.features(photos(1, (8, 8), seed=5)[0])["enc2"][0], atol=1e-6)


def test_files_that_are_too_large(model: Model, checkpoint: Path, tmp_path: Path) -> None:
    from skipae import FeatureExtractor

    path = str(tmp_path / "photo.png")
    Image.fromarray(photos(1, (9, 8))[0]).save(path)
    message = "has 8 x 9 = 72 pixels, more than 71; use a larger max_pixels"
    with pytest.raises(ImageError, match=message):
        model.features(path, max_pixels=71)
    with pytest.raises(ImageError, match=message):
        next(model.iter_features(iter([path]), max_pixels=71))
    with pytest.raises(ImageError, match=message):
        FeatureExtractor(str(checkpoint), max_pixels=71, device="cpu").transform([path])
    with pytest.raises(UsageError, match="max_pixels must be at least 1, not 0"):
        FeatureExtractor(str(checkpoint), max_pixels=0).fit([path])
    assert model.features(path, max_pixels=72)["enc2"].shape == (1, 4)


def test_mixed_sizes_and_none_at_all(model: Model) -> None:
    found = model.features(photos(3, (8, 8), (9, 12)), pool="none")["enc2"]
    assert [array.shape for array in found] == [(4, 4, 4), (4, 5, 6), (4, 4, 4)]
    assert model.features([], pool="none") == {"enc2": []}
    assert model.features([], pool="spatial:3", dtype="float16")["enc2"].shape == (0, 4, 3, 3)


def test_the_layer_where_none_is_asked_for(tmp_path: Path) -> None:
    tiny, image = (tiny_graph(), tiny_features()), photos(1, (8, 8))[0]
    plain = from_pretrained(write_checkpoint(tmp_path / "plain", *tiny))
    named = from_pretrained(write_checkpoint(tmp_path / "named", *tiny, default_layer="enc1"))
    assert list(plain.features(image)) == ["enc2"]
    assert list(named.features(image)) == ["enc1"]
    assert list(named.features(image, layers="enc2")) == ["enc2"]


def test_resize_and_crop(tmp_path: Path) -> None:
    tiny = tiny_graph(), tiny_features()
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, (0.5,) * 3, resize=16, crop=12)
    model = from_pretrained(write_checkpoint(tmp_path / "cropped", *tiny, preprocessing=preprocessing), device="cpu")
    plain = from_pretrained(write_checkpoint(tmp_path / "plain", *tiny), device="cpu")
    image = photos(1, (33, 50))[0]
    scaled = Image.fromarray(image).resize((24, 16), Image.Resampling.BICUBIC)
    expected = plain.features(np.asarray(scaled)[2:14, 6:18], pool="none")["enc2"]
    np.testing.assert_array_equal(model.features(image, pool="none")["enc2"], expected)
    np.testing.assert_array_equal(plain.features(image, pool="none", resize=16, crop=12)["enc2"], expected)
    near = model.features(image.astype(np.uint16) * 257, pool="none")["enc2"]
    np.testing.assert_allclose(near, expected, atol=0.02)  # not rounded to 8 bits in between
    assert model.features(image, pool="none", crop=0)["enc2"].shape == (1, 4, 8, 12)
    assert model.features(image, pool="none", resize=0, crop=0)["enc2"].shape == (1, 4, 17, 25)
    with pytest.raises(ImageError, match=r"images\[0\]: is 50 x 33 pixels, less than the crop of 34"):
        plain.features(image, crop=34)
    message = "is 60000 x 1 pixels, and 13440000 x 224 with its short side scaled to 224, more than 178956970 pixels"
    with pytest.raises(ImageError, match=message):  # nine gigabytes
        plain.features(np.zeros((1, 60_000, 3), np.uint8), resize=224, crop=224)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["enc1", "enc12"]}, r"tiny has no layer 'enc12' \(did you mean enc2\?\); use any of enc1, enc2"),
        ({"layers": "last"}, "tiny has no layer 'last'; use any of enc1, enc2"),
        ({"layers": []}, "layers is empty; use any of enc1, enc2"),
        ({"pool": "mean"}, "pool must be none, avg, max or spatial:N .*, not 'mean'"),
        ({"pool": "spatial:0"}, "not 'spatial:0'"),
        ({"dtype": "float64"}, "dtype must be float32 or float16, not 'float64'"),
        ({"max_pixels": 0}, "max_pixels must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"resize": -1}, "resize must be a number of pixels, or 0 for none, not -1"),
    ],
)
def test_wrong_arguments(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.features(photos(1, (8, 8)), **options)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (7, UsageError, "images must be an image or several images, not int"),
        ([np.zeros((4, 4)), 7], UsageError, r"images\[1\]: image must be a PIL.Image"),
        (["none.png"], ImageError, r"images\[0\]: image none.png: no such file"),
        (np.full((4, 4), 200.0), UsageError, "floats must be in"),
        (np.zeros((2, 4, 4, 5)), UsageError, r"images\[0\]: image: an array must have the shape"),
    ],
)
def test_wrong_images(model: Model, images: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.features(images)


def test_a_pickled_model_has_features(model: Model) -> None:
    image = photos(1, (8, 8))[0]
    expected = model.features(image)["enc2"]
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.features(image)["enc2"], expected)


def test_a_relative_folder_is_that_of_the_moment_of_loading(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photos(1, (8, 8))[0]
    monkeypatch.chdir(checkpoint.parent)
    model = from_pretrained(Path(checkpoint.name), device="cpu")
    data = pickle.dumps(model)
    monkeypatch.chdir(tmp_path)
    assert model.folder == checkpoint
    np.testing.assert_array_equal(model.features(image)["enc2"], pickle.loads(data).features(image)["enc2"])


def test_scikit_learn_transformer(checkpoint: Path, tmp_path: Path) -> None:
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from skipae import FeatureExtractor

    images = photos(6, (12, 9), (10, 10))
    paths = [str(tmp_path / f"{k}.png") for k in range(6)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    extractor = FeatureExtractor(str(checkpoint), layers=["enc2", "enc1"], pool="spatial:2", device="cpu", threads=1)
    found = from_pretrained(checkpoint, device="cpu").features(images, layers=["enc2", "enc1"], pool="spatial:2")
    expected = np.concatenate([values.reshape(6, -1) for values in found.values()], axis=1)
    np.testing.assert_array_equal(extractor.transform(images), expected)  # before any fit
    column = np.array(paths, object)[:, None]
    for given in (images, paths, column, iter(paths)):
        np.testing.assert_array_equal(extractor.fit(given).transform(given), expected)
    names = extractor.get_feature_names_out()
    assert len(names) == expected.shape[1] and list(names[[0, 1, 16]]) == ["enc2_0_0_0", "enc2_0_0_1", "enc1_0_0_0"]

    for copy in (clone(extractor), pickle.loads(pickle.dumps(extractor))):
        assert copy.get_params() == extractor.get_params() and not hasattr(copy, "_model")
        np.testing.assert_array_equal(copy.transform(paths), expected)
    assert extractor.set_params(pool="max", layers="enc1").transform(paths).shape == (6, 4)
    np.testing.assert_array_equal(extractor.get_feature_names_out(), ["enc1_0", "enc1_1", "enc1_2", "enc1_3"])

    labels = [0, 1, 0, 1, 0, 1]
    pipeline = make_pipeline(clone(extractor), LogisticRegression()).fit(paths, labels)
    assert pipeline.set_params(featureextractor__layers="enc2").fit(paths, labels).predict(paths).shape == (6,)
    assert extractor.set_params(pool="spatial:2").transform([]).shape == (0, 16)
    with pytest.raises(UsageError, match="with pool none, rows differ in length"):
        FeatureExtractor(str(checkpoint), pool="none").fit(paths)
    with pytest.raises(UsageError, match="no layer 'enc3'"):
        FeatureExtractor(str(checkpoint), layers="enc3").fit(paths)
    with pytest.raises(UsageError, match="X must be a list or an array of images, not str"):
        extractor.transform(paths[0])
    one = images[0]
    with pytest.raises(UsageError, match=r"X is one image \[H, W, C\]; pass \[X\] for one, or an array \[N, H, W, C\]"):
        extractor.transform(one)
    np.testing.assert_array_equal(extractor.transform([one]), extractor.transform(one[None]))
    assert extractor.transform(np.stack([one[..., 0]] * 2)).shape == (2, 16)  # [N, H, W]


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "skipae.integrations.sklearn", raising=False)
    with pytest.raises(ImportError, match=r'needs scikit-learn: pip install ".*\[sklearn\]"'):
        from skipae import FeatureExtractor  # noqa: F401
    from skipae import __all__ as public

    assert all(hasattr(skipae, name) for name in public)
