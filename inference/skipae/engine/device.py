"""Sessions of ONNX Runtime: the one module that knows it.

Which device is used is never left to the runtime: it lists CUDA where its libraries are missing, and then runs
on the CPU without a word.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from skipae.engine.onnx_subgraph import cut, has_external_data
from skipae.errors import DeviceError, ModelError, UsageError
from skipae.install import install_command
from skipae_zoo import INPUT, CheckpointConfig, ConfigError, verified_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("skipae")

EXTRAS = {"cpu": "cpu", "cuda": "gpu", "openvino": "openvino"}
"""The extra that brings the runtime, by kind of device."""

FEATURES = "onnx/features.onnx"
"""The file of a checkpoint whose outputs are layers."""

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


@dataclass(frozen=True, slots=True)
class Device:
    """Where a session runs."""

    kind: str
    """``cpu``, ``cuda`` or ``openvino``."""
    index: int = 0
    """Which of several GPUs."""
    threads: int = 1
    """CPU threads of one run."""

    def __str__(self) -> str:
        """As in ``--device``, with the threads where they matter."""
        if self.kind == "cuda":
            return f"cuda:{self.index}"
        return f"{self.kind} ({self.threads} thread{'s' if self.threads > 1 else ''})"


class Session:
    """A model of a checkpoint, ready to run.

    The session of ONNX Runtime is made on first use in each process, so that this object can be pickled, shared
    by threads, and used after a fork.
    """

    def __init__(
        self, folder: Path, config: CheckpointConfig, file: str, device: Device, outputs: tuple[str, ...] = ()
    ) -> None:
        """Make it; nothing is loaded yet.

        Args:
            folder: of a checkpoint.
            config: its configuration.
            file: in the folder, for example ``onnx/model.onnx``.
            device: where to run it.
            outputs: the graph is cut down to what these need; by default it is left whole.
        """
        self.folder = folder
        self.config = config
        self.file = file
        self.device = device
        self.outputs = outputs
        self._session: Any = None
        self._bound: _Bound | None = None
        self._lock = threading.Lock()
        _sessions.add(self)

    def __getstate__(self) -> tuple[Path, CheckpointConfig, str, Device, tuple[str, ...]]:
        """What it takes to make the session anew."""
        return self.folder, self.config, self.file, self.device, self.outputs

    def __setstate__(self, state: tuple[Path, CheckpointConfig, str, Device, tuple[str, ...]]) -> None:
        """As if made anew in this process."""
        self.__init__(*state)  # type: ignore[misc]

    def open(self) -> Any:
        """The ``onnxruntime.InferenceSession`` of this process.

        Raises:
            ModelError: the file is missing, is not the one its config describes, or cannot be loaded.
            DeviceError: the device refuses it.
        """
        session = self._session
        if session is None:
            with self._lock:
                if self._session is None:
                    self._session = self._make()
                session = self._session
        return session

    def run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """The first output for the input ``image``, float32 [N, 3, H, W] in [0, 1]; errors: see :meth:`run_all`."""
        return next(iter(self.run_all(image).values()))

    def run_all(self, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Every output by name for the input ``image``, float32 [N, 3, H, W] in [0, 1].

        Raises:
            MemoryError: the device has not enough memory for this size.
            DeviceError: the device failed.
            ModelError: an output is not what the checkpoint's configuration says.
        """
        session = self.open()
        try:
            if self.device.kind == "cuda":
                found = _interruptible(lambda options: self._run_bound(session, image, options))
            else:
                found = _interruptible(lambda options: session.run(None, {INPUT: image}, options))
        except Exception as error:  # the runtime's exceptions have no common base
            if _is_out_of_memory(error):
                raise MemoryError(_first_line(error)) from error
            raise DeviceError(f"{self.device} failed to run {self.config.name}: {_first_line(error)}") from error
        outputs = {output.name: value for output, value in zip(session.get_outputs(), found, strict=True)}
        self._check(outputs, image.shape)
        return outputs

    def _check(self, outputs: dict[str, NDArray[np.float32]], image: tuple[int, ...]) -> None:
        """Compare outputs with what the configuration says; the graph is a stranger's program."""
        count, _, height, width = image
        layers = {layer.name: layer for layer in self.config.architecture.layers}
        for name, value in outputs.items():
            shape: tuple[int, ...]
            if self.file == FEATURES:
                if name not in layers:
                    continue
                shape = (count, layers[name].channels, *layers[name].output_size(height, width))
            elif self.config.task == "classification":
                shape = (count, len(self.config.labels))
            else:
                channels = 3 if self.config.task == "restoration" else len(self.config.labels)
                shape = (count, channels, height, width)
            found = getattr(value, "shape", None), str(getattr(value, "dtype", None))
            if found != (shape, "float32"):
                came = f"{found[1]} {list(found[0])}" if found[0] is not None else f"a {type(value).__name__}"
                raise ModelError(
                    f"{self.file} of {self.config.name} does not match its config.json: output {name} for an image of "
                    f"{width} x {height} pixels is {came}, expected float32 {list(shape)}; use another checkpoint"
                )
            if self.file != FEATURES:
                return  # the first is the one that is used
        missing = [name for name in self.outputs if name not in outputs]
        if missing:
            raise ModelError(f"{self.file} of {self.config.name} has no output {missing[0]}; use another checkpoint")

    def trim(self) -> None:
        """Give back the memory that the runtime kept from the last runs; the next run takes it anew."""
        import numpy as np

        if self.device.kind == "openvino":
            return  # it has no arena
        device = "cpu:0" if self.device.kind != "cuda" else f"gpu:{self.device.index}"
        self._bound = None
        options = load_runtime().RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", device)
        session = self.open()
        sides = session.get_inputs()[0].shape[2:]  # numbers where the net takes one size only
        image = np.zeros((1, 3, *(side if isinstance(side, int) else 8 for side in sides)), np.float32)
        # The memory is given back only at the end of a run.
        _interruptible(lambda chosen: session.run(None, {INPUT: image}, chosen), options)

    def _run_bound(self, session: Any, image: NDArray[np.float32], options: Any) -> list[NDArray[np.float32]]:
        # Windows of one shape follow each other: input and outputs stay where they are on the GPU.  One run at a
        # time, as more at once gain nothing there.
        with self._lock:
            try:
                if self._bound is None or self._bound.shape != image.shape:
                    self._bound = None  # frees the old buffers before the new are taken
                    self._bound = _Bound(load_runtime(), session, image.shape, self.device)
                return self._bound.run(image, options)
            except Exception:
                self._bound = None
                raise

    def _make(self) -> Any:
        try:
            path = verified_file(self.folder, self.config, self.file)
        except ConfigError as error:
            raise ModelError(str(error)) from error
        runtime = load_runtime()
        try:
            content = path.read_bytes()
            if has_external_data(content):
                raise ModelError(f"{path} keeps weights in other files: export the checkpoint with weights embedded")
            model = cut(content, self.outputs) if self.outputs else str(path)
            del content
            session = _create(runtime, model, self.device)
        except ModelError:
            raise
        except Exception as error:
            if self.device.kind != "cpu":
                raise DeviceError(f"{self.device} cannot load {path}: {_first_line(error)}") from error
            raise ModelError(
                f"{path} cannot be loaded by onnxruntime {runtime.__version__}: {_first_line(error)}"
            ) from error
        if session.get_providers()[0] != PROVIDERS[self.device.kind]:
            raise DeviceError(f"{self.device} did not take {path}; give the device cpu")
        return session


