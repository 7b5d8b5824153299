import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from skipae_train import quantize as quantization
from skipae_train.data import DataError
from skipae_train.errors import RunError
from skipae_train.export import build_features, build_model, export, session
from skipae_train.int8_graph import Calibration, Graph, _gptq, quantize
from skipae_train.networks import Classifier, Segmenter
from skipae_train.quantize import QuantizeError, quantize_checkpoint
from skipae_zoo import QUANTIZED, QUANTIZED_FEATURES, Head, network_1, network_3, read_config, verified_file
from test_export import config_of
from test_networks import trained_a_little

POST = network_1((2, 2, 1, 2), 16, topology="post")
UNITS = {"topology": "post", "residual": True, "refine": 1, "norm": "none", "widths": (4, 8, 8, 8)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    for number in range(12):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 10, 3), np.uint8))
        coarse.resize((150, 140), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    export(trained_a_little(POST), folder, name="tiny", fill=(0.4, 0.5, 0.6))
    return folder


def noise(n, height, width, seed=0):
    return np.random.default_rng(seed).random((n, 3, height, width), np.float32)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 29, 31), (1, 45, 100)])
@pytest.mark.parametrize("options", [{"topology": "post"}, {"topology": "pre"}, UNITS], ids=str)
@pytest.mark.parametrize("build", [build_model, build_features])
def test_the_form_for_int8_computes_the_same_in_float(build, options, size):
    network = trained_a_little(network_1((4, 2, 1, 2), 4, **options))
    model = build(network, config_of(network), "float16")
    image = {model.graph.input[0].name: noise(*size)}
    for found, want in zip(
        session(Graph(model).to_model()).run(None, image), session(model).run(None, image), strict=True
    ):
        np.testing.assert_allclose(found, want, atol=2e-5 * max(1, np.abs(want).max()))


def quantized(network, **options):
    graph = Graph(build_model(network, config_of(network)))
    calibration = Calibration(
        graph, [np.rint(noise(1, 64, 64, seed) * 255).astype(np.float32) / 255 for seed in range(4)]
    )
    return graph, quantize(graph, calibration, **{"kept": frozenset(), "balance": 0.75, **options})


