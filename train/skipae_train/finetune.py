"""Fine-tuning: classifiers and segmenters from a pre-trained auto-encoder, or from random weights (section 5)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipae_train.corruption import BlockMask, GaussianNoise, chance
from skipae_train.datasets import (
    VOID,
    ImageSet,
    StreamedSet,
    View,
    balanced,
    batch_indices,
    derive_seed,
    hold_out,
    stl10_folds,
)
from skipae_train.earlier_runs import split_name
from skipae_train.errors import RefusedError, TrainingError
from skipae_train.feed import DataConfig, Feed, as_tested, open_set, preprocessing, subsample
from skipae_train.machine import Machine, RunOptions
from skipae_train.networks import Classifier, Network, NetworkPart, Segmenter, check_architecture, transfer
from skipae_train.pretrain import load_run
from skipae_train.recipe import Recipe, RecipeId, Stage
from skipae_train.rng import Draw
from skipae_train.run_folder import (
    RANDOM,
    STATE,
    damage_of,
    finished,
    load_state,
    locked,
    read_recipe,
    require_finished,
    started_from,
)
from skipae_train.schedules import Milestones, Schedule
from skipae_train.trainer import Forward, Part, TrainingJob, finish, train
from skipae_zoo import Architecture, Head, read_config

Metric = Literal["accuracy", "map", "miou"]


@dataclass(frozen=True, kw_only=True)
class Finetune(Recipe):
    """A fine-tuning recipe.  The head says the task: classes, several labels per image (``sigmoid``), or masks."""

    architecture: Architecture
    epochs: DataConfig
    head: Head
    start: str | None
    """Recipe of the run whose weights are taken; None for random weights."""
    start_kind: Stage = "pretrain"
    """Kind of that run: a pre-training, or (``imagenet-labels``) the training of a classifier."""
    transfer: tuple[NetworkPart, ...] = ("encoder",)
    """What is taken over; with the decoder for one of the three initializations of figure 4."""
    schedule: Schedule = Milestones((0.3, 0.6, 0.8), 0.2)
    freeze: int = 0
    """Epochs at the beginning in which the new layers alone are trained (supplement B).  Batch norm's statistics
    go on being updated in the others."""
    old_share: float = 1.0
    """Factor on the learning rate of the layers that are taken over."""
    balance: float = 0.0
    """Extra weight of rare classes in the loss of a segmenter: a pixel's weight is its class's share of all pixels
    to the power of minus this, in units of the mean over pixels, 3 at most."""
    corruption: GaussianNoise | BlockMask | None = None
    """Corruption of a half of the training samples (supplement B); None for clean images alone."""
    labeled: int = 0
    """Images to train on, equally many of each class; 0 for all."""
    fold: int | None = None
    """Number of the fold of STL-10 to train on, 0 to 9; None for all images."""
    validation: int = 0
    """Images cut from the training set to watch the progress with: of those not trained on where there are enough, else
    of those to train on, a tenth of them at most."""
    tuning: bool = False
    """True if the run is a try that others are chosen by: ``validation`` images, a fifth at most, are cut from those
    to train on, so that no label more is used, and it is measured on them; the test set stays unread."""
    crops: int = 1
    """Random crops whose scores are averaged at the test; 1 for the center crop."""

    @property
    def metric(self) -> Metric:
        """What is measured."""
        if self.head.kind == "decoder":
            return "miou"
        return "map" if self.head.scores == "sigmoid" else "accuracy"


def finetune(
    recipe: Finetune, data: Path, out: Path, run_options: RunOptions = RunOptions(), *, start: Path | None = None
) -> dict[str, Any] | None:
    """Run a recipe, or continue a stopped run; at the end, measure it once on the test set.

    A try (``recipe.tuning``) is measured on held-out training images instead.

    Args:
        recipe: the recipe.
        data: the folder that contains the sets.
        out: the run folder, see :func:`skipae_train.trainer.train`; ``result.json`` with the test result is added.
        run_options: device, precision and limits of this run.
        start: the folder of a pre-training run of the recipe that ``recipe.start`` names, or a checkpoint.

    Returns:
        The test result, or None if it stops before its end.

    Raises:
        RefusedError: as :func:`skipae_train.trainer.train`; or ``start`` is missing, not allowed, unfinished, or a run
            of another recipe.
        TransferError: ``start`` has another architecture.
    """
    if start is None and recipe.start is not None:
        raise RefusedError(f"{recipe.name} starts from a run of the recipe {recipe.start}: pass its folder as start")
    if start is not None and recipe.start is None:
        raise RefusedError(f"{recipe.name} does not take a start, not {start}; omit --start")
    source, origin = (None, RANDOM) if start is None else _load_start(recipe, start)
    if found := finished(recipe, out, origin):
        return found
    with locked(out):
        return _run(recipe, data, out, run_options, source, origin)


def _run(
    recipe: Finetune, data: Path, out: Path, run_options: RunOptions, source: Network | None, origin: dict[str, str]
) -> dict[str, Any] | None:
    images = open_set(recipe.epochs, data, "train")
    _require_labels(recipe, images, images.classes)
    if not recipe.tuning:  # before the training, since there may be something wrong with it
        tested = open_set(recipe.epochs, data, "test")
        _require_labels(recipe, tested, images.classes)
    network = build(recipe, len(images.classes))
    torch.manual_seed(recipe.seed)
    network.initialize(recipe.init)
    new = [name for name, _ in network.named_parameters()]
    if source is not None:
        new = transfer(network, source, recipe.transfer)
    train(_FinetuneJob(recipe, network, images, new, data), out, run_options, origin)

    def test(machine: Machine) -> dict[str, Any]:
        if recipe.tuning:
            chosen = as_tested(images, recipe.epochs).subset(split_train(recipe, images, data)[1])
        else:
            chosen = tested.subset(torch.arange(len(tested))[: recipe.epochs.samples or None])
        trained = load_finetuned(out)[0].to(machine.device)
        measured = evaluate(trained, chosen, recipe, machine, crops=recipe.crops)
        return {"metric": recipe.metric, "images": len(chosen), **measured}

    return finish(recipe, out, run_options, test)


def _require_labels(recipe: Finetune, images: ImageSet, classes: Sequence[str]) -> None:
    needed = {"accuracy": "one class an image", "map": "several labels an image", "miou": "masks"}[recipe.metric]
    if isinstance(images, StreamedSet) and images.masked:
        found = "masks"
    elif images.labels is None:
        found = "no labels"
    else:
        found = "one class an image" if images.labels.dim() == 1 else "several labels an image"
    if found != needed:
        raise RefusedError(
            f"{recipe.name} learns from {needed}, but the set {recipe.epochs.data} has {found}: choose another of them"
        )
    if len(classes) < 2:
        raise RefusedError(f"the set {recipe.epochs.data} has only one class, {classes[0]}; at least two are needed")
    if images.classes != classes:
        odd = sorted({*images.classes} ^ {*classes})
        told = f"{odd[0]} is in one alone" if odd else "their order differs"
        raise RefusedError(f"the set {recipe.epochs.data} must have the same classes to train and to test on; {told}")


def _load_start(recipe: Finetune, start: Path) -> tuple[Network, dict[str, str]]:
    """Return the network to start from and its description.

    A checkpoint need only fit; a run must have ended, and be of the pre-training that the recipe is for.
    """
    if not (start / "recipe.json").exists() and not (start / STATE).exists():
        checkpoint = Network.from_checkpoint(start)
        return checkpoint, started_from(read_config(start).name, checkpoint)
    network, described = load_run(start) if recipe.start_kind == "pretrain" else load_network(start)
    require_finished(start)
    check_architecture(recipe.architecture, network.architecture)
    name = described["name"]
    with damage_of(start / "recipe.json"):
        made_by = RecipeId.from_json(described["id"]).recipe if described.get("id") else split_name(name)[0]
    if recipe.start not in (name, made_by):
        raise RefusedError(
            f"{start} is a run of {name}, but {recipe.name} starts from {recipe.start}; use the run of "
            f"'skipae-train {recipe.start_kind} {recipe.start}'"
        )
    return network, started_from(f"{name}, seed {described['seed']}", network)


def load_finetuned(run: Path) -> tuple[Classifier | Segmenter, dict[str, Any]]:
    """Return the network of a fine-tuning run's folder, averaged if it keeps averages, and its recipe as JSON."""
    weights, recipe = load_state(run)
    with damage_of(run / STATE):
        bias = [value for name, value in weights.items() if name.startswith("head.") and name.endswith(".bias")][-1]
    with damage_of(run / "recipe.json"):
        head, architecture = Head(**recipe["head"]), Architecture.from_dict(recipe["architecture"])
        network = _network(architecture, len(bias), head, recipe["epochs"]["crop"], recipe["mean"], recipe["std"])
    with damage_of(run / STATE):
        network.load_state_dict(weights)
    return network.eval(), recipe


