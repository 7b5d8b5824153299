"""Reproduce tables and figures of the paper: train what is missing, and list our numbers next to the paper's."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from skipae_train.corruption import Corruption
from skipae_train.cost import training_operations
from skipae_train.data import DataError
from skipae_train.datasets import COARSE
from skipae_train.errors import Diverged
from skipae_train.evaluate import complete_mean
from skipae_train.feed import open_set
from skipae_train.finetune import Finetune, finetune, load_finetuned
from skipae_train.machine import Machine, RunOptions
from skipae_train.networks import AutoEncoder, Network
from skipae_train.plots import figure, grid, save_figure, save_picture, to_pixels
from skipae_train.pretrain import center_crops, load_run, pretrain, restored_batches
from skipae_train.probe import Probe, probe, write_probes
from skipae_train.recipe import Budget, RecipeId
from skipae_train.recipes import finetune_recipe, load_recipe, pretrain_recipe, split_variant
from skipae_train.recipes.budgets import cut
from skipae_train.run_folder import load_state, read_environment, read_result, write_bytes, write_csv, write_json
from skipae_train.run_log import read_log
from skipae_train.tables import RESULTS, Column, Measure, Result, Table

RunScores = dict[str, Any]
TRIES = (1.0, 3.0, 1 / 3)
"""Factors on a recipe's learning rate of fine-tuning, the best of which a row takes where rows are tuned."""
TUNING = (
    "lr: the best of as many tries for each row that has one, all shown in result.json; on labels held out of those to "
    "train on (of pre-training: PSNR of held-out images after an eighth of the epochs), with the first seed and fold"
)


@dataclass(frozen=True)
class Planned:
    """A run that a result needs."""

    folder: str
    label: str
    """What a progress bar calls it: ``no-shortcut, seed 0``."""
    operations: float | None
    """Floating-point operations of its training; None where it is not known how many images its set has."""


def pretraining_of(name: str, variant: str, budget: Budget, seed: int, base: str = "") -> RecipeId:
    """Return the pre-training of a recipe by the variants ``base`` and ``variant``.

    Those of ``variant`` that do not concern it share one.
    """
    plain = RecipeId(kind="pretrain", recipe=name, variants=split_variant(base), budget=budget, seed=seed)
    both = tuple(dict.fromkeys((*plain.variants, *split_variant(variant))))
    changed = replace(plain, variants=both)
    same = replace(load_recipe(changed), name="") == replace(load_recipe(plain), name="")
    return plain if same else changed


def start_of(identity: RecipeId) -> RecipeId:
    """Return the run that a fine-tuning starts from, by the same variants as far as they concern it."""
    recipe = finetune_recipe(identity.recipe, variant="+".join(identity.variants), budget=identity.budget)
    if recipe.start is None:
        raise ValueError(f"{recipe.name} starts from random weights")
    if recipe.start_kind == "finetune":
        return RecipeId(kind="finetune", recipe=recipe.start, budget=identity.budget)
    return pretraining_of(recipe.start, "+".join(identity.variants), identity.budget, 0)


def tuning_of_pretraining(name: str, variant: str, budget: Budget, base: str = "") -> dict[float, RecipeId]:
    """Return the tries of the learning rate of a pre-training by SGD, of an eighth of its epochs;
    {} for other optimizers.
    """
    if load_recipe(pretraining_of(name, variant, budget, 0, base)).optimizer != "sgd":
        return {}
    short = pretraining_of(name, f"{variant}+eighth".strip("+"), budget, 0, base)
    own = load_recipe(short).lr
    return {rate: replace(short, lr=None if rate == own else rate) for rate in _rates(own, budget)}


def _rates(own: float, budget: Budget) -> list[float]:
    return [float(f"{factor * own:.3g}") for factor in (TRIES[:2] if budget == "smoke" else TRIES)]


def finetunings(name: str, variant: str, budget: Budget, seeds: int, lr: float | None = None) -> list[RecipeId]:
    """Return a run for each seed, and for each fold where the recipe has folds."""
    recipe = finetune_recipe(name, variant=variant, budget=budget)
    folds: Sequence[int | None] = [None] if recipe.fold is None else range(2 if budget == "smoke" else 10)
    own = RecipeId(kind="finetune", recipe=name, variants=split_variant(variant), budget=budget)
    rate = None if lr == recipe.lr else lr
    return [replace(own, seed=seed, fold=fold, lr=rate) for seed in range(seeds) for fold in folds]


