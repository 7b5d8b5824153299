"""Damage of users' photos: noise of all kinds, JPEG, holes (the recipe ``natural``)."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from skipae_train.camera_noise import CameraNoise, gray_photos, jpeg_file
from skipae_train.corruption import Color, as_file, chance, fill_mask, normal_like, random_blocks, uniform


@dataclass(frozen=True)
class PhotoDamage:
    """Damage of a user's photo: noise as in files, JPEG, and holes (recipe ``natural``).

    Each sample draws one noise (white Gaussian, signal-dependent, or :class:`CameraNoise`), may then be
    clipped and rounded to 8 bits, may be compressed as JPEG, and may lose pixels to blocks, strokes or text.
    Gray photos get equal noise in all channels for the most part.
    """

    sigma: tuple[float, float] = (0.0, 55.0)
    gaussian: float = 0.63
    """Share of samples with white Gaussian noise."""
    camera: float = 0.27
    """Share with camera noise, which has its own JPEG compression; the rest has signal-dependent (Poisson and
    Gaussian) noise."""
    unclipped: float = 0.15
    """Share, among those with Gaussian noise, that is neither clipped nor rounded nor compressed."""
    jpeg: float = 0.15
    """Share of the Gaussian and signal-dependent samples compressed with a quality of 70 to 95."""
    masked: float = 0.1
    """Share with holes."""
    quiet: float = 0.5
    """Share of the masked samples that have no noise."""
    fill: Color = (0.5, 0.5, 0.5)

    def __call__(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Damage the photos."""
        kind = uniform(clean, 0, 1, generator)
        is_gaussian, is_camera = kind < self.gaussian, kind >= 1 - self.camera
        masked = chance(clean, self.masked, generator)
        quiet = masked & chance(clean, self.quiet, generator)
        sigma = uniform(clean, *self.sigma, generator) / 255
        # Poisson: the given sigma is that of mid-gray; read noise is a fifth of it.
        signal = torch.where(is_gaussian, 1.0, (1.92 * clean.clamp(0, 1) + 0.04).sqrt())
        noisy = clean + sigma * signal * normal_like(clean, generator)
        noisy = torch.where(gray_photos(clean, generator), noisy[:, 1:2], noisy)
        rows = is_camera.flatten().nonzero().flatten()
        if len(rows):
            noisy[rows] = CameraNoise()(clean[rows], generator)
        noisy = torch.where(quiet, clean, noisy)
        noisy = torch.where(is_gaussian & chance(clean, self.unclipped, generator), noisy, as_file(noisy))
        compressed = chance(clean, self.jpeg, generator) & ~(
            is_gaussian & (noisy != as_file(noisy)).any((1, 2, 3), True)
        )
        rows = (compressed & ~is_camera).flatten().nonzero().flatten()
        if len(rows):
            noisy[rows] = jpeg_file(noisy[rows], (70, 95), 0.6, generator)
        rows = masked.flatten().nonzero().flatten()
        if len(rows):
            noisy[rows] = fill_mask(noisy[rows], self._mask(noisy[rows], generator), self.fill)
        return noisy

    @staticmethod
    def _mask(image: Tensor, generator: torch.Generator) -> Tensor:
        """Return blocks of 4 to 32 pixels, strokes or text, a third each."""
        kind = uniform(image, 0, 3, generator)
        coverage = 0.05 + 0.2 * float(torch.rand(1, generator=generator, device=image.device))
        blocks = random_blocks(image, 4, min(32, *image.shape[-2:]), 48, coverage, generator)
        return torch.where(kind < 1, blocks, torch.where(kind < 2, _strokes(image, generator), _text(image, generator)))


def _strokes(clean: Tensor, generator: torch.Generator, most: int = 6) -> Tensor:
    """Return straight scratches 2 to 8 pixels wide, one to ``most`` of them, as bool [N, 1, H, W]."""
    n, _, height, width = clean.shape
    y = torch.arange(height, device=clean.device, dtype=torch.float32).view(1, 1, height, 1)
    x = torch.arange(width, device=clean.device, dtype=torch.float32).view(1, 1, 1, width)
    draw = torch.rand(6, n, most, 1, 1, generator=generator, device=clean.device)
    (y0, x0), (y1, x1) = draw[:2] * 1.2 - 0.1, draw[2:4] * 1.2 - 0.1
    y0, y1, x0, x1 = y0 * height, y1 * height, x0 * width, x1 * width
    half_width = 1 + 3 * draw[4]
    dy, dx = y1 - y0, x1 - x0
    along = ((y - y0) * dy + (x - x0) * dx) / (dy * dy + dx * dx + 1e-6)
    along = along.clamp(0, 1)
    distance: Tensor = ((y - y0 - along * dy) ** 2 + (x - x0 - along * dx) ** 2).sqrt()
    used = torch.arange(most, device=clean.device).view(1, most, 1, 1) < 1 + draw[5, :, :1] * (most - 1)
    stroke: Tensor = (distance < half_width) & used
    return stroke.any(1, keepdim=True)


@cache
def _text_atlas(pages: int = 32, side: int = 384) -> Tensor:
    """Return pages of random text in sizes from 10 to 40 pixels, as bool [pages, side, side]; always the same ones."""
    rng = np.random.default_rng(0)
    letters = list(string.ascii_letters + string.digits + "     .,:;!?()&%$@#/-")
    atlas = np.zeros((pages, side, side), bool)
    for page in atlas:
        canvas = Image.new("L", (side, side))
        draw = ImageDraw.Draw(canvas)
        size = int(rng.integers(10, 41))
        font = ImageFont.load_default(size)
        y = -int(rng.integers(0, size))
        while y < side:
            line = "".join(rng.choice(letters, 2 * side // size + 8))
            draw.text((-int(rng.integers(0, size)), y), line, fill=255, font=font, stroke_width=int(rng.integers(0, 2)))
            y += int(size * rng.uniform(1.1, 3.0))
        page[:] = np.asarray(canvas) > 127
    return torch.from_numpy(atlas)


def _text(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Return text, cut from the atlas at a random place, as bool [N, 1, H, W]."""
    n, _, height, width = clean.shape
    atlas = _text_atlas().to(clean.device)
    pages, side, _ = atlas.shape
    draw = torch.rand(3, n, 1, 1, generator=generator, device=clean.device)
    page = (draw[0] * pages).long()
    rows = (torch.arange(height, device=clean.device).view(1, height, 1) + (draw[1] * side).long()) % side
    columns = (torch.arange(width, device=clean.device).view(1, 1, width) + (draw[2] * side).long()) % side
    return atlas[page, rows, columns][:, None]
