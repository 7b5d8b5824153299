"""A checkpoint on a device, which all tasks use."""

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
from skipae.engine.precision import Precision, check_precision, choose_precision, features_file, task_file
from skipae.engine.session import Session
from skipae.engine.tiling import Finish, Plan, Tiling
from skipae.errors import DeviceError
from skipae.options import DenoiseOptions, TileOptions
from skipae_zoo import GRAPH, QUANTIZED, CheckpointConfig, LayerSpec

log = logging.getLogger("skipae")

MEMORY = {"cpu": 1280 << 20, "openvino": 1280 << 20, "cuda": 3 << 30}
"""Memory for the layers' outputs of one tile in bytes, by kind of device.  A large image and its output reduce it, down
to :data:`LEAST_MEMORY`, so that a picture of 100 megapixels needs less than 0.6 GB in addition to itself and its
output."""

LEAST_MEMORY = 560 << 20
"""Memory that a tile may always use, in bytes."""

HALF_TOLERANCE = 1e-2
"""Largest difference allowed between float16 and the CPU's float32, in units of [0, 1] or of the largest logit."""

WHOLE = DenoiseOptions()


class Net:
    """A checkpoint on a device.  It can be pickled, shared by threads, and used after a fork."""

    def __init__(self, folder: Path, config: CheckpointConfig, device: Device, precision: str = "fp32") -> None:
        """Prepare; nothing is loaded yet.

        Args:
            folder: folder of a checkpoint.
            config: configuration of the checkpoint.
            device: where to run it.
            precision: precision as requested, which features follow.
        """
        self.folder = folder
        self.config = config
        self.device = device
        self.precision = precision
        has_task = device.precision != "int8" or QUANTIZED in config.files
        self._graph = Session(folder, config, task_file(device.precision, config), device) if has_task else None
        """None where the checkpoint has int8 only for features; a session is loaded by its first run."""
        self.bytes_per_pixel = bytes_per_pixel(config, device.precision)
        """Memory per pixel of a tile in a run, in bytes."""
        self.area = MEMORY.get(device.kind, MEMORY["cpu"]) // self.bytes_per_pixel
        """Maximum number of pixels in a tile; reduced when memory runs out."""
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
        """Load a checkpoint on a device after checking that the device works.

        Args:
            folder: folder of a checkpoint, see :func:`skipae.checkpoints.resolve.find_folder`.
            device: see :func:`skipae.from_pretrained`.
            precision: see :func:`skipae.from_pretrained`.
            threads: number of CPU threads; None uses all cores that this process may use.
            notify: called with a line if ``auto`` chose an unexpected device; by default it is logged.

        Raises:
            ModelError: ``config.json`` is missing or damaged.
            DeviceError: the requested device does not work, no runtime is installed, or the checkpoint or the device
                does not support the precision.
            UsageError: ``device``, ``precision`` or ``threads`` is out of range.
        """
        config = load_config(folder)
        check_precision(precision)
        chosen = choose_device(device, threads, notify)
        numbers, why = choose_precision(precision, chosen.kind, config)
        log.info("precision: %s: %s", numbers, why)
        return cls(folder, config, replace(chosen, precision=numbers), precision)

    @property
    def graph(self) -> Session:
        """The graph that does the checkpoint's task.

        Raises:
            DeviceError: int8 was requested, and the checkpoint has it only for features.
        """
        if self._graph is None:
            task_file(self.device.precision, self.config)  # raises
            raise AssertionError
        return self._graph

    def restore(
        self,
        pixels: NDArray[Any],
        options: DenoiseOptions = WHOLE,
        progress: Callable[[float], None] | None = None,
    ) -> NDArray[Any]:
        """Restore an image in bounded memory.

        Args:
            pixels: [H, W] (gray) or [H, W, 3] (RGB) of uint8, uint16 or float in [0, 1].
            options: strength and tiles.
            progress: called with the finished share, in (0, 1], after each tile.

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
        """Fill ``result`` from the graph's outputs, tile by tile; see :func:`skipae.engine.tiling.sweep`."""
        windows = self.tiling(options, pixels.nbytes)
        tiling.sweep(self.graph.run, pixels, result, finish, windows, progress=progress, shrunk=self._shrink)

    def tiling(self, options: TileOptions, image_bytes: int) -> Tiling:
        """Return the tiles for an image with this many bytes, and an output of the same size."""
        left = max(LEAST_MEMORY, MEMORY.get(self.device.kind, MEMORY["cpu"]) - 3 * image_bytes)
        # In int8, even small effects from beyond the measured halo can change the rounding.
        halo = self.config.architecture.reach if self.device.precision == "int8" else self.config.halo
        return Tiling(
            stride=self.config.architecture.total_stride,
            halo=halo if options.halo is None else options.halo,
            area=max(1, min(self.area, left // self.bytes_per_pixel)),
            tile=options.tile,
        )

    def encoder(self, names: tuple[str, ...]) -> Session:
        """Return the network up to these layers, each an output; ``names`` are in the network's order.

        Raises:
            DeviceError: int8 was requested, and the checkpoint has no int8 features.
        """
        file = features_file(self.precision, self.config)
        session = Session(self.folder, self.config, file, replace(self.device, precision="fp32"), names)
        return self._encoders.setdefault(names, session)

    def encoder_tiling(self, used: Sequence[LayerSpec]) -> Tiling:
        """Return the tiles for the network up to the last of the layers ``used``."""
        area = MEMORY.get(self.device.kind, MEMORY["cpu"]) // encoder_bytes_per_pixel(used)
        return Tiling(stride=used[-1].total_stride, halo=used[-1].receptive_field // 2, area=area)

    def trim(self) -> None:
        """Free the memory kept from the last image; the next one allocates it again."""
        for session in (self._graph, *list(self._encoders.values())):
            if session is not None:
                session.trim()

    def open(self) -> None:
        """Load the task graph, if the checkpoint has one, now instead of at the first image.

        Raises:
            ModelError: the graph is damaged.
            DeviceError: the device cannot load it.
        """
        if self._graph is not None and self._graph.file in self.config.files:  # otherwise it has only features
            self._graph.open()
            if self.device.precision == "fp16":
                self._check_half()

    def _check_half(self) -> None:
        """Compare float16 with the CPU's float32 on noise; :class:`DeviceError` if they differ too much."""
        head, crop = self.config.head, self.config.preprocessing.crop
        side = crop if crop is not None and head is not None and head.kind == "fc" else 64  # it has a fixed size
        image = np.random.default_rng(0).random((1, 3, side, side), np.float32)
        exact = Session(self.folder, self.config, GRAPH, Device("cpu", threads=self.device.threads)).run(image)
        error = float(np.abs(self.graph.run(image) - exact).max() / max(1.0, float(np.abs(exact).max())))
        if not error <= HALF_TOLERANCE:
            raise DeviceError(
                "{device!s} computes {model!s} in fp16 with an error of {error!s}, more than {allowed!s}; "
                "use {precision}",
                device=self.device,
                model=self.config.name,
                error=f"{error:.2g}",
                allowed=f"{HALF_TOLERANCE:g}",
                precision="fp32",
            )

    def _shrink(self, windows: Plan) -> None:
        self.area = windows.area  # the next images start with this size
        log.warning(
            "%s is out of memory: continuing with tiles of %d x %d pixels",
            self.device,
            windows.columns.size,
            windows.rows.size,
        )


def bytes_per_pixel(config: CheckpointConfig, precision: Precision = "fp32") -> int:
    """Estimate the memory of one run: layers of encoder and decoder in use together, image and output."""
    encoder = sum(layer.channels / layer.total_stride**2 for layer in config.architecture.layers)
    if precision == "int8":  # layers of bytes; the image, its channel of ones and the parts of the output in float32
        return round(2.2 * encoder + 4 * (3 + 4 + 16 + 6))
    return round(
        4 * (2.2 * encoder + 3 + 2 * (len(config.labels) or 3))
    )  # 2.2 as measured on several networks, 2 without copies


def encoder_bytes_per_pixel(used: Sequence[LayerSpec]) -> int:
    """Estimate the memory of one pixel in the encoder: layers in use together, and three copies of the image."""
    return round(4 * (1.1 * sum(layer.channels / layer.total_stride**2 for layer in used) + 9))
