"""``skipae inpaint``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skipae.commands import options
from skipae.errors import ImageError, UsageError

if TYPE_CHECKING:
    from skipae import images
    from skipae.batch import pipeline as batch
    from skipae.model import Model
    from skipae.tasks.inpaint import Mask

Box = tuple[int, int, int, int]


def _box(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[Box]:
    boxes: list[Box] = []
    for text in values:
        try:
            x, y, width, height = (int(word) for word in text.split(","))
        except ValueError:
            raise click.BadParameter(f"{text!r} is not x,y,w,h in whole pixels, for example 40,30,16,16") from None
        if min(x, y) < 0 or min(width, height) < 1:
            raise click.BadParameter(f"{text!r} must have x and y of at least 0, and w and h of at least 1")
        boxes.append((x, y, width, height))
    return boxes


@click.command()
@click.argument("inputs", metavar="IMAGE...", nargs=-1, shell_complete=options.complete_files)
@click.option(
    "--mask",
    metavar="FILE|DIR",
    help="Image of the input's size; what is not black is filled.  A folder holds one for each input: of the same "
    "name, below it as the input is below its folder; the extension may differ.",
    shell_complete=options.complete_files,
)
@click.option(
    "--box",
    "boxes",
    metavar="X,Y,W,H",
    multiple=True,
    callback=_box,
    help="Fill this rectangle, in pixels from the top left; may be repeated, and adds to --mask.",
)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File or folder for the results; - is standard output.  [default: photo.inpainted.png beside photo.png]",
    shell_complete=options.complete_files,
)
@options.model_options()
@options.picture_options
@options.max_pixels_option
@options.result_options
@options.batch_options
@options.console_options
def command(
    inputs: tuple[str, ...],
    mask: str | None,
    boxes: list[Box],
    output: str | None,
    model: str,
    device: str,
    threads: int | None,
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
    """Fill holes in images from their surroundings.

    Without --mask and --box, the pixels of each image that are not opaque are filled and become so; an image without
    any is an error.  Only masked
    pixels change (a lossy format, JPEG for example, is compressed anew).  Masks and boxes are in the frame of the
    upright image: a photo's EXIF orientation is applied first.

    IMAGE is an image, a folder (with all below it), a pattern, or - for standard input, as for skipae denoise.

    Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage (a mask of the wrong size too, where there is one
    image), 3 the device is not available, 4 the model could not be had, 5 no input could be read, 130 interrupted.
    """
    from skipae.batch import pipeline as batch

    console = options.Console(quiet, debug, verbose)
    masks = None if mask is None else Path(mask)
    if masks is not None and not masks.exists():
        raise UsageError(f"--mask {mask}: no such file or folder")
    work = batch.plan(
        inputs,
        output,
        suffix="inpainted",
        format=format,
        lists=lists,
        overwrite=overwrite,
        resume=resume,
        keep_times=keep_times,
    )
    if masks is not None:
        _set_masks_apart(work, masks)
    if work.left_out:
        console.remark(f"left out {work.left_out} result(s) of earlier runs (*.inpainted.*)")
    if dry_run:
        return options.show(work, console)
    options.refuse_terminal(any(job.target is None for job in work.jobs))
    folder = options.find_model(model, console, "restoration", "inpaint")
    task = _Inpainting(
        lambda: options.load_model(folder, device, threads, console),
        lambda job: None if masks is None else _find_mask(masks, job),
        boxes,
        max_pixels=max_pixels,
        quality=quality,
        overwrite=overwrite,
    )
    if not work.jobs and len(work.failed) == 1 and work.failed[0].job is not None:
        task.check(work.failed[0].job)  # a wrong mask is worse than a result that exists
    return batch.run(task, work, console, max_pixels=max_pixels, report=report, fail_fast=fail_fast).exit_code


class _Inpainting:
    """Fills each image's holes and writes it."""

    def __init__(
        self,
        load: Callable[[], Model],
        mask_of: Callable[[batch.Job], Path | None],
        boxes: list[Box],
        *,
        max_pixels: int,
        quality: images.Quality | None,
        overwrite: bool,
    ) -> None:
        self._load = load
        self._mask_of = mask_of
        self._boxes = boxes
        self._max_pixels = max_pixels
        self._options: dict[str, Any] = {"quality": quality, "overwrite": overwrite}
        self._last: tuple[Path, Mask, str | None] | None = None

    def load(self) -> None:
        """Load the model."""
        self._model = self._load()

    def process(self, job: batch.Job, picture: images.Picture, advance: batch.Advance) -> Callable[[], batch.Written]:
        """Fill the picture."""
        from skipae.batch import pipeline as batch
        from skipae.tasks import inpaint

        mask, said = self._mask(job, picture.size)
        count = inpaint.inpaint_picture(self._model, picture, mask, said, advance)
        if not count and mask is None:
            raise UsageError("every pixel is opaque: say by --mask or --box what to fill")
        if not count:
            raise UsageError(f"--mask {self._mask_of(job)} is black all over: there is nothing to fill")
        entry: dict[str, object] = {"masked_pixels": count}
        return lambda: batch.Written(batch.write_picture(job, picture, **self._options), entry)

    def trim(self) -> None:
        """Give back the memory kept from the last image."""
        self._model.trim()

    def check(self, job: batch.Job) -> None:
        """Refuse a mask or box that does not suit the image, by its header; upright it may have its sides swapped."""
        from skipae import images

        if job.source is None:
            return
        with suppress(ImageError), images.read_header(job.source, max_pixels=self._max_pixels) as opened:
            with suppress(UsageError):
                self._mask(job, opened.size[::-1])
                return
            self._mask(job, opened.size)

    def _mask(self, job: batch.Job, size: tuple[int, int]) -> tuple[Mask | None, str | None]:
        """What is to be filled, or None for what is transparent; and what is to be said of the mask."""
        import numpy as np

        from skipae.tasks import inpaint

        path = self._mask_of(job)
        said = None
        if path is None and not self._boxes:
            return None, None
        if path is None:
            mask = np.zeros(size[::-1], bool)
        else:
            if self._last is None or self._last[0] != path:
                try:
                    self._last = path, *inpaint.load_mask(path, max_pixels=self._max_pixels)
                except ImageError as error:
                    raise UsageError(f"--mask {path}: {error}") from error
            mask = self._last[1].copy() if self._boxes else self._last[1]
            said = self._last[2] and f"--mask {path}: {self._last[2]}"
            if mask.shape != size[::-1]:
                raise UsageError(
                    f"--mask {path} has {mask.shape[1]} x {mask.shape[0]} pixels, but {job.name} (upright) "
                    f"{size[0]} x {size[1]}: give a mask of the image's size"
                )
        for x, y, width, height in self._boxes:
            if x + width > size[0] or y + height > size[1]:
                raise UsageError(
                    f"--box {x},{y},{width},{height} goes beyond {job.name} (upright), which has {size[0]} x {size[1]} "
                    "pixels"
                )
            mask[y : y + height, x : x + width] = True
        return mask, said


