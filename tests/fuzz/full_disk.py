"""``python tests/fuzz/full_disk.py``: fill the disk at each write of each kind of job.

In two ways. ``calls``: the n-th call that writes (open, write, fsync, mkdir, link, replace, rename) fails with "No
space left on device", for n = 1, 2, 3, ... until a job runs undisturbed; then so do all calls from the n-th on.
``space``: the job's folder is a file system of n pages, which also tries what native code writes; mounting one takes
root, or ``unshare --map-root-user --mount``.

Each time, a job must name the cause in a line and exit with an error, or finish; what it leaves must be whole; and with
room again, the job must finish.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import io
import mmap
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jobs

SAYS = ("No space left on device", "the disk is full")


class Calls:
    """Counts the calls that write below a folder, and lets one fail, or all from it on."""

    def __init__(self, folder: Path, number: int, lasting: bool) -> None:
        self._folder, self._number, self._lasting = str(folder), number, lasting
        self._count = mmap.mmap(-1, 8)  # shared with the process that counts

    @property
    def count(self) -> int:
        """Calls so far."""
        return int(struct.unpack("q", self._count[:8])[0])

    def patch(self) -> None:
        """Take the place of what writes; called in the process of the job."""
        calls = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                calls._check(self.name)
                return super().write(data)

        original = io.open

        def open_file(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **options: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wxa") or "b" not in mode:
                return original(file, mode, buffering, *more, **options)
            self._check(file)
            raw = Raw(file, mode.replace("b", ""))
            return raw if buffering == 0 else (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)

        io.open = builtins.open = open_file
        for name in ("fsync", "mkdir", "link", "replace", "rename"):
            setattr(os, name, self._failing(getattr(os, name), 0 if name in ("fsync", "mkdir") else 1))

    def _failing(self, original: Callable[..., Any], place: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._check(arguments[place])
            return original(*arguments, **options)

        return call

    def _check(self, path: Any) -> None:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")  # noqa: PTH115
        text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        if not text.startswith(self._folder):
            return
        count = self.count + 1
        self._count[:8] = struct.pack("q", count)
        if count == self._number or (self._lasting and count > self._number):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), text)


@dataclass
class Outcome:
    """What became of the jobs of a kind."""

    tried: int = 0
    finished: int = 0
    """Of the tried, those that needed nothing of what failed."""
    faults: int = 0

    def fault(self, text: str) -> None:
        """Count a fault, and print it."""
        self.faults += 1
        print(text, end="\n\n", flush=True)


def check(kind: jobs.Kind, ended: jobs.Ended, folder: Path, whole: jobs.Results) -> None:
    """After a job on a full disk; AssertionError says what is wrong."""
    for word in ("Traceback", "Exception ignored", "unexpected"):
        assert word not in ended.said, f"it says {word!r}"
    there = kind.results(folder)
    if ended.code == 0:
        assert there == whole, "exit code 0 without all results"
        return
    assert ended.code in (1, 2, 4), f"exit code {ended.code}"
    lines = [line for line in ended.said.splitlines() if any(text in line for text in SAYS)]
    assert lines and all(line.startswith("skipae") for line in lines), "no line says that the disk is full"
    wrong = sorted(name for name, value in there.items() if whole.get(name) != value)
    assert not wrong, f"not as in a whole run: {wrong}"
    # The Hub's client leaves a file of a few bytes in its cache, which a later run removes.
    left = [name for name in jobs.left_over(folder) if "/refs/" not in name]
    assert not left, f"left over: {left}"


def try_one(kind: jobs.Kind, folder: Path, whole: jobs.Results, before: Callable[[], None], *, enlarge: bool) -> int:
    """A job on a full disk, and then with room; returns its exit code."""
    ended = jobs.run(kind, kind.words, folder, before=before)
    try:
        check(kind, ended, folder, whole)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{ended.said}") from error
    if enlarge:
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
    jobs.age(folder)
    last = jobs.run(kind, kind.again, folder)
    assert last.code == 0 and kind.results(folder) == whole, f"then, with room: exit code {last.code}\n{last.said}"
    left = jobs.left_over(folder)
    assert not left, f"left over, with room: {left}"
    return ended.code


def fill(kind: jobs.Kind, root: Path, *, way: str, step: int, first: int = 1) -> Outcome:
    """Let the job fail at each step, until it runs undisturbed."""
    outcome, number, lasting = Outcome(), first, False
    alone = jobs.run(kind, kind.words, jobs.fresh(root))
    whole = kind.results(root / "work")
    if alone.code or not whole:
        outcome.fault(f"{kind.name}: undisturbed: exit code {alone.code}\n{alone.said}")
        return outcome
    while True:
        folder = jobs.fresh(root)
        calls = Calls(folder, number, lasting)
        if way == "space":
            size = f"size={number * 4}k"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=True)
            before: Callable[[], None] = lambda: None  # noqa: E731
        else:
            before = calls.patch
        try:
            code = try_one(kind, folder, whole, before, enlarge=way == "space")
        except AssertionError as error:
            code = -1
            outcome.fault(f"{kind.name}, {way} {number}{' and later' if lasting else ''}: {error}")
        finally:
            if way == "space":
                subprocess.run(["umount", folder], check=True)
        undisturbed = code == 0 if way == "space" else calls.count < number
        if undisturbed and (lasting or way == "space"):
            return outcome
        if undisturbed:
            number, lasting = first, True
            continue
        outcome.tried += 1
        outcome.finished += code == 0
        number += step


KINDS = ("file", "batch", "features", "inpaint", "export", "pull", "training")


def main() -> int:
    """0 without faults, else 1."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz/full_disk.py", description=__doc__)
    parser.add_argument("--only", action="append", choices=KINDS, help="a kind of job; may be repeated")
    parser.add_argument("--way", action="append", choices=["calls", "space"], help="[default: both]")
    parser.add_argument("--step", type=int, default=1, help="try each n-th call or size alone  [default: 1]")
    parser.add_argument("--first", type=int, default=1, help="[default: 1]")
    arguments = parser.parse_args()
    names, faults = arguments.only or list(KINDS), 0
    jobs.preload(names)
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        checkpoint = jobs.published(root / "tiny")
        for name in names:
            with jobs.make(name, root, checkpoint, small=True) as kind:
                for way in arguments.way or ("calls", "space"):
                    outcome = fill(kind, root, way=way, step=arguments.step, first=arguments.first)
                    print(
                        f"{name:10}{way:7}{outcome.tried:5} tried, {outcome.finished} finished, "
                        f"{outcome.faults} faults",
                        flush=True,
                    )
                    faults += outcome.faults
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
