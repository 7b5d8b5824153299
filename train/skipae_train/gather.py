"""Gather clean photos, or pairs with noisy ones, to train on, and keep pictures of the test sets out."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from skipae.errors import ImageError
from skipae_train.data import DataError, Pixels, find_images, load_rgb
from skipae_train.pairs import find_pairs, load_pair
from skipae_train.plots import save_picture

NEAR = 8
"""Bits of 63 in which the hashes of one picture differ at most; those of two pictures differ in 31 on average."""
_COLUMNS = ("source", "sha256", "file", "left out because it")
"""Columns of ``gathered.tsv``."""


@dataclass(frozen=True)
class Rules:
    """Rules for which photos to use."""

    smallest: int = 160
    """Least short side in pixels, after shrinking."""
    halve_from: int = 1600
    """Photos with a short side of this and more are shrunk by two, which takes noise and blur away; 0 for none."""
    noise: float = 2.0
    """Largest estimated standard deviation of the noise, in gray levels."""


def perceptual_hash(pixels: Pixels) -> Pixels:
    """Return 63 signs, 0 and 1, of the lowest frequencies of a picture shrunk to 32 x 32; robust to scale and JPEG."""
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
    sample = np.arange(32)
    dct = np.cos((2 * sample + 1) * np.arange(8)[:, None] * np.pi / 64)
    frequencies = (dct @ small @ dct.T).ravel()[1:]  # without the mean
    return (frequencies > np.median(frequencies)).astype(np.uint8)


def poses(pixels: Pixels) -> list[Pixels]:
    """Return the hashes of a picture's eight flips and quarter turns."""
    small = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BOX))
    return [perceptual_hash(np.rot90(view, turns)) for view in (small, small[:, ::-1]) for turns in range(4)]


