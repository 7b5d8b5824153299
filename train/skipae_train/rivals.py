"""Other denoisers that a checkpoint is measured beside: OpenCV's non-local means and FFDNet."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from skipae_train.data import DataError

Pixels = NDArray[np.uint8]
Denoiser = Callable[[Pixels], Pixels]
NLM_H = (1, 2, 3, 5, 7, 10, 15, 20)
"""Strengths of non-local means that are tried."""
FFDNET_SIGMA = (3, 5, 10, 15, 20, 25, 35, 50)
"""Noise levels that FFDNet is told."""


def nlm(h: float) -> Denoiser:
    """OpenCV's ``fastNlMeansDenoisingColored`` with one strength for luma and chroma.

    Raises:
        DataError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise DataError("OpenCV is not installed: pip install opencv-python-headless") from error
    return lambda pixels: np.asarray(
        cv2.fastNlMeansDenoisingColored(np.ascontiguousarray(pixels[..., ::-1]), None, h, h)[..., ::-1], np.uint8
    )


class FFDNet(nn.Module):
    """FFDNet for color (Zhang, Zuo, Zhang, 2018) from its authors' weights, ``ffdnet_color.pth`` or ``_clip``."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            channels = [13, *[96] * 11, 12]
            layers: list[nn.Module] = []
            for before, after in pairwise(channels):
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            self.model = nn.Sequential(*layers[:-1])
            self.load_state_dict(state)
        except Exception as error:  # torch.load raises almost anything
            raise DataError(
                f"{weights} does not hold the weights of FFDNet for color: take ffdnet_color.pth or "
                "ffdnet_color_clip.pth of its authors"
            ) from error
        self.eval()

    def forward(self, image: Tensor, sigma: float) -> Tensor:
        """Denoise float32 [N, 3, H, W] in [0, 1] of a noise level on the 0-255 scale."""
        height, width = image.shape[-2:]
        halves = F.pixel_unshuffle(F.pad(image, (0, width % 2, 0, height % 2), mode="replicate"), 2)
        level = torch.full_like(halves[:, :1], sigma / 255)
        found: Tensor = self.model(torch.cat([halves, level], 1))
        return F.pixel_shuffle(found, 2)[..., :height, :width]

    def at(self, sigma: float) -> Denoiser:
        """The denoiser of one noise level."""

        @torch.inference_mode()
        def denoise(pixels: Pixels) -> Pixels:
            image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None] / 255
            restored = (self(image, sigma)[0].clamp(0, 1) * 255).round().byte()
            return np.asarray(restored.permute(1, 2, 0).numpy(), np.uint8)

        return denoise
