"""Options of the tasks, the same in Python and on the command line.

Each is a frozen dataclass that validates its values.  This module loads nothing heavy, so that the command line can
use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, TypedDict, TypeVar

from skipae.errors import UsageError, suggest
from skipae_zoo import CheckpointConfig, LayerSpec

AnyOptions = TypeVar("AnyOptions")

DTYPES = ("float32", "float16")


@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """The tiles in which a large image is processed."""

    tile: int | None = None
    """Longest side of a tile, in pixels; None uses what fits in memory."""
    halo: int | None = None
    """Border of each tile that is computed and discarded, in pixels; None uses the checkpoint's halo, which keeps the
    output within 1e-4 of that of one run on the whole image."""

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` for values of the wrong type or out of range."""
        check_whole(tile=self.tile, halo=self.halo)
        if self.tile is not None and self.tile < 1:
            raise UsageError(f"tile must be a number of pixels, at least 1, not {self.tile}")
        if self.halo is not None and self.halo < 0:
            raise UsageError(f"halo must be a number of pixels, at least 0, not {self.halo}")


class TileKeywords(TypedDict, total=False):
    """Keywords that make :class:`TileOptions`."""

    tile: int | None
    halo: int | None


@dataclass(frozen=True, kw_only=True)
class DenoiseOptions(TileOptions):
    """How much noise is removed, and the tiles in which a large image is restored.

    >>> DenoiseOptions(strength=0.8, chroma=1)
    DenoiseOptions(tile=None, halo=None, strength=0.8, luma=None, chroma=1)
    """

    strength: float = 1.0
    """0 keeps the image, 1 is the network's output, linear in between."""
    luma: float | None = None
    """``strength`` for brightness only; None uses ``strength``."""
    chroma: float | None = None
    """``strength`` for color only; None uses ``strength``."""

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` for values out of range."""
        for name, amount in (("strength", self.strength), ("luma", self.luma), ("chroma", self.chroma)):
            optional = name != "strength"
            if not (optional and amount is None) and not (isinstance(amount, Real) and 0 <= amount <= 1):
                raise UsageError(f"{name} must be from 0 to 1, not {amount!r}")
        TileOptions.__post_init__(self)


class DenoiseKeywords(TileKeywords, total=False):
    """Keywords that make :class:`DenoiseOptions`."""

    strength: float
    luma: float | None
    chroma: float | None


@dataclass(frozen=True)
class FeatureSpec:
    """Which features to extract: layers, pooling, and how the image is scaled and cropped first.

    >>> FeatureSpec(layers=["enc4", "enc8"], pool="spatial:2").grid
    2
    """

    layers: str | Sequence[str] | None = None
    """Layer names, in the order of the output; None uses the checkpoint's default layer."""
    pool: str = "avg"
    """``avg``, ``max``, ``spatial:N`` (averages in a grid of N x N), or ``none``."""
    l2: bool = False
    """True if each feature vector is scaled to Euclidean length 1."""
    dtype: str = "float32"
    """``float32`` or ``float16``."""
    resize: int | None = None
    """Length of the short side after scaling (bicubic, antialiased), in pixels; None uses the checkpoint's, 0 keeps
    the size."""
    crop: int | None = None
    """Side of the center crop after scaling, in pixels; None uses the checkpoint's, 0 takes the whole image."""

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` for values out of range."""
        if self.layers is not None:
            several = isinstance(self.layers, Iterable) and not isinstance(self.layers, str)
            names = tuple(self.layers) if several else (self.layers,)
            wrong = [name for name in names if not isinstance(name, str)]
            if wrong:
                raise UsageError(f"layers must be names of layers, for example 'enc4', not {wrong[0]!r}")
            object.__setattr__(self, "layers", tuple(dict.fromkeys(names)))
        if not isinstance(self.pool, str) or not re.fullmatch(r"none|avg|max|spatial:[1-9]\d{0,2}", self.pool):
            raise UsageError(f"pool must be none, avg, max or spatial:N with N from 1 to 999, not {self.pool!r}")
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype must be {' or '.join(DTYPES)}, not {self.dtype!r}")
        check_whole(resize=self.resize, crop=self.crop)
        for option, value in (("resize", self.resize), ("crop", self.crop)):
            if value is not None and value < 0:
                raise UsageError(f"{option} must be a number of pixels, or 0 for none, not {value}")

    def resolve(self, config: CheckpointConfig) -> FeatureSpec:
        """Return a copy in which the checkpoint's defaults replace None.

        Raises:
            UsageError: the checkpoint lacks a layer.
        """
        known = {layer.name: layer for layer in config.architecture.layers}
        names = self.layers
        if names is None:
            names = (config.default_layer or config.architecture.layers[-1].name,)
        if not names:
            raise UsageError(f"layers is empty; use any of {', '.join(known)}")
        for name in names:
            if name not in known:
                near = _nearest(name, known)
                raise UsageError(f"{config.name} has no layer {name!r}{near}; use any of {', '.join(known)}")
        stored = config.preprocessing
        return replace(
            self,
            layers=names,
            resize=stored.resize or 0 if self.resize is None else self.resize,
            crop=stored.crop or 0 if self.crop is None else self.crop,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers; empty for the checkpoint's default."""
        return tuple(self.layers or ())

    @property
    def grid(self) -> int:
        """Number of cells along a side after pooling; 0 without pooling."""
        _, _, cells = self.pool.partition(":")
        return int(cells) if cells else int(self.pool != "none")

    def shape(self, channels: int) -> tuple[int, ...]:
        """Return the shape of the pooled values of a layer with this many channels; not for the pool ``none``."""
        return (channels, self.grid, self.grid) if self.pool.startswith("spatial") else (channels,)


