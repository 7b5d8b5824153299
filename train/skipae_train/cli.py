"""``skipae-train``: train, export, measure and describe checkpoints."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skipae import __version__
from skipae.cli import CommandGroup
from skipae.commands.options import together
from skipae.errors import suggest

if TYPE_CHECKING:
    from skipae_train.evaluate import PsnrScore
    from skipae_train.finetune import Finetune
    from skipae_train.machine import RunOptions
    from skipae_train.quantize import GraphKind
    from skipae_train.recipe import Budget, RecipeId

FOLDER = click.Path(file_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, file_okay=False, path_type=Path)


class _Commands(CommandGroup):
    program = "skipae-train"
    hides_libraries = False  # of a crash among several processes or GPUs, their lines are all there is

    def explain(self, error: Exception) -> tuple[int, str | None]:
        """Return the exit code and message of an error; the message is None if the error is unexpected."""
        from skipae import ModelError
        from skipae.install import install_command
        from skipae_zoo import ArchitectureError, ConfigError

        if isinstance(error, ModuleNotFoundError) and not (error.name or "skipae").startswith("skipae"):
            return 1, f"this needs the module {error.name}: {install_command('train')}"
        if isinstance(error, ArchitectureError | ConfigError):
            return ModelError.exit_code, str(error)
        if isinstance(error, OSError):
            return 1, str(error)
        return super().explain(error)

    def explain_interrupt(self, interrupt: KeyboardInterrupt) -> str:
        """Return the message after Ctrl-C or a signal, with the command that continues a run."""
        text = super().explain_interrupt(interrupt)
        if not {"pretrain", "finetune", "probe", "reproduce"} & set(self.arguments):
            return text
        return f"{text}; to continue, run: {shlex.join([self.program, *self.arguments])}"


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="skipae-train", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an unexpected or fatal error.")
def cli() -> None:
    """Train, export and measure skipae checkpoints."""


data_option = click.option(
    "--data", type=EXISTING, required=True, help="Folder of the data sets (cifar-10-batches-py, VOCdevkit, ...)."
)
out_option = click.option("--out", type=FOLDER, required=True, help="Folder of the run; a stopped run continues there.")
budget_option = click.option(
    "--budget",
    type=click.Choice(["smoke", "cpu", "day", "paper"]),
    default="paper",
    show_default=True,
    help="How far to scale the recipe down.",
)
recipe_options = together(
    click.option("--variant", default="", metavar="NAME[+NAME]", help="Variant of the recipe: no-shortcut, ..."),
    budget_option,
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed."),
)
set_option = click.option(
    "--set",
    "other",
    metavar="NAME",
    help="Train on this set instead of the recipe's: folder, classes or masks in --data, hub:ORG/NAME, cifar10, ...",
)
add_run_options = together(
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16"]),
        default="auto",
        show_default=True,
        help="Precision; auto uses bf16 if it is faster here.",
    ),
    click.option(
        "--device",
        type=click.Choice(["cpu", "cuda"]),
        help="Device.  [default: chosen by accelerate; with several GPUs, the first in CUDA_VISIBLE_DEVICES]",
    ),
    click.option("--threads", type=click.IntRange(min=1), help="Number of CPU threads of torch."),
    click.option(
        "--accumulate",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Split each process's share of a batch into this many parts, to save memory.",
    ),
    click.option("--save-minutes", type=float, default=5.0, show_default=True, help="Minutes between saved states."),
    click.option(
        "--validate-every",
        type=click.IntRange(min=1),
        help="Steps between measurements.  [default: an epoch; 1000 on photos]",
    ),
    click.option("--quiet", is_flag=True, help="Hide the progress bar."),
)


def _run_options(**options: Any) -> RunOptions:
    from skipae_train.machine import RunOptions

    return RunOptions(**options)


def _note(text: str) -> None:
    """Print progress on standard error."""
    from skipae.console import one_line

    click.echo(one_line(text), err=True)


def _note_run(out: Path, run_options: RunOptions) -> None:
    """Print where a finished run is, and how to use it."""
    if not run_options.quiet:
        run = shlex.quote(str(out))
        _note(f"the run is in {out}; to export a checkpoint: skipae-train export {run} --out FOLDER --name NAME")


def _warn_of_cpu(planned: Sequence[RecipeId], run_options: RunOptions) -> None:
    """Print how long the paper's budget takes on a CPU, before the run starts."""
    import torch

    from skipae_train.cost import CPU_RATE, training_operations
    from skipae_train.recipes import load_recipe
    from skipae_train.reproduce import duration

    if run_options.device == "cuda" or (run_options.device is None and torch.cuda.is_available()):
        return
    if not any(identity.budget == "paper" for identity in planned):
        return
    costs = [training_operations(load_recipe(identity)) for identity in planned]
    if None in costs:
        return
    seconds = sum(filter(None, costs)) / CPU_RATE
    if seconds > 3600:
        _note(
            f"--budget paper on a CPU takes about {duration(seconds)} on two fast cores with bf16, more on others; "
            "use --budget cpu or day, or a GPU"
        )


