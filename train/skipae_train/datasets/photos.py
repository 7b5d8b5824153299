"""Photos as training data: random crops of any folder of images, augmented on the device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipae_train.corruption import blur
from skipae_train.data import DataError, find_images, load_rgb
from skipae_train.datasets.folders import FileSet
from skipae_train.rng import Draw, derive_seed, uniforms


class Photos(FileSet):
    """Images below a folder at their own sizes, drawn at random with replacement.

    The samples are numbered without end: a hash of the number chooses the image, with a probability proportional to
    the square root of its pixels, so that a few large photos do not drown many small ones.  Images smaller than the
    crop are never drawn.

    One file in ``hold_out`` is kept apart for validation (none if 0).  A checksum of its name decides, so that a
    file stays where it is when others are added, and copies of it in other folders go with it.  The decoded
    images stay in memory up to ``memory`` bytes; past that, files are decoded again each time they are drawn.
    """

    def __init__(self, folder: Path, *, seed: int = 0, hold_out: int = 50, memory: int = 6 << 30) -> None:
        files = find_images(folder)
        self.held_out = [f for f in files if hold_out and crc32(f.name.encode()) % hold_out == 0]
        kept = [f for f in files if f not in set(self.held_out)]
        if not kept:
            raise DataError(
                f"{folder} contains {len(files)} image(s), too few to hold out one of {hold_out}: add images"
            )
        super().__init__(kept, None, (), short_side=0, memory=memory)
        self.seed = derive_seed(seed, Draw.PHOTOS)
        with ThreadPoolExecutor(self.workers, "decode") as pool:  # also finds damaged files before the first step
            self.sizes = list(pool.map(lambda row: self._sample(row)[0].shape[:2], range(len(kept))))
        self._shares: dict[int, NDArray[np.float64]] = {}

    def validation(self, side: int, most: int) -> Tensor:
        """Return center crops of the held-out images, uint8 [<= most, 3, side, side]; small images are left out."""
        crops: list[Tensor] = []
        for file in self.held_out:
            pixels = load_rgb(file)
            top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
            if min(top, left) >= 0 and len(crops) < most:
                crops.append(torch.from_numpy(pixels[top : top + side, left : left + side].copy()))
        if not crops:
            return torch.empty(0, 3, side, side, dtype=torch.uint8)
        return torch.stack(crops).permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)

    def _rows_of(self, indices: Tensor, side: int) -> NDArray[np.int64]:
        if side not in self._shares:
            weights = np.array([(h * w) ** 0.5 if min(h, w) >= side else 0.0 for h, w in self.sizes])
            if not weights.any():
                raise DataError(f"no image is at least {side} x {side} pixels: lower the crop or add larger photos")
            self._shares[side] = weights.cumsum() / weights.sum()
        draws = uniforms(self.seed, 0, indices, 1)[:, 0].numpy()
        return np.searchsorted(self._shares[side], draws, side="right")


def augment_photos(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply flips, quarter turns and changes of color, contrast, exposure and sharpness, per sample.

    Takes and returns float32 [N, 3, S, S], RGB in [0, 1].  Saturation is raised more often than lowered:
    common photo collections are pale, and a denoiser trained on them alone fails on strong colors.  A quarter
    is blurred a little: a camera's own pixels are softer than photos that were shrunk for collections.
    """

    def draw(low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)

    images = torch.where(draw() < 0.5, images.flip(-1), images)
    images = torch.where(draw() < 0.5, images.flip(-2), images)
    images = torch.where(draw() < 0.5, images.transpose(-1, -2), images)
    images = torch.where(draw() < 0.25, blur(images, draw(0.5, 1.5)), images)
    gray = images.mean(1, keepdim=True)
    saturation = torch.where(draw() < 0.5, draw(0.6, 2.4), 1.0)
    saturation = torch.where(draw() < 0.05, 0.0, saturation)
    changed = gray + (images - gray) * saturation
    changed = torch.where(draw() < 0.2, changed.flip(1), changed)  # RGB -> BGR
    level = changed.mean((1, 2, 3), keepdim=True)
    contrast = torch.where(draw() < 0.4, draw(0.6, 1.5), 1.0)
    shift = torch.where(draw() < 0.3, draw(-0.15, 0.15), 0.0)
    changed = (level + (changed - level) * contrast + shift).clamp(0, 1)
    return changed * torch.where(draw() < 0.12, draw(0.15, 0.7), 1.0)  # low light: 1 to 6 stops less