def load_network(run: Path) -> tuple[Network, dict[str, Any]]:
    """Return the network of a run folder of either kind, and its recipe as JSON."""
    loaded: tuple[Network, dict[str, Any]] = load_finetuned(run) if "head" in read_recipe(run) else load_run(run)
    return loaded


def build(recipe: Finetune, classes: int) -> Classifier | Segmenter:
    """Return the network of a recipe."""
    return _network(recipe.architecture, classes, recipe.head, recipe.epochs.crop, recipe.mean, recipe.std)


def _network(
    architecture: Architecture, classes: int, head: Head, crop: int, mean: Any, std: Any
) -> Classifier | Segmenter:
    if head.kind == "decoder":
        return Segmenter(architecture, classes, head=head, mean=mean, std=std)
    return Classifier(architecture, classes, head, crop=crop, mean=mean, std=std)


class _FinetuneJob(TrainingJob):
    """A labeled set by epochs; measured on images cut from the training set."""

    def __init__(
        self, recipe: Finetune, network: Classifier | Segmenter, images: ImageSet, new: list[str], data: Path
    ) -> None:
        self.recipe, self.finetune, self.network = recipe, recipe, network
        chosen, held = split_train(recipe, images, data)
        self.feed = Feed(images.subset(chosen), recipe.epochs, recipe.seed)
        self.held_out = as_tested(images, recipe.epochs).subset(held) if len(held) else None
        self.preprocessing = preprocessing(images, recipe.epochs, images.classes)
        self.steps = recipe.epochs.count * self.feed.steps_per_epoch
        self.validate_every = self.feed.steps_per_epoch
        self.columns = (recipe.metric,) if len(held) else ()
        self.facts = {"images": f"{len(chosen)} of {recipe.epochs.data} ({len(held)} more held out for validation)"}
        self.old = frozenset(name for name, _ in network.named_parameters()) - frozenset(new)
        self.slower = dict.fromkeys(self.old, recipe.old_share)
        self.weights = torch.ones(len(images.classes))
        if recipe.balance and isinstance(images, StreamedSet) and images.masked:
            self.weights = balanced_weights(images.subset(chosen).mask_pixels(), recipe.balance)

    def loss(self, model: Forward, part: Part) -> Tensor:
        batch, random = self.feed.batch(part)
        images, labels = batch.images.float() / 255, cast(Tensor, batch.labels)
        if self.finetune.corruption is not None:
            corrupted = self.finetune.corruption(images, random)
            images = torch.where(chance(images, 0.5, random), corrupted, images)
        logits = model(images.contiguous(memory_format=torch.channels_last))
        if self.finetune.metric == "map":
            known = labels >= 0
            losses = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).to(logits), reduction="none")
            return (losses * known).sum() / known.sum().clamp(min=1)
        labels = labels.long()
        if self.finetune.metric == "accuracy":
            return F.cross_entropy(logits, labels)
        weights = self.weights.to(logits)
        total = F.cross_entropy(logits, labels, weights, ignore_index=VOID, reduction="sum")
        counted = labels[labels != VOID]
        return total / weights[counted].sum().clamp(min=1)

    def validate(self, network: nn.Module, machine: Machine) -> dict[str, float]:
        if self.held_out is None:
            return {}
        measured = evaluate(network, self.held_out, self.finetune, machine, crops=1)
        return {self.finetune.metric: measured["value"]}

    def frozen(self, step: int) -> Collection[str]:
        return self.old if step < self.finetune.freeze * self.feed.steps_per_epoch else ()


