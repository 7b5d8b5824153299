"""Devices of ONNX Runtime: list them, choose one, and check that it works.

The choice is never left to the runtime, which lists CUDA even if its libraries are missing, and then silently runs on
the CPU.
"""

from __future__ import annotations

import base64
import logging
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipae.console import first_line
from skipae.engine.providers import PROVIDERS, add_plugin, available_kinds, find_provider
from skipae.errors import DeviceError, UsageError
from skipae.install import install_command

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from skipae.engine.precision import Precision

log = logging.getLogger("skipae")

SMOKE_VALUE = 1 + 0.75 * 2**-11
"""Becomes 1 in bfloat16, float16 and TF32."""

SMOKE_MODEL = base64.b64decode(
    "CAgSADroAgo0CgF4CgF3EgFoIgRDb252KhEKBHBhZHNAAUABQAFAAaABByoQCgdzdHJpZGVzQAJAAqABBwo9CgFoCgF2EgF5Ig1Db252VHJh"
    "bnNwb3NlKhEKBHBhZHNAAUABQAFAAaABByoQCgdzdHJpZGVzQAJAAqABBxIFc21va2UqewgBCAMIAwgDEAFCAXdKbAAAgD8AAIA/AACAPwAA"
    "gD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACA"
    "PwAAgD8AAIA/AACAPyozCAEIAQgDCAMQAUIBdkokAACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/WhsKAXgSFgoUCAESEAoC"
    "CAEKAggDCgIICAoCCAhiGwoBeRIWChQIARIQCgIIAQoCCAEKAggHCgIIB0IECgAQEg=="
)
"""A conv and a deconv, both 3x3 with stride 2 and weights 1, on float32 ``x`` [1, 3, 8, 8], to try a device with.
Made by ``smoke_model()`` in tests/test_inference_runtime.py, which checks that these are its bytes."""


SPINNING = False
"""True lets threads without work wait in a loop (spin), ONNX Runtime's default, which takes a core from other
programs; False lets them sleep: as fast on an idle machine, faster beside a busy core (``benchmarks/spinning.py``)."""


@dataclass(frozen=True, slots=True)
class Device:
    """The place where a session runs."""

    kind: str
    """``cpu``, ``cuda``, ``openvino`` or another of :data:`skipae.engine.providers.PROVIDERS`."""
    index: int = 0
    """Number of the GPU."""
    threads: int = 1
    """Number of CPU threads of one run."""
    precision: Precision = "fp32"
    """Precision of the computation."""

    def __str__(self) -> str:
        """Return the name by which it is chosen, with the threads where they matter."""
        if self.kind in ("cpu", "openvino"):
            return f"{self.kind} ({self.threads} thread{'s' if self.threads > 1 else ''})"
        return f"{self.kind}:{self.index}" if self.kind in PROVIDERS and PROVIDERS[self.kind].numbered else self.kind


def choose_device(
    device: str = "auto", threads: int | None = None, notify: Callable[[str], None] | None = None
) -> Device:
    """Choose a device and check that it works.

    Args:
        device: ``auto`` (CUDA, else OpenVINO, if installed and working, else the CPU), ``cpu``, ``cuda``,
            ``cuda:N``, or any other provider of the installed ONNX Runtime by its name in
            :data:`skipae.engine.providers.PROVIDERS`, or by ONNX Runtime's name in lower case.
        threads: number of CPU threads; None uses all cores that this process may use.
        notify: called with a line if ``auto`` made an unexpected choice, such as the CPU because a GPU does not work;
            by default it goes to the log "skipae".  Expected choices are logged at level INFO.

    Returns:
        The device.

    Raises:
        UsageError: ``device`` or ``threads`` has another value.
        DeviceError: the requested device does not work, or no runtime is installed.
    """
    match = re.fullmatch(r"([a-z][a-z0-9-]*)(?::(\d{1,4}))?", device) if isinstance(device, str) else None
    numbered = match is not None and match[1] in PROVIDERS and PROVIDERS[match[1]].numbered
    if match is None or (match[2] and not numbered):
        raise UsageError(
            f"device must be auto, cpu, cuda, cuda:N, openvino or another provider of ONNX Runtime, not {device!r}"
        )
    if threads is not None and not (isinstance(threads, Integral) and threads >= 1):
        raise UsageError(f"threads must be at least 1, not {threads!r}; omit it to use all cores of this process")
    kind, index = match[1], int(match[2] or 0)
    count = available_threads() if threads is None else threads
    if kind != "auto":
        chosen = Device(kind, index, count)
        if kind != "cpu":
            check_device(chosen)
        log.info("device: %s", chosen)
        return chosen
    chosen, why, level = Device("cpu", 0, count), "this onnxruntime has neither CUDA nor OpenVINO", logging.INFO
    runtime = load_runtime()
    if len(installed_runtimes(runtime)) > 1:
        why, level = double_install(runtime, "cuda"), logging.WARNING
    for other in ("cuda", "openvino"):
        if other in available_kinds(runtime):
            try:
                check_device(Device(other, 0, count))
            except DeviceError as error:
                why, level = str(error), logging.WARNING
            else:
                chosen, why, level = Device(other, 0, count), "it runs the check", logging.INFO
                break
    line = f"device: {chosen}: {why}"
    if notify is not None and level == logging.WARNING:
        notify(line)
    else:
        log.log(level, line)
    return chosen


