"""The cost of training: the number of operations of a run, computed from its recipe."""

from __future__ import annotations

from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from skipae_train.feed import DataConfig
from skipae_train.finetune import Finetune
from skipae_train.networks import AutoEncoder, Classifier, Segmenter
from skipae_train.pretrain import Pretrain
from skipae_train.wide_resnet import WideResNet, WideResNetAutoEncoder
from skipae_zoo import Architecture, Head

CPU_RATE = 326e9
"""Operations a second that training Network-2 reached on two cores with AVX-512 bf16 (``benchmarks/training.py``)."""
IMAGES = {
    "cifar10": 50_000,
    "cifar100": 50_000,
    "stl10": 100_000,
    "imagenet": 1_281_167,
    "tiny-imagenet": 100_000,
    "voc07": 5_011,
    "voc12": 1_464,
    "voc12-aug": 10_582,
    "camvid": 367,
}
"""Images of the whole training sets; of STL-10 the unlabeled ones."""
CLASSES = {"cifar100": 100, "voc07": 20, "voc12": 21, "camvid": 11}
FOLD = 1000
"""Images of a fold of STL-10."""


def training_operations(recipe: Pretrain | Finetune) -> float | None:
    """Return the operations of all forward and backward passes of a run; tests and validation add a few percent.

    None if it trains on photos, or on a set of unknown size.
    """
    epochs = recipe.epochs
    count = None if epochs is None else images(epochs)
    if epochs is None or count is None:
        return None
    if isinstance(recipe, Pretrain):
        return operations(recipe.architecture, None, 0, epochs.crop) * count * epochs.count
    if recipe.fold is not None:
        count = FOLD
    each = operations(recipe.architecture, recipe.head, CLASSES.get(epochs.data, 10), epochs.crop)
    return each * (recipe.labeled or count) * epochs.count


@cache
def operations(architecture: Architecture | WideResNet, head: Head | None, classes: int, crop: int) -> float:
    """Return the operations of training on one image, forward and backward."""
    with torch.device("meta"):
        network: torch.nn.Module
        if isinstance(architecture, WideResNet):
            network = WideResNetAutoEncoder(architecture)
        elif head is None:
            network = AutoEncoder(architecture)
        elif head.kind == "decoder":
            network = Segmenter(architecture, classes, head=head)
        else:
            network = Classifier(architecture, classes, head, crop=crop)
        batch = torch.empty(2, 3, crop, crop)
    with FlopCounterMode(display=False) as counter:
        network.train()(batch).sum().backward()
    return float(counter.get_total_flops()) / len(batch)


def images(epochs: DataConfig) -> int | None:
    """Return the number of images of an epoch; None for a set of unknown size."""
    names = {name: (name, f"{name}-animal", f"{name}-vehicle") for name in IMAGES}
    whole = next((IMAGES[name] for name, same in names.items() if epochs.data in same), None)
    return whole and min(epochs.samples or whole, whole)
