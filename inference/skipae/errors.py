"""Errors, each with the exit code of the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class SkipaeError(Exception):
    """Base class of all errors of this package.  The message is one line and says what to do.

    >>> try:
    ...     from_pretrained("skipae-naturl")
    ... except SkipaeError as error:
    ...     print(type(error).__name__)
    ModelError
    """

    exit_code: int = 1

    def __init__(self, message: str = "", /, **arguments: object) -> None:
        """Create the message.

        Args:
            message: the text, or, with ``arguments``, a template: ``{tile}`` is the argument with its value,
                ``{tile!s}`` the value alone, and ``{tile:name}`` the name alone.
            **arguments: arguments of the function that raises this error.
        """
        super().__init__(_fill(message, arguments, shell=False))
        self._message, self._arguments = message, arguments

    def command_line(self) -> str:
        """Return the message with command-line options instead of Python's arguments.

        >>> error = UsageError("{tile} is too small; use 64 or more", tile=8)
        >>> print(error)
        tile=8 is too small; use 64 or more
        >>> print(error.command_line())
        --tile 8 is too small; use 64 or more
        """
        return _fill(self._message, self._arguments, shell=True) if self._arguments else str(self)


class ImageError(SkipaeError):
    """One input could not be read, processed or written; a batch continues with the others.

    >>> try:
    ...     open_image(b"no image")
    ... except ImageError as error:
    ...     print(error.exit_code)
    1
    """

    exit_code = 1


class UsageError(SkipaeError, ValueError):
    """An argument or option that cannot be used; the message names it, its value and what is allowed.

    >>> FeatureSpec(pool="mean")
    Traceback (most recent call last):
    skipae.errors.UsageError: pool must be none, avg, max or spatial:N with N from 1 to 999, not 'mean'
    """

    exit_code = 2


class DeviceError(SkipaeError):
    """The device asked for is not available, or no runtime is installed.

    >>> try:
    ...     from_pretrained("skipae-natural", device="cuda:77")
    ... except DeviceError as error:
    ...     print(error.exit_code)
    3
    """

    exit_code = 3


class ModelError(SkipaeError):
    """The checkpoint is unavailable or damaged, or cannot do what was asked of it.

    >>> try:
    ...     from_pretrained("skipae-natural").segment("photo.jpg")
    ... except ModelError as error:
    ...     print(str(error).split(";")[0])
    model skipae-natural is for restoration and cannot segment
    """

    exit_code = 4


class Stopped(KeyboardInterrupt):
    """The process received SIGTERM or its terminal was closed; it stops as after Ctrl-C."""

    exit_code: int = 143


_OPTIONS = {"output": "-o", "lists": "--list"}
"""Options whose names differ from the argument's."""


class _Argument:
    """An argument in a message: its name and value, or its value alone."""

    def __init__(self, name: str, value: object, shell: bool) -> None:
        self._name, self._value, self._shell = name, value, shell

    def __str__(self) -> str:
        return str(self._value)

    def __format__(self, form: str) -> str:
        if not self._shell:
            return self._name if form == "name" else f"{self._name}={self._value!r}"
        option = _OPTIONS.get(self._name, "--" + self._name.replace("_", "-"))
        return option if form == "name" or self._value is True else f"{option} {self._value}"


def _fill(message: str, arguments: Mapping[str, object], *, shell: bool) -> str:
    if not arguments:
        return message
    return message.format(**{name: _Argument(name, value, shell) for name, value in arguments.items()})


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean NAME?)`` for the known name most like one that does not exist; empty if none is."""
    import difflib  # takes time, and only errors need it

    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