def tuning(name: str, variant: str, budget: Budget) -> dict[float, RecipeId]:
    """Return the tries of learning rates, :data:`TRIES` times the recipe's, by rate; with the first seed and fold."""
    recipe = finetune_recipe(name, variant=variant, budget=budget)
    first = replace(finetunings(name, variant, budget, 1)[0], fold=recipe.fold, tuning=True)
    return {rate: replace(first, lr=None if rate == recipe.lr else rate) for rate in _rates(recipe.lr, budget)}


def columns_of(table: Table, data: Path | None) -> list[Column]:
    """Return the columns of a table, by the recipes whose sets are below ``data``; None for those of the paper."""
    if not any(column.instead for column in table.columns) or data is None or (data / "VOCdevkit" / "VOC2012").is_dir():
        return list(table.columns)
    others = [column for column in table.columns if column.instead]
    return [replace(column, label=f"{column.label}, {column.instead}", recipe=column.instead) for column in others]


def list_runs(name: str, budget: Budget, seeds: int, data: Path | None = None, base: str = "") -> list[RecipeId]:
    """Return the runs that a result needs, each once and in order, but for the probes of figure 3.

    Runs whose rate is tuned have the recipe's in the plan, whatever the tries will choose.  ``base`` is a variant of
    all pre-training.
    """
    result = RESULTS[name]
    found: dict[str, RecipeId] = {}

    def pretrained(recipe: str, variant: str, seed: int) -> None:
        for identity in tuning_of_pretraining(recipe, variant, budget, base).values():
            found.setdefault(identity.folder, identity)
        identity = pretraining_of(recipe, variant, budget, seed, base)
        found.setdefault(identity.folder, identity)

    def finetuned(identity: RecipeId) -> None:
        recipe = load_recipe(identity)
        if isinstance(recipe, Finetune) and recipe.start:
            pretrained(recipe.start, "+".join(identity.variants), identity.seed)
            identity = replace(identity, after=split_variant(base))
        found.setdefault(identity.folder, identity)

    if name == "fig3":
        networks, classifier = _layers_of(budget)
        for seed in range(seeds):
            for variant in networks.values():
                pretrained(classifier, variant, seed)
            finetuned(replace(finetunings(classifier, "random+all-labels", budget, 1)[0], seed=seed))
    for row in result.table.rows if result.table else ():
        for column in columns_of(result.table, data) if result.table else ():
            if column.measure in row.without:
                continue
            if column.pretrained:
                for seed in range(seeds):
                    pretrained(column.recipe, row.variant, seed)
                continue
            if row.tuned or (result.table and result.table.tuned):
                for identity in tuning(column.recipe, row.variant, budget).values():
                    finetuned(identity)
            for identity in finetunings(column.recipe, row.variant, budget, seeds):
                finetuned(identity)
    for network in result.pretrainings:
        pretrained(network.recipe, network.variant, 0)
    return list(found.values())


class RunProgress:
    """Prints the number of each run and the remaining time of all runs."""

    def __init__(self, planned: Sequence[RecipeId], say: Callable[[str], None]) -> None:
        self.say = say
        self.planned = {identity.folder: identity for identity in planned}
        self._met: set[str] = set()
        self._done, self._seconds = 0.0, 0.0
        """Operations of the runs that were carried out here, and what they took."""
        self._costs = {folder: training_operations(load_recipe(i)) for folder, i in self.planned.items()}

    def begin(self, identity: RecipeId, *, new: bool) -> str:
        """Count a run, announce it where it is a new one, and return its title."""
        # A rate chosen by tries appears in the plan as the recipe's.
        key = identity.folder if identity.folder in self.planned else replace(identity, lr=None).folder
        self._met.add(key)
        what = ", ".join(
            [
                "+".join(identity.variants) or "plain",
                *([] if identity.fold is None else [f"fold {identity.fold}"]),
                *([f"a try of lr {identity.lr or load_recipe(identity).lr:g}"] if identity.tuning else []),
                f"seed {identity.seed}",
            ]
        )
        kind = "pre-training" if identity.kind == "pretrain" else "fine-tuning"
        title = f"run {len(self._met)} of {len(self.planned)}: {kind} {identity.recipe}, {what}"
        if new:
            self.say(f"{title}{self._left(key)}")
        return title

    def end(self, identity: RecipeId, seconds: float) -> None:
        """Count what a run took."""
        self._done += training_operations(load_recipe(identity)) or 0.0
        self._seconds += seconds

    def _left(self, current: str) -> str:
        left = [cost for folder, cost in self._costs.items() if folder == current or folder not in self._met]
        if not self._done or None in left:
            return ""
        return f", about {duration(sum(filter(None, left)) * self._seconds / self._done)} left"


