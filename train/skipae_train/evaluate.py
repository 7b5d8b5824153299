"""Measure a checkpoint as users run it, the ONNX graph through ``skipae``: PSNR in dB, intersection over union."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from skipae import Model
from skipae_train.data import DataError, find_images, load_rgb
from skipae_train.datasets import voc_segmentation
from skipae_train.metrics import confusion, mean_iou, psnr
from skipae_train.pairs import find_pairs, load_pair
from skipae_train.rivals import Denoiser
from skipae_train.run_folder import read_json, write_json


@dataclass(frozen=True)
class PsnrScore:
    """Mean PSNR in dB over ``images`` pictures, before and after."""

    label: str
    images: int
    before: float
    after: float
    std: float
    """Standard deviation of ``after`` between the pictures."""
    command: str
    """``skipae-train`` arguments that measure it again."""

    def __str__(self) -> str:
        """Return one line for people."""
        return f"{self.label}: {self.before:.2f} -> {self.after:.2f} dB over {self.images} images"


@dataclass(frozen=True)
class MaskScore:
    """Intersection over union of label maps, over ``images`` pictures together."""

    metric: str
    images: int
    mean: float
    """In percent, over the classes that the masks have."""
    classes: dict[str, float | None]
    """In percent, by class; None for a class that the masks do not have."""
    command: str
    """``skipae-train`` arguments that measure it again."""

    def __str__(self) -> str:
        """Return a line for each class, and the means, for people."""
        width = max(map(len, self.classes))
        lines = [
            f"{name:<{width}}  {'no pixels' if share is None else f'{share:.2f} %'}"
            for name, share in self.classes.items()
        ]
        there = sum(share is not None for share in self.classes.values())
        lines.append(f"mean IoU of the {there} classes present: {self.mean:.2f} % on {self.images} images")
        complete = complete_mean(self.classes)
        if complete is not None:
            lines.append(f"mean IoU of {', '.join(COMPLETE)}: {complete:.2f} %")
        return "\n".join(lines)


COMPLETE = ("background", "cat", "cow", "dog", "horse", "person", "sheep")
"""Classes of VOC 2012 whose masks are (nearly) complete in the publicly available part of the set."""


def complete_mean(classes: Mapping[str, float | None]) -> float | None:
    """Return the mean over :data:`COMPLETE`, in percent; None where the masks lack one of them."""
    shares = [share for name in COMPLETE if (share := classes.get(name)) is not None]
    return sum(shares) / len(shares) if len(shares) == len(COMPLETE) else None


def evaluate_masks(model: Model, folder: Path, split: str = "val") -> MaskScore:
    """Return the intersection over union of :meth:`skipae.Model.segment` on whole images, at the size of their masks.

    Args:
        model: a segmenter; images are scaled as it does.
        folder: ``VOCdevkit/VOC2012`` or another folder in its layout.
        split: its list of images, in ``ImageSets/Segmentation``.

    Raises:
        DataError: the classes are not the model's, or files are missing or damaged.
    """
    images = voc_segmentation(folder, split, short_side=0)
    names = tuple(model.config.labels)
    if names != images.classes:
        odd = sorted({*names} ^ {*images.classes})
        raise DataError(
            f"the classes of {model.name} and {folder} differ ({odd[0] if odd else 'their order differs'}); use "
            "masks of the model's classes, listed in classes.txt as 'INDEX NAME' if they are not VOC's"
        )
    matrix = torch.zeros(len(names), len(names), dtype=torch.int64)
    for position in range(len(images)):
        pixels, mask = images.whole(position)
        found = model.segment(pixels.permute(1, 2, 0).numpy())
        matrix += confusion(torch.from_numpy(found), cast(Tensor, mask), len(names))
    value, each = mean_iou(matrix)
    classes = {n: None if s != s else 100 * s for n, s in zip(names, each.tolist(), strict=True)}  # NaN is not itself
    command = f"skipae-train evaluate {model.name} --masks DIR{_precision(model)}"
    return MaskScore("miou", len(images), 100 * value, classes, command)


def add_noise(clean: NDArray[np.uint8], sigma: float, stem: str, *, clipped: bool) -> NDArray[np.number]:
    """Add seeded Gaussian noise of ``sigma`` gray levels to uint8 [H, W, 3].

    The seed is the CRC-32 of ``"<file stem>/<sigma>"``, so the same picture always gets the same noise.
    Clipped noise is rounded to uint8, as a file holds it; unclipped noise is float32 in units of [0, 1].
    """
    rng = np.random.default_rng(zlib.crc32(f"{stem}/{sigma:g}".encode()))
    noisy = clean.astype(np.float32) + rng.normal(0, sigma, clean.shape)
    if clipped:
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return (noisy / 255).astype(np.float32)


def evaluate_gaussian(model: Model, folder: Path, sigma: float, *, clipped: bool = True) -> PsnrScore:
    """Measure the PSNR on the images below ``folder`` with Gaussian noise; the model does not know sigma."""

    def pairs() -> Iterator[tuple[NDArray[np.number], NDArray[np.number]]]:
        for file in find_images(folder):
            clean = load_rgb(file)
            noisy = add_noise(clean, sigma, file.stem, clipped=clipped)
            yield (clean if clipped else (clean / np.float32(255))), noisy

    label = f"Gaussian, sigma {sigma:g}, " + ("8-bit" if clipped else "unclipped")
    command = f"skipae-train evaluate {model.name} --clean DIR --sigma {sigma:g}" + ("" if clipped else " --unclipped")
    command += _precision(model)
    return _score(model, label, command, pairs(), 255.0 if clipped else 1.0)


def evaluate_pairs(model: Model, folder: Path, *, every: int = 1, cameras: tuple[str, ...] = ()) -> PsnrScore:
    """Return PSNR on real photos, in one of the layouts of :func:`skipae_train.pairs.find_pairs`.

    With ``every`` = 4, every fourth pair sorted by path is taken; with ``cameras``, only theirs.
    """
    chosen = find_pairs(folder, cameras=cameras)[::every]
    command = f"skipae-train evaluate {model.name} --pairs DIR" + (f" --every {every}" if every > 1 else "")
    command += "".join(f" --camera {camera}" for camera in cameras) + _precision(model)
    label = " ".join(["camera noise", *cameras])
    return _score(model, label, command, (load_pair(pair.clean, pair.noisy) for pair in chosen), 255.0)


def _precision(model: Model) -> str:
    """Return the option for what a model computes in, where it is not float32."""
    return "" if model.device.precision == "fp32" else f" --precision {model.device.precision}"


def gaussian_files(folder: Path, sigma: float, work: Path) -> list[tuple[Path, Path]]:
    """Return clean and noisy files of :func:`evaluate_gaussian`, the noisy ones written as PNG to ``work``."""
    pairs = []
    for number, clean in enumerate(find_images(folder)):
        noisy = work / f"{number:05}-{clean.stem}.png"
        noisy.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(add_noise(load_rgb(clean), sigma, clean.stem, clipped=True).astype(np.uint8)).save(noisy)
        pairs.append((clean, noisy))
    return pairs


class FileScores(NamedTuple):
    """PSNR in dB of each file of a set, before and after."""

    before: list[float]
    after: list[float]

    def mean(self, label: str, command: str = "") -> PsnrScore:
        """Return their means, as :class:`PsnrScore`."""
        before, after = float(np.mean(self.before)), float(np.mean(self.after))
        return PsnrScore(label, len(self.after), before, after, float(np.std(self.after)), command)


def score_files(
    checkpoint: str, pairs: Sequence[tuple[Path, Path]], threads: int | None = None, precision: str = "fp32"
) -> FileScores:
    """Return PSNR of the files that ``skipae denoise`` writes of the noisy files, with its default options.

    Args:
        checkpoint: a name or a folder.
        pairs: clean and noisy files.
        threads: CPU threads; all by default.
        precision: what is computed in; ``auto`` is what users get.

    Raises:
        DataError: the command failed, and its message is passed on; or the files of a pair have different sizes.
    """
    found = FileScores([], [])
    for clean, noisy in pairs:
        load_pair(clean, noisy)
    options = ["--model", checkpoint, "--device", "cpu", "--precision", precision]
    options += ["--threads", str(threads)] if threads else []
    with tempfile.TemporaryDirectory() as folder:
        for number, (_, noisy) in enumerate(pairs):  # files of several folders may have one name
            at = Path(folder, "in", f"{number:05}{noisy.suffix}")
            at.parent.mkdir(exist_ok=True)
            shutil.copyfile(noisy, at)
        written = Path(folder, "out")
        done = subprocess.run(
            [sys.executable, "-m", "skipae", "denoise", str(Path(folder, "in")), "-o", str(written), *options],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DataError(f"skipae denoise failed: {done.stderr.strip().splitlines()[-1:]}")
        files = find_images(written)
        if len(files) != len(pairs):
            raise DataError(f"skipae denoise wrote {len(files)} files of {len(pairs)}")
        for (clean, noisy), file in zip(pairs, files, strict=True):
            target = load_rgb(clean)
            found.before.append(psnr(target[None], load_rgb(noisy)[None], 255.0).item())
            found.after.append(psnr(target[None], load_rgb(file)[None], 255.0).item())
    return found


def score_rival(denoise: Denoiser, pairs: Sequence[tuple[Path, Path]]) -> FileScores:
    """Return PSNR of what another denoiser makes of the noisy files.

    Its results go through a file of the noisy file's format as ours do: JPEG at quality 95, else PNG.  A JPEG of
    theirs is always 4:4:4, which is not a disadvantage.
    """
    found = FileScores([], [])
    for clean, noisy in pairs:
        target, pixels = load_rgb(clean), load_rgb(noisy)
        restored = denoise(pixels)
        if noisy.suffix.lower() in (".jpg", ".jpeg"):
            buffer = io.BytesIO()
            Image.fromarray(restored).save(buffer, "JPEG", quality=95, subsampling=0)
            restored = np.asarray(Image.open(buffer))
        found.before.append(psnr(target[None], pixels[None], 255.0).item())
        found.after.append(psnr(target[None], np.ascontiguousarray(restored)[None], 255.0).item())
    return found


def best_setting(settings: Mapping[str, Denoiser], pairs: Sequence[tuple[Path, Path]]) -> tuple[str, FileScores]:
    """Return the setting of another denoiser with the highest mean PSNR on these files, and its scores.

    The search starts at the best for every tenth file and ends where both neighbors are worse on all files.

    Args:
        settings: at least one, ordered by strength.
        pairs: clean and noisy files.
    """
    names = list(settings)
    few = [float(np.mean(score_rival(settings[name], pairs[::10]).after)) for name in names]
    best, found = int(np.argmax(few)), dict[int, FileScores]()
    while True:
        near = range(max(0, best - 1), min(len(names), best + 2))
        for place in near:
            if place not in found:
                found[place] = score_rival(settings[names[place]], pairs)
        top = max(near, key=lambda place: float(np.mean(found[place].after)))
        if top == best:
            return names[best], found[best]
        best = top


_KIND = ("set", "label", "metric", "command")
"""Columns that two rows of metrics.json differ in; the command has precision, cameras and share of the pairs."""


def record_scores(folder: Path, dataset: str, scores: Iterable[PsnrScore | MaskScore]) -> None:
    """Add scores to ``training/metrics.json`` of a checkpoint folder, in place of earlier ones of the same kind."""
    path = folder / "training" / "metrics.json"
    rows = read_json(path, list) if path.exists() else []
    for score in scores:
        row = {"set": dataset, **asdict(score)}
        kind = [row.get(key) for key in _KIND]
        rows = [r for r in rows if [r.get(key) for key in _KIND] != kind] + [row]
    write_json(path, rows)


def _score(
    model: Model,
    label: str,
    command: str,
    pairs: Iterable[tuple[NDArray[np.number], NDArray[np.number]]],
    peak: float,
) -> PsnrScore:
    before, after = [], []
    for clean, noisy in pairs:
        before.append(psnr(clean[None], noisy[None], peak).item())
        after.append(psnr(clean[None], model.denoise(noisy)[None], peak).item())
    return PsnrScore(label, len(after), float(np.mean(before)), float(np.mean(after)), float(np.std(after)), command)
