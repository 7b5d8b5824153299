"""``skipae-train doctor``: check whether training can run here, and suggest fixes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from skipae.install import install_command

NEEDED = ("torch", "torchmetrics", "accelerate", "datasets", "onnx", "onnxruntime", "safetensors", "matplotlib")
"""Packages of the extra ``train``."""

OPTIONAL = ("torchvision", "opencv-python-headless")
"""Packages that are not needed and may cause conflicts."""


@dataclass(frozen=True)
class Problem:
    """What does not work, and the repair."""

    text: str
    repair: str


@dataclass
class Findings:
    """What was found."""

    facts: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def examine() -> Findings:
    """Check packages and devices; nothing is changed, and nothing is sent anywhere."""
    found = Findings()
    versions = {name: known for name in (*NEEDED, *OPTIONAL) if (known := _version(name))}
    found.facts["packages"] = ", ".join(f"{name} {known}" for name, known in versions.items()) or "none"
    missing = [name for name in NEEDED if name not in versions]
    if missing:
        found.problems.append(Problem(f"{', '.join(missing)} not installed", install_command("train")))
    if "torchvision" in versions and (problem := torchvision_problem()) is not None:
        found.problems.append(problem)
    if "torch" in versions:
        _look_at_devices(found)
    return found


def torchvision_problem() -> Problem | None:
    """Return why torchvision cannot be loaded, as one made for another torch; None where it can, or is not there."""
    if not _version("torchvision"):
        return None
    done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or ["it ends"]
    return Problem(
        f"torchvision {_version('torchvision')} does not fit torch {_version('torch')} ({lines[-1]})",
        "pip uninstall -y torchvision (skipae-train does not need it), or install the one made for this torch",
    )


def _look_at_devices(found: Findings) -> None:
    try:
        import torch

        from skipae.commands.doctor import find_gpus
        from skipae_train.machine import choose_training_precision
    except Exception as error:  # a torch that cannot be loaded raises nearly anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        found.problems.append(Problem(f"torch cannot be loaded ({reason})", install_command("train")))
        return
    gpus = find_gpus()
    devices = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    for name in devices:
        found.facts[f"device {name}"] = _try(name)
        if found.facts[f"device {name}"] != "works":
            found.problems.append(
                Problem(f"{name}: {found.facts[f'device {name}']}", "update the driver, or --device cpu")
            )
    found.facts["threads"] = str(torch.get_num_threads())
    found.facts["precision"] = choose_training_precision("auto", None)
    if gpus and not torch.cuda.is_available():
        built = torch.version.cuda or "no CUDA"
        found.problems.append(
            Problem(
                f"found a GPU ({gpus[0]['name']}, driver {gpus[0]['driver']}), but torch {torch.__version__} was "
                f"built for {built} and cannot use it",
                "install the torch of pytorch.org for this driver",
            )
        )


def _try(device: str) -> str:
    """Return ``works``, or why a step of training does not."""
    import torch

    try:
        image = torch.ones(2, 3, 16, 16, device=device)
        layer = torch.nn.Conv2d(3, 4, 3).to(device)
        layer(image).square().mean().backward()
        gradient = layer.weight.grad
        return "works" if gradient is not None and bool(gradient.isfinite().all()) else "gives no finite gradients"
    except Exception as error:  # drivers raise nearly anything
        return next(iter(str(error).splitlines()), type(error).__name__)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
