"""Graphs of strangers: outputs that are not what config.json says, runs that never end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conftest import LABELS, tiny_features, tiny_graph, write_checkpoint
from skipae import DeviceError, ModelError, from_pretrained
from skipae.engine.session import time_limit
from skipae_zoo import Head

FLOAT = TensorProto.FLOAT


def graph(*nodes: onnx.NodeProto, type: int = FLOAT, name: str = "out", **constants: object) -> onnx.ModelProto:
    """``nodes`` make ``out`` of ``image``; its shape is not declared."""
    output = helper.make_tensor_value_info(name, type, None)
    if type == TensorProto.UNDEFINED:
        output = helper.make_tensor_sequence_value_info(name, FLOAT, None)
    model = helper.make_graph(
        list(nodes),
        "foreign",
        [helper.make_tensor_value_info("pixel_values", FLOAT, ["n", 3, "h", "w"])],
        [output],
        [numpy_helper.from_array(np.array(value), key) for key, value in constants.items()],
    )
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def node(kind: str, *inputs: str, out: str = "out", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs) or ["pixel_values"], [out], **attributes)


def joined(axis: int) -> onnx.ModelProto:
    return graph(node("Concat", "pixel_values", "pixel_values", axis=axis))


def mean(*axes: int, keep: int) -> onnx.ModelProto:
    return graph(node("ReduceMean", "pixel_values", "axes", keepdims=keep), axes=np.array(axes, np.int64))


FOREIGN = {
    "twice the height": (joined(2), "float32 [1, 3, 16, 9]"),
    "twice the width": (joined(3), "float32 [1, 3, 8, 18]"),
    "six channels": (joined(1), "float32 [1, 6, 8, 9]"),
    "two images": (joined(0), "float32 [2, 3, 8, 9]"),
    "one channel": (mean(1, keep=1), "float32 [1, 1, 8, 9]"),
    "no channel": (mean(1, keep=0), "float32 [1, 8, 9]"),
    "half the size": (graph(node("MaxPool", kernel_shape=[2, 2], strides=[2, 2])), "float32 [1, 3, 4, 4]"),
    "a scalar": (mean(0, 1, 2, 3, keep=0), "float32 []"),
    "integers": (graph(node("Cast", to=TensorProto.INT64), type=TensorProto.INT64), "int64 [1, 3, 8, 9]"),
    "doubles": (graph(node("Cast", to=TensorProto.DOUBLE), type=TensorProto.DOUBLE), "float64 [1, 3, 8, 9]"),
    "a sequence": (
        graph(node("SequenceConstruct", "pixel_values", "pixel_values"), type=TensorProto.UNDEFINED),
        "a list",
    ),
}


def test_outputs_that_are_not_a_restored_image(tmp_path: Path) -> None:
    for number, (what, (model, came)) in enumerate(FOREIGN.items()):
        folder = write_checkpoint(tmp_path / f"foreign{number}", model)
        with pytest.raises(ModelError) as caught:
            from_pretrained(folder, device="cpu", threads=1).denoise(np.zeros((8, 9, 3), np.uint8))
        assert str(caught.value) == (
            f"onnx/model.onnx of foreign{number} does not match its config.json: output out for an image of 9 x 8 "
            f"pixels is {came}, expected float32 [1, 3, 8, 9]; use another checkpoint"
        ), what


@pytest.mark.parametrize("count", [2, 7])
def test_outputs_of_another_number_of_classes(tmp_path: Path, count: int) -> None:
    pixels = np.zeros((8, 9, 3), np.uint8)
    first = node("ReduceMean", "pixel_values", "axes", out="first", keepdims=1)
    maps = graph(first, node("Expand", "first", "shape"), axes=np.array([1]), shape=np.array([1, count, 1, 1]))
    folder = write_checkpoint(tmp_path / "seg", maps, task="segmentation", labels=LABELS, head=Head("decoder"))
    with pytest.raises(ModelError, match=rf"is float32 \[1, {count}, 8, 9\], expected float32 \[1, 4, 8, 9\]"):
        from_pretrained(folder, device="cpu", threads=1).segment(pixels)
    scores = graph(
        node("ReduceMean", "pixel_values", "axes", out="first", keepdims=0),
        node("Expand", "first", "shape"),
        axes=np.array([1, 2, 3]),
        shape=np.array([1, count]),
    )
    folder = write_checkpoint(tmp_path / "cls", scores, task="classification", labels=LABELS, head=Head("conv-pool"))
    with pytest.raises(ModelError, match=r"expected float32 \[1, 4\]"):
        from_pretrained(folder, device="cpu", threads=1).classify(pixels)


def test_features_of_another_size(tmp_path: Path) -> None:
    model = tiny_features()
    del model.graph.node[2:], model.graph.output[:]
    model.graph.node.append(node("MaxPool", "enc1", out="enc2", kernel_shape=[4, 4], strides=[4, 4]))
    for name in ("enc1", "enc2"):
        model.graph.output.append(helper.make_tensor_value_info(name, FLOAT, None))
    folder = write_checkpoint(tmp_path / "tiny", tiny_graph(), model)
    with pytest.raises(
        ModelError, match=r"output enc2 for .* is float32 \[1, 4, 2, 2\], expected float32 \[1, 4, 4, 5\]"
    ):
        from_pretrained(folder, device="cpu", threads=1).features(np.zeros((8, 9, 3), np.uint8))


def test_a_graph_that_fails_while_it_runs_is_the_checkpoint_s_fault(tmp_path: Path) -> None:
    folder = write_checkpoint(
        tmp_path / "tiny", graph(node("Reshape", "pixel_values", "shape"), shape=np.array([7, 7]))
    )
    with pytest.raises(ModelError, match=r"onnx/model\.onnx of tiny cannot be run \(.*; use another checkpoint$"):
        from_pretrained(folder, device="cpu", threads=1).denoise(np.zeros((8, 9, 3), np.uint8))


def test_a_graph_with_another_input_is_the_checkpoint_s_fault(tmp_path: Path) -> None:
    model = graph(node("Identity", "pixel_values"))
    for place in (model.graph.input[0], model.graph.node[0]):
        if isinstance(place, onnx.NodeProto):
            place.input[0] = "image"
        else:
            place.name = "image"
    folder = write_checkpoint(tmp_path / "tiny", model)
    with pytest.raises(ModelError, match="use another checkpoint"):
        from_pretrained(folder, device="cpu", threads=1).denoise(np.zeros((8, 9, 3), np.uint8))


def endless() -> onnx.ModelProto:
    """Adds 1 to the image 2**62 times."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["x", "one"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("k", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", FLOAT, None),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.array(1, np.float32), "one")],
    )
    return graph(node("Loop", "count", "go", "pixel_values", body=body), count=np.int64(2**62), go=np.bool_(True))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_graph_that_never_ends(tmp_path: Path, number: int, code: int) -> None:
    from PIL import Image

    folder = write_checkpoint(tmp_path / "endless", endless())
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    words = [
        sys.executable,
        "-m",
        "skipae",
        "denoise",
        "a.png",
        "b.png",
        "--verbose",
        "--model",
        str(folder),
        "--threads",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, preexec_fn=listen) as child:
        assert child.stderr is not None
        assert child.stderr.readline().startswith(b"skipae: device: ")
        assert child.stderr.readline().startswith(b"skipae: precision: ")
        time.sleep(1)
        child.send_signal(number)
        try:
            _, errors = child.communicate(timeout=120)
        finally:
            child.kill()
    assert child.returncode == code, errors
    assert errors == b"skipae: error: interrupted: 0 of 2 images are done; use --resume to continue\n"


def test_a_time_limit_ends_a_run_and_later_runs_work(tmp_path: Path, checkpoint: Path) -> None:
    pixels = np.zeros((8, 9, 3), np.uint8)
    model = from_pretrained(write_checkpoint(tmp_path / "endless", endless()), device="cpu", threads=1)
    started = time.monotonic()
    with pytest.raises(DeviceError, match="it took too long"), time_limit(0.5):
        model.denoise(pixels)
    assert time.monotonic() - started >= 0.5
    found: list[np.ndarray] = []
    good = from_pretrained(checkpoint, device="cpu", threads=1)
    thread = threading.Thread(target=lambda: found.append(good.denoise(pixels)))  # not by way of the main thread
    thread.start()
    thread.join()
    assert np.array_equal(found[0], good.denoise(pixels))
