"""``skipae visualize``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from skipae.commands import options
from skipae.console import Console

if TYPE_CHECKING:
    from skipae import images
    from skipae.batch.job import Job
    from skipae.batch.sinks import Written
    from skipae.model import Model
    from skipae.tasks.pixels import Progress


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, shell_complete=options.complete_files)
@click.option(
    "-o",
    "--output",
    metavar="FIGURE",
    required=True,
    help="Image file, whose extension sets the format, or a folder for a PNG named after each INPUT; - is stdout.",
)
@click.option(
    "--layer",
    required=True,
    metavar="NAME",
    shell_complete=options.complete_layers,
    help="Layer, for example enc7; see skipae layers.",
)
@click.option("--maps", type=click.IntRange(1, 64), default=8, show_default=True, help="Feature maps to show.")
@click.option(
    "--blocks",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.25,
    show_default=True,
    help="Share of the corrupted image that is covered by blocks of the fill color.",
)
@click.option(
    "--sigma",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Noise level of the corrupted image, on the 0-255 scale.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed of the corruption.")
@options.resize_options
@options.model_options()
@options.max_pixels_option
@options.overwrite_option
@options.console_options
def command(
    inputs: tuple[str, ...],
    output: str,
    layer: str,
    maps: int,
    blocks: float,
    sigma: float,
    seed: int,
    resize: int | None,
    crop: int | None,
    checkpoint: options.CheckpointOptions,
    max_pixels: int,
    overwrite: bool,
    console: Console,
) -> int:
    """Draw the strongest feature maps of a layer, for an image as it is and corrupted, side by side.

    INPUT is an image, a folder (recursive), a glob pattern, or - for stdin; each image gets a figure.  The maps with
    the most energy on the clean image are shown.  Both maps of a pair have the same scale, so that the effect of the
    corruption is visible (figures 5 and 6 of the paper).  An image whose short side exceeds 768 pixels is scaled to
    that first, unless --resize is used.

    Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage, 3 device not available, 4 model unavailable,
    5 no readable input, 130 interrupted.
    """
    from skipae import images
    from skipae.batch.pipeline import Each, run
    from skipae.batch.plan import plan_jobs
    from skipae.batch.sinks import Written, write_picture
    from skipae.options import DrawOptions

    work = plan_jobs(inputs, output, suffix="maps", extension=".png", overwrite=overwrite)
    work.resumable = False
    options.refuse_terminal(any(job.target is None for job in work.jobs))
    drawing = DrawOptions(maps=maps, blocks=blocks, sigma=sigma, seed=seed, resize=resize, crop=crop)

    def draw(model: Model, job: Job, picture: images.Picture, advance: Progress) -> Callable[[], Written]:
        sheet = images.from_pil(model.draw_features(picture, layer, drawing))
        advance(1)
        return lambda: Written(picture.remarks + write_picture(job, sheet, overwrite=overwrite))

    folder = checkpoint.find(console)
    return run(Each(lambda: checkpoint.load(folder, console), draw), work, console, max_pixels=max_pixels).exit_code
