"""Classes of images and of their pixels: from logits to scores, label maps and pictures of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipae.engine.net import Net
from skipae.engine.tiling import NOT_FINITE, to_net
from skipae.errors import ImageError, UsageError
from skipae.images import to_8_bits
from skipae.options import TileOptions
from skipae.tasks.pixels import prepare

if TYPE_CHECKING:
    from PIL.Image import Image

LabelMap = NDArray[np.uint8]
"""[H, W], the number of each pixel's class."""


class Score(NamedTuple):
    """A class and its score.

    >>> Score("cat", 0.93).label
    'cat'
    """

    label: str
    score: float
    """In [0, 1]; if an image has exactly one class, the scores of all classes add up to 1."""


class Area(NamedTuple):
    """The area that a class covers in an image."""

    label: str
    pixels: int
    share: float
    """Share of the image, in (0, 1]."""


def classify(net: Net, pixels: NDArray[Any], top: int) -> list[Score]:
    """Return the ``top`` classes of an image, most likely first; see :meth:`skipae.Model.classify`."""
    if not isinstance(top, Integral) or top < 1:
        raise UsageError(f"top must be at least 1, not {top!r}")
    config = net.config
    resize, crop = config.preprocessing.resize, config.preprocessing.crop
    if resize is None and crop is not None and min(pixels.shape[:2]) < crop:
        resize = crop
    prepared = to_net(prepare(pixels, resize, crop))
    try:
        logits = net.graph.run(prepared)[0].astype(np.float64)
    except MemoryError:
        height, width = prepared.shape[2:]
        raise ImageError(f"not enough memory to classify {width} x {height} pixels") from None
    if not np.isfinite(logits.sum()):
        raise ImageError(NOT_FINITE)
    if config.head is not None and config.head.scores == "sigmoid":
        scores = 1 / (1 + np.exp(-logits.clip(-500, 500)))
    else:
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
    order = np.argsort(-scores, kind="stable")[:top]
    return [Score(config.labels[k], float(scores[k])) for k in order]


def segment(
    net: Net, pixels: NDArray[Any], options: TileOptions, progress: Callable[[float], None] | None = None
) -> LabelMap:
    """Return the most likely class of each pixel; see :meth:`skipae.Model.segment`.

    If the checkpoint has a scale, the image is scaled to it, and the logits are enlarged to the image's size
    (bilinear) before the classes are chosen.  Otherwise they are chosen tile by tile, so that logits are never kept
    for more than a tile.
    """
    size = pixels.shape[:2]
    scaled = prepare(pixels, net.config.preprocessing.resize, None)
    enlarges = scaled.shape[:2] != size
    found: NDArray[Any] = np.empty(
        (*scaled.shape[:2], len(net.config.labels)) if enlarges else size, np.float32 if enlarges else np.uint8
    )
    net.sweep(
        scaled,
        found,
        lambda _, logits: logits.transpose(1, 2, 0) if enlarges else logits.argmax(0),  # (C, H, W) -> (H, W, C)
        options,
        progress,
    )
    return _enlarged(found, *size) if enlarges else found


def _enlarged(logits: NDArray[np.float32], height: int, width: int) -> LabelMap:
    """Return the most likely class of each pixel of an image from ``logits`` [h, w, K] at a smaller scale."""
    from PIL import Image

    labels = np.zeros((height, width), np.uint8)
    most = np.full((height, width), -np.inf, np.float32)
    for number in range(logits.shape[2]):  # one class at a time, so that memory does not exceed that of the image
        plane = np.ascontiguousarray(logits[..., number])
        enlarged = np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
        labels[enlarged > most] = number
        np.maximum(most, enlarged, out=most)
    return labels


def areas(labels: LabelMap, names: Sequence[str]) -> list[Area]:
    """Return the classes in a label map, largest first."""
    counts = np.bincount(labels.reshape(-1), minlength=len(names))
    return [
        Area(names[k], int(counts[k]), float(counts[k] / labels.size))
        for k in np.argsort(-counts, kind="stable")
        if counts[k]
    ]


def palette(colors: Sequence[tuple[int, int, int]] = ()) -> NDArray[np.uint8]:
    """Return the colors [256, 3] of class numbers: those of the first classes, then those of PASCAL VOC.

    PASCAL VOC puts the bits of the number, lowest three first, into the highest bits of red, green and blue, and so on
    down.
    """
    numbers = np.arange(256)
    found = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            found[:, channel] |= ((numbers >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    found[: len(colors)] = np.reshape(colors, (-1, 3))
    return found


def to_pil(labels: LabelMap, colors: Sequence[tuple[int, int, int]] = ()) -> Image:
    """Return a palette image whose indices are the class numbers, in the colors of :func:`palette`."""
    from PIL import Image

    image = Image.fromarray(labels)
    image.putpalette(palette(colors).tobytes())
    return image


def overlay(
    pixels: NDArray[Any],
    labels: LabelMap,
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]] = (),
    *,
    legend: bool = False,
) -> NDArray[np.uint8]:
    """Blend the image with the classes' colors, half and half; ``background`` is unchanged.

    Args:
        pixels: [H, W] or [H, W, 3] of uint8, or uint16, which is rounded to 8 bits.
        labels: label map of the same height and width.
        names: names of the classes.
        colors: colors of the classes, RGB from 0 to 255; see :func:`palette`.
        legend: whether to name the visible classes in a corner, if there is enough space.

    Returns:
        [H, W, 3].
    """
    shades = palette(colors)
    result = np.empty((*labels.shape, 3), np.uint8)
    if pixels.dtype == np.uint16:
        pixels = to_8_bits(pixels)
    result[:] = pixels[..., None] if pixels.ndim == 2 else pixels
    tinted = np.ones(256, bool)
    tinted[[k for k, name in enumerate(names) if name == "background"]] = False
    for row, line in zip(result, labels, strict=True):  # by rows, to avoid a second image in memory
        where = tinted[line]
        row[where] = row[where] // 2 + shades[line[where]] // 2
    if legend:
        there = [names.index(area.label) for area in areas(labels, names)]
        _draw_legend(result, [(names[k], tuple(shades[k].tolist())) for k in there if tinted[k]])
    return result


LEAST_FONT = 10
"""Minimum height of a legend's text, in pixels."""


def _draw_legend(pixels: NDArray[np.uint8], entries: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    """Draw a legend at the lower left, in place, unless it would hide more than a third of the image."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = pixels.shape[:2]
    size = max(LEAST_FONT, min(height, width) // 30)
    font = ImageFont.load_default(size)
    row, gap = round(1.4 * size), size // 2
    text = max((font.getlength(name) for name, _ in entries), default=0)
    box_width, box_height = round(text) + size + 3 * gap, len(entries) * row + gap
    if not entries or box_width > width or box_height > height or 3 * box_width * box_height > height * width:
        return
    box = Image.new("RGB", (box_width, box_height), "white")
    draw = ImageDraw.Draw(box)
    for number, (name, color) in enumerate(entries):
        top = gap + number * row
        draw.rectangle((gap, top, gap + size, top + size - 1), color, "black")
        draw.text((size + 2 * gap, top + size / 2), name, "black", font, anchor="lm")
    pixels[height - box_height :, :box_width] = np.asarray(box)
