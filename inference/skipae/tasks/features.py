"""Layer features of images, pooled, independent of the batch and of the size of the image.

An image that is too large for one run goes through the encoder tile by tile.  A layer's output at row i depends on
the pixels within half its receptive field of row ``i * stride``, so tiles in phase with the stride and with a halo of
that half yield exactly the features of one run on the whole image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from skipae import images
from skipae.engine.net import Net
from skipae.engine.tiling import NOT_FINITE, Plan, to_net
from skipae.errors import ImageError, UsageError
from skipae.options import FeatureSpec, check_whole
from skipae.tasks.pixels import load, prepare

Key = TypeVar("Key")

BATCH_SIZE = 16
"""Number of images of one size that are run together, if memory allows it."""

Features = dict[str, NDArray[Any]]
"""Layer name to values: [C] for ``avg`` and ``max``, [C, N, N] for ``spatial:N``, [C, h, w] for ``none``."""


class Extractor:
    """Runs a network's encoder up to the deepest layer of a spec."""

    def __init__(self, net: Net, spec: FeatureSpec, batch_size: int | None = None) -> None:
        """Choose the part of the network; nothing is loaded yet.

        Args:
            net: a checkpoint with features.
            spec: which features to extract.
            batch_size: maximum number of images in one run, :data:`BATCH_SIZE` by default.

        Raises:
            UsageError: the checkpoint has no such layer, or ``batch_size`` is not a positive number.
        """
        check_whole(batch_size=batch_size)
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {batch_size}")
        self.spec = spec = spec.resolve(net.config)
        """The spec with the checkpoint's defaults."""
        known = net.config.architecture.layers
        by_name = {layer.name: layer for layer in known}
        self.layers = tuple(by_name[name] for name in spec.names)
        used = known[: max(map(known.index, self.layers)) + 1]
        self.session = net.encoder(tuple(layer.name for layer in used if layer in self.layers))
        self.tiling = net.encoder_tiling(used)
        self.batch_size = BATCH_SIZE if batch_size is None else batch_size

    def limit(self, pixels: NDArray[Any]) -> int:
        """Return the number of images of this size in one run."""
        area: int = pixels.shape[0] * pixels.shape[1]
        return max(1, min(self.batch_size, self.tiling.area // area))

    def prepare(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Resize and crop pixels [H, W] or [H, W, 3] of uint8, uint16, or float in [0, 1].

        Raises:
            ImageError: the image is smaller than the crop.
        """
        return prepare(pixels, self.spec.resize, self.spec.crop)

    def run(self, batch: Sequence[NDArray[Any]]) -> list[Features]:
        """Return the features of prepared images of one size.

        Raises:
            ImageError: memory runs out even with one image, or the values are not finite.
        """
        height, width = batch[0].shape[:2]
        windows = self.tiling.plan(height, width)
        while True:
            try:
                return self._run(batch, windows)
            except MemoryError:
                if len(batch) > 1:
                    half = len(batch) // 2
                    return self.run(batch[:half]) + self.run(batch[half:])
                smaller = self.tiling.smaller(windows)
                if smaller is None:
                    raise ImageError(f"not enough memory for features of {width} x {height} pixels") from None
                windows = smaller

    def run_each(self, batch: Sequence[NDArray[Any]]) -> list[Features | ImageError]:
        """Run as :meth:`run` does, with the error of an image that failed in its place."""
        try:
            return list(self.run(batch))
        except ImageError as error:
            return [error] if len(batch) == 1 else [self.run_each([pixels])[0] for pixels in batch]

    def _run(self, batch: Sequence[NDArray[Any]], windows: Plan) -> list[Features]:
        height, width = batch[0].shape[:2]
        pools = {
            layer: _Pool(self.spec, (len(batch), layer.channels, *layer.output_size(height, width)))
            for layer in self.layers
        }
        for top, first_row, end_row in windows.rows.spans():
            for left, first_column, end_column in windows.columns.spans():
                rows, columns = slice(top, top + windows.rows.size), slice(left, left + windows.columns.size)
                found = self.session.run_all(np.concatenate([to_net(image[rows, columns]) for image in batch]))
                for layer, pool in pools.items():
                    stride = layer.total_stride
                    y, y_end, x, x_end = (-(-edge // stride) for edge in (first_row, end_row, first_column, end_column))
                    y0, x0 = top // stride, left // stride
                    pool.add(found[layer.name][:, :, y - y0 : y_end - y0, x - x0 : x_end - x0], y, x)
        results: list[Features] = [{} for _ in batch]
        for layer, pool in pools.items():
            for result, values in zip(results, self._finish(pool.values()), strict=True):
                result[layer.name] = values
        return results

    def _finish(self, values: NDArray[np.float32]) -> NDArray[Any]:
        if not np.isfinite(values.sum()):
            raise ImageError(NOT_FINITE)
        if self.spec.l2:
            length = np.sqrt(np.square(values, dtype=np.float64).sum(tuple(range(1, values.ndim)), keepdims=True))
            values = (values / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)
        return values.astype(self.spec.dtype, copy=False)


class SizeBatcher(Generic[Key]):
    """Extracts features of a stream of images; consecutive images of one size share a run, which does not affect them.

    Each image is added with a key and returned with it, in the same order, with its features or its error.
    """

    def __init__(self, net: Net, spec: FeatureSpec, batch_size: int | None = None) -> None:
        """Prepare; arguments and errors are those of :class:`Extractor`."""
        self.extractor = Extractor(net, spec, batch_size)
        self._waiting: list[tuple[Key, NDArray[Any]]] = []
        """Prepared images of one size."""
        self._done: list[tuple[Key, Features | ImageError]] = []

    def push(self, key: Key, pixels: NDArray[Any]) -> list[tuple[Key, Features | ImageError]]:
        """Add an image and return what is ready.

        Args:
            key: returned with the image's features.
            pixels: [H, W] or [H, W, 3] of uint8, uint16, or float in [0, 1], not resized yet.

        Raises:
            ImageError: the image is smaller than the crop; it was not added.
            DeviceError: the device failed.  The next call returns all waiting images with this error.
        """
        prepared = self.extractor.prepare(pixels)
        if self._waiting and prepared.shape[:2] != self._waiting[0][1].shape[:2]:
            self._run()
        self._waiting.append((key, prepared))
        if len(self._waiting) >= self.extractor.limit(prepared):
            self._run()
        return self._take()

    def flush(self) -> list[tuple[Key, Features | ImageError]]:
        """Run the waiting images and return what is ready; errors: see :meth:`push`."""
        self._run()
        return self._take()

    def _run(self) -> None:
        if not self._waiting:
            return
        found: list[Features | ImageError]
        try:
            found = self.extractor.run_each([pixels for _, pixels in self._waiting])
        except Exception as error:  # ends the run; after an interrupt, the next call runs the images
            self._done += [(key, ImageError(str(error))) for key, _ in self._waiting]
            self._waiting = []
            raise
        waiting, self._waiting = self._waiting, []
        self._done += [(key, features) for (key, _), features in zip(waiting, found, strict=True)]

    def _take(self) -> list[tuple[Key, Features | ImageError]]:
        done, self._done = self._done, []
        return done


def iterate(batcher: SizeBatcher[int], sources: Iterable[Any], max_pixels: int) -> Iterator[Features]:
    """Yield features of images of all kinds, one at a time and in order; see :meth:`skipae.Model.iter_features`."""
    for number, source in enumerate(sources):
        try:
            ready = batcher.push(number, load(source, max_pixels))
        except (ImageError, UsageError) as error:
            raise type(error)(f"images[{number}]: {error}") from error
        yield from _good(ready)
    yield from _good(batcher.flush())


def extract(batcher: SizeBatcher[int], sources: Any, max_pixels: int) -> dict[str, NDArray[Any] | list[NDArray[Any]]]:
    """Return features of one or several images; see :meth:`skipae.Model.features`."""
    many: Iterable[Any] = [sources] if _is_one(sources) else sources
    if not isinstance(many, Iterable):
        raise UsageError(f"images must be an image or several images, not {type(sources).__name__}")
    results = list(iterate(batcher, many, max_pixels))
    spec = batcher.extractor.spec
    joined: dict[str, NDArray[Any] | list[NDArray[Any]]] = {}
    for layer in batcher.extractor.layers:
        arrays = [result.pop(layer.name) for result in results]
        if arrays and len({array.shape for array in arrays}) == 1:
            joined[layer.name] = np.stack(arrays)
        elif spec.pool == "none":
            joined[layer.name] = arrays
        else:
            joined[layer.name] = np.empty((0, *spec.shape(layer.channels)), spec.dtype)
    return joined


def _good(ready: list[tuple[int, Features | ImageError]]) -> Iterator[Features]:
    for _, features in ready:
        if isinstance(features, ImageError):
            raise features
        yield features


class _Pool:
    """Pools a layer of some images to a grid, tile by tile.

    Cell i of N takes the rows from ``floor(i * h / N)`` to ``ceil((i + 1) * h / N)``, as adaptive pooling does.
    """

    def __init__(self, spec: FeatureSpec, shape: tuple[int, int, int, int]) -> None:
        """Start with nothing pooled.

        Args:
            spec: pooling.
            shape: shape of the whole layer, [N, C, h, w].
        """
        self.pool = spec.pool
        self.grid = grid = spec.grid
        n, channels, height, width = shape
        self.rows = [(k * height // grid, -(-(k + 1) * height // grid)) for k in range(grid)]
        self.columns = [(k * width // grid, -(-(k + 1) * width // grid)) for k in range(grid)]
        self.sums: NDArray[Any]
        if self.pool == "none":
            self.sums = np.empty(shape, np.float32)
        elif self.pool == "max":
            self.sums = np.full((n, channels, grid, grid), -np.inf, np.float32)
        else:
            self.sums = np.zeros((n, channels, grid, grid), np.float64)

    def add(self, values: NDArray[np.float32], y: int, x: int) -> None:
        """Add a tile [N, C, h, w] whose first value is at row ``y`` and column ``x`` of the layer."""
        height, width = values.shape[2:]
        if not self.grid:
            self.sums[:, :, y : y + height, x : x + width] = values
            return
        for i, (top, bottom) in enumerate(self.rows):
            for j, (left, right) in enumerate(self.columns):
                part = values[:, :, max(top - y, 0) : max(bottom - y, 0), max(left - x, 0) : max(right - x, 0)]
                if not part.size:
                    continue
                if self.pool == "max":
                    np.maximum(self.sums[:, :, i, j], part.max((2, 3)), out=self.sums[:, :, i, j])
                else:
                    self.sums[:, :, i, j] += part.sum((2, 3))

    def values(self) -> NDArray[np.float32]:
        """Return the pooled values of all tiles, float32 [N, ...]."""
        if self.pool == "none":
            return self.sums
        if self.pool == "max":
            return self.sums[:, :, 0, 0]
        counts = np.outer([end - start for start, end in self.rows], [end - start for start, end in self.columns])
        means: NDArray[np.float32] = (self.sums / counts).astype(np.float32)
        return means[:, :, 0, 0] if self.pool == "avg" else means


def _is_one(value: Any) -> bool:
    """Return whether it is one image and not several."""
    if isinstance(value, np.ndarray):
        return value.ndim in (2, 3) and value.dtype.kind in "uifb"
    return isinstance(value, str | os.PathLike | bytes | bytearray | memoryview | images.Picture) or images.is_pil(
        value
    )