@cli.command()
@click.argument("recipe", required=False)
def recipes(recipe: str | None) -> None:
    """List the paper's results and recipes, or describe RECIPE."""
    from skipae_train.recipes import describe
    from skipae_train.tables import RESULTS

    if recipe is not None:
        click.echo(describe(recipe))
        return
    for name, result in RESULTS.items():
        click.echo(f"{name:<7} {', '.join(result.recipes)}: {result.title}")
    click.echo(
        f"{'natural':<7} natural, natural-more, natural-real, natural-deep, natural-dark, natural-fast: for photos, "
        "not in the paper"
    )


@cli.command()
@click.argument("recipe")
@click.option(
    "--data",
    type=EXISTING,
    required=True,
    help="Folder that contains the data set; for natural, a folder of photos, searched recursively.",
)
@out_option
@set_option
@recipe_options
@click.option("--start", type=EXISTING, help="Checkpoint folder with the initial weights of a new run.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate.  [default: the recipe's]")
@click.option("--pairs", type=EXISTING, help="On photos: real noisy and clean pairs to mix in, searched recursively.")
@click.option(
    "--without-camera",
    "without",
    multiple=True,
    metavar="NAME",
    help="Leave out the --pairs of this camera, to test on them, for example S6.",
)
@add_run_options
def pretrain(
    recipe: str,
    data: Path,
    out: Path,
    other: str | None,
    variant: str,
    budget: Budget,
    seed: int,
    start: Path | None,
    lr: float | None,
    pairs: Path | None,
    without: tuple[str, ...],
    **options: Any,
) -> None:
    """Pre-train an auto-encoder.

    A stopped run in --out is continued.
    """
    from skipae_train.pairs import find_pairs
    from skipae_train.pretrain import pretrain
    from skipae_train.recipes import pretrain_recipe

    if without and pairs is None:
        raise click.UsageError(f"--without-camera {without[0]} needs --pairs FOLDER: give both or neither")
    chosen = pretrain_recipe(recipe, variant=variant, budget=budget, seed=seed, data=other, lr=lr)
    run_options = _run_options(**options)
    _warn_of_cpu([chosen.id] if chosen.id else [], run_options)
    pretrain(chosen, data, out, run_options, start=start, pairs=find_pairs(pairs, without=without) if pairs else ())
    _note_run(out, run_options)


@cli.command()
@click.argument("recipe")
@data_option
@out_option
@set_option
@recipe_options
@click.option("--start", type=EXISTING, help="Run folder of the pre-training, or a checkpoint folder.")
@click.option("--fold", type=click.IntRange(0, 9), help="Fold of STL-10 to train on.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate.  [default: the recipe's]")
@add_run_options
def finetune(
    recipe: str,
    data: Path,
    out: Path,
    other: str | None,
    variant: str,
    budget: Budget,
    seed: int,
    start: Path | None,
    fold: int | None,
    lr: float | None,
    **options: Any,
) -> None:
    """Fine-tune a classifier or segmenter, then test it.

    A stopped run in --out is continued.
    """
    from skipae_train.finetune import finetune
    from skipae_train.recipes import finetune_recipe

    chosen = finetune_recipe(recipe, variant=variant, budget=budget, seed=seed, data=other, fold=fold, lr=lr)
    if start is None and chosen.start is not None:
        raise click.UsageError(_how_to_start(chosen))
    run_options = _run_options(**options)
    _warn_of_cpu([chosen.id] if chosen.id else [], run_options)
    found = finetune(chosen, data, out, run_options, start=start)
    if found is not None:
        click.echo(f"{out}: {found['metric']} {found['value']:.2f} % on {found['images']} test images")
        _note_run(out, run_options)