class _Bound:
    """Input and outputs of a session, for one shape of the input, in the memory of a GPU."""

    def __init__(self, runtime: Any, session: Any, shape: tuple[int, ...], device: Device) -> None:
        import numpy as np

        self.shape = shape
        self._session = session
        self._binding = session.io_binding()
        self._image = runtime.OrtValue.ortvalue_from_shape_and_type(list(shape), np.float32, "cuda", device.index)
        self._binding.bind_ortvalue_input(INPUT, self._image)
        for output in session.get_outputs():
            # Allocated by the first run, and taken again by the next.
            self._binding.bind_output(output.name, "cuda", device.index)

    def run(self, image: NDArray[np.float32], options: Any) -> list[NDArray[np.float32]]:
        """The outputs, in the order of the session's."""
        import numpy as np

        self._image.update_inplace(np.ascontiguousarray(image))
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding, options)
        self._binding.synchronize_outputs()
        found: list[NDArray[np.float32]] = self._binding.copy_outputs_to_cpu()
        return found


class _Runner(threading.Thread):
    """A thread that runs graphs for the main thread, which would not see signals while it runs one itself."""

    def __init__(self) -> None:
        super().__init__(name="skipae-run", daemon=True)
        self.jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def run(self) -> None:
        """Jobs as they come; they raise nothing."""
        while True:
            job = self.jobs.get()
            job()
            del job  # and the arrays that it holds


_runner: _Runner | None = None
_deadline = math.inf
_ENDING = 5.0
"""Seconds that a graph gets to end by itself once it was told to; between two nodes it looks."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End each graph that the main thread still runs after so many seconds, with :class:`DeviceError`."""
    global _deadline
    before, _deadline = _deadline, time.monotonic() + seconds
    try:
        yield
    finally:
        _deadline = before