def optimized(model, tmp_path):
    """The operators that ONNX Runtime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


def test_onnx_runtime_runs_every_layer_in_int8_and_moves_nothing_in_between(tmp_path):
    graph, model = quantized(trained_a_little(POST))
    operators = optimized(model, tmp_path)
    assert operators.count("QLinearConv") == len(graph.convolutions()) == 14
    assert operators.count("QLinearAdd") == 3
    assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == 1  # the image and the residual
    # Two to and from channels last, and one for each of the four woven deconvolutions.
    assert operators.count("Transpose") == 6


def test_a_convolution_that_is_kept_stays_in_float():
    _, model = quantized(trained_a_little(POST), kept=frozenset({"enc2.conv"}))
    weights = {w.name: w.data_type for w in model.graph.initializer}
    assert weights["enc2.weight"] == onnx.TensorProto.FLOAT
    assert weights["enc3.weight.int"] == onnx.TensorProto.INT8
    assert "enc2.weight.int" not in weights


def test_residual_units_and_deeper_decoders_run_in_int8():
    network = trained_a_little(network_1((4, 4, 1, 0), 16, topology="post", residual=True, refine=1))
    graph, model = quantized(network)
    floats = [w.name for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT and w.dims[1:]]
    assert len(network.architecture.units) == 2 and floats == ["dec1.conv.sum.weight"]  # adds pieces of the result
    x = np.rint(noise(1, 45, 64, seed=9) * 255).astype(np.float32) / 255
    want, found = (session(m).run(None, {graph.image: x})[0] for m in (graph.to_model(), model))
    within = np.abs(want - x) < 0.9
    assert np.abs(found - want)[within].mean() < 0.05 * np.abs(want - x).mean()


@pytest.mark.parametrize("size", [(1, 64, 64), (2, 29, 31)])
def test_int8_is_close_to_float_at_any_size(size):
    network = trained_a_little(POST)
    graph, model = quantized(network)
    count, height, width = size
    x = np.rint(noise(count, height, width, seed=9) * 255).astype(np.float32) / 255
    want, found = (session(m).run(None, {graph.image: x})[0] for m in (graph.to_model(), model))
    assert found.shape == want.shape
    change = np.abs(want - x).mean()
    within = np.abs(want - x) < 0.9  # what is added to an image is held up to 1
    assert np.abs(found - want)[within].mean() < 0.05 * change


def test_rounding_one_weight_after_the_other_keeps_products_better():
    rng = np.random.default_rng(0)
    inputs = rng.random((500, 40)) @ rng.random((40, 40))  # correlated
    weights = rng.normal(0, 20, (8, 40))
    rounded = _gptq(weights, inputs)
    assert np.array_equal(rounded, np.rint(rounded))
    assert np.abs(rounded).max() <= 127
    centered = inputs - inputs.mean(0)
    ours, plain = (np.square((weights - w) @ centered.T).mean() for w in (rounded, np.rint(weights)))
    assert ours < 0.3 * plain


def test_a_checkpoint_gets_its_int8_file(checkpoint, photos):
    said: list[str] = []
    before = read_config(checkpoint)
    (found,) = quantize_checkpoint(checkpoint, photos, graphs=["model"], notify=said.append)
    config = read_config(checkpoint)
    assert set(config.files) == {*before.files, QUANTIZED}
    model = onnx.load(verified_file(checkpoint, config, QUANTIZED))
    props = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert props["skipae"] == before.to_dict(with_files=False)
    assert (
        props["skipae_quantization"]
        == json.loads((checkpoint / "training" / "quantization.json").read_text())[QUANTIZED]
    )
    assert found.loss.images == 3  # every fourth photo
    assert (
        isinstance(found.loss, quantization.PsnrLoss)
        and found.loss.flaw is None
        and max(found.loss.lost.values()) <= 0.1
    )
    assert "sigma 50" in said[-1]
    assert not list(checkpoint.rglob("*.partial"))
    (checkpoint / "training" / "quantization.json").write_text("{")  # damaged: the graph stays as config.json has it
    with pytest.raises(RunError, match=r"quantization\.json"):
        quantization._write(checkpoint, config, build_model(trained_a_little(config.architecture), config), found, 0)
    verified_file(checkpoint, config, QUANTIZED)


def test_a_file_beyond_the_gate_is_not_written(checkpoint, photos, monkeypatch):
    config = read_config(checkpoint)
    monkeypatch.setattr(quantization, "_gate", lambda *_: quantization.PsnrLoss((15,), (30.0,), (29.96,), 3))
    with pytest.raises(
        QuantizeError, match=r"model_quantized.onnx would lose 0\.040 dB at sigma 15, at most 0\.03 are allowed: calib"
    ):
        quantize_checkpoint(checkpoint, photos, graphs=["model"])
    assert read_config(checkpoint) == config


def test_the_layers_that_lose_most_stay_in_float(checkpoint, photos, monkeypatch):
    kept = []

    def psnr_of(model, trials):
        list(trials)
        floats = {w.name for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT}
        good = "dec2.weight" in floats
        return [30.0 if good else 29.9] * len(quantization.SIGMAS)

    monkeypatch.setattr(quantization, "_psnr", psnr_of)
    monkeypatch.setattr(quantization, "_gate", lambda *_: quantization.PsnrLoss((15,), (30.0,), (30.0,), 3))
    monkeypatch.setattr(quantization, "_write", lambda folder, config, model, result, levels: kept.extend(result.kept))
    quantize_checkpoint(checkpoint, photos, graphs=["model"])
    assert kept == ["dec2.conv"]


def test_new_weights_do_not_keep_the_int8_file_of_the_old(tmp_path):
    network = trained_a_little(network_1((2, 0, 0, 0), 4, topology="post"))
    config, _ = export(network, tmp_path, name="tiny", fill=(0.4, 0.5, 0.6))
    (tmp_path / "training").mkdir()
    for file in (QUANTIZED, QUANTIZED_FEATURES, "training/quantization.json"):
        (tmp_path / file).write_text("of the old weights")
    again, _ = export(network, tmp_path, name="tiny", fill=(0.4, 0.5, 0.6))
    assert again == replace(config, files=again.files) and again.files.keys() == config.files.keys()
    assert not (tmp_path / QUANTIZED_FEATURES).exists()
    assert not (tmp_path / QUANTIZED).exists() and not (tmp_path / "training" / "quantization.json").exists()


def test_new_weights_do_not_keep_the_scores_of_the_old(tmp_path):
    architecture = network_1((2, 0, 0, 0), 4, topology="post")
    network = trained_a_little(architecture)
    export(network, tmp_path, name="tiny", fill=(0.4, 0.5, 0.6))
    scores = [tmp_path / "training" / file for file in ("metrics.json", "speed.json", "result.json")]
    scores[0].parent.mkdir()
    for path in scores:
        path.write_text("[]")
    for _ in range(5):  # the same weights give the same files
        export(network, tmp_path, name="tiny", fill=(0.4, 0.5, 0.6))
    assert all(path.exists() for path in scores)
    changed = trained_a_little(architecture, seed=1)
    export(changed, tmp_path, name="tiny", fill=(0.4, 0.5, 0.6), without=("onnx/features.onnx",))
    assert not any(path.exists() for path in scores) and not (tmp_path / "onnx" / "features.onnx").exists()


@pytest.mark.parametrize(("files", "count"), [(95, 48), (399, 200), (7, 7), (3, 9)])
def test_photos_are_chosen_evenly(files, count):
    paths = [Path(f"{number}") for number in range(files)]
    chosen = [int(path.name) for path in quantization._evenly(paths, count)]
    assert len(chosen) == min(files, count) and chosen[0] == 0 and chosen[-1] >= files - files / count - 1
    assert chosen == sorted(set(chosen))


def settled(network):
    """A network whose batch norms have statistics."""
    network.train()
    for _ in range(2):
        network(torch.rand(4, 3, 48, 48))
    return network.eval()


def test_every_layer_of_the_encoder_in_int8_gives_features_in_their_own_units(tmp_path):
    network = trained_a_little(network_1((2, 2, 1, 2), 16, topology="pre"))
    features = build_features(network, config_of(network))
    graph = Graph(features)
    calibration = Calibration(graph, [noise(1, 64, 64, seed) for seed in range(3)])
    model = quantize(graph, calibration, kept=frozenset({"enc3.conv"}), balance=0.75, levels=63)
    assert optimized(model, tmp_path).count("QLinearConv") == len(graph.convolutions()) - 1
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert max(np.abs(w.astype(int)).max() for name, w in weights.items() if name.endswith("weight.int")) == 63
    x = {graph.image: noise(2, 45, 40, seed=9)}
    names = [output.name for output in features.graph.output]
    assert [output.name for output in model.graph.output] == names
    for name, found, want in zip(names, session(model).run(names, x), session(features).run(names, x), strict=True):
        assert np.abs(found - want).mean() < 0.02 * np.abs(want).max(), name


def test_batch_norm_after_a_shortcut_is_folded_so_that_a_segmenter_runs_in_int8(tmp_path):
    torch.manual_seed(0)
    network = settled(Segmenter(network_3(8), 5, init="he"))
    model = build_model(network, segmenter_config(network))
    graph = Graph(model)
    assert {node.op_type for node in graph.nodes}.isdisjoint({"ConvTranspose", "DepthToSpace"})
    assert graph.in_float == {"head.conv"}
    x = {graph.image: noise(2, 45, 40, seed=9)}
    (want,), (found,) = (session(m).run(None, x) for m in (model, graph.to_model()))
    np.testing.assert_allclose(found, want, atol=2e-5 * np.abs(want).max())
    calibration = Calibration(graph, [noise(1, 64, 64, seed) for seed in range(3)])
    int8 = quantize(graph, calibration, kept=frozenset(), balance=0.5, levels=63)
    operators = optimized(int8, tmp_path)
    assert operators.count("QLinearConv") == len(graph.convolutions()) - 1
    assert operators.count("QLinearAdd") == 6
    assert operators.count("Mul") <= 6  # of sizes
    (found,) = session(int8).run(None, x)
    assert np.abs(found - want).mean() < 0.03 * np.abs(want).max()


def test_a_negative_factor_of_batch_norm_leaves_its_shortcut_in_float():
    torch.manual_seed(0)
    network = settled(Segmenter(network_3(4), 5, init="he"))
    with torch.no_grad():
        network.unit("enc2").norm.weight[1] = -0.5
    model = build_model(network, segmenter_config(network))
    graph = Graph(model)
    assert "enc2.conv" in graph.in_float
    x = {graph.image: noise(1, 45, 40, seed=9)}
    calibration = Calibration(graph, [noise(1, 64, 64, seed) for seed in range(3)])
    int8 = quantize(graph, calibration, kept=frozenset(), balance=0.5)
    (want,), (found,) = (session(m).run(None, x) for m in (model, int8))
    assert np.abs(found - want).mean() < 0.05 * np.abs(want).max()


def segmenter_config(network):
    labels = tuple(f"class {number}" for number in range(5))
    return replace(config_of(network), task="segmentation", labels=labels, head=network.head_config)


def test_a_classifier_is_compared_by_its_classes(tmp_path):
    rng, labels = np.random.default_rng(5), ("a", "b", "c")
    torch.manual_seed(1)
    network = settled(Classifier(network_1((2, 1, 0, 1), 16), 3, Head("pool-fc"), init="he"))
    with torch.no_grad():
        network.head.fc.weight *= 20
    folder = tmp_path / "labels"
    export(network, folder, name="labels", fill=(0.4, 0.5, 0.6), labels=labels, resize=40, crop=32)
    for part, count in (("photos", 12), ("gate", 9)):
        for number in range(count):
            at = tmp_path / part / labels[number % 3]
            at.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
            coarse.resize((60, 50), Image.Resampling.BICUBIC).save(at / f"{number}.png")
    task, features = quantize_checkpoint(folder, tmp_path / "photos", tmp_path / "gate")
    assert (task.file, features.file) == (QUANTIZED, QUANTIZED_FEATURES)
    assert isinstance(task.loss, quantization.LabelLoss) and isinstance(features.loss, quantization.FeatureLoss)
    assert task.loss.metric == "accuracy" and task.loss.labeled == 9 and task.loss.agreement == 1
    assert min(features.loss.cosine.values()) >= 0.99 and list(features.loss.cosine) == ["enc1", "enc2", "enc3", "enc4"]
    assert {QUANTIZED, QUANTIZED_FEATURES} <= read_config(folder).files.keys()
    records = json.loads((folder / "training" / "quantization.json").read_text())
    assert set(records) == {QUANTIZED, QUANTIZED_FEATURES}
    assert "accuracy" in records[QUANTIZED]["summary"]
    assert features.loss.nearest == 1  # of 9 images, so that unlike ones can differ
    (tmp_path / "gate" / "a").rename(tmp_path / "gate" / "A")
    with pytest.raises(DataError, match="is not in a folder named as a class of labels, as other images are: rename"):
        quantize_checkpoint(folder, tmp_path / "photos", tmp_path / "gate")


def test_a_segmenter_is_compared_by_its_masks(tmp_path, monkeypatch):
    monkeypatch.setattr(quantization, "LEAST_AGREEMENT", 0.95)  # of random weights, whose classes are close
    monkeypatch.setattr(quantization, "MOST_POINTS", 5)
    torch.manual_seed(0)
    network = settled(Segmenter(network_1((2, 1, 0, 1), 16), 3, init="he"))
    folder, data = tmp_path / "seg", tmp_path / "data"
    export(network, folder, name="seg", fill=(0.4, 0.5, 0.6), labels=("background", "x", "y"))
    rng = np.random.default_rng(5)
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (data / part).mkdir(parents=True)
    (data / "classes.txt").write_text("0 background\n1 x\n2 y\n")
    for number in range(14):
        Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8)).resize((50, 40), Image.Resampling.BICUBIC).save(
            data / "JPEGImages" / f"{number}.jpg"
        )
        Image.fromarray(rng.integers(0, 3, (40, 50), np.uint8)).save(data / "SegmentationClass" / f"{number}.png")
    (data / "ImageSets/Segmentation/val.txt").write_text("0\n1\n2\n")
    calibrated, held = quantization._split(data / "JPEGImages", data)
    assert len(calibrated) == 11 and [file.stem for file in held] == ["0", "1", "2"]
    (found,) = quantize_checkpoint(folder, data / "JPEGImages", data, graphs=["model"])
    assert isinstance(found.loss, quantization.LabelLoss)
    assert found.loss.metric == "mIoU" and found.loss.images == 3
    assert 0.95 < found.loss.agreement < 1 and 0 < found.loss.float_value < 100


@pytest.mark.parametrize(
    ("loss", "flaw"),
    [
        (quantization.PsnrLoss((15, 100), (30.0, 22.0), (29.98, 21.92), 3), None),
        (quantization.PsnrLoss((15, 100), (30.0, 22.0), (29.96, 21.92), 3), "0.040 dB at sigma 15, at most 0.03"),
        (quantization.PsnrLoss((15, 100), (30.0, 22.0), (29.98, 21.88), 3), "0.120 dB at sigma 100, at most 0.1"),
        (quantization.LabelLoss(0.995, 9), None),
        (quantization.LabelLoss(0.98, 9), "2.00% of the classes, at most 1%"),
        (quantization.LabelLoss(0.995, 9, "mIoU", 50.0, 49.8, 9), "0.20 points of mIoU, at most 0.1"),
        (quantization.FeatureLoss({"enc1": 0.999, "enc2": 0.995}, 0.95, 9), None),
        (quantization.FeatureLoss({"enc1": 0.999, "enc2": 0.98}, 0.95, 9), "cosine similarity 0.9800"),
        (quantization.FeatureLoss({"enc1": 0.999}, 0.85, 9), "15% of the nearest neighbors"),
    ],
)
def test_what_too_much_is(loss, flaw):
    assert loss.flaw is None if flaw is None else flaw in loss.flaw