def _how_to_start(recipe: Finetune) -> str:
    """Return the message for a fine-tuning without --start: the command that makes one, and what else will do."""
    from skipae.checkpoints.resolve import BUNDLED
    from skipae_train.reproduce import start_of
    from skipae_zoo import CHECKPOINTS, read_config

    if recipe.id is None:
        raise ValueError(f"{recipe.name} was not made by its name")
    made = start_of(recipe.id)
    further = " --start PRETRAINED" if made.kind == "finetune" else ""
    ways = [f"'skipae-train {made.command} --data DATA{further} --out RUN' makes one"]
    for entry in CHECKPOINTS:
        folder = BUNDLED / entry.name
        trained = entry.recipe == made.recipe and (folder / "model.safetensors").exists()
        if trained and read_config(folder).architecture == recipe.architecture:
            ways.append(f"--start {shlex.quote(str(folder))} fits as well")
    ways.append("--variant random needs none")
    return f"{recipe.name} starts from a run of the recipe {made.recipe}: pass its folder as --start; {'; '.join(ways)}"


@cli.command()
@click.argument("run", type=EXISTING)
@data_option
@out_option
@budget_option
@add_run_options
def probe(run: Path, data: Path, out: Path, budget: Budget, **options: Any) -> None:
    """Measure what each encoder layer of a run has learned.

    Small probes classify and reconstruct images from each layer of the network of RUN, whose weights are frozen.
    """
    from skipae_train.finetune import load_network
    from skipae_train.probe import Probe, probe
    from skipae_train.recipes.budgets import cut
    from skipae_train.run_folder import require_finished

    network, recipe = load_network(run)
    require_finished(run)
    chosen = cut(Probe(name=f"probe {recipe['name']}", architecture=network.architecture), budget)
    for row in probe(chosen, network, data, out, _run_options(**options)):
        click.echo(f"{row['layer']}: accuracy {row['accuracy']:.2f} %, PSNR {row['psnr']:.2f} dB")


@cli.command()
@click.argument("results", metavar="ID...", nargs=-1, required=True)
@data_option
@budget_option
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of repetitions with different seeds.",
)
@click.option("--pretraining", default="", metavar="NAME[+NAME]", help="Variant for all pre-training: modern, ...")
@click.option(
    "--out",
    type=FOLDER,
    help="Folder for results and runs.  [default: results/ID, results/runs]",
)
@add_run_options
def reproduce(
    results: tuple[str, ...], data: Path, budget: Budget, seeds: int, pretraining: str, out: Path | None, **options: Any
) -> None:
    """Reproduce tables and figures of the paper.

    Trains what is missing and lists the numbers next to the paper's; 'skipae-train recipes' lists the IDs. Run the
    command again to continue.
    """
    from skipae_train.reproduce import RunProgress, list_runs, reproduce
    from skipae_train.tables import RESULTS

    for name in results:
        if name not in RESULTS:
            raise click.UsageError(f"unknown result {name!r}{suggest(name, RESULTS)}; use one of {', '.join(RESULTS)}")
    run_options, names = _run_options(**options), list(dict.fromkeys(results))
    planned = [identity for name in names for identity in list_runs(name, budget, seeds, data, pretraining)]
    _warn_of_cpu(planned, run_options)
    progress = RunProgress(planned, (lambda text: None) if run_options.quiet else _note)
    for name in names:
        where = Path("results") / name if out is None else out / name if names[1:] else out
        runs = Path("results/runs") if out is None else out / "runs"
        table = reproduce(
            name,
            budget,
            data,
            where,
            runs,
            seeds=seeds,
            run_options=run_options,
            pretraining=pretraining,
            progress=progress,
        )
        click.echo(table.read_text(encoding="utf-8"))
        if not run_options.quiet:
            _note(f"{table}: table.csv, result.json, figures and logs are in the same folder; the runs are in {runs}")