def duration(seconds: float) -> str:
    """Return a time in words, to the minute, or to the tenth of an hour."""
    return f"{max(1, round(seconds / 60))} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Bench:
    """Runs recipes at a budget, each in a folder of its own, where a stopped run continues and a finished one is read.

    Args:
        budget: of all runs.
        seeds: whole repetitions.
        data: folder of the sets.
        runs: folder of the runs.
        run_options: how they are carried out.
        pretraining: a variant of all pre-training.
        progress: announces them.
    """

    def __init__(
        self,
        budget: Budget,
        seeds: int,
        data: Path,
        runs: Path,
        run_options: RunOptions,
        pretraining: str = "",
        progress: RunProgress | None = None,
    ) -> None:
        self.budget, self.seeds, self.data, self.runs, self.run_options = budget, range(seeds), data, runs, run_options
        self.pretraining, self.progress = pretraining, progress
        self._tried: dict[tuple[str, str], dict[float, float]] = {}
        self.used: list[Path] = []

    def run(self, identity: RecipeId) -> Path:
        """Carry out a run, and the pre-training that it starts from; returns its folder."""
        recipe = load_recipe(identity)
        start = None
        if isinstance(recipe, Finetune) and recipe.start:
            start = self.pretrained(recipe.start, "+".join(identity.variants), identity.seed)
            identity = replace(identity, after=split_variant(self.pretraining))
            recipe = load_recipe(identity)
        out = self.folder(identity.folder)
        new = read_result(out) is None
        title = self.progress.begin(identity, new=new) if self.progress else ""
        run_options, started = replace(self.run_options, title=title), time.monotonic()
        if isinstance(recipe, Finetune):
            finetune(recipe, self.data, out, run_options, start=start)
        else:
            pretrain(recipe, self.data, out, run_options)
        if self.progress and new:
            self.progress.end(identity, time.monotonic() - started)
        return out

    def pretrained(self, name: str, variant: str = "", seed: int = 0) -> Path:
        """Return the run folder of a pre-training; by SGD at the rate that :meth:`pretraining_tries` choose."""
        identity = pretraining_of(name, variant, self.budget, seed, self.pretraining)
        rate = Cell(tries=self.pretraining_tries(name, variant)).lr
        return self.run(identity if rate is None else replace(identity, lr=rate))

    def pretraining_tries(self, name: str, variant: str) -> dict[float, float]:
        """Return PSNR in dB of held-out images by learning rate (see :func:`tuning_of_pretraining`);
        0 where it diverged.
        """
        if (name, variant) not in self._tried:
            found = self._tried[name, variant] = {}
            for lr, identity in tuning_of_pretraining(name, variant, self.budget, self.pretraining).items():
                try:
                    found[lr] = float(read_log(self.run(identity))[-1]["psnr"])
                except Diverged:
                    found[lr] = 0.0
        return self._tried[name, variant]

    def scores_of(self, identity: RecipeId) -> RunScores:
        """Return the test result of a fine-tuning, or the result of a try on held-out labels."""
        out = self.run(identity)
        found = read_result(out)
        if found is None:
            raise AssertionError(f"{out}: a run without stop_at ends with a result")
        return found

    def tries(self, name: str, variant: str) -> dict[float, float]:
        """Return what held-out labels say of learning rates (see :func:`tuning`); 0 where the loss diverged."""
        found = {}
        for lr, identity in tuning(name, variant, self.budget).items():
            try:
                found[lr] = float(self.scores_of(identity)["value"])
            except Diverged:
                found[lr] = 0.0
        return found

    def scores(self, name: str, variant: str = "", lr: float | None = None) -> list[RunScores]:
        """Return what the test set says after each seed, and after each fold where the recipe has folds."""
        return [self.scores_of(i) for i in finetunings(name, variant, self.budget, len(self.seeds), lr)]

    def psnr(self, name: str, variant: str = "") -> list[float]:
        """Return PSNR in dB of the pre-trained network on test images, for each seed."""
        return [_psnr(self.pretrained(name, variant, seed)) for seed in self.seeds]

    def network(self, name: str, variant: str = "", seed: int = 0) -> AutoEncoder:
        """Return a pre-trained network, on the device of the runs."""
        return load_run(self.pretrained(name, variant, seed))[0].to(self.machine.device)

    def test_images(self, name: str, count: int, variant: str = "", data: str = "") -> Tensor:
        """Return center crops of test images, of the recipe's set or of ``data``, spread over it, uint8
        [count, 3, S, S].
        """
        epochs = pretrain_recipe(name, variant=variant, budget=self.budget).epochs
        if epochs is None:
            raise ValueError(f"{name} does not train on a set")
        images = open_set(replace(epochs, data=data or epochs.data), self.data, "test")
        return center_crops(images.subset(torch.linspace(0, len(images) - 1, count).long()), epochs.crop)

    def corruption(self, name: str, variant: str = "") -> Corruption:
        """Return what a pre-training corrupts images with."""
        return pretrain_recipe(name, variant=variant, budget=self.budget).corruption

    @cached_property
    def machine(self) -> Machine:
        """The device that everything is computed on."""
        return self.run_options.machine()

    def folder(self, name: str) -> Path:
        """Return where a run is stored."""
        folder = self.runs / name
        if folder not in self.used:
            self.used.append(folder)
        return folder


