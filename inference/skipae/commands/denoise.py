"""``skipae denoise``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from skipae.commands import options
from skipae.console import Console

if TYPE_CHECKING:
    from skipae import images
    from skipae.batch.job import Job
    from skipae.model import Model
    from skipae.options import DenoiseOptions
    from skipae.tasks.pixels import Progress


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, shell_complete=options.complete_files)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File or folder to write to; - is stdout.  [default: photo.denoised.png next to photo.png]",
    shell_complete=options.complete_files,
)
@options.denoise_options
@options.model_options()
@options.picture_options
@options.result_options
@options.batch_options
@options.console_options
def command(
    inputs: tuple[str, ...],
    output: str | None,
    denoising: DenoiseOptions,
    checkpoint: options.CheckpointOptions,
    encoding: options.EncodingOptions,
    writing: options.WritingOptions,
    batch: options.BatchOptions,
    console: Console,
) -> int:
    """Remove noise from images.

    INPUT is an image, a folder (recursive), a glob pattern, or - for stdin.
    Formats: PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, PPM, HEIC (with an extra), detected by content.
    Bit depth, grayscale, alpha, ICC profile, EXIF and resolution are kept.

    Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage, 3 device not available, 4 model unavailable,
    5 no readable input, 130 interrupted.
    """
    from skipae.batch.pipeline import Each
    from skipae.batch.sinks import Written, write_picture

    work = options.plan_pictures(inputs, output, encoding, writing, batch, console, suffix="denoised")
    if writing.dry_run:
        return options.show(work, console)
    options.refuse_terminal(any(job.target is None for job in work.jobs))
    folder = checkpoint.find(console, "restoration", "denoise")

    def denoise(model: Model, job: Job, picture: images.Picture, advance: Progress) -> Callable[[], Written]:
        clean = model.denoise(picture, denoising, progress=advance)
        return lambda: Written(write_picture(job, clean, quality=encoding.quality, overwrite=writing.overwrite))

    return batch.run(Each(lambda: checkpoint.load(folder, console), denoise), work, console)
