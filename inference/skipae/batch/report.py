"""The report of a batch: one line of JSON for each input."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from skipae.batch.job import Work
from skipae.batch.sources import identity
from skipae.errors import SkipaeError, UsageError


class Report:
    """A file that lines are appended to, or none; a temporarily full disk loses no line."""

    def __init__(self, file: IO[bytes] | None, complain: Callable[[SkipaeError], None]) -> None:
        """Start with nothing unwritten.

        Args:
            file: unbuffered; None drops all lines.
            complain: called where the file cannot be written.
        """
        self._file = file
        self._complain = complain
        self._unwritten = bytearray()
        self.failed = False
        """True if lines are missing."""

    def add(self, **entry: object) -> None:
        """Add a line."""
        if self._file is None:
            return
        self._unwritten += json.dumps(entry).encode() + b"\n"
        try:
            while self._unwritten:
                del self._unwritten[: self._file.write(self._unwritten)]
        except OSError as error:  # the disk may have space again
            if not self.failed:
                self._complain(_unwritable(self._file.name, f"{error.strerror}; the run continues"))
            self.failed = True
        else:
            self.failed = False


@contextmanager
def open_report(report: str | None, work: Work, complain: Callable[[SkipaeError], None]) -> Iterator[Report]:
    """The report of a run.

    Raises:
        UsageError: the name is empty, or the file is also an input or an output, is not a report, or cannot be
            written.
    """
    if report == "":
        raise UsageError("{report:name} is empty (unset shell variable?)", report=report)
    if report is None:
        yield Report(None, complain)
        return
    with _open(report, work) as file:
        yield Report(file, complain)


def _open(report: str, work: Work) -> IO[bytes]:
    path = Path(report)
    for job in work.jobs:
        for other in (job.source, job.target):
            if other is not None and identity(other) == identity(path):
                raise UsageError("{report} is also an input or an output; use another name", report=report)
    broken_off = False
    try:
        if path.is_file():
            with path.open("rb") as file:
                begins = file.read(9)
                file.seek(-min(1, path.stat().st_size), 2)
                broken_off = file.read() not in (b"", b"\n")  # an earlier run could not complete its last line
            if begins not in (b"", b'{"input":'):
                raise UsageError("{report} exists and is not a skipae report; choose another name", report=report)
        added = path.open("ab", buffering=0)
        if broken_off:
            added.write(b"\n")
        return added
    except OSError as error:
        raise _unwritable(report, str(error.strerror)) from error


def _unwritable(report: str, reason: str) -> UsageError:
    return UsageError("{report} cannot be written: {reason!s}", report=report, reason=reason)
