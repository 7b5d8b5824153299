"""Sets of images for training: in memory on the device, or streamed from files.

Both kinds yield batches of uint8 pixels, cropped and flipped.  The contents of a batch depend only on the seed, the
epoch and the samples' positions, never on how many processes share the work or where a run was resumed:

    for epoch in range(epochs):
        mine = batch_indices(len(images), 128, seed=0, epoch=epoch)[rank::processes]
        for batch in images.batches(mine, View(29, random=True, flip=True), epoch=epoch):
            ...
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from skipae.engine.device import available_threads
from skipae_train.data import DataError, Pixels
from skipae_train.rng import Draw, derive_seed, permutation, uniforms

VOID = 255
"""Label of mask pixels that are neither learned nor scored."""
MEMORY = 2 << 30
"""Bytes of decoded images that a streamed set keeps, unless it is made with another limit."""
_AHEAD = 3  # batches that a streamed set prepares while one is in use


@dataclass(frozen=True)
class View:
    """Which part of each image a batch holds."""

    crop: int
    """Side of the square in pixels."""
    random: bool = False
    """At a random place; otherwise at the center."""
    zoom: float = 1.0
    """Largest factor by which a random crop is taken larger and scaled down to ``crop``; streamed sets only."""
    flip: bool = False
    """Mirror half of the samples."""
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Some samples of a set, on its device."""

    indices: Tensor
    """Positions in the set, int64 [B], on the CPU."""
    images: Tensor
    """RGB, uint8 [B, 3, S, S], channels last in memory."""
    labels: Tensor | None
    """Classes as int64 [B]; or int8 [B, K], 1 present, 0 absent, -1 only as difficult objects; or masks as uint8
    [B, S, S], :data:`VOID` where there is no label; or None."""


@dataclass(frozen=True)
class MemorySet:
    """Images of one size that live on one device; batches are cut there, without work per sample on the host."""

    images: Tensor
    """uint8 [N, 3, H, W]"""
    labels: Tensor | None
    """int64 [N] or None"""
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def to(self, device: torch.device | str) -> MemorySet:
        """Return the same set on ``device``."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, images=self.images.to(device), labels=labels)

    def subset(self, indices: Tensor) -> MemorySet:
        """Return the samples at ``indices``, int64 [M]."""
        rows = indices.to(self.images.device)
        return replace(self, images=self.images[rows], labels=None if self.labels is None else self.labels[rows])

    def batches(self, positions: Sequence[Tensor], view: View, *, epoch: int = 0) -> Iterator[Batch]:
        """Yield one batch for each tensor of positions; ``epoch`` selects the random places and flips."""
        height, width = self.images.shape[-2:]
        if view.crop > min(height, width):
            raise DataError(f"a crop of {view.crop} does not fit images of {height} x {width}: lower the crop")
        device = self.images.device
        side, channels = torch.arange(view.crop, device=device), torch.arange(3, device=device)
        for indices in positions:
            chosen = indices.to(device)
            top, left, flip = (part[:, None] for part in _places(view, epoch, chosen, height, width))
            columns = left + torch.where(flip, view.crop - 1 - side, side)
            # Advanced indices in the order of the result, [B, S, S, 3], make it channels last.
            pixels = self.images[
                chosen[:, None, None, None], channels, (top + side)[:, :, None, None], columns[:, None, :, None]
            ]
            labels = None if self.labels is None else self.labels[chosen]
            yield Batch(indices.cpu(), pixels.permute(0, 3, 1, 2), labels)

    def statistics(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Return the mean and standard deviation of each channel over all pixels, in [0, 1]."""
        return _statistics(iter(torch.split(self.images, 1000)))


