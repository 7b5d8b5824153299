"""Restore an image of any size window by window, with the result of one run on the whole.

The image is never padded: windows are clipped to it, so that at a true edge the net's own zero padding is
what the whole image would have had.  Window starts are multiples of the net's total stride S and the window
size is congruent to the image's size modulo S; then the last window ends at the image's edge, is in phase
with the stride, and one shape serves the whole image.  Of each window only what lies at least the halo from
an edge that is not the image's is kept.  With the net's reach as the halo the result is exact.
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
"""A net: float32 [1, 3, H, W], RGB in [0, 1], to the same shape and units, unclamped, or to logits."""

Finish = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[Any]]
"""Makes values [h, w, ...] of a result from a network's input [3, h, w] and output [C, h, w]."""

NOT_FINITE = "the model gave values that are not finite numbers: try the device cpu, or another model"

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""

_COMPARED = 1 << 16  # pixels that are compared at once

WINDOW_OVERHEAD = 64 * 64
"""Pixels' worth of time that a window costs besides its own pixels."""


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
        """(start of the window, first pixel kept, end of the pixels kept) of each, in the image's pixels."""
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
    """Every sensible window size along an axis of ``length`` pixels, largest first (the first is the whole)."""
    # With T = length - j * stride and q = (length - 2 * halo) // stride, a window advances by (q - j) * stride.
    quotient = (length - 2 * halo) // stride
    whole = Axis(length, length, max(length, 1), halo)
    if quotient < 2:
        return [whole]
    found = [whole]
    advance = quotient
    while advance > 1:
        count = -(-quotient // (advance - 1))
        advance = -(-quotient // count)  # the smallest windows that do with this many
        found.append(Axis(length, length - (quotient - advance) * stride, advance * stride, halo))
    return found


@dataclass(frozen=True, slots=True)
class Tiling:
    """Processes an image of any size in windows, with the result of one run on the whole.

    It suits every function of pixels whose outputs have the input's size and see no farther than ``halo``, and that
    treats all positions alike that are a multiple of ``stride`` apart: convolutional networks, and filters.

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
    """Pixels around what is kept of a window: how far the function sees."""
    area: int = 1 << 20
    """Most pixels in a window; exceeded where the halo leaves no smaller window, halved when memory runs out."""
    tile: int | None = None
    """Longest side of a window in pixels, instead of ``area``."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range with a :class:`UsageError`."""
        for name, value, least in (("stride", self.stride, 1), ("halo", self.halo, 0), ("area", self.area, 1)):
            if value < least:
                raise UsageError(f"{name} must be at least {least}, not {value}")
        TileOptions(tile=self.tile)

    def plan(self, height: int, width: int) -> Plan:
        """The cheapest windows for an image of this size.

        Raises:
            UsageError: ``tile`` leaves nothing of a window to keep.
        """
        rows, columns = axes(height, self.stride, self.halo), axes(width, self.stride, self.halo)
        if self.tile is not None:
            rows = [axis for axis in rows if axis.size <= self.tile]
            columns = [axis for axis in columns if axis.size <= self.tile]
            if not rows or not columns:
                smallest = 2 * self.halo + 2 * self.stride - 1
                raise UsageError(
                    f"tile is {self.tile} pixels, but a halo of {self.halo} and a stride of {self.stride} need at "
                    f"least {smallest}; use a larger tile or a smaller halo"
                )
        plans = [Plan(row, column) for row in rows for column in columns]
        if self.tile is None:
            smallest = min(plan.area for plan in plans)
            plans = [plan for plan in plans if plan.area <= max(self.area, smallest)]
        return min(plans, key=lambda plan: (plan.cost, plan.area))

    def smaller(self, windows: Plan) -> Plan | None:
        """Windows for the same image of half the area at most; None where there are none."""
        half = replace(self, area=max(1, windows.area // 2), tile=None)
        found = half.plan(windows.rows.length, windows.columns.length)
        return found if found.area < windows.area else None

    def run(
        self, run: Run, pixels: NDArray[Any], *, channels: int = 3, progress: Callable[[float], None] | None = None
    ) -> NDArray[np.float32]:
        """The function's output for the whole image, float32 [H, W, C].

        Args:
            run: takes float32 [1, 3, h, w] in [0, 1] and returns float32 [1, C, h, w].
            pixels: [H, W] (gray, given as three equal channels) or [H, W, 3] (RGB) of uint8, uint16, or float in
                [0, 1].
            channels: how many ``run`` returns.
            progress: called after each window with the share done, in (0, 1].

        Raises:
            ImageError: memory runs out with the smallest window too, or outputs are NaN or infinite.
            UsageError: ``tile`` leaves nothing of a window to keep, or floats are far out of [0, 1].
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
        tiling: the windows; with the network's reach as the halo the result is exact.
        luma: share of the change in brightness (Y of ITU-R BT.601) that is taken, from 0 to 1.
        chroma: share of the change in color that is taken, from 0 to 1.
        progress: called after each window with the share done, in (0, 1].
        shrunk: called with the smaller windows to come when memory has run out.

    Returns:
        An array of the shape and dtype of ``pixels``, floats clipped to [0, 1]; three equal channels stay equal.

    Raises:
        ImageError: memory runs out with the smallest window too, or outputs are NaN or infinite.
        UsageError: the tile leaves nothing of a window to keep, or floats are far out of [0, 1].
    """
    height, width = pixels.shape[:2]
    try:
        result = np.empty_like(pixels, order="C")
    except MemoryError:
        raise ImageError(f"not enough memory for the result of {width} x {height} pixels") from None
    if is_gray(pixels):  # a net would color it, if ever so little
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
        result: [H, W, ...], is filled.
        finish: returns values [h, w, ...] of ``result`` for a part of an image, from the network's input [3, h, w]
            and output [C, h, w].
        tiling: the windows.
        progress: called after each window with the share done, in (0, 1].
        shrunk: called with the smaller windows to come when memory has run out.

    Raises:
        ImageError: memory runs out with the smallest window too, or outputs are NaN or infinite.
        UsageError: the tile leaves nothing of a window to keep, or floats are far out of [0, 1].
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
                    f"not enough memory for a window of {windows.columns.size} x {windows.rows.size} pixels: "
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
            done += 1
            if progress is not None:
                progress(done / windows.count)


def is_gray(pixels: NDArray[Any]) -> bool:
    """Whether pixels [H, W, 3] have three equal channels; of a color photo, the first rows tell."""
    if pixels.ndim != 3:
        return False
    rows = max(1, _COMPARED // max(1, pixels.shape[1]))
    return all(
        np.array_equal(strip[..., 0], strip[..., 1]) and np.array_equal(strip[..., 0], strip[..., 2])
        for strip in (pixels[top : top + rows] for top in range(0, len(pixels), rows))
    )


def check_range(pixels: NDArray[Any]) -> None:
    """Refuse floats that are far out of [0, 1], or no numbers, with a :class:`UsageError`."""
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if not np.isfinite([low, high]).all():
            raise UsageError("image: floats must be in [0, 1], but some are NaN or infinite; replace them first")
        # Noise may leave [0, 1] by a little; values of another scale are a mistake worth naming.
        if not (low >= -2 and high <= 3):
            raise UsageError(
                f"image: floats must be in [0, 1], but these go from {low:g} to {high:g}: divide them by their "
                "maximum, or use uint8 or uint16"
            )


def to_net(window: NDArray[Any], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """A net's input, float32 [1, 3, H, W] in [0, 1].

    Args:
        window: [H, W] (gray) or [H, W, 3] (RGB) of uint8, uint16, or float in [0, 1].
        out: where to put it, instead of a new array.

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
    """The value of white."""
    return np.float32(np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1)


def _from_net(part: NDArray[np.float32], scale: np.float32, *, gray: bool) -> NDArray[np.float32]:
    if gray:
        part = part.mean(axis=0)
    part = np.clip(part, 0, 1)
    if scale != 1:
        part *= scale
        np.rint(part, out=part)
    return part if gray else part.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
