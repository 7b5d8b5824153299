"""Layer features: the graph that is cut, the arrays, the files, the scikit-learn transformer."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from conftest import tiny_features
from skipae import checkpoints
from skipae.runtime import Device, Session, load_runtime
from skipae.subgraph import cut
from skipae_zoo import read_config

BUNDLED = checkpoints.BUNDLED / checkpoints.DEFAULT


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
    expected = dict(zip(names, runtime.run(names, {"image": image}), strict=True))
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