def _find_mask(masks: Path, job: batch.Job) -> Path:
    """The mask file of an input."""
    from skipae.images import SUFFIXES

    if not masks.is_dir():
        return masks
    if job.source is None:
        raise UsageError(f"--mask {masks} is a folder, but standard input has no name: give a file")
    place = masks / (job.source.name if job.tree is None else job.source.relative_to(job.tree))
    if place.is_file():
        return place
    found = sorted(
        path
        for path in (place.parent.iterdir() if place.parent.is_dir() else ())
        if path.stem == place.stem and path.suffix.lower() in SUFFIXES
    )
    if len(found) != 1:
        several = f"{' and '.join(str(path) for path in found)} could both be" if found else f"there is no {place} as"
        raise UsageError(f"{several} its mask: give one of that name in {masks}")
    return found[0]


def _set_masks_apart(work: batch.Work, masks: Path) -> None:
    """Masks are no inputs, where they lie in an input folder, and no results."""
    root = masks.resolve()

    def is_mask(path: Path | None) -> bool:
        return path is not None and (path.resolve() == root or (masks.is_dir() and path.resolve().is_relative_to(root)))

    work.jobs = [job for job in work.jobs if job.tree is None or not is_mask(job.source)]
    work.skipped = [job for job in work.skipped if job.tree is None or not is_mask(job.source)]
    if not (work.jobs or work.skipped or work.failed):
        raise UsageError(f"--mask {masks} leaves no input: the images must not lie among the masks")
    for job in work.jobs:
        if is_mask(job.target):
            raise UsageError(f"the result of {job.name} would be {job.target}, among the masks: give another -o")
