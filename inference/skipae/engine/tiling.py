"""Restore an image of any size tile by tile ("windows" in this module), with the result of one run on the whole.

The image is never padded: windows are clipped to it, so that the network's own zero padding applies at the image's
edges, as it would for the whole image.  Window starts are multiples of the network's total stride S and the window
size is congruent to the image's size modulo S; then the last window ends at the image's edge, is in phase
with the stride, and one shape serves the whole image.  Pixels of a window that are closer than the halo to an inner
edge are discarded.  If the halo is the network's reach, the result is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipae.errors import ImageError, UsageError
from skipae.options import TileOptions

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A network: float32 [1, 3, H, W], RGB in [0, 1], to the same shape and units, unclamped, or to logits."""

Finish = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[Any]]
"""Computes values [h, w, ...] of a result from a network's input [3, h, w] and output [C, h, w]."""

NOT_FINITE = "the model's output is not finite; try the device cpu or another model"

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""

_COMPARED = 1 << 16  # number of pixels that are compared at once

WINDOW_OVERHEAD = 64 * 64
"""Overhead of a window, as a number of pixels that take the same time."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Windows along one axis: ``count`` of ``size`` pixels, ``step`` apart, the last one flush with the end."""

    length: int
    size: int
    step: int
    halo: int

    @property
    def count(self) -> int:
        """Number of windows."""
        return 1 if self.size >= self.length else 1 - (self.size - self.length) // self.step

    def spans(self) -> list[tuple[int, int, int]]:
        """Return (start of the window, first pixel kept, end of the pixels kept) of each, in the image's pixels."""
        spans: list[tuple[int, int, int]] = []
        kept = 0
        for k in range(self.count):
            start = min(k * self.step, self.length - self.size)
            end = self.length if k == self.count - 1 else start + self.size - self.halo
            spans.append((start, kept, end))
            kept = end
        return spans


@dataclass(frozen=True, slots=True)
class Plan:
    """The windows of an image: all pairs of a row and a column window."""

    rows: Axis
    columns: Axis

    @property
    def area(self) -> int:
        """Pixels of one window."""
        return self.rows.size * self.columns.size

    @property
    def count(self) -> int:
        """Number of windows."""
        return self.rows.count * self.columns.count

    @property
    def cost(self) -> int:
        """Pixels to compute, overheads included."""
        return self.count * (self.area + WINDOW_OVERHEAD)