@dataclass(frozen=True)
class Cell:
    """A number of the paper, as it is printed there, and ours."""

    paper: str = ""
    values: list[float] = field(default_factory=list)
    tries: dict[float, float] = field(default_factory=dict)
    """What held-out labels said of each learning rate, where it was tuned."""

    @property
    def lr(self) -> float | None:
        """The learning rate that was chosen, the first tried of equal ones."""
        return max(self.tries, key=lambda lr: self.tries[lr]) if self.tries else None

    def ours(self) -> str:
        """Return the mean and standard deviation."""
        if not self.values:
            return ""
        spread = f" ± {statistics.stdev(self.values):.2f}" if len(self.values) > 1 else ""
        return f"{statistics.mean(self.values):.2f}{spread}"


@dataclass(frozen=True)
class Page:
    """What a result shows: a table, and pictures by file name."""

    columns: Sequence[str] = ()
    rows: Sequence[tuple[str, Sequence[Cell]]] = ()
    pictures: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    missing: Sequence[str] = ()
    """What could not be made, and why."""


def reproduce(
    name: str,
    budget: Budget,
    data: Path,
    out: Path,
    runs: Path,
    *,
    seeds: int = 1,
    run_options: RunOptions = RunOptions(),
    pretraining: str = "",
    progress: RunProgress | None = None,
) -> Path:
    """Make a table or figure of the paper.

    Stopped runs are continued, and finished ones are reused.

    Args:
        name: ID of the result.
        budget: how far to scale the recipes down.
        data: folder of the data sets.
        out: receives ``table.md``, ``table.csv``, ``result.json``, ``figure.png``, and ``logs/`` with the log and test
            result of every run.
        runs: folder of the runs, which several results may share.
        seeds: number of repetitions with different seeds.
        run_options: device, precision and limits of every run.
        pretraining: a variant for all pre-training, in addition to those of the rows: ``modern``.
        progress: announces runs.

    Returns:
        The path of ``table.md``.

    Raises:
        skipae_train.errors.TrainingError: a run failed.
        skipae.errors.Stopped: the run was interrupted; the same call continues it.
    """
    if name not in RESULTS:
        raise ValueError(f"unknown result {name!r}; use one of {', '.join(RESULTS)}")
    result = RESULTS[name]
    bench = Bench(budget, seeds, data, runs, run_options, pretraining, progress)
    page = PAGES[name](bench) if name in PAGES else compare(bench, result)
    if not bench.machine.accelerator.is_main_process:
        return out / "table.md"
    environments = []
    for run in bench.used:
        if not (run / "environment.json").exists():  # a try that diverged before it was saved
            continue
        write_bytes(out / "logs" / f"{run.name}.csv", (run / "log.csv").read_bytes())
        if (run / "result.json").exists():  # of a pre-training too, whose PSNR a table may leave out
            write_bytes(out / "logs" / f"{run.name}.json", (run / "result.json").read_bytes())
        environments.append(read_environment(run))
    options = "".join(
        f" --{option} {value}"
        for option in ("precision", "device", "threads", "accumulate")
        if (value := getattr(run_options, option)) != getattr(RunOptions, option)
    ) + (f" --pretraining {pretraining}" if pretraining else "")
    facts = {
        "budget": budget,
        "seeds": seeds,
        "hardware": "; ".join(sorted({e["hardware"] for e in environments})),
        "precision": ", ".join(sorted({e["precision"] for e in environments})),
        "hours": round(sum(e["hours"] for e in environments), 2),
        "commit": ", ".join(sorted({c for e in environments for c in e.get("commit", "not recorded").split(", ")})),
        "command": f"skipae-train reproduce {name} --budget {budget} --seeds {seeds} --data DATA{options}",
    }
    if page.missing:
        facts["left out"] = "; ".join(page.missing)
    if page.rows and "figure.png" not in page.pictures:
        page.pictures["figure.png"] = lambda path: _bars(page, path)
    for file, draw in page.pictures.items():
        draw(out / file)
    _write_table(name, result, page, facts, out)
    return out / "table.md"