def balanced_weights(pixels: Tensor, balance: float) -> Tensor:
    """Return the weights, float32 [K], of classes that have so many ``pixels``, [K]; see :attr:`Finetune.balance`."""
    shares = pixels.double() / pixels.sum()
    weights = shares.clamp(min=1e-9) ** -balance
    return (weights / (shares * weights).sum()).clamp(max=3).float()


def split_train(recipe: Finetune, images: ImageSet, data: Path) -> tuple[Tensor, Tensor]:
    """Return positions in the training set to train on and to watch the progress with, int64.

    The latter are taken from what the fold or ``labeled`` leaves over; in a try, or where that is too little, they are
    cut off.
    """
    everything = torch.arange(len(images))
    chosen = everything
    if recipe.fold is not None:
        chosen = stl10_folds(data)[recipe.fold]
    if recipe.labeled:
        labels = images.labels
        if labels is None or labels.dim() != 1:
            raise RefusedError(f"{recipe.epochs.data} has no classes from which to choose {recipe.labeled} images")
        classes = len(images.classes)
        if recipe.labeled % classes:
            raise RefusedError(f"labeled must be a multiple of the {classes} classes, not {recipe.labeled}")
        chosen = balanced(labels, recipe.labeled // classes, recipe.seed)
    rest = everything[~torch.isin(everything, chosen)]
    held = rest[:0]
    if recipe.validation:
        if len(rest) > recipe.validation and not recipe.tuning:
            held = rest[hold_out(len(rest), recipe.validation, recipe.seed)[1]]
        else:
            # Progress is worth a tenth of the labels at most, the choice of a rate a fifth.
            count = min(recipe.validation, max(1, len(chosen) // (5 if recipe.tuning else 10)))
            kept, cut = hold_out(len(chosen), count, recipe.seed)
            chosen, held = chosen[kept], chosen[cut]
    return subsample(chosen, recipe.epochs.samples, recipe.seed), held


@torch.inference_mode()
def evaluate(network: nn.Module, images: ImageSet, recipe: Finetune, machine: Machine, *, crops: int) -> dict[str, Any]:
    """Measure a network on a labeled set.

    Returns ``value`` in percent (accuracy, mean average precision, or mean intersection over union) and, but for
    accuracy, ``classes``: the same by class name, None for those that do not occur.
    """
    from skipae_train.metrics import accuracy, mean_average_precision  # torchmetrics takes as long to load as torch

    network.eval()
    images = images.to(machine.device)
    if isinstance(images, StreamedSet) and recipe.metric == "miou":
        return _evaluate_masks(network, images, machine)
    scores, labels = [], []
    places = batch_indices(len(images), max(1, 2**19 // recipe.epochs.crop**2), shuffle=False)
    for crop in range(crops):
        view = View(recipe.epochs.crop, random=crops > 1, seed=derive_seed(recipe.seed, Draw.TEST_CROPS))
        found = []
        for batch in images.batches(places, view, epoch=crop):
            pixels = (batch.images.float() / 255).contiguous(memory_format=torch.channels_last)
            with machine.autocast():
                logits = network(pixels).float()
            found.append(logits.sigmoid() if recipe.metric == "map" else logits.softmax(1))
            if crop == 0 and batch.labels is not None:
                labels.append(batch.labels)
        scores.append(torch.cat(found))
    mean, truth = torch.stack(scores).mean(0).cpu(), torch.cat(labels).cpu()
    if recipe.metric == "accuracy":
        return {"value": 100 * accuracy(mean, truth)}
    value, each = mean_average_precision(mean, truth)
    return {"value": 100 * value, "classes": _by_name(images.classes, each)}


def _evaluate_masks(network: nn.Module, images: StreamedSet, machine: Machine) -> dict[str, Any]:
    """Measure the mean intersection over union on whole images, at the size of their masks, by one confusion matrix."""
    from skipae_train.metrics import confusion, mean_iou

    count = len(images.classes)
    matrix = torch.zeros(count, count, dtype=torch.int64)
    for position in range(len(images)):
        pixels, mask = images.whole(position)
        if mask is None:
            raise TrainingError("the set has no masks to compare with")
        with machine.autocast():
            logits = network((pixels[None].float() / 255).contiguous(memory_format=torch.channels_last)).float()
        if logits.shape[-2:] != mask.shape:
            logits = F.interpolate(logits, mask.shape, mode="bilinear")
        matrix += confusion(logits[0].argmax(0), mask, count).cpu()
    if not matrix.any():
        raise TrainingError(f"no pixel of the {len(images)} masks to measure with has a label: all are {VOID}")
    value, each = mean_iou(matrix)
    return {"value": 100 * value, "classes": _by_name(images.classes, each)}


def _by_name(classes: Sequence[str], each: Tensor) -> dict[str, float | None]:
    """Return shares, float [K], in percent by class; None for a class that does not occur."""
    shares = zip(classes, each.tolist(), strict=True)
    return {name: None if math.isnan(share) else 100 * share for name, share in shares}
