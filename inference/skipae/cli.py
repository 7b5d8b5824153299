"""The command ``skipae``.

Only click is loaded until there is work to do, so that ``--help`` answers at once.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import click

from skipae import __version__
from skipae.errors import SkipaeError, UsageError

if TYPE_CHECKING:
    from skipae.batch import Progress
    from skipae.model import Model

INTERRUPTED = 130
TERMINATED = 143


class _Commands(click.Group):
    """A group whose errors, usage errors too, are one line on standard error, with skipae's exit codes."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command and exit."""
        arguments = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in arguments
        extra["standalone_mode"] = False
        extra.setdefault("terminal_width", _width())
        gc.freeze()  # what is loaded by now is not looked through again when the process ends: a sixth of --help
        with suppress(ValueError):  # only the main thread may
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that no half-written file stays
        try:
            code = super().main(args=arguments, prog_name=prog_name or "skipae", **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help() if error.ctx else "", err=True)
            code = UsageError.exit_code
        except click.ClickException as error:
            _error(error.format_message())
            code = UsageError.exit_code
        except click.Abort:
            code = INTERRUPTED
        except Exception as error:
            if debug:
                raise
            _error(str(error) if isinstance(error, SkipaeError) else f"{_unexpected(error)} (--debug shows where)")
            code = error.exit_code if isinstance(error, SkipaeError) else 1
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, context: click.Context) -> Any:
        """Run a command; what click makes of an interrupt is more than a line."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            _error("interrupted")
            raise click.exceptions.Exit(INTERRUPTED) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="skipae", message="%(prog)s %(version)s")
def main() -> None:
    """Remove noise from photos, on the CPU or a GPU."""


@main.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File or folder for the results; - is standard output.  [default: photo.denoised.png beside photo.png]",
)
@click.option(
    "--model", default="skipae-natural", metavar="NAME|DIR", show_default=True, help="Checkpoint, or its folder."
)
@click.option(
    "--strength",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="0 leaves the image as it is, 1 removes all noise.",
)
@click.option(
    "--device",
    default="auto",
    metavar="auto|cpu|cuda[:N]|openvino",
    show_default=True,
    help="auto takes a GPU that works, else the CPU.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the cores this process may use]")
@click.option(
    "--tile",
    type=click.IntRange(min=1),
    metavar="PX",
    help="Longest side of the windows a large image is restored in.  [default: what fits in memory]",
)
@click.option(
    "--halo",
    type=click.IntRange(min=0),
    metavar="PX",
    help="Pixels around a window that are computed and dropped; fewer are faster and leave seams.  [default: the "
    "model's, for the same result as without windows]",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="Of JPEG, WebP and AVIF results.  [default: a JPEG input's own tables, else 95]",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=178_956_970,
    show_default=True,
    help="Largest image to accept, in pixels.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing results; an input is never replaced.")
@click.option("--report", metavar="FILE", help="Add a line of JSON for each input to this file.")
@click.option("--quiet", is_flag=True, help="Hide progress and the device line; errors and losses are shown.")
@click.option("--debug", is_flag=True, help="Show where an unexpected or fatal error comes from.")
def denoise(
    inputs: tuple[str, ...],
    output: str | None,
    model: str,
    strength: float,
    device: str,
    threads: int | None,
    tile: int | None,
    halo: int | None,
    quality: int | None,
    max_pixels: int,
    overwrite: bool,
    report: str | None,
    quiet: bool,
    debug: bool,
) -> int:
    """Remove noise from images.

    INPUT is an image, a folder (with all below it), a pattern, or - for standard input.  Formats: PNG, JPEG, WebP,
    TIFF, BMP, GIF, AVIF, PPM, told by content.  Bit depth, grey, alpha, colour profile, EXIF and resolution are kept.

    Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage, 3 the device is not available, 4 the model could not
    be had, 5 no input could be read, 130 interrupted.
    """
    from pathlib import Path

    from skipae import batch, checkpoints

    if not debug:
        import warnings

        warnings.simplefilter("ignore")  # a library's remarks are not the user's
    if strength != strength:
        raise UsageError("--strength must be from 0 to 1, not nan")
    console = _Console(quiet)
    work = batch.plan(inputs, output, suffix="denoised", overwrite=overwrite)
    if any(job.target is None for job in work.jobs) and sys.stdout.isatty():
        raise UsageError("standard output is a terminal: give a file after -o, or redirect it")
    if work.skipped and not quiet:
        console.say(f"left out {work.skipped} result(s) of earlier runs (*.denoised.*)")

    def load() -> Model:
        from skipae.model import from_pretrained

        loaded = from_pretrained(model, device=device, threads=threads, notify=_hush if quiet else console.say)
        checkpoints.require_task(loaded.config, "restoration", "denoise")
        return loaded

    options = batch.Options(strength, tile, halo, quality, max_pixels, overwrite)
    return batch.run(load, work, options, console, None if report is None else Path(report)).exit_code


class _Console:
    """Messages on standard error, and a progress bar where it is a terminal."""

    def __init__(self, quiet: bool) -> None:
        self._bar_wanted = not quiet and sys.stderr.isatty()
        self._bar: Any = None

    def say(self, text: str) -> None:
        """A remark or a loss."""
        self._line(f"skipae: {text}")

    def error(self, text: str) -> None:
        """Why an input failed."""
        self._line(f"skipae: error: {text}")

    @contextmanager
    def progress(self, total: int) -> Iterator[Progress]:
        """A bar over ``total`` images."""
        from skipae.batch import NoProgress

        if not self._bar_wanted or not total:
            yield NoProgress()
            return
        from tqdm import tqdm

        shape = "{percentage:3.0f}% |{bar}| {n:.1f}/{total} images [{elapsed}<{remaining}]"
        with tqdm(total=total, bar_format=shape, file=sys.stderr) as self._bar:
            yield self._bar
        self._bar = None

    def _line(self, text: str) -> None:
        from skipae.batch import one_line

        if self._bar is not None:
            self._bar.write(one_line(text), file=sys.stderr)
        else:
            click.echo(one_line(text), err=True)


def _hush(_: str) -> None:
    """Say nothing."""


def _width() -> int:
    """Columns of the help page.  Click's way loads shutil, and with it the compressors."""
    try:
        return max(48, min(os.get_terminal_size().columns, 100) - 2)
    except OSError:
        return 78


def _error(text: str) -> None:
    click.echo("skipae: error: " + " ".join(text.split()), err=True)


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {error}"
