"""Recipes: one Python file per experiment, with ``PRETRAIN``, ``FINETUNE`` or both, described in its docstring.

A *variant* is a recipe with one thing changed, as the paper's tables compare them; a *budget* is a recipe cut down by
the rules of :mod:`skipae_train.recipes.budgets`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from types import ModuleType
from typing import Any, TypeVar, Unpack, cast

from skipae.errors import SkipaeError, suggest
from skipae_train.corruption import BlockMask, GaussianNoise
from skipae_train.earlier_runs import split_name
from skipae_train.finetune import Finetune
from skipae_train.pretrain import Pretrain
from skipae_train.recipe import Budget, FinetuneKeywords, PretrainKeywords, RecipeId, Stage, differences, identified
from skipae_train.recipes.budgets import cut
from skipae_train.schedules import Cosine, Trapezoid
from skipae_train.wide_resnet import WideResNet

AnyRecipe = TypeVar("AnyRecipe", Pretrain, Finetune)
Change = Callable[[Any], Any]
"""Makes a variant of a recipe, of either kind."""


class RecipeError(SkipaeError, ValueError):
    """Unknown recipe or variant; the message names the existing ones."""

    exit_code = 2


def recipe_names() -> list[str]:
    """Return the names of the recipes, as ``skipae-train pretrain`` and ``finetune`` take them."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if m.name != "budgets")


def pretrain_recipe(name: str, *, variant: str = "", **keywords: Unpack[PretrainKeywords]) -> Pretrain:
    """Return the pre-training of a recipe.

    Args:
        name: the recipe's, see :func:`recipe_names`.
        variant: names of :data:`VARIANTS`, joined by ``+``.
        **keywords: ``budget``, ``seed``, ``data`` and ``lr`` of :class:`skipae_train.recipe.RecipeId`.

    Raises:
        RecipeError: there is no such recipe or variant, or it has no pre-training.
    """
    variants = split_variant(variant)
    return _checked(load_recipe(RecipeId(kind="pretrain", recipe=name, variants=variants, **keywords)), Pretrain)


def finetune_recipe(name: str, *, variant: str = "", **keywords: Unpack[FinetuneKeywords]) -> Finetune:
    """Return the fine-tuning of a recipe.

    Args:
        name: the recipe's, see :func:`recipe_names`.
        variant: names of :data:`VARIANTS`, joined by ``+``.
        **keywords: ``budget``, ``seed``, ``data``, ``lr``, ``fold`` and ``tuning`` of
            :class:`skipae_train.recipe.RecipeId`.

    Raises:
        RecipeError: there is no such recipe or variant, or it has no fine-tuning.
    """
    variants = split_variant(variant)
    return _checked(load_recipe(RecipeId(kind="finetune", recipe=name, variants=variants, **keywords)), Finetune)


def split_variant(variant: str) -> tuple[str, ...]:
    """Return the names of a variant as the command line takes it, ``no-shortcut+half``."""
    return tuple(variant.split("+")) if variant else ()


def load_recipe(identity: RecipeId) -> Pretrain | Finetune:
    """Return the recipe that has an identity; :class:`RecipeError` where there is none."""
    recipe: Any = _load(identity)
    if identity.data is not None:
        recipe = on_set(recipe, identity.data)
    if identity.fold is not None:
        if not isinstance(recipe, Finetune) or recipe.fold is None:
            on = recipe.epochs.data if recipe.epochs else "photos"
            raise RecipeError(f"--fold is for recipes on STL-10, not for {identity.recipe} on {on}")
        recipe = replace(recipe, fold=identity.fold)
    if identity.lr == recipe.lr:
        identity = replace(identity, lr=None)
    if identity.lr is not None:
        recipe = replace(recipe, lr=identity.lr, muon_lr=recipe.muon_lr * identity.lr / recipe.lr)
    if identity.tuning:
        recipe = replace(recipe, tuning=True)
    made: Pretrain | Finetune = identified(replace(recipe, name=identity.name, seed=identity.seed), identity)
    return made


