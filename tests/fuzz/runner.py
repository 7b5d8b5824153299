"""Gives changed files to a target, and notes what must not happen: tracebacks, hangs, wrong success, stray output."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mutations
from targets import Target

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SECONDS = 10
"""Most CPU time for a file."""

MEMORY = 1 << 30
"""Most bytes by which a file may raise the memory that the process ever took."""


class Hang(BaseException):
    """No Exception, so that no reader takes it for a damaged file."""


@dataclass
class Outcome:
    """What became of the files."""

    files: int = 0
    taken: int = 0
    slowest: float = 0.0
    """CPU seconds of the slowest."""
    faults: list[str] = field(default_factory=list)


def case(target: Target, seed: int, number: int) -> tuple[bytes, str, random.Random]:
    """The file of a number, always the same, and how it was changed."""
    rng = random.Random(f"{seed}/{target.name}/{number}")
    data, how = mutations.mutate(rng, target.seeds(), target.split, is_json=target.is_json and target.split is None)
    if target.is_json and target.split is not None and how != "cut" and rng.random() < 0.6:  # a line of JSON
        lines = target.split(rng.choice(target.seeds()))
        k = rng.randrange(len(lines))
        lines[k] = mutations.mutate_json(rng, lines[k]) + b"\n"
        data, how = b"".join(lines), "json"
    return data, how, rng


def run(
    target: Target,
    *,
    seed: int = 0,
    first: int = 0,
    count: int | None = None,
    seconds: float | None = None,
    keep: Path | None = None,
) -> Outcome:
    """Try files until there were ``count``, or ``seconds`` are over; those with faults go to the folder ``keep``."""
    outcome, end = Outcome(), time.monotonic() + (seconds or 1e9)
    number = first
    while (count is None or outcome.files < count) and time.monotonic() < end:
        data, how, rng = case(target, seed, number)
        started, memory = time.process_time(), peak_memory()
        with _captured() as said:
            try:
                with _alarm():
                    outcome.taken += target.read(data, how, rng)
            except Hang:
                problem = f"more than {SECONDS} s"
            except Exception:
                problem = traceback.format_exc().strip()
            else:
                problem = ""
        if not problem and said and not target.speaks:
            problem = f"written to standard output or error: {said[0][:300]!r}"
        if not problem and peak_memory() - memory > MEMORY:
            problem = f"{peak_memory() - memory >> 20} MB more than all before"
        outcome.slowest = max(outcome.slowest, time.process_time() - started)
        outcome.files += 1
        if problem:
            outcome.faults.append(f"{target.name}, --seed {seed} --case {number} ({how}):\n{problem}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{target.name.replace(' ', '-')}-{seed}-{number}").write_bytes(data)
        number += 1
    return outcome


def peak_memory() -> int:
    """Bytes that this process had at most; 0 where the system does not say."""
    if resource is None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


@contextmanager
def _alarm() -> Iterator[None]:
    """Raise :class:`Hang` after too much CPU time, where the system can."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _captured() -> Iterator[list[bytes]]:
    """What is written to standard output and error meanwhile, by native libraries too."""
    said: list[bytes] = []
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    with tempfile.TemporaryFile() as file:
        saved = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield said
        finally:
            for stream in streams:
                stream.flush()
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)
            file.seek(0)
            text = file.read()
            if text:
                said.append(text)