class StreamedSet(ABC):
    """Images of any size that are decoded when they are drawn, by threads that work ahead.

    Each image is scaled so that its short side is ``short_side`` pixels (bicubic, antialiased, as inference
    does; 0 leaves the size).  Scaled images stay in memory until ``memory`` bytes are used, so that a set of
    moderate size is decoded once only.  Batches are put on ``device``.
    """

    masked = False
    """Labels are masks."""
    enlarge_to = 0
    """Short side in pixels up to which smaller images are enlarged; 0 for ``short_side``."""

    def __init__(
        self, labels: Tensor | None, classes: Sequence[str], count: int, *, short_side: int, memory: int = MEMORY
    ) -> None:
        self.labels = labels
        self.classes = tuple(classes)
        self.short_side = short_side
        self.device = torch.device("cpu")
        self.workers = min(16, available_threads())
        self._rows = np.arange(count)
        self._memory = [memory]  # what is left; a list, so that subsets share it with the cache
        self._cache: dict[int, tuple[Pixels, Pixels | None]] = {}

    @abstractmethod
    def _name(self, row: int) -> str:
        """Return the image's file, for errors."""

    @abstractmethod
    def _open(self, row: int) -> Image.Image:
        """Decode the image, RGB, upright."""

    def _mask(self, row: int) -> Image.Image | None:
        """Decode the image's mask, mode ``L``, if the set has masks."""
        return None

    def _rows_of(self, indices: Tensor, side: int) -> NDArray[np.int64]:
        """Return which image each sample is of, int64 [B]; crops of ``side`` pixels are wanted."""
        rows: NDArray[np.int64] = self._rows[indices.numpy()]
        return rows

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._rows)

    def to(self, device: torch.device | str) -> StreamedSet:
        """Return the same set with batches on ``device``."""
        moved = copy.copy(self)
        moved.device = torch.device(device)
        return moved

    def subset(self, indices: Tensor) -> StreamedSet:
        """Return the samples at ``indices``, int64 [M]; decoded images are shared."""
        part = copy.copy(self)
        part._rows = self._rows[indices.cpu().numpy()]
        part.labels = None if self.labels is None else self.labels[indices.cpu()]
        return part

    def scaled(self, short_side: int) -> StreamedSet:
        """Return the same images scaled to another short side."""
        other = copy.copy(self)
        other.short_side, other._cache = short_side, {}
        return other

    def batches(self, positions: Iterable[Tensor], view: View, *, epoch: int = 0) -> Generator[Batch, None, None]:
        """Yield one batch for each tensor of positions; ``epoch`` selects the random places and flips."""
        pending: deque[tuple[Tensor, Pixels, Pixels | None, list[Future[None]]]] = deque()
        waiting = iter(positions)
        pool = ThreadPoolExecutor(self.workers, "decode")
        try:
            while True:
                while len(pending) < _AHEAD and (indices := next(waiting, None)) is not None:
                    pending.append(self._submit(pool, indices.cpu(), view, epoch))
                if not pending:
                    return
                indices, pixels, masks, tasks = pending.popleft()
                for task in tasks:
                    task.result()
                labels = None if self.labels is None else self.labels[indices]
                if masks is not None:
                    labels = torch.from_numpy(masks)
                images = torch.from_numpy(pixels)
                if self.device.type == "cuda":
                    images = images.pin_memory()
                images = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
                yield Batch(indices, images, None if labels is None else labels.to(self.device))
        finally:
            pool.shutdown(cancel_futures=True)

    def whole(self, position: int) -> tuple[Tensor, Tensor | None]:
        """Return one scaled image, uint8 [3, H, W], and its mask as it is in the file, uint8 [H', W']."""
        row = int(self._rows[position])
        mask = self._mask(row)
        pixels = torch.from_numpy(self._sample(row)[0]).permute(2, 0, 1)
        return pixels.to(self.device), None if mask is None else torch.from_numpy(np.array(mask)).to(self.device)

    def mask_pixels(self) -> Tensor:
        """Return pixels of each class in the masks, at the size of their files, int64 [K]."""
        kinds = len(self.classes)

        def count(row: int) -> NDArray[np.int64]:
            mask = np.array(self._mask(row)).ravel()
            return np.bincount(mask[mask != VOID], minlength=kinds)

        with ThreadPoolExecutor(self.workers, "decode") as pool:
            return torch.from_numpy(sum(pool.map(count, self._rows.tolist()), np.zeros(kinds, np.int64)))

    def loaded(self, side: int | None = None) -> MemorySet:
        """Return all images in memory, center crops of ``side`` (default: ``short_side``), on this set's device."""
        side = side or self.short_side
        if not side or self.masked:
            raise DataError("only a set of images without masks, scaled to a short side, can be loaded as a whole")
        parts = [batch.images for batch in self.batches(batch_indices(len(self), 256, shuffle=False), View(side))]
        labels = None if self.labels is None else self.labels.to(self.device)
        return MemorySet(torch.cat(parts).contiguous(), labels, self.classes)

    def statistics(self, most: int = 2000) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Return the mean and standard deviation of each channel, in [0, 1], over ``most`` images drawn with seed 0."""
        chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:most].tolist()
        with ThreadPoolExecutor(self.workers, "decode") as pool:
            samples = pool.map(self._sample, [int(self._rows[position]) for position in chosen])
            return _statistics(torch.from_numpy(pixels).permute(2, 0, 1)[None] for pixels, _ in samples)

    def _sample(self, row: int) -> tuple[Pixels, Pixels | None]:
        """Return the scaled image, [H, W, 3], and its mask scaled alike, [H, W]."""
        if row in self._cache:
            return self._cache[row]
        image, mask = self._open(row), self._mask(row)
        short_side = self.short_side
        if self.enlarge_to:
            short_side = min(short_side, max(self.enlarge_to, min(image.size)))
        if mask is not None and mask.size != image.size:
            raise DataError(
                f"the mask of {self._name(row)} is {mask.width} x {mask.height} pixels, the image "
                f"{image.width} x {image.height}: they must have the same size"
            )
        if short_side:
            scale = short_side / min(image.size)
            width, height = (max(short_side, round(side * scale)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            mask = mask and mask.resize((width, height), Image.Resampling.NEAREST)
        sample = np.array(image), None if mask is None else np.array(mask)
        size = sum(part.nbytes for part in sample if part is not None)
        if size <= self._memory[0]:
            self._memory[0] -= size
            self._cache[row] = sample
        return sample

    def _submit(
        self, pool: ThreadPoolExecutor, indices: Tensor, view: View, epoch: int
    ) -> tuple[Tensor, Pixels, Pixels | None, list[Future[None]]]:
        """Start a batch; the tasks fill the arrays, which are meant to be read once all are done."""
        count, side = len(indices), view.crop
        pixels = np.empty((count, side, side, 3), np.uint8)
        masks = np.empty((count, side, side), np.uint8) if self.masked else None
        draws = uniforms(view.seed, epoch, indices, 4).tolist()

        def fill(place: int, row: int) -> None:
            image, mask = self._sample(row)
            height, width = image.shape[:2]
            if side > min(height, width):
                raise DataError(
                    f"a crop of {side} does not fit {self._name(row)}, {width} x {height} pixels: "
                    "lower the crop or remove the image"
                )
            y, x, flip, zoom = draws[place]
            # Scale down by a random factor only where the image has pixels to spare.
            taken = side + int(zoom * (min(view.zoom * side, height, width) - side + 1)) if view.zoom > 1 else side
            top = int(y * (height - taken + 1)) if view.random else (height - side) // 2
            left = int(x * (width - taken + 1)) if view.random else (width - side) // 2
            step = -1 if view.flip and flip < 0.5 else 1
            crop = image[top : top + taken, left : left + taken][:, ::step]
            if taken > side:
                crop = np.array(Image.fromarray(crop).resize((side, side), Image.Resampling.BICUBIC))
            pixels[place] = crop
            if masks is not None and mask is not None:
                crop = mask[top : top + taken, left : left + taken][:, ::step]
                if taken > side:
                    crop = np.array(Image.fromarray(crop).resize((side, side), Image.Resampling.NEAREST))
                masks[place] = crop

        rows = self._rows_of(indices, side).tolist()
        return indices, pixels, masks, [pool.submit(fill, place, row) for place, row in enumerate(rows)]


ImageSet = MemorySet | StreamedSet


def batch_indices(count: int, batch: int, *, seed: int = 0, epoch: int = 0, shuffle: bool = True) -> list[Tensor]:
    """Cut an epoch over ``count`` samples into batches of positions, int64 [batch] each.

    Shuffled, the order depends on ``seed`` and ``epoch``, and samples that do not fill a batch sit the epoch
    out; unshuffled, the last batch is smaller.  Process r of p takes ``[r::p]``; one process that accumulates
    p batches then sees the same ones in each step.
    """
    if not shuffle:
        return list(torch.split(torch.arange(count), batch))
    if count < batch:
        raise DataError(f"{count} images do not fill a batch of {batch}: lower the batch or add images")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed(seed, epoch)))
    return list(torch.split(order[: count - count % batch], batch))


def balanced(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Return positions of ``per_class`` random samples of each class in ``labels``, int64 [N]; sorted, int64 [M]."""
    labels = labels.cpu()
    order = permutation(len(labels), seed, Draw.LABELED)
    parts = []
    for label in range(int(labels.max()) + 1):
        found = order[labels[order] == label][:per_class]
        if len(found) < per_class:
            raise DataError(f"class {label} has {len(found)} images, fewer than the requested {per_class}")
        parts.append(found)
    return torch.cat(parts).sort().values


