"""What pre-training adds to fine-tuning on CIFAR-10 with 4,000 labels, and where the gain of shortcuts is lost.

    python benchmarks/finetuning.py --data DATA --with runs/ae --without runs/ae-plain --seeds 3

``--with`` and ``--without`` are finished runs of ``skipae-train pretrain cifar10-4k``, with the variant ``no-shortcut``
for the second, at the same ``--budget``.  Two experiments:

masks         Random weights, N(0, 0.01) and He's, and both pre-trained encoders, each with masks on half of the samples
              of fine-tuning and without.  All layers learn from the first epoch on, at one rate in all rows.
encoder-rate  The head is trained on the frozen encoder for ``--frozen`` epochs; then the encoder learns too, at each
              of several rates, the head always at the recipe's.

A seed draws the 4,000 labels, their order, the masks and the new weights; what is compared has the same ones.  With one
run in ``--with`` and ``--without``, all seeds start from it; several of each are for one seed each, in order.  Accuracy
is measured on the test set and on 5,000 training images whose labels are not used.

Given again, the command continues: finished runs are skipped, a stopped one resumes.  ``--out`` gets ``masks.md``,
``masks.csv`` and ``masks.png``, and the same of ``encoder-rate``, after each run, ``--runs`` the runs.

Needs ``pip install -e ".[cpu,train]"``.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click

from skipae.errors import SkipaeError
from skipae_train.finetune import Finetune, finetune
from skipae_train.machine import RunOptions, TrainingPrecision
from skipae_train.plots import figure, save_figure
from skipae_train.recipe import Budget
from skipae_train.recipes import finetune_recipe
from skipae_train.run_folder import locked, write_bytes, write_csv
from skipae_train.run_log import read_log
from skipae_train.schedules import Milestones
from skipae_train.tables import HE, PLAIN, RANDOM, SKIP

Experiment = Literal["masks", "encoder-rate"]
EXPERIMENTS: tuple[Experiment, ...] = ("encoder-rate", "masks")
VARIANTS = {RANDOM: "random", HE: "random-he", PLAIN: "no-shortcut", SKIP: ""}
"""Variants of the recipe ``cifar10-4k``, by the label of their row."""
MASKED = ("masks", "none")
RATES = (0.0, 2e-3, 1e-4, 5e-4, 1e-5)
"""Learning rates of the encoder, in the order of the runs."""
EVERY = 10
"""Epochs between measurements on held-out images, unless the frozen ones are not a multiple of it."""
HELD_OUT = 5
"""Factor on the recipe's number of held-out images."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A fine-tuning."""

    label: str
    """Label of its row, a key of :data:`VARIANTS`."""
    setting: str
    """What it is compared at: whether there are masks, or the encoder's rate."""
    recipe: Finetune

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{VARIANTS[self.label] or 'shortcuts'}-{self.setting}-seed{self.recipe.seed}"


def base(label: str, budget: Budget, seed: int, epochs: int | None) -> Finetune:
    """Return the recipe of a row, measured on more held-out images."""
    recipe = finetune_recipe("cifar10-4k", variant=VARIANTS[label], budget=budget, seed=seed)
    count = recipe.epochs.count if epochs is None else epochs
    return replace(
        recipe, validation=HELD_OUT * recipe.validation, freeze=0, epochs=replace(recipe.epochs, count=count)
    )


def masks_runs(budget: Budget, seed: int, epochs: int | None) -> list[Run]:
    """Every row with and without masks, all layers from the beginning."""
    masks = base(SKIP, budget, seed, epochs).corruption
    return [
        Run(label, setting, replace(base(label, budget, seed, epochs), corruption=corruption))
        for label in (SKIP, HE, PLAIN, RANDOM)  # the comparison that says most comes first
        for setting, corruption in zip(MASKED, (masks, None), strict=True)
    ]


def rate_runs(budget: Budget, seed: int, epochs: int | None, frozen: int) -> list[Run]:
    """Both pre-trained rows at every rate of the encoder, after epochs of the head alone.

    The rate falls in the epochs of all layers as it does over the whole run of the recipe.
    """
    found = []
    for rate in RATES:
        for label in (SKIP, PLAIN):
            recipe = base(label, budget, seed, epochs)
            if not isinstance(recipe.schedule, Milestones):
                raise TypeError(f"{recipe.name} has no milestones")
            total = frozen + recipe.epochs.count
            at = tuple((frozen + share * recipe.epochs.count) / total for share in recipe.schedule.at)
            recipe = replace(
                recipe,
                epochs=replace(recipe.epochs, count=total),
                freeze=frozen if rate else total,  # a rate of 0, without the gradients
                old_share=rate / recipe.lr,
                schedule=replace(recipe.schedule, at=at),
            )
            found.append(Run(label, f"{rate:g}", recipe))
    return found


