"""Corruptions for denoising auto-encoders, on the device, drawn for every sample (section 3.2).

Every corruption is a frozen dataclass that is called with clean images and a generator:

    corrupted = GaussianNoise(sigma=(30, 30))(clean, generator)

``clean`` is float32 [N, 3, H, W], RGB in [0, 1]; the result has the same shape, type and units.  Noise
levels are standard deviations in 8-bit gray levels.  All randomness comes from ``generator``, which lives
on the device of ``clean``, so that a seed gives the same corruption again.  The paper's corruptions also take a
:class:`skipae_train.rng.SampleRandom`, whose numbers do not depend on how samples are grouped into batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from skipae_train.rng import SampleRandom

Color = tuple[float, float, float]


class Corruption(Protocol):
    """The interface that the training loop calls."""

    def __call__(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Corrupt float32 [N, 3, H, W] in [0, 1]."""
        ...


Random = torch.Generator | SampleRandom


def uniform(clean: Tensor, low: float, high: float, generator: Random) -> Tensor:
    """Return one number in [low, high) per sample, as float32 [N, 1, 1, 1]."""
    if isinstance(generator, SampleRandom):
        return low + (high - low) * generator.rand(1, 1, 1)
    return low + (high - low) * torch.rand(len(clean), 1, 1, 1, generator=generator, device=clean.device)


def chance(clean: Tensor, probability: float, generator: Random) -> Tensor:
    """Return True with the given probability per sample, as bool [N, 1, 1, 1]."""
    return uniform(clean, 0, 1, generator) < probability


def normal_like(clean: Tensor, generator: Random) -> Tensor:
    """Return standard normal noise in the shape of ``clean``."""
    if isinstance(generator, SampleRandom):
        return generator.randn(*clean.shape[1:])
    return torch.randn(clean.shape, generator=generator, device=clean.device)


def as_file(image: Tensor) -> Tensor:
    """Clip to [0, 1] and round to 8 bits, as any PNG does."""
    return (image * 255).round().clamp(0, 255) / 255


@dataclass(frozen=True)
class GaussianNoise:
    """Additive white Gaussian noise per pixel and channel.  The paper: sigma = 30, never clipped."""

    sigma: tuple[float, float] = (30.0, 30.0)
    """Range in 8-bit gray levels from which each sample draws its own."""
    as_file: float = 0.0
    """Share of the samples that are clipped to [0, 1] and rounded to 8 bits afterwards."""

    def __call__(self, clean: Tensor, generator: Random) -> Tensor:
        """Add the noise."""
        noisy = clean + uniform(clean, *self.sigma, generator) / 255 * normal_like(clean, generator)
        if not self.as_file:
            return noisy
        return torch.where(chance(clean, self.as_file, generator), as_file(noisy), noisy)


