"""More layers for a trained auto-encoder, which restores images nearly as before until it is trained further."""

from __future__ import annotations

from dataclasses import replace

import torch

from skipae_train.errors import RefusedError
from skipae_train.networks import AutoEncoder, ConvNorm
from skipae_train.wide_resnet import WideResNet
from skipae_zoo import Architecture

GAIN = 0.01
"""Factor on the output of a new residual unit.  It cannot be 0, where ReLU has no gradient."""


def deepened(network: AutoEncoder, architecture: Architecture | WideResNet) -> AutoEncoder:
    """Return a deeper network that begins as another one.

    Two new layers and their mirrors are a residual unit, whose output is nearly 0.  Layers in a row that begin as the
    identity would compute the same exactly, but training soon moves them away from it: 0.5 dB were lost.

    Args:
        network: Network-1 of the ``post`` topology with symmetric shortcuts and without residual units.
        architecture: the same, except that some stages have a residual unit, two layers more.

    Raises:
        RefusedError: the architectures differ in anything else.
    """
    found = network.architecture
    if not isinstance(architecture, Architecture) or not _fits(found, architecture):
        raise RefusedError(
            f"the start is {found}, and the recipe trains {architecture}: stages of Network-1 with post topology and "
            "symmetric shortcuts can get one residual unit each, two layers more, and nothing else may differ; "
            "`skipae-train recipes NAME` prints which checkpoint a recipe starts from"
        )
    deeper = AutoEncoder(
        architecture, mean=network.mean.flatten().tolist(), std=network.std.flatten().tolist(), init="he"
    )
    new = {number for unit in architecture.units for number in unit}
    kept = [number for number in range(1, len(architecture.layers) + 1) if number not in new]
    for old, number in enumerate(kept, start=1):
        for side in ("enc", "dec"):
            deeper.unit(f"{side}{number}").load_state_dict(network.unit(f"{side}{old}").state_dict())
    with torch.no_grad():
        for first, last in architecture.units:
            for layer in (deeper.unit(f"enc{last}"), deeper.unit(f"dec{first}")):
                _scale(layer, GAIN)
            if last in architecture.shortcut_layers:  # it brings what the shortcut before the unit brings, once more
                _scale(deeper.unit(f"dec{last + 1}"), 2)
                deeper.unit(f"dec{first - 1}").conv.weight.mul_(0.5)
    return deeper.train(network.training)


def _fits(found: Architecture, wanted: Architecture) -> bool:
    """Return whether a network can begin as the other."""
    if {found.network, wanted.network} != {"network-1"} or found.topology != "post" or found.shortcuts != "symmetric":
        return False
    if found.refine or replace(found, residual=True).units or replace(found, m=wanted.m, residual=True) != wanted:
        return False
    extra = [new - old for new, old in zip(wanted.m, found.m, strict=True)]
    return set(extra) <= {0, 2} and sum(extra) == 2 * len(wanted.units)


def _scale(layer: ConvNorm, factor: float) -> None:
    """Multiply what a layer passes on."""
    scaled: dict[str, torch.Tensor] = dict(layer.norm.named_parameters())
    if "weight" not in scaled:  # a bias alone
        scaled["kernel"] = layer.conv.weight
    for parameter in scaled.values():
        parameter.mul_(factor)
