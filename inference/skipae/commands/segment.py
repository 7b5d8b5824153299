"""``skipae segment``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from skipae.commands import options
from skipae.errors import UsageError

if TYPE_CHECKING:
    from skipae import images
    from skipae.batch import pipeline as batch
    from skipae.model import Model


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, shell_complete=options.complete_files)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File or folder for the results; - is standard output.  [default: photo.segmented.png, or with --overlay "
    "photo.overlay.png, beside photo.png]",
    shell_complete=options.complete_files,
)
@click.option(
    "--overlay",
    is_flag=True,
    help="Write the image with the classes' colors laid over it and a legend, instead of the label map.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print a line of JSON for each image: the classes in it, and their areas."
)
@options.model_options("segmentation")
@options.tile_options
@options.picture_options
@options.max_pixels_option
@options.result_options
@options.batch_options
@options.console_options
def command(
    inputs: tuple[str, ...],
    output: str | None,
    overlay: bool,
    as_json: bool,
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
    """Tell the parts of images apart.

    INPUT is an image, a folder (with all below it), a pattern, or - for standard input, as for skipae denoise.  The
    result is a label map: a PNG of the (upright) image's size whose pixels are the numbers of the classes, in the
    order of the checkpoint's labels, shown in the colors of its data set.

    Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage, 3 the device is not available, 4 the model could not
    be had or does not segment, 5 no input could be read, 130 interrupted.
    """
    from skipae.batch import pipeline as batch

    console = options.Console(quiet, debug, verbose)
    if quality is not None and not overlay:
        raise UsageError("--quality is of pictures with --overlay: a label map is a PNG, which loses nothing")
    if format not in (None, "PNG") and not overlay:
        raise UsageError(f"--format {format}: a label map is a PNG, other formats may change its numbers")
    work = batch.plan(
        inputs,
        output,
        suffix="overlay" if overlay else "segmented",
        extension=None if overlay else ".png",
        format=format,
        lists=lists,
        overwrite=overwrite,
        resume=resume,
        keep_times=keep_times,
        earlier=("segmented", "overlay"),  # of both kinds of results
    )
    wrong = [job.target for job in work.jobs if not overlay and job.format not in (None, "PNG")]
    if wrong:
        raise UsageError(f"-o {wrong[0]}: a label map is a PNG, other formats may change its numbers")
    if work.left_out:
        console.remark(f"left out {work.left_out} result(s) of earlier runs (*.segmented.*, *.overlay.*)")
    if dry_run:
        return options.show(work, console)
    if as_json and any(job.target is None for job in work.jobs):
        raise UsageError("--json and the label map would both go to standard output: give a file after -o")
    options.refuse_terminal(any(job.target is None for job in work.jobs))
    folder = options.find_model(model, console, "segmentation", "segment")
    task = _Segmentation(
        lambda: options.load_model(folder, device, threads, console),
        console if as_json else None,
        overlay=overlay,
        tile=tile,
        halo=halo,
        quality=quality,
        overwrite=overwrite,
    )
    return batch.run(task, work, console, max_pixels=max_pixels, report=report, fail_fast=fail_fast).exit_code


class _Segmentation:
    """Writes each image's label map, or the image with the classes' colours laid over it."""

    def __init__(
        self,
        load: Callable[[], Model],
        console: options.Console | None,
        *,
        overlay: bool,
        tile: int | None,
        halo: int | None,
        quality: images.Quality | None,
        overwrite: bool,
    ) -> None:
        """Args: ``console`` is where the areas are printed."""
        self._load = load
        self._console = console
        self._overlay = overlay
        self._tile = tile
        self._halo = halo
        self._quality = quality
        self._overwrite = overwrite

    def load(self) -> None:
        """Load the model."""
        self._model = self._load()

    def process(self, job: batch.Job, picture: images.Picture, advance: batch.Advance) -> Callable[[], batch.Written]:
        """Segment the picture."""
        from skipae import images
        from skipae.batch import pipeline as batch
        from skipae.console import to_json
        from skipae.tasks import labels as labelling

        pixels = picture.rgb()
        labels = self._model.segment(pixels, tile=self._tile, halo=self._halo, progress=advance)
        config = self._model.config
        names = config.labels
        areas = [area._asdict() | {"share": round(area.share, 6)} for area in labelling.areas(labels, names)]
        if self._overlay:
            metadata, alpha = picture.metadata, picture.alpha
            if picture.kind != "rgb":  # how grey or inks were coded says nothing about colours
                metadata = replace(metadata, icc=None, jpeg={}, subsampling=None)
            if alpha is not None:
                alpha = images.reduced_alpha(alpha)
            shown = labelling.overlay(pixels, labels, names, config.colors, legend=True)
            blended = images.Picture("rgb", [shown], alpha, metadata, picture.notes)

        def write() -> batch.Written:
            notes = picture.notes
            if self._overlay:
                notes = batch.write_picture(job, blended, quality=self._quality, overwrite=self._overwrite)
            else:
                image = labelling.to_pil(labels, config.colors)
                batch.write_result(job, lambda file: image.save(file, "PNG"), overwrite=self._overwrite)
            if self._console is not None:
                entry = {"input": job.name, "output": str(job.target), "areas": areas}
                self._console.print(to_json(entry))
            return batch.Written(notes, {"areas": areas})

        return write

    def trim(self) -> None:
        """Give back the memory kept from the last image."""
        self._model.trim()