@cli.command()
@click.argument("source", metavar="RUN", type=EXISTING)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint folder to write.")
@click.option("--name", help="Name of the checkpoint.")
@click.option("--images", type=EXISTING, help="Photos to measure the halo of tiles on.  [default: the exact halo]")
@click.option(
    "--storage",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Type of the stored weights.",
)
@click.option("--default-layer", metavar="NAME", help="Default layer for features.  [default: the last]")
@click.option(
    "--without",
    type=click.Choice(["model.safetensors", "onnx/model.onnx", "onnx/features.onnx"]),
    multiple=True,
    help="File to omit, to save space.",
)
@click.option("--quantize", "int8", is_flag=True, help="Also write the int8 graphs, calibrated on --images.")
def export(
    source: Path,
    out: Path,
    name: str | None,
    images: Path | None,
    storage: str,
    default_layer: str | None,
    without: tuple[str, ...],
    int8: bool,
) -> None:
    """Export a run to a checkpoint folder.

    The outputs of ONNX Runtime are compared with torch.
    """
    from skipae_train.data import find_images, load_rgb
    from skipae_train.export import export_run
    from skipae_train.run_folder import progress
    from skipae_zoo import flaw_of_name

    if name is None:
        raise click.UsageError("exporting a run to a checkpoint folder needs --name NAME")
    if flaw := flaw_of_name(name):
        raise click.UsageError(f"--name {name!r} {flaw}; choose another")
    if int8 and (images is None or "onnx/model.onnx" in without):
        raise click.UsageError("--quantize needs --images FOLDER, and onnx/model.onnx, which --without must not name")
    photos = None if images is None else [load_rgb(file) / 255.0 for file in find_images(images)[:4]]
    done, steps = progress(source)
    if done < steps:
        click.echo(f"{source} stopped at step {done} of {steps}: exporting its current weights", err=True)
    network, config, parity = export_run(
        source,
        out,
        name=name,
        halo_images=photos,
        storage=storage,
        default_layer=default_layer,
        without=without,
    )
    click.echo(
        f"{out}: {sum(p.numel() for p in network.parameters()):,} weights stored as {storage}, halo {config.halo} of "
        f"{config.architecture.reach} pixels; ONNX Runtime differs from torch by {parity.output:.2g} (image) and "
        f"{parity.features:.2g} (features)"
    )
    if int8 and images is not None:
        _quantize(out, images, None, ())


@cli.command()
@click.argument("checkpoint", type=EXISTING)
@click.option("--photos", type=EXISTING, required=True, help="Clean photos to calibrate on, searched recursively.")
@click.option(
    "--gate",
    type=EXISTING,
    help="Other photos, to measure the loss on: for a classifier in folders named as its classes, for a segmenter with "
    "masks in VOC's layout, if there are labels.  [default: every fourth of --photos]",
)
@click.option(
    "--graph",
    "graphs",
    type=click.Choice(["model", "features"]),
    multiple=True,
    help="Graph to quantize; may be repeated.  [default: all that the checkpoint has]",
)
def quantize(checkpoint: Path, photos: Path, gate: Path | None, graphs: tuple[GraphKind, ...]) -> None:
    """Write a checkpoint's int8 graphs.

    They become onnx/model_quantized.onnx and onnx/features_quantized.onnx in the CHECKPOINT folder. Nothing is written
    if int8 loses more than 0.03 dB at sigma 15, 25 or 50, 0.1 dB at 75 or 100, or 0.1 points of accuracy or mIoU; if
    it changes more than 1 % of the classes; or if a layer's cosine similarity with float32 is below 0.99, or fewer
    than 90 % of the nearest neighbors stay the same.
    """
    _quantize(checkpoint, photos, gate, graphs)


def _quantize(checkpoint: Path, photos: Path, gate: Path | None, graphs: Sequence[GraphKind]) -> None:
    from skipae_train.quantize import quantize_checkpoint

    def note(text: str) -> None:
        click.echo(text, err=True)

    for found in quantize_checkpoint(checkpoint, photos, gate, graphs=graphs, notify=note):
        kept = ", ".join(found.kept) or "none"
        click.echo(f"{checkpoint / found.file}: {found.loss}; convolutions in float32: {kept}")