class FeatureKeywords(TypedDict, total=False):
    """Keywords that make a :class:`FeatureSpec`."""

    layers: str | Sequence[str] | None
    pool: str
    l2: bool
    dtype: str
    resize: int | None
    crop: int | None


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How the maps of a layer are drawn for an image as it is and corrupted as in training.

    >>> DrawOptions(maps=16, blocks=0.5, sigma=25)
    DrawOptions(maps=16, blocks=0.5, sigma=25, seed=0, resize=None, crop=None)
    """

    maps: int = 8
    """Feature maps to draw, at most."""
    blocks: float = 0.25
    """Share of the pixels that square blocks of the fill color cover in the corrupted image, in [0, 1)."""
    sigma: float = 0.0
    """Noise level of the corrupted image: standard deviation of Gaussian noise on the scale from 0 to 255."""
    seed: int = 0
    """Random seed of the corruption, at least 0."""
    resize: int | None = None
    """Short side in pixels that the image is scaled to; None takes the checkpoint's, else at most 768; 0 leaves it."""
    crop: int | None = None
    """Side in pixels of the center crop after it; None takes the checkpoint's, 0 the whole image."""

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` for values out of range."""
        if not (isinstance(self.maps, Integral) and self.maps >= 1):
            raise UsageError(f"maps must be at least 1, not {self.maps!r}")
        if not (isinstance(self.blocks, Real) and 0 <= self.blocks < 1):
            raise UsageError(f"blocks must be at least 0 and less than 1, not {self.blocks!r}")
        if not (isinstance(self.sigma, Real) and 0 <= self.sigma < float("inf")):
            raise UsageError(f"sigma must be a number from 0 on, not {self.sigma!r}")
        if not (isinstance(self.seed, Integral) and self.seed >= 0):
            raise UsageError(f"seed must be at least 0, not {self.seed!r}")


class DrawKeywords(TypedDict, total=False):
    """Keywords that make :class:`DrawOptions`."""

    maps: int
    blocks: float
    sigma: float
    seed: int
    resize: int | None
    crop: int | None


def combine(default: AnyOptions, given: AnyOptions | None, keywords: Mapping[str, Any]) -> AnyOptions:
    """Combine options passed as one value with keywords, which take precedence.

    Raises:
        UsageError: the value is not one of these options.
        TypeError: an option has another name.
    """
    if given is not None and not isinstance(given, type(default)):
        raise UsageError(f"options must be {type(default).__name__}, not {given!r}; pass single options by name")
    chosen = default if given is None else given
    known = [each.name for each in fields(chosen)]  # type: ignore[arg-type]
    for name in keywords:
        if name not in known:
            raise TypeError(
                f"unexpected keyword argument {name!r}{suggest(name, known)}; {type(chosen).__name__} has "
                f"{', '.join(known)}"
            )
    return replace(chosen, **keywords) if keywords else chosen  # type: ignore[type-var]


def check_max_pixels(max_pixels: int) -> None:
    """Raise :class:`UsageError` if a limit is not a whole number, or below one pixel."""
    if not isinstance(max_pixels, Integral) or max_pixels < 1:
        raise UsageError(f"max_pixels must be at least 1, not {max_pixels!r}")


def check_whole(**values: object) -> None:
    """Raise :class:`UsageError` for a value that is neither a whole number nor None."""
    for name, value in values.items():
        if value is not None and not isinstance(value, Integral):
            raise UsageError(f"{name} must be a whole number, not {value!r}")


def _nearest(name: str, known: Mapping[str, LayerSpec]) -> str:
    number = re.search(r"\d+", name)
    if number is None:
        return ""
    return f" (did you mean enc{min(max(int(number[0]), 1), len(known))}?)"
