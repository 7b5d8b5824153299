"""``skipae doctor``: check what is installed and what works, and print commands that fix problems."""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from skipae.console import Console, echo, redact
from skipae.engine import device as devices
from skipae.engine.precision import dot_product
from skipae.engine.providers import available_kinds
from skipae.errors import DeviceError, ModelError
from skipae.install import requirement

PACKAGES = ("skipae", "numpy", "pillow", "click", "tqdm", "huggingface-hub", "torch")

LIBRARIES: dict[str, tuple[str, str, Callable[[int], str]]] = {
    "CUDA": ("cudart", "cudaRuntimeGetVersion", lambda v: f"{v // 1000}.{v % 1000 // 10}"),
    "cuDNN": ("cudnn", "cudnnGetVersion", lambda v: f"{v // 10000}.{v % 10000 // 100}.{v % 100}"),
    "driver's CUDA": ("cuda", "cuDriverGetVersion", lambda v: f"{v // 1000}.{v % 1000 // 10}"),
}
"""For each version: the library, its function that returns the version, and the format of the number."""

LEAST_DRIVER = {12: 525, 13: 580}
"""Minimum NVIDIA driver for each major version of CUDA, from the release notes."""

LEAST_MEMORY = 1 << 30


@dataclass
class Findings:
    """The findings; ``facts`` are grouped by section, in the order to print."""

    facts: dict[str, Any] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    """State of each device: "works", or the reason why not."""
    problems: list[dict[str, str]] = field(default_factory=list)
    """Problems, each with its ``repair``."""
    exit_code: int = 0

    def problem(self, text: str, repair: str) -> None:
        """Add a problem and its repair, one line each."""
        self.problems.append({"problem": text, "repair": repair})

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON values."""
        usable = self.exit_code == 0
        return self.facts | {"devices": self.devices, "problems": self.problems, "usable": usable}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors, and what native libraries print.")
def command(as_json: bool, debug: bool) -> int:
    """Check the installation and devices, and suggest fixes.

    Exit codes: 0 at least one device works, 3 none does, 4 one does, but the bundled model is damaged.
    """
    Console(quiet=True, debug=debug)
    report = examine()
    echo(*(json.dumps(report.to_dict(), indent=2) if as_json else render(report)).split("\n"))
    return report.exit_code


def examine() -> Findings:
    """Check everything; nothing is changed, and nothing is sent anywhere."""
    report = Findings()
    gpus = find_gpus()
    report.facts["system"] = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    report.facts["packages"] = {name: version for name in PACKAGES if (version := _version(name))}
    _look_at_runtime(report, gpus)
    report.facts["int8"] = dot_product() or "this processor has no int8 dot product, fp32 is used"
    report.facts["threads"] = _threads()
    report.facts["memory"] = memory = _memory()
    if 0 < (memory.get("available") or LEAST_MEMORY) < LEAST_MEMORY:
        report.problem("less than 1 GiB of memory is free", "close other programs or use a smaller --tile")
    _look_at_folders(report)
    if not any(said == "works" for said in report.devices.values()):
        report.exit_code = DeviceError.exit_code
    return report


def _look_at_runtime(report: Findings, gpus: list[dict[str, str]]) -> None:
    from importlib.metadata import distributions

    wanted = "cuda" if gpus else "cpu"
    report.facts["runtimes"], report.facts["providers"] = {}, []
    report.facts["gpus"] = gpus
    try:
        module = devices.load_runtime()
    except DeviceError as error:
        report.problem(str(error), devices.repair(wanted))
        return
    names = devices.installed_runtimes(module)
    report.facts["runtimes"] = {name: _version(name) or module.__version__ for name in names}
    report.facts["providers"] = providers = list(module.get_available_providers())
    if len(names) > 1:
        best = "cuda" if gpus else "openvino" if "onnxruntime-openvino" in names else "cpu"
        report.problem(
            f"{' and '.join(names)} are installed together: they share a folder and break each other",
            devices.repair(best),
        )
    if "CUDAExecutionProvider" in providers:
        missing = devices.load_cuda_libraries(module)
        built = getattr(module, "cuda_version", "") or "unknown"
        report.facts["cuda"] = {
            "onnxruntime is built for": built,
            **{name: _library_version(name, built) for name in LIBRARIES},
            "missing": missing,
            "packages": {
                name: distribution.version
                for distribution in distributions()
                if (name := (distribution.metadata["Name"] or "").lower()).startswith("nvidia-")
            },
        }
        _look_at_driver(report, built, gpus)
    elif gpus and len(names) < 2:
        report.problem(
            f"found a GPU ({gpus[0]['name']}), but {names[0] if names else 'the runtime'} lacks CUDA",
            devices.repair("cuda"),
        )
    threads = devices.available_threads()
    order = ["cuda", "openvino", "cpu"]  # the choices of auto first
    kinds = available_kinds(module)
    for kind in sorted(kinds, key=lambda kind: order.index(kind) if kind in order else len(order)):
        for index in range(max(1, len(gpus)) if kind == "cuda" else 1):
            name = f"cuda:{index}" if kind == "cuda" else kind
            try:
                devices.check_device(devices.Device(kind, index, threads))
                report.devices[name] = "works"
            except DeviceError as error:
                why, _, _ = str(error).partition("; ")
                report.devices[name] = why
                if kind in ("openvino", "cpu") or (kind == "cuda" and gpus):  # else already reported, or irrelevant
                    report.problem(why, devices.repair(kind))


def _look_at_driver(report: Findings, built: str, gpus: list[dict[str, str]]) -> None:
    if not gpus:
        report.problem(
            "onnxruntime supports CUDA, but nvidia-smi finds no GPU",
            "install NVIDIA's driver (in a container: start it with --gpus all), or, without a GPU, "
            + devices.repair("cpu"),
        )
        return
    major = int(built.split(".")[0]) if built[:1].isdigit() else 0
    least = LEAST_DRIVER.get(major, 0)
    driver = gpus[0]["driver"]
    if driver.split(".")[0].isdigit() and int(driver.split(".")[0]) < least:
        report.problem(
            f"the driver {driver} is too old for CUDA {built}", f"update NVIDIA's driver to {least} or later"
        )


def _look_at_folders(report: Findings) -> None:
    from huggingface_hub import constants

    from skipae.checkpoints import resolve
    from skipae_zoo import ConfigError, verified_file

    mirror = resolve.find_mirror()
    shown = mirror and redact(mirror)
    report.facts["folders"] = {"bundled": str(resolve.BUNDLED), "mirror": shown, "hub": constants.HF_HUB_CACHE}
    if mirror and "://" not in mirror and not Path(mirror).is_dir():
        report.problem(f"{resolve.MIRROR}={shown} is not a folder", f"unset {resolve.MIRROR}, or correct it")
    folder = resolve.bundled(resolve.DEFAULT)
    files: dict[str, str] = {}
    try:
        config = resolve.load_config(folder)
        for name in config.files:
            if name.endswith(".onnx"):
                verified_file(folder, config, name)
                files[name] = config.files[name]
    except (ConfigError, ModelError) as error:
        report.problem(str(error), f'pip install --force-reinstall --no-deps "{requirement()}"')
        report.exit_code = ModelError.exit_code
    report.facts["checkpoint"] = {"name": resolve.DEFAULT, "sha256": files}


def find_gpus() -> list[dict[str, str]]:
    """Return name, driver and memory of each NVIDIA GPU from nvidia-smi; empty if it is missing or fails."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
    return [dict(zip(("name", "driver", "memory"), row, strict=True)) for row in rows if len(row) == 3]


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _library_version(what: str, built: str) -> str | None:
    """Return the version of a library; None if it does not load."""
    library, function, read = LIBRARIES[what]
    major = {"cudart": built.split(".")[0], "cudnn": "9", "cuda": "1"}[library]
    names = {"cudart": f"cudart64_{major}.dll", "cudnn": "cudnn64_9.dll", "cuda": "nvcuda.dll"}
    name = names[library] if sys.platform == "win32" else f"lib{library}.so.{major}"
    try:
        call = getattr(ctypes.CDLL(name), function)
    except (OSError, AttributeError):
        return None
    if what == "cuDNN":
        call.restype = ctypes.c_size_t
        return read(call())
    number = ctypes.c_int()
    return read(number.value) if call(ctypes.byref(number)) == 0 else None