@cli.command()
@click.argument("sources", nargs=-1, required=True, type=EXISTING, metavar="FOLDER...")
@click.option("--out", type=FOLDER, required=True, help="New folder for the photos, as PNG.")
@click.option(
    "--test-set", "test_sets", type=EXISTING, multiple=True, required=True, help="Folder of test images to exclude."
)
@click.option(
    "--smallest", type=click.IntRange(min=1), default=160, show_default=True, help="Minimum short side, in pixels."
)
@click.option(
    "--halve-from",
    type=click.IntRange(min=0),
    default=1600,
    show_default=True,
    help="Halve photos with at least this short side, in pixels; 0 for none.",
)
@click.option(
    "--noise",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="Maximum noise level, on the 0-255 scale.",
)
@click.option("--pairs", is_flag=True, help="Gather pairs of noisy and clean photos for 'pretrain --pairs'.")
@click.option(
    "--without-camera", "without", multiple=True, metavar="NAME", help="With --pairs: leave out this camera's pairs."
)
def gather(
    sources: tuple[Path, ...],
    out: Path,
    test_sets: tuple[Path, ...],
    smallest: int,
    halve_from: int,
    noise: float,
    pairs: bool,
    without: tuple[str, ...],
) -> None:
    """Gather clean photos or pairs, without those of test sets."""
    from skipae_train.gather import Rules, gather, gather_pairs

    def say(text: str) -> None:
        click.echo(text, err=True)

    if without and not pairs:
        raise click.UsageError(f"--without-camera {without[0]} is for --pairs: give both or neither")
    if pairs:
        count = gather_pairs(sources, out, test_sets, smallest, without, say)
        click.echo(f"{out}: {count} pairs; gathered.tsv lists all that were looked at")
        return
    count = gather(sources, out, test_sets, Rules(smallest, halve_from, noise), say)
    click.echo(f"{out}: {count} photos; gathered.tsv lists all candidates")


