"""What buys most for the denoiser: variants of its network and training, each for the same time.

    python benchmarks/bakeoff.py --photos PHOTOS --clean BSDS500/val --pairs polyu-real-noise --minutes 25

Every variant is one of the recipe ``natural`` (``skipae-train pretrain natural --variant NAME`` trains it at full
length).  A few steps of each phase are timed first; the phases are then shortened or lengthened alike so that training
takes ``--minutes`` at that speed.  Run it on an idle machine.  Afterwards the variant is exported and measured as users
run it, in ONNX Runtime: PSNR on ``--clean`` at sigma 15, 25 and 50 as in 8-bit files, and on every ``--every``-th of
``--pairs``.  Given again, the command continues: finished variants are skipped, a stopped one resumes.  ``--out`` gets
``bakeoff.md``, ``bakeoff.csv`` and ``bakeoff.png`` after each variant, ``--runs`` the runs and checkpoints.

Needs ``pip install -e ".[cpu,train]"``.
"""

from __future__ import annotations

import csv
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from skipae import from_pretrained
from skipae.errors import SkipaeError
from skipae_train.datasets.photos import Photos
from skipae_train.evaluate import evaluate_gaussian, evaluate_pairs
from skipae_train.export import export_run
from skipae_train.machine import RunOptions, TrainingPrecision
from skipae_train.networks import AutoEncoder
from skipae_train.pairs import Pair, PairedPhotos, find_pairs
from skipae_train.plots import figure
from skipae_train.pretrain import PhotoJob, Pretrain, pretrain
from skipae_train.recipe import Budget
from skipae_train.recipes import pretrain_recipe
from skipae_train.run_folder import locked, read_environment, write_json
from skipae_train.trainer import Trainer
from skipae_zoo import Architecture

BASE = "base"
VARIANTS = (
    BASE, "wide-full", "wide-half", "deep", "deep+residual", "deep-decoder", "adam", "large-patches", "no-norm",
    "high-rate",
)  # fmt: skip
SIGMAS = (15, 25, 50)
WARM, TIMED = 2, 5
"""Steps of each phase before and while it is timed."""
COLUMNS = ("variant", "minutes", "steps", "megapixels", "GFLOP/MP", "parameters", "psnr15", "psnr25", "psnr50", "pairs")
Row = dict[str, Any]


def architecture_of(recipe: Pretrain) -> Architecture:
    """Return the architecture of a recipe; a Wide-ResNet is refused, because it cannot be exported."""
    if not isinstance(recipe.architecture, Architecture):
        raise click.UsageError(f"{recipe.name} trains a network that cannot be exported: leave this variant out")
    return recipe.architecture


def size_of(shape: Architecture) -> tuple[float, int]:
    """GFLOP per megapixel of the forward pass, and the number of parameters."""
    with torch.device("meta"):
        network = AutoEncoder(shape).eval()
        image = torch.zeros(1, 3, 256, 256)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return counter.get_total_flops() / 256**2 / 1e3, sum(p.numel() for p in network.parameters())


def seconds_per_step(recipe: Pretrain, photos: Path, pairs: list[Pair], run_options: RunOptions) -> list[float]:
    """Median seconds of a step of each phase, all that belongs to it included."""
    network = AutoEncoder(architecture_of(recipe), mean=recipe.mean, std=recipe.std, init=recipe.init)
    job = PhotoJob(recipe, network, Photos(photos), PairedPhotos(pairs) if pairs else None)
    trainer = Trainer(job, run_options.machine(), 1)
    found, first = [], 0
    for phase in recipe.phases:
        times = []
        for _ in range(WARM + TIMED):
            trainer.step, start = first, time.monotonic()
            trainer.compute_gradients()
            trainer.update()
            times.append(time.monotonic() - start)
        found.append(statistics.median(times[WARM:]))
        first += phase.steps
    return found


def fitted(recipe: Pretrain, seconds: list[float], minutes: float) -> Pretrain:
    """The recipe with its phases scaled alike, to take ``minutes``."""
    whole = sum(phase.steps * each for phase, each in zip(recipe.phases, seconds, strict=True))
    share = 60 * minutes / whole
    return replace(recipe, phases=tuple(replace(p, steps=max(1, round(p.steps * share))) for p in recipe.phases))


def recipe_of(label: str, budget: Budget) -> Pretrain:
    """The recipe ``natural`` with a variant."""
    recipe = pretrain_recipe("natural", variant="" if label == BASE else label, budget=budget)
    architecture_of(recipe)
    return replace(recipe, name=f"bakeoff-{label.replace('+', '-')}")


