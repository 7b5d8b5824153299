"""A Wide-ResNet encoder in the auto-encoder (supplement C): for comparing reconstructions, not part of the zoo.

The paper says that the two kinds of shortcuts were combined, and not how.  Decision: the encoder is that of Zagoruyko
and Komodakis (arXiv:1605.07146), its pre-activation blocks mirrored by blocks of deconvolutions; the input of each
encoder block is added to the output of its mirror, and the image to the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from skipae_train.networks import Init, initialize


@dataclass(frozen=True)
class WideResNet:
    """Shape of the encoder, WRN-``depth``-``widen``: a convolution and three groups of residual blocks."""

    depth: int
    """Convolutions along the encoder and its classifier; 6 N + 4 for N blocks per group."""
    widen: int
    """Factor on the 16, 32 and 64 channels of the groups."""

    def __post_init__(self) -> None:
        """Reject an architecture that is not a Wide-ResNet."""
        if self.depth < 10 or self.depth % 6 != 4:
            raise ValueError(f"depth must be 6 N + 4 for N >= 1 blocks per group (10, 16, 22, ...), not {self.depth}")
        if self.widen < 1:
            raise ValueError(f"widen must be at least 1, not {self.widen}")

    @property
    def blocks(self) -> tuple[tuple[int, int, int], ...]:
        """(input channels, output channels, stride) of each block, first block first."""
        found = []
        channels = 16
        for group in range(3):
            for number in range((self.depth - 4) // 6):
                width = 16 * 2**group * self.widen
                found.append((channels, width, 2 if group and not number else 1))
                channels = width
        return tuple(found)


class Block(nn.Module):
    """Batch norm, ReLU and a convolution or deconvolution, twice; its input is added, projected where sizes differ."""

    def __init__(self, channels: int, width: int, stride: int, *, mirrored: bool) -> None:
        """Create it; if ``mirrored``, deconvolutions go from ``width`` back to ``channels``."""
        super().__init__()
        kind = nn.ConvTranspose2d if mirrored else nn.Conv2d
        first, last = (width, channels) if mirrored else (channels, width)
        strides = (1, stride) if mirrored else (stride, 1)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv1 = kind(first, width, 3, strides[0], 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = kind(width, last, 3, strides[1], 1, bias=False)
        self.project = kind(first, last, 1, stride, bias=False) if first != last or stride > 1 else None

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Return the sum; that of deconvolutions has height and width ``size``."""
        active = torch.relu(self.norm1(x))
        inner = torch.relu(self.norm2(self.conv1(active)))
        if size is None:
            return cast(Tensor, self.conv2(inner) + (x if self.project is None else self.project(active)))
        # A 1x1 deconvolution of stride 2 reaches every second pixel: output padding gives the others 0.
        kept = x if self.project is None else self.project(active, output_size=size)
        return cast(Tensor, self.conv2(inner, output_size=size) + kept)


class WideResNetAutoEncoder(nn.Module):
    """Restores images like :class:`skipae_train.networks.AutoEncoder`; its arguments are described there.

    Batch norm has no scale of its own where a block adds up, so ``he`` is its usual initialization.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        design: WideResNet,
        *,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
        init: Init = "he",
    ) -> None:
        super().__init__()
        self.design = design
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.encoder = nn.ModuleList(Block(*shape, mirrored=False) for shape in design.blocks)
        self.decoder = nn.ModuleList(Block(*shape, mirrored=True) for shape in design.blocks)
        self.norm = nn.BatchNorm2d(16)
        self.last = nn.ConvTranspose2d(16, 3, 3, padding=1)
        self.initialize(init)

    def initialize(self, init: Init) -> None:
        """Draw new random weights; see :func:`skipae_train.networks.initialize`."""
        initialize(self, init, self.last)

    def forward(self, image: Tensor) -> Tensor:
        """Restore images, float32 [N, 3, H, W], RGB in [0, 1], any H and W >= 1; the result is not clamped."""
        pixels = (image - self.mean) / self.std
        x = self.first(pixels)
        skips = []
        for block in self.encoder:
            skips.append(x)
            x = block(x)
        for block, before in zip(reversed(self.decoder), reversed(skips), strict=True):
            x = block(x, before.shape[-2:]) + before
        restored = self.last(torch.relu(self.norm(x))) + pixels
        return cast(Tensor, restored * self.std + self.mean)
