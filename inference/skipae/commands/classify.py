"""``skipae classify``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from skipae.commands import options

if TYPE_CHECKING:
    from skipae import images
    from skipae.batch import pipeline as batch
    from skipae.model import Model


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, shell_complete=options.complete_files)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many classes to name.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each image instead of a table.")
@options.model_options("classification")
@options.max_pixels_option
@options.batch_options
@options.console_options
def command(
    inputs: tuple[str, ...],
    top: int,
    as_json: bool,
    model: str,
    device: str,
    threads: int | None,
    max_pixels: int,
    lists: tuple[str, ...],
    report: str | None,
    fail_fast: bool,
    quiet: bool,
    verbose: bool,
    debug: bool,
) -> int:
    """Tell what images show.

    INPUT is an image, a folder (with all below it), a pattern, or - for standard input, as for skipae denoise.  The
    likeliest classes of each image are printed with their scores, from 0 to 1.  Images are scaled and cropped as the
    checkpoint's config.json says.

    Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage, 3 the device is not available, 4 the model could not
    be had or is no classifier, 5 no input could be read, 130 interrupted.
    """
    from skipae.batch import pipeline as batch

    console = options.Console(quiet, debug, verbose)
    found = batch.find(inputs, lists)
    files = [*found.single, *(file for _, below in found.trees for file in below)]
    work = batch.Work([batch.Job(file, None) for file in files], found.failed)
    folder = options.find_model(model, console, "classification", "classify")
    task = _Classification(
        lambda: options.load_model(folder, device, threads, console),
        console,
        top,
        as_json,
    )
    return batch.run(task, work, console, max_pixels=max_pixels, report=report, fail_fast=fail_fast).exit_code


class _Classification:
    """Prints the classes of each image."""

    def __init__(self, load: Callable[[], Model], console: options.Console, top: int, as_json: bool) -> None:
        self._load = load
        self._console = console
        self._top = top
        self._as_json = as_json

    def load(self) -> None:
        """Load the model."""
        self._model = self._load()

    def process(self, job: batch.Job, picture: images.Picture, advance: batch.Advance) -> Callable[[], batch.Written]:
        """Classify the picture."""
        from skipae.batch import pipeline as batch
        from skipae.console import to_json

        scores = self._model.classify(picture.rgb(), self._top)
        advance(1.0)
        classes = [{"label": label, "score": round(score, 6)} for label, score in scores]
        if self._as_json:
            lines = [to_json({"input": job.name, "classes": classes})]
        else:
            lines = [job.name, *(f"  {score:.4f}  {label}" for label, score in scores)]

        def write() -> batch.Written:
            self._console.print(*lines)
            return batch.Written(picture.notes, {"classes": classes})

        return write

    def trim(self) -> None:
        """Nothing is kept that grows with the image."""