def _interruptible(run: Callable[[Any], list[Any]], options: Any = None) -> list[Any]:
    """Call ``run`` with options of a run, which a signal (Ctrl-C, SIGTERM) ends between two of the graph's nodes."""
    global _runner
    if options is None:
        options = load_runtime().RunOptions()
    if threading.current_thread() is not threading.main_thread():  # signals come to the main thread alone
        return run(options)
    found: list[Any] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def job() -> None:
        try:
            found.extend(run(options))
        except BaseException as error:
            errors.append(error)
        done.set()

    if _runner is None:
        _runner = _Runner()
        _runner.start()
    _runner.jobs.put(job)
    try:
        while not done.wait(min(_LONGEST_WAIT, max(0.0, _deadline - time.monotonic()))):
            if time.monotonic() >= _deadline:
                raise TimeoutError("the run was ended, it took too long")
    except BaseException:
        options.terminate = True
        if not done.wait(_ENDING):
            _runner = None  # left to itself: a node that never ends
        raise
    if errors:
        raise errors.pop()
    return found


_LONGEST_WAIT = 0.2 if sys.platform == "win32" else 60.0
"""Seconds after which the main thread looks for signals; on Windows a wait is not broken off by one."""


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_orphans: list[Any] = []


def _after_fork() -> None:
    # A session's threads and GPU context stay with the parent.  Its destructor may wait for those threads, so it
    # is kept, unused; a lock may have been held by a thread that is no longer there.
    global _runner
    _runner = None
    for session in list(_sessions):
        _orphans.append((session._session, session._bound))
        session._session = session._bound = None
        session._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def choose_device(
    device: str = "auto", threads: int | None = None, notify: Callable[[str], None] | None = None
) -> Device:
    """The device to use, tried out.

    Args:
        device: ``auto`` (CUDA, else OpenVINO, where installed and working, else the CPU), ``cpu``, ``cuda``,
            ``cuda:N`` or ``openvino``.
        threads: CPU threads; None takes the cores that this process may use.
        notify: is told in one line why ``auto`` took something unexpected, the CPU where a GPU does not work; by
            default the log "skipae" is.  What is expected goes to the log, at level INFO.

    Raises:
        UsageError: ``device`` or ``threads`` is none of these.
        DeviceError: the device asked for does not work, or no runtime is installed.
    """
    match = re.fullmatch(r"(auto|cpu|openvino|cuda)(?::(\d{1,4}))?", device)
    if match is None or (match[2] and match[1] != "cuda"):
        raise UsageError(f"device must be auto, cpu, cuda, cuda:N or openvino, not {device!r}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}; leave it out to use all cores of this process")
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
        if PROVIDERS[other] in runtime.get_available_providers():
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
    """Cores that this process may use: its affinity, cut by the quota of its cgroup where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cgroup_cores())))


def cgroup_cores(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """Least CPU quota, in cores, of the process's cgroup and those above it; infinity without one."""
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
        # In a container the group's own path may be the host's, and only the root is there.
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


PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}


