"""Pre-training: an auto-encoder learns to restore corrupted images (section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from skipae_train.corruption import BlockMask, Color, Corruption, GaussianNoise, fill_mask
from skipae_train.datasets import ImageSet, View, batch_indices, derive_seed, hold_out
from skipae_train.datasets.photos import Photos, augment_photos
from skipae_train.deepen import deepened
from skipae_train.errors import RefusedError
from skipae_train.feed import DataConfig, Feed, PhotoFeed, open_set, preprocessing, subsample
from skipae_train.machine import Machine, RunOptions
from skipae_train.metrics import decibels
from skipae_train.networks import AutoEncoder
from skipae_train.pairs import Pair, PairedPhotos
from skipae_train.plots import grid
from skipae_train.recipe import Recipe
from skipae_train.rng import Draw
from skipae_train.run_folder import RANDOM, STATE, damage_of, finished, load_state, locked, started_from
from skipae_train.schedules import Milestones, Schedule
from skipae_train.trainer import Forward, Part, TrainingJob, finish, train
from skipae_train.wide_resnet import WideResNet, WideResNetAutoEncoder
from skipae_zoo import Architecture, read_config

LossName = Literal["mse", "rmse", "masked"]
SetCorruption = GaussianNoise | BlockMask
Restorer = AutoEncoder | WideResNetAutoEncoder


@dataclass(frozen=True)
class Phase:
    """A part of a run on photos with one crop size and batch size."""

    steps: int
    crop: int
    batch: int
    freeze_norm: bool = False
    """True if batch norm uses, and keeps, the statistics it has, as it will at inference."""


@dataclass(frozen=True, kw_only=True)
class Pretrain(Recipe):
    """A pre-training recipe: on a folder of photos by ``phases``, or on one of the sets by ``epochs``."""

    architecture: Architecture | WideResNet
    """A :class:`WideResNet` is for comparing reconstructions alone (supplement C)."""
    corruption: Corruption
    """On sets :class:`GaussianNoise` or :class:`BlockMask`."""
    phases: tuple[Phase, ...] = ()
    epochs: DataConfig | None = None
    schedule: Schedule = Milestones((0.5, 0.75))
    loss: LossName = "mse"
    """``mse`` is the paper's.  ``rmse`` is the mean over samples of the root: the gradient of a sample is then
    as large at weak noise as at strong, where ``mse`` lets the strongest noise drown the rest.  ``masked`` counts
    masked pixels alone (the Context Encoder of table 4)."""
    paired: float = 0.15
    """On photos: share of the samples that are real noisy photos with their clean partners, where there are any."""

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        """Return the phase that ``step``, counted from 0, belongs to."""
        for phase in self.phases:
            step -= phase.steps
            if step < 0:
                return phase
        raise ValueError(f"step {step + self.steps} is past the end of the run ({self.steps} steps)")


def pretrain(
    recipe: Pretrain,
    data: Path,
    out: Path,
    run_options: RunOptions = RunOptions(),
    *,
    start: Path | None = None,
    pairs: Sequence[Pair] = (),
) -> Restorer:
    """Run a recipe, or continue a stopped run, and return the trained (averaged) network.

    Args:
        recipe: the recipe.
        data: a folder of photos for recipes with phases; the folder that contains the sets for those with epochs.
        out: the run folder, see :func:`skipae_train.trainer.train`; on a set, ``result.json`` with the PSNR on test
            images is added.
        run_options: device, precision and limits of this run.
        start: a checkpoint folder with the initial weights of a new run; a deeper network begins with weights that
            restore as its do (:func:`skipae_train.deepen.deepened`).
        pairs: real photos that a recipe on photos mixes in (:func:`skipae_train.pairs.find_pairs`).

    Raises:
        RefusedError: as :func:`skipae_train.trainer.train`; or ``start`` has an architecture that cannot become the
            recipe's, or is missing although the recipe continues training a network.
        skipae.UsageError: another process runs in ``out``.
    """
    origin, begun = RANDOM, None
    if start is None and recipe.phases and recipe.phases[0].freeze_norm:
        raise RefusedError(
            f"{recipe.name} continues training a network, with frozen batch norm; pass its checkpoint as "
            "--start (created from a run by skipae-train export)"
        )
    if start is not None:
        begun = AutoEncoder.from_checkpoint(start)
        origin = started_from(read_config(start).name, begun)
        if begun.architecture != recipe.architecture:
            begun = deepened(begun, recipe.architecture)
    if pairs and recipe.epochs is not None:
        raise RefusedError(f"{recipe.name} trains on the set {recipe.epochs.data}: pairs are for recipes on photos")
    if finished(recipe, out, origin):
        return load_restorer(out)[0]
    with locked(out):
        return _run(recipe, data, out, run_options, begun, origin, pairs)


def _run(
    recipe: Pretrain,
    data: Path,
    out: Path,
    run_options: RunOptions,
    begun: AutoEncoder | None,
    origin: dict[str, str],
    pairs: Sequence[Pair],
) -> Restorer:
    network = _build(recipe.architecture, mean=recipe.mean, std=recipe.std)
    torch.manual_seed(recipe.seed)
    network.initialize(recipe.init)
    if begun is not None:
        network.load_state_dict(begun.state_dict())
    if recipe.epochs is None:
        paired = PairedPhotos(pairs, seed=recipe.seed) if pairs else None
        train(PhotoJob(recipe, network, Photos(data, seed=recipe.seed), paired), out, run_options, origin)
        return load_restorer(out)[0]
    epochs = recipe.epochs
    images = open_set(epochs, data, "test")  # before the training, because it may be missing
    train(SetJob(recipe, epochs, network, open_set(epochs, data, "pretrain")), out, run_options, origin)
    trained = load_restorer(out)[0]

    def test(machine: Machine) -> dict[str, Any]:
        clean = center_crops(images.subset(subsample(torch.arange(len(images)), TEST, 0)), epochs.crop)
        value = reconstruction_psnr(trained.to(machine.device), clean, recipe.corruption, machine)
        return {"metric": "psnr", "images": len(clean), "value": value}

    finish(recipe, out, run_options, test)
    return trained.cpu()


class PhotoJob(TrainingJob):
    """Crops of photos, augmented; measured by PSNR at three levels of Gaussian noise, and on real pairs if any."""

    columns: tuple[str, ...] = ("psnr15", "psnr25", "psnr50")
    validate_every = 1000

    def __init__(self, recipe: Pretrain, network: Restorer, photos: Photos, pairs: PairedPhotos | None = None) -> None:
        self.recipe, self.pretrain, self.network, self.pairs = recipe, recipe, network, pairs
        self.feed = PhotoFeed(photos, recipe.seed)
        self.steps = recipe.steps
        self.facts = {"photos": f"{len(photos.files)} ({len(photos.held_out)} more held out for validation)"}
        self.held_out = photos.validation(256, 24)
        self.held_out_pairs = pairs.validation(256, 24) if pairs else []
        self.facts["pairs"] = pairs.described if pairs else "none"
        if self.held_out_pairs:
            self.columns = (*self.columns, "psnr_pairs")

    def loss(self, model: Forward, part: Part) -> Tensor:
        """Return the loss of the restored part."""
        phase = self.pretrain.phase_at(part.step)
        number = part.step * part.processes * part.turns + part.number
        generator = torch.Generator(part.device).manual_seed(derive_seed(self.recipe.seed, number))
        crops, real = self.feed.crops(part, phase.batch, phase.crop), 0
        if self.pairs:  # the next whole number below or above the share, so that its mean is the share
            real = int(
                len(crops) * self.pretrain.paired + float(torch.rand((), generator=generator, device=part.device))
            )
            real = min(real, len(crops) - 1)
        clean = augment_photos(crops[real:].float() / 255, generator)
        corrupted = self.pretrain.corruption(clean, generator)
        if self.pairs and real:
            targets, noisy = (
                found.to(part.device).float() / 255 for found in self.pairs.crops(number, real, phase.crop)
            )
            clean, corrupted = torch.cat([clean, targets]), torch.cat([corrupted, noisy])
        corrupted = corrupted.contiguous(memory_format=torch.channels_last)
        return reconstruction_loss(model(corrupted), clean, self.pretrain.loss)

    def validate(self, network: nn.Module, machine: Machine) -> dict[str, float]:
        """Return PSNR in dB of held-out photos and pairs."""
        found = {}
        if len(self.held_out):
            found = {f"psnr{sigma}": self._psnr(network, sigma, machine) for sigma in (15, 25, 50)}
        if self.held_out_pairs:
            found["psnr_pairs"] = self._psnr_of_pairs(network, machine)
        return found

    def pictures(self, network: nn.Module, machine: Machine) -> Tensor | None:
        """Return four held-out photos, with noise and restored."""
        noise = GaussianNoise((25, 25), as_file=1.0)
        return _comparison(network, self.held_out[:4], noise, machine) if len(self.held_out) else None

    def frozen_norm(self, step: int) -> bool:
        """Return what the phase says."""
        return self.pretrain.phase_at(step).freeze_norm

    def _psnr(self, network: nn.Module, sigma: int, machine: Machine) -> float:
        return reconstruction_psnr(network, self.held_out, GaussianNoise((sigma, sigma), as_file=1.0), machine)

    @torch.inference_mode()
    def _psnr_of_pairs(self, network: nn.Module, machine: Machine) -> float:
        """Return the mean PSNR in dB of the real photos of the held-out scenes."""
        total = 0.0
        for clean, noisy in self.held_out_pairs:
            image = (noisy.to(machine.device).float() / 255).contiguous(memory_format=torch.channels_last)
            with machine.autocast():
                restored = network(image)
            error = restored.float().clamp(0, 1) - clean.to(machine.device).float() / 255
            total += float(decibels(error.square().mean()))
        return total / len(self.held_out_pairs)


class SetJob(TrainingJob):
    """A set by epochs; measured by PSNR of held-out images under the corruption of the training."""

    columns = ("psnr",)

    def __init__(self, recipe: Pretrain, epochs: DataConfig, network: Restorer, images: ImageSet) -> None:
        if not isinstance(recipe.corruption, GaussianNoise | BlockMask):
            raise RefusedError(f"{recipe.name}: on sets the corruption must be GaussianNoise or BlockMask")
        self.recipe, self.pretrain, self.network, self.corruption = recipe, recipe, network, recipe.corruption
        count = min(HELD_OUT, max(1, len(images) // 50))
        kept, held = hold_out(len(images), count, derive_seed(recipe.seed, Draw.PRETRAINING))
        kept = subsample(kept, epochs.samples, recipe.seed)
        self.feed = Feed(images.subset(kept), epochs, recipe.seed)
        self.held_out = center_crops(images.subset(held), epochs.crop)
        self.preprocessing = preprocessing(images, epochs)
        self.steps = epochs.count * self.feed.steps_per_epoch
        self.validate_every = self.feed.steps_per_epoch
        self.facts = {"images": f"{len(kept)} of {epochs.data} ({len(held)} more held out for validation)"}

    def loss(self, model: Forward, part: Part) -> Tensor:
        """Return the loss of the restored part."""
        batch, random = self.feed.batch(part)
        clean = batch.images.float() / 255
        if self.pretrain.loss == "masked":
            mask = cast(BlockMask, self.corruption).mask(clean, random)
            restored = model(fill_mask(clean, mask, cast(BlockMask, self.corruption).fill))
            error = (restored - clean).square() * mask / clean.new_tensor(self.recipe.std)[:, None, None].square()
            return error.sum() / (3 * mask.sum())
        corrupted = self.corruption(clean, random).contiguous(memory_format=torch.channels_last)
        # In normalized units, as the paper's: in [0, 1] the gradients of deep layers come near ADAM's eps.
        scale = clean.new_tensor(self.recipe.std)[:, None, None]
        return reconstruction_loss(model(corrupted) / scale, clean / scale, self.pretrain.loss)

    def validate(self, network: nn.Module, machine: Machine) -> dict[str, float]:
        """Return PSNR in dB of the held-out images."""
        return {"psnr": reconstruction_psnr(network, self.held_out, self.corruption, machine)}

    def pictures(self, network: nn.Module, machine: Machine) -> Tensor | None:
        """Return eight held-out images, corrupted and restored."""
        return _comparison(network, self.held_out[:8], self.corruption, machine)


HELD_OUT, TEST = 500, 2000
"""Most images of a set that pre-training holds out to measure its progress, and that it is tested on at the end."""


def load_restorer(run: Path) -> tuple[Restorer, dict[str, Any]]:
    """Return the network of a pre-training run, with its averaged weights if it keeps them, and its
    recipe as JSON values.
    """
    weights, recipe = load_state(run)
    if "loss" not in recipe:
        raise RefusedError(f"{run} is a run of {recipe['name']}, not a pre-training run; use one of those")
    with damage_of(run / "recipe.json"):
        shape = recipe["architecture"]
        architecture = WideResNet(**shape) if "widen" in shape else Architecture.from_dict(shape)
        network = _build(architecture, mean=recipe["mean"], std=recipe["std"])
    with damage_of(run / STATE):
        network.load_state_dict(weights)
    return network.eval(), recipe


def load_run(run: Path) -> tuple[AutoEncoder, dict[str, Any]]:
    """Load as :func:`load_restorer`; :class:`RefusedError` if it is not one of the zoo's networks."""
    network, recipe = load_restorer(run)
    if not isinstance(network, AutoEncoder):
        raise RefusedError(
            f"{run} is a run of a Wide-ResNet, which is not a network of the zoo; "
            "it cannot be exported, probed or fine-tuned; use a run without the variant wide-resnet"
        )
    return network, recipe


