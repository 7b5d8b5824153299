"""Errors of training, each with the exit code of ``skipae-train``."""

from __future__ import annotations

from skipae.errors import SkipaeError


class TrainingError(SkipaeError, RuntimeError):
    """A run that cannot continue; the message says why, and what is safe."""


class Diverged(TrainingError):
    """The loss is not finite."""


class RefusedError(TrainingError):
    """The request does not fit the run, its start or its data; the message says what to use instead."""

    exit_code = 2


class RunError(TrainingError):
    """A run folder that is not one, or whose files are damaged; the message names the file and what to do."""

    exit_code = 4
