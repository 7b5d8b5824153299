"""What the budgets cut from a recipe: all of the rules, in one place.

=======  =========  ==========================================================================================
budget   for        rules
=======  =========  ==========================================================================================
paper    a GPU      nothing is cut
cpu      two cores  widths: Network-1, Network-2 and Wide-ResNet a quarter, Network-3 a half; hidden fully connected
                    layers 512.
                    Epochs: a tenth in pre-training (but for 6 and fewer), a fifth in fine-tuning; of
                    fine-tuning three fifths where it takes a part of a set's labels.
                    Learning rate at least 1e-3, since there are fewer steps.  Tiny-ImageNet for ImageNet; table 5
                    takes 7,000 images of animals and of vehicles, for the paper's 93,000 of each.  Images of
                    Network-3 at a quarter of the paper's size (short side 64, crops of 57), for segmentation at half
                    (128, 113)
day      two cores  widths: Network-2 and Network-3 a half, Network-1 and Wide-ResNet a quarter; hidden layers 1,024.
         with bf16  Epochs: all in pre-training on CIFAR-10; 5 of Network-3 on the public subsets of ImageNet, with
                    crops of 57 to 113 pixels scaled to 57; as at cpu in fine-tuning, but for VOC 2012 a fiftieth, on
                    the larger list train_aug.  Learning rate of Network-3's pre-training at least 2e-3, of its
                    fine-tuning at least 1e-3.  Images of Network-3 at a quarter of the paper's size, for
                    segmentation at half
smoke    a test     widths an eighth; hidden layers 64; crops of at most 33 (photos: 32); one epoch of 24 images in
                    batches of 4 (two where the first is for new layers; photos: 4 steps of 2), 10 labels, 24 test
                    images
=======  =========  ==========================================================================================

Recipes on folders of photos are the same at ``cpu`` and ``paper``; at ``day`` they have ten times the steps, for about
seven idle hours on two cores with bf16, in as many sittings as needed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from skipae_train.feed import DataConfig
from skipae_train.finetune import Finetune
from skipae_train.pretrain import Pretrain
from skipae_train.probe import Probe
from skipae_train.recipe import Budget
from skipae_train.wide_resnet import WideResNet
from skipae_zoo import Architecture

AnyRecipe = TypeVar("AnyRecipe", Pretrain, Finetune, Probe)

_CPU_WIDTH = {"network-1": 4, "network-2": 4, "network-3": 2}
_DAY_WIDTH = {"network-1": 4, "network-2": 2, "network-3": 2}
"""Network-1 is 128 wide for CIFAR and 64 for STL-10; 32 is what two cores train in three hours."""
_LONG = 10
"""How many times as long a recipe on photos is at ``day``."""
_TINY_SAMPLES = 7_000
"""Images of each of table 5's halves of ImageNet: Tiny-ImageNet has 15,000 of animals, but 7,500 of vehicles."""


def cut(recipe: AnyRecipe, budget: Budget) -> AnyRecipe:
    """Return the recipe at a budget."""
    changes: dict[str, Any] = {}
    if isinstance(recipe, Pretrain) and recipe.phases and budget == "day":
        changes["phases"] = tuple(replace(phase, steps=_LONG * phase.steps) for phase in recipe.phases)
        return replace(recipe, **changes)
    if budget == "paper" or (budget != "smoke" and recipe.epochs is None):
        return recipe
    if recipe.epochs is not None:
        changes["epochs"] = _epochs(recipe, recipe.epochs, budget)
    if budget == "cpu":
        changes["lr"] = max(recipe.lr, 1e-3)
    if budget == "day" and recipe.epochs is not None and recipe.epochs.short_side:
        changes["lr"] = max(recipe.lr, 2e-3 if isinstance(recipe, Pretrain) else 1e-3)
    if not isinstance(recipe, Probe):  # a probe's network is that of a run, cut already
        changes["architecture"] = _narrower(recipe.architecture, budget)
    if budget == "smoke" and isinstance(recipe, Pretrain):
        changes["phases"] = tuple(replace(p, steps=4, crop=min(p.crop, 32), batch=2) for p in recipe.phases)
    elif budget == "smoke":
        changes["labeled"] = min(recipe.labeled, 10)
    if isinstance(recipe, Finetune):
        hidden = min(recipe.head.hidden, {"smoke": 64, "cpu": 512}.get(budget, 1024))
        changes |= {"head": replace(recipe.head, hidden=hidden), "freeze": -(-recipe.freeze * _fifths(recipe) // 5)}
        if budget == "smoke":
            changes |= {"validation": 10, "crops": min(recipe.crops, 2)}
        if budget == "smoke" and recipe.freeze:  # an epoch with the old layers frozen, and one with all
            changes |= {"freeze": 1, "epochs": replace(changes["epochs"], count=2)}
    return replace(recipe, **changes)


def _narrower(architecture: Architecture | WideResNet, budget: Budget) -> Architecture | WideResNet:
    if isinstance(architecture, WideResNet):
        return replace(architecture, widen=max(1, architecture.widen // (8 if budget == "smoke" else 4)))
    width = 8 if budget == "smoke" else (_CPU_WIDTH if budget == "cpu" else _DAY_WIDTH)[architecture.network]
    widths = tuple(max(1, channels // width) for channels in architecture.widths)
    return replace(architecture, n=max(1, architecture.n // width), widths=widths)


def _epochs(recipe: Pretrain | Finetune | Probe, epochs: DataConfig, budget: Budget) -> DataConfig:
    scaled = bool(epochs.short_side)
    data = epochs.data.replace("imagenet", "tiny-imagenet", 1)
    if budget == "smoke":
        side = 40 if scaled else 0
        tested = side if epochs.test_side else 0
        crop = min(epochs.crop, 33)
        return replace(epochs, data=data, count=1, batch=4, crop=crop, short_side=side, test_side=tested, samples=24)
    zoom = epochs.zoom
    if budget == "day":
        data = {"tiny-imagenet": "imagenet-subsets", "voc12": "voc12-aug"}.get(data, data)
    if isinstance(recipe, Pretrain) and budget == "day":
        count, by = (5, 4) if scaled else (epochs.count, 1)
        if data == "imagenet-subsets":
            zoom = 113 / 57
    elif isinstance(recipe, Pretrain):
        count, by = epochs.count if epochs.count <= 6 else epochs.count // 10, 4
    else:
        masks = isinstance(recipe, Finetune) and recipe.metric == "miou"
        count, by = epochs.count * _fifths(recipe) // 5, 2 if masks else 4
        if isinstance(recipe, Probe):  # in fewer they do not converge
            count = epochs.count
        if data == "voc12-aug":
            count = epochs.count // 50
    if not scaled:
        return replace(epochs, count=count)
    crop = (epochs.crop - 1) // by + 1
    samples = epochs.samples and _TINY_SAMPLES
    side, tested = epochs.short_side // by, epochs.test_side // by
    if zoom > epochs.zoom:
        side *= 2
    if tested and data == "tiny-imagenet":  # whose images have no pixels to spare
        side, tested, zoom = tested, 0, 1.0
    return replace(
        epochs, data=data, count=count, crop=crop, short_side=side, test_side=tested, samples=samples, zoom=zoom
    )


def _fifths(recipe: Finetune | Probe) -> int:
    """Return how many fifths of its epochs a fine-tuning keeps: with few labels, one fifth would be too few steps."""
    return 3 if isinstance(recipe, Finetune) and (recipe.labeled or recipe.fold is not None) else 1