def _write_table(name: str, result: Result, page: Page, facts: dict[str, Any], out: Path) -> None:
    flat: list[dict[str, Any]] = [
        {
            "row": label,
            "column": column,
            "paper": cell.paper,
            "mean": statistics.mean(cell.values) if cell.values else None,
            "std": statistics.stdev(cell.values) if len(cell.values) > 1 else None,
            "n": len(cell.values),
            "values": cell.values,
            "lr": cell.lr,
            "tries": cell.tries,
        }
        for label, cells in page.rows
        for column, cell in zip(page.columns, cells, strict=True)
        if cell.paper or cell.values
    ]
    fields = ["row", "column", "paper", "mean", "std", "n", "values", "lr"]
    shown = [{**row, "values": " ".join(f"{v:g}" for v in row["values"])} for row in flat]
    write_csv(out / "table.csv", fields, shown, extrasaction="ignore")
    lines = [f"# {name}: {result.title}", ""]
    if page.rows:
        tuned = any(cell.tries for _, cells in page.rows for cell in cells)
        heads = [part for c in page.columns for part in (f"{c}: paper", "ours", "n", *(["lr"] if tuned else []))]
        lines += [f"| {' | '.join(['', *heads])} |", "| --- " * (len(heads) + 1) + "|"]
        for label, cells in page.rows:
            parts = [label]
            for cell in cells:
                parts += [cell.paper, cell.ours(), str(len(cell.values) or "")]
                parts += [f"{cell.lr:g}" if cell.lr else ""] if tuned else []
            lines.append(f"| {' | '.join(parts)} |")
        lines += ["", TUNING, ""] if tuned else [""]
    lines += [f"![{file}]({file})" for file in page.pictures]
    lines += ["", *(f"- {key}: {value}" for key, value in facts.items()), ""]
    write_bytes(out / "table.md", "\n".join(lines).encode())
    write_json(out / "result.json", {"id": name, "title": result.title, **facts, "rows": flat})


def _bars(page: Page, path: Path) -> None:
    made, axes = figure(5.0, 0.5 * len(page.rows) + 1.2, len(page.columns))
    for number, (axis, column) in enumerate(zip(axes, page.columns, strict=True)):
        labels, cells = [row for row, _ in page.rows], [cells[number] for _, cells in page.rows]
        means = [statistics.mean(cell.values) if cell.values else float("nan") for cell in cells]
        spreads = [statistics.stdev(cell.values) if len(cell.values) > 1 else 0.0 for cell in cells]
        axis.barh(labels, means, xerr=spreads, color="tab:blue", label="ours")
        papers = [(float(cell.paper.split("±")[0]), row) for row, cell in zip(labels, cells, strict=True) if cell.paper]
        if papers:
            axis.plot(*zip(*papers, strict=True), "k|", markersize=18, label="paper")
            axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        axis.invert_yaxis()
        axis.set(title=column)
    save_figure(made, path, dpi=120, bbox_inches="tight")


