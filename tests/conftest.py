"""A tiny checkpoint, made with onnx alone: a conv, a strided conv, a deconv, and the input added."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

# Small arrays gain nothing from threads that wait for each other: two tests took 255 seconds instead of 24, and one ten
# minutes beside another program.  It is read when numpy and torch are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import TensorProto, helper, numpy_helper

from hub_server import HubServer
from skipae_zoo import CheckpointConfig, Head, Preprocessing, network_1, sha256, write_config

# No test uses the internet; read by the Hub's client when it is loaded, here and in processes that tests start.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
# Each worker of pytest-xdist keeps to a core, together with the threads and processes that its tests start.
_worker = os.environ.get("PYTEST_XDIST_WORKER")
if _worker and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})
# Processes started in the background inherit an ignored SIGINT, and those of nohup an ignored SIGHUP, which would hide
# what tests of signals look for.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

CHANNELS = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long ``tests/fuzz`` tries changed files."""
    parser.addoption("--fuzz-seconds", type=float, help="time for changed files; without it, some of each kind")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of modules that use torch or functions of skipae_train: ``-m 'not train'`` leaves them out."""
    for item in items:
        names = list(vars(getattr(item, "module", object)).values())
        modules = [getattr(value, "__name__", "") for value in names]
        homes = [str(getattr(value, "__module__", "")) for value in names]
        if "torch" in modules or any(home.startswith("skipae_train") for home in homes):
            item.add_marker("train")


def tiny_graph(seed: int = 0) -> onnx.ModelProto:
    """The graph of network_1((2, 0, 0, 0), 4) without batch norm: reach 4, total stride 2."""
    random = np.random.default_rng(seed)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        values = random.normal(0, 0.25, shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    pads, slice_axes = [1, 1, 1, 1], np.array([2, 3])
    nodes = [
        helper.make_node("Conv", ["pixel_values", "w1"], ["c1"], pads=pads),
        helper.make_node("Relu", ["c1"], ["enc1"]),
        helper.make_node("Conv", ["enc1", "w2"], ["c2"], pads=pads, strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["enc2"]),
        # Output padding 1 gives 2n, which the slice cuts to the size of enc1.
        helper.make_node("ConvTranspose", ["enc2", "w3"], ["up"], pads=pads, strides=[2, 2], output_padding=[1, 1]),
        helper.make_node("Shape", ["enc1"], ["size"], start=2),
        helper.make_node("Slice", ["up", "zeros", "size", "axes"], ["d2"]),
        helper.make_node("Relu", ["d2"], ["dec2"]),
        helper.make_node("Conv", ["dec2", "w4"], ["residual"], pads=pads),
        helper.make_node("Add", ["residual", "pixel_values"], ["reconstruction"]),
    ]
    constants = [
        weights("w1", CHANNELS, 3, 3, 3),
        weights("w2", CHANNELS, CHANNELS, 3, 3),
        weights("w3", CHANNELS, CHANNELS, 3, 3),
        weights("w4", 3, CHANNELS, 3, 3),
        numpy_helper.from_array(np.zeros(2, np.int64), "zeros"),
        numpy_helper.from_array(slice_axes, "axes"),
    ]
    shape: list[str | int | None] = ["n", 3, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("reconstruction", TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def tiny_features(seed: int = 0) -> onnx.ModelProto:
    """The encoder of :func:`tiny_graph`, both layers outputs."""
    model = tiny_graph(seed)
    graph = model.graph
    del graph.node[4:], graph.initializer[2:], graph.output[:]
    for name in ("enc1", "enc2"):
        shape: list[str | int | None] = ["n", CHANNELS, f"{name}_h", f"{name}_w"]
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


def write_checkpoint(
    folder: Path, model: onnx.ModelProto, features: onnx.ModelProto | None = None, **changes: object
) -> Path:
    """A checkpoint folder around a graph, and one of its features where it is given."""
    architecture = network_1((2, 0, 0, 0), CHANNELS)
    (folder / "onnx").mkdir(parents=True)
    graphs = {"onnx/model.onnx": model} | ({} if features is None else {"onnx/features.onnx": features})
    for file, graph in graphs.items():
        onnx.save(graph, folder / file)
    fields: dict[str, object] = {
        "name": folder.name,
        "task": "restoration",
        "architecture": architecture,
        "preprocessing": Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        "halo": architecture.reach,
        "files": {file: sha256(folder / file) for file in graphs},
    }
    write_config(folder, CheckpointConfig(**(fields | changes)))  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose net changes every pixel a little."""
    return write_checkpoint(tmp_path_factory.mktemp("zoo") / "tiny", tiny_graph(), tiny_features())


LABELS = ("background", "red", "green", "blue")
COLOR_BIAS = (0.25005, 0, 0.0001, 0.0002)
"""Odd enough that averages of 8-bit pixels never tie."""


def color_graph(*, pooled: bool, size: int | None = None) -> onnx.ModelProto:
    """Logits of :data:`LABELS` that the eye can check: a quarter for the background, and each color's own brightness.

    They are averaged over 3 x 3 pixels, so that the reach is 1; ``pooled`` averages them over the image, of
    ``size`` x ``size`` pixels where it is given.
    """
    weights = np.zeros((4, 3, 3, 3), np.float32)
    for k in range(3):
        weights[k + 1, k] = 1 / 9
    nodes = [helper.make_node("Conv", ["pixel_values", "w", "b"], ["pixels"], pads=[1, 1, 1, 1])]
    if pooled:
        nodes += [
            helper.make_node("GlobalAveragePool", ["pixels"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["logits"]),
        ]
    nodes[-1].output[0] = "logits"
    sides = [size or "h", size or "w"]
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, *sides])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4, *([] if pooled else sides)])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array(COLOR_BIAS, np.float32), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of images 8 x 8, cut from the middle of images scaled to a short side of 12."""
    return write_checkpoint(
        tmp_path_factory.mktemp("zoo") / "tiny-cls",
        color_graph(pooled=True, size=8),
        task="classification",
        labels=LABELS,
        head=Head("fc", 4),
        preprocessing=Preprocessing((0.5,) * 3, (0.5,) * 3, (0.5,) * 3, resize=12, crop=8),
    )


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter of images of any size."""
    return write_checkpoint(
        tmp_path_factory.mktemp("zoo") / "tiny-seg",
        color_graph(pooled=False),
        task="segmentation",
        labels=LABELS,
        head=Head("decoder"),
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and no mirror."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("SKIPAE_MIRROR", raising=False)
    return work


@pytest.fixture
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no curves, which takes longer than a tiny run; tests of the loop look at them."""
    monkeypatch.setattr("skipae_train.run_log.draw_curves", lambda *_: None)


def failed(result: Result, code: int, *lines: str) -> None:
    """Exit code, and one line on standard error that holds each text."""
    assert result.exit_code == code, result.stderr
    errors = result.stderr.splitlines()
    assert len(errors) == len(lines), result.stderr
    for line, text in zip(errors, lines, strict=True):
        assert line.startswith("skipae: error: ") and text in line, line
    assert result.stdout == ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub with an empty cache, for this process; the client's waits between tries take no time."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    from skipae.checkpoints import hub

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.delenv("SKIPAE_MIRROR", raising=False)
    monkeypatch.chdir(tmp_path)
    for module in (_http, file_download, hub):
        monkeypatch.setattr(
            module, "time", SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic, time=time.time)
        )
    with HubServer() as hub_server:
        monkeypatch.setenv("HF_ENDPOINT", hub_server.url)
        yield hub_server