def hold_out(count: int, held: int, seed: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cut ``held`` of ``count`` samples off for validation: sorted positions (left, held out), int64.

    With ``labels``, int64 [count], every class gives equally many.
    """
    if labels is not None:
        classes = int(labels.max()) + 1
        if held % classes:
            raise DataError(f"{held} images cannot be held out evenly from {classes} classes; use a multiple")
        apart = balanced(labels, held // classes, seed)
    elif held >= count:
        raise DataError(f"{held} of {count} images cannot be held out: none would remain to train on")
    else:
        apart = permutation(count, seed, Draw.HELD_OUT)[:held].sort().values
    kept = torch.ones(count, dtype=torch.bool)
    kept[apart] = False
    return kept.nonzero().flatten(), apart


def _places(view: View, epoch: int, indices: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the top and left of each crop, int64 [B], and whether it is mirrored, bool [B]."""
    draws = uniforms(view.seed, epoch, indices, 3)
    if view.random:
        top = (draws[:, 0] * (height - view.crop + 1)).long()
        left = (draws[:, 1] * (width - view.crop + 1)).long()
    else:
        top = torch.full_like(indices, (height - view.crop) // 2)
        left = torch.full_like(indices, (width - view.crop) // 2)
    return top, left, (draws[:, 2] < 0.5) & view.flip


def _statistics(parts: Iterator[Tensor]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the mean and standard deviation per channel of uint8 [N, 3, H, W] parts, in [0, 1]."""
    counts = torch.zeros(3, 256, dtype=torch.int64)
    for part in parts:
        for channel in range(3):
            counts[channel] += torch.bincount(part[:, channel].flatten(), minlength=256).cpu()
    values, weights = torch.arange(256, dtype=torch.float64) / 255, counts.double()
    weights /= weights.sum(1, keepdim=True)
    mean = weights @ values
    std = (weights @ values.square() - mean.square()).sqrt()
    (r, g, b), (r_, g_, b_) = mean.tolist(), std.tolist()
    return (r, g, b), (r_, g_, b_)
