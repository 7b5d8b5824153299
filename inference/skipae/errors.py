"""What can go wrong, and the exit code of the command line for each."""

from __future__ import annotations


class SkipaeError(Exception):
    """Base of all errors of this package.  The message is one line and says what to do."""

    exit_code: int = 1


class ImageError(SkipaeError):
    """One input could not be read, restored or written; the other inputs of a batch go on."""

    exit_code = 1


class UsageError(SkipaeError, ValueError):
    """An argument or option that cannot be used; the message names it, its value and what is allowed."""

    exit_code = 2


class DeviceError(SkipaeError):
    """The device asked for is not available, or no runtime is installed."""

    exit_code = 3


class ModelError(SkipaeError):
    """The checkpoint could not be had, is damaged, or cannot do what was asked of it."""

    exit_code = 4


class Stopped(KeyboardInterrupt):
    """The process was told to end, by SIGTERM or as its terminal was closed; it does as after Ctrl-C."""

    exit_code: int = 143
