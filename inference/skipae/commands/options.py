"""Shared by several commands: options, messages, and the run over many inputs."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import click

from skipae.console import Console
from skipae.options import DenoiseOptions, TileOptions
from skipae_zoo import DEFAULTS, Task

if TYPE_CHECKING:
    from pathlib import Path

    from click.shell_completion import CompletionItem

    from skipae.batch import pipeline
    from skipae.batch.job import Work
    from skipae.images import Quality
    from skipae.model import Model

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class CheckpointOptions:
    """The checkpoint and its device."""

    model: str
    device: str
    precision: str
    threads: int | None

    def find(self, console: Console, task: Task | None = None, verb: str = "") -> Path:
        """Find the checkpoint's folder before the inputs are read, so that a mistyped name is reported first.

        Args:
            console: gets remarks.
            task: the task that the checkpoint must be made for.
            verb: name of the task in the message.

        Raises:
            ModelError: the checkpoint is unavailable or made for another task.
        """
        from skipae.checkpoints import resolve
        from skipae.checkpoints.hub import Access

        folder = resolve.find_folder(self.model, access=Access(notify=console.remark))
        config = resolve.load_config(folder)
        if task is not None:
            resolve.require_task(config, task, verb)
        return folder

    def load(self, folder: Path, console: Console) -> Model:
        """Load the model in the folder that :meth:`find` returned."""
        from skipae.model import from_pretrained

        return from_pretrained(
            folder, device=self.device, precision=self.precision, threads=self.threads, notify=console.remark
        )


@dataclass(frozen=True)
class EncodingOptions:
    """How pictures are written."""

    format: str | None
    quality: Quality | None
    keep_times: bool


@dataclass(frozen=True)
class WritingOptions:
    """What to do with outputs that exist."""

    overwrite: bool
    resume: bool
    dry_run: bool


@dataclass(frozen=True)
class BatchOptions:
    """How many inputs are processed."""

    lists: tuple[str, ...]
    report: str | None
    fail_fast: bool
    max_pixels: int

    def run(self, task: pipeline.BatchTask, work: Work, console: Console) -> int:
        """Process all images, and return the exit code."""
        from skipae.batch import pipeline

        found = pipeline.run(
            task, work, console, max_pixels=self.max_pixels, report=self.report, fail_fast=self.fail_fast
        )
        return found.exit_code


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds several options to a command."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _group(name: str, make: Callable[..., Any], *options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds options and passes their values as one value ``name``, created by ``make``."""
    fields = list(inspect.signature(make).parameters)

    def decorate(command: Command) -> Command:
        @wraps(command)
        def call(**values: Any) -> Any:
            chosen = {field: values.pop(field) for field in fields}
            return command(**values, **{name: make(**chosen)})

        return together(*options)(cast("Command", call))

    return decorate


