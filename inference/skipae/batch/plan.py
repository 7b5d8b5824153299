"""Decide where each output goes, before anything is loaded.

Without an output, ``photo.png`` becomes ``photo.denoised.png`` next to it; outputs of earlier runs are skipped when a
folder is searched.  With an output, one input is written to that file, or into it if it is a folder; several inputs
are written into it by name, and the images of an input folder keep their subfolders.

``resume`` leaves out inputs whose output exists, after a look at its header, size and end: copies and full disks
truncate files too.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from skipae import images
from skipae.batch.job import STREAM, Failure, Job, Work, check_existing
from skipae.batch.sources import Found, find, identity
from skipae.errors import ImageError, UsageError
from skipae.files import ExistsError, flaw_of_folder

log = logging.getLogger("skipae")


def plan_jobs(
    inputs: Iterable[str],
    output: str | None,
    *,
    suffix: str,
    extension: str | None = None,
    format: str | None = None,
    lists: Iterable[str] = (),
    overwrite: bool = False,
    resume: bool = False,
    keep_times: bool = False,
    earlier: Iterable[str] = (),
) -> Work:
    """Find the inputs and name the outputs.

    Args:
        inputs: files, folders and patterns, see :func:`find`.
        output: a file or a folder, ``-`` for standard output, or None to write next to the inputs.
        suffix: inserted between name and extension of an output next to its input, for example ``denoised``.
        extension: extension of all outputs that are named after their input, for example ``.png``; None keeps the
            input's.
        format: format to write, a key of ``images.FORMATS``, which also sets the extension; None keeps the input's
            format or takes that of the name of ``output``.
        lists: files that list inputs, see :func:`find`.
        overwrite: whether outputs may replace existing files.
        resume: whether inputs whose output exists are skipped instead of failing.
        keep_times: whether outputs get the times of their inputs.
        earlier: further suffixes of the command's outputs.

    Raises:
        UsageError: an output would overwrite an input or another output, ``output`` does not suit the inputs, or
            the inputs cannot be found (see :func:`find`).
    """
    if output == "":
        raise UsageError("{output:name} is empty (unset shell variable?)", output=output)
    check_existing(overwrite, resume)
    results = None if output in (None, STREAM) else Path(output)
    found = find(inputs, lists, results=results, suffixes=(suffix, *earlier) if output is None else ())
    work = Work(failed=found.failed, left_out=found.left_out, resumable=not overwrite)
    if output == STREAM:
        if found.trees or len(found.single) != 1:
            raise UsageError("{output} (standard output) works with a single input that is not a folder", output=output)
        work.jobs.append(Job(found.single[0], None, format))
        return work
    if format is not None:
        images.require_writer(format)
        extension = images.FORMATS[format].suffixes[0]
    jobs = list(_named(found, output, suffix, extension, format))
    if resume and output is None:  # a pattern also matches outputs
        made = {identity(job.target) for job in jobs if job.target is not None}
        inputs_alone = [job for job in jobs if job.source is None or identity(job.source) not in made]
        work.left_out += len(jobs) - len(inputs_alone)
        jobs = inputs_alone
    _refuse_collisions(jobs)
    folders = {job.target.parent for job in jobs if job.target is not None}
    flaws = {folder: flaw_of_folder(folder) for folder in folders}
    for job in (replace(job, keep_times=keep_times) for job in jobs):
        flaw = None if job.target is None else flaws[job.target.parent]
        if flaw is not None:
            folder = None if job.target is None else job.target.parent
            error = ImageError(f"cannot write {job.target}: {flaw}")
            work.failed.append(Failure(job.name, error, unread=False, job=job, folder=folder))
        elif overwrite or job.target is None or not os.path.lexists(job.target):
            work.jobs.append(replace(job, resumes=resume))
        elif resume:
            flaw = _flaw(job.target, job.source)
            if flaw is None:
                work.skipped.append(job)
            else:
                log.warning("%s %s: it is written again", job.target, flaw)
                work.jobs.append(replace(job, again=True))
        else:
            work.failed.append(Failure(job.name, ExistsError.of(job.target), unread=False, job=job))
    return work


def _named(found: Found, output: str | None, suffix: str, extension: str | None, format: str | None) -> Iterator[Job]:
    if output is None:
        for path in found.single:
            yield Job(path, None if path is None else _renamed(path, extension, suffix), format)
        for tree, files in found.trees:
            yield from (Job(path, _renamed(path, extension, suffix), format, tree) for path in files)
        return
    folder = Path(output)
    is_folder = folder.is_dir() or output.endswith(("/", os.sep))
    if len(found.single) == 1 and not found.trees and not is_folder:
        asked = images.SUFFIXES.get(folder.suffix.lower(), format) if format else images.format_of(folder)
        if format not in (None, asked):
            raise UsageError(
                "{output} names a {asked!s} file and does not suit {format}; use only one of them",
                output=output,
                asked=asked,
                format=format,
            )
        yield Job(found.single[0], folder, asked)
        return
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError("{output} is a file; several inputs or a folder need an output folder", output=output)
    several = len(found.single) > 1 or found.trees
    if several and not folder.exists() and not is_folder and folder.suffix.lower() in images.SUFFIXES:
        raise UsageError(
            "{output} names one image, but several inputs or a folder need an output folder: end its name with /",
            output=output,
        )
    for path in found.single:
        if path is None:
            raise UsageError("- (standard input) has no name: {output} must be a file, not a folder", output=output)
        yield Job(path, folder / _renamed(path, extension).name, format)
    for tree, files in found.trees:
        yield from (Job(path, folder / _renamed(path, extension).relative_to(tree), format, tree) for path in files)


def _renamed(path: Path, extension: str | None, suffix: str = "") -> Path:
    middle = f".{suffix}" if suffix else ""
    return path.with_name(f"{path.stem}{middle}{path.suffix if extension is None else extension}")


def _refuse_collisions(jobs: list[Job]) -> None:
    sources = {identity(job.source): job for job in jobs if job.source is not None}
    targets: dict[str, Job] = {}
    for job in jobs:
        if job.target is None:
            continue
        place = identity(job.target)
        if place in sources:
            raise UsageError(
                "the output of {job!s} would overwrite the input {source!s}; use another {output:name}",
                job=job.name,
                source=sources[place].name,
                output=None,
            )
        if place in targets:
            other = targets[place]
            one, two = other.source, job.source
            if one is not None and two is not None and identity(one) == identity(two):
                raise UsageError(f"{job.name} is listed twice")
            beside = one is not None and two is not None and one.parent == two.parent
            way = "rename one" if beside else "pass their folder as the input"
            raise UsageError(
                "{one!s} and {two!s} would both write {target!s}: {way!s} or use separate {output:name} folders",
                one=other.name,
                two=job.name,
                target=job.target,
                way=way,
                output=None,
            )
        if os.path.lexists(job.target) and not job.target.is_file():
            raise UsageError(
                "the output of {job!s} would be {target!s}, which is not a file; use another {output:name}",
                job=job.name,
                target=job.target,
                output=None,
            )
        targets[place] = job


_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
"""The last bytes of complete files."""


def _flaw(target: Path, source: Path | None) -> str | None:
    """Return why a file is not the complete output for an image, which has the image's size; None if it may be."""
    asked = None
    with suppress(ImageError, MemoryError):  # where it cannot be read, there is nothing to make it again from
        if source is not None:
            with images.read_header(source, max_pixels=sys.maxsize) as opened:
                asked = opened.size
    try:
        with images.read_header(target, max_pixels=sys.maxsize) as opened, target.open("rb") as file:
            size, format = opened.size, images.sniff(file.read(64)) or ""
            if asked is not None and sorted(asked) != sorted(size):  # before the memory for its pixels is taken
                return f"has {size[0]} x {size[1]} pixels, not {asked[0]} x {asked[1]}"
            file.seek(0)
            header = file.read(8)
            length = file.seek(0, os.SEEK_END)
            end = _ENDS.get(format, b"")
            file.seek(max(0, length - len(end)))
            whole = file.read() == end if end else False
            if format == "WEBP":
                whole = length >= int.from_bytes(header[4:], "little") + 8
            if not whole:
                opened.decode()
    except (ImageError, OSError, MemoryError):
        return "is not a complete image"
    return None
