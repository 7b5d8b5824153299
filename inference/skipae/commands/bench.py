"""``skipae bench``: speed and memory on the devices of this machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skipae.commands import options
from skipae.console import Console, echo
from skipae.errors import DeviceError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL = 128
"""Side in pixels of the small images."""

EAGER = "torch eager"

Restore = Callable[["NDArray[np.uint8]"], object]
"""A net on the CPU or a GPU: uint8 [H, W, 3] in, pixels out."""


@click.command()
@options.model_option()
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="cpu|cuda[:N]|openvino",
    help="Device to measure; may be repeated.  [default: all that work, and PyTorch where it is installed]",
)
@click.option("--size", type=click.IntRange(min=64), default=1024, show_default=True, help="Side of the large image.")
@options.threads_option
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True, help="Processes for each device.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--child", is_flag=True, hidden=True)
@options.console_options
def command(
    model: str,
    devices: tuple[str, ...],
    size: int,
    threads: int | None,
    rounds: int,
    as_json: bool,
    child: bool,
    console: Console,
) -> int:
    """Measure speed and memory on the devices of this machine.

    Printed are seconds per megapixel of a large image, small images per second, peak memory, and seconds to load.
    Each device is measured in processes of its own, in turns with the others; the best of all rounds counts.  PyTorch
    runs the same network, eagerly, in float32, on the CPU.
    """
    if child:
        echo(json.dumps(measure(model, devices[0], size, threads, console)))
        return 0
    common = ["--model", model, "--size", str(size), *(["--threads", str(threads)] if threads else [])]
    commands = {device: ["skipae", "bench", "--child", "--device", device, *common] for device in devices or _devices()}
    if not devices and find_spec("torch") and find_spec("skipae_train"):
        commands[EAGER] = ["skipae_train", "eager", *common]
    best: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for device, words in commands.items():
            console.remark(f"measuring {device}")
            found = json.loads(_run(words))
            best[device] = _better(best[device], found) if device in best else found
    if as_json:
        result = {"model": model, "size": size, "small": SMALL, "rounds": rounds, "devices": best}
        echo(json.dumps(result, indent=2))
    else:
        echo(f"{'device':14}{'s/megapixel':>12}{f'images/s ({SMALL} px)':>20}{'peak MiB':>10}{'load s':>8}  engine")
        for device, row in best.items():
            peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
            echo(
                f"{device:14}{row['seconds_per_megapixel']:12.3f}{row['images_per_second']:20.1f}{peak:>10}"
                f"{row['load_seconds']:8.2f}  {row['engine']}, {row['threads']} thread(s)"
            )
    return 0


def _devices() -> list[str]:
    """Those that work, as ``skipae doctor`` says in a process of its own."""
    # The bundled model may be damaged, where another one is measured.
    found = json.loads(_run(["skipae", "doctor", "--json"], DeviceError.exit_code, ModelError.exit_code))
    devices = [device for device, said in found["devices"].items() if said == "works"]
    if not devices:
        why = [f"{problem['problem']}; {problem['repair']}" for problem in found["problems"]]
        raise DeviceError(f"no device works: {why[0] if why else 'see skipae doctor'}")
    return devices


def _run(words: list[str], *expected: int) -> str:
    """Standard output of ``python -m`` with these words.

    Where that fails with an exit code that is not expected, so does this, with the same one.
    """
    done = subprocess.run([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, *expected):
        raise click.exceptions.Exit(done.returncode)  # it has said why
    return done.stdout


def _better(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    least = {key: min(one[key], two[key]) for key in ("seconds_per_megapixel", "load_seconds")}
    peak = None if one["peak_mib"] is None else max(one["peak_mib"], two["peak_mib"])
    return (
        one | least | {"images_per_second": max(one["images_per_second"], two["images_per_second"]), "peak_mib": peak}
    )


def measure(name: str, device: str, size: int, threads: int | None, console: Console) -> dict[str, Any]:
    """Measure one device in this process."""
    started = time.perf_counter()
    checkpoint = options.CheckpointOptions(name, device, threads)
    model = checkpoint.load(checkpoint.find(console, "restoration", "be measured"), console)
    loaded = time.perf_counter() - started
    from skipae.engine.device import load_runtime

    engine = f"onnxruntime {load_runtime().__version__}"
    return timing(model.denoise, size, engine, model.device.threads, loaded)


def timing(restore: Restore, size: int, engine: str, threads: int, loaded: float) -> dict[str, Any]:
    """Seconds and images per second of a net on random pixels, best of three, and this process's peak memory."""
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    small = np.ascontiguousarray(pixels[:SMALL, :SMALL])
    restore(small)
    one = min(_seconds(restore, small) for _ in range(3))
    count = max(1, min(30, round(1 / one)))
    several = min(sum(_seconds(restore, small) for _ in range(count)) / count for _ in range(3))
    restore(pixels)
    large = min(_seconds(restore, pixels) for _ in range(3))
    return {
        "seconds_per_megapixel": large * 2**20 / size**2,
        "images_per_second": 1 / several,
        "peak_mib": _peak(),
        "load_seconds": loaded,
        "engine": engine,
        "threads": threads,
    }


def _seconds(restore: Restore, pixels: NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    restore(pixels)
    return time.perf_counter() - started


def _peak() -> float | None:
    """Most MiB of main memory that this process had; None on Windows."""
    if sys.platform == "win32":
        return None
    with suppress(OSError):  # Linux: what getrusage gives starts at the size of the process that started this one
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) / 2**10
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
