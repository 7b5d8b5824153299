"""Write the output of an image, completely or not at all, to a file or to standard output."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from skipae import images
from skipae.batch.job import Job
from skipae.console import write_stdout
from skipae.errors import ImageError
from skipae.files import ExistsError, write_atomically


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of an image."""

    notes: list[str] = field(default_factory=list)
    """Changes and losses, one line each."""
    entry: dict[str, object] = field(default_factory=dict)
    """Further fields of the report."""


def write_picture(
    job: Job, picture: images.Picture, *, quality: images.Quality | None = None, overwrite: bool = False
) -> list[str]:
    """Write a picture to the target of ``job`` and return changes and losses, one line each.

    Raises:
        ImageError: the picture cannot be written, or the file exists.
    """
    notes: list[str] = []

    def encode(file: BinaryIO) -> None:
        notes.extend(map(str, picture.encode(file, format=job.format, quality=quality)))

    write_result(job, encode, overwrite=overwrite)
    return picture.notes + notes


def write_result(job: Job, write: Callable[[BinaryIO], None], *, overwrite: bool = False) -> None:
    """Call ``write`` with a file for a job's output, which is then written completely or not at all.

    Raises:
        ImageError: the output cannot be written, or the file exists.
    """
    if job.target is not None:
        try:
            write_atomically(job.target, write, overwrite=overwrite or job.again)
        except ExistsError:
            if not job.resumes:
                raise
            return
        if job.keep_times and job.source is not None:
            _copy_times(job.source, job.target)
        return
    buffer = io.BytesIO()
    write(buffer)
    write_stdout(buffer.getbuffer())


def _copy_times(source: Path, target: Path) -> None:
    try:
        status = source.stat()
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    except OSError as error:
        raise ImageError(f"{target} is written, but cannot take the times of the input: {error.strerror}") from error
