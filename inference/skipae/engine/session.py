"""Sessions of ONNX Runtime: load a graph of a checkpoint on a device and run it."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from skipae.console import first_line
from skipae.engine.device import Device, create_session, is_out_of_memory, load_runtime
from skipae.engine.onnx_subgraph import cut, has_external_data
from skipae.engine.providers import find_provider
from skipae.errors import DeviceError, ModelError
from skipae_zoo import FEATURES, INPUT, QUANTIZED_FEATURES, CheckpointConfig, ConfigError, verified_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Session:
    """A graph of a checkpoint, ready to run.

    The session of ONNX Runtime is created on first use in each process, so that this object can be pickled, shared
    by threads, and used after a fork.
    """

    def __init__(
        self, folder: Path, config: CheckpointConfig, file: str, device: Device, outputs: tuple[str, ...] = ()
    ) -> None:
        """Prepare; nothing is loaded yet.

        Args:
            folder: folder of a checkpoint.
            config: configuration of the checkpoint.
            file: path in the folder, for example ``onnx/model.onnx``.
            device: where to run it.
            outputs: outputs to keep; the graph is reduced to what they need.  By default, all.
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
        """Return what is needed to create the session again."""
        return self.folder, self.config, self.file, self.device, self.outputs

    def __setstate__(self, state: tuple[Path, CheckpointConfig, str, Device, tuple[str, ...]]) -> None:
        """Restore, without a session."""
        self.__init__(*state)  # type: ignore[misc]

    def open(self) -> Any:
        """Return the ``onnxruntime.InferenceSession`` of this process.

        Raises:
            ModelError: the file is missing, does not match its config, or cannot be loaded.
            DeviceError: the device cannot load it.
        """
        session = self._session
        if session is None:
            with self._lock:
                if self._session is None:
                    self._session = self._make()
                session = self._session
        return session

    def run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the first output for ``image``, float32 [N, 3, H, W] in [0, 1]; errors: see :meth:`run_all`."""
        return next(iter(self.run_all(image).values()))

    def run_all(self, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return every output by name for ``image``, float32 [N, 3, H, W] in [0, 1].

        Raises:
            MemoryError: the device does not have enough memory for this size.
            DeviceError: the device failed.
            ModelError: the graph fails on the CPU, or an output does not match the checkpoint's configuration.
        """
        session = self.open()
        try:
            if self.device.kind == "cuda":
                found = _interruptible(lambda options: self._run_bound(session, image, options))
            else:
                found = _interruptible(lambda options: session.run(None, {INPUT: image}, options))
        except Exception as error:  # the runtime's exceptions have no common base class
            if is_out_of_memory(error):
                raise MemoryError(first_line(error)) from error
            if self.device.kind == "cpu" and not isinstance(error, TimeoutError):  # the CPU runs every valid graph
                raise ModelError(
                    f"{self.file} of {self.config.name} cannot be run ({first_line(error)}); use another checkpoint"
                ) from error
            raise DeviceError(f"{self.device} failed to run {self.config.name}: {first_line(error)}") from error
        outputs = {output.name: value for output, value in zip(session.get_outputs(), found, strict=True)}
        self._check(outputs, image.shape)
        return outputs

    def _check(self, outputs: dict[str, NDArray[np.float32]], image: tuple[int, ...]) -> None:
        """Compare outputs with the configuration, because the graph is untrusted."""
        count, _, height, width = image
        layers = {layer.name: layer for layer in self.config.architecture.layers}
        for name, value in outputs.items():
            shape: tuple[int, ...]
            if self.file in (FEATURES, QUANTIZED_FEATURES):
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
            if self.file not in (FEATURES, QUANTIZED_FEATURES):
                return  # only the first is used
        missing = [name for name in self.outputs if name not in outputs]
        if missing:
            raise ModelError(f"{self.file} of {self.config.name} has no output {missing[0]}; use another checkpoint")

    def trim(self) -> None:
        """Free the memory that the runtime kept from the last runs; the next run allocates it again."""
        if self._session is None:
            return  # nothing is kept
        import numpy as np

        arenas = {"cpu": "cpu:0", "cuda": f"gpu:{self.device.index}"}
        if self.device.kind not in arenas:
            return
        device = arenas[self.device.kind]
        self._bound = None
        options = load_runtime().RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", device)
        session = self.open()
        sides = session.get_inputs()[0].shape[2:]  # integers if the network has a fixed size
        image = np.zeros((1, 3, *(side if isinstance(side, int) else 8 for side in sides)), np.float32)
        # Memory is only freed at the end of a run.
        _interruptible(lambda chosen: session.run(None, {INPUT: image}, chosen), options)

    def _run_bound(self, session: Any, image: NDArray[np.float32], options: Any) -> list[NDArray[np.float32]]:
        # Consecutive tiles have the same shape, so input and outputs stay allocated on the GPU.  One run at a time,
        # because parallel runs are not faster there.
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
            session = create_session(runtime, model, self.device)
        except ModelError:
            raise
        except Exception as error:
            if self.device.kind != "cpu":
                raise DeviceError(f"{self.device} cannot load {path}: {first_line(error)}") from error
            raise ModelError(
                f"{path} cannot be loaded by onnxruntime {runtime.__version__}: {first_line(error)}"
            ) from error
        provider = find_provider(self.device.kind, runtime.get_available_providers())
        if session.get_providers()[0] != provider.name:
            raise DeviceError(f"{self.device} cannot run {path}; use the device cpu")
        return session


