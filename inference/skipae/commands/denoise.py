"""``skipae denoise``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from skipae.commands import options

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skipae import images
    from skipae.model import Model


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, shell_complete=options.complete_files)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File or folder for the results; - is standard output.  [default: photo.denoised.png beside photo.png]",
    shell_complete=options.complete_files,
)
@click.option(
    "--strength",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="0 leaves the image as it is, 1 removes all noise.",
)
@click.option("--luma", type=click.FloatRange(0, 1), help="Strength in brightness alone.  [default: --strength]")
@click.option("--chroma", type=click.FloatRange(0, 1), help="Strength in colour alone.  [default: --strength]")
@options.model_options()
@options.tile_options
@options.picture_options
@options.max_pixels_option
@options.result_options
@options.batch_options
@options.console_options
def command(
    inputs: tuple[str, ...],
    output: str | None,
    strength: float,
    luma: float | None,
    chroma: float | None,
    model: str,
    device: str,
    threads: int | None,
    tile: int | None,
    halo: int | None,
    format: str | None,
    quality: images.Quality | None,
    keep_times: bool,
    max_pixels: int,
    overwrite: bool,
    resume: bool,
    dry_run: bool,
    lists: tuple[str, ...],
    report: str | None,
    fail_fast: bool,
    quiet: bool,
    verbose: bool,
    debug: bool,
) -> int:
    """Remove noise from images.

    INPUT is an image, a folder (with all below it), a pattern, or - for standard input.  Formats: PNG, JPEG, WebP,
    TIFF, BMP, GIF, AVIF, PPM, told by content.  Bit depth, grey, alpha, colour profile, EXIF and resolution are kept.

    Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage, 3 the device is not available, 4 the model could not
    be had, 5 no input could be read, 130 interrupted.
    """
    from skipae.batch import pipeline as batch
    from skipae.model import check_options

    check_options(strength, luma, chroma, tile, halo, max_pixels)
    console = options.Console(quiet, debug, verbose)
    work = batch.plan(
        inputs,
        output,
        suffix="denoised",
        format=format,
        lists=lists,
        overwrite=overwrite,
        resume=resume,
        keep_times=keep_times,
    )
    if work.left_out:
        console.remark(f"left out {work.left_out} result(s) of earlier runs (*.denoised.*)")
    if dry_run:
        return options.show(work, console)
    options.refuse_terminal(any(job.target is None for job in work.jobs))
    folder = options.find_model(model, console, "restoration", "denoise")

    def load() -> Model:
        return options.load_model(folder, device, threads, console)

    def restore(loaded: Model, pixels: NDArray[Any], advance: batch.Advance) -> NDArray[Any]:
        return loaded.restore(
            pixels, strength=strength, luma=luma, chroma=chroma, tile=tile, halo=halo, progress=advance
        )

    task = batch.Restoration(load, restore, quality=quality, overwrite=overwrite)
    return batch.run(task, work, console, max_pixels=max_pixels, report=report, fail_fast=fail_fast).exit_code
