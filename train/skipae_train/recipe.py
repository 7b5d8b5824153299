"""Recipes: the fields that all recipes share, and the identity of a recipe as data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypedDict, TypeVar

from skipae_train.corruption import Color
from skipae_train.earlier_runs import upgraded
from skipae_train.networks import Init
from skipae_train.schedules import Schedule

Budget = Literal["smoke", "cpu", "day", "paper"]
Stage = Literal["pretrain", "finetune"]


@dataclass(frozen=True, kw_only=True)
class RecipeId:
    """Which recipe a run follows: enough to make the recipe again, its command and the name of its folder."""

    kind: Stage
    recipe: str
    """Name of its file in ``skipae_train.recipes``."""
    variants: tuple[str, ...] = ()
    """Names of ``skipae_train.recipes.VARIANTS``."""
    budget: Budget = "paper"
    """How far the recipe is scaled down."""
    seed: int = 0
    """Random seed of everything that a run draws."""
    data: str | None = None
    """Another set than the recipe's (``--set``)."""
    fold: int | None = None
    """Another fold of STL-10 than the recipe's, 0 to 9."""
    lr: float | None = None
    """Another learning rate than the recipe's."""
    tuning: bool = False
    """True if the run is a try, measured on held-out labels, that a learning rate is chosen by; no command makes it."""
    after: tuple[str, ...] = ()
    """Variants of the pre-training that a fine-tuning starts from, besides those of its own."""

    @property
    def name(self) -> str:
        """Short and without budget and seed: ``cifar10-4k-no-shortcut-lr0.006``."""
        fold = [] if self.fold is None else [f"fold{self.fold}"]
        lr = [] if self.lr is None else [f"lr{self.lr:g}"]
        after = ["after", *self.after] if self.after else []
        return "-".join([self.recipe, *self.variants, *fold, *lr, *(["try"] if self.tuning else []), *after])

    @property
    def folder(self) -> str:
        """Name of the run's folder where ``skipae-train reproduce`` makes it."""
        return f"{self.kind}-{self.name}-{self.budget}-seed{self.seed}"

    @property
    def command(self) -> str:
        """The words after ``skipae-train``: ``pretrain cifar10 --budget cpu``; empty for a try."""
        if self.tuning:
            return ""
        options = {
            "set": self.data,
            "variant": "+".join(self.variants) or None,
            "budget": None if self.budget == "paper" else self.budget,
            "seed": self.seed or None,
            "fold": self.fold,
            "lr": self.lr,
        }
        return " ".join([self.kind, self.recipe, *(f"--{k} {v}" for k, v in options.items() if v is not None)])

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RecipeId:
        """Read what ``recipe.json`` holds as ``id``; :class:`TypeError` or :class:`ValueError` where it is none."""
        lists = {key: tuple(values[key]) for key in ("variants", "after") if key in values}
        identity = cls(**{**values, **lists})
        texts = (identity.recipe, *identity.variants, *identity.after, identity.data or "")
        if identity.kind not in ("pretrain", "finetune") or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"id is {json.dumps(dict(values))}")
        return identity


class PretrainKeywords(TypedDict, total=False):
    """Fields of :class:`RecipeId` that choose how a recipe is pre-trained."""

    budget: Budget
    seed: int
    data: str | None
    lr: float | None


class FinetuneKeywords(PretrainKeywords, total=False):
    """Fields of :class:`RecipeId` that choose how a recipe is fine-tuned."""

    fold: int | None
    tuning: bool


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the recipes of pre-training and of fine-tuning have in common."""

    name: str
    id: RecipeId | None = field(default=None, init=False, compare=False)
    """How the recipe was made; None for one that was written or changed in Python."""
    lr: float = 1e-4
    schedule: Schedule
    optimizer: Literal["adam", "sgd"] = "adam"
    """``adam`` is the paper's; ``sgd`` has a momentum of 0.9 (supplement C)."""
    muon_lr: float = 0.0
    """Learning rate of Muon for the kernels, but for the first's and the last's; 0 leaves all to ``optimizer``."""
    weight_decay: float = 0.0
    """Weight decay, L2 on all weights; the paper has none."""
    init: Init = "normal"
    mean: Color = (0.5, 0.5, 0.5)
    std: Color = (0.25, 0.25, 0.25)
    ema_decay: float = 0.0
    """Decay per step of the averaged weights, which are the ones exported and tested; 0 for none."""
    max_grad_norm: float = 0.0
    """Largest norm of the gradient; 0 for no limit."""
    seed: int = 0


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def identified(recipe: AnyRecipe, identity: RecipeId) -> AnyRecipe:
    """Give a recipe that was just made its identity.  ``dataclasses.replace`` drops it, since it is then another."""
    object.__setattr__(recipe, "id", identity)
    return recipe


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as ``recipe.json`` holds it."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    if recipe.id is None:
        del values["id"]
    return values


def differences(described: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Return the differences between a ``recipe.json`` and a recipe, one line each.

    Fields that an earlier version did not write had the default.
    """
    # A name is a label, and so is the id.
    there, asked = (dict(_leaves({**fields, "id": 0, "name": 0})) for fields in (upgraded(described), to_json(recipe)))
    there = {**{name: value for name, value in _defaults(recipe) if name in asked}, **there}
    return [
        f"{name} is {there.get(name)!r} there, {asked.get(name)!r} requested"
        for name in {**there, **asked}
        if there.get(name) != asked.get(name)
    ]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a recipe by name, those of its parts as ``epochs.count``."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _defaults(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for each in fields(part):
        if each.default is not MISSING:
            yield f"{prefix}{each.name}", json.loads(json.dumps(each.default, default=str))
        value = getattr(part, each.name)
        if is_dataclass(value):
            yield from _defaults(value, f"{prefix}{each.name}.")
