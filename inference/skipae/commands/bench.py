"""``skipae bench``: speed and memory on the devices of this machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skipae.commands import options
from skipae.console import Console, echo
from skipae.errors import DeviceError, ModelError, UsageError
from skipae.install import install_command
from skipae_zoo import DEFAULTS, QUANTIZED, QUANTIZED_FEATURES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL = 128
"""Side of the small images, in pixels."""

EAGER, TIMM = "torch eager", "timm resnet18"
"""Rows of PyTorch: the same network, and for features another one."""

FEATURE_SIDES, FEATURE_BATCH = (64, 224), 16
"""Sides of the images whose features are timed, in pixels, and the batch size."""

Runner = Callable[["NDArray[np.uint8]"], object]
"""A model on the CPU or a GPU: an image, uint8 [H, W, 3], or images, uint8 [N, H, W, 3], in; any output."""

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
    help="Precision to measure; may be repeated.  [default: fp32, and int8 on cpu and openvino where the model has it]",
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
    help=f"Also measure features of {DEFAULTS['features']}, for images of 64 and 224 pixels, and of timm's resnet18 "
    "where it is installed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also draw the results, as PNG, SVG or PDF; needs matplotlib.",
    shell_complete=options.complete_files,
)
@options.overwrite_option
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
    plot: Path | None,
    overwrite: bool,
    child: str | None,
    console: Console,
) -> int:
    """Measure speed and memory on the devices of this machine.

    Prints seconds per megapixel of a large image, small images per second, peak memory, and seconds to load.
    Each row is measured in its own processes, alternating with the others; the best of all rounds counts.
    PyTorch runs the same network, eagerly, in float32, on the CPU, and so does timm's resnet18, with random weights.
    Ratios of features are relative to the first row of features; larger is faster.  JSON also has the processor
    time in seconds, which other programs on the machine affect less.
    """
    if child is not None:
        take = measure if child == "restore" else measure_features
        echo(json.dumps(take(options.CheckpointOptions(model, devices[0], precisions[0], threads), size, console)))
        return 0
    if plot is not None:
        from skipae.commands.bench_plot import check_plot

        check_plot(plot, overwrite=overwrite)
    if against is not None and not (find_spec("onnx") and find_spec("skipae_train")):
        raise UsageError(f"--against {against} needs the training package: {install_command('train')}")
    rows = _rows(model, devices, precisions, size, threads, against, features, console)
    best: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for row, words in list(rows.items()):
            console.remark(f"measuring {row}")
            try:
                found = json.loads(_run(words))
            except click.exceptions.Exit:
                if row != TIMM:
                    raise
                console.remark(f"{row} does not run and is left out")
                del rows[row]
            else:
                best[row] = _better(best[row], found) if row in best else found
    result: dict[str, Any] = {"model": model, "size": size, "small": SMALL, "rounds": rounds, "devices": best}
    if against is not None:
        restored = {row: found for row, found in best.items() if "seconds_per_megapixel" in found}
        result["against"] = {"rival": against} | {
            ratio: {row: _ratio(found[seconds], best[against][seconds]) for row, found in restored.items()}
            for ratio, seconds in (("ratio", "seconds_per_megapixel"), ("cpu_ratio", "cpu_seconds_per_megapixel"))
        }
    if features:
        result["features"] = _compare_features(best)
    echo(*[json.dumps(result, indent=2)] if as_json else _table(result))
    if plot is not None:
        from skipae.commands.bench_plot import draw, panels

        others = {EAGER, TIMM, *RIVALS}
        draw(result, panels(SMALL, FEATURE_SIDES), plot, others=others, overwrite=overwrite)
        console.done(str(plot))
    return 0


def _rows(
    model: str,
    devices: tuple[str, ...],
    precisions: tuple[str, ...],
    size: int,
    threads: int | None,
    against: str | None,
    features: bool,
    console: Console,
) -> dict[str, list[str]]:
    """Return what to measure by its name: the arguments of ``python -m``."""
    from skipae.checkpoints.hub import Access
    from skipae.checkpoints.resolve import find_folder, load_config

    def row(child: str, name: str, device: str, precision: str) -> list[str]:
        words = ["skipae", "bench", "--child", child, "--device", device, "--precision", precision]
        return [*words, "--model", name, "--size", str(size), *limit]

    def files(name: str) -> Mapping[str, str]:
        return load_config(find_folder(name, access=Access(notify=console.remark))).files

    limit = ["--threads", str(threads)] if threads else []
    has_int8 = QUANTIZED in files(model)
    has_int8_features = features and QUANTIZED_FEATURES in files(DEFAULTS["features"])
    working = devices or _devices()
    rows = {
        device if precision == "fp32" else f"{device} {precision}": row("restore", model, device, precision)
        for device in working
        for precision in precisions or _precisions(device, has_int8)
    }
    if not devices and find_spec("torch") and find_spec("skipae_train"):
        rows[EAGER] = ["skipae_train", "eager", "--model", model, "--size", str(size), *limit]
    if against is not None:
        rows[against] = ["skipae_train", against, "--size", str(size), *limit]
    if features:
        asked = [precision for precision in precisions if precision != "fp16"]  # features are never computed in it
        for device in working:
            for precision in asked or _precisions(device, has_int8_features):
                name = f"{device} features" if precision == "fp32" else f"{device} {precision} features"
                rows[name] = row("features", DEFAULTS["features"], device, precision)
        if all(find_spec(package) for package in ("timm", "torch", "skipae_train")):
            rows[TIMM] = ["skipae_train", "resnet18", *limit]
    return rows


def _precisions(device: str, has_int8: bool) -> list[str]:
    """Return the precisions to measure by default."""
    from skipae.engine.precision import INT8_DEVICES

    return ["fp32", "int8"] if has_int8 and device in INT8_DEVICES else ["fp32"]


def _compare_features(best: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return how many times as fast as the first row of features each of them is, by the side of the images."""
    rows = {row: found for row, found in best.items() if _speed(FEATURE_SIDES[0]) in found}
    first = next(iter(rows))
    ratio = {
        row: {str(side): _ratio(found[_speed(side)], rows[first][_speed(side)]) for side in FEATURE_SIDES}
        for row, found in rows.items()
    }
    cpu_ratio = {
        row: {str(side): _ratio(rows[first][_busy(side)], found[_busy(side)]) for side in FEATURE_SIDES}
        for row, found in rows.items()
    }
    return {"model": DEFAULTS["features"], "reference": first, "ratio": ratio, "cpu_ratio": cpu_ratio}


