"""Jobs: an image and where its output goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from skipae.errors import ImageError, UsageError

STREAM = "-"
"""Standard input or output."""


def check_existing(overwrite: bool, resume: bool) -> None:
    """Raise :class:`UsageError` if existing outputs would be both kept and replaced."""
    if overwrite and resume:
        raise UsageError(
            "{resume} keeps existing outputs and {overwrite} replaces them; use only one of them",
            resume=True,
            overwrite=True,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """An image to restore; an image that is given twice is two jobs."""

    source: Path | None
    """None for standard input."""
    target: Path | None
    """None for standard output."""
    format: str | None = None
    """Format to write, a key of ``images.FORMATS``; None keeps the input's."""
    tree: Path | None = None
    """The folder named on the command line in which the source was found, if any."""
    resumes: bool = False
    """Skip the image if another run has written its output by then."""
    again: bool = False
    """The existing output is incomplete and is replaced."""
    keep_times: bool = False
    """Give the output the access and modification times of its input."""

    @property
    def name(self) -> str:
        """Name of the input in messages."""
        return STREAM if self.source is None else str(self.source)


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that failed before it was opened."""

    name: str
    error: ImageError
    unread: bool = True
    """True if the input could not be read, False if its output could not be written."""
    job: Job | None = None
    """The job that would run if the output could be written."""
    folder: Path | None = None
    """The folder in which nothing can be written."""


@dataclass
class Work:
    """The jobs of a run."""

    jobs: list[Job] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    """Inputs that failed before any work."""
    skipped: list[Job] = field(default_factory=list)
    """Inputs whose output already exists."""
    left_out: int = 0
    """Number of outputs of earlier runs in the folders."""
    resumable: bool = True
    """True if ``resume`` continues the run: the command has it, and existing outputs are not replaced."""
