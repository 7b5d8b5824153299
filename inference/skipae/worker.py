"""Calls in another thread, for which the main thread can wait while signals interrupt it.

A signal's exception may come after any instruction of Python code.  ``Future``, ``Event`` and ``Condition`` are Python
code: an exception between two of its instructions can leave their lock closed for ever, and the other thread waits for
it.  Here all that two threads share is locked by one call of C code.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")

_LONGEST_WAIT = 0.2 if sys.platform == "win32" else 60.0
"""Seconds after which a wait checks for signals, which do not interrupt it on Windows."""


class Call(Generic[T]):
    """A function's call in another thread.  One thread waits for it, again if a signal interrupted the wait."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function: Callable[[], T] | None = function
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._ended = False
        self._running = threading.Lock()
        self._running.acquire()

    def run(self) -> None:
        """Call the function, in the other thread."""
        try:
            if self._function is not None:
                self._found.append(self._function())
        except BaseException as error:
            self._error = error
        self._function = None  # and the arrays that it refers to
        self._ended = True
        self._running.release()
        del self  # the error's traceback refers to this frame

    def wait(self, seconds: float = math.inf) -> bool:
        """Return whether the call ended within a number of seconds."""
        deadline = time.monotonic() + seconds
        while not self._ended:
            left = deadline - time.monotonic()
            if not self._running.acquire(timeout=min(_LONGEST_WAIT, max(0.0, left))) and left <= 0:
                return False
        return True

    def result(self) -> T:
        """Wait for the call, and return what the function returned or raise what it raised."""
        self.wait()
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # as above
        return self._found[0]


class Worker:
    """A thread that calls functions one after the other.  It ends with the process, or with the ``with`` block."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Call[Any] | None] = SimpleQueue()
        threading.Thread(target=_work, args=(self._calls,), name=name, daemon=True).start()

    def submit(self, function: Callable[[], T]) -> Call[T]:
        """Call a function after those submitted before it."""
        call = Call(function)
        self._calls.put(call)
        return call

    def __enter__(self) -> Self:
        """Return the worker."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the functions that were submitted, and end the thread."""
        self.submit(int).wait()
        self._calls.put(None)


def _work(calls: SimpleQueue[Call[Any] | None]) -> None:
    while (call := calls.get()) is not None:
        call.run()
        del call  # and what it returned