def _ratio(one: float, other: float) -> float | None:
    """Return a ratio; None where ``other`` is 0 because Windows counts processor time in steps of 16 ms."""
    return one / other if other else None


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
        sides = "".join(f"{f'images/s ({side} px)':>20}{'ratio':>7}" for side in FEATURE_SIDES)
        lines += ["", f"{'device':18}{sides}{'peak MiB':>10}{'load s':>8}  engine"]
    for row, found in others.items():
        ratio = result["features"]["ratio"][row]
        speeds = "".join(f"{found[_speed(side)]:20.1f}{ratio[str(side)]:7.2f}" for side in FEATURE_SIDES)
        lines.append(
            f"{row:18}{speeds}{_mib(found):>10}{found['load_seconds']:8.2f}  {found['engine']}, "
            f"{found['threads']} thread(s)"
        )
    return lines


def _mib(found: dict[str, Any]) -> str:
    return "" if found["peak_mib"] is None else f"{found['peak_mib']:.0f}"


def _speed(side: int) -> str:
    return f"images_per_second_{side}"


def _busy(side: int) -> str:
    return f"cpu_seconds_per_image_{side}"


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
    try:
        errors: int | None = sys.stderr.fileno()  # descriptor 2 leads nowhere while native libraries are hidden
    except (AttributeError, OSError, ValueError):  # closed, or not a file
        errors = None
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, check=False)
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
    """Measure features of the default layer; the result has the fields of :func:`feature_timing`."""
    started = time.perf_counter()
    model = checkpoint.load(checkpoint.find(console), console)
    loaded = time.perf_counter() - started

    def run(images: NDArray[np.uint8]) -> object:
        return model.features(images, resize=0, crop=0, batch_size=FEATURE_BATCH)

    return feature_timing(run, _engine(), model.device.threads, loaded)


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
    large, busy = _clocks(lambda: restore(pixels), 3)
    return {
        "seconds_per_megapixel": large * 2**20 / size**2,
        "cpu_seconds_per_megapixel": busy * 2**20 / size**2,
        "images_per_second": 1 / several,
        "peak_mib": peak_mib(),
        "load_seconds": loaded,
        "engine": engine,
        "threads": threads,
    }


def feature_timing(take: Runner, engine: str, threads: int, loaded: float) -> dict[str, Any]:
    """Measure images per second for batches of random pixels in memory, best of several, and peak memory.

    Args:
        take: returns features of images.
        engine: name and version of the runtime.
        threads: CPU threads that it uses.
        loaded: seconds that loading took.
    """
    import numpy as np

    speeds = {}
    for side in FEATURE_SIDES:
        images = np.random.default_rng(0).integers(0, 256, (FEATURE_BATCH, side, side, 3), np.uint8)
        run = partial(take, images)
        run()
        seconds, busy = _clocks(run, max(3, min(30, round(1 / _seconds(run)))))
        speeds[_speed(side)] = FEATURE_BATCH / seconds
        speeds[_busy(side)] = busy / FEATURE_BATCH
    return {**speeds, "peak_mib": peak_mib(), "load_seconds": loaded, "engine": engine, "threads": threads}


def _clocks(run: Callable[[], object], times: int) -> tuple[float, float]:
    """Return the least seconds of several runs, and the least processor time."""
    seconds, busy = [], []
    for _ in range(times):
        started = time.process_time()
        seconds.append(_seconds(run))
        busy.append(time.process_time() - started)
    return min(seconds), min(busy)


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
