"""Compare threads that wait in a loop (spin) with threads that sleep: idle, and beside a program that keeps a core
busy.

    python benchmarks/spinning.py [--size 1024] [--rounds 7] [--threads 1 2] [--precision fp32 int8]

Denoises an image of ``--size`` pixels per side on the CPU.  Both kinds of threads run alternately; the medians of all
rounds count, and the ratio is the median of the rounds' own ratios, with their range.  CPU time is that of all threads
during a run, waiting included.  The default is ``SPINNING`` in ``skipae/engine/device.py``: set it to False if sleeping
is as fast on an idle machine and faster on a busy one.  Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from statistics import median

import numpy as np

from skipae import Model, from_pretrained
from skipae.engine import device

MODEL = "skipae-natural"
SETTLE = 0.2
"""Seconds between runs, after which the threads of the run before have stopped spinning."""

Seconds = tuple[float, float]
"""Wall-clock time and CPU time of a run."""


def pair(precision: str, threads: int) -> tuple[Model, Model]:
    """The checkpoint with spinning and with sleeping threads."""
    models = []
    default = device.SPINNING
    try:
        for device.SPINNING in (True, False):
            model = from_pretrained(MODEL, device="cpu", precision=precision, threads=threads)
            model.net.open()  # creates the session
            models.append(model)
    finally:
        device.SPINNING = default
    return models[0], models[1]


def measure(models: tuple[Model, Model], pixels: np.ndarray, rounds: int) -> list[tuple[Seconds, Seconds]]:
    """Seconds of both, by round, after a run that does not count."""
    found = []
    for number in range(rounds + 1):
        row = []
        for model in models:
            time.sleep(SETTLE)
            started, busy = time.perf_counter(), time.process_time()
            model.denoise(pixels)
            row.append((time.perf_counter() - started, time.process_time() - busy))
        if number:
            found.append((row[0], row[1]))
    return found


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep a core busy with another process."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def main() -> None:
    """Print the table, and the ratios over all of its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"], choices=["fp32", "int8"])
    arguments = parser.parse_args()
    pixels = np.random.default_rng(0).integers(0, 256, (arguments.size, arguments.size, 3), np.uint8)
    print(f"{MODEL}, {arguments.size} x {arguments.size} pixels, {device.available_threads()} cores, seconds")
    print("| precision | threads | machine | spinning | sleeping | sleeping / spinning | CPU spinning | CPU sleeping |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    ratios: dict[str, list[float]] = {"idle": [], "one core busy": []}
    for precision in arguments.precision:
        for threads in arguments.threads:
            models = pair(precision, threads)
            for machine, load in (("idle", nullcontext), ("one core busy", busy_core)):
                with load():
                    rows = measure(models, pixels, arguments.rounds)
                ratio = sorted(sleeping[0] / spinning[0] for spinning, sleeping in rows)
                ratios[machine].append(median(ratio))
                spinning, sleeping, spinning_cpu, sleeping_cpu = (
                    f"{median(row[kind][clock] for row in rows):.3f}" for clock in (0, 1) for kind in (0, 1)
                )
                print(
                    f"| {precision} | {threads} | {machine} | {spinning} | {sleeping} | {median(ratio):.2f} "
                    f"({ratio[0]:.2f} to {ratio[-1]:.2f}) | {spinning_cpu} | {sleeping_cpu} |",
                    flush=True,
                )
    for machine, each in ratios.items():
        print(f"{machine}: sleeping threads take {np.exp(np.mean(np.log(each))):.2f} times as long as spinning ones")


if __name__ == "__main__":
    main()