@cli.command()
@click.argument("checkpoint")
@click.option("--clean", type=EXISTING, help="Clean images, to which seeded Gaussian noise is added.")
@click.option(
    "--sigma",
    type=click.FloatRange(min=0),
    multiple=True,
    default=(15, 25, 50),
    show_default=True,
    help="Noise level, on the 0-255 scale.",
)
@click.option("--unclipped", is_flag=True, help="Neither clip nor round the noisy images, as in papers.")
@click.option(
    "--pairs", type=EXISTING, help="Real noisy and clean photos: NAME_real.* and NAME_mean.*, or SIDD's NOISY and GT."
)
@click.option("--masks", type=EXISTING, help="VOCdevkit/VOC2012, or masks in its layout: IoU per class on val.")
@click.option("--camera", multiple=True, metavar="NAME", help="Use only pairs of this camera, for example Canon80D.")
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, help="Use every n-th pair.")
@click.option(
    "--through-files",
    is_flag=True,
    help="Measure files written by 'skipae denoise', and OpenCV's non-local means at its best strength.",
)
@click.option(
    "--ffdnet",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --through-files: FFDNet's weights (ffdnet_color.pth), measured at their best noise level.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="Precision of the computation.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Number of CPU threads.")
@click.option("--record", metavar="SET", help="Add the scores to CHECKPOINT's training/metrics.json under this name.")
def evaluate(
    checkpoint: str,
    clean: Path | None,
    sigma: tuple[float, ...],
    unclipped: bool,
    pairs: Path | None,
    masks: Path | None,
    camera: tuple[str, ...],
    every: int,
    through_files: bool,
    ffdnet: Path | None,
    precision: str,
    threads: int | None,
    record: str | None,
) -> None:
    """Measure a denoiser's PSNR or a segmenter's IoU.

    Prints means over images that are processed as by users of CHECKPOINT (a name or a folder): the noise level is not
    known.
    """
    from skipae import from_pretrained
    from skipae_train.evaluate import evaluate_gaussian, evaluate_masks, evaluate_pairs, record_scores

    if masks is not None and (clean or pairs):
        raise click.UsageError("--masks is for segmenters, --clean and --pairs for denoisers; use one kind")
    if clean is None and pairs is None and masks is None:
        raise click.UsageError("nothing to measure; use --clean FOLDER, --pairs FOLDER or both, or --masks FOLDER")
    if record and not Path(checkpoint).is_dir():
        raise click.UsageError("--record needs the folder of a checkpoint, not a name")
    if ffdnet is not None and not through_files:
        raise click.UsageError("--ffdnet needs --through-files")
    if masks is not None:
        segmenter = from_pretrained(checkpoint, device="cpu", precision=precision, threads=threads)
        measured = evaluate_masks(segmenter, masks)
        click.echo(measured)
        if record:
            record_scores(Path(checkpoint), record, [measured])
        return
    if through_files:
        if unclipped:
            raise click.UsageError(
                "--unclipped noise cannot be stored in files; use only one of --unclipped and --through-files"
            )
        found = _through_files(checkpoint, clean, sigma, pairs, camera, every, ffdnet, precision, threads)
        if record:
            record_scores(Path(checkpoint), record, found)
        return
    model = from_pretrained(checkpoint, device="cpu", precision=precision, threads=threads)
    scores = []
    if clean is not None:
        for level in sigma:
            scores.append(evaluate_gaussian(model, clean, level, clipped=not unclipped))
            click.echo(scores[-1])
    if pairs is not None:
        scores.append(evaluate_pairs(model, pairs, every=every, cameras=camera))
        click.echo(scores[-1])
    if record:
        record_scores(Path(checkpoint), record, scores)


def _through_files(
    checkpoint: str,
    clean: Path | None,
    sigma: tuple[float, ...],
    pairs: Path | None,
    camera: tuple[str, ...],
    every: int,
    ffdnet: Path | None,
    precision: str,
    threads: int | None,
) -> list[PsnrScore]:
    """Print the scores of files written by the command line and by rivals; return the former."""
    import tempfile

    from skipae_train.evaluate import best_setting, gaussian_files, score_files
    from skipae_train.pairs import find_pairs
    from skipae_train.rivals import ffdnet_settings, nlm_settings

    rivals = {"OpenCV NLM": nlm_settings()}
    if ffdnet is not None:
        rivals["FFDNet"] = ffdnet_settings(ffdnet)
    scores = []
    name = Path(checkpoint).name
    with tempfile.TemporaryDirectory() as folder:
        sets = {}
        for level in sigma:
            if clean is None:
                break
            options = f"--clean DIR --sigma {level:g}"
            sets[f"Gaussian, sigma {level:g}, files", options] = gaussian_files(
                clean, level, Path(folder, f"{level:g}")
            )
        if pairs is not None:
            found = [(pair.clean, pair.noisy) for pair in find_pairs(pairs, cameras=camera)[::every]]
            options = (
                "--pairs DIR" + "".join(f" --camera {c}" for c in camera) + (f" --every {every}" if every > 1 else "")
            )
            sets[" ".join(["camera noise,", *camera, "files"]), options] = found
        for (label, options), files in sets.items():
            command = f"skipae-train evaluate {name} {options} --through-files" + (
                "" if precision == "fp32" else f" --precision {precision}"
            )
            scores.append(score_files(checkpoint, files, threads, precision).mean(label, command))
            click.echo(scores[-1])
            for rival, settings in rivals.items():
                setting, measured = best_setting(settings, files)
                click.echo(f"  {measured.mean(f'{rival}, {setting}')}")
    return scores


@cli.command()
@click.argument("checkpoint", type=EXISTING)
@click.option("--speed", is_flag=True, help="First measure the speed on this machine's CPU.")
@click.option("--repo", metavar="ORG/NAME", help="Repository on the Hub for the example in the card.")
def card(checkpoint: Path, speed: bool, repo: str | None) -> None:
    """Write the card (README.md) of a checkpoint.

    It is generated from the records of the run and its measurements in the folder, and from training/notes.md, which
    describes license, use, data and terms.
    """
    from skipae_train.card import measure_speed, write_card

    if speed:
        measure_speed(checkpoint)
    click.echo(write_card(checkpoint, repo))


@cli.command()
@click.argument("checkpoint", metavar="NAME|DIR")
@click.option("--repo", metavar="ORG/NAME", required=True, help="Repository on the Hub, created if needed.")
@click.option("--private", is_flag=True, help="Make the repository private.")
@click.option("--pr", is_flag=True, help="Open a pull request on an existing repository instead.")
@click.option("--dry-run", is_flag=True, help="Check the checkpoint and list its files, without any request.")
def publish(checkpoint: str, repo: str, private: bool, pr: bool, dry_run: bool) -> None:
    """Publish a checkpoint on the Hugging Face Hub.

    It is checked first: sha256, ONNX files against torch, card, license, data, scores. The uploaded files are fetched
    again and compared, and the entry for the zoo is printed. Log in with 'hf auth login', or set HF_TOKEN to a token
    with write access.
    """
    from huggingface_hub.utils import disable_progress_bars

    from skipae_train.publish import publish

    if not sys.stderr.isatty():
        disable_progress_bars()

    def say(text: str) -> None:
        click.echo(text, err=True)

    published = publish(checkpoint, repo, private=private, pull_request=pr, dry_run=dry_run, notify=say)
    if published is not None:
        click.echo(f"published={published}")


@cli.command()
def doctor() -> int:
    """Check the training environment, and suggest fixes.

    Exit codes: 0 training can run, 1 something is wrong.
    """
    from skipae.console import echo
    from skipae_train.doctor import examine

    found = examine()
    echo(*(f"{name}: {text}" for name, text in found.facts.items()))
    for problem in found.problems:
        echo(f"problem: {problem.text}", f"repair:  {problem.repair}")
    if not found.problems:
        echo("no problems found")
    return int(bool(found.problems))


@cli.command(hidden=True)
@click.option("--model", required=True)
@click.option("--size", type=int, required=True)
@click.option("--threads", type=click.IntRange(min=1))
def eager(model: str, size: int, threads: int | None) -> None:
    """Measure the network of a checkpoint in PyTorch, with random weights, for ``skipae bench``."""
    import json
    import time

    started = time.perf_counter()
    import torch

    from skipae.checkpoints.resolve import find_folder, require_task
    from skipae.commands.bench import timing
    from skipae.engine.device import available_threads
    from skipae_train.networks import AutoEncoder
    from skipae_zoo import read_config

    threads = threads or available_threads()
    torch.set_num_threads(threads)
    config = read_config(find_folder(model))
    require_task(config, "restoration", "be measured")
    network = AutoEncoder(config.architecture).eval()
    loaded = time.perf_counter() - started

    @torch.inference_mode()
    def restore(pixels: Any) -> Any:
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255  # (H, W, C) -> (1, C, H, W)
        return (network(image).clamp(0, 1) * 255).round().byte().numpy()

    click.echo(json.dumps(timing(restore, size, f"torch {torch.__version__}", threads, loaded)))


@cli.command(hidden=True)
@click.option("--size", type=int, required=True)
@click.option("--threads", type=click.IntRange(min=1))
def ffdnet(size: int, threads: int | None) -> None:
    """Measure a graph of FFDNet's shape, for ``skipae bench --against ffdnet``."""
    import json
    import time

    import numpy as np

    started = time.perf_counter()
    from skipae.commands.bench import timing
    from skipae.engine.device import Device, available_threads, create_session, load_runtime
    from skipae.engine.tiling import to_net
    from skipae_train.rivals import ffdnet_graph

    device = Device("cpu", threads=threads or available_threads())
    runtime = load_runtime()
    session = create_session(runtime, ffdnet_graph().SerializeToString(), device)
    loaded = time.perf_counter() - started

    def restore(pixels: Any) -> Any:
        return np.rint(session.run(None, {"pixel_values": to_net(pixels)})[0].clip(0, 1) * 255).astype(np.uint8)

    engine = f"onnxruntime {runtime.__version__}"
    click.echo(json.dumps(timing(restore, size, engine, device.threads, loaded)))


@cli.command(hidden=True)
@click.option("--threads", type=click.IntRange(min=1))
def resnet18(threads: int | None) -> None:
    """Measure timm's resnet18 in PyTorch, with random weights, for ``skipae bench --features``."""
    import json
    import time

    started = time.perf_counter()
    import torch

    from skipae.commands.bench import feature_timing
    from skipae.console import first_line
    from skipae.engine.device import available_threads
    from skipae_train.errors import TrainingError

    try:
        import timm
    except (ImportError, RuntimeError, OSError) as error:  # it also loads torchvision
        raise TrainingError(f"timm does not load: {first_line(error)}; skipae-train doctor may know why") from error
    threads = threads or available_threads()
    torch.set_num_threads(threads)
    network = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()  # pooled features
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    loaded = time.perf_counter() - started

    @torch.inference_mode()
    def take(pixels: Any) -> Any:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255  # (N, H, W, C) -> (N, C, H, W)
        return network((images - mean) / std).numpy()

    engine = f"timm {timm.__version__}, torch {torch.__version__}"
    click.echo(json.dumps(feature_timing(take, engine, threads, loaded)))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; errors are one line."""
    cli.main(arguments)