def complete_files(_: click.Context, __: click.Parameter, text: str) -> list[CompletionItem]:
    """Complete paths, by the shell."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(text, type="file")]


def complete_models(_: click.Context, __: click.Parameter, text: str) -> list[CompletionItem]:
    """Complete folders and names of checkpoints, each with its purpose."""
    from click.shell_completion import CompletionItem

    from skipae_zoo import CHECKPOINTS

    names = [CompletionItem(e.name, help=e.summary) for e in CHECKPOINTS if e.name.startswith(text)]
    return names or [CompletionItem(text, type="dir")]


def complete_layers(context: click.Context, _: click.Parameter, text: str) -> list[CompletionItem]:
    """Complete the last of comma-separated layer names of the checkpoint in ``--model``."""
    from click.shell_completion import CompletionItem

    from skipae.checkpoints import resolve
    from skipae.checkpoints.hub import Access
    from skipae.errors import SkipaeError

    try:
        defaults = [option.default for option in context.command.params if option.name == "model"]
        name = str(context.params.get("model") or defaults[0])
        folder = resolve.find_folder(name, access=Access(local_files_only=True))
        layers = resolve.load_config(folder).architecture.layers
    except SkipaeError:
        return []
    before, comma, last = text.rpartition(",")
    return [
        CompletionItem(before + comma + layer.name, help=f"{layer.channels} channels, stride {layer.total_stride}")
        for layer in layers
        if layer.name.startswith(last)
    ]


def complete_devices(_: click.Context, __: click.Parameter, text: str) -> list[str]:
    """Complete devices, without checking which of them work."""
    from skipae.engine.providers import PROVIDERS

    return [name for name in ("auto", *PROVIDERS, "cuda:1") if name.startswith(text)]


def model_option(task: Task | Literal["features"] = "restoration") -> Callable[[Command], Command]:
    """Return the option ``--model``; its default is the checkpoint for ``task``."""
    return click.option(
        "--model",
        default=DEFAULTS[task],
        metavar="NAME|DIR",
        show_default=True,
        help="Checkpoint name or folder.",
        shell_complete=complete_models,
    )


threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the cores this process may use]"
)


def model_options(task: Task | Literal["features"] = "restoration") -> Callable[[Command], Command]:
    """Return the options ``--model``, ``--device``, ``--precision`` and ``--threads``, as ``checkpoint``."""
    return _group(
        "checkpoint",
        CheckpointOptions,
        model_option(task),
        click.option(
            "--device",
            default="auto",
            metavar="auto|cpu|cuda[:N]|openvino|...",
            show_default=True,
            help="auto uses CUDA, else OpenVINO, if installed and working, else the CPU.  Any provider of the "
            "installed ONNX Runtime is allowed.",
            shell_complete=complete_devices,
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "fp32", "int8", "fp16"]),
            default="auto",
            show_default=True,
            help="auto uses fp32.  int8 needs a checkpoint with int8 features."
            if task == "features"
            else "auto uses int8 on CPUs that are faster with it, if the checkpoint has it, else fp32.",
        ),
        threads_option,
    )


_TILES = (
    click.option(
        "--tile",
        type=click.IntRange(min=1),
        metavar="PX",
        help="Longest side of a tile of a large image.  [default: what fits in memory]",
    ),
    click.option(
        "--halo",
        type=click.IntRange(min=0),
        metavar="PX",
        help="Border of each tile that is computed and discarded, in pixels; a smaller one is faster but leaves "
        "seams.  [default: the checkpoint's, for the same output as without tiles]",
    ),
)

tile_options = _group("tiling", TileOptions, *_TILES)
"""``--tile`` and ``--halo``, as ``tiling``."""

denoise_options = _group(
    "denoising",
    DenoiseOptions,
    click.option(
        "--strength",
        type=click.FloatRange(0, 1),
        default=1.0,
        show_default=True,
        help="Share of the change that is blended in, from 0 (none) to 1.",
    ),
    click.option("--luma", type=click.FloatRange(0, 1), help="Strength for brightness only.  [default: --strength]"),
    click.option("--chroma", type=click.FloatRange(0, 1), help="Strength for color only.  [default: --strength]"),
    *_TILES,
)
"""How much noise is removed, as ``denoising``."""

resize_options = together(
    click.option(
        "--resize",
        type=click.IntRange(min=0),
        metavar="PX",
        help="Scale the short side to this many pixels; 0 keeps the size.  [default: the checkpoint's]",
    ),
    click.option(
        "--crop",
        type=click.IntRange(min=0),
        metavar="PX",
        help="Side of the center crop in pixels; 0 takes the whole image.  [default: the checkpoint's]",
    ),
)
"""``--resize`` and ``--crop``, of the commands that take features."""

max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=178_956_970,
    show_default=True,
    help="Largest image to accept, in pixels.",
)


def parse_size(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Parse ``SIDE`` or ``HxW`` in pixels into height and width."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,5})(?:[xX]([1-9]\d{0,5}))?", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a size in pixels; use 224 or 480x640 (height x width)")
    return int(match[1]), int(match[2] or match[1])


def _quality(context: click.Context, option: click.Parameter, text: str | None) -> int | str | None:
    if text is None or text == "keep":
        return text
    if text.isdecimal() and 1 <= int(text) <= 100:
        return int(text)
    raise click.BadParameter(f"{text!r} is not a whole number from 1 to 100 or keep")


quality_option = click.option(
    "--quality",
    callback=_quality,
    metavar="1..100|keep",
    help="Quality of JPEG, WebP, AVIF and HEIC output; keep uses a JPEG's own quantization tables.  [default: 95]",
)


def _format(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """Return the format of an extension."""
    if text is None:
        return None
    from skipae.images import SUFFIXES

    found = SUFFIXES.get(f".{text.lower().removeprefix('.')}")
    if found is None:
        raise click.BadParameter(f"{text!r} is not a supported format; use one of {', '.join(s[1:] for s in SUFFIXES)}")
    return found


picture_options = _group(
    "encoding",
    EncodingOptions,
    click.option(
        "--format",
        callback=_format,
        metavar="EXT",
        help="Write all images in this format, for example png.  [default: the input's, or that of the name in -o]",
    ),
    quality_option,
    click.option("--keep-times", is_flag=True, help="Give each output the modification time of its input."),
)
"""``--format``, ``--quality`` and ``--keep-times``, as ``encoding``."""

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Overwrite existing outputs; inputs are never overwritten."
)

batch_options = _group(
    "batch",
    BatchOptions,
    max_pixels_option,
    click.option(
        "--list",
        "lists",
        metavar="FILE",
        multiple=True,
        help="Also read inputs from this text file, one per line; - is stdin.",
        shell_complete=complete_files,
    ),
    click.option(
        "--report",
        metavar="FILE",
        help="Add a line of JSON for each input to this file.",
        shell_complete=complete_files,
    ),
    click.option("--fail-fast", is_flag=True, help="Stop at the first input that fails."),
)
"""``--max-pixels``, ``--list``, ``--report`` and ``--fail-fast``, as ``batch``."""

result_options = _group(
    "writing",
    WritingOptions,
    overwrite_option,
    click.option("--resume", is_flag=True, help="Skip inputs whose output exists."),
    click.option("--dry-run", is_flag=True, help="Print what would be written, without doing it."),
)
"""``--overwrite``, ``--resume`` and ``--dry-run``, as ``writing``."""

console_options = _group(
    "console",
    Console,
    click.option("--quiet", is_flag=True, help="Hide progress, outputs and remarks; errors and losses are printed."),
    click.option("--verbose", is_flag=True, help="Print which device is used, and why."),
    click.option("--debug", is_flag=True, help="Show tracebacks of errors, and what native libraries print."),
)
"""``--quiet``, ``--verbose`` and ``--debug``, as ``console``."""


def plan_pictures(
    inputs: tuple[str, ...],
    output: str | None,
    encoding: EncodingOptions,
    writing: WritingOptions,
    batch: BatchOptions,
    console: Console,
    *,
    suffix: str,
    extension: str | None = None,
    earlier: tuple[str, ...] = (),
) -> Work:
    """Decide where each output goes (see :func:`skipae.batch.plan.plan_jobs`) and report skipped inputs."""
    from skipae.batch.plan import plan_jobs

    work = plan_jobs(
        inputs,
        output,
        suffix=suffix,
        extension=extension,
        format=encoding.format,
        lists=batch.lists,
        overwrite=writing.overwrite,
        resume=writing.resume,
        keep_times=encoding.keep_times,
        earlier=earlier,
    )
    if work.left_out:
        names = ", ".join(f"*.{each}.*" for each in earlier or (suffix,))
        console.remark(f"skipped {work.left_out} output(s) of earlier runs ({names})")
    return work


def show(work: Work, console: Console) -> int:
    """Print the output that each input would have, for ``--dry-run``; return the exit code that is known so far."""
    from skipae.batch.pipeline import Outcome, announced
    from skipae.console import echo

    for job in work.jobs:
        echo(f"{job.name} -> {'-' if job.target is None else job.target}")
    for job in work.skipped:
        console.remark(f"{job.name}: {job.target} already exists, skipped")
    for _, line in announced(work):
        if line:
            console.error(line)
    unread = sum(failure.unread for failure in work.failed)
    return Outcome(len(work.jobs) + len(work.skipped), len(work.failed), unread).exit_code


def refuse_empty(option: str, value: str | None) -> None:
    """Raise :class:`UsageError` if the value of an option is empty."""
    if value == "":
        from skipae.errors import UsageError

        raise UsageError(f"{option} is empty (unset shell variable?)")


def refuse_terminal(streams: bool) -> None:
    """Raise :class:`UsageError` if binary output would go to a terminal."""
    if streams and sys.stdout is not None and sys.stdout.isatty():
        from skipae.errors import UsageError

        raise UsageError("standard output is a terminal; use -o FILE or redirect it")
