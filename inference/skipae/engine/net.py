"""A checkpoint on a device: what all tasks compute with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipae.checkpoints.resolve import load_config
from skipae.engine import tiling
from skipae.engine.device import Device, choose_device
from skipae.engine.precision import Precision, check_precision, choose_precision
from skipae.engine.session import FEATURES, Session
from skipae.engine.tiling import Finish, Plan, Tiling
from skipae.errors import DeviceError
from skipae.options import DenoiseOptions, TileOptions
from skipae_zoo import QUANTIZED, CheckpointConfig, Layer

log = logging.getLogger("skipae")

GRAPH = "onnx/model.onnx"
"""The file of a checkpoint that does its task."""

MEMORY = {"cpu": 1280 << 20, "openvino": 1280 << 20, "cuda": 3 << 30}
"""Bytes that the layers' outputs of one window may take, by kind of device.  A large image and its result take from
it, down to :data:`LEAST_MEMORY`, so that a picture of 100 megapixels takes less than 0.6 GB beside itself and its
result."""

LEAST_MEMORY = 560 << 20
"""What a window may take whatever the size of the image."""

HALF_TOLERANCE = 1e-2
"""Largest difference of float16 from the CPU's float32, in units of [0, 1] or of the largest logit."""

WHOLE = DenoiseOptions()


