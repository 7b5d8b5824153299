"""The log of a run: measurements, curves and pictures, as files and for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from skipae_train.plots import draw_curves, save_picture, to_pixels
from skipae_train.run_folder import damage_of, write_csv


class RunLog:
    """Writes ``log.csv``, ``curves.png``, ``pictures/<step>.png`` and ``tensorboard/`` of a run folder.

    A resumed run continues them; entries past the resumed step are removed.
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
            save_picture(pixels, self.out / "pictures" / f"{row['step']:07}.png")
            self._tensorboard.add_image("pictures", pixels, row["step"], dataformats="HWC")
        return " ".join(f"{key} {value}" for key, value in shown.items() if key not in ("step", "seconds"))

    def close(self) -> None:
        """Draw the curves."""
        self._tensorboard.close()
        draw_curves(self.rows, self.out / "curves.png")

    def _write_log(self) -> None:
        write_csv(self.out / "log.csv", self.columns, self.rows)


def read_log(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's ``log.csv``, none if there is no such file; :class:`RunError` where it is damaged."""
    if not (run / "log.csv").exists():
        return []
    with damage_of(run / "log.csv"), (run / "log.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
        for row in rows:
            int(row["step"])
        return rows