def load_runtime() -> Any:
    """The module ``onnxruntime``, quiet; :class:`DeviceError` says how to install it."""
    if "onnxruntime" not in sys.modules:
        # From 1.32 on it reports its use to Microsoft unless told not to, by threads that also make a forked
        # process hang when it ends.  Who wants that sets the variable to 0.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        if error.name and error.name.split(".")[0] == "onnxruntime":
            raise DeviceError(
                f"no ONNX Runtime is installed: {install_command('cpu')} (or, for a GPU, {install_command('gpu')})"
            ) from None
        if isinstance(error.__cause__, KeyboardInterrupt | SystemExit):  # came while it was loaded
            raise error.__cause__ from None
        raise DeviceError(
            f"ONNX Runtime does not load ({_first_line(error)}): install it again, {repair('cpu')}"
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        # What is left of the folder that two runtimes shared, after one was uninstalled.
        raise DeviceError(f"the installed ONNX Runtime is broken: {repair('cpu')} (or skipae[gpu] at the end)")
    # Some of its complaints, for example about unreadable files of the system, are not a session's.  What concerns
    # us comes as an exception too.
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


def _create(runtime: Any, model: str | bytes, device: Device, *, strict: bool = False) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = device.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # With patterns, the first run's memory stays beside the block that the later runs take: twice as much, no faster.
    options.enable_mem_pattern = False
    providers: list[Any] = []
    if device.kind == "cuda":
        settings = {
            "device_id": str(device.index),
            "cudnn_conv_algo_search": "HEURISTIC",  # the default searches for seconds at every new shape
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": "0",  # the results of the CPU, and of a tiled and a whole image, to 1e-4
        }
        providers.append((PROVIDERS["cuda"], settings))
    elif device.kind == "openvino":
        # Where the processor has bfloat16, OpenVINO by itself computes in it, with errors of 1e-2.
        precision = json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": "f32"}})
        settings = {"device_type": "CPU", "load_config": precision, "num_of_threads": str(device.threads)}
        providers.append((PROVIDERS["openvino"], settings))
    if strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    else:
        providers.append(PROVIDERS["cpu"])
    return runtime.InferenceSession(model, options, providers=providers)


def check_device(device: Device) -> None:
    """Run a conv and a deconv on the device, and nowhere else, and look at the result.

    Raises:
        DeviceError: it cannot run them, or not in float32; the message says how to repair that.
    """
    import numpy as np

    runtime, kind = load_runtime(), device.kind
    if PROVIDERS[kind] not in runtime.get_available_providers():
        if len(installed_runtimes(runtime)) > 1:
            raise DeviceError(double_install(runtime, kind))
        raise DeviceError(
            f"device {kind} is not in the installed onnxruntime {runtime.__version__}: {repair(kind)}, or give "
            "the device cpu"
        )
    missing = load_cuda_libraries(runtime) if kind == "cuda" else []
    try:
        session = _create(runtime, SMOKE_MODEL, device, strict=kind != "cpu")
        if session.get_providers()[0] != PROVIDERS[kind]:
            raise RuntimeError("its libraries do not load")
        (found,) = session.run(None, {"x": np.full((1, 3, 8, 8), SMOKE_VALUE, np.float32)})
        error = abs(float(found[0, 0, 2, 2]) / 27 - SMOKE_VALUE)
        if not error < 1e-5:
            raise RuntimeError(f"the result is off by {error:.1g}, it does not compute in float32")
    except Exception as error:  # the runtime's exceptions have no common base
        reason = _first_line(error)
        if missing:
            reason = f"{', '.join(missing)} cannot be loaded"
        elif "default CPU EP" in reason:
            reason = (
                f"the libraries of CUDA {getattr(runtime, 'cuda_version', '')}, of cuDNN or of the driver do not load"
            )
        if "failure 35" in reason or "driver version is insufficient" in reason:
            reason += " (the NVIDIA driver is too old for this CUDA: update it)"
        look = "check nvidia-smi, " if kind == "cuda" else ""
        raise DeviceError(
            f"{device} cannot run a convolution: {reason}; {look}install again with {repair(kind)}, or give the "
            "device cpu"
        ) from error


def load_cuda_libraries(runtime: Any) -> list[str]:
    """Load CUDA's and cuDNN's libraries, from the pip packages first; the names of those that are missing."""
    if not hasattr(runtime, "preload_dlls"):
        return []
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as said:
        runtime.preload_dlls()
    return [Path(path).name for path in re.findall(r"^Failed to load (.+?): ", said.getvalue(), re.MULTILINE)]


def installed_runtimes(runtime: Any) -> list[str]:
    """Distributions that fill the folder of the module ``onnxruntime``."""
    # Reading the folder is a hundred times faster than importlib.metadata.
    site = Path(runtime.__file__).parent.parent
    found = {path.name.split("-")[0].replace("_", "-"): path for path in site.glob("onnxruntime*-*.dist-info")}
    if len(found) > 1:  # others, onnxruntime-genai for example, have folders of their own
        found = {name: path for name, path in found.items() if "onnxruntime/__init__.py," in _record(path)}
    return sorted(found)


def _record(distribution: Path) -> str:
    try:
        return (distribution / "RECORD").read_text(encoding="utf-8")
    except OSError:
        return ""


def double_install(runtime: Any, kind: str) -> str:
    """What is wrong where several runtimes are installed, and the repair."""
    return (
        f"{' and '.join(installed_runtimes(runtime))} are installed together and break each other, so that devices "
        f"are missing: {repair(kind)}"
    )


def repair(kind: str) -> str:
    """The line that puts the installation right for a kind of device.

    All runtimes fill the same folder, so that uninstalling one breaks another: remove all, then install one.
    """
    return f"pip uninstall -y onnxruntime onnxruntime-gpu onnxruntime-openvino && {install_command(EXTRAS[kind])}"


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        mark in text for mark in ("bad_alloc", "bad allocation", "failed to allocate", "out of memory", "alloc_failed")
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
