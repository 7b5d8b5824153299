"""Runs of earlier versions: fields had other names, and the recipe is parsed from the run's name.

The lists are closed; later recipes and variants are not in them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

FIELDS = {
    "optimiser": "optimizer",
    "decay": "weight_decay",
    "ema": "ema_decay",
    "clip": "max_grad_norm",
    "labelled": "labeled",
}
"""Names of fields of ``recipe.json``, before and now."""
RECIPES = (
    "camvid-seg", "cifar10", "cifar10-4k", "cifar100", "imagenet", "imagenet-animal", "imagenet-labels",
    "imagenet-vehicle", "natural", "natural-more", "stl10", "voc07-cls", "voc12-seg",
)  # fmt: skip
VARIANTS = (
    "no-shortcut", "random", "random-he", "post", "context-encoder", "encoder-only", "from-animal", "from-vehicle",
    "all-labels", "gaussian", "big-block", "small-blocks", "half", "quarter", "eighth", "sgd", "sgd-finetune", "decay",
    "decay-finetune", "wide-resnet", "modern", "from-labels", "new-he",
)  # fmt: skip


def split_name(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the recipe and the variants that a run's name is made of; ``("", ())`` where there are none such.

    >>> split_name("cifar10-4k-no-shortcut-half-fold3")
    ('cifar10-4k', ('no-shortcut', 'half'))
    """
    plain = re.sub(r"(-fold\d)?(-lr[\d.e-]+)?(-try)?$", "", name)
    recipe = max((known for known in RECIPES if f"{plain}-".startswith(f"{known}-")), key=len, default="")
    variants = re.findall("|".join(sorted(VARIANTS, key=len, reverse=True)), plain[len(recipe) :])
    return (recipe, tuple(variants)) if "-".join([recipe, *variants]) == plain else ("", ())


def upgraded(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``recipe.json`` as it is written today."""
    values = {FIELDS.get(name, name): value for name, value in described.items()}
    if values.get("start") == "imagenet-labels":
        values.setdefault("start_kind", "finetune")
    if values.get("background") == 1.0:  # a weight that is no more, and was none
        del values["background"]
    return values
