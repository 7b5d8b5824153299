"""Measure what the layers of a network have learned (section 5.1, figure 3), with two small probes per frozen layer.

First, batch norm is set to the statistics of clean images, for every network.

On the ReLU output of every encoder layer, a softmax regression predicts the class and a stack of three deconvolutions
restores the image.  The probes of all layers are trained together; they share only the forward pass.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipae_train.datasets import ImageSet, View, balanced, batch_indices
from skipae_train.feed import DataConfig, Feed, open_set
from skipae_train.machine import Machine, RunOptions
from skipae_train.metrics import decibels
from skipae_train.networks import Network
from skipae_train.plots import figure, save_figure
from skipae_train.recipe import Recipe
from skipae_train.run_folder import finished, load_state, locked, started_from, write_csv
from skipae_train.schedules import Cosine, Schedule
from skipae_train.trainer import Forward, Part, TrainingJob, finish, train
from skipae_zoo import Architecture


@dataclass(frozen=True, kw_only=True)
class Probe(Recipe):
    """How the probes of a network are trained: on 4,000 images of CIFAR-10."""

    architecture: Architecture
    epochs: DataConfig = DataConfig(data="cifar10", count=40, batch=50, crop=29)
    lr: float = 1e-3
    schedule: Schedule = Cosine(warmup=50)
    labeled: int = 4000
    weights: int = 50_000
    """Weights of each deconvolution stack, about the same for every layer."""


class Probes(nn.Module):
    """A softmax regression and a deconvolution stack for each encoder layer of a frozen network.

    Takes images float32 [N, 3, S, S] in [0, 1] and gives float32 [N, layers, classes + 3 S²]: logits, then pixels,
    in one tensor, since what trains it wants one.
    """

    def __init__(self, network: Network, classes: int, side: int, weights: int) -> None:
        super().__init__()
        self._frozen = [network.eval().requires_grad_(False)]  # in a list: no part of the module, nor of its state
        self.classes, self.side = classes, side
        self.regressions, self.stacks = nn.ModuleDict(), nn.ModuleDict()
        for layer in network.architecture.layers:
            height, width = layer.output_size(side, side)
            self.regressions[layer.name] = nn.Linear(layer.channels * height * width, classes)
            self.stacks[layer.name] = _Stack(layer.channels, layer.total_stride, side, weights)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits and pixels, from every layer."""
        network = self._frozen[0].to(images.device)
        with torch.no_grad():
            features = network.features(images)
        found = []
        for name, layer in features.items():
            pixels = self.stacks[name](layer) * network.std + network.mean
            found.append(torch.cat([self.regressions[name](layer.flatten(1)), pixels.flatten(1)], 1))
        return torch.stack(found, 1).float()

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits [N, layers, classes] and pixels [N, layers, 3, S, S]."""
        logits, pixels = torch.split(outputs, [self.classes, 3 * self.side**2], 2)
        return logits, pixels.reshape(*pixels.shape[:2], 3, self.side, self.side)


class _Stack(nn.Module):
    """Three deconvolutions from a layer to normalized pixels, of about ``weights`` weights in all."""

    def __init__(self, channels: int, stride: int, side: int, weights: int) -> None:
        super().__init__()
        # 9 (channels k + k k + 3 k) = weights
        half = (channels + 3) / 2
        hidden = max(1, round(math.sqrt(half**2 + weights / 9) - half))
        self.sides: list[int] = []
        layers = []
        for number, (width, out) in enumerate(((channels, hidden), (hidden, hidden), (hidden, 3))):
            # The last deconvolution makes up for what is left, where there are more than three halvings.
            by = stride if number == 2 else min(2, stride)
            stride //= by
            self.sides.append(-(-side // stride))
            layers.append(nn.ConvTranspose2d(width, out, 3, by, 1))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for number, (layer, side) in enumerate(zip(self.layers, self.sides, strict=True)):
            x = layer(x, output_size=(side, side))
            if number < 2:
                x = torch.relu(x)
        return x


def probe(recipe: Probe, network: Network, data: Path, out: Path, run_options: RunOptions) -> list[dict[str, Any]]:
    """Train the probes of a network and test them; returns accuracy in percent and PSNR in dB by layer.

    ``out`` is a run folder (see :func:`skipae_train.trainer.train`); it receives ``probe.csv`` and ``probe.png`` too.
    """
    origin = started_from(recipe.name.removeprefix("probe "), network)
    found = finished(recipe, out, origin)
    if not found:
        images = open_set(recipe.epochs, data, "train")
        network = copy.deepcopy(network)
        see_clean_images(network, images.subset(_chosen(recipe, images)), recipe.epochs.crop)
        probes = Probes(network, len(images.classes), recipe.epochs.crop, recipe.weights)

        def test(machine: Machine) -> dict[str, Any]:
            chosen = open_set(recipe.epochs, data, "test")
            chosen = chosen.subset(torch.arange(len(chosen))[: recipe.epochs.samples or None])
            probes.load_state_dict(load_state(out)[0])
            return {"layers": _test(probes.to(machine.device).eval(), chosen, machine)}

        with locked(out):
            train(_ProbeJob(recipe, probes, images), out, run_options, origin)
            found = finish(recipe, out, run_options, test)
    rows: list[dict[str, Any]] = found["layers"] if found else []
    if rows:
        write_probes(out / "probe", {recipe.name: rows})
    return rows


def _chosen(recipe: Probe, images: ImageSet) -> Tensor:
    """Return the positions of the images that probes are trained on, int64."""
    if images.labels is None:
        raise ValueError(f"{recipe.epochs.data} has no labels to probe for")
    return balanced(images.labels, recipe.labeled // len(images.classes), recipe.seed)


@torch.no_grad()
def see_clean_images(network: Network, images: ImageSet, crop: int) -> None:
    """Make the statistics of batch norm in the encoder those of clean images, in center crops.

    After pre-training they are those of corrupted images, which would be a handicap against networks that saw clean
    ones.
    """
    norms = [module for module in network.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    network.train()
    for batch in images.batches(batch_indices(len(images), 250, shuffle=False), View(crop)):
        network.features(batch.images.to(network.mean.device).float() / 255)
    network.eval()


class _ProbeJob(TrainingJob):
    """Cross entropy and mean square error, summed over layers."""

    columns = ()

    def __init__(self, recipe: Probe, probes: Probes, images: ImageSet) -> None:
        self.recipe, self.network, self.probes = recipe, probes, probes
        chosen = _chosen(recipe, images)
        self.feed = Feed(images.subset(chosen), recipe.epochs, recipe.seed)
        self.steps = recipe.epochs.count * self.feed.steps_per_epoch
        self.validate_every = self.feed.steps_per_epoch
        self.facts = {"images": f"{len(chosen)} of {recipe.epochs.data}"}

    def loss(self, model: Forward, part: Part) -> Tensor:
        batch, _ = self.feed.batch(part)
        images = batch.images.float() / 255
        logits, pixels = self.probes.split(model(images))
        layers = logits.shape[1]
        labels = cast(Tensor, batch.labels).repeat_interleave(layers)
        told = F.cross_entropy(logits.flatten(0, 1), labels)
        return layers * (told + (pixels - images[:, None]).square().mean())

    def validate(self, network: nn.Module, machine: Machine) -> dict[str, float]:
        return {}


@torch.inference_mode()
def _test(probes: Probes, images: ImageSet, machine: Machine) -> list[dict[str, Any]]:
    names = list(probes.regressions)
    right, decibel = torch.zeros(len(names)), torch.zeros(len(names))
    for batch in images.to(machine.device).batches(batch_indices(len(images), 100, shuffle=False), View(probes.side)):
        clean = batch.images.float() / 255
        with machine.autocast():
            logits, pixels = probes.split(probes(clean))
        if batch.labels is not None:
            right += (logits.argmax(2) == batch.labels[:, None]).float().sum(0).cpu()
        error = (pixels.clamp(0, 1) - clean[:, None]).square().mean((2, 3, 4))
        decibel += decibels(error).sum(0).cpu()
    n = len(images)
    return [
        {"layer": name, "accuracy": 100 * float(a) / n, "psnr": float(b) / n}
        for name, a, b in zip(names, right, decibel, strict=True)
    ]


def write_probes(stem: Path, networks: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Write ``stem.csv`` and, as figure 3, ``stem.png``: both scores by layer, a curve per network."""
    lines = [{"network": name, **row} for name, rows in networks.items() for row in rows]
    write_csv(stem.with_suffix(".csv"), ["network", "layer", "accuracy", "psnr"], lines)
    made, axes = figure(5.0, 3.6, 2)
    for axis, key, title in zip(
        axes, ("accuracy", "psnr"), ("(a) classification: accuracy, %", "(b) reconstruction: PSNR, dB"), strict=True
    ):
        for name, rows in networks.items():
            axis.plot([row["layer"].removeprefix("enc") for row in rows], [row[key] for row in rows], "o-", label=name)
        axis.set(xlabel="encoder layer", title=title)
        axis.legend(fontsize=8)
    save_figure(made, stem.with_suffix(".png"), dpi=120)