class _Bound:
    """Input and outputs of a session in GPU memory, for one input shape."""

    def __init__(self, runtime: Any, session: Any, shape: tuple[int, ...], device: Device) -> None:
        import numpy as np

        self.shape = shape
        self._session = session
        self._binding = session.io_binding()
        self._image = runtime.OrtValue.ortvalue_from_shape_and_type(list(shape), np.float32, "cuda", device.index)
        self._binding.bind_ortvalue_input(INPUT, self._image)
        for output in session.get_outputs():
            # Allocated by the first run and reused by the next.
            self._binding.bind_output(output.name, "cuda", device.index)

    def run(self, image: NDArray[np.float32], options: Any) -> list[NDArray[np.float32]]:
        """Run, and return the outputs in the session's order."""
        import numpy as np

        self._image.update_inplace(np.ascontiguousarray(image))
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding, options)
        self._binding.synchronize_outputs()
        found: list[NDArray[np.float32]] = self._binding.copy_outputs_to_cpu()
        return found


class _Runner(threading.Thread):
    """A thread that runs graphs for the main thread, which could not handle signals while running one itself."""

    def __init__(self) -> None:
        super().__init__(name="skipae-run", daemon=True)
        self.jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def run(self) -> None:
        """Run jobs as they arrive; they do not raise."""
        while True:
            job = self.jobs.get()
            job()
            del job  # and the arrays that it refers to


_runner: _Runner | None = None
_deadline = math.inf
_ENDING = 5.0
"""Seconds that a graph gets to stop after a request, which it checks between nodes."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop each graph that the main thread runs for longer than a number of seconds, with :class:`DeviceError`."""
    global _deadline
    before, _deadline = _deadline, time.monotonic() + seconds
    try:
        yield
    finally:
        _deadline = before


def _interruptible(run: Callable[[Any], list[Any]], options: Any = None) -> list[Any]:
    """Call ``run`` with run options, so that a signal (Ctrl-C, SIGTERM) stops it between two nodes of the graph."""
    global _runner
    if options is None:
        options = load_runtime().RunOptions()
    if threading.current_thread() is not threading.main_thread():  # signals reach only the main thread
        return run(options)
    found: list[Any] = []
    errors: list[BaseException] = []
    ended: list[bool] = []
    # Not an Event, which is Python code: a signal in the midst of it can leave its lock closed for ever.
    done = threading.Lock()
    done.acquire()

    def job() -> None:
        try:
            found.extend(run(options))
        except BaseException as error:
            errors.append(error)
        ended.append(True)
        done.release()

    if _runner is None:
        _runner = _Runner()
        _runner.start()
    _runner.jobs.put(job)
    try:
        while not done.acquire(timeout=min(_LONGEST_WAIT, max(0.0, _deadline - time.monotonic()))):
            if time.monotonic() >= _deadline:
                raise TimeoutError("the run was stopped because it took too long")
    except BaseException:
        options.terminate = True
        if not ended and not done.acquire(timeout=_ENDING):
            _runner = None  # abandoned: a node that never ends
        raise
    if errors:
        raise errors.pop()
    return found


_LONGEST_WAIT = 0.2 if sys.platform == "win32" else 60.0
"""Seconds after which the main thread checks for signals, which do not interrupt a wait on Windows."""


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_orphans: list[Any] = []


def _after_fork() -> None:
    # A session's threads and GPU context stay with the parent.  Its destructor may wait for those threads, so it
    # is kept, unused; a lock may have been held by a thread that no longer exists.
    global _runner
    _runner = None
    for session in list(_sessions):
        _orphans.append((session._session, session._bound))
        session._session = session._bound = None
        session._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