def available_threads() -> int:
    """Return the number of cores that this process may use: its affinity, limited by the quota of its cgroup."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cgroup_cores())))


def cgroup_cores(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """Return the smallest CPU quota, in cores, of the process's cgroup and its parents; infinity without one."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return math.inf
    least = math.inf
    for line in lines:
        _, controllers, group = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        base = root / controllers if controllers else root
        folder = base / group.lstrip("/")
        # In a container the group's path may be the host's, and only the root exists.
        for level in {folder, *folder.parents, base}:
            if level != base and base not in level.parents:
                continue
            try:
                if controllers:
                    quota = (level / "cpu.cfs_quota_us").read_text().strip()
                    period = (level / "cpu.cfs_period_us").read_text().strip()
                else:
                    quota, period = (level / "cpu.max").read_text().split()
                if quota not in ("max", "-1"):
                    least = min(least, int(quota) / int(period))
            except (OSError, ValueError, ZeroDivisionError):
                continue
    return least


def load_runtime() -> Any:
    """Import ``onnxruntime`` with its log silenced; :class:`DeviceError` explains how to install it."""
    if "onnxruntime" not in sys.modules:
        # Version 1.32 and later report usage to Microsoft by default, in threads that also make a forked process hang
        # at exit.  Set the variable to 0 to allow that.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        if error.name and error.name.split(".")[0] == "onnxruntime":
            raise DeviceError(
                f"no ONNX Runtime is installed: {install_command('cpu')} (or, for a GPU, {install_command('gpu')})"
            ) from None
        if isinstance(error.__cause__, KeyboardInterrupt | SystemExit):  # raised while it was loading
            raise error.__cause__ from None
        raise DeviceError(f"ONNX Runtime does not load ({first_line(error)}): reinstall it, {repair('cpu')}") from error
    if not hasattr(onnxruntime, "InferenceSession"):
        # Remains of a folder that two runtimes shared, after one was uninstalled.
        raise DeviceError(f"the installed ONNX Runtime is broken: {repair('cpu')} (or skipae[gpu] at the end)")
    # Some of its warnings, for example about unreadable system files, are not about a session.  Errors that matter
    # are raised as exceptions.
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def create_session(runtime: Any, model: str | bytes, device: Device, *, strict: bool = False) -> Any:
    """Create an ``onnxruntime.InferenceSession``.

    Args:
        runtime: the module ``onnxruntime``.
        model: path or bytes of an ONNX file.
        device: where to run it.
        strict: whether to fail instead of running nodes on the CPU.
    """
    options = session_options(runtime, device)
    provider = find_provider(device.kind, runtime.get_available_providers())
    settings = dict(provider.settings(device.index, device.threads))
    if device.precision == "fp16":
        settings |= provider.half
    if strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # Disable the fallback, which prints to standard output, where an image may be written.
    if provider.plugin:
        options.add_provider_for_devices(add_plugin(runtime, provider), settings)
        return runtime.InferenceSession(model, options, enable_fallback=0)
    providers: list[Any] = [] if device.kind == "cpu" else [(provider.name, settings)]
    if not strict:
        providers.append(PROVIDERS["cpu"].name)
    return runtime.InferenceSession(model, options, providers=providers, enable_fallback=0)


def session_options(runtime: Any, device: Device) -> Any:
    """Return the ``onnxruntime.SessionOptions`` of every session.

    Args:
        runtime: the module ``onnxruntime``.
        device: where the session runs.
    """
    options = runtime.SessionOptions()
    options.intra_op_num_threads = device.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Memory patterns would keep the first run's memory beside that of later runs: twice as much, no faster.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(SPINNING)))
    return options


