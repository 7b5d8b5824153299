"""``skipae bench``, and what it starts in the training package."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from skipae.cli import main
from skipae.commands import bench

KEYS = {"seconds_per_megapixel", "images_per_second", "peak_mib", "load_seconds", "engine", "threads"}


def run(*words: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *words])
    return caught.value.code


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


def test_all_that_work_and_torch_in_turns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[list[str]] = []

    def answer(words: list[str], *_: int) -> str:
        asked.append(words)
        if words[1] == "doctor":
            return json.dumps({"devices": {"cuda:0": "works", "openvino": "no", "cpu": "works"}})
        numbers = {"seconds_per_megapixel": len(asked), "images_per_second": len(asked), "load_seconds": 1.0}
        return json.dumps(numbers | {"peak_mib": 10.0 * len(asked), "engine": words[0], "threads": 2})

    monkeypatch.setattr(bench, "_run", answer)
    monkeypatch.setattr(bench, "find_spec", lambda name: name)
    assert run("--threads", "2") == 0
    order = ["cuda:0", "cpu", "eager"] * 2
    assert [w[1] if w[1] != "bench" else w[w.index("--device") + 1] for w in asked] == ["doctor", *order]
    assert all(words[-2:] == ["--threads", "2"] for words in asked[1:])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["device", "cuda:0", "cpu", "torch"]
    assert lines[2].split()[1:4] == ["3.000", "6.0", "60"]  # the least seconds, the most images, the peak


def test_torch(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from skipae_train.cli import cli

    cli.main(["eager", "--model", str(checkpoint), "--size", "64", "--threads", "1"], standalone_mode=False)
    row = json.loads(capsys.readouterr().out)
    assert set(row) == KEYS and row["engine"].startswith("torch ") and row["threads"] == 1
