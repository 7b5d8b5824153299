"""The paper's auto-encoder in torch, for every :class:`skipae_zoo.Architecture` (section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from skipae_zoo import Architecture, ConfigError, read_config, verified_file

Init = Literal["normal", "he"]


class Unit(nn.Module):
    """A convolution or deconvolution and its batch norm; ReLU is left to the caller (figure 1b)."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, *, norm: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm: nn.Module = nn.BatchNorm2d(conv.out_channels) if norm else nn.Identity()


class AutoEncoder(nn.Module):
    """Convolutional auto-encoder with symmetric shortcuts.

    Parameters
    ----------
    architecture:
        which network, and which shortcuts.
    mean, std:
        per-channel mean and standard deviation of the training pixels in [0, 1]; the normalisation is part
        of the module ("zero-centered and normalized", section 4), so that images go in and come out in [0, 1].
    init:
        ``normal`` is the paper's N(0, 0.01) (section 4), ``he`` scales by fan-in; the last deconvolution is
        N(0, 0.01) in both.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
        init: Init = "normal",
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))
        self.encoder = nn.ModuleDict()
        self.decoder = nn.ModuleDict()
        for number, layer in enumerate(architecture.layers, start=1):
            shape = (layer.kernel, layer.stride, layer.kernel // 2)
            self.encoder[layer.name] = Unit(nn.Conv2d(layer.in_channels, layer.channels, *shape, bias=False))
            self.decoder[f"dec{number}"] = Unit(
                nn.ConvTranspose2d(layer.channels, layer.in_channels, *shape, bias=number == 1), norm=number > 1
            )
        self.initialise(init)

    mean: Tensor
    std: Tensor

    @classmethod
    def from_checkpoint(cls, folder: Path) -> AutoEncoder:
        """The auto-encoder of a checkpoint folder, weights in float32, ready to use.

        Raises :class:`skipae_zoo.ConfigError` if the folder is damaged or its weights are another network's.
        """
        config = read_config(folder)
        path = verified_file(folder, config, "model.safetensors")
        network = cls(config.architecture, mean=config.preprocessing.mean, std=config.preprocessing.std)
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        expected = {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}
        if expected != set(tensors):
            wrong = ", ".join(sorted(expected ^ set(tensors))[:4])
            raise ConfigError(f"{path} does not hold the weights of its config.json's network; look at: {wrong}")
        network.load_state_dict(tensors, strict=False)
        return network.eval()

    def initialise(self, init: Init) -> None:
        """Draw all weights anew; the one bias, of the last deconvolution, starts at 0."""
        if init not in ("normal", "he"):
            raise ValueError(f"init must be 'normal' (the paper's N(0, 0.01)) or 'he', not {init!r}")
        for name in [*self.encoder, *self.decoder]:
            unit = self.unit(name)
            weight = unit.conv.weight
            if init == "he" and name != "dec1":
                # Each output of a deconvolution of stride s sums kernel² / s² taps of every input channel.
                taps = float(unit.conv.in_channels * weight[0, 0].numel())
                if isinstance(unit.conv, nn.ConvTranspose2d):
                    taps /= unit.conv.stride[0] ** 2
                nn.init.normal_(weight, std=(2 / taps) ** 0.5)
            else:
                nn.init.normal_(weight, std=0.01)
            if unit.conv.bias is not None:
                nn.init.zeros_(unit.conv.bias)

    def unit(self, name: str) -> Unit:
        """The layer ``enc1`` .. ``encL`` or ``dec1`` .. ``decL``."""
        return cast(Unit, (self.encoder if name in self.encoder else self.decoder)[name])

    def forward(self, image: Tensor) -> Tensor:
        """Restore images.

        Parameters
        ----------
        image:
            float32 [N, 3, H, W], RGB in [0, 1], any H and W >= 1.

        Returns
        -------
        float32 [N, 3, H, W] in the same units, not clamped.
        """
        pixels = (image - self.mean) / self.std
        restored = self.decode(*self.encode(pixels), pixels)
        return restored.float() * self.std + self.mean

    def encode(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The last layer after ReLU, and what the shortcuts carry: one tensor per layer (see :meth:`decode`)."""
        pre = self.architecture.topology == "pre"
        x, carried = pixels, []
        for name in self.encoder:
            unit = self.unit(name)
            raw = unit.conv(x)
            x = torch.relu(unit.norm(raw))
            carried.append(raw if pre else x)
        return x, carried

    def decode(self, x: Tensor, carried: list[Tensor], pixels: Tensor) -> Tensor:
        """Normalised pixels from the last layer's output; each deconvolution restores its mirror's input size."""
        pre = self.architecture.topology == "pre"
        for number in range(len(self.decoder), 0, -1):
            unit = self.unit(f"dec{number}")
            target = pixels if number == 1 else carried[number - 2]
            x = unit.conv(x, output_size=target.shape[-2:])
            if number == 1:
                return x if self.architecture.shortcuts == "none" else x + pixels
            joins = number - 1 in self.architecture.shortcut_layers
            if joins and pre:
                x = x + target
            x = torch.relu(unit.norm(x))
            if joins and not pre:
                x = x + target
        raise AssertionError("unreachable: every architecture has a dec1")

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """Every encoder layer after ReLU: ``enc1`` .. ``encL``, [N, C, ceil(H / s), ceil(W / s)]."""
        x = (image - self.mean) / self.std
        found = {}
        for name in self.encoder:
            unit = self.unit(name)
            x = torch.relu(unit.norm(unit.conv(x)))
            found[name] = x
        return found