def _threads() -> dict[str, Any]:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    quota = devices.cgroup_cores()
    return {
        "cores": os.cpu_count(),
        "affinity": affinity,
        "cgroup quota": None if math.isinf(quota) else quota,
        "used": devices.available_threads(),
    }


def _memory() -> dict[str, int | None]:
    """Return total, available and limiting memory in bytes; None for what the system does not report."""
    found: dict[str, int | None] = {"total": None, "available": None, "limit": None}
    try:
        text = Path("/proc/meminfo").read_text()
        for key, name in (("total", "MemTotal"), ("available", "MemAvailable")):
            if match := re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE):
                found[key] = int(match[1]) << 10
    except OSError:
        pass
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = int(Path(path).read_text())
        except (OSError, ValueError):  # "max"
            continue
        if limit < 1 << 60:
            found["limit"] = limit
    return found


def render(report: Findings) -> str:
    """Format the report as text."""
    lines = [f"{title}: {_words(value)}" for title, value in report.facts.items() if title != "memory"]
    memory = [f"{k} {v / 2**30:.1f} GiB" for k, v in report.facts["memory"].items() if v is not None]
    lines.append(f"memory: {', '.join(memory) or 'unknown'}")
    lines += [f"device {name}: {said}" for name, said in report.devices.items()]
    for found in report.problems:
        lines += ["", f"problem: {found['problem']}", f"repair:  {found['repair']}"]
    if not report.problems:
        lines += ["", "no problems found"]
    return "\n".join(lines)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        said = (f"{k} {f'({_words(v)})' if isinstance(v, dict) else _words(v)}" for k, v in value.items())
        return ", ".join(said) or "none"
    if isinstance(value, list):
        return ", ".join(_words(item) for item in value) or "none"
    return "none" if value is None else str(value)
