"""Standard output, standard error and the progress bar: the only place where text reaches a terminal.

Passwords and terminal control characters are removed here.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

from skipae.errors import ImageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


class ProgressBar(Protocol):
    """A progress bar."""

    def update(self, images: float) -> None:
        """Advance by a number of images, which may be a fraction."""


class NoProgressBar:
    """A progress bar that is not shown."""

    def update(self, images: float) -> None:
        """Do nothing."""


class Console:
    """Messages on standard error, and a progress bar where it is a terminal."""

    def __init__(self, quiet: bool, debug: bool = False, verbose: bool = False) -> None:
        import logging

        if not debug:
            import warnings

            warnings.simplefilter("ignore")  # hide remarks of libraries
            logging.getLogger().addHandler(logging.NullHandler())
            os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # read by the Hub's client when it is loaded
        if quiet:
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        level = logging.INFO if verbose else logging.WARNING
        handler = logging.Handler(level)
        handler.emit = lambda record: self.say(record.getMessage())  # type: ignore[method-assign]
        log = logging.getLogger("skipae")
        log.handlers[:] = [handler]
        log.setLevel(level)
        self.quiet = quiet
        self._watched = not quiet and sys.stderr.isatty()
        self._bar: Any = None

    def say(self, text: str) -> None:
        """Write a loss, or a remark about an input."""
        self._line(f"skipae: {text}")

    def remark(self, text: str) -> None:
        """Print a message, unless ``quiet``."""
        if not self.quiet:
            self.say(text)

    def done(self, text: str) -> None:
        """Print what succeeded, if standard error is a terminal."""
        if self._watched:
            self._line(text)

    def error(self, text: str) -> None:
        """Print why an input failed."""
        self._line(f"skipae: error: {text}")

    def print(self, *lines: str) -> None:
        """Print lines on standard output; :class:`ImageError` if they cannot be written."""
        if self._bar is not None:
            self._bar.clear()
        write_stdout("".join(f"{clean(line)}\n" for line in lines).encode())

    @contextmanager
    def progress(self, total: int) -> Iterator[ProgressBar]:
        """A bar over ``total`` images."""
        if not self._watched or not total:
            yield NoProgressBar()
            return
        from tqdm import tqdm

        shape = "{percentage:3.0f}% |{bar}| {n:.1f}/{total} images [{elapsed}<{remaining}]"
        with tqdm(total=total, bar_format=shape, file=sys.stderr) as self._bar:
            yield self._bar
        self._bar = None

    def _line(self, text: str) -> None:
        import click

        if self._bar is not None:
            self._bar.write(one_line(text), file=sys.stderr)
        else:
            click.echo(one_line(text), err=True)


_stdout_error: str | None = None
"""Why standard output can no longer be written."""


def stdout_error() -> str | None:
    """Return why standard output can no longer be written; None while it can."""
    return _stdout_error


def write_stdout(data: bytes | memoryview) -> None:
    """Write to standard output without buffering; :class:`ImageError` if that fails or failed before."""
    global _stdout_error
    if sys.stdout is None:
        _stdout_error = "cannot write to standard output: it is closed"
    if _stdout_error is None:
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        except OSError as error:
            # Otherwise the interpreter tries again at exit, and prints its own message.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            _stdout_error = f"cannot write to standard output: {error.strerror or error}"
    raise ImageError(_stdout_error)


def clean(text: str) -> str:
    """Return text without characters that control a terminal, change the text direction or break the line."""
    from skipae_zoo import UNSAFE

    return UNSAFE.sub(" ", text.encode(errors="backslashreplace").decode())  # for incomplete characters in file names


def one_line(text: str) -> str:
    """Return a message as it is shown: on one line, with safe characters and without passwords."""
    return clean(redact(text)).strip()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 300 characters, or its class name if it is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def echo(*lines: object, err: bool = False) -> None:
    """Write lines to standard output or standard error; use it for all text that may include foreign parts.

    Characters that the stream's encoding lacks are written as escapes.
    """
    import click

    text = "\n".join(clean(redact(str(line))) for line in lines)
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=err)


def to_json(value: Any) -> str:
    """Return JSON on one line, not escaped except for terminal control characters."""
    from skipae_zoo import UNSAFE

    def escape(match: re.Match[str]) -> str:
        return "".join(f"\\u{ord(character):04x}" for character in match[0])

    return UNSAFE.sub(escape, json.dumps(value, ensure_ascii=False))


def redact(text: str) -> str:
    """Return text without user names and passwords in its URLs."""
    return _URL.sub(lambda match: _without_user(match[0]), text)


def _without_user(url: str) -> str:
    scheme, _, rest = url.partition("://")
    try:
        parts = urlsplit(url)
        authority = parts.netloc
        if "@" not in authority:
            _ = parts.port  # a slash in a password makes the host appear to end inside the password
            return url
    except ValueError:
        authority = rest
    return f"{scheme}://{authority.rpartition('@')[2]}{rest[len(authority) :]}"
