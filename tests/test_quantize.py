import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from skipae_train import quantize as quantization
from skipae_train.export import build_features, build_model, export, session
from skipae_train.quantize import Calibration, Graph, QuantizeError, _gptq, quantize, quantize_checkpoint
from skipae_zoo import QUANTIZED, network_1, read_config, verified_file
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


def test_onnx_runtime_runs_every_layer_in_int8_and_moves_nothing_in_between(tmp_path):
    graph, model = quantized(trained_a_little(POST))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
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
    found = quantize_checkpoint(checkpoint, photos, notify=said.append)
    config = read_config(checkpoint)
    assert set(config.files) == {*before.files, QUANTIZED}
    model = onnx.load(verified_file(checkpoint, config, QUANTIZED))
    props = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert props["skipae"] == before.to_dict(with_files=False)
    assert props["skipae_quantization"] == json.loads((checkpoint / "training" / "quantization.json").read_text())
    assert found.loss.images == 3  # every fourth photo
    assert found.loss.worst <= 0.03
    assert "sigma 50" in said[-1]
    assert not list(checkpoint.rglob("*.partial"))


def test_a_file_beyond_the_gate_is_not_written(checkpoint, photos, monkeypatch):
    config = read_config(checkpoint)
    monkeypatch.setattr(quantization, "MOST_LOST", 0.03)
    monkeypatch.setattr(quantization, "_gate", lambda *_: quantization.Loss((15,), (30.0,), (29.96,), 3))
    with pytest.raises(
        QuantizeError, match=r"tiny: int8 loses 0\.040 dB, more than the 0\.03 allowed; calibrate on more"
    ):
        quantize_checkpoint(checkpoint, photos)
    assert read_config(checkpoint) == config


def test_the_layers_that_lose_most_stay_in_float(checkpoint, photos, monkeypatch):
    kept = []

    def psnr_of(model, trials):
        list(trials)
        floats = {w.name for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT}
        good = "dec2.weight" in floats
        return [30.0 if good else 29.9] * 3

    monkeypatch.setattr(quantization, "_psnr", psnr_of)
    monkeypatch.setattr(quantization, "_gate", lambda *_: quantization.Loss((15,), (30.0,), (30.0,), 3))
    monkeypatch.setattr(quantization, "_write", lambda folder, config, model, result: kept.extend(result.kept))
    quantize_checkpoint(checkpoint, photos)
    assert kept == ["dec2.conv"]


def test_new_weights_do_not_keep_the_int8_file_of_the_old(tmp_path):
    network = trained_a_little(network_1((2, 0, 0, 0), 4, topology="post"))
    config, _ = export(network, tmp_path, name="tiny", fill=(0.4, 0.5, 0.6))
    (tmp_path / "training").mkdir()
    for file in (QUANTIZED, "training/quantization.json"):
        (tmp_path / file).write_text("of the old weights")
    again, _ = export(network, tmp_path, name="tiny", fill=(0.4, 0.5, 0.6))
    assert again == replace(config, files=again.files) and again.files.keys() == config.files.keys()
    assert not (tmp_path / QUANTIZED).exists() and not (tmp_path / "training" / "quantization.json").exists()
