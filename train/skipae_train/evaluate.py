"""Measure a checkpoint as its users run it: the ONNX graph through ``skipae``, mean RGB PSNR in dB."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipae import Model
from skipae_train.data import DataError, find_images, load_rgb
from skipae_train.metrics import psnr


@dataclass(frozen=True)
class Score:
    """Mean PSNR in dB over ``images`` pictures, before and after."""

    label: str
    images: int
    before: float
    after: float
    std: float
    """Of ``after``, between the pictures."""
    command: str
    """``skipae-train`` arguments that measure it again."""

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.label}: {self.before:.2f} -> {self.after:.2f} dB over {self.images} images"


def add_noise(clean: NDArray[np.uint8], sigma: float, stem: str, *, clipped: bool) -> NDArray[np.number]:
    """Seeded Gaussian noise of ``sigma`` grey levels on uint8 [H, W, 3].

    The seed is the CRC-32 of ``"<file stem>/<sigma>"``, so the same picture always gets the same noise.
    Clipped noise is rounded to uint8, as a file holds it; unclipped noise is float32 in units of [0, 1].
    """
    rng = np.random.default_rng(zlib.crc32(f"{stem}/{sigma:g}".encode()))
    noisy = clean.astype(np.float32) + rng.normal(0, sigma, clean.shape)
    if clipped:
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return (noisy / 255).astype(np.float32)


def evaluate_gaussian(model: Model, folder: Path, sigma: float, *, clipped: bool = True) -> Score:
    """PSNR on the images below ``folder`` with Gaussian noise; the model is not told sigma."""

    def pairs() -> Iterator[tuple[NDArray[np.number], NDArray[np.number]]]:
        for file in find_images(folder):
            clean = load_rgb(file)
            noisy = add_noise(clean, sigma, file.stem, clipped=clipped)
            yield (clean if clipped else (clean / np.float32(255))), noisy

    label = f"Gaussian, sigma {sigma:g}, " + ("8-bit" if clipped else "unclipped")
    command = f"skipae-train evaluate {model.name} --clean DIR --sigma {sigma:g}" + ("" if clipped else " --unclipped")
    return _score(model, label, command, pairs(), 255.0 if clipped else 1.0)


def evaluate_pairs(model: Model, folder: Path, *, every: int = 1) -> Score:
    """PSNR on real photos: ``NAME_real.*`` is restored and compared with ``NAME_mean.*`` (the PolyU layout).

    With ``every`` = 4, every fourth pair sorted by name is taken.
    """
    noisy = [f for f in find_images(folder) if f.stem.endswith("_real")][::every]
    if not noisy:
        raise DataError(f"{folder} holds no pair NAME_real.*, NAME_mean.*")

    def pairs() -> Iterator[tuple[NDArray[np.number], NDArray[np.number]]]:
        for file in noisy:
            clean = file.with_name(file.name.replace("_real.", "_mean."))
            if not clean.exists():
                raise DataError(f"{file} has no partner {clean.name}")
            yield load_rgb(clean), load_rgb(file)

    command = f"skipae-train evaluate {model.name} --pairs DIR" + (f" --every {every}" if every > 1 else "")
    return _score(model, "camera noise", command, pairs(), 255.0)


def record_scores(folder: Path, dataset: str, scores: Iterable[Score]) -> None:
    """Add scores to ``training/metrics.json`` of a checkpoint folder, in place of earlier ones of the same kind."""
    path = folder / "training" / "metrics.json"
    path.parent.mkdir(exist_ok=True)
    rows = json.loads(path.read_text()) if path.exists() else []
    for score in scores:
        row = {"set": dataset, **asdict(score)}
        rows = [r for r in rows if (r["set"], r.get("label")) != (dataset, score.label)] + [row]
    path.write_text(json.dumps(rows, indent=2) + "\n")


def _score(
    model: Model,
    label: str,
    command: str,
    pairs: Iterable[tuple[NDArray[np.number], NDArray[np.number]]],
    peak: float,
) -> Score:
    before, after = [], []
    for clean, noisy in pairs:
        before.append(psnr(clean[None], noisy[None], peak).item())
        after.append(psnr(clean[None], model.denoise(noisy)[None], peak).item())
    return Score(label, len(after), float(np.mean(before)), float(np.mean(after)), float(np.std(after)), command)
