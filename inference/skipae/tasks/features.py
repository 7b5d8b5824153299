"""Layer features of images: what a layer gives, pooled, the same whatever the batch and however large the image.

An image that is too large for one run goes through the encoder window by window.  A layer's output at row i sees
the pixels within half its receptive field of row ``i * stride``, so that windows in phase with the stride and a
halo of that half give exactly what one run on the whole image gives.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipae import images
from skipae.engine import device as runtime
from skipae.engine import tiling
from skipae.errors import ImageError, UsageError
from skipae_zoo import CheckpointConfig, Layer

if TYPE_CHECKING:
    from PIL.Image import Image

    from skipae.model import Model

FILE = runtime.FEATURES
DTYPES = ("float32", "float16")
BATCH_SIZE = 16
"""Images of one size that go through the net together, where memory allows it."""

Features = dict[str, NDArray[Any]]
"""Layer name to values: [C] for ``avg`` and ``max``, [C, N, N] for ``spatial:N``, [C, h, w] for ``none``."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is extracted; made by :meth:`check`."""

    layers: tuple[Layer, ...]
    """In the order asked for."""
    pool: str
    l2: bool
    dtype: str
    resize: int | None
    """Short side in pixels that images are scaled to (bicubic, antialiased); None leaves the size."""
    crop: int | None
    """Side of the centre crop after it; None takes the whole image."""

    @classmethod
    def check(
        cls,
        config: CheckpointConfig,
        layers: str | Sequence[str] | None = None,
        pool: str = "avg",
        l2: bool = False,
        dtype: str = "float32",
        resize: int | None = None,
        crop: int | None = None,
    ) -> Settings:
        """Check the arguments of :meth:`skipae.Model.features`; :class:`UsageError` names the one that is wrong."""
        known = {layer.name: layer for layer in config.architecture.layers}
        if layers is None:
            layers = [config.default_layer or config.architecture.layers[-1].name]
        names = tuple(dict.fromkeys([layers] if isinstance(layers, str) else layers))
        if not names:
            raise UsageError(f"layers is empty: give some of {', '.join(known)}")
        for name in names:
            if name not in known:
                raise UsageError(f"{config.name} has no layer {name!r}{_nearest(name, known)}: give {', '.join(known)}")
        if pool not in ("none", "avg", "max") and re.fullmatch(r"spatial:[1-9]\d{0,2}", pool) is None:
            raise UsageError(f"pool must be none, avg, max or spatial:N with N from 1 to 999, not {pool!r}")
        if dtype not in DTYPES:
            raise UsageError(f"dtype must be {' or '.join(DTYPES)}, not {dtype!r}")
        for option, value in (("resize", resize), ("crop", crop)):
            if value is not None and value < 0:
                raise UsageError(f"{option} must be a number of pixels, or 0 for none, not {value}")
        stored = config.preprocessing
        return cls(
            tuple(known[name] for name in names),
            pool,
            l2,
            dtype,
            stored.resize if resize is None else resize or None,
            stored.crop if crop is None else crop or None,
        )

    @property
    def grid(self) -> int:
        """Cells along a side that a layer is pooled to; 0 where it is not."""
        _, _, cells = self.pool.partition(":")
        return int(cells) if cells else int(self.pool != "none")

    @property
    def names(self) -> tuple[str, ...]:
        """The layers' names."""
        return tuple(layer.name for layer in self.layers)

    def shape(self, layer: Layer) -> tuple[int, ...]:
        """Shape of a layer's pooled values; not for the pool ``none``."""
        return (layer.channels, self.grid, self.grid) if self.pool.startswith("spatial") else (layer.channels,)