def axes(length: int, stride: int, halo: int) -> list[Axis]:
    """Return all sensible window sizes along an axis of ``length`` pixels, largest first (the first is the whole)."""
    # With T = length - j * stride and q = (length - 2 * halo) // stride, a window advances by (q - j) * stride.
    quotient = (length - 2 * halo) // stride
    whole = Axis(length, length, max(length, 1), halo)
    if quotient < 2:
        return [whole]
    found = [whole]
    advance = quotient
    while advance > 1:
        count = -(-quotient // (advance - 1))
        advance = -(-quotient // count)  # the smallest windows for this count
        found.append(Axis(length, length - (quotient - advance) * stride, advance * stride, halo))
    return found


@dataclass(frozen=True, slots=True)
class Tiling:
    """Processes an image of any size in windows, with the result of one run on the whole.

    It works for every function of pixels whose outputs have the input's size and depend on no more than ``halo`` pixels
    around, and that treats positions a multiple of ``stride`` apart alike: convolutional networks, and filters.

    >>> def blur(batch):  # 3 x 3, zeros around the image: [1, 3, H, W] in, the same shape out
    ...     padded = np.pad(batch, ((0, 0), (0, 0), (1, 1), (1, 1)))
    ...     height, width = batch.shape[2:]
    ...     return sum(padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)) / 9
    >>> pixels = np.random.default_rng(0).random((300, 200, 3), np.float32)
    >>> blurred = Tiling(halo=1, tile=64).run(blur, pixels)
    >>> np.allclose(blurred, Tiling(halo=1).run(blur, pixels), atol=1e-6)
    True
    """

    stride: int = 1
    """Total stride of the function, in pixels: windows start at its multiples."""
    halo: int = 0
    """Discarded border of a window in pixels: how far outputs depend on inputs."""
    area: int = 1 << 20
    """Maximum number of pixels in a window; exceeded if the halo requires it, halved when memory runs out."""
    tile: int | None = None
    """Longest side of a window in pixels, instead of ``area``."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range with a :class:`UsageError`."""
        for name, value, least in (("stride", self.stride, 1), ("halo", self.halo, 0), ("area", self.area, 1)):
            if value < least:
                raise UsageError(f"{name} must be at least {least}, not {value}")
        TileOptions(tile=self.tile)

    def plan(self, height: int, width: int) -> Plan:
        """Return the cheapest windows for an image of this size.

        Raises:
            UsageError: ``tile`` is too small for the halo.
        """
        rows, columns = axes(height, self.stride, self.halo), axes(width, self.stride, self.halo)
        if self.tile is not None:
            rows = [axis for axis in rows if axis.size <= self.tile]
            columns = [axis for axis in columns if axis.size <= self.tile]
            if not rows or not columns:
                smallest = 2 * self.halo + 2 * self.stride - 1
                raise UsageError(
                    "{tile} is too small for a halo of {halo!s} and a stride of {stride!s}; use {smallest!s} or more, "
                    "or a smaller halo",
                    tile=self.tile,
                    halo=self.halo,
                    stride=self.stride,
                    smallest=smallest,
                )
        plans = [Plan(row, column) for row in rows for column in columns]
        if self.tile is None:
            smallest = min(plan.area for plan in plans)
            plans = [plan for plan in plans if plan.area <= max(self.area, smallest)]
        return min(plans, key=lambda plan: (plan.cost, plan.area))

    def smaller(self, windows: Plan) -> Plan | None:
        """Return windows of at most half the area for the same image; None if there are none."""
        half = replace(self, area=max(1, windows.area // 2), tile=None)
        found = half.plan(windows.rows.length, windows.columns.length)
        return found if found.area < windows.area else None

    def run(
        self, run: Run, pixels: NDArray[Any], *, channels: int = 3, progress: Callable[[float], None] | None = None
    ) -> NDArray[np.float32]:
        """Return the function's output for the whole image, float32 [H, W, C].

        Args:
            run: takes float32 [1, 3, h, w] in [0, 1] and returns float32 [1, C, h, w].
            pixels: [H, W] (gray, passed as three equal channels) or [H, W, 3] (RGB) of uint8, uint16, or float in
                [0, 1].
            channels: number of channels that ``run`` returns.
            progress: called after each window with the finished share, in (0, 1].

        Raises:
            ImageError: memory runs out even with the smallest window, or outputs are NaN or infinite.
            UsageError: ``tile`` is too small for the halo, or floats are far out of [0, 1].
        """
        result = np.empty((*pixels.shape[:2], channels), np.float32)
        sweep(run, pixels, result, _channels_last, self, progress=progress)
        return result


def restore(
    run: Run,
    pixels: NDArray[Any],
    tiling: Tiling,
    *,
    luma: float = 1.0,
    chroma: float = 1.0,
    progress: Callable[[float], None] | None = None,
    shrunk: Callable[[Plan], None] | None = None,
) -> NDArray[Any]:
    """Restore an image of any size in bounded memory.

    Args:
        run: the network.
        pixels: [H, W] (gray, run as three equal channels) or [H, W, 3] (RGB); uint8, uint16, or float in
            [0, 1].  Only windows of it are ever converted to float.
        tiling: the windows; if the halo is the network's reach, the result is exact.
        luma: share of the change in brightness (Y of ITU-R BT.601) that is applied, from 0 to 1.
        chroma: share of the change in color that is applied, from 0 to 1.
        progress: called after each window with the finished share, in (0, 1].
        shrunk: called with the next, smaller windows when memory runs out.

    Returns:
        An array of the shape and dtype of ``pixels``, floats clipped to [0, 1]; three equal channels stay equal.

    Raises:
        ImageError: memory runs out even with the smallest window, or outputs are NaN or infinite.
        UsageError: the tile is too small for the halo, or floats are far out of [0, 1].
    """
    height, width = pixels.shape[:2]
    try:
        result = np.empty_like(pixels, order="C")
    except MemoryError:
        raise ImageError(f"not enough memory for the result of {width} x {height} pixels") from None
    if is_gray(pixels):  # a network would add slight colors
        light = restore(run, pixels[..., 0], tiling, luma=luma, chroma=chroma, progress=progress, shrunk=shrunk)
        result[...] = light[..., None]
        return result
    scale = _top(pixels)

    def blend(source: NDArray[np.float32], part: NDArray[np.float32]) -> NDArray[np.float32]:
        if luma != 1 or chroma != 1:
            change = part - source
            brightness = np.tensordot(LUMA, change, 1)
            part = source + np.float32(chroma) * change + np.float32(luma - chroma) * brightness
        return _from_net(part, scale, gray=pixels.ndim == 2)

    sweep(run, pixels, result, blend, tiling, progress=progress, shrunk=shrunk)
    return result


def sweep(
    run: Run,
    pixels: NDArray[Any],
    result: NDArray[Any],
    finish: Finish,
    tiling: Tiling,
    *,
    progress: Callable[[float], None] | None = None,
    shrunk: Callable[[Plan], None] | None = None,
) -> None:
    """Run a network over an image window by window.

    Args:
        run: the network; its output has the input's height and width, and any number C of channels.
        pixels: as for :func:`restore`.
        result: [H, W, ...], to be filled.
        finish: returns values [h, w, ...] of ``result`` for a part of an image, from the network's input [3, h, w]
            and output [C, h, w].
        tiling: the windows.
        progress: called after each window with the finished share, in (0, 1].
        shrunk: called with the next, smaller windows when memory runs out.

    Raises:
        ImageError: memory runs out even with the smallest window, or outputs are NaN or infinite.
        UsageError: the tile is too small for the halo, or floats are far out of [0, 1].
    """
    windows = tiling.plan(*pixels.shape[:2])
    while True:
        try:
            _sweep(run, pixels, result, finish, windows, progress)
            return
        except MemoryError:
            smaller = tiling.smaller(windows)
            if smaller is None:
                raise ImageError(
                    f"not enough memory for a tile of {windows.columns.size} x {windows.rows.size} pixels: "
                    "free some memory, or use a smaller halo"
                ) from None
            windows = smaller
            if shrunk is not None:
                shrunk(windows)


def _sweep(
    run: Run,
    pixels: NDArray[Any],
    result: NDArray[Any],
    finish: Finish,
    windows: Plan,
    progress: Callable[[float], None] | None,
) -> None:
    done = 0
    source = np.empty((1, 3, windows.rows.size, windows.columns.size), np.float32)  # all windows have this shape
    for top, first_row, end_row in windows.rows.spans():
        for left, first_column, end_column in windows.columns.spans():
            to_net(pixels[top : top + windows.rows.size, left : left + windows.columns.size], source)
            found = run(source)
            kept = (
                0,
                slice(None),
                slice(first_row - top, end_row - top),
                slice(first_column - left, end_column - left),
            )
            if not np.isfinite(found[kept].sum()):
                raise ImageError(NOT_FINITE)
            result[first_row:end_row, first_column:end_column] = finish(source[kept], found[kept])
            del found  # before the next window's output takes memory
            done += 1
            if progress is not None:
                progress(done / windows.count)


def is_gray(pixels: NDArray[Any]) -> bool:
    """Return whether pixels [H, W, 3] have three equal channels; a color photo is recognized by its first rows."""
    if pixels.ndim != 3:
        return False
    rows = max(1, _COMPARED // max(1, pixels.shape[1]))
    return all(
        np.array_equal(strip[..., 0], strip[..., 1]) and np.array_equal(strip[..., 0], strip[..., 2])
        for strip in (pixels[top : top + rows] for top in range(0, len(pixels), rows))
    )


def check_range(pixels: NDArray[Any]) -> None:
    """Raise :class:`UsageError` for floats that are far out of [0, 1], NaN or infinite."""
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if not np.isfinite([low, high]).all():
            raise UsageError("image: floats must be in [0, 1], but some are NaN or infinite; replace them first")
        # Noise may exceed [0, 1] slightly; values on another scale are a mistake to report.
        if not (low >= -2 and high <= 3):
            raise UsageError(
                f"image: floats must be in [0, 1], but these range from {low:g} to {high:g}; divide them by their "
                "maximum, or use uint8 or uint16"
            )


def to_net(window: NDArray[Any], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return a network's input, float32 [1, 3, H, W] in [0, 1].

    Args:
        window: [H, W] (gray) or [H, W, 3] (RGB) of uint8, uint16, or float in [0, 1].
        out: array to fill instead of a new one.

    Raises:
        UsageError: floats are far out of [0, 1].
    """
    check_range(window)
    batch = np.empty((1, 3, *window.shape[:2]), np.float32) if out is None else out
    channels = window[None] if window.ndim == 2 else window.transpose(2, 0, 1)  # (H, W, C) -> (C, H, W)
    np.divide(channels, _top(window), out=batch[0], dtype=np.float32, casting="unsafe")
    return batch


def _channels_last(_: NDArray[np.float32], part: NDArray[np.float32]) -> NDArray[np.float32]:
    return part.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)


def _top(pixels: NDArray[Any]) -> np.float32:
    """Return the value of white."""
    return np.float32(np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1)


def _from_net(part: NDArray[np.float32], scale: np.float32, *, gray: bool) -> NDArray[np.float32]:
    if gray:
        part = part.mean(axis=0)
    part = np.clip(part, 0, 1)
    if scale != 1:
        part *= scale
        np.rint(part, out=part)
    return part if gray else part.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
