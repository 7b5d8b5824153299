"""Figures, curves and grids of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from skipae.files import write_atomically


def to_pixels(image: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return uint8 [H, W, 3] of float [3, H, W] in [0, 1]."""
    return (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def grid(rows: Sequence[Tensor], gap: int = 2) -> Tensor:
    """Return a picture, float32 [3, H, W], of rows of images, each [N, 3, h, w] in [0, 1], white between them."""
    lines = []
    for images in rows:
        padded = F.pad(images.detach().float().cpu().clamp(0, 1), (0, gap, 0, gap), value=1.0)
        lines.append(torch.cat(list(padded), 2))
    return torch.cat(lines, 1)[:, :-gap, :-gap]


def figure(
    width: float = 6.0, height: float = 4.0, columns: int = 1, layout: Literal["constrained"] | None = "constrained"
) -> tuple[Any, list[Any]]:
    """Return a matplotlib figure without a display, and its axes side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure((width * columns, height), layout=layout)
    FigureCanvasAgg(made)
    return made, [made.add_subplot(1, columns, k + 1) for k in range(columns)]


def draw_curves(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Draw loss and measurements over steps, one panel each, as PNG."""
    names = [k for k in (rows[0] if rows else {}) if k not in ("step", "seconds") and any(r.get(k) for r in rows)]
    if not names:
        return
    made, axes = figure(4.0, 3.0, len(names), layout=None)  # finding the best margins takes as long as drawing
    width = 4.0 * len(names)
    made.subplots_adjust(left=0.75 / width, right=1 - 0.3 / width, bottom=0.17, top=0.89, wspace=0.28)
    for axis, name in zip(axes, names, strict=True):
        points = [(int(r["step"]), float(r[name])) for r in rows if r.get(name)]
        axis.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else "")
        axis.set(xlabel="step", title=name)
        if name in ("lr", "loss") and min(y for _, y in points) > 0:
            axis.set_yscale("log")
    save_figure(made, path, dpi=90)


def save_figure(made: Any, path: Path, **options: Any) -> None:
    """Write a figure as PNG, whole or not at all; ``options`` are those of ``savefig``."""
    write_atomically(path, lambda file: made.savefig(file, format="png", **options))


def save_picture(pixels: np.ndarray[Any, np.dtype[np.uint8]], path: Path, **options: Any) -> None:
    """Write uint8 [H, W, 3] as PNG, whole or not at all; ``options`` are those of ``PIL.Image.Image.save``."""
    write_atomically(path, lambda file: Image.fromarray(pixels).save(file, "PNG", **options))