def check_device(device: Device) -> None:
    """Run a convolution and a deconvolution on the device only, and check the result.

    Raises:
        DeviceError: the device cannot run them, or not in float32; the message says how to fix that.
    """
    import numpy as np

    runtime, kind = load_runtime(), device.kind
    available = available_kinds(runtime)
    if kind not in available:
        if kind in PROVIDERS and len(installed_runtimes(runtime)) > 1:
            raise DeviceError(double_install(runtime, kind))
        if kind not in PROVIDERS:
            raise DeviceError(
                f"device {kind} is not in the installed onnxruntime {runtime.__version__}, which has "
                f"{', '.join(available)}; use one of those"
            )
        raise DeviceError(
            f"device {kind} is not in the installed onnxruntime {runtime.__version__}: {repair(kind)}, or use "
            "the device cpu"
        )
    provider = find_provider(kind, runtime.get_available_providers())
    missing = load_cuda_libraries(runtime) if kind == "cuda" else []
    try:
        session = create_session(runtime, SMOKE_MODEL, device, strict=kind != "cpu")
        if session.get_providers()[0] != provider.name:
            raise RuntimeError("its libraries do not load")
        steps = np.arange(3 * 8 * 8).reshape(1, 3, 8, 8) % 3
        image = np.float32(SMOKE_VALUE) * np.float32(2) ** steps.astype(np.float32)  # all neighbors differ
        (found,) = session.run(None, {"x": image})
        expected = smoke_result(image)
        error = float(np.abs(found / expected - 1).max()) if found.shape == expected.shape else math.inf
        if not error < SMOKE_TOLERANCE[device.precision]:
            what = "float16" if device.precision == "fp16" else "float32"
            raise RuntimeError(f"the result is off by {error:.1g}, so it does not compute in {what}")
    except Exception as error:  # the runtime's exceptions have no common base class
        reason = first_line(error)
        if missing:
            reason = f"{', '.join(missing)} cannot be loaded"
        elif "default CPU EP" in reason and kind == "cuda":
            reason = (
                f"the libraries of CUDA {getattr(runtime, 'cuda_version', '')}, of cuDNN or of the driver do not load"
            )
        if "failure 35" in reason or "driver version is insufficient" in reason:
            reason += " (the NVIDIA driver is too old for this CUDA: update it)"
        look = "check nvidia-smi, " if kind == "cuda" else ""
        again = f"install again with {repair(kind)}, or " if kind in PROVIDERS else ""
        raise DeviceError(f"{device} cannot run a convolution: {reason}; {look}{again}use the device cpu") from error


SMOKE_TOLERANCE = {"fp32": 1e-5, "int8": 1e-5, "fp16": 5e-3}
"""Largest relative error allowed in the check, by precision; int8 graphs have float32 parts."""


def smoke_result(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the exact output of :data:`SMOKE_MODEL` for float32 [1, 3, 8, 8]: float64 [1, 1, 7, 7]."""
    import numpy as np

    padded = np.pad(image[0].sum(0, dtype=np.float64), 1)
    result = np.zeros((9, 9))
    for row in range(0, 8, 2):
        for column in range(0, 8, 2):
            result[row : row + 3, column : column + 3] += padded[row : row + 3, column : column + 3].sum()
    return result[None, None, 1:-1, 1:-1]


def load_cuda_libraries(runtime: Any) -> list[str]:
    """Load the libraries of CUDA and cuDNN, pip packages first, and return the names of missing ones."""
    if not hasattr(runtime, "preload_dlls"):
        return []
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as said:
        runtime.preload_dlls()
    return [Path(path).name for path in re.findall(r"^Failed to load (.+?): ", said.getvalue(), re.MULTILINE)]


def installed_runtimes(runtime: Any) -> list[str]:
    """Return the installed distributions that provide the module ``onnxruntime``."""
    # Reading the folder is a hundred times faster than importlib.metadata.
    site = Path(runtime.__file__).parent.parent
    found = {path.name.split("-")[0].replace("_", "-"): path for path in site.glob("onnxruntime*-*.dist-info")}
    if len(found) > 1:  # others, for example onnxruntime-genai, have their own folders
        found = {name: path for name, path in found.items() if "onnxruntime/__init__.py," in _record(path)}
    return sorted(found)


def _record(distribution: Path) -> str:
    try:
        return (distribution / "RECORD").read_text(encoding="utf-8")
    except OSError:
        return ""


def double_install(runtime: Any, kind: str) -> str:
    """Return a message about several installed runtimes, with the repair."""
    return (
        f"{' and '.join(installed_runtimes(runtime))} are installed together and break each other, so that devices "
        f"are missing: {repair(kind)}"
    )


def repair(kind: str) -> str:
    """Return the command that repairs the installation for a kind of device.

    All runtimes share a folder, so uninstalling one breaks the others: remove all, then install one.
    """
    provider = PROVIDERS[kind]
    install = install_command(provider.extra) if provider.extra else f"pip install {provider.package}"
    if provider.plugin:
        return install
    return f"pip uninstall -y onnxruntime onnxruntime-gpu onnxruntime-openvino onnxruntime-directml && {install}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of the runtime means that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        mark in text for mark in ("bad_alloc", "bad allocation", "failed to allocate", "out of memory", "alloc_failed")
    )
