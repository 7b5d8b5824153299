"""Photos as training data: any folder of images, cut into crops, augmented on the device."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from skipae.errors import SkipaeError
from skipae_train.corruption import blur

Pixels = NDArray[np.uint8]
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm"})


class DataError(SkipaeError, ValueError):
    """Training data that cannot be used; the message names the folder or file and the way out."""

    exit_code = 5


def find_images(folder: Path) -> list[Path]:
    """All image files below ``folder``, sorted by path, but for hidden ones.  Links to folders are not followed."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: --data takes a folder of images")
    found, folders = [], [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:  # which know what they are without a call: ImageNet has 1.3 million
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not entry.is_dir():
                    if not entry.is_file():
                        raise DataError(f"{entry.path} is a broken link, a pipe or a device: remove it")
                    found.append(Path(entry.path))
    found.sort()
    if not found:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is a system's own: ``._a.jpg``, ``.ipynb_checkpoints``, ``__MACOSX``."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def require_file(path: Path) -> None:
    """Raise :class:`DataError` for what is there and is no file: a pipe would be waited for without end."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a regular file: put the file in its place, or remove it")


def read_text(path: Path) -> str:
    """A list or description of a data set, in UTF-8."""
    require_file(path)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error}): save it in that encoding, or unpack the set again"
        ) from None


def open_rgb(file: Path | BinaryIO, name: object, short_side: int = 0) -> Image.Image:
    """Decode one image, RGB, upright.  A JPEG may come out smaller, its short side still >= ``short_side`` if > 0."""
    if isinstance(file, Path):
        require_file(file)
    try:
        with Image.open(file) as stored:
            if short_side:
                stored.draft("RGB", (short_side, short_side))
            image: Image.Image = ImageOps.exif_transpose(stored)
            if image.mode.startswith("I;16"):  # which convert would clip at 255
                image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
            return image.convert("RGB")
    except Exception as error:  # damaged files raise nearly anything
        raise DataError(f"{name} cannot be decoded ({error}): repair or remove it") from error


def load_rgb(path: Path) -> Pixels:
    """Decode one file, uint8 [H, W, 3], upright."""
    return np.array(open_rgb(path, path))


class Photos:
    """Random crops of the images below a folder.

    One file in ``hold_out`` is kept apart for validation (none if 0).  A checksum of its name decides, so that a
    file stays where it is when others are added, and copies of it in other folders go with it.  The decoded
    images stay in memory up to ``memory`` bytes; past that, files are decoded again each time they are drawn.

    A crop comes from an image with a probability proportional to the square root of its pixels, so that a
    few large photos do not drown many small ones.  What batch ``index`` holds depends on ``seed`` and
    ``index`` alone.
    """

    def __init__(self, folder: Path, *, seed: int = 0, hold_out: int = 50, memory: int = 6 << 30) -> None:
        files = find_images(folder)
        self.held_out = [f for f in files if hold_out and crc32(f.name.encode()) % hold_out == 0]
        self.files = [f for f in files if f not in set(self.held_out)]
        if not self.files:
            raise DataError(f"{folder} holds {len(files)} image(s), too few to keep one of {hold_out} apart")
        self.seed = seed
        self._pool = ThreadPoolExecutor(2, "photos")
        self._ahead: dict[tuple[int, int, int], Future[Tensor]] = {}
        self._images: dict[int, Pixels] = {}
        self.sizes: list[tuple[int, int]] = []
        for number, pixels in enumerate(self._pool.map(load_rgb, self.files)):
            self.sizes.append((pixels.shape[0], pixels.shape[1]))
            memory -= pixels.nbytes
            if memory >= 0:
                self._images[number] = pixels

    def crops(self, index: int, count: int, side: int) -> Tensor:
        """Batch number ``index``: uint8 [count, 3, side, side]; the next one is prepared meanwhile."""
        batch = self._ahead.pop((index, count, side), None)
        self._ahead = {(index + 1, count, side): self._pool.submit(self._crops, index + 1, count, side)}
        return batch.result() if batch else self._crops(index, count, side)

    def _crops(self, index: int, count: int, side: int) -> Tensor:
        weights = np.array([(h * w) ** 0.5 if min(h, w) >= side else 0.0 for h, w in self.sizes])
        if not weights.any():
            raise DataError(f"no image is at least {side} x {side} pixels: lower the crop or add larger photos")
        rng = np.random.default_rng([self.seed, index])
        batch = torch.empty(count, 3, side, side, dtype=torch.uint8)
        for crop, number in zip(batch, rng.choice(len(weights), count, p=weights / weights.sum()), strict=True):
            pixels = self._images.get(number)
            if pixels is None:
                pixels = load_rgb(self.files[number])
            top, left = rng.integers(0, [pixels.shape[0] - side + 1, pixels.shape[1] - side + 1])
            window = pixels[top : top + side, left : left + side]
            crop.copy_(torch.from_numpy(window).permute(2, 0, 1))  # (H, W, C) -> (C, H, W)
        return batch

    def validation(self, side: int, most: int) -> Tensor:
        """Center crops of the held-out images, uint8 [<= most, 3, side, side]; small images are left out."""
        crops: list[Tensor] = []
        for file in self.held_out:
            pixels = load_rgb(file)
            top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
            if min(top, left) >= 0 and len(crops) < most:
                crops.append(torch.from_numpy(pixels[top : top + side, left : left + side].copy()))
        if not crops:
            return torch.empty(0, 3, side, side, dtype=torch.uint8)
        return torch.stack(crops).permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)


def augment_photos(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flips, quarter turns, changes of color, contrast, exposure and sharpness, per sample.

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