class Net:
    """A checkpoint on a device.  It can be pickled, shared by threads, and used after a fork."""

    def __init__(self, folder: Path, config: CheckpointConfig, device: Device) -> None:
        """Nothing is loaded yet.

        Args:
            folder: of a checkpoint.
            config: its configuration.
            device: where to run it.
        """
        self.folder = folder
        self.config = config
        self.device = device
        self.graph = Session(folder, config, QUANTIZED if device.precision == "int8" else GRAPH, device)
        """The graph that does the checkpoint's task."""
        self.bytes_per_pixel = bytes_per_pixel(config, device.precision)
        """What a pixel of a window takes in a run."""
        self.area = MEMORY.get(device.kind, MEMORY["cpu"]) // self.bytes_per_pixel
        """Most pixels in a window; fewer once memory ran out."""
        self._encoders: dict[tuple[str, ...], Session] = {}

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> Net:
        """The net of a checkpoint's folder on a device that was tried out.

        Args:
            folder: of a checkpoint, see :func:`skipae.checkpoints.resolve.find_folder`.
            device: as for :func:`skipae.from_pretrained`, like all below.
            precision: what to compute in.
            threads: CPU threads; None takes the cores that this process may use.
            notify: is called with a line where ``auto`` took an unexpected device; by default it is logged.

        Raises:
            ModelError: ``config.json`` is missing or damaged.
            DeviceError: the device asked for does not work, no runtime is installed, or the checkpoint or the device
                does not have the precision.
            UsageError: ``device``, ``precision`` or ``threads`` is out of range.
        """
        config = load_config(folder)
        check_precision(precision)
        chosen = choose_device(device, threads, notify)
        numbers, why = choose_precision(precision, chosen.kind, config)
        log.info("precision: %s: %s", numbers, why)
        return cls(folder, config, replace(chosen, precision=numbers))

    def restore(
        self,
        pixels: NDArray[Any],
        options: DenoiseOptions = WHOLE,
        progress: Callable[[float], None] | None = None,
    ) -> NDArray[Any]:
        """Restore an image in bounded memory.

        Args:
            pixels: [H, W] (gray) or [H, W, 3] (RGB) of uint8, uint16 or float in [0, 1].
            options: how much of the change is taken, and the windows.
            progress: called with the share done, in (0, 1], after each window.

        Returns:
            An array of the same shape and dtype.

        Raises:
            ImageError: memory runs out, or outputs are NaN or infinite.
            UsageError: the tile is too small for the halo, or floats are far out of [0, 1].
        """
        return tiling.restore(
            self.graph.run,
            pixels,
            self.tiling(options, pixels.nbytes),
            luma=options.strength if options.luma is None else options.luma,
            chroma=options.strength if options.chroma is None else options.chroma,
            progress=progress,
            shrunk=self._shrink,
        )

    def sweep(
        self,
        pixels: NDArray[Any],
        result: NDArray[Any],
        finish: Finish,
        options: TileOptions,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Fill ``result`` from the graph's outputs, window by window; see :func:`skipae.engine.tiling.sweep`."""
        windows = self.tiling(options, pixels.nbytes)
        tiling.sweep(self.graph.run, pixels, result, finish, windows, progress=progress, shrunk=self._shrink)

    def tiling(self, options: TileOptions, image_bytes: int) -> Tiling:
        """The windows for an image that takes so much memory, and its result the same."""
        left = max(LEAST_MEMORY, MEMORY.get(self.device.kind, MEMORY["cpu"]) - 3 * image_bytes)
        # In int8 what little comes from beyond the measured halo can turn a rounding.
        halo = self.config.architecture.reach if self.device.precision == "int8" else self.config.halo
        return Tiling(
            stride=self.config.architecture.total_stride,
            halo=halo if options.halo is None else options.halo,
            area=max(1, min(self.area, left // self.bytes_per_pixel)),
            tile=options.tile,
        )

    def encoder(self, names: tuple[str, ...]) -> Session:
        """The network up to these layers, each an output; ``names`` are in the network's order."""
        session = Session(self.folder, self.config, FEATURES, replace(self.device, precision="fp32"), names)
        return self._encoders.setdefault(names, session)

    def encoder_tiling(self, used: Sequence[Layer]) -> Tiling:
        """The windows for the network up to the last of the layers ``used``, which are all up to it."""
        area = MEMORY.get(self.device.kind, MEMORY["cpu"]) // encoder_bytes_per_pixel(used)
        return Tiling(stride=used[-1].total_stride, halo=used[-1].receptive_field // 2, area=area)

    def trim(self) -> None:
        """Give back the memory kept from the last image; the next one takes it again."""
        self.graph.trim()

    def open(self) -> None:
        """Load the task graph now instead of at the first image, where the checkpoint has one.

        Raises:
            ModelError: it is damaged.
            DeviceError: the device refuses it.
        """
        if self.graph.file in self.config.files:  # else it has features alone
            self.graph.open()
            if self.device.precision == "fp16":
                self._check_half()

    def _check_half(self) -> None:
        """Compare float16 with the CPU's float32 on noise; :class:`DeviceError` where they differ too much."""
        head, crop = self.config.head, self.config.preprocessing.crop
        side = crop if crop is not None and head is not None and head.kind == "fc" else 64  # it takes one size only
        image = np.random.default_rng(0).random((1, 3, side, side), np.float32)
        exact = Session(self.folder, self.config, GRAPH, Device("cpu", threads=self.device.threads)).run(image)
        error = float(np.abs(self.graph.run(image) - exact).max() / max(1.0, float(np.abs(exact).max())))
        if not error <= HALF_TOLERANCE:
            raise DeviceError(
                "{device!s} computes {model!s} in fp16 with an error of {error!s}, {allowed!s} is allowed: "
                "use {precision}",
                device=self.device,
                model=self.config.name,
                error=f"{error:.2g}",
                allowed=f"{HALF_TOLERANCE:g}",
                precision="fp32",
            )

    def _shrink(self, windows: Plan) -> None:
        self.area = windows.area  # the next images start with it
        log.warning(
            "%s is out of memory: going on with windows of %d x %d pixels",
            self.device,
            windows.columns.size,
            windows.rows.size,
        )


def bytes_per_pixel(config: CheckpointConfig, precision: Precision = "fp32") -> int:
    """Estimate of what one run takes: the encoder's and the decoder's layers alive together, the image, the result."""
    encoder = sum(layer.channels / layer.total_stride**2 for layer in config.architecture.layers)
    if precision == "int8":  # layers of bytes; the image, its channel of ones and the parts of the result in float32
        return round(2.2 * encoder + 4 * (3 + 4 + 16 + 6))
    return round(
        4 * (2.2 * encoder + 3 + 2 * (len(config.labels) or 3))
    )  # 2.2 as measured on several networks, 2 without copies


def encoder_bytes_per_pixel(used: Sequence[Layer]) -> int:
    """Estimate of what one pixel takes in the encoder: the layers' outputs alive together, and the image thrice."""
    return round(4 * (1.1 * sum(layer.channels / layer.total_stride**2 for layer in used) + 9))