def _build(architecture: Architecture | WideResNet, mean: Color, std: Color) -> Restorer:
    kind: type[Any] = WideResNetAutoEncoder if isinstance(architecture, WideResNet) else AutoEncoder
    network: Restorer = kind(architecture, mean=mean, std=std)
    return network


def reconstruction_loss(restored: Tensor, clean: Tensor, kind: LossName) -> Tensor:
    """Return the mean square error over all pixels, or the mean over samples of its root."""
    error = (restored - clean).square()
    if kind == "mse":
        return error.mean()
    # Half a gray level keeps the gradient finite where a sample is all but perfect.
    return (error.mean((1, 2, 3)) + (0.5 / 255) ** 2).sqrt().mean()


def center_crops(images: ImageSet, crop: int) -> Tensor:
    """Return the center crops of a set, uint8 [N, 3, crop, crop], on the CPU."""
    batches = images.to("cpu").batches(batch_indices(len(images), 256, shuffle=False), View(crop))
    return torch.cat([batch.images for batch in batches])


@torch.inference_mode()
def restored_batches(
    network: nn.Module, clean: Tensor, corruption: Corruption, machine: Machine
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield batches (clean, corrupted, restored), float32 in [0, 1], of uint8 [N, 3, H, W]; always corrupted alike."""
    for number, images in enumerate(torch.split(clean, max(1, 2**18 // clean[0, 0].numel()))):
        target = images.to(machine.device).float() / 255
        generator = torch.Generator(machine.device).manual_seed(number)
        corrupted = corruption(target, generator).contiguous(memory_format=torch.channels_last)
        with machine.autocast():
            restored = network(corrupted)
        yield target, corrupted, restored.float().clamp(0, 1)


def reconstruction_psnr(network: nn.Module, clean: Tensor, corruption: Corruption, machine: Machine) -> float:
    """Return the mean PSNR in dB of restored images, uint8 [N, 3, H, W] before they were corrupted."""
    total = 0.0
    for target, _, restored in restored_batches(network, clean, corruption, machine):
        total += float(decibels((restored - target).square().mean((1, 2, 3))).sum())
    return total / len(clean)


def _comparison(network: nn.Module, clean: Tensor, corruption: Corruption, machine: Machine) -> Tensor:
    """Return the rows of clean, corrupted and restored images."""
    parts = list(restored_batches(network, clean, corruption, machine))
    return grid([torch.cat(column) for column in zip(*parts, strict=True)])
