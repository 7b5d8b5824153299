"""``skipae bench``, and what it starts in the training package."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skipae.cli import main
from skipae.commands import bench
from skipae_zoo import QUANTIZED, read_config, write_config

SECONDS = {"seconds_per_megapixel", "cpu_seconds_per_megapixel", "load_seconds"}
KEYS = {*SECONDS, "images_per_second", "peak_mib", "engine", "threads"}


def run(*words: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *words])
    return caught.value.code


def train(*words: str) -> None:
    from skipae_train.cli import main as train_main

    with pytest.raises(SystemExit) as caught:
        train_main(list(words))
    assert caught.value.code == 0


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


def test_a_device_that_is_not_there(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--model", str(checkpoint), "--device", "cuda", "--quiet") == 3
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err.startswith("skipae: error: device cuda is not in")
    assert captured.err.count("\n") == 1


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


def test_int8_features_and_a_rival(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config(checkpoint)
    write_config(tmp_path, replace(config, files={**config.files, QUANTIZED: "0" * 64}))
    asked: list[list[str]] = []

    def answer(words: list[str], *_: int) -> str:
        asked.append(words)
        if "features" in words:
            numbers: dict[str, object] = {
                "images_per_second_64": 500.0,
                "images_per_second_224": 40.0,
                "load_seconds": 1,
            }
        else:
            seconds = 4 if words[1] == "ffdnet" else 1 if "int8" in words else 3
            numbers = {"images_per_second": 7, **dict.fromkeys(SECONDS, seconds)}
        return json.dumps(numbers | {"peak_mib": None, "engine": words[0], "threads": 1})

    monkeypatch.setattr(bench, "_run", answer)
    words = [
        "--model",
        str(tmp_path),
        "--device",
        "cpu",
        "--rounds",
        "1",
        "--against",
        "ffdnet",
        "--features",
        "--quiet",
    ]
    assert run(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["devices"]) == ["cpu", "cpu int8", "ffdnet", "cpu features"]
    ratio = {"cpu": 0.75, "cpu int8": 0.25, "ffdnet": 1.0}
    assert found["against"] == {"rival": "ffdnet", "ratio": ratio, "cpu_ratio": ratio}
    assert "--model" not in asked[2] and asked[3][asked[3].index("--model") + 1] == "skipae-imagenet"
    assert run(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:4] == ["cpu", "int8", "1.000", "0.25"]
    assert lines[-1].split()[:4] == ["cpu", "features", "500.0", "40.0"]


def test_a_rival_is_measured_by_its_graph(capsys: pytest.CaptureFixture[str]) -> None:
    train("ffdnet", "--size", "64", "--threads", "1")
    assert set(json.loads(capsys.readouterr().out)) == KEYS


def test_features_are_measured(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--child", "features", "--device", "cpu", "--precision", "fp32", "--model", str(checkpoint)]
    assert run(*words, "--threads", "1") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["images_per_second_64"] > row["images_per_second_224"] > 0


def test_torch(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("eager", "--model", str(checkpoint), "--size", "64", "--threads", "1")
    row = json.loads(capsys.readouterr().out)
    assert set(row) == KEYS and row["engine"].startswith("torch ") and row["threads"] == 1
