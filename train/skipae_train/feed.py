"""Data sets for training and testing: choice of splits, and the batches of a run in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from skipae_train.datasets import Batch, ImageSet, StreamedSet, View, batch_indices, derive_seed, load
from skipae_train.datasets.photos import Photos
from skipae_train.datasets.voc import SegmentationSet
from skipae_train.errors import RefusedError
from skipae_train.rng import Draw, SampleRandom, permutation
from skipae_train.trainer import Part

Purpose = Literal["pretrain", "train", "test"]

_SPLITS: dict[str, dict[Purpose, str]] = {
    "stl10": {"pretrain": "unlabeled"},
    "voc07": {"train": "trainval"},
    "voc12": {"test": "val"},
    "voc12-aug": {"test": "val"},
    "imagenet-subsets": {"pretrain": "unlabeled"},
    "camvid": {"test": "val"},
    "masks": {"test": "val"},
}
"""Names of splits by set and purpose, where they are not ``train`` or ``test``."""


def open_set(epochs: DataConfig, data: Path, purpose: Purpose) -> ImageSet:
    """Return the images of a set below the folder ``data`` that pre-training, training or the test takes."""
    imagenet = epochs.data.startswith(("imagenet", "tiny-imagenet"))
    usual = "train" if purpose != "test" else "val" if imagenet else "test"
    images = load(epochs.data, data, _SPLITS.get(epochs.data, {}).get(purpose, usual))
    if epochs.short_side and isinstance(images, StreamedSet):
        images.short_side = epochs.short_side
    return images if purpose != "test" else as_tested(images, epochs)


def as_tested(images: ImageSet, epochs: DataConfig) -> ImageSet:
    """Return the images at the size that they are measured at."""
    return images.scaled(epochs.test_side) if epochs.test_side and isinstance(images, StreamedSet) else images


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Training on one of the sets, by epochs."""

    data: str
    """Name of the set: see ``skipae_train.datasets``."""
    count: int
    batch: int
    """Samples per step, over all processes."""
    crop: int
    flip: bool = True
    short_side: int = 0
    """Short side in pixels that images of various sizes are scaled to; 0 where they have one size."""
    zoom: float = 1.0
    """Largest factor by which a crop is taken larger and scaled down; needs images of various sizes."""
    test_side: int = 0
    """Short side in pixels at the test and in use; 0 for ``short_side``.  Less where crops are zoomed."""
    samples: int = 0
    """Maximum number of images to train on, drawn by seed, and to test fine-tuning on; 0 for all."""


def preprocessing(images: ImageSet, epochs: DataConfig, classes: Sequence[str] = ()) -> dict[str, Any]:
    """Return the preprocessing of a set's images, as :func:`skipae_train.export.export` expects it."""
    images = as_tested(images, epochs)
    side = images.short_side if isinstance(images, StreamedSet) else min(images.images.shape[-2:])
    found: dict[str, Any] = {"resize": side, "crop": epochs.crop, "labels": list(classes)}
    if isinstance(images, SegmentationSet) and (colors := images.colors()):
        found["colors"] = colors
    return found


def subsample(positions: Tensor, most: int, seed: int) -> Tensor:
    """Return ``most`` of the positions, int64 [N], drawn by seed; all of them if 0."""
    if not 0 < most < len(positions):
        return positions
    return positions[permutation(len(positions), seed, Draw.SAMPLES)[:most]]


class PhotoFeed:
    """The crops of photos in the order of training.

    What a step sees depends on the seed and the step alone, so that training can begin at any.
    """

    def __init__(self, photos: Photos, seed: int) -> None:
        self.photos, self.seed = photos, seed
        self._next: tuple[Part, int, int] | None = None

    def crops(self, part: Part, batch: int, side: int) -> Tensor:
        """Return a part of a step's batch of ``batch`` crops: uint8 [B, 3, side, side], on the part's device."""
        if self._next != (part, batch, side):
            view = View(side, random=True, seed=self.seed)
            self._batches = self.photos.to(part.device).batches(
                (_numbers(later, part.size(batch)) for later in part.following()), view
            )
        self._next = (next(islice(part.following(), 1, None)), batch, side)
        return next(self._batches).images


def _numbers(part: Part, size: int) -> Tensor:
    """Return numbers of the samples of a part, which no other has: int64 [size]."""
    return (part.step << 24) + part.number * size + torch.arange(size)


class Feed:
    """The batches of a set in the order of training: shuffled, cropped and flipped at random in each epoch.

    What a step sees depends on the seed and the step alone, so that training can begin at any.
    """

    def __init__(self, images: ImageSet, epochs: DataConfig, seed: int) -> None:
        self.images, self.batch_size = images, epochs.batch
        self.view = View(epochs.crop, random=True, flip=epochs.flip, zoom=epochs.zoom, seed=seed)
        self.steps_per_epoch = len(images) // epochs.batch
        if not self.steps_per_epoch:
            raise RefusedError(f"{len(images)} images do not fill a batch of {epochs.batch}: add images to the set")
        self._next: tuple[int, int] | None = None

    def batch(self, part: Part) -> tuple[Batch, SampleRandom]:
        """Return a part of a step's batch, and the random numbers for corrupting it."""
        epoch, first = divmod(part.step, self.steps_per_epoch)
        if self._next != (part.step, part.turn) or (first, part.turn) == (0, 0):
            order = batch_indices(len(self.images), part.size(self.batch_size), seed=self.view.seed, epoch=epoch)
            mine = [
                order[(step * part.processes + part.process) * part.turns + turn]
                for step in range(first, self.steps_per_epoch)
                for turn in range(part.turns)
            ]
            self.images = self.images.to(part.device)
            self._batches = self.images.batches(mine[part.turn :], self.view, epoch=epoch)
        last = part.turn == part.turns - 1
        self._next = (part.step + 1, 0) if last else (part.step, part.turn + 1)
        batch = next(self._batches)
        return batch, SampleRandom(derive_seed(self.view.seed, Draw.CORRUPTION), epoch, batch.indices.to(part.device))
