"""``skipae bench``, and what it starts in the training package."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from PIL import Image

from skipae.cli import main
from skipae.commands import bench, bench_plot
from skipae_zoo import QUANTIZED, read_config, write_config

SECONDS = {"seconds_per_megapixel", "cpu_seconds_per_megapixel", "load_seconds"}
KEYS = {*SECONDS, "images_per_second", "peak_mib", "engine", "threads"}
FEATURE_KEYS = {f"{key}_{side}" for key in ("images_per_second", "cpu_seconds_per_image") for side in (64, 224)}
FEATURE_KEYS |= {"load_seconds", "peak_mib", "engine", "threads"}


def run(*words: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *words])
    return caught.value.code


def train(*words: str, code: int = 0) -> None:
    from skipae_train.cli import main as train_main

    with pytest.raises(SystemExit) as caught:
        train_main(list(words))
    assert caught.value.code == code


def test_json(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(checkpoint), "--device", "cpu", "--size", "64", "--threads", "1", "--rounds", "1"]
    assert run(*words, "--json") == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["size"] == 64 and found["small"] == 128 and captured.err == "skipae: measuring cpu\n"
    row = found["devices"]["cpu"]
    assert set(row) == KEYS and row["engine"].startswith("onnxruntime ") and row["threads"] == 1
    assert 0 < row["seconds_per_megapixel"] < 1000 and row["images_per_second"] > 0
    assert 20 < row["peak_mib"] < 400  # not that of the process that runs the tests, which has loaded torch


def test_a_device_that_is_not_there(checkpoint: Path) -> None:
    # In a process of its own, whose descriptor 2 leads nowhere during the command.
    words = ["bench", "--model", str(checkpoint), "--device", "cuda", "--quiet"]
    done = subprocess.run([sys.executable, "-m", "skipae", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("skipae: error: device cuda is not in")


def test_what_doctor_finds(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, object] = {"devices": {"cpu": "no"}, "problems": [{"problem": "it fails", "repair": "pip it"}]}
    start = subprocess.run

    def doctor(words: list[str], **options: Any) -> Any:
        if "doctor" not in words:
            return start(words, **options)
        return subprocess.CompletedProcess(words, code, json.dumps(found))

    monkeypatch.setattr(subprocess, "run", doctor)
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    words = ["--model", str(checkpoint), "--size", "64", "--threads", "1", "--rounds", "1", "--quiet"]
    code = 3
    assert run(*words) == 3
    assert capsys.readouterr().err == "skipae: error: no device works: it fails; pip it\n"
    found["devices"], code = {"cpu": "works"}, 4  # the bundled model is damaged, and another one is measured
    assert run(*words) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("cpu")


def test_all_that_work_and_torch_in_turns(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def answer(words: list[str], *_: int) -> str:
        asked.append(words)
        if words[1] == "doctor":
            return json.dumps({"devices": {"cuda:0": "works", "openvino": "no", "cpu": "works"}})
        numbers = {"images_per_second": len(asked)} | dict.fromkeys(SECONDS, len(asked))
        return json.dumps(numbers | {"peak_mib": 10.0 * len(asked), "engine": words[0], "threads": 2})

    monkeypatch.setattr(bench, "_run", answer)
    monkeypatch.setattr(bench, "find_spec", lambda name: name)
    assert run("--model", str(checkpoint), "--threads", "2") == 0
    order = ["cuda:0", "cpu", "eager"] * 2
    assert [w[1] if w[1] != "bench" else w[w.index("--device") + 1] for w in asked] == ["doctor", *order]
    assert all(words[-2:] == ["--threads", "2"] for words in asked[1:])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["device", "cuda:0", "cpu", "torch"]
    assert lines[2].split()[1:4] == ["3.000", "6.0", "60"]  # the least seconds, the most images, the peak


def measured(words: list[str]) -> dict[str, object]:
    """What a row prints, with speeds that depend on its kind."""
    same: dict[str, object] = {"peak_mib": None, "engine": words[0], "threads": 1, "load_seconds": 1}
    if "features" in words or words[1] == "resnet18":
        times = 0.5 if words[1] == "resnet18" else 2 if "int8" in words else 1
        speeds = {"images_per_second_64": 500 * times, "images_per_second_224": 40 * times}
        busy = {"cpu_seconds_per_image_64": 0.008 / times, "cpu_seconds_per_image_224": 0.1 / times}
        return {**speeds, **busy, **same}
    seconds = 4 if words[1] == "ffdnet" else 1 if "int8" in words else 3
    return {"images_per_second": 7, **dict.fromkeys(SECONDS, seconds), **same}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Arguments of the rows, which are not measured."""
    found: list[list[str]] = []

    def answer(words: list[str], *_: int) -> str:
        found.append(words)
        return json.dumps(measured(words))

    monkeypatch.setattr(bench, "_run", answer)
    monkeypatch.setattr(bench, "find_spec", lambda name: name)
    return found


