"""Tiled results equal the whole image's."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skipae import ImageError, UsageError, from_pretrained
from skipae.engine import tiling
from skipae.engine.tiling import Tiling, axes, restore


@pytest.fixture(scope="module")
def run(checkpoint: Path) -> tiling.Run:
    return from_pretrained(checkpoint, device="cpu", threads=1).net.graph.run


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (41, 1), (2, 3), (17, 18), (64, 33), (63, 64), (97, 101)])
@pytest.mark.parametrize("tile", [12, 13, 31])
def test_tiled_equals_whole(run: tiling.Run, size: tuple[int, int], tile: int) -> None:
    pixels = np.random.default_rng(1).random((*size, 3), np.float32)
    whole = restore(run, pixels, Tiling(2, 4, 10**6))
    tiled = restore(run, pixels, Tiling(2, 4, 10**6, tile=tile))
    assert np.abs(tiled - whole).max() <= 1e-4
    direct = run(np.ascontiguousarray(pixels.transpose(2, 0, 1))[None])[0].transpose(1, 2, 0)
    assert np.abs(whole - direct.clip(0, 1)).max() <= 1e-6


def test_a_smaller_halo_is_not_exact(run: tiling.Run) -> None:
    # Else the test above would not see a wrong reach.
    pixels = np.random.default_rng(1).random((64, 64, 3), np.float32)
    whole = restore(run, pixels, Tiling(2, 4, 10**6))
    tiled = restore(run, pixels, Tiling(2, 2, 10**6, tile=20))
    assert np.abs(tiled - whole).max() > 1e-4


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 100, 355, 4001, 10_000])
@pytest.mark.parametrize(("stride", "halo"), [(1, 0), (1, 3), (2, 4), (8, 0), (8, 90), (16, 84)])
def test_windows_cover_an_axis_once_and_in_phase(length: int, stride: int, halo: int) -> None:
    found = axes(length, stride, halo)
    assert found[0].size == length
    assert [axis.size for axis in found] == sorted({axis.size for axis in found}, reverse=True)
    for axis in found:
        end = 0
        for start, first, stop in axis.spans():
            assert start % stride == 0 and start + axis.size <= length and (length - axis.size) % stride == 0
            assert first == end and stop > first
            assert start == 0 or first - start >= halo
            assert stop == length or start + axis.size - stop >= halo
            end = stop
        assert end == length
        assert len(axis.spans()) == axis.count


def test_plan_keeps_to_the_area_and_is_cheap() -> None:
    small = Tiling(stride=8, halo=60, area=10**6).plan(400, 300)
    assert small.count == 1
    large = Tiling(stride=8, halo=60, area=2**20).plan(10_001, 9_999)
    assert large.area <= 2**20
    assert large.cost < 1.5 * 10_001 * 9_999
    strip = Tiling(stride=8, halo=60, area=2**20).plan(100, 50_000)
    assert strip.rows.count == 1 and strip.area <= 2**20
    assert Tiling(stride=8, halo=60, area=1).plan(10_001, 9_999).area < 200**2  # no smaller window is left


def test_tile_too_small_for_the_halo() -> None:
    with pytest.raises(UsageError, match="tile=100 is too small for a halo of 60 and a stride of 8; use 135 or more"):
        Tiling(stride=8, halo=60, area=10**6, tile=100).plan(1000, 1000)
    for length in range(1000, 1016):
        assert Tiling(stride=8, halo=60, area=10**6, tile=135).plan(length, 900).rows.size <= 135


def test_halves_the_window_when_memory_runs_out(run: tiling.Run) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (80, 90, 3), np.uint8)
    areas: list[int] = []

    def scarce(image: np.ndarray) -> np.ndarray:
        areas.append(image[0, 0].size)
        if areas[-1] > 900:
            raise MemoryError("bad allocation")
        return run(image)

    whole = restore(run, pixels, Tiling(2, 4, 10**6))
    assert np.array_equal(restore(scarce, pixels, Tiling(2, 4, 10**6)), whole)
    assert areas[0] == 80 * 90 and areas[-1] <= 900
    assert sorted(set(areas), reverse=True) == list(dict.fromkeys(areas))


def test_gives_up_when_the_smallest_window_is_too_large() -> None:
    def never(image: np.ndarray) -> np.ndarray:
        raise MemoryError

    with pytest.raises(ImageError, match="not enough memory for a tile of"):
        restore(never, np.zeros((50, 50), np.uint8), Tiling(2, 4, 10**6))


def test_not_finite_values_are_refused() -> None:
    def broken(image: np.ndarray) -> np.ndarray:
        return np.full_like(image, np.nan)

    with pytest.raises(ImageError, match="not finite"):
        restore(broken, np.zeros((8, 8), np.uint8), Tiling(2, 4, 10**6))


def test_the_output_of_a_window_is_freed_before_the_next_one_runs() -> None:
    outputs: list[weakref.ref[Any]] = []

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        assert all(output() is None for output in outputs)
        found = batch.copy()
        outputs.append(weakref.ref(found))
        return found

    pixels = np.random.default_rng(0).random((60, 50, 3), np.float32)
    assert np.array_equal(restore(run, pixels, Tiling(2, 4, 10**6, tile=20)), pixels)
    assert len(outputs) > 9


def test_progress_ends_at_one(run: tiling.Run) -> None:
    seen: list[float] = []
    restore(run, np.zeros((50, 50), np.uint8), Tiling(2, 4, 10**6, 20), progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 1 and len(seen) > 4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("luma", "chroma"), [(1.0, 1.0), (0.5, 0.2), (0.0, 1.0)])
def test_black_and_white_stays_so_in_three_channels(run: tiling.Run, dtype: Any, luma: float, chroma: float) -> None:
    top = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    gray = (np.random.default_rng(0).random((40, 70)) * top).astype(dtype)
    options: dict[str, Any] = {"luma": luma, "chroma": chroma}
    windows = Tiling(1, 4, 40 * 30)
    found = restore(run, np.dstack([gray] * 3), windows, **options)
    assert found.dtype == dtype and found.shape == (40, 70, 3)
    assert np.array_equal(found[..., 0], found[..., 1]) and np.array_equal(found[..., 0], found[..., 2])
    assert np.array_equal(found[..., 0], restore(run, gray, windows, **options))


def test_one_pixel_of_color_makes_a_color_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "_COMPARED", 100)
    pixels = np.full((30, 40, 3), 7, np.uint8)
    assert tiling.is_gray(pixels) and not tiling.is_gray(pixels[..., 0])
    for channel in range(3):
        colored = pixels.copy()
        colored[29, 39, channel] = 8
        assert not tiling.is_gray(colored)
    compared: list[int] = []

    def array_equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
        compared.append(a.size)
        return bool((a == b).all())

    monkeypatch.setattr(np, "array_equal", array_equal)
    assert not tiling.is_gray(np.random.default_rng(0).integers(0, 255, (3000, 40, 3), np.uint8))
    assert sum(compared) <= 100  # a color photo costs nothing
