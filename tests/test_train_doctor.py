"""``skipae-train doctor``, and what it has in common with the errors of other commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from skipae_train import doctor
from skipae_train.cli import cli
from skipae_train.doctor import Findings, Problem


def test_an_environment_in_which_training_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "torchvision_problem", lambda: None)
    monkeypatch.setattr("skipae.commands.doctor.find_gpus", list)
    done = CliRunner().invoke(cli, ["doctor"])
    lines = done.output.splitlines()
    assert "torch " in lines[0] and "device cpu: works" in lines
    assert lines[-1] == "no problems found" and done.exit_code in (0, None)


def test_a_problem_is_reported_with_its_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Findings({"packages": "none"}, [Problem("torch not installed", "pip install it")])
    monkeypatch.setattr(doctor, "examine", lambda: found)
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.output.splitlines() == ["packages: none", "problem: torch not installed", "repair:  pip install it"]


def test_a_missing_package_and_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(doctor, "NEEDED", ("torch", "no-such-package"))
    monkeypatch.setattr(doctor, "torchvision_problem", lambda: None)
    monkeypatch.setattr("skipae.commands.doctor.find_gpus", lambda: [{"name": "H200", "driver": "570.1"}])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    missing, gpu = doctor.examine().problems
    assert missing.text == "no-such-package not installed" and '[train]"' in missing.repair
    assert gpu.text.startswith("found a GPU (H200, driver 570.1), but torch ")


def test_a_torchvision_made_for_another_torch_is_named_with_the_repair(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms is missing")')
    (tmp_path / "torchvision-0.99.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99.0\n"
    (tmp_path / "torchvision-0.99.0.dist-info" / "METADATA").write_text(metadata)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    words = ["evaluate", "skipae-natural", "--clean", str(tmp_path)]
    code = "from skipae_train.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "torchvision 0.99.0 does not fit torch" in done.stderr and "pip uninstall -y torchvision" in done.stderr
