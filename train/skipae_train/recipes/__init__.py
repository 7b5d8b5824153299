"""Recipes: one Python file per experiment, each with a ``RECIPE`` and, in its docstring, what to expect."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace

from skipae_train.pretrain import Pretrain


def recipe_names() -> list[str]:
    """The recipes that exist, as ``skipae-train pretrain`` takes them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load_recipe(name: str) -> Pretrain:
    """The recipe with this name; :class:`KeyError` if there is none."""
    if name not in recipe_names():
        raise KeyError(name)
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    recipe = module.RECIPE
    if not isinstance(recipe, Pretrain):
        raise TypeError(f"{module.__name__}.RECIPE must be a Pretrain")
    return recipe


def smoke(recipe: Pretrain) -> Pretrain:
    """The same recipe at the smoke budget: an eighth of the width, small crops, a few steps per phase."""
    return replace(
        recipe,
        architecture=replace(recipe.architecture, n=max(1, recipe.architecture.n // 8)),
        phases=tuple(replace(phase, steps=4, crop=min(phase.crop, 32), batch=2) for phase in recipe.phases),
    )
