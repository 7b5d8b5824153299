"""Camera noise: noise of the sensor, changed by the camera's software.

    noisy = CameraNoise()(clean, generator)

Clean photos are taken back to linear sensor values, noise is added there, and the noisy values go through a camera's
pipeline: demosaicing, white balance, color matrix, tone curve, noise reduction, sharpening, resizing, JPEG.  The clean
values skip demosaicing and everything after the tone curve, so the result differs from ``clean`` in noise (and JPEG
artifacts) alone, and ``clean`` stays the target.

Ranges and their sources:

* Variance ``a x + b`` at a photosite, ``x`` linear in [0, 1]: ``a`` log-uniform from 2e-5 to 3e-2,
  ``log10 b = -1.6 + 1.24 log10 a`` +- 0.46.  The ends of ``a`` are an ISO-100 camera and a phone at ISO 6400 (SIDD's
  noise level functions end with 2.0e-2 at ISO 3200), slope and spread of ``b`` those of darktable's profiles of 374
  cameras.  At ``x = 0.2`` this is 0.5 to 20 gray levels of sRGB, evenly over their logarithm.
* Color matrices, white balance, tone curve: Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR 2019);
  its four cameras' matrices, mixed at random.  Red and blue gains are widened to 1.2 to 2.6 (tungsten to shade).
* Demosaicing: bilinear; Malvar, He, Cutler, "High-quality linear interpolation" (ICASSP 2004); Hamilton, Adams (US
  patent 5,629,734), which follows the smaller gradient and so leaves short strokes; none, as in photos shrunk a lot.
* Noise reduction: luma and chroma apart, chroma more strongly and over larger distances, less near edges, tuned so
  that luma and chroma correlate over 1 to 4 pixels as in real pairs (PolyU's photos, phone photos shrunk by SIDD's
  authors).  Blotches: a camera cannot take away what is wider than its filters, and the eye sees it in dark areas.
* Shadows: in real pairs noise neither brightens nor darkens them (what is darker than 32 gray levels: by 0.1 in PolyU
  and -0.1 in RENOIR, medians), and it fades toward black.  A gamma curve alone would brighten them by 1 to 4 gray
  levels, since it is steep at black and cuts off what is darker; a network trained on that darkens them.
* Sharpening of all channels by the user's software, after resizing: it makes the noise of neighbors differ.

``python benchmarks/noise_statistics.py NAME=FOLDER`` compares the result with real pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from skipae_train.corruption import as_file, blur, chance, jpeg, normal_like, uniform

_XYZ_TO_CAMERA = (
    ((1.0234, -0.2969, -0.2266), (-0.5625, 1.6328, -0.0469), (-0.0703, 0.2188, 0.6406)),
    ((0.4913, -0.0541, -0.0202), (-0.613, 1.3513, 0.2906), (-0.1564, 0.2151, 0.7183)),
    ((0.838, -0.263, -0.0639), (-0.2887, 1.0725, 0.2496), (-0.0627, 0.1427, 0.5438)),
    ((0.6596, -0.2079, -0.0562), (-0.4782, 1.3016, 0.1933), (-0.097, 0.1581, 0.5181)),
)
_RGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.072175), (0.0193339, 0.119192, 0.9503041))
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class CameraNoise:
    """Noise of a random camera for every sample; the result is clipped and rounded to 8 bits."""

    gain: tuple[float, float] = (2e-5, 3e-2)
    """Range of ``a``, the variance per unit of linear signal, drawn log-uniformly."""
    per_pixel: float = 0.2
    """Share without demosaicing; the rest is bilinear, Malvar and Hamilton-Adams in equal parts."""
    reduced: float = 0.8
    """Share with noise reduction in the camera; 0.4 of these are sharpened afterwards."""
    resized: float = 0.25
    """Share shrunk by 0.5 to 1, the same factor for one batch."""
    symmetric: float = 0.6
    """Share whose mean the tone curve does not change, as after noise reduction in linear light."""
    toe: tuple[float, float] = (0.0, 16.0)
    """Range of the gray level at which the tone curve's flat start halves the noise; there is none at black."""
    blotched: float = 0.45
    """Share with wide spots of color, and faint ones of brightness, mostly in dark areas."""
    sharpened: float = 0.25
    """Share whose channels are sharpened at the end, as editors do."""
    jpeg: float = 0.6
    """Share compressed as JPEG."""
    quality: tuple[int, int] = (50, 98)
    """Range of the JPEG quality, ends included; half is 4:2:0, half 4:4:4."""

    def __call__(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Add the noise."""
        noisy = clean.clamp(0, 1)
        shrunk = chance(clean, self.resized, generator).flatten()
        factor = 1 / float(0.5 + 0.5 * torch.rand(1, generator=generator, device=clean.device))
        for rows, scale in ((~shrunk).nonzero().flatten(), 1.0), (shrunk.nonzero().flatten(), factor):
            if len(rows):
                noisy[rows] = noisy[rows] + self._noise(noisy[rows], scale, generator)
        rows = chance(clean, self.sharpened, generator).flatten().nonzero().flatten()
        if len(rows):
            noise = noisy[rows] - clean[rows].clamp(0, 1)
            noisy[rows] += _detail(noise, 0.4, 1.2, generator) * uniform(noise, 0.1, 1.0, generator)
        gray = gray_photos(clean, generator)
        noisy = as_file(torch.where(gray, _luma(noisy).expand_as(noisy), noisy))
        rows = chance(clean, self.jpeg, generator).flatten().nonzero().flatten()
        if len(rows):
            noisy[rows] = jpeg_file(noisy[rows], self.quality, 0.5, generator)
        return noisy

    def _noise(self, clean: Tensor, scale: float, generator: torch.Generator) -> Tensor:
        """Return the noise to add to ``clean`` if the camera's pixels are ``scale`` times as fine."""
        size = (clean.shape[-2], clean.shape[-1])
        if scale != 1:
            clean = F.interpolate(clean, scale_factor=scale, mode="bilinear")
        kind = uniform(clean, 0, 1, generator).flatten()
        noise = self._developed(clean, kind, generator)
        # Where a photo was shrunk a lot, the noise is white even if it was reduced before, so seldom again.
        reduced = chance(clean, self.reduced, generator).flatten()
        reduced &= (kind >= self.per_pixel) | chance(clean, 0.15, generator).flatten()
        rows = reduced.nonzero().flatten()
        if len(rows):
            noise[rows] = _reduce(noise[rows], clean[rows], generator)
        noise = noise * _by_brightness(clean, generator)
        rows = (chance(clean, self.blotched, generator).flatten() & (kind >= self.per_pixel)).nonzero().flatten()
        if len(rows):
            noise[rows] += _blotches(noise[rows], clean[rows], generator)
        noise = noise * clean / (clean + uniform(clean, *self.toe, generator) / 255 + 1e-4)
        if scale != 1:
            antialias = bool(torch.rand(1, generator=generator, device=clean.device) < 0.7)
            noise = F.interpolate(noise, size, mode="bilinear", antialias=antialias)
        return noise

    def _developed(self, clean: Tensor, kind: Tensor, generator: torch.Generator) -> Tensor:
        """Return the noise after the tone curve; ``kind``, [N] in [0, 1), chooses the demosaicing."""
        n = len(clean)
        one = torch.ones(n, 1, 1, 1, device=clean.device)
        balance = torch.cat([uniform(clean, 1.2, 2.6, generator), one, uniform(clean, 1.2, 2.6, generator)], 1)
        to_camera = torch.eye(3, device=clean.device).lerp(
            _color_matrices(n, generator, clean.device), uniform(clean, 0, 1, generator)[..., 0]
        )  # many cameras correct colors by less where there is noise
        contrast = uniform(clean, 1.0, 1.5, generator)
        raw = (_times(to_camera, _untoned(clean, contrast)) / balance).clamp(0, 1)
        gain = uniform(clean, log(self.gain[0]), log(self.gain[1]), generator).exp()
        spread = torch.randn(n, 1, 1, 1, generator=generator, device=clean.device)
        floor = 10 ** (-1.6 + 1.24 * gain.log10() + 0.46 * spread)
        deviation = (gain * raw + floor).sqrt()
        normal = normal_like(clean, generator)
        # Skewed as a Poisson variable's: its third cumulant is a^2 x.
        skew = (gain * gain * raw / deviation**3).clamp(max=1)
        noise = deviation * (normal + skew / 6 * (normal * normal - 1))
        masks = _bayer(clean, generator)
        limits = [self.per_pixel + (1 - self.per_pixel) * k / 3 for k in range(4)]
        for low, high, demosaic in zip(limits[:-1], limits[1:], (_bilinear, _malvar, _hamilton_adams), strict=True):
            rows = ((kind >= low) & (kind < high)).nonzero().flatten()
            if len(rows):
                noise[rows] = demosaic(noise[rows], masks[rows])
        to_rgb = torch.linalg.inv(to_camera)
        before = _times(to_rgb, raw * balance)  # not always clean: raw was clipped at 0 and 1
        change = _times(to_rgb, noise * balance)
        brighter = _toned(before + change, contrast) - _toned(before, contrast)
        darker = _toned(before - change, contrast) - _toned(before, contrast)
        return torch.where(chance(clean, self.symmetric, generator), (brighter - darker) / 2, brighter)


def gray_photos(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Return which samples get equal noise in all channels, bool [N, 1, 1, 1]: 0.7 of those with equal channels.

    The others are scans, and prints that were photographed.
    """
    gray = (clean == clean[:, :1]).flatten(1).all(1).view(-1, 1, 1, 1)
    return gray & chance(clean, 0.7, generator)


def jpeg_file(image: Tensor, quality: tuple[int, int], subsampled: float, generator: torch.Generator) -> Tensor:
    """Compress as JPEG with the 8x8 grid at a random place, the same for the batch.

    Args:
        image: float32 [N, 3, H, W] in [0, 1].
        quality: range from which each sample draws its own, ends included.
        subsampled: share with chroma at half resolution.
        generator: source of all that is random.
    """
    drawn = uniform(image, quality[0], quality[1] + 1, generator).floor()
    subsample = chance(image, subsampled, generator)
    top, left = (torch.rand(2, generator=generator, device=image.device) * 16).long().tolist()
    padded = F.pad(image, (left, 0, top, 0), mode="replicate")
    return jpeg(padded, drawn, subsample)[..., top:, left:]


def _reduce(noise: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
    """Return the noise after reduction and sharpening in the camera."""
    luma = _luma(noise)
    chroma = torch.cat([noise[:, :1] - luma, noise[:, 2:] - luma], 1)
    # Near edges less is taken away: half where the brightness changes by as much as the noise does.
    level = luma.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-4
    brightness = _luma(clean)
    local = F.avg_pool2d(
        (brightness - blur(brightness, torch.ones_like(level))).abs(), 3, 1, 1, count_include_pad=False
    )
    edge = local / (local + level)
    smooth = blur(luma, uniform(noise, 0.4, 2.6, generator))
    fine = luma - smooth
    threshold = torch.where(chance(noise, 0.3, generator), uniform(noise, 0, 1.5, generator), 0) * level
    cored = fine.sign() * (fine.abs() - threshold).clamp(min=0)  # as wavelet thresholds do: specks stay
    luma = smooth + cored.lerp(fine, edge) * uniform(noise, 0.0, 0.7, generator).lerp(torch.ones_like(edge), 0.5 * edge)
    half = _coarse(chroma, 2, uniform(noise, 0.3, 2.5, generator))
    quarter = _coarse(chroma, 4, uniform(noise, 0.6, 3.0, generator))
    coarse = torch.where(chance(noise, 0.85, generator), quarter, half)
    left = torch.where(chance(noise, 0.85, generator), 0.04, 0.4) * uniform(noise, 0, 1, generator)
    chroma = coarse * uniform(noise, 0.2, 1.2, generator) + (chroma - coarse) * left
    sharpened = luma + _detail(luma, 0.6, 2.0, generator) * uniform(noise, 0.2, 1.4, generator)
    luma = torch.where(chance(noise, 0.4, generator), sharpened, luma)
    return _from_luma(luma, chroma)


def _by_brightness(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Return factors on the noise, [N, 1, H, W]: tone mapping and noise reduction that depend on the brightness."""
    angle = torch.pi * _luma(clean)
    slope, bend = uniform(clean, -1.2, 1.2, generator), uniform(clean, -0.7, 0.3, generator)
    return (slope * angle.cos() + bend * (2 * angle).cos()).exp()


def _blotches(noise: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
    """Return spots 8 to 40 pixels wide, of 0.05 to 0.7 of the noise's amplitude, fewer where it is bright."""
    n, _, height, width = noise.shape
    by = 4 if torch.rand(1, generator=generator, device=noise.device) < 0.5 else 8
    draw = torch.randn(n, 3, height // by + 4, width // by + 4, generator=generator, device=noise.device)
    spots = blur(draw, uniform(noise, 0.5, 1.3, generator))
    spots = spots / spots.square().mean((1, 2, 3), keepdim=True).sqrt()
    top, left = (torch.rand(2, generator=generator, device=noise.device) * by).long().tolist()
    spots = F.interpolate(spots, scale_factor=float(by), mode="bicubic")
    spots = spots[..., by + top : by + top + height, by + left : by + left + width]
    level = noise.square().mean((1, 2, 3), keepdim=True).sqrt()
    dark = (1 - _luma(clean)).square()
    faint = spots[:, :1] * uniform(noise, 0, 2.2, generator)
    return _from_luma(faint, spots[:, 1:]) * dark * level * uniform(noise, 0.05, 0.7, generator)


def _detail(planes: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return what a blur of ``low`` to ``high`` pixels takes away."""
    return planes - blur(planes, uniform(planes, low, high, generator))


def _from_luma(luma: Tensor, chroma: Tensor) -> Tensor:
    """Return the RGB image of luma, [N, 1, H, W], and the differences of red and blue from it, [N, 2, H, W]."""
    red, blue = (chroma + luma).chunk(2, 1)
    green = (luma - LUMA[0] * red - LUMA[2] * blue) / LUMA[1]
    return torch.cat([red, green, blue], 1)


def _coarse(planes: Tensor, by: int, sigma: Tensor) -> Tensor:
    """Return ``planes`` blurred by ``sigma`` at a resolution lower by a factor."""
    low = F.avg_pool2d(planes, by, ceil_mode=True, count_include_pad=False)
    return F.interpolate(blur(low, sigma), planes.shape[-2:], mode="bilinear")


def _luma(image: Tensor) -> Tensor:
    """Return the luma, [N, 1, H, W]; of equal channels exactly their value."""
    red, green, blue = image.chunk(3, 1)
    return green + LUMA[0] * (red - green) + LUMA[2] * (blue - green)


def _times(matrices: Tensor, image: Tensor) -> Tensor:
    """Multiply each pixel by its sample's matrix, [N, 3, 3]."""
    return (matrices @ image.flatten(2)).view_as(image)


def _color_matrices(n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return the matrices from linear sRGB to camera colors, [N, 3, 3], rows that add up to 1."""
    weights = torch.rand(n, 4, generator=generator, device=device)
    cameras = torch.tensor(_XYZ_TO_CAMERA, device=device).view(4, 9)
    xyz_to_camera = (weights / weights.sum(1, keepdim=True) @ cameras).view(n, 3, 3)
    matrices = xyz_to_camera @ torch.tensor(_RGB_TO_XYZ, device=device)
    return matrices / matrices.sum(2, keepdim=True)


def _toned(linear: Tensor, contrast: Tensor) -> Tensor:
    """Return the gamma curve, then the S-curve x^c / (x^c + (1 - x)^c); what lies outside [0, 1] is clipped."""
    logarithm = linear.clamp(1e-6, 1 - 1e-6).log() / 2.2
    return (contrast * (logarithm - (-logarithm.expm1()).log())).sigmoid()


def _untoned(image: Tensor, contrast: Tensor) -> Tensor:
    """Return the inverse of :func:`_toned`."""
    return (2.2 * F.logsigmoid(image.logit(1e-4) / contrast)).exp()


def _bayer(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Return where a color is sampled, bool [N, 3, H, W]: RGGB at a random phase per sample."""
    n, _, height, width = clean.shape
    phase = (torch.rand(2, n, 1, 1, generator=generator, device=clean.device) * 2).long()
    odd_row = (torch.arange(height, device=clean.device).view(1, height, 1) + phase[0]) % 2 == 1
    odd_column = (torch.arange(width, device=clean.device).view(1, 1, width) + phase[1]) % 2 == 1
    return torch.stack([~odd_row & ~odd_column, odd_row ^ odd_column, odd_row & odd_column], 1)


def _bilinear(image: Tensor, masks: Tensor) -> Tensor:
    """Return the mean of the nearest samples of a color."""
    return _filter(image * masks, "square", "cross", "square", groups=3)


def _malvar(image: Tensor, masks: Tensor) -> Tensor:
    """Return the bilinear result, plus the Laplacian of the color that was sampled there."""
    mosaic = (image * masks).sum(1, keepdim=True)
    green, along, across, diagonal = _filter(mosaic, "green", "along", "across", "diagonal").chunk(4, 1)
    is_red, is_green, is_blue = masks.chunk(3, 1)
    red_row = is_red.any(3, keepdim=True)  # rows of red and green
    first, second = torch.where(red_row, along, across), torch.where(red_row, across, along)
    red = torch.where(is_red, mosaic, torch.where(is_green, first, diagonal))
    blue = torch.where(is_blue, mosaic, torch.where(is_green, second, diagonal))
    return torch.cat([red, torch.where(is_green, mosaic, green), blue], 1)


def _hamilton_adams(image: Tensor, masks: Tensor) -> Tensor:
    """Return green along the smaller gradient; red and blue by bilinear differences from green."""
    mosaic = (image * masks).sum(1, keepdim=True)
    row, column, row_bend, column_bend, row_step, column_step = _filter(
        mosaic, "row", "column", "row_bend", "column_bend", "row_step", "column_step"
    ).chunk(6, 1)
    by_row = row_step.abs() + row_bend.abs() < column_step.abs() + column_bend.abs()
    found = torch.where(by_row, row + row_bend / 4, column + column_bend / 4)
    green = torch.where(masks[:, 1:2], mosaic, found)
    others = _filter((mosaic - green) * masks[:, ::2], "square", "square", groups=2)
    return torch.cat([green + others[:, :1], green, green + others[:, 1:]], 1)


def _filter(image: Tensor, *names: str, groups: int = 1) -> Tensor:
    """Convolve with 5 x 5 kernels by name, mirrored at the border, which continues the mosaic."""
    kernels = torch.stack([_kernels()[name] for name in names])[:, None].to(image.device)
    return F.conv2d(F.pad(image, (2, 2, 2, 2), mode="reflect"), kernels, groups=groups)


@cache
def _kernels() -> dict[str, Tensor]:
    """Return the kernels of demosaicing, 5 x 5."""
    square, row, bend = torch.zeros(5, 5), torch.zeros(5, 5), torch.zeros(5, 5)
    square[1:4, 1:4] = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    cross = square.clone()
    cross[1::2, 1::2] = 0
    cross[cross == 0.5] = 0.25
    row[2, 1::2] = 0.5
    bend[2] = torch.tensor([-1.0, 0, 2, 0, -1])
    step = torch.zeros(5, 5)
    step[2, 1], step[2, 3] = -1, 1
    green = torch.tensor([[0.0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]])
    along = torch.tensor(
        [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]
    )
    diagonal = torch.tensor(
        [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]
    )
    return {
        "square": square, "cross": cross, "row": row, "column": row.T, "row_bend": bend, "column_bend": bend.T,
        "row_step": step, "column_step": step.T, "green": green / 8, "along": along / 8, "across": along.T / 8,
        "diagonal": diagonal / 8,
    }  # fmt: skip
