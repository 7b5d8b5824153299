"""Predict what is in holes from the known pixels nearby, by how alike pixels are in that part of the picture.

Ordinary kriging: of all sums of known pixels with weights that add up to 1, the one with the least expected squared
error, given the covariance of pixels at each offset.  A smooth guess blurs edges, stripes and textures; the
covariance knows their direction and period.  It is measured in a small window, so that it is of one thing where the
picture shows several.  All numbers here were chosen on BSDS500 train.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from skipae.tasks.masks import Mask

Floats = NDArray[np.float32]

TILE = 8
"""Pixels from one square to the next; the grid is that of the image."""

OVERLAP = 2
"""Pixels that a square reaches beyond its tile.  Neighbors fade into each other over twice as many."""

CONTEXT = 4
"""Pixels around a tile from which its square is predicted."""

REACH = 14
"""Pixels around a tile in which it is measured how alike pixels are."""

SPREAD = 6.0
"""Standard deviation, in pixels, of the weight of what is measured there."""

GUESSED = 0.7
"""Weight of a guessed pixel when likeness is measured; a known pixel has 1."""

PRIOR = 0.1
"""Share of an ordinary picture, where likeness falls by a factor of e in 12 pixels, in what is measured."""

NOISE = 0.03
"""Share of the variance that is taken as noise, which no neighbor predicts."""

TRUST = 1.6
"""Weight of the result per share of the variance that the known pixels explain; the weight is at most 1."""


def krige(guess: Floats, hole: Mask, inside: tuple[slice, slice], grid: tuple[int, int]) -> Floats:
    """Return the window ``inside`` of a guess, its hole moved toward ordinary kriging from nearby known pixels.

    Square by square: the covariance of two pixels is taken to depend on the offset between them, as measured around
    the square on known and guessed pixels, all channels as one; a mean is estimated for each channel.

    Args:
        guess: float32 [H, W, C], right outside the hole.
        hole: bool [H, W].
        inside: rows and columns that are wanted.
        grid: the first row and column that tiles begin at, in [0, TILE).
    """
    result = guess.copy()
    at = (np.arange(TILE + 2 * REACH) - (TILE - 1) / 2 - REACH) / (2 * SPREAD)
    bell = np.exp(-np.add.outer(at * at, at * at))  # the root of a Gaussian: it weighs both of a pair of pixels
    gray = guess.mean(axis=2, dtype=np.float64)
    size = 2 * (TILE + 2 * REACH)
    offsets = np.minimum(np.arange(size), size - np.arange(size))
    prior = PRIOR * np.exp(-np.hypot(*np.meshgrid(offsets, offsets)) / 12)
    for top, left in _tiles(hole, inside, grid):
        near = _square(top, left, REACH)
        weight = bell[-min(top - REACH, 0) :, -min(left - REACH, 0) :][: hole[near].shape[0], : hole[near].shape[1]]
        weight = np.where(hole[near], GUESSED * weight, weight)
        part = gray[near]
        part = (part - (weight * part).sum() / weight.sum()) * weight
        likeness = np.fft.irfft2(np.abs(np.fft.rfft2(part, (size, size))) ** 2, (size, size))
        beside, across = _context(hole, top, left)
        if len(beside) < 10 or likeness[0, 0] < 1e-6:
            continue
        likeness *= (1 - PRIOR) / likeness[0, 0]
        likeness = (likeness + prior).astype(np.float32)
        rows, columns = _pixels(hole, _square(top, left, OVERLAP))
        among = likeness[beside[:, None] - beside, across[:, None] - across]
        among[np.diag_indices_from(among)] += np.float32(NOISE)
        toward = likeness[beside[:, None] - rows, across[:, None] - columns]
        values = guess[beside, across]
        solved = np.linalg.solve(among, np.column_stack([np.ones_like(values[:, :1]), values, toward]))
        ones, of_values, weights = solved[:, :1], solved[:, 1 : -len(rows)], solved[:, -len(rows) :]
        mean = of_values.sum(axis=0) / ones.sum()
        found = mean + toward.T @ (of_values - ones * mean)
        share = np.clip(TRUST * (toward * weights).sum(axis=0), 0, 1)
        share *= _fade(rows - top) * _fade(columns - left)
        result[rows, columns] += share[:, None] * (found - guess[rows, columns])
    return result[inside]


def _tiles(hole: Mask, inside: tuple[slice, slice], grid: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield top and left of tiles whose squares have a pixel of the hole inside; they may begin before the window."""
    rows, columns = inside
    found = np.argwhere(hole[inside]) + np.array([rows.start, columns.start]) - np.array(grid)
    steps = [(down, right) for down in (-OVERLAP, OVERLAP) for right in (-OVERLAP, OVERLAP)]
    for row, column in np.unique(np.concatenate([(found + np.array(step)) // TILE for step in steps]), axis=0):
        yield int(row) * TILE + grid[0], int(column) * TILE + grid[1]


def _fade(place: NDArray[np.intp]) -> Floats:
    """Return the weight of a square at places along one side of its tile; those of the squares there add up to 1."""
    inward = np.minimum(place, TILE - 1 - place)
    return np.clip((inward + OVERLAP + 0.5) / (2 * OVERLAP), 0, 1).astype(np.float32)


def _square(top: int, left: int, margin: int) -> tuple[slice, slice]:
    """Return a tile with what is around it."""
    return (
        slice(max(top - margin, 0), max(top + TILE + margin, 0)),
        slice(max(left - margin, 0), max(left + TILE + margin, 0)),
    )


def _pixels(where: Mask, square: tuple[slice, slice]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and columns of what is true in a square."""
    rows, columns = np.nonzero(where[square])
    return rows + square[0].start, columns + square[1].start


def _context(hole: Mask, top: int, left: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and columns of the known pixels around a tile, and farther from it if they are fewer than 40."""
    for margin in range(CONTEXT, REACH, 3):
        rows, columns = _pixels(~hole, _square(top, left, margin))
        if len(rows) >= 40:
            break
    return rows, columns