def on_set(recipe: AnyRecipe, data: str) -> AnyRecipe:
    """Return a recipe on another set than its own, ``data`` as :func:`skipae_train.datasets.load` names it.

    Images of any size are scaled as the recipe's are; if those have one size, so that a crop is 7/8 of the short side.
    A classifier learns one class an image, but on ``voc07`` several labels, and from all images with a label.
    """
    if recipe.epochs is None:
        raise RecipeError(f"{recipe.name} trains on photos, any folder of them: another set is for recipes on sets")
    short_side = recipe.epochs.short_side or recipe.epochs.crop * 8 // 7
    recipe = replace(recipe, epochs=replace(recipe.epochs, data=data, short_side=short_side))
    if not isinstance(recipe, Finetune):
        return recipe
    head = recipe.head
    if head.kind != "decoder":
        head = replace(head, scores="sigmoid" if data == "voc07" else "softmax")
    return replace(recipe, head=head, fold=None, labeled=0)


def has(name: str, part: str) -> bool:
    """Return whether a recipe has the part ``PRETRAIN`` or ``FINETUNE``."""
    return hasattr(_module(name), part)


def identity_of(described: Mapping[str, Any]) -> RecipeId | None:
    """Return the identity of a run, from its ``recipe.json``; None where the recipe was written or changed in Python.

    Runs of versions that did not write it have the one, if any, whose recipe is the same today.
    """
    if described.get("id"):
        return RecipeId.from_json(described["id"])
    recipe, variants = split_name(described["name"])
    kind: Stage = "finetune" if "head" in described else "pretrain"
    if not recipe or not has(recipe, kind.upper()):
        return None
    plain = RecipeId(kind=kind, recipe=recipe, variants=variants, seed=described["seed"])
    budgets: tuple[Budget, ...] = ("paper", "cpu", "day", "smoke")  # the first of those that are alike
    for budget in budgets:
        identity = replace(plain, budget=budget)
        own: Any = load_recipe(identity)
        data = (described.get("epochs") or {}).get("data")
        if own.epochs is not None and own.epochs.data != data:
            identity = replace(identity, data=data)
        identity = replace(identity, lr=described.get("lr"), tuning=described.get("tuning", False))
        if described.get("fold") != getattr(own, "fold", None):
            identity = replace(identity, fold=described.get("fold"))
        with suppress(RecipeError):
            made = load_recipe(identity)
            if not differences(described, made):
                return made.id
    return None


def describe(name: str) -> str:
    """Return the docstring of a recipe: command, hardware, hours, expected results."""
    return (_module(name).__doc__ or "").strip()


def _module(name: str) -> ModuleType:
    if name not in recipe_names():
        raise RecipeError(
            f"unknown recipe {name!r}{suggest(name, recipe_names())}; use one of {', '.join(recipe_names())}"
        )
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def _checked(recipe: Pretrain | Finetune, kind: type[AnyRecipe]) -> AnyRecipe:
    if not isinstance(recipe, kind):
        raise TypeError(f"{recipe.name} is not a {kind.__name__}")
    return recipe


def _load(identity: RecipeId) -> Pretrain | Finetune:
    """Return a recipe with its variants, cut to its budget."""
    name, command = identity.recipe, identity.kind
    found = getattr(_module(name), command.upper(), None)
    if not isinstance(found, Pretrain if command == "pretrain" else Finetune):
        able = ", ".join(other for other in recipe_names() if has(other, command.upper()))
        raise RecipeError(f"the recipe {name} has no stage {command}; use one of {able}")
    for change in identity.variants:
        if change not in VARIANTS:
            raise RecipeError(
                f"unknown variant {change!r}{suggest(change, VARIANTS)}; use one of {', '.join(VARIANTS)}, or A+B for "
                "both"
            )
        found = VARIANTS[change](found)
    masked = isinstance(found, Pretrain) and found.loss == "masked"
    if masked and (found.epochs is None or not isinstance(found.corruption, BlockMask)):
        raise RecipeError(
            f"the variant {'+'.join(identity.variants)} of {name} has a loss on masked pixels, but no block masks: "
            "context-encoder is for recipes on sets, and with no other corruption"
        )
    made: Pretrain | Finetune = cut(cast(Any, found), identity.budget)
    return made