def noise_level(pixels: Pixels) -> float:
    """Return the standard deviation of white noise in gray levels, by the smoothest tenth of blocks of 16 x 16 pixels.

    Clipped blocks are skipped; 0 if there are no others.
    """
    gray = pixels.astype(np.float32).mean(2)
    height, width = (side // 16 * 16 for side in gray.shape)
    blocks = gray[:height, :width].reshape(height // 16, 16, width // 16, 16).swapaxes(1, 2).reshape(-1, 16, 16)
    level = blocks.mean((1, 2))
    blocks = blocks[(level > 12) & (level < 243)]
    if not len(blocks):
        return 0.0
    quads = blocks.reshape(-1, 8, 2, 8, 2)
    detail = (quads[:, :, 0, :, 0] - quads[:, :, 0, :, 1] - quads[:, :, 1, :, 0] + quads[:, :, 1, :, 1]) / 2
    return float(np.quantile(detail.std((1, 2)), 0.1)) * 3**0.5  # the mean of channels has less


def gather(
    sources: Sequence[Path],
    out: Path,
    test_sets: Sequence[Path],
    rules: Rules = Rules(),
    notify: Callable[[str], None] = lambda text: None,
) -> int:
    """Write the photos below ``sources`` that may be trained on to ``out`` as PNG; return how many.

    Left out: small or noisy photos, copies of one another, and pictures of ``test_sets``, found by a perceptual hash in
    all flips and quarter turns (not if they were cropped a lot).  ``gathered.tsv`` lists every photo with its SHA-256
    and what became of it, also after an interrupt.

    Raises:
        DataError: a folder holds no images, or ``out`` is not empty.
    """
    known = _begin(out, test_sets)
    count = 0
    for source in sources:
        for file in find_images(source):
            name, reason = "", ""
            try:
                pixels = load_rgb(file)
                reason = _refusal(pixels, known, rules)
            except DataError:
                reason = "cannot be decoded"
            if not reason:
                count += 1
                name = f"{count:05}-{file.stem}.png"
                known.append((perceptual_hash(pixels), f"is a copy of {file}"))
            _list(out, source, file, name, reason)
            if name:
                save_picture(_shrunk(pixels, rules), out / name, compress_level=1)
            else:
                notify(f"{file} {reason}")
    return count


def gather_pairs(
    sources: Sequence[Path],
    out: Path,
    test_sets: Sequence[Path],
    smallest: int = Rules.smallest,
    without: Sequence[str] = (),
    notify: Callable[[str], None] = lambda text: None,
) -> int:
    """Write the pairs below ``sources`` that may be trained on to ``out``; return how many.

    They become ``CAMERA_SCENE_NUMBER_real.png`` and ``..._mean.png``, as :func:`skipae_train.pairs.find_pairs` reads.
    Left out: cameras in ``without``, pairs that cannot be decoded, whose sizes differ or that are smaller than
    ``smallest`` pixels, and those whose clean photo is a picture of ``test_sets``.  ``gathered.tsv`` lists every pair.

    Raises:
        DataError: A folder holds no pairs, a noisy photo has no partner, no folder has pairs of a camera in
            ``without``, or ``out`` is not empty.
    """
    found = [(source, pair) for source in sources for pair in find_pairs(source)]
    unknown = sorted({*without} - {pair.camera for _, pair in found})
    if unknown:
        cameras = ", ".join(sorted({pair.camera for _, pair in found}))
        raise DataError(f"there are no pairs of the camera {unknown[0]}: choose from {cameras}")
    known = _begin(out, test_sets)
    count = 0
    for source, pair in found:
        name, reason = "", ""
        try:
            if pair.camera in without:
                reason = f"is of the camera {pair.camera}"
            else:
                clean, noisy = load_pair(pair.clean, pair.noisy)
                small = min(clean.shape[:2]) < smallest
                reason = f"is smaller than {smallest} pixels" if small else _same(clean, known)
        except DataError as error:
            reason = f"cannot be used: {error}"
        if not reason:
            count += 1
            name = f"{pair.camera}_{pair.scene}_{count:04}_real.png"
        _list(out, source, pair.noisy, name, reason)
        if name:
            save_picture(noisy, out / name, compress_level=1)
            save_picture(clean, out / name.replace("_real.", "_mean."), compress_level=1)
        else:
            notify(f"{pair.noisy} {reason}")
    return count


def _list(out: Path, source: Path, file: Path, name: str, reason: str) -> None:
    """Add a line to ``gathered.tsv``, before the picture is written: an interrupted run leaves no unlisted pictures."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    _add_line(out, (file.relative_to(source).as_posix(), digest, name, reason))


def _add_line(out: Path, values: Sequence[str]) -> None:
    table = out / "gathered.tsv"
    try:
        with table.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t").writerow(values)
    except OSError as error:
        raise ImageError(f"cannot write {table}: {error.strerror or error}") from error


def _begin(out: Path, test_sets: Sequence[Path]) -> list[tuple[Pixels, str]]:
    """Make the folder and the table's heading; return hashes of the pictures to keep out, with what they are."""
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty: choose a new folder")
    known = []
    for folder in test_sets:
        for file in find_images(folder):
            known.append((perceptual_hash(load_rgb(file)), f"is {file.name} of the test set {folder.name}"))
    out.mkdir(parents=True, exist_ok=True)
    _add_line(out, _COLUMNS)
    return known


def _shrunk(pixels: Pixels, rules: Rules) -> Pixels:
    if rules.halve_from and min(pixels.shape[:2]) >= rules.halve_from:
        return np.asarray(Image.fromarray(pixels).reduce(2))
    return pixels


def _refusal(pixels: Pixels, known: Sequence[tuple[Pixels, str]], rules: Rules) -> str:
    """Return why a photo is not used; empty if it is."""
    shrunk = _shrunk(pixels, rules)
    if min(shrunk.shape[:2]) < rules.smallest:
        return f"is smaller than {rules.smallest} pixels"
    if same := _same(pixels, known):
        return same
    level = noise_level(shrunk)
    return f"is noisy ({level:.1f} gray levels)" if level > rules.noise else ""


def _same(pixels: Pixels, known: Sequence[tuple[Pixels, str]]) -> str:
    """Return which of the known pictures it is, flipped or turned; empty if none."""
    if known:
        hashes = np.stack([bits for bits, _ in known])
        for pose in poses(pixels):
            distance = (hashes != pose).sum(1)
            if distance.min() <= NEAR:
                return known[int(distance.argmin())][1]
    return ""
