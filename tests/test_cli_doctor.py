"""``skipae doctor``: each problem with its repair, on fake machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from skipae.checkpoints import resolve
from skipae.cli import main
from skipae.commands import doctor
from skipae.engine import device as runtime
from test_inference_runtime import FakeRuntime

CUDA, OPENVINO, CPU = "CUDAExecutionProvider", "OpenVINOExecutionProvider", "CPUExecutionProvider"
GPU = "NVIDIA H100, 570.86.10, 81559 MiB\n"


class Machine:
    """A machine whose runtime and nvidia-smi say what a test wants."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.patch, self.folder = patch, folder
        self.gpus = ""
        patch.setattr(subprocess, "run", self.nvidia_smi)
        self.runtime([CPU], "onnxruntime")

    def runtime(self, providers: list[str], *packages: str) -> FakeRuntime:
        fake = FakeRuntime(providers, self.folder)
        fake.cuda_version = "13.0"  # type: ignore[attr-defined]
        for name in packages:
            info = self.folder / f"{name}-1.30.0.dist-info"
            info.mkdir(exist_ok=True)
            (info / "RECORD").write_text("onnxruntime/__init__.py,sha256=x,1\n")
        self.patch.setitem(sys.modules, "onnxruntime", fake)
        return fake

    def nvidia_smi(self, command: list[str], **_: Any) -> Any:
        if not self.gpus:
            raise FileNotFoundError(command[0])
        return subprocess.CompletedProcess(command, 0, self.gpus)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.delenv(resolve.MIRROR, raising=False)
    return Machine(monkeypatch, tmp_path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *words])
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().out


def repairs(report: doctor.Findings) -> list[str]:
    assert all("\n" not in line for found in report.problems for line in found.values())
    return [found["repair"] for found in report.problems]


def test_a_healthy_machine(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys)
    assert code == 0 and "no problems found" in text and "gpus: none" in text
    code, text = run(capsys, "--json")
    report = json.loads(text)
    threads = runtime.available_threads()
    assert report["devices"] == {"cpu": "works"}
    assert report["usable"] and not report["problems"]
    assert report["threads"]["used"] == threads and report["memory"]["total"] > 1 << 28
    files = {"onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/features.onnx"}
    assert set(report["checkpoint"]["sha256"]) == files


def test_a_gpu_without_cuda(machine: Machine) -> None:
    machine.gpus = GPU
    report = doctor.examine()
    assert report.exit_code == 0
    assert "a GPU (NVIDIA H100), but onnxruntime lacks CUDA" in report.problems[0]["problem"]
    assert repairs(report) == [runtime.repair("cuda")]


def test_two_runtimes_at_once(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.gpus = GPU
    machine.runtime([CPU], "onnxruntime_gpu")
    code, text = run(capsys)
    assert code == 0 and "onnxruntime and onnxruntime-gpu are installed together" in text
    assert "repair:  pip uninstall -y onnxruntime onnxruntime-gpu onnxruntime-openvino onnxruntime-directml &&" in text
    machine.gpus = ""
    machine.runtime([CPU], "onnxruntime_openvino")
    assert repairs(doctor.examine()) == [runtime.repair("openvino")]


def test_cuda_without_a_gpu(machine: Machine) -> None:
    machine.runtime([CUDA, CPU]).missing = "Failed to load libcudnn.so.9: libcudnn.so.9: cannot open\n"
    machine.patch.setattr(FakeRuntime, "InferenceSession", refuse_cuda)
    report = doctor.examine()
    assert report.exit_code == 0 and report.facts["cuda"]["missing"] == ["libcudnn.so.9"]
    assert report.devices["cuda:0"] == "cuda:0 cannot run a convolution: libcudnn.so.9 cannot be loaded"
    assert len(report.problems) == 1 and runtime.repair("cpu") in repairs(report)[0]


def refuse_cuda(self: FakeRuntime, model: Any, options: Any, providers: list[Any], **_: Any) -> Any:
    if providers[0] != CPU:
        raise RuntimeError("nodes that are assigned to the default CPU EP")
    from test_inference_runtime import FakeSession

    return FakeSession(self, options, providers)


def test_an_old_driver_and_two_gpus(machine: Machine) -> None:
    machine.gpus = GPU * 2
    machine.runtime([CUDA, CPU])
    report = doctor.examine()
    assert report.devices["cuda:0"] == report.devices["cuda:1"] == "works"
    assert report.problems == [
        {
            "problem": "the driver 570.86.10 is too old for CUDA 13.0",
            "repair": "update NVIDIA's driver to 580 or later",
        }
    ]


def test_no_device_works(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.runtime([OPENVINO, CPU]).run_error = RuntimeError("illegal instruction")
    code, text = run(capsys)
    assert code == 3 and text.count("illegal instruction") == 4 and runtime.repair("openvino") in text
    machine.patch.setitem(sys.modules, "onnxruntime", None)
    code, text = run(capsys)
    assert code == 3 and "no ONNX Runtime is installed" in text and runtime.repair("cpu") in text


def test_a_damaged_model_and_a_missing_mirror(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = machine.folder / "weights" / resolve.DEFAULT
    (damaged / "onnx").mkdir(parents=True)
    (damaged / "config.json").write_bytes((resolve.BUNDLED / resolve.DEFAULT / "config.json").read_bytes())
    (damaged / "onnx" / "model.onnx").write_bytes(b"x")
    machine.patch.setattr(resolve, "BUNDLED", damaged.parent)
    machine.patch.setenv(resolve.MIRROR, str(machine.folder / "none"))
    code, text = run(capsys)
    assert code == 4 and "does not match its config.json" in text
    assert f"{resolve.MIRROR}={machine.folder / 'none'} is not a folder" in text
