"""What there is to do: an image and where its output goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from skipae.errors import ImageError, UsageError

STREAM = "-"
"""Standard input or output."""


def check_existing(overwrite: bool, resume: bool) -> None:
    """Refuse both of the two things that can become of existing outputs."""
    if overwrite and resume:
        raise UsageError(
            "{resume} keeps existing outputs and {overwrite} replaces them: give one of them",
            resume=True,
            overwrite=True,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """An image to restore."""

    source: Path | None
    """None for standard input."""
    target: Path | None
    """None for standard output."""
    format: str | None = None
    """Pillow's name of the format to write; None keeps the input's."""
    tree: Path | None = None
    """The folder that was named, where the source was found below it."""
    resumes: bool = False
    """Skip the image if another run has written its output by then."""
    again: bool = False
    """The existing output is incomplete and is replaced."""
    keep_times: bool = False
    """Give the output the access and modification times of its input."""

    @property
    def name(self) -> str:
        """How messages call the input."""
        return STREAM if self.source is None else str(self.source)


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that failed before it was opened."""

    name: str
    error: ImageError
    unread: bool = True
    """Whether the input is at fault, and not its result's place."""
    job: Job | None = None
    """What would be done if its result's place were free."""
    folder: Path | None = None
    """Where no result can be written, whatever its name."""


@dataclass
class Work:
    """What there is to do."""

    jobs: list[Job] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    """Inputs that cannot be jobs."""
    skipped: list[Job] = field(default_factory=list)
    """Inputs whose result already exists."""
    left_out: int = 0
    """Results of earlier runs in the folders."""
