"""``skipae inpaint``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skipae.commands import options
from skipae.console import Console
from skipae.errors import ImageError, UsageError

if TYPE_CHECKING:
    from skipae import images
    from skipae.batch.job import Job, Work
    from skipae.model import Model
    from skipae.tasks.masks import Mask
    from skipae.tasks.pixels import Progress

Box = tuple[int, int, int, int]


def _box(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[Box]:
    boxes: list[Box] = []
    for text in values:
        try:
            x, y, width, height = (int(word) for word in text.split(","))
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a box; use x,y,w,h in pixels, for example 40,30,16,16") from None
        if min(x, y) < 0 or min(width, height) < 1:
            raise click.BadParameter(f"{text!r} is not a box; x and y must be at least 0, w and h at least 1")
        boxes.append((x, y, width, height))
    return boxes


@click.command()
@click.argument("inputs", metavar="IMAGE...", nargs=-1, shell_complete=options.complete_files)
@click.option(
    "--mask",
    metavar="FILE|DIR",
    help="Image of the input's size; pixels that are not black are filled.  A folder must mirror the inputs: the same "
    "relative path and name, with any extension.",
    shell_complete=options.complete_files,
)
@click.option(
    "--box",
    "boxes",
    metavar="X,Y,W,H",
    multiple=True,
    callback=_box,
    help="Rectangle to fill, in pixels from the top left; may be repeated and combined with --mask.",
)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File or folder to write to; - is stdout.  [default: photo.inpainted.png next to photo.png]",
    shell_complete=options.complete_files,
)
@options.model_options()
@options.picture_options
@options.result_options
@options.batch_options
@options.console_options
def command(
    inputs: tuple[str, ...],
    mask: str | None,
    boxes: list[Box],
    output: str | None,
    checkpoint: options.CheckpointOptions,
    encoding: options.EncodingOptions,
    writing: options.WritingOptions,
    batch: options.BatchOptions,
    console: Console,
) -> int:
    """Fill holes in images from their surroundings.

    Without --mask and --box, the pixels of each image that are not opaque are filled and become opaque; an
    image without any is an error.  Only masked pixels change (lossy formats such as JPEG are compressed
    again).  Holes wider than 64 pixels are filled smoothly: no objects or textures are invented.  Masks and
    boxes refer to the upright image, with the photo's EXIF orientation applied.

    IMAGE is an image, a folder (recursive), a glob pattern, or - for stdin, as for skipae denoise.

    Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage (also a mask of the wrong size
    for a single image), 3 device not available, 4 model unavailable, 5 no readable input, 130 interrupted.
    """
    from skipae.batch.pipeline import Each
    from skipae.batch.sinks import Written, write_picture
    from skipae.tasks.masks import check_mask, transparent

    options.refuse_empty("--mask", mask)
    masks = None if mask is None else Path(mask)
    if masks is not None and not masks.exists():
        raise UsageError(f"--mask {mask}: no such file or folder")
    work = options.plan_pictures(inputs, output, encoding, writing, batch, console, suffix="inpainted")
    if masks is not None:
        _set_masks_apart(work, masks)
    if writing.dry_run:
        return options.show(work, console)
    options.refuse_terminal(any(job.target is None for job in work.jobs))
    folder = checkpoint.find(console, "restoration", "inpaint")
    reader = _Masks(masks, boxes, batch.max_pixels)

    def inpaint(model: Model, job: Job, picture: images.Picture, advance: Progress) -> Callable[[], Written]:
        holes, said = reader.read(job, picture.size)
        count = check_mask(transparent(picture.alpha, picture.size) if holes is None else holes, picture.size, said)
        if not count and holes is None:
            raise UsageError("every pixel is opaque; use --mask or --box to select what to fill")
        if not count:
            raise UsageError(f"--mask {reader.find(job)} is entirely black: there is nothing to fill")
        filled = model.inpaint(picture, holes, progress=advance)
        filled.notes += [said] if said else []
        entry: dict[str, object] = {"masked_pixels": count}
        return lambda: Written(write_picture(job, filled, quality=encoding.quality, overwrite=writing.overwrite), entry)

    if not work.jobs and len(work.failed) == 1 and work.failed[0].job is not None:
        reader.check(work.failed[0].job)  # report a wrong mask before an existing output
    return batch.run(Each(lambda: checkpoint.load(folder, console), inpaint), work, console)


class _Masks:
    """Which pixels to fill in each image."""

    def __init__(self, masks: Path | None, boxes: list[Box], max_pixels: int) -> None:
        self._masks = masks
        self._boxes = boxes
        self._max_pixels = max_pixels
        self._last: tuple[Path, Mask, str | None] | None = None

    def find(self, job: Job) -> Path | None:
        """Return the mask file of an image; None without masks."""
        return None if self._masks is None else _find_mask(self._masks, job)

    def check(self, job: Job) -> None:
        """Reject a mask or box that does not fit the image, from its header; turned upright, sides may be swapped."""
        from skipae import images

        if job.source is None:
            return
        with suppress(ImageError), images.read_header(job.source, max_pixels=self._max_pixels) as opened:
            with suppress(UsageError):
                self.read(job, opened.size[::-1])
                return
            self.read(job, opened.size)

    def read(self, job: Job, size: tuple[int, int]) -> tuple[Mask | None, str | None]:
        """Return the pixels to fill, or None for the transparent ones, and a remark about the mask."""
        import numpy as np

        from skipae.images import read_header
        from skipae.tasks.masks import load_mask

        path = self.find(job)
        said = None
        if path is None and not self._boxes:
            return None, None
        if path is None:
            mask = np.zeros(size[::-1], bool)
        else:
            if self._last is None or self._last[0] != path:
                try:
                    with read_header(path, max_pixels=self._max_pixels) as opened:
                        self._last = path, *load_mask(opened.decode())
                except ImageError as error:
                    raise UsageError(f"--mask {path}: {error.command_line()}") from error
            mask = self._last[1].copy() if self._boxes else self._last[1]
            said = self._last[2] and f"--mask {path}: {self._last[2]}"
            if mask.shape != size[::-1]:
                raise UsageError(
                    f"--mask {path} has {mask.shape[1]} x {mask.shape[0]} pixels, but {job.name} (upright) "
                    f"{size[0]} x {size[1]}; use a mask of the image's size"
                )
        for x, y, width, height in self._boxes:
            if x + width > size[0] or y + height > size[1]:
                raise UsageError(
                    f"--box {x},{y},{width},{height} exceeds {job.name} (upright), which has {size[0]} x {size[1]} "
                    "pixels"
                )
            mask[y : y + height, x : x + width] = True
        return mask, said


def _find_mask(masks: Path, job: Job) -> Path:
    """Return the mask file of an input."""
    from skipae.images import SUFFIXES

    if not masks.is_dir():
        return masks
    if job.source is None:
        raise UsageError(f"--mask {masks} is a folder, but standard input has no name; use a mask file")
    place = masks / (job.source.name if job.tree is None else job.source.relative_to(job.tree))
    if place.is_file():
        return place
    found = sorted(
        path
        for path in (place.parent.iterdir() if place.parent.is_dir() else ())
        if path.stem == place.stem and path.suffix.lower() in SUFFIXES
    )
    if len(found) != 1:
        several = f"both {' and '.join(str(path) for path in found)} match" if found else f"no {place}"
        raise UsageError(f"no unique mask ({several}); use one mask of the same name in {masks}")
    return found[0]


def _set_masks_apart(work: Work, masks: Path) -> None:
    """Exclude masks that are in an input folder from the inputs, and from the outputs."""
    root = masks.resolve()

    def is_mask(path: Path | None) -> bool:
        return path is not None and (path.resolve() == root or (masks.is_dir() and path.resolve().is_relative_to(root)))

    work.jobs = [job for job in work.jobs if job.tree is None or not is_mask(job.source)]
    work.skipped = [job for job in work.skipped if job.tree is None or not is_mask(job.source)]
    work.failed = [
        failure
        for failure in work.failed
        if failure.job is None or failure.job.tree is None or not is_mask(failure.job.source)
    ]
    if not (work.jobs or work.skipped or work.failed):
        raise UsageError(f"--mask {masks} leaves no input: images and masks must be in separate folders")
    for job in work.jobs:
        if is_mask(job.target):
            raise UsageError(f"the output of {job.name} would be {job.target}, among the masks; use another -o")
