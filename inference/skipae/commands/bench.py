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
from skipae.errors import DeviceError, ModelError, UsageError
from skipae.install import install_command
from skipae_zoo import DEFAULTS, QUANTIZED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL = 128
"""Side of the small images, in pixels."""

EAGER = "torch eager"

FEATURE_SIDES, FEATURE_BATCH = (64, 224), 16
"""Sides of the images whose features are timed, in pixels, and the batch size."""

Runner = Callable[["NDArray[np.uint8]"], object]
"""A model on the CPU or a GPU: uint8 [H, W, 3] in, pixels out."""


RIVALS = {"ffdnet": "a graph of FFDNet's shape"}
"""Rivals by name in ``--against``; ``skipae-train`` measures them."""


@click.command()
@options.model_option()
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="cpu|cuda[:N]|openvino|...",
    help="Device to measure; may be repeated.  [default: all that work, and PyTorch where it is installed]",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "int8", "fp16"]),
    multiple=True,
    help="Precision to measure; may be repeated.  [default: fp32, and int8 on the CPU where the model has it]",
)
@click.option("--size", type=click.IntRange(min=64), default=1024, show_default=True, help="Side of the large image.")
@options.threads_option
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True, help="Processes for each row.")
@click.option(
    "--against",
    type=click.Choice(list(RIVALS)),
    help="Also measure a graph of a rival's shape with random weights, and print the ratios.",
)
@click.option(
    "--features",
    is_flag=True,
    help=f"Also measure features of {DEFAULTS['features']}, for images of 64 and 224 pixels.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--child", type=click.Choice(["restore", "features"]), hidden=True)
@options.console_options
def command(
    model: str,
    devices: tuple[str, ...],
    precisions: tuple[str, ...],
    size: int,
    threads: int | None,
    rounds: int,
    against: str | None,
    features: bool,
    as_json: bool,
    child: str | None,
    console: Console,
) -> int:
    """Measure speed and memory on the devices of this machine.

    Prints seconds per megapixel of a large image, small images per second, peak memory, and seconds to load.
    Each row is measured in its own processes, alternating with the others; the best of all rounds counts.
    PyTorch runs the same network, eagerly, in float32, on the CPU.  JSON also has the processor time in
    seconds, which other programs on the machine affect less.
    """
    if child is not None:
        take = measure if child == "restore" else measure_features
        echo(json.dumps(take(options.CheckpointOptions(model, devices[0], precisions[0], threads), size, console)))
        return 0
    from skipae.checkpoints.hub import Access
    from skipae.checkpoints.resolve import find_folder, load_config

    common = ["--size", str(size), *(["--threads", str(threads)] if threads else [])]
    named = ["--model", model, *common]
    has_int8 = QUANTIZED in load_config(find_folder(model, access=Access(notify=console.remark))).files
    working = devices or _devices()
    commands: dict[str, list[str]] = {}
    for device in working:
        for precision in precisions or (["fp32", "int8"] if has_int8 and device == "cpu" else ["fp32"]):
            words = ["skipae", "bench", "--child", "restore", "--device", device, "--precision", precision, *named]
            commands[device if precision == "fp32" else f"{device} {precision}"] = words
    if not devices and find_spec("torch") and find_spec("skipae_train"):
        commands[EAGER] = ["skipae_train", "eager", *named]
    if against is not None:
        if not (find_spec("onnx") and find_spec("skipae_train")):
            raise UsageError(f"--against {against} needs the training package: {install_command('train')}")
        commands[against] = ["skipae_train", against, *common]
    if features:
        for device in working:
            words = ["skipae", "bench", "--child", "features", "--device", device, "--precision", "fp32"]
            commands[f"{device} features"] = [*words, "--model", DEFAULTS["features"], *common]
    best: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for row, words in commands.items():
            console.remark(f"measuring {row}")
            found = json.loads(_run(words))
            best[row] = _better(best[row], found) if row in best else found
    result: dict[str, Any] = {"model": model, "size": size, "small": SMALL, "rounds": rounds, "devices": best}
    if against is not None:
        rows = {row: found for row, found in best.items() if "seconds_per_megapixel" in found}
        result["against"] = {"rival": against} | {
            ratio: {row: found[seconds] / best[against][seconds] for row, found in rows.items()}
            for ratio, seconds in (("ratio", "seconds_per_megapixel"), ("cpu_ratio", "cpu_seconds_per_megapixel"))
        }
    echo(*[json.dumps(result, indent=2)] if as_json else _table(result))
    return 0


