"""What a run shows of itself: its log, curves and pictures as files, the same for TensorBoard, and grids of images."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


class Board:
    """Writes ``log.csv``, ``curves.png``, ``pictures/<step>.png`` and ``tensorboard/`` of a run folder.

    A resumed run goes on with them; what lies past the resumed step is dropped.
    """

    def __init__(self, out: Path, columns: Sequence[str], step: int) -> None:
        from tensorboardX import SummaryWriter

        self.out, self.columns = out, list(columns)
        self.rows = [row for row in read_log(out) if int(row["step"]) <= step]
        self._write_log()
        self._tensorboard = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def write(self, row: dict[str, Any], picture: Tensor | None) -> str:
        """Add a measurement; returns it as one line."""
        shown = {key: f"{value:.5g}" if isinstance(value, float) else str(value) for key, value in row.items()}
        self.rows.append(shown)
        self._write_log()
        for key, value in row.items():
            if key not in ("step", "seconds"):
                self._tensorboard.add_scalar(key, float(value), row["step"])
        if picture is not None:
            pixels = to_pixels(picture)
            (self.out / "pictures").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(self.out / "pictures" / f"{row['step']:07}.png")
            self._tensorboard.add_image("pictures", pixels, row["step"], dataformats="HWC")
        return " ".join(f"{key} {value}" for key, value in shown.items() if key not in ("step", "seconds"))

    def close(self) -> None:
        """Draw the curves."""
        self._tensorboard.close()
        draw_curves(self.rows, self.out / "curves.png")

    def _write_log(self) -> None:
        partial = self.out / f"log.csv.{os.getpid()}.partial"
        try:
            with partial.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(self.rows)
            partial.replace(self.out / "log.csv")
        finally:
            partial.unlink(missing_ok=True)


def read_log(run: Path) -> list[dict[str, str]]:
    """The rows of a run's ``log.csv``; none if there is no such file."""
    if not (run / "log.csv").exists():
        return []
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def to_pixels(image: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [H, W, 3] of float [3, H, W] in [0, 1]."""
    return (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def grid(rows: Sequence[Tensor], gap: int = 2) -> Tensor:
    """A picture, float32 [3, H, W], of rows of images, each [N, 3, h, w] in [0, 1], white between them."""
    lines = []
    for images in rows:
        padded = F.pad(images.detach().float().cpu().clamp(0, 1), (0, gap, 0, gap), value=1.0)
        lines.append(torch.cat(list(padded), 2))
    return torch.cat(lines, 1)[:, :-gap, :-gap]


def figure(width: float = 6.0, height: float = 4.0, columns: int = 1) -> tuple[Any, list[Any]]:
    """A matplotlib figure without a display, and its axes side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure((width * columns, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, [made.add_subplot(1, columns, k + 1) for k in range(columns)]


def draw_curves(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Loss and measurements over steps, one panel each, as PNG."""
    names = [k for k in (rows[0] if rows else {}) if k not in ("step", "seconds") and any(r.get(k) for r in rows)]
    if not names:
        return
    made, axes = figure(4.0, 3.0, len(names))
    for axis, name in zip(axes, names, strict=True):
        points = [(int(r["step"]), float(r[name])) for r in rows if r.get(name)]
        axis.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else "")
        axis.set(xlabel="step", title=name)
        if name in ("lr", "loss") and min(y for _, y in points) > 0:
            axis.set_yscale("log")
    made.savefig(path, dpi=90)
