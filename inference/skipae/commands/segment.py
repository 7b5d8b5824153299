"""``skipae segment``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from skipae.commands import options
from skipae.console import Console
from skipae.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from skipae import images
    from skipae.batch.job import Job
    from skipae.model import Model
    from skipae.options import TileOptions
    from skipae.tasks.pixels import Progress


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, shell_complete=options.complete_files)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File or folder to write to; - is stdout.  [default: photo.segmented.png, or with --overlay "
    "photo.overlay.png, next to photo.png]",
    shell_complete=options.complete_files,
)
@click.option(
    "--overlay",
    is_flag=True,
    help="Write the image overlaid with the classes' colors and a legend, instead of the label map.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print a line of JSON for each image: its classes and their areas."
)
@options.model_options("segmentation")
@options.tile_options
@options.picture_options
@options.result_options
@options.batch_options
@options.console_options
def command(
    inputs: tuple[str, ...],
    output: str | None,
    overlay: bool,
    as_json: bool,
    checkpoint: options.CheckpointOptions,
    tiling: TileOptions,
    encoding: options.EncodingOptions,
    writing: options.WritingOptions,
    batch: options.BatchOptions,
    console: Console,
) -> int:
    """Label every pixel with a class.

    INPUT is an image, a folder (recursive), a glob pattern, or - for stdin, as for skipae denoise.
    The output is a label map: a PNG of the size of the upright image whose pixels are class numbers, in the
    order of the checkpoint's labels, shown in the colors of its data set.

    Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage, 3 device not available, 4 model
    unavailable or not a segmenter, 5 no readable input, 130 interrupted.
    """
    from skipae.batch.pipeline import Each
    from skipae.batch.sinks import Written, write_picture, write_result
    from skipae.console import to_json
    from skipae.tasks import labels

    if encoding.quality is not None and not overlay:
        raise UsageError("--quality needs --overlay: a label map is a lossless PNG")
    if encoding.format not in (None, "PNG") and not overlay:
        raise UsageError(f"--format {encoding.format}: a label map is a PNG, other formats may change its numbers")
    work = options.plan_pictures(
        inputs,
        output,
        encoding,
        writing,
        batch,
        console,
        suffix="overlay" if overlay else "segmented",
        extension=None if overlay else ".png",
        earlier=("segmented", "overlay"),  # both kinds of outputs
    )
    wrong = [job.target for job in work.jobs if not overlay and job.format not in (None, "PNG")]
    if wrong:
        raise UsageError(f"-o {wrong[0]}: a label map is a PNG, other formats may change its numbers")
    if writing.dry_run:
        return options.show(work, console)
    if as_json and any(job.target is None for job in work.jobs):
        raise UsageError("--json and the label map would both go to standard output; use -o FILE")
    options.refuse_terminal(any(job.target is None for job in work.jobs))
    folder = checkpoint.find(console, "segmentation", "segment")

    def segment(model: Model, job: Job, picture: images.Picture, advance: Progress) -> Callable[[], Written]:
        pixels, names, colors = picture.rgb(), model.config.labels, model.config.colors
        found = model.segment(pixels, tiling, progress=advance)
        areas = [area._asdict() | {"share": round(area.share, 6)} for area in labels.areas(found, names)]
        shown = labels.overlay(pixels, found, names, colors, legend=True) if overlay else None
        blended = None if shown is None else _overlaid(picture, shown)

        def write() -> Written:
            notes = picture.remarks
            if blended is not None:
                notes = write_picture(job, blended, quality=encoding.quality, overwrite=writing.overwrite)
            else:
                image = labels.to_pil(found, colors)
                write_result(job, lambda file: image.save(file, "PNG"), overwrite=writing.overwrite)
            if as_json:
                console.print(to_json({"input": job.name, "output": str(job.target), "areas": areas}))
            return Written(notes, {"areas": areas})

        return write

    return batch.run(Each(lambda: checkpoint.load(folder, console), segment), work, console)


def _overlaid(picture: images.Picture, shown: NDArray[np.uint8]) -> images.Picture:
    """Return a picture with other colors; alpha and metadata are kept where they still apply, and losses are noted."""
    from skipae import images

    metadata, alpha = replace(picture.metadata, left_out=list(picture.metadata.left_out)), picture.alpha
    if picture.bits == 16:
        metadata.left_out.append(images.Loss("16 bits", f"an overlay cannot hold {metadata.bits} bits: reduced to 8"))
    if picture.kind == "gray" and metadata.icc is not None:
        metadata.left_out.append(images.Loss("icc", "the color profile is one of gray and is left out"))
    if picture.bits == 16 or picture.kind != "rgb":
        metadata.drop_pixel_chunks()
    if picture.kind != "rgb":  # the encoding of gray or inks does not apply to colors
        metadata = replace(metadata, icc=None, jpeg={}, subsampling=None)
    if alpha is not None:
        alpha = images.reduced_alpha(alpha)
    return images.Picture("rgb", [shown], alpha, metadata, picture.notes)