def compare(bench: Bench, result: Result) -> Page:
    """Return the numbers of a result's table.

    Where it is tuned, in every row, random initialization or ours, fine-tuning takes the best learning rate of equally
    many tries.
    """
    table = result.table
    if table is None:
        raise ValueError(f"{result.title} is not a table")
    columns = columns_of(table, bench.data)
    rows = []
    for row in table.rows:
        cells, known = [], {}
        for number, column in enumerate(columns):
            paper = table.paper(row, number)
            if column.measure in row.without:
                cells.append(Cell(paper))
                continue
            if column.pretrained:
                runs = [bench.pretrained(column.recipe, row.variant, seed) for seed in bench.seeds]
                values = [_psnr(run) if column.measure == "psnr" else _size(run) for run in runs]
                tries = bench.pretraining_tries(column.recipe, row.variant) if column.measure == "psnr" else {}
                cells.append(Cell(paper, values, tries))
                continue
            if column.recipe not in known:  # several columns may measure the same runs
                tries = bench.tries(column.recipe, row.variant) if table.tuned or row.tuned else {}
                scores = bench.scores(column.recipe, row.variant, Cell(tries=tries).lr)
                known[column.recipe] = tries, scores
            tries, scores = known[column.recipe]
            values = [value for each in scores if not math.isnan(value := _measured(each, column.measure))]
            cells.append(Cell(paper, values, tries))
        rows.append((row.label, cells))
    return Page([column.label for column in columns], rows)


def _measured(scores: RunScores, measure: Measure) -> float:
    """Return the metric in percent, or its mean over some classes; NaN where the set lacks them."""
    if measure == "value":
        return float(scores["value"])
    if measure == "complete":
        return complete_mean(scores["classes"]) or math.nan
    each = [value for name in COARSE[measure] if (value := scores["classes"].get(name)) is not None]
    return statistics.mean(each) if each else math.nan


def _save(picture: Tensor) -> Callable[[Path], None]:
    return lambda path: save_picture(to_pixels(picture), path)


def _psnr(run: Path) -> float:
    """Return PSNR in dB of a pre-trained network on test images."""
    result = read_result(run)
    if result is None:
        raise AssertionError(f"{run}: a pre-training on a set ends with a result")
    return float(result["value"])


def _restored(bench: Bench, name: str, clean: Tensor, variant: str = "") -> list[Tensor]:
    """Return clean, corrupted and restored images, float32 [N, 3, H, W] each."""
    network, corruption = bench.network(name, variant), bench.corruption(name, variant)
    return [torch.cat(c) for c in zip(*restored_batches(network, clean, corruption, bench.machine), strict=True)]


def _fig2(bench: Bench) -> Page:
    lines: list[Tensor] = []
    clean = bench.test_images("imagenet", 8)
    for variant in ("gaussian", "big-block", ""):
        lines += _restored(bench, "imagenet", clean, variant)[1 if lines else 0 :]
    return replace(compare(bench, RESULTS["fig2"]), pictures={"figure.png": _save(grid(lines))})


def _layers_of(budget: Budget) -> tuple[dict[str, str], str]:
    """Return the networks of figure 3, variant by label, and the recipe of all."""
    name, blocks = ("cifar10", "+small-blocks") if budget == "paper" else ("cifar10-4k", "")
    return {"auto-encoder with shortcuts": blocks.strip("+"), "auto-encoder without": f"no-shortcut{blocks}"}, name