@dataclass(frozen=True)
class BlockMask:
    """Masking noise: square blocks set to the fill color (section 3.2, figure 2).

    ``big`` is one square of half the image's side at a random place.  ``small`` is squares with sides from
    1/8 to 1/4 of the image's, until a quarter of the pixels is covered.  Sizes are our decision, the paper
    gives none.
    """

    kind: Literal["big", "small"] = "small"
    fill: Color = (0.5, 0.5, 0.5)
    """The mean color of the data, so that it is 0 after zero-centering."""
    coverage: float | tuple[float, float] = 0.25
    """Share of the pixels that small blocks cover, or a range from which each sample draws its own."""

    def __call__(self, clean: Tensor, generator: Random) -> Tensor:
        """Fill the blocks."""
        return fill_mask(clean, self.mask(clean, generator), self.fill)

    def mask(self, clean: Tensor, generator: Random) -> Tensor:
        """Return True where pixels are to be filled, bool [N, 1, H, W]."""
        side = min(clean.shape[-2:])
        if self.kind == "big":
            return random_blocks(clean, max(1, side // 2), max(1, side // 2), 1, 1.0, generator)
        share = self.coverage
        coverage = uniform(clean, *share, generator)[:, 0] if isinstance(share, tuple) else share
        return random_blocks(clean, max(1, side // 8), max(1, side // 4), 64, coverage, generator)


def fill_mask(clean: Tensor, mask: Tensor, fill: Color) -> Tensor:
    """Return ``clean`` with the fill color where ``mask``, bool [N, 1, H, W], is true."""
    return torch.where(mask, torch.tensor(fill, device=clean.device).view(1, 3, 1, 1), clean)


def random_blocks(
    clean: Tensor, smallest: int, largest: int, most: int, coverage: float | Tensor, generator: Random
) -> Tensor:
    """Return random squares, added per sample until ``coverage``, or its own, [N, 1, 1], is reached
    or ``most`` are drawn.
    """
    n, _, height, width = clean.shape
    rows = torch.arange(height, device=clean.device).view(1, height, 1)
    columns = torch.arange(width, device=clean.device).view(1, 1, width)
    covered = torch.zeros(n, height, width, dtype=torch.bool, device=clean.device)
    if isinstance(generator, SampleRandom):
        draws = generator.rand(most, 3, 1, 1).movedim(0, 2)
    else:
        draws = torch.rand(most, 3, n, 1, 1, generator=generator, device=clean.device)
    for size, y, x in draws:
        size = (smallest + size * (largest - smallest + 1)).floor()
        top, left = (y * (height - size + 1)).floor(), (x * (width - size + 1)).floor()
        block = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
        open_ = covered.float().mean((1, 2), keepdim=True) < coverage
        if not bool(open_.any()):
            break
        covered |= block & open_
    return covered[:, None]


def blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Return a Gaussian blur with a sigma in pixels per sample, [N, 1, 1, 1], cut off at 3 pixels."""
    n, channels, height, width = image.shape
    taps = torch.arange(-3, 4, device=image.device, dtype=torch.float32)
    kernel = torch.softmax(-(taps**2) / (2 * sigma.view(n, 1) ** 2), 1).repeat_interleave(channels, 0)
    flat = F.pad(image, (3, 3, 3, 3), mode="reflect").reshape(1, n * channels, height + 6, width + 6)
    flat = F.conv2d(flat, kernel.view(-1, 1, 7, 1), groups=n * channels)
    flat = F.conv2d(flat, kernel.view(-1, 1, 1, 7), groups=n * channels)
    return flat.view(n, channels, height, width)


# Tables K.1 and K.2 of ITU-T T.81, scaled by quality as libjpeg does.
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *[99] * 32,
)  # fmt: skip


def jpeg(image: Tensor, quality: Tensor, subsample: Tensor) -> Tensor:
    """Return the pixels after JPEG compression.

    Args:
        image: float32 [N, 3, H, W] in [0, 1].
        quality: libjpeg's 1 to 100, one per sample, [N, 1, 1, 1].
        subsample: bool [N, 1, 1, 1], true for chroma at half resolution (4:2:0), false for 4:4:4.
    """
    height, width = image.shape[-2:]
    down, right = -height % 16, -width % 16
    x = F.pad(as_file(image) * 255, (0, right, 0, down), mode="replicate")
    r, g, b = x.unbind(1)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    chroma = torch.stack([(b - y) / 1.772, (r - y) / 1.402], 1)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    half = F.interpolate(_quantize(F.avg_pool2d(chroma, 2), _CHROMA, scale), scale_factor=2.0, mode="bilinear")
    chroma = torch.where(subsample, half, _quantize(chroma, _CHROMA, scale))
    y = _quantize(y[:, None] - 128, _LUMA, scale)[:, 0] + 128
    cb, cr = chroma.unbind(1)
    r, b = y + 1.402 * cr, y + 1.772 * cb
    g = (y - 0.299 * r - 0.114 * b) / 0.587
    return as_file(torch.stack([r, g, b], 1)[..., :height, :width] / 255)


@cache
def _dct_matrix() -> Tensor:
    """Return the orthonormal 8-point DCT-II, [frequency, sample]."""
    k, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    matrix = torch.cos((2 * x + 1) * k * torch.pi / 16) / 2
    matrix[0] /= 2**0.5
    return matrix


def _quantize(planes: Tensor, table: tuple[int, ...], scale: Tensor) -> Tensor:
    """Return the DCT of 8x8 blocks, rounded to the quantization table, and back."""
    n, channels, height, width = planes.shape
    dct = _dct_matrix().to(planes.device)
    step = torch.tensor(table, dtype=torch.float32, device=planes.device).view(1, 8, 8)
    step = ((step * scale.view(n, 1, 1) + 50) / 100).floor().clamp(1, 255).view(n, 1, 1, 1, 8, 8)
    blocks = planes.view(n, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    blocks = dct.T @ ((dct @ blocks @ dct.T / step).round() * step) @ dct
    return blocks.transpose(3, 4).reshape(n, channels, height, width)
