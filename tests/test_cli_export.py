"""``skipae export``: a model for other programs, without torch and without the package onnx."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner, Result

from skipae import cli, from_pretrained
from skipae_zoo import read_config, write_config

NATURAL = Path(__file__).parent.parent / "model_cards" / "skipae-natural"


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, ["export", *map(str, words)])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_graph_for_one_size_gives_the_models_values_at_that_size_alone(checkpoint: Path) -> None:
    done = run("--model", checkpoint, "--size", "21x30")
    assert done.exit_code == 0 and done.stdout.startswith(
        "tiny-21x30.onnx: float32 [1, 3, 21, 30]; differs from tiny by"
    )
    session = onnxruntime.InferenceSession("tiny-21x30.onnx", providers=["CPUExecutionProvider"])
    assert [(v.name, v.shape) for v in session.get_inputs()] == [("pixel_values", [1, 3, 21, 30])]
    pixels = np.random.default_rng(1).random((21, 30, 3), np.float32)
    found = session.run(None, {"pixel_values": pixels.transpose(2, 0, 1)[None]})[0][0].transpose(1, 2, 0)
    expected = from_pretrained(checkpoint, device="cpu").denoise(pixels)
    assert np.abs(found.clip(0, 1) - expected).max() < 1e-5


def test_the_package_for_darktable_holds_a_graph_of_any_size() -> None:
    assert run("--darktable").exit_code == 0
    with zipfile.ZipFile("denoise-skipae-natural.dtmodel") as package:
        assert package.namelist() == ["config.json", "model.onnx"]
        manifest = json.loads(package.read("config.json"))
        model = package.read("model.onnx")
    assert (manifest["id"], manifest["task"], manifest["backend"]) == ("denoise-skipae-natural", "denoise", "onnx")
    assert model == (NATURAL / "onnx" / "model.onnx").read_bytes()
    (pixels,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()
    assert pixels.shape[1] == 3 and all(isinstance(side, str) for side in pixels.shape[2:])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "use either --size HxW or --darktable"),
        (["--size", "9", "--darktable"], 2, "use either --size HxW or --darktable"),
        (["--size", "9x"], 2, "'9x' is not a size in pixels"),
        (["--size", "9", "-o", "a.bin"], 2, "-o a.bin must end in .onnx"),
        (["--darktable", "-o", "a.onnx"], 2, "-o a.onnx must end in .dtmodel"),
        (["--size", "9", "-o", "there.onnx"], 1, "there.onnx already exists; use --overwrite"),
        (["--size", "64", "--model", "FEATURES"], 4, "has no onnx/model.onnx"),
        (["--darktable", "--model", "skipae-camvid-seg"], 4, "is for segmentation and cannot denoise"),
    ],
)
def test_errors_are_a_line(
    words: list[str], code: int, message: str, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    Path("there.onnx").write_bytes(b"mine")
    if "FEATURES" in words:  # a checkpoint of features alone
        folder = tmp_path_factory.mktemp("features") / "tiny"
        shutil.copytree(checkpoint, folder)
        config = read_config(folder)
        files = {file: digest for file, digest in config.files.items() if file != "onnx/model.onnx"}
        write_config(folder, replace(config, files=files))
        words = [*words[:-1], str(folder)]
    found = run(*words)
    assert (found.exit_code, found.stdout) == (code, "")
    assert message in found.stderr and len(found.stderr.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["there.onnx"] and Path("there.onnx").read_bytes() == b"mine"


def test_neither_torch_nor_onnx_is_loaded(checkpoint: Path) -> None:
    script = (
        "import sys\nfrom skipae import cli\n"
        "try: cli.main(['export', '--model', sys.argv[1], '--size', '9x8'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(checkpoint)], check=True, timeout=60)
    assert Path("tiny-9x8.onnx").is_file()
