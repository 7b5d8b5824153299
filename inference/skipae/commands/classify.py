"""``skipae classify``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from skipae.commands import options
from skipae.console import Console

if TYPE_CHECKING:
    from skipae import images
    from skipae.model import Model
    from skipae.tasks.pixels import Progress


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, shell_complete=options.complete_files)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Number of classes to print.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each image instead of a table.")
@options.model_options("classification")
@options.batch_options
@options.console_options
def command(
    inputs: tuple[str, ...],
    top: int,
    as_json: bool,
    checkpoint: options.CheckpointOptions,
    batch: options.BatchOptions,
    console: Console,
) -> int:
    """Predict the classes of images.

    INPUT is an image, a folder (recursive), a glob pattern, or - for stdin, as for skipae denoise.
    The most likely classes of each image are printed with scores from 0 to 1.  Images are scaled and cropped
    as the checkpoint's config.json says.

    Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage, 3 device not available, 4 model
    unavailable or not a classifier, 5 no readable input, 130 interrupted.
    """
    from skipae.batch.job import Job, Work
    from skipae.batch.pipeline import Each
    from skipae.batch.sinks import Written
    from skipae.batch.sources import find
    from skipae.console import to_json

    def classify(model: Model, job: Job, picture: images.Picture, advance: Progress) -> Callable[[], Written]:
        scores = model.classify(picture, top)
        advance(1.0)
        classes = [{"label": label, "score": round(score, 6)} for label, score in scores]
        if as_json:
            lines = [to_json({"input": job.name, "classes": classes})]
        else:
            lines = [job.name, *(f"  {score:.4f}  {label}" for label, score in scores)]

        def write() -> Written:
            console.print(*lines)
            return Written(picture.remarks, {"classes": classes})

        return write

    found = find(inputs, batch.lists)
    files = [*found.single, *(file for _, below in found.trees for file in below)]
    work = Work([Job(file, None) for file in files], found.failed)
    folder = checkpoint.find(console, "classification", "classify")
    return batch.run(Each(lambda: checkpoint.load(folder, console), classify), work, console)
