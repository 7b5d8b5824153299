"""``python tests/fuzz --seconds 3600``: try changed files for as long as is wanted."""

from __future__ import annotations

import argparse
import faulthandler
import resource
import sys
import time
import warnings
from pathlib import Path

from registry import TARGETS
from runner import Outcome, peak_memory, run

MOST_MEMORY = 4 << 30
SLICE = 20.0
"""Seconds for one reader before the next has its turn."""


def main() -> int:
    """0 without faults, else 1."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, help="for all readers together  [default: 60, or as --count asks]")
    parser.add_argument("--count", type=int, help="files for each reader, fewer for slow ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=TARGETS, help="a reader; may be repeated")
    parser.add_argument("--case", type=int, help="this file of --only and --seed alone")
    parser.add_argument("--keep", type=Path, help="folder for the files of faults")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # as the command does
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (3 * MOST_MEMORY, 3 * MOST_MEMORY))
    names = arguments.only or list(TARGETS)
    totals = {name: Outcome() for name in names}
    seconds = arguments.seconds if arguments.seconds or arguments.count or arguments.case is not None else 60.0
    end = time.monotonic() + (seconds or 1e9)
    busy = set(names)
    while busy and time.monotonic() < end:
        for name in list(busy):
            total = totals[name]
            most = None if arguments.count is None else max(1, round(arguments.count * TARGETS[name].share))
            left = None if most is None else most - total.files
            first, count = (arguments.case, 1) if arguments.case is not None else (total.files, left)
            share = min(SLICE, max(0.5, (end - time.monotonic()) / len(busy)))
            found = run(
                TARGETS[name], seed=arguments.seed, first=first, count=count, seconds=share, keep=arguments.keep
            )
            total.files += found.files
            total.taken += found.taken
            total.slowest = max(total.slowest, found.slowest)
            total.faults += found.faults
            for fault in found.faults:
                print(fault, end="\n\n", flush=True)
            if arguments.case is not None or (most is not None and total.files >= most):
                busy.discard(name)
    print(f"{'reader':16}{'files':>9}{'taken':>9}{'faults':>8}{'slowest':>10}")
    for name, total in totals.items():
        print(f"{name:16}{total.files:9}{total.taken:9}{len(total.faults):8}{total.slowest:8.2f} s")
    peak = peak_memory()
    files, faults = sum(t.files for t in totals.values()), sum(len(t.faults) for t in totals.values())
    print(f"{files} files, {faults} faults, peak memory {peak >> 20} MB, seed {arguments.seed}")
    return int(faults > 0 or peak > MOST_MEMORY)


if __name__ == "__main__":
    sys.exit(main())