@pytest.fixture
def with_int8(checkpoint: Path, tmp_path: Path) -> str:
    config = read_config(checkpoint)
    (tmp_path / "int8").mkdir()
    write_config(tmp_path / "int8", replace(config, files={**config.files, QUANTIZED: "0" * 64}))
    return str(tmp_path / "int8")


def test_int8_features_and_rivals(asked: list[list[str]], with_int8: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", with_int8, "--device", "cpu", "--rounds", "1", "--threads", "1", "--quiet"]
    words += ["--against", "ffdnet", "--features"]
    assert run(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    features = ["cpu features", "cpu int8 features", "timm resnet18"]
    assert list(found["devices"]) == ["cpu", "cpu int8", "ffdnet", *features]
    ratio = {"cpu": 0.75, "cpu int8": 0.25, "ffdnet": 1.0}
    assert found["against"] == {"rival": "ffdnet", "ratio": ratio, "cpu_ratio": ratio}
    times = {row: {"64": times, "224": times} for row, times in zip(features, (1, 2, 0.5), strict=True)}
    assert found["features"] == {
        "model": "skipae-imagenet", "reference": "cpu features", "ratio": times, "cpu_ratio": times,
    }  # fmt: skip
    assert "--model" not in asked[2] and asked[3][asked[3].index("--model") + 1] == "skipae-imagenet"
    assert [each[each.index("--precision") + 1] for each in asked[3:5]] == ["fp32", "int8"]
    assert asked[5] == ["skipae_train", "resnet18", "--threads", "1"]
    assert run(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:4] == ["cpu", "int8", "1.000", "0.25"]
    assert lines[-2].split()[:7] == ["cpu", "int8", "features", "1000.0", "2.00", "80.0", "2.00"]
    assert lines[-1].split()[:6] == ["timm", "resnet18", "250.0", "0.50", "20.0", "0.50"]


def test_features_in_the_precisions_that_they_have(
    asked: list[list[str]], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "find_spec", lambda name: None)  # no timm
    words = ["--model", str(checkpoint), "--rounds", "1", "--features", "--json", "--quiet"]
    for given, rows in (
        (["--device", "cpu", "--precision", "int8"], ["cpu int8 features"]),
        (["--device", "tensorrt", "--precision", "fp16"], ["tensorrt features"]),
        (["--device", "openvino"], ["openvino features", "openvino int8 features"]),
        (["--device", "cuda"], ["cuda features"]),
    ):
        assert run(*words, *given) == 0
        found = json.loads(capsys.readouterr().out)["devices"]
        assert [row for row in found if row.endswith("features")] == rows == list(found)[1:]


def test_a_timm_that_does_not_load_is_left_out(
    asked: list[list[str]], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(words: list[str], *_: int) -> str:
        if words[1] == "resnet18":
            raise click.exceptions.Exit(1)
        return json.dumps(measured(words))

    monkeypatch.setattr(bench, "_run", answer)
    assert run("--model", str(checkpoint), "--device", "cpu", "--features", "--json") == 0
    captured = capsys.readouterr()
    assert list(json.loads(captured.out)["features"]["ratio"]) == ["cpu features", "cpu int8 features"]
    assert captured.err.count("skipae: timm resnet18 does not run and is left out\n") == 1  # not again in round 2


def test_a_plot(asked: list[list[str]], with_int8: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # letters instead of curves
    words = ["--model", with_int8, "--device", "cpu", "--size", "512", "--rounds", "1", "--quiet"]
    words += ["--against", "ffdnet", "--features", "--plot"]
    svg = tmp_path / "new" / "speed.svg"
    assert run(*words, str(svg)) == 0
    text = svg.read_text()
    for part in ("cpu int8", "ffdnet", "timm resnet18", "seconds per megapixel", "images of 128 x 128 per second",
                 "features: images of 224 x 224 per second", "512 x 512 pixels", ">1000<", ">80<"):  # fmt: skip
        assert part in text, part
    png = tmp_path / "speed.PNG"
    assert run(*words[:8], "--plot", str(png)) == 0
    with Image.open(png) as picture:
        assert picture.format == "PNG" and picture.width > 2 * picture.height  # one line of panels


def test_a_plot_that_cannot_be_written_is_refused_first(
    asked: list[list[str]],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = tmp_path / "there.png"
    there.write_bytes(b"mine")
    (tmp_path / "folder.png").mkdir()
    words = ["--model", str(checkpoint), "--device", "cpu", "--rounds", "1", "--quiet", "--plot"]

    def refuse(path: Path, code: int, said: str, *more: str) -> None:
        assert run(*words, str(path), *more) == code
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error and asked == []

    refuse(tmp_path / "a.jpg", 2, f"--plot {tmp_path / 'a.jpg'} must end in .png, .svg or .pdf")
    refuse(there, 1, "already exists; use --overwrite to replace it")
    refuse(there / "a.png", 1, f"{there} is not a folder")
    refuse(tmp_path / "folder.png", 1, "folder.png: it is a folder", "--overwrite")
    monkeypatch.setattr(bench_plot, "find_spec", lambda name: None)
    refuse(tmp_path / "a.png", 2, "--plot needs matplotlib: pip install ")
    assert there.read_bytes() == b"mine"
    monkeypatch.undo()
    monkeypatch.setattr(bench, "_run", lambda words, *_: json.dumps(measured(words)))
    assert run(*words, str(there), "--overwrite") == 0
    assert there.read_bytes().startswith(b"\x89PNG")


def test_a_rival_is_measured_by_its_graph(capsys: pytest.CaptureFixture[str]) -> None:
    train("ffdnet", "--size", "64", "--threads", "1")
    assert set(json.loads(capsys.readouterr().out)) == KEYS


def test_features_are_measured(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--child", "features", "--device", "cpu", "--precision", "fp32", "--model", str(checkpoint)]
    assert run(*words, "--threads", "1") == 0
    row = json.loads(capsys.readouterr().out)
    assert set(row) == FEATURE_KEYS
    assert row["images_per_second_64"] > row["images_per_second_224"] > 0
    assert 0 < row["cpu_seconds_per_image_64"] < row["cpu_seconds_per_image_224"]


def test_resnet18_of_timm_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    shapes, made = set(), []

    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.dtype == torch.float32 and -3 < images.min() < -1 and 1 < images.max() < 3
            shapes.add(tuple(images.shape))
            return images.mean((2, 3))

    def create(name: str, **options: object) -> Network:
        made.append((name, options))
        return Network()

    timm = types.ModuleType("timm")
    timm.__version__ = "9.9"  # type: ignore[attr-defined]
    timm.create_model = create  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    train("resnet18", "--threads", "1")
    row = json.loads(capsys.readouterr().out)
    assert set(row) == FEATURE_KEYS and row["engine"].startswith("timm 9.9, torch ") and row["threads"] == 1
    assert shapes == {(16, 3, 64, 64), (16, 3, 224, 224)}
    assert made == [("resnet18", {"pretrained": False, "num_classes": 0})]


def test_a_timm_that_does_not_load_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    train("resnet18", code=1)
    assert capsys.readouterr().err.startswith("skipae-train: error: timm does not load: ")


def test_torch(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("eager", "--model", str(checkpoint), "--size", "64", "--threads", "1")
    row = json.loads(capsys.readouterr().out)
    assert set(row) == KEYS and row["engine"].startswith("torch ") and row["threads"] == 1
