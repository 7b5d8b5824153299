"""Which precision is taken, and what int8 promises."""

from __future__ import annotations

import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skipae import DeviceError, UsageError, from_pretrained
from skipae.checkpoints import resolve
from skipae.engine import precision
from skipae.engine.precision import choose_precision, dot_product
from skipae_zoo import (
    FEATURES,
    GRAPH,
    QUANTIZED,
    QUANTIZED_FEATURES,
    CheckpointConfig,
    read_config,
    sha256,
    write_config,
)


def config_of(folder: Path, *, int8: bool) -> CheckpointConfig:
    config = read_config(folder)
    return replace(config, files={**config.files, QUANTIZED: "0" * 64}) if int8 else config


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", "AVX-512 VNNI"),
        ("flags\t\t: fpu avx2 avx_vnni", "AVX-VNNI"),
        ("Features\t: fp asimd asimddp", "ARM dot product"),
        ("flags\t\t: fpu avx avx2 fma", None),
        ("nothing", None),
    ],
)
def test_the_flags_of_the_processor(
    flags: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{flags}\n")
    assert dot_product(path) == found
    assert dot_product(tmp_path / "missing") is None


def test_auto_takes_int8_where_processor_device_and_checkpoint_have_it(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_int8, without = config_of(checkpoint, int8=True), config_of(checkpoint, int8=False)
    monkeypatch.setattr(precision, "dot_product", lambda: "AVX-VNNI")
    assert choose_precision("auto", "cpu", with_int8) == ("int8", "the processor has AVX-VNNI")
    assert choose_precision("auto", "cpu", without) == ("fp32", "tiny has no int8 graph")
    assert choose_precision("auto", "cuda", with_int8) == ("fp32", "int8 is for the devices cpu and openvino, not cuda")
    assert choose_precision("auto", "openvino", with_int8) == ("int8", "the processor has AVX-VNNI")
    assert choose_precision("fp32", "cpu", with_int8).precision == "fp32"
    assert choose_precision("int8", "cuda", with_int8).precision == "int8"
    monkeypatch.setattr(precision, "dot_product", lambda: None)
    assert choose_precision("auto", "cpu", with_int8).precision == "fp32"


def test_a_precision_that_is_not_there(checkpoint: Path) -> None:
    with pytest.raises(DeviceError, match="tiny has no int8 graph: use precision='fp32', or add it with") as caught:
        from_pretrained(checkpoint, precision="int8")
    assert caught.value.exit_code == 3
    with pytest.raises(UsageError, match="precision must be one of auto, fp32, int8, fp16, not 'half'"):
        from_pretrained(checkpoint, precision="half")


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with an int8 graph, of random weights."""
    import onnx

    from skipae_train.export import build_model, export
    from skipae_train.int8_graph import Calibration, Graph, quantize
    from skipae_zoo import network_1
    from test_networks import trained_a_little

    folder = tmp_path_factory.mktemp("int8")
    network = trained_a_little(network_1((2, 1, 0, 2), 16, topology="post"))
    config, _ = export(network, folder, name="tiny8", fill=(0.4, 0.5, 0.6))
    graph = Graph(build_model(network, config))
    crops = [np.random.default_rng(n).random((1, 3, 64, 64), np.float32) for n in range(3)]
    model = quantize(graph, Calibration(graph, crops), kept=frozenset(), balance=0.75)
    onnx.save(model, folder / QUANTIZED)
    write_config(folder, replace(config, files={**config.files, QUANTIZED: sha256(folder / QUANTIZED)}))
    return folder


def test_int8_is_loaded_and_its_tiles_give_nearly_what_the_whole_gives(
    int8: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "skipae")
    model = from_pretrained(int8, device="cpu", precision="int8", threads=1)
    assert model.device.precision == "int8" and "precision: int8: as requested" in caplog.messages
    image = np.random.default_rng(1).integers(0, 256, (150, 203, 3), np.uint8).astype(np.float32) / 255
    whole = model.denoise(image)
    difference = np.abs(model.denoise(image, tile=100) - whole)
    # The runtime rounds a few values another way at the end of a row; a step of the result is 2 / 5 / 255.
    assert difference.max() < 0.005
    assert (difference > 1e-6).mean() < 0.02
    exact = from_pretrained(int8, device="cpu", precision="fp32", threads=1).denoise(image)
    assert 0 < np.abs(whole - exact).mean() < 0.05
    assert model.denoise((image * 255).astype(np.uint8)).dtype == np.uint8


def with_int8_features(folder: Path, to: Path) -> Path:
    """The checkpoint with its encoder in int8 too."""
    import onnx

    from skipae_train.int8_graph import Calibration, Graph, quantize

    shutil.copytree(folder, to)
    graph = Graph(onnx.load(to / FEATURES))
    crops = [np.random.default_rng(n).random((1, 3, 64, 64), np.float32) for n in range(3)]
    onnx.save(quantize(graph, Calibration(graph, crops), kept=frozenset(), balance=0.5), to / QUANTIZED_FEATURES)
    config = read_config(to)
    write_config(to, replace(config, files={**config.files, QUANTIZED_FEATURES: sha256(to / QUANTIZED_FEATURES)}))
    return to


def test_features_are_in_float32_unless_int8_is_asked_for(
    int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "dot_product", lambda: "AVX-VNNI")
    folder = with_int8_features(int8, tmp_path / "both")
    image = np.random.default_rng(1).integers(0, 256, (40, 44, 3), np.uint8)
    exact, auto, found = (
        from_pretrained(folder, device="cpu", precision=kind, threads=1).features(image, layers=["enc3", "enc5"])
        for kind in ("fp32", "auto", "int8")
    )
    for layer, values in exact.items():
        assert np.array_equal(auto[layer], values)
        assert not np.array_equal(found[layer], values)
        np.testing.assert_allclose(found[layer], values, atol=0.05 * np.abs(values).max())


def test_int8_features_that_are_not_there(int8: Path) -> None:
    model = from_pretrained(int8, device="cpu", precision="int8", threads=1)
    with pytest.raises(DeviceError, match="tiny8 has no int8 features: use precision='fp32', or add it with"):
        model.features(np.zeros((40, 40, 3), np.uint8))


def test_a_checkpoint_with_features_alone_in_int8(int8: Path, tmp_path: Path) -> None:
    folder = with_int8_features(int8, tmp_path / "features")
    config = read_config(folder)
    write_config(folder, replace(config, files={k: v for k, v in config.files.items() if k != QUANTIZED}))
    model, image = from_pretrained(folder, device="cpu", precision="int8", threads=1), np.zeros((40, 40, 3), np.uint8)
    assert model.features(image)["enc5"].shape == (1, model.layers[-1].channels)
    with pytest.raises(DeviceError, match="has no int8 graph for its task: use precision='fp32'"):
        model.denoise(image)


def test_a_checkpoint_without_a_float32_graph_runs_in_int8(int8: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    shutil.copytree(int8, folder)
    config = read_config(folder)
    write_config(folder, replace(config, files={QUANTIZED: config.files[QUANTIZED]}))
    (folder / GRAPH).unlink()
    model = from_pretrained(folder, device="cpu", threads=1)
    assert model.device.precision == "int8"
    assert model.denoise(np.zeros((40, 40, 3), np.uint8)).shape == (40, 40, 3)
    with pytest.raises(DeviceError, match="tiny8 has no float32 graph here: use precision='int8'") as caught:
        from_pretrained(folder, device="cpu", precision="fp32", threads=1)
    assert caught.value.exit_code == 3


def test_the_wheel_may_leave_the_float32_graph_out(int8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "weights" / "tiny8"
    shutil.copytree(int8, folder)
    (folder / GRAPH).unlink()
    assert resolve.problems(folder, "onnx/") and GRAPH in resolve.load_config(folder).files  # elsewhere it is missing
    monkeypatch.setattr(resolve, "BUNDLED", tmp_path / "weights")
    assert resolve.problems(folder, "onnx/") == [] and GRAPH not in resolve.load_config(folder).files
    assert from_pretrained(folder, device="cpu", threads=1).device.precision == "int8"