def _network(**changes: Any) -> Change:
    def change(recipe: AnyRecipe) -> AnyRecipe:
        if isinstance(recipe.architecture, WideResNet):
            raise RecipeError("a Wide-ResNet always has its own shortcuts; omit the variant wide-resnet or the other")
        return replace(recipe, architecture=replace(recipe.architecture, **changes))

    return change


def _context_encoder(recipe: AnyRecipe) -> AnyRecipe:
    """Make the Context Encoder of table 4: one big block, a loss on it alone, no shortcut at all."""
    changed: AnyRecipe = _corrupted(BlockMask("big"))(_network(shortcuts="none")(recipe))
    return replace(changed, loss="masked") if isinstance(changed, Pretrain) else changed


def _corrupted(corruption: GaussianNoise | BlockMask) -> Change:
    """Return a change to another corruption in pre-training; a mask's fill is the mean color."""

    def change(recipe: AnyRecipe) -> AnyRecipe:
        if not isinstance(recipe, Pretrain):
            return recipe
        filled = replace(corruption, fill=recipe.mean) if isinstance(corruption, BlockMask) else corruption
        return replace(recipe, corruption=filled)

    return change


def _shorter(by: int) -> Change:
    """Return a change to a pre-training of ``by`` times fewer epochs."""

    def change(recipe: AnyRecipe) -> AnyRecipe:
        if not isinstance(recipe, Pretrain) or recipe.epochs is None:
            return recipe
        return replace(recipe, epochs=replace(recipe.epochs, count=max(1, recipe.epochs.count // by)))

    return change


def _wide_resnet(recipe: AnyRecipe) -> AnyRecipe:
    """Take the encoder of supplement C in pre-training: WRN-16-8.

    Its 11 million weights are nearest below Network-1's 14.  The paper does not say which it took.
    """
    return replace(recipe, architecture=WideResNet(16, 8), init="he") if isinstance(recipe, Pretrain) else recipe


def _modern(recipe: AnyRecipe) -> AnyRecipe:
    """Add what is newer than the paper: warm-up and cosine, averaged weights and flips in both phases.

    Pre-training learns from corruptions of several strengths, fine-tuning lasts twice as long and, on photos, sees them
    at several scales; segmentation counts rare classes more.
    """
    changed = replace(recipe, schedule=Cosine(warmup=300), ema_decay=0.999)
    if isinstance(changed, Finetune):
        epochs = replace(changed.epochs, count=2 * changed.epochs.count, flip=True)
        if epochs.short_side and epochs.zoom == 1:  # crops of 0.88 to 1.5 times the size at the test
            side = epochs.short_side
            epochs = replace(epochs, short_side=side * 3 // 2, test_side=side, zoom=1.7)
        if changed.metric == "miou":
            # The answer of highest intersection over union u takes a class from a probability of u / (1 + u) on, not
            # 1/2 (as for F1, Lipton et al. 2014): a third where u is 0.5.
            changed = replace(changed, balance=1 / 3)
        return replace(changed, epochs=epochs)
    if isinstance(changed.corruption, BlockMask) and changed.corruption.kind == "small":
        changed = replace(changed, corruption=replace(changed.corruption, coverage=(0.1, 0.6)))
    elif isinstance(changed.corruption, GaussianNoise):
        changed = replace(changed, corruption=GaussianNoise((5.0, 55.0)))
    if changed.epochs is not None:
        changed = replace(changed, epochs=replace(changed.epochs, flip=True))
    return changed


def _wider(*factors: float) -> Change:
    """Return a change that multiplies the channels of Network-1's stages."""

    def change(recipe: AnyRecipe) -> AnyRecipe:
        shape = recipe.architecture
        if isinstance(shape, WideResNet) or shape.network != "network-1":
            raise RecipeError(f"{recipe.name} has no Network-1, whose stages this variant makes wider")
        widths = shape.widths or tuple(shape.n * 2**stage for stage in range(4))
        widths = tuple(round(width * factor) for width, factor in zip(widths, factors, strict=True))
        return replace(recipe, architecture=replace(shape, n=widths[0], widths=widths))

    return change


def _deeper(recipe: AnyRecipe) -> AnyRecipe:
    """Add one more convolution to each of Network-1's stages."""
    if isinstance(recipe.architecture, WideResNet) or not recipe.architecture.m:
        raise RecipeError(f"{recipe.name} has no Network-1, whose stages this variant makes longer")
    longer: AnyRecipe = _network(m=tuple(count + bool(count) for count in recipe.architecture.m))(recipe)
    return longer


def _on_photos(**changes: Any) -> Change:
    """Return a change of fields of a pre-training on photos."""

    def change(recipe: AnyRecipe) -> AnyRecipe:
        if not isinstance(recipe, Pretrain):
            return recipe
        if not recipe.phases:
            raise RecipeError(f"{recipe.name} does not pre-train on photos: this variant is for natural")
        return replace(recipe, **changes)

    return change


def _large_patches(recipe: AnyRecipe) -> AnyRecipe:
    """Make crops half as large again, with as many pixels a step."""
    if not isinstance(recipe, Pretrain):
        return recipe
    phases = tuple(replace(p, crop=p.crop * 3 // 2, batch=max(1, round(p.batch * 4 / 9))) for p in recipe.phases)
    return _on_photos(phases=phases)(recipe)  # type: ignore[no-any-return]


def _in_finetuning(**changes: Any) -> Change:
    return lambda recipe: replace(recipe, **changes) if isinstance(recipe, Finetune) else recipe


_random = _in_finetuning(start=None, freeze=0, corruption=None)
"""Without pre-training, and without what supplement B adds to it alone."""
_from_labels = _in_finetuning(
    start="imagenet-labels", start_kind="finetune", transfer=("encoder",), init="he", old_share=0.3
)
"""The encoder of a classifier of ImageNet; what is new is drawn by He's rule and learns faster."""
DECAY = 5e-4
"""Weight decay of the variants of supplement C: Wide ResNet's."""
SGD_LR = 0.1
"""Learning rate of SGD with momentum: Wide ResNet's."""
VARIANTS: dict[str, Change] = {
    "no-shortcut": _network(shortcuts="input-output"),
    "random": _random,
    "random-he": lambda recipe: replace(_random(recipe), init="he"),
    "post": _network(topology="post"),
    "context-encoder": _context_encoder,
    "new-he": _in_finetuning(init="he"),
    "from-labels": _from_labels,
    "encoder-only": _in_finetuning(transfer=("encoder",)),
    "from-animal": _in_finetuning(start="imagenet-animal"),
    "from-vehicle": _in_finetuning(start="imagenet-vehicle"),
    "all-labels": _in_finetuning(labeled=0),
    "gaussian": _corrupted(GaussianNoise((30.0, 30.0))),
    "big-block": _corrupted(BlockMask("big")),
    "small-blocks": _corrupted(BlockMask("small")),
    "half": _shorter(2),
    "quarter": _shorter(4),
    "eighth": _shorter(8),
    "sgd": lambda recipe: replace(recipe, optimizer="sgd", lr=SGD_LR),
    "sgd-finetune": _in_finetuning(optimizer="sgd", lr=SGD_LR),
    "decay": lambda recipe: replace(recipe, weight_decay=DECAY),
    "decay-finetune": _in_finetuning(weight_decay=DECAY),
    "wide-resnet": _wide_resnet,
    "modern": _modern,
    "wide-full": _wider(1.5, 1, 1, 1),
    "wide-half": _wider(1, 1.5, 1, 1),
    "deep": _deeper,
    "residual": _network(residual=True),
    "deep-decoder": _network(refine=1),
    "no-norm": _network(norm="none"),
    "adam": lambda recipe: replace(recipe, muon_lr=0.0),
    "large-patches": _large_patches,
    "high-rate": _on_photos(schedule=Trapezoid(warmup=150, cooldown=0.25)),
}