def _fig3(bench: Bench) -> Page:
    variants, name = _layers_of(bench.budget)
    rows: list[tuple[str, Sequence[Cell]]] = []
    curves: dict[str, list[RunScores]] = {}
    for label in (*variants, "classifier"):
        found = []
        for seed in bench.seeds:
            network: Network
            if label in variants:
                network = bench.network(name, variants[label], seed)
            else:
                identity = finetunings(name, "random+all-labels", bench.budget, 1)[0]
                network = load_finetuned(bench.run(replace(identity, seed=seed)))[0]
            recipe = cut(Probe(name=f"probe {label}", architecture=network.architecture, seed=seed), bench.budget)
            after = "".join(f"-after-{variant}" for variant in [bench.pretraining] if variant)
            out = bench.folder(f"probe-{name}-{label.replace(' ', '-')}{after}-{bench.budget}-seed{seed}")
            found.append(probe(recipe, network, bench.data, out, bench.run_options))
        if label in variants:
            rows.append((label, [Cell("", bench.psnr(name, variants[label])), Cell(), Cell()]))
        curves[label] = []
        for same in zip(*found, strict=True):  # a layer, with each seed
            scores = {key: [layer[key] for layer in same] for key in ("accuracy", "psnr")}
            rows.append((f"{label}, {same[0]['layer']}", [Cell(), *(Cell("", values) for values in scores.values())]))
            means = {key: statistics.mean(values) for key, values in scores.items()}
            curves[label].append({"layer": same[0]["layer"], **means})

    def draw(path: Path) -> None:
        write_probes(path.with_suffix(""), curves)

    columns = ("PSNR of its own reconstruction, dB", "accuracy of a probe, %", "PSNR of a probe, dB")
    return Page(columns, rows, {"figure.png": draw})


def _maps(network: Network, images: Tensor) -> list[Tensor]:
    """Return the 12th layer after ReLU (the last, if there are fewer): the mean of its channels, and
    one that varies most.
    """
    names = [layer.name for layer in network.architecture.layers]
    with torch.inference_mode():
        layer = network.eval().features(images.to(network.mean.device))[names[min(11, len(names) - 1)]]
    strongest = layer.amax((2, 3)).std(0).argmax()
    found = []
    for plane in (layer.mean(1, keepdim=True), layer[:, strongest : strongest + 1]):
        plane = plane / plane.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
        found.append(F.interpolate(plane, images.shape[-2:]).expand(-1, 3, -1, -1))
    return found


def _fig5(bench: Bench) -> Page:
    kinds = ("imagenet-animal", "imagenet-vehicle")
    images = torch.cat([bench.test_images(kind, 4) for kind in kinds]).float() / 255
    lines = [images, *(plane for kind in kinds for plane in _maps(bench.network(kind), images))]
    return Page(pictures={"figure.png": _save(grid(lines))})


def _fig6(bench: Bench) -> Page:
    kind = "imagenet-animal"
    clean = bench.test_images(kind, 8).float() / 255
    corrupted = bench.corruption(kind)(clean, torch.Generator().manual_seed(0))
    network = bench.network(kind)
    lines = [clean, *_maps(network, clean), corrupted, *_maps(network, corrupted)]
    return Page(pictures={"figure.png": _save(grid(lines))})


def _size(run: Path) -> float:
    """Return the root mean square of a run's kernels, in thousandths, since tables show two decimals."""
    kernels = [
        value.flatten() for name, value in load_state(run)[0].items() if name.endswith("weight") and value.dim() == 4
    ]
    return 1000 * float(torch.cat(kernels).square().mean().sqrt())


def _supp_d(bench: Bench) -> Page:
    page = compare(bench, RESULTS["suppD"])
    points = [(label, psnr.values, accuracy.values) for label, (psnr, accuracy) in page.rows]

    def scatter(path: Path) -> None:
        made, (axis,) = figure()
        for label, psnr, accuracy in points:
            axis.plot(psnr, accuracy, "o", label=label)
        axis.set(xlabel="PSNR after pre-training, dB", ylabel="accuracy after fine-tuning, %")
        axis.legend(fontsize=8)
        save_figure(made, path, dpi=120)

    pictures: dict[str, Callable[[Path], None]] = {"figure.png": scatter}
    missing = []
    for number, name, data in ((1, "imagenet", "voc07"), (2, "cifar10-4k", "cifar10"), (3, "stl10", "stl10")):
        try:
            lines = _restored(bench, name, bench.test_images(name, 8, data=data))
        except DataError as error:  # the scatter needs CIFAR-10 alone
            missing.append(f"figure {number} of the supplement, since {error}")
            continue
        pictures[f"figure{number}.png"] = _save(grid(lines))
    return replace(page, pictures=pictures, missing=missing)


PAGES: dict[str, Callable[[Bench], Page]] = {
    "fig2": _fig2,
    "fig3": _fig3,
    "fig5": _fig5,
    "fig6": _fig6,
    "suppD": _supp_d,
}
"""Results that are more than a table."""
