"""Which precision is taken, and what int8 promises."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skipae import DeviceError, UsageError, from_pretrained
from skipae.engine import precision
from skipae.engine.precision import choose_precision, dot_product
from skipae_zoo import QUANTIZED, CheckpointConfig, read_config, sha256, write_config


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
    assert choose_precision("auto", "cuda", with_int8) == ("fp32", "int8 is for the device cpu, not cuda")
    assert choose_precision("fp32", "cpu", with_int8).precision == "fp32"
    assert choose_precision("int8", "cuda", with_int8).precision == "int8"
    monkeypatch.setattr(precision, "dot_product", lambda: None)
    assert choose_precision("auto", "cpu", with_int8).precision == "fp32"


def test_a_precision_that_is_not_there(checkpoint: Path) -> None:
    with pytest.raises(DeviceError, match="tiny has no int8 graph: use precision='fp32', or add one with") as caught:
        from_pretrained(checkpoint, precision="int8")
    assert caught.value.exit_code == 3
    with pytest.raises(UsageError, match="precision must be one of auto, fp32, int8, fp16, not 'half'"):
        from_pretrained(checkpoint, precision="half")


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with an int8 graph, of random weights."""
    import onnx

    from skipae_train.export import build_model, export
    from skipae_train.quantize import Calibration, Graph, quantize
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


def test_features_are_computed_in_float32_whatever_the_precision(int8: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    found, exact = (
        from_pretrained(int8, device="cpu", precision=kind, threads=1).features(image)["enc5"]
        for kind in ("int8", "fp32")
    )
    assert np.array_equal(found, exact)
