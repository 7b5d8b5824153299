"""Ctrl-C, SIGTERM and SIGHUP during a run: it ends after its step, with its state saved."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from skipae.errors import Stopped


class StopRequest:
    """While entered, the first signal requests a stop; a second one ends the process at once.

    Ignored signals, as under nohup, remain ignored.  Nothing changes outside the main thread, where Python cannot
    handle signals.
    """

    def __init__(self, announce: bool = True) -> None:
        self.number: int | None = None
        """Number of the signal that came; None before."""
        self._announce = announce
        self._before: dict[int, Any] = {}

    def came(self) -> bool:
        """Return whether a signal came."""
        return self.number is not None

    def __enter__(self) -> Self:
        """Take the signals."""
        with suppress(ValueError):  # not the main thread
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.number = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        if self._announce:
            with suppress(OSError):  # the terminal was closed
                # Not by a buffered stream, which may be in the middle of a write.
                os.write(2, b"\nsaving the state after this step; press Ctrl-C again to stop now without saving\n")


def stopped(number: int | None, message: str) -> Stopped:
    """Return what a run raises that has saved its state because of a signal, SIGTERM where another process got it."""
    error = Stopped(message)
    error.exit_code = 128 + (number or signal.SIGTERM)
    return error