def _table(result: dict[str, Any]) -> list[str]:
    """Format the results as lines of a table."""
    rows = {row: found for row, found in result["devices"].items() if "seconds_per_megapixel" in found}
    ratios = result.get("against")
    over = f"{'/ ' + ratios['rival']:>10}" if ratios else ""
    lines = [
        f"{'device':14}{'s/megapixel':>12}{over}{f'images/s ({SMALL} px)':>20}{'peak MiB':>10}{'load s':>8}  engine"
    ]
    for row, found in rows.items():
        over = f"{ratios['ratio'][row]:10.2f}" if ratios else ""
        lines.append(
            f"{row:14}{found['seconds_per_megapixel']:12.3f}{over}{found['images_per_second']:20.1f}{_mib(found):>10}"
            f"{found['load_seconds']:8.2f}  {found['engine']}, {found['threads']} thread(s)"
        )
    others = {row: found for row, found in result["devices"].items() if row not in rows}
    if others:
        sides = "".join(f"{f'images/s ({side} px)':>20}" for side in FEATURE_SIDES)
        lines += ["", f"{'device':18}{sides}{'peak MiB':>10}{'load s':>8}  engine"]
    for row, found in others.items():
        speeds = "".join(f"{found[_speed(side)]:20.1f}" for side in FEATURE_SIDES)
        lines.append(
            f"{row:18}{speeds}{_mib(found):>10}{found['load_seconds']:8.2f}  {found['engine']}, "
            f"{found['threads']} thread(s)"
        )
    return lines


def _mib(found: dict[str, Any]) -> str:
    return "" if found["peak_mib"] is None else f"{found['peak_mib']:.0f}"


def _speed(side: int) -> str:
    return f"images_per_second_{side}"


def _devices() -> list[str]:
    """Return the devices that work, according to ``skipae doctor`` in a separate process."""
    # The bundled model may be damaged while another one is measured.
    found = json.loads(_run(["skipae", "doctor", "--json"], DeviceError.exit_code, ModelError.exit_code))
    devices = [device for device, said in found["devices"].items() if said == "works"]
    if not devices:
        why = [f"{problem['problem']}; {problem['repair']}" for problem in found["problems"]]
        raise DeviceError(f"no device works: {why[0] if why else 'see skipae doctor'}")
    return devices


def _run(words: list[str], *expected: int) -> str:
    """Run ``python -m`` with these arguments and return its standard output.

    An unexpected exit code ends this process with the same code.
    """
    done = subprocess.run([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, *expected):
        raise click.exceptions.Exit(done.returncode)  # it has printed the reason
    return done.stdout


def _better(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Return the best of two measurements of a row, but the larger memory."""

    def better(key: str) -> Any:
        if one[key] is None or key in ("engine", "threads"):
            return one[key]
        return max(one[key], two[key]) if key.startswith(("images_per", "peak")) else min(one[key], two[key])

    return {key: better(key) for key in one}


def measure(checkpoint: options.CheckpointOptions, size: int, console: Console) -> dict[str, Any]:
    """Measure one device in this process; the result has the fields of :func:`timing`."""
    started = time.perf_counter()
    model = checkpoint.load(checkpoint.find(console, "restoration", "be measured"), console)
    loaded = time.perf_counter() - started
    return timing(model.denoise, size, _engine(), model.device.threads, loaded)


def measure_features(checkpoint: options.CheckpointOptions, _: int, console: Console) -> dict[str, Any]:
    """Measure images per second of the default layer's features, for batches in memory, and peak memory."""
    import numpy as np

    started = time.perf_counter()
    model = checkpoint.load(checkpoint.find(console), console)
    loaded = time.perf_counter() - started
    speeds = {}
    for side in FEATURE_SIDES:
        pixels = np.random.default_rng(0).integers(0, 256, (FEATURE_BATCH, side, side, 3), np.uint8)

        def take(pixels: NDArray[np.uint8] = pixels) -> object:
            return model.features(pixels, resize=0, crop=0, batch_size=FEATURE_BATCH)

        take()
        speeds[_speed(side)] = FEATURE_BATCH / min(_seconds(take) for _ in range(3))
    return {
        **speeds,
        "peak_mib": peak_mib(),
        "load_seconds": loaded,
        "engine": _engine(),
        "threads": model.device.threads,
    }


def _engine() -> str:
    from skipae.engine.device import load_runtime

    return f"onnxruntime {load_runtime().__version__}"


def timing(restore: Runner, size: int, engine: str, threads: int, loaded: float) -> dict[str, Any]:
    """Measure seconds and images per second on random pixels, best of three, and this process's peak memory.

    Args:
        restore: processes one image.
        size: side of the large image, in pixels.
        engine: name and version of the runtime.
        threads: CPU threads that it uses.
        loaded: seconds that loading took.
    """
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    small = np.ascontiguousarray(pixels[:SMALL, :SMALL])
    restore(small)
    one = min(_seconds(lambda: restore(small)) for _ in range(3))
    count = max(1, min(30, round(1 / one)))
    several = min(_seconds(lambda: [restore(small) for _ in range(count)]) / count for _ in range(3))
    restore(pixels)
    large, busy = [], []
    for _ in range(3):
        started = time.process_time()
        large.append(_seconds(lambda: restore(pixels)))
        busy.append(time.process_time() - started)
    return {
        "seconds_per_megapixel": min(large) * 2**20 / size**2,
        "cpu_seconds_per_megapixel": min(busy) * 2**20 / size**2,
        "images_per_second": 1 / several,
        "peak_mib": peak_mib(),
        "load_seconds": loaded,
        "engine": engine,
        "threads": threads,
    }


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def peak_mib() -> float | None:
    """Return the peak memory of this process in MiB; None on Windows."""
    if sys.platform == "win32":
        return None
    with suppress(OSError):  # Linux: getrusage would start at the size of the parent process
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) / 2**10
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