def run(
    label: str, budget: Budget, photos: Path, clean: Path, pairs: Path, every: int, real: list[Pair], minutes: float,
    folder: Path, run_options: RunOptions,
) -> Row:  # fmt: skip
    """Train and measure a variant, or read what an earlier call found."""
    result, plan = folder / "bakeoff.json", folder / "plan.json"
    if result.exists():
        row: Row = json.loads(result.read_text())
        if row["asked minutes"] != minutes:
            raise click.UsageError(
                f"{folder} is a run of {row['asked minutes']:g} minutes, not {minutes:g}: give another --runs, or "
                "the same --minutes"
            )
        return row
    recipe = recipe_of(label, budget)
    folder.mkdir(parents=True, exist_ok=True)
    if not plan.exists():
        write_json(plan, {"minutes": minutes, "seconds": seconds_per_step(recipe, photos, real, run_options)})
    planned = json.loads(plan.read_text())
    if planned["minutes"] != minutes:
        raise click.UsageError(
            f"{folder} is a run of {planned['minutes']:g} minutes, not {minutes:g}: give another --runs, or the same "
            "--minutes"
        )
    recipe = fitted(recipe, planned["seconds"], planned["minutes"])
    click.echo(f"{label}: {recipe.steps} steps in about {planned['minutes']:g} minutes", err=True)
    pretrain(recipe, photos, folder / "run", replace(run_options, title=label), pairs=real)
    export_run(folder / "run", folder / "checkpoint", name=recipe.name, halo_images=None, storage="float32")
    model = from_pretrained(folder / "checkpoint", device="cpu", precision="fp32", threads=run_options.threads)
    gflop, parameters = size_of(architecture_of(recipe))
    row = {
        "variant": label,
        "asked minutes": minutes,
        "minutes": 60 * read_environment(folder / "run")["hours"],
        "steps": recipe.steps,
        "megapixels": sum(phase.steps * phase.batch * phase.crop**2 for phase in recipe.phases) / 1e6,
        "GFLOP/MP": gflop,
        "parameters": parameters,
        **{f"psnr{sigma}": evaluate_gaussian(model, clean, sigma).after for sigma in SIGMAS},
        "pairs": evaluate_pairs(model, pairs, every=every).after,
        "hardware": read_environment(folder / "run")["hardware"],
    }
    write_json(result, row)
    return row


def table(rows: list[Row]) -> str:
    """The rows, with what each gains over the first."""
    lines = [
        "| variant | minutes | steps | megapixels seen | GFLOP per megapixel | parameters, millions "
        "| sigma 15 | 25 | 50 | real pairs |",
        "| --- " * 10 + "|",
    ]
    base = rows[0]
    for row in rows:
        scores = [
            f"{row[key]:.2f}" + ("" if row is base else f" ({row[key] - base[key]:+.2f})")
            for key in ("psnr15", "psnr25", "psnr50", "pairs")
        ]
        cells = [
            row["variant"], f"{row['minutes']:.1f}", str(row["steps"]), f"{row['megapixels']:.0f}",
            f"{row['GFLOP/MP']:.0f}", f"{row['parameters'] / 1e6:.2f}", *scores,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(rows: list[Row], out: Path, minutes: float) -> None:
    """Table and plot."""
    out.mkdir(parents=True, exist_ok=True)
    head = (
        f"PSNR in dB after {minutes:g} minutes of training each (in parentheses: more than {rows[0]['variant']}).\n\n"
    )
    note = f"\n`python benchmarks/bakeoff.py --minutes {minutes:g} ...`, {rows[0]['hardware']}.\n"
    (out / "bakeoff.md").write_text(head + table(rows) + note, encoding="utf-8")
    with (out / "bakeoff.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    made, axes = figure(columns=2)
    for axis, key, title in zip(axes, ("psnr25", "pairs"), ("sigma 25", "real pairs"), strict=True):
        for row in rows:
            axis.plot(row["GFLOP/MP"], row[key], "o", label=row["variant"])
        axis.set(xlabel="GFLOP per megapixel", ylabel="PSNR, dB", title=title)
    axes[0].legend(fontsize=7)
    made.savefig(out / "bakeoff.png", dpi=100)


@click.command(help=__doc__)
@click.option("--photos", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--clean", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--pairs", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--every", type=click.IntRange(min=1), default=4, show_default=True, help="Take every n-th of --pairs.")
@click.option(
    "--train-pairs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Other real pairs, to train on as 'pretrain --pairs' does.  [default: none]",
)
@click.option("--without-camera", multiple=True, metavar="NAME", help="Leave out the --train-pairs of this camera.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=25, show_default=True)
@click.option("--variants", default=",".join(VARIANTS), show_default=True, help="Separated by commas; A+B is both.")
@click.option(
    "--budget", type=click.Choice(["smoke", "paper"]), default="paper", show_default=True, help="smoke: tiny networks."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/bakeoff"), show_default=True)
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/bakeoff"), show_default=True)
def main(
    photos: Path, clean: Path, pairs: Path, every: int, train_pairs: Path | None, without_camera: tuple[str, ...],
    minutes: float, variants: str, budget: Budget, threads: int | None, precision: TrainingPrecision,
    out: Path, runs: Path,
) -> None:  # fmt: skip
    """Run the variants one after the other."""
    run_options = RunOptions(threads=threads, precision=precision, device="cpu")
    rows: list[Row] = []
    try:
        real = find_pairs(train_pairs, without=without_camera) if train_pairs else []
        names = list(dict.fromkeys(variants.split(",")))
        for label in names:  # a misspelled one is found before hours of training
            recipe_of(label, budget)
        runs.mkdir(parents=True, exist_ok=True)
        with locked(runs):
            for label in names:
                rows.append(run(label, budget, photos, clean, pairs, every, real, minutes, runs / label, run_options))
                write(rows, out, minutes)
    except SkipaeError as error:
        raise click.ClickException(str(error)) from None
    click.echo((out / "bakeoff.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
