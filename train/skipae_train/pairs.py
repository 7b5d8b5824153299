"""Pairs of real photos, noisy and clean, by camera and scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipae_train.data import DataError, find_images, load_rgb


@dataclass(frozen=True)
class Pair:
    """A noisy photo and its clean partner."""

    clean: Path
    noisy: Path
    camera: str
    """``Canon5D2``, ``S6``, ...: the first word of a name in PolyU's layout, the third of a folder in SIDD's."""
    scene: str
    """``plant``, ``001``, ...: the last word before the number in PolyU's layout, the second of a folder in SIDD's."""


def find_pairs(folder: Path, *, cameras: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> list[Pair]:
    """Return pairs below ``folder``, sorted by path; at least one.

    Two layouts are known: ``CAMERA_..._SCENE_NUMBER_real.*`` beside ``..._mean.*`` (PolyU, and what
    :func:`skipae_train.gather.gather_pairs` writes) and ``*NOISY_SRGB*`` beside ``*GT_SRGB*`` in a folder
    ``INSTANCE_SCENE_CAMERA_...`` (SIDD).

    Args:
        folder: searched recursively.
        cameras: take only these; all if empty.
        without: leave these out, so that they can be tested on.

    Raises:
        DataError: no pair is left, or a noisy photo has no partner.
    """
    pairs = []
    for file in find_images(folder):
        if file.stem.endswith("_real"):
            clean = file.with_name(file.name.replace("_real.", "_mean."))
            words = [word for word in file.stem.removesuffix("_real").split("_") if word] or [file.stem]
            numbered = len(words) > 1 and words[-1].isdigit()
            camera, scene = words[0], words[-2 if numbered else -1]
        elif "NOISY_SRGB" in file.name:
            words = file.parent.name.split("_")
            clean = file.with_name(file.name.replace("NOISY_SRGB", "GT_SRGB"))
            camera, scene = "".join(words[2:3]), "".join(words[1:2])
        else:
            continue
        if not clean.exists():
            raise DataError(f"{file} has no partner {clean.name}: add it, or remove the noisy photo")
        pairs.append(Pair(clean, file, camera, scene))
    if not pairs:
        raise DataError(f"{folder} contains no pair NAME_real.*, NAME_mean.* or NOISY_SRGB*, GT_SRGB*")
    found = {pair.camera for pair in pairs}
    unknown = sorted({*cameras, *without} - found)
    if unknown:
        raise DataError(f"{folder} has no pairs of the camera {unknown[0]}: choose from {', '.join(sorted(found))}")
    kept = [pair for pair in pairs if (not cameras or pair.camera in cameras) and pair.camera not in without]
    if not kept:
        raise DataError(f"no camera of {folder} is left: leave out fewer of {', '.join(sorted(found))}")
    return kept


def load_pair(clean_file: Path, noisy_file: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return clean and noisy photo, uint8 [H, W, 3] each; :class:`DataError` where their sizes differ."""
    clean, noisy = load_rgb(clean_file), load_rgb(noisy_file)
    if clean.shape != noisy.shape:
        sizes = " and ".join(f"{pixels.shape[1]} x {pixels.shape[0]}" for pixels in (noisy, clean))
        raise DataError(f"{noisy_file} and {clean_file.name} have different sizes ({sizes}): remove or crop the pair")
    return clean, noisy


class PairedPhotos:
    """Random crops of real noisy photos and of their clean partners.

    One scene in ``hold_out`` is kept apart for validation with all its pairs, of all cameras (none if 0); a checksum of
    its name decides.  A scene is drawn first, then one of its pairs, so that scenes with many crops do not outweigh the
    others.  What batch ``index`` holds depends on ``seed`` and ``index`` alone.

    Raises:
        DataError: The sizes of a pair differ, or all scenes are held out.
    """

    def __init__(self, pairs: Sequence[Pair], *, seed: int = 0, hold_out: int = 8) -> None:
        held = {pair.scene for pair in pairs if hold_out and crc32(pair.scene.encode()) % hold_out == 0}
        self.scenes: dict[str, list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]] = {}
        self.held_out: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
        for pair in pairs:
            loaded = load_pair(pair.clean, pair.noisy)
            (self.held_out if pair.scene in held else self.scenes.setdefault(pair.scene, [])).append(loaded)
        if not self.scenes:
            raise DataError(
                f"the pairs show {len(held)} scene(s), too few to keep one of {hold_out} apart: add other scenes"
            )
        self.seed = seed
        cameras = sorted({pair.camera for pair in pairs})
        count = sum(map(len, self.scenes.values()))
        self.described = f"{count} of {', '.join(cameras)} ({len(self.held_out)} of {len(held)} scenes more held out)"

    def crops(self, index: int, count: int, side: int) -> tuple[Tensor, Tensor]:
        """Return clean and noisy crops of batch number ``index``, flipped and turned: uint8 [count,
        3, side, side] each.
        """
        rng = np.random.default_rng([self.seed, 1, index])
        fitting = [
            [pair for pair in self.scenes[scene] if min(pair[0].shape[:2]) >= side] for scene in sorted(self.scenes)
        ]
        fitting = [pairs for pairs in fitting if pairs]
        if not fitting:
            raise DataError(f"no pair is at least {side} x {side} pixels: lower the crop or add larger pairs")
        both = torch.empty(2, count, 3, side, side, dtype=torch.uint8)
        for number in range(count):
            pairs = fitting[rng.integers(len(fitting))]
            pair = pairs[rng.integers(len(pairs))]
            height, width = pair[0].shape[:2]
            top, left = rng.integers(0, [height - side + 1, width - side + 1])
            flip, turns = rng.integers(2), int(rng.integers(4))
            for crops, pixels in zip(both, pair, strict=True):
                window = np.rot90(pixels[top : top + side, left : left + side], turns)
                window = window[:, ::-1] if flip else window
                crops[number].copy_(torch.from_numpy(window.copy()).permute(2, 0, 1))  # (H, W, C) -> (C, H, W)
        return both[0], both[1]

    def validation(self, side: int, most: int) -> list[tuple[Tensor, Tensor]]:
        """Return clean and noisy center crops of the held-out scenes, uint8 [1, 3, h, w], ``side`` pixels or less."""
        found = []
        for pair in self.held_out[:: max(1, -(-len(self.held_out) // most))]:
            height, width = (min(side, length) for length in pair[0].shape[:2])
            top, left = (pair[0].shape[0] - height) // 2, (pair[0].shape[1] - width) // 2
            crops = [
                torch.from_numpy(pixels[top : top + height, left : left + width].copy()).permute(2, 0, 1)[None]
                for pixels in pair
            ]
            found.append((crops[0], crops[1]))
        return found
