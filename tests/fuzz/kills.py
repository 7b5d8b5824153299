"""``python tests/fuzz/kills.py --count 100``: end jobs at random times, continue them, and look for losses.

A job is ended by SIGKILL, SIGTERM or SIGINT, half of the times at a time that is even over its duration, half of them
within 10 ms after one of its files appeared; in three of ten cases so is the run that continues it.  The last run
ends by itself: it must exit with 0, report no error, leave only results behind, and have made what
a job makes that nobody disturbs.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import jobs

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
AGAIN = 0.3
"""Share of the jobs whose second run is ended too."""


@dataclass
class Outcome:
    """What became of the jobs of a kind."""

    hits: Counter[str] = field(default_factory=Counter)
    """Signals that came while a job ran: before it had made a result, between, and after its last."""
    faults: list[str] = field(default_factory=list)


@dataclass
class Undisturbed:
    """A job to compare with."""

    results: jobs.Results
    files: int
    seconds: float


def check_end(kind: jobs.Kind, ended: jobs.Ended, number: int, folder: Path) -> None:
    """After a signal; AssertionError says what is wrong."""
    if number == signal.SIGKILL:
        assert ended.code == -number, f"exit code {ended.code}"
        return
    # Before the program listens, a signal ends it.
    assert ended.code in (128 + number, -number), f"exit code {ended.code}"
    if ended.code == 128 + number:
        lines = [line for line in ended.said.splitlines() if "error:" in line]
        early = not ended.said  # before the program listened
        assert len(lines) == 1 or early, "no line, or several, of an error"
        assert early or any(word in lines[0] for word in ("interrupted", "stopped at step")), "another error"
    assert "Traceback" not in ended.said and "Exception ignored" not in ended.said, "a traceback"
    left = jobs.left_over(folder)
    assert not left, f"left over: {left}"


def try_one(kind: jobs.Kind, first: Undisturbed, rng: random.Random, number: int, root: Path) -> str:
    """Disturb a job once or twice; returns what was there when it was hit, and AssertionError says what is wrong."""
    folder, whole, seen = jobs.fresh(root), first.results, ""
    words = kind.words
    while True:
        if rng.random() < 0.5:
            ended = jobs.run(kind, words, folder, number=number, after=rng.random() * first.seconds)
        else:
            made = rng.randint(jobs.count_files(folder), first.files)
            ended = jobs.run(kind, words, folder, number=number, files=made, after=rng.random() * 0.01)
        if not ended.hit:
            assert ended.code == 0, f"exit code {ended.code}"
            break
        try:
            check_end(kind, ended, number, folder)
            there = kind.results(folder)
            wrong = sorted(name for name, value in there.items() if whole.get(name) != value)
            # A file of features that its manifest does not name yet is taken for nothing.
            assert not [name for name in wrong if there[name] != "no row"], f"not as in a whole run: {wrong}"
        except AssertionError as error:
            raise AssertionError(f"when it was ended: {error}\n{ended.said}") from error
        seen = seen or ("none" if not there else "all" if len(there) == len(whole) else "some")
        words = kind.again
        if rng.random() >= AGAIN:
            break
    jobs.age(folder)
    ended = jobs.run(kind, kind.again, folder)
    try:
        assert ended.code == 0, f"exit code {ended.code}"
        for word in ("error", "Traceback", "written again", "extracted again", "damaged", "failed"):
            assert word not in ended.said, f"it says {word!r}"
        there = kind.results(folder)
        assert there == whole, (
            f"unlike a whole run: {sorted(k for k in there.keys() | whole if there.get(k) != whole.get(k))}"
        )
        left = jobs.left_over(folder)
        assert not left, f"left over: {left}"
        check_report(folder)
    except AssertionError as error:
        raise AssertionError(f"when it had gone on: {error}\n{ended.said}") from error
    return seen


def check_report(folder: Path) -> None:
    """Every image is in the report, and none as failed."""
    import json

    path = folder / "report.jsonl"
    if not path.exists():
        return
    entries = []
    for line in path.read_text().splitlines():
        with suppress(ValueError):  # one at which a run was killed
            entries.append(json.loads(line))
    assert all(entry["status"] in ("done", "skipped") for entry in entries), "a failure in the report"
    inputs = {entry["input"] for entry in entries}
    assert len(inputs) == len(list((folder / "out").iterdir())), "images that are not in the report"


def disturb(kind: jobs.Kind, *, names: list[str], count: int, seed: int, minutes: float, root: Path) -> Outcome:
    """End jobs ``count`` times while they run, with each of the signals in turn; after ``minutes`` no further one."""
    outcome, end = Outcome(), time.monotonic() + 60 * minutes
    folder = jobs.fresh(root)
    ended = jobs.run(kind, kind.words, folder)
    first = Undisturbed(kind.results(folder), jobs.count_files(folder), ended.seconds)
    if ended.code or not first.results or jobs.left_over(folder):
        outcome.faults.append(f"{kind.name}: undisturbed: exit code {ended.code}\n{ended.said}")
        return outcome
    number = 0
    while sum(outcome.hits.values()) < count and time.monotonic() < end:
        name = names[number % len(names)]
        rng = random.Random(f"{seed}/{kind.name}/{number}")
        started = time.monotonic()
        try:
            seen = try_one(kind, first, rng, SIGNALS[name], root)
        except AssertionError as error:
            seen = "fault"
            outcome.faults.append(f"{kind.name}, SIG{name}, --seed {seed}, number {number}: {error}")
        if seen:
            outcome.hits[f"SIG{name} {seen}"] += 1
        else:  # it was over before: this machine is faster than before, or slower
            first.seconds = 0.5 * (first.seconds + time.monotonic() - started)
        number += 1
    return outcome


def main() -> int:
    """0 without faults, else 1."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz/kills.py", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="of signals for each kind of job  [default: 100]")
    parser.add_argument("--minutes", type=float, default=1e9, help="for each kind of job at most")
    parser.add_argument("--seed", type=int, default=0)
    kinds = ["batch", "features", "pull", "training"]
    parser.add_argument("--only", action="append", choices=kinds, help="a kind of job; may be repeated")
    parser.add_argument("--signal", action="append", choices=SIGNALS, help="[default: KILL, TERM and INT in turn]")
    arguments = parser.parse_args()
    names = arguments.only or kinds
    jobs.preload(names)
    faults = 0
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        checkpoint = jobs.published(root / "tiny")
        for name in names:
            with jobs.make(name, root, checkpoint) as kind:
                outcome = disturb(
                    kind,
                    names=arguments.signal or list(SIGNALS),
                    count=arguments.count,
                    seed=arguments.seed,
                    minutes=arguments.minutes,
                    root=root,
                )
            for fault in outcome.faults:
                print(fault, end="\n\n")
            hits = ", ".join(f"{what}: {count}" for what, count in sorted(outcome.hits.items()))
            print(f"{name:10}{sum(outcome.hits.values()):5} ended, {len(outcome.faults)} faults ({hits})", flush=True)
            faults += len(outcome.faults)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