class Extractor:
    """Runs a model's encoder, as far as the settings ask for it."""

    def __init__(self, model: Model, settings: Settings, batch_size: int | None = None) -> None:
        """Args: ``batch_size`` is the most images in one run, :data:`BATCH_SIZE` by default."""
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {batch_size}")
        self.settings = settings
        architecture = model.config.architecture
        depth = max(architecture.layers.index(layer) for layer in settings.layers) + 1
        used = architecture.layers[:depth]
        self.session = model.encoder(tuple(layer.name for layer in used if layer in settings.layers))
        self._stride = used[-1].total_stride
        self._halo = used[-1].receptive_field // 2
        from skipae.model import MEMORY

        # An estimate of what one pixel takes: the layers' outputs alive together, and the image thrice.
        bytes_per_pixel: int = round(4 * (1.1 * sum(layer.channels / layer.total_stride**2 for layer in used) + 9))
        self._area = MEMORY[model.device.kind] // bytes_per_pixel
        self._batch_size = BATCH_SIZE if batch_size is None else batch_size

    def limit(self, pixels: NDArray[Any]) -> int:
        """How many images of this size one run takes."""
        area: int = pixels.shape[0] * pixels.shape[1]
        return max(1, min(self._batch_size, self._area // area))

    def prepare(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Resize and crop pixels [H, W] or [H, W, 3] of uint8, uint16, or float in [0, 1].

        Raises:
            ImageError: the image is smaller than the crop.
        """
        return prepare(pixels, self.settings.resize, self.settings.crop)

    def run(self, batch: Sequence[NDArray[Any]]) -> list[Features]:
        """Features of prepared images of one size.

        Raises:
            ImageError: memory runs out with one image too, or the values are not finite.
        """
        height, width = batch[0].shape[:2]
        windows = tiling.plan(height, width, stride=self._stride, halo=self._halo, area=self._area)
        while True:
            try:
                return self._run(batch, windows)
            except MemoryError:
                if len(batch) > 1:
                    half = len(batch) // 2
                    return self.run(batch[:half]) + self.run(batch[half:])
                smaller = tiling.plan(height, width, stride=self._stride, halo=self._halo, area=windows.area // 2)
                if smaller.area >= windows.area:
                    raise ImageError(f"not enough memory for features of {width} x {height} pixels") from None
                windows = smaller

    def run_each(self, batch: Sequence[NDArray[Any]]) -> list[Features | ImageError]:
        """As :meth:`run`; an image that fails has its error in its place, and the others their features."""
        try:
            return list(self.run(batch))
        except ImageError as error:
            return [error] if len(batch) == 1 else [self.run_each([pixels])[0] for pixels in batch]

    def stream(self, sources: Iterable[Any], max_pixels: int) -> Iterator[Features]:
        """Features of images of all kinds, in order; neighbours of one size share a run."""
        waiting: list[NDArray[Any]] = []
        for number, source in enumerate(sources):
            try:
                pixels = self.prepare(load(source, max_pixels))
            except (ImageError, UsageError) as error:
                named = f" ({os.fspath(source)!r})" if isinstance(source, str | os.PathLike) else ""
                raise type(error)(f"images[{number}]{named}: {error}") from error
            if waiting and pixels.shape[:2] != waiting[0].shape[:2]:
                yield from self.run(waiting)
                waiting = []
            waiting.append(pixels)
            if len(waiting) >= self.limit(pixels):
                yield from self.run(waiting)
                waiting = []
        if waiting:
            yield from self.run(waiting)

    def _run(self, batch: Sequence[NDArray[Any]], windows: tiling.Plan) -> list[Features]:
        height, width = batch[0].shape[:2]
        pools = {
            layer: _Pool(self.settings, (len(batch), layer.channels, *layer.output_size(height, width)))
            for layer in self.settings.layers
        }
        for top, first_row, end_row in windows.rows.spans():
            for left, first_column, end_column in windows.columns.spans():
                rows, columns = slice(top, top + windows.rows.size), slice(left, left + windows.columns.size)
                found = self.session.run_all(np.concatenate([tiling.to_net(image[rows, columns]) for image in batch]))
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
            raise ImageError("the model gave values that are not finite numbers: try the device cpu, or another model")
        if self.settings.l2:
            length = np.sqrt(np.square(values, dtype=np.float64).sum(tuple(range(1, values.ndim)), keepdims=True))
            values = (values / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)
        return values.astype(self.settings.dtype, copy=False)


def extract(
    extractor: Extractor, sources: Any, max_pixels: int
) -> dict[str, NDArray[Any] | list[NDArray[Any]]] | Iterator[Features]:
    """See :meth:`skipae.Model.features`."""
    if isinstance(sources, Iterator):
        return extractor.stream(sources, max_pixels)
    many: Iterable[Any] = [sources] if _is_one(sources) else sources
    if not isinstance(many, Iterable):
        raise UsageError(f"images must be an image, or a list or an iterator of them, not {type(sources).__name__}")
    results = list(extractor.stream(many, max_pixels))
    settings = extractor.settings
    joined: dict[str, NDArray[Any] | list[NDArray[Any]]] = {}
    for layer in settings.layers:
        arrays = [result.pop(layer.name) for result in results]
        if arrays and len({array.shape for array in arrays}) == 1:
            joined[layer.name] = np.stack(arrays)
        elif settings.pool == "none":
            joined[layer.name] = arrays
        else:
            joined[layer.name] = np.empty((0, *settings.shape(layer)), settings.dtype)
    return joined


def load(
    image: NDArray[Any] | Image | images.Picture | images.Source, max_pixels: int = images.MAX_PIXELS
) -> NDArray[Any]:
    """Pixels [H, W] (grey) or [H, W, 3] (RGB), uint8, uint16 or float, of an image of any kind; alpha is left out.

    Raises:
        ImageError: the file cannot be decoded.
        UsageError: it is no image.
    """
    if isinstance(image, np.ndarray):
        images.check_array(image)
        if image.ndim == 2:
            return image
        return image[..., 0] if image.shape[2] == 1 else image[..., :3]
    return images.to_picture(image, max_pixels=max_pixels).rgb()


def prepare(pixels: NDArray[Any], resize: int | None, crop: int | None) -> NDArray[Any]:
    """Scale the short side to ``resize`` pixels (bicubic, antialiased), then cut out the middle ``crop`` x ``crop``.

    Args:
        pixels: [H, W] or [H, W, 3] of uint8, uint16, or float in [0, 1].
        resize: None leaves the size.
        crop: None takes the whole image.

    Returns:
        uint8 pixels for uint8; else, where they were scaled, float32 in [0, 1].

    Raises:
        ImageError: the image is smaller than the crop, or so narrow that it would be scaled to too many pixels.
    """
    height, width = pixels.shape[:2]
    if resize is not None and min(height, width) != resize:
        scale = resize / min(height, width)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        if height * width > images.MAX_PIXELS:  # a strip, whose middle alone may be wanted
            raise ImageError(
                f"is {pixels.shape[1]} x {pixels.shape[0]} pixels, and {width} x {height} with its short side scaled "
                f"to {resize}, more than {images.MAX_PIXELS} pixels: cut out the part that matters first"
            )
        pixels = _scaled(pixels, height, width)
    if crop is not None:
        if min(height, width) < crop:
            raise ImageError(f"is {width} x {height} pixels, less than the crop of {crop}: give a larger resize")
        top, left = (height - crop) // 2, (width - crop) // 2
        pixels = pixels[top : top + crop, left : left + crop]
    return pixels


def _scaled(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    from PIL import Image

    if pixels.dtype == np.uint8:
        return np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BICUBIC)
        )
    channels: NDArray[np.float32] = tiling.to_net(pixels)[0]  # Pillow scales floats one channel at a time
    scaled = [Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC) for channel in channels]
    return np.stack([np.asarray(channel) for channel in scaled], axis=-1).clip(0, 1)


class _Pool:
    """A layer of some images, fed window by window, pooled to a grid.

    Cell i of N takes the rows from ``floor(i * h / N)`` to ``ceil((i + 1) * h / N)``, as adaptive pooling does.
    """

    def __init__(self, settings: Settings, shape: tuple[int, int, int, int]) -> None:
        """Args: ``shape`` of the whole layer, [N, C, h, w]."""
        self.pool = settings.pool
        self.grid = grid = settings.grid
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
        """Take in a window [N, C, h, w] whose first value is at row ``y`` and column ``x`` of the layer."""
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
        """What the windows make together, float32 [N, ...]."""
        if self.pool == "none":
            return self.sums
        if self.pool == "max":
            return self.sums[:, :, 0, 0]
        counts = np.outer([end - start for start, end in self.rows], [end - start for start, end in self.columns])
        means: NDArray[np.float32] = (self.sums / counts).astype(np.float32)
        return means[:, :, 0, 0] if self.pool == "avg" else means


def _is_one(value: Any) -> bool:
    """Whether it is an image and not several."""
    if isinstance(value, np.ndarray):
        return value.ndim in (2, 3) and value.dtype.kind in "uifb"
    return isinstance(value, str | os.PathLike | bytes | bytearray | memoryview | images.Picture) or images.is_pil(
        value
    )


def _nearest(name: str, known: dict[str, Layer]) -> str:
    number = re.search(r"\d+", name)
    if number is None:
        return ""
    return f" (did you mean enc{min(max(int(number[0]), 1), len(known))}?)"