def carry_out(run: Run, frozen: int, data: Path, start: Path | None, folder: Path, run_options: RunOptions) -> Row:
    """Fine-tune and measure, or read what an earlier call found."""
    recipe = run.recipe
    steps = max(1, (recipe.labeled or 1) // recipe.epochs.batch)
    title = f"{run.label}, {run.setting}, seed {recipe.seed}"
    options = replace(run_options, title=title, validate_every=steps * math.gcd(EVERY, frozen))
    result = finetune(recipe, data, folder, options, start=start)
    if result is None:
        raise AssertionError(f"{folder}: a run without stop_at ends with a result")
    log = read_log(folder)
    head = [row for row in log if int(row["step"]) == frozen * steps]
    return {
        "row": run.label,
        "setting": run.setting,
        "seed": recipe.seed,
        "test": result["value"],
        "held out": float(log[-1]["accuracy"]),
        "held out, head alone": float(head[0]["accuracy"]) if head else "",
        "loss": float(log[-1]["loss"]),
        "loss, head alone": float(head[0]["loss"]) if head else "",
        "start": "" if start is None else start.name,
        "hardware": result["hardware"],
        "precision": result["precision"],
    }


def spread(values: Sequence[float], sign: str = "") -> str:
    """Mean, and standard deviation where there are several values; n where that is not clear."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):{sign}.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f} (n = {len(values)})"


def by_seed(rows: list[Row], label: str, setting: str, key: str) -> dict[int, float]:
    """A measurement of all seeds."""
    return {row["seed"]: row[key] for row in rows if (row["row"], row["setting"]) == (label, setting)}


def differences(first: dict[int, float], second: dict[int, float]) -> list[float]:
    """First minus second of the seeds that both have."""
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *lines]) + "\n"


def masks_table(rows: list[Row]) -> str:
    """Test accuracy, what each row gains over He's weights, and what masks gain."""
    lines = []
    for label in VARIANTS:
        tested = [by_seed(rows, label, setting, "test") for setting in MASKED]
        he = [by_seed(rows, HE, setting, "test") for setting in MASKED]
        gains = [] if label == HE else [differences(own, his) for own, his in zip(tested, he, strict=True)]
        cells = [spread([*each.values()]) for each in tested] + [spread(each, "+") for each in gains or ([], [])]
        lines.append([label, *cells, spread(differences(*tested), "+")])
    gain = "more than He's weights"
    return markdown(("weights", "masks", "no masks", f"{gain}, masks", f"{gain}, no masks", "gain of masks"), lines)


def rate_table(rows: list[Row]) -> str:
    """Accuracy on the test set and on held-out images at every rate, with minus without shortcuts."""
    lines = []
    for rate in sorted(RATES):
        cells = []
        for key in ("test", "held out"):
            with_, without = (by_seed(rows, label, f"{rate:g}", key) for label in (SKIP, PLAIN))
            cells += [spread([*with_.values()]), spread([*without.values()]), spread(differences(with_, without), "+")]
        losses = [spread([*by_seed(rows, label, f"{rate:g}", "loss").values()]) for label in (SKIP, PLAIN)]
        lines.append([f"{rate:g}", *cells, *losses])
    sets = [f"{part}, {place}" for place in ("test", "held out") for part in ("with", "without", "difference")]
    return markdown(("rate of the encoder", *sets, "last loss, with", "last loss, without"), lines)


def draw_masks(axis: Any, rows: list[Row]) -> None:
    """A point for each run."""
    for shift, setting in zip((-0.1, 0.1), MASKED, strict=True):
        points = [
            (place + shift, value)
            for place, label in enumerate(VARIANTS)
            for value in by_seed(rows, label, setting, "test").values()
        ]
        if points:
            axis.plot(*zip(*points, strict=True), "o", label=setting if setting == "masks" else "no masks")
    axis.set_xticks(range(len(VARIANTS)), [label.replace(" with", "\nwith") for label in VARIANTS], fontsize=8)


def draw_rates(axis: Any, rows: list[Row]) -> None:
    """Means of both rows over the rates."""
    rates = sorted(RATES)
    for label in (SKIP, PLAIN):
        for key, line in (("test", "-o"), ("held out", ":")):
            found = [by_seed(rows, label, f"{rate:g}", key).values() for rate in rates]
            points = [(place, statistics.mean(values)) for place, values in enumerate(found) if values]
            if points:
                color = "C0" if label == SKIP else "C1"
                axis.plot(*zip(*points, strict=True), line, color=color, label=f"{label}, {key}")
    axis.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axis.set_xlabel("learning rate of the encoder")


TABLES: dict[Experiment, Callable[[list[Row]], str]] = {"masks": masks_table, "encoder-rate": rate_table}
DRAWINGS: dict[Experiment, Callable[[Any, list[Row]], None]] = {"masks": draw_masks, "encoder-rate": draw_rates}


def write(experiment: Experiment, rows: list[Row], out: Path, about: str) -> None:
    """Table and plot."""
    out.mkdir(parents=True, exist_ok=True)
    facts = f"{rows[0]['hardware']}, {', '.join(sorted({row['precision'] for row in rows}))}"
    text = f"Accuracy in %; differences are by seed. {about}\n\n{TABLES[experiment](rows)}\n{facts}.\n"
    write_bytes(out / f"{experiment}.md", text.encode())
    shown = [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    write_csv(out / f"{experiment}.csv", list(rows[0]), shown, quoting=csv.QUOTE_MINIMAL)
    made, (axis,) = figure()
    DRAWINGS[experiment](axis, rows)
    axis.set_ylabel("accuracy, %")
    axis.legend(fontsize=7)
    save_figure(made, out / f"{experiment}.png", dpi=100)


def chosen(runs: Sequence[Path], seed: int) -> Path:
    """Return the pre-training that a seed starts from."""
    return runs[0] if len(runs) == 1 else runs[seed]


FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(help=__doc__)
@click.option("--data", type=FOLDER, required=True, help="Folder that contains cifar-10-batches-py.")
@click.option("--with", "with_", type=FOLDER, multiple=True, required=True, help="Pre-training with shortcuts.")
@click.option("--without", type=FOLDER, multiple=True, required=True, help="Pre-training without shortcuts.")
@click.option(
    "--experiment", type=click.Choice(EXPERIMENTS), multiple=True, default=EXPERIMENTS, show_default=True,
    help="Which to carry out.",
)  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--budget", type=click.Choice(["smoke", "cpu", "paper"]), default="cpu", show_default=True)
@click.option(
    "--frozen", type=click.IntRange(min=1), default=60, show_default=True,
    help="Epochs of the head alone in encoder-rate.",
)  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs with all layers.  [default: the recipe's, 120]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True, help="Precision of all runs."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/finetuning"), show_default=True)
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/finetuning"), show_default=True)
def main(
    data: Path, with_: tuple[Path, ...], without: tuple[Path, ...], experiment: tuple[Experiment, ...], seeds: int,
    budget: Budget, frozen: int, epochs: int | None, threads: int | None, precision: TrainingPrecision, out: Path,
    runs: Path,
) -> None:  # fmt: skip
    """Carry out the experiments, one seed after the other."""
    for name, given in (("--with", with_), ("--without", without)):
        if len(given) not in (1, seeds):
            raise click.UsageError(f"{name} is given {len(given)} times: give one run for all seeds, or {seeds}")
    run_options = RunOptions(threads=threads, precision=precision, device="cpu")
    starts = {PLAIN: without, SKIP: with_}
    fixed = "the same for all seeds" if len(with_) == len(without) == 1 else "another for each seed"
    try:
        for each in dict.fromkeys(experiment):
            rows: list[Row] = []
            with locked(runs / each):
                for seed in range(seeds):
                    alone = frozen if each == "encoder-rate" else 0
                    planned = rate_runs(budget, seed, epochs, frozen) if alone else masks_runs(budget, seed, epochs)
                    for run in planned:
                        start = chosen(starts[run.label], seed) if run.label in starts else None
                        rows.append(carry_out(run, alone, data, start, runs / each / run.folder, run_options))
                        learned = planned[0].recipe.epochs.count - alone
                        about = (
                            f"Budget {budget}, {f'{alone} epochs of the head alone, then ' if alone else ''}{learned} "
                            f"epochs with all layers; pre-trained networks: {fixed}."
                        )
                        write(each, rows, out, about)
            click.echo((out / f"{each}.md").read_text(encoding="utf-8"))
    except SkipaeError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
