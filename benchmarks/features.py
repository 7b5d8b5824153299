"""Cost of layer features: time up to each layer, memory over many images, images per second.

    python benchmarks/features.py [--threads 2] [--images 5000] [--plot FILE] [cost] [memory] [speed]

Needs ``pip install -e ".[cpu]" matplotlib`` (the last for ``memory``, which runs on Linux).  Rivals run
interleaved in one process and the best of several rounds counts, because only ratios are stable between machines.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

MODEL = "skipae-natural"
ROUNDS = 7


def best(rounds: int, rivals: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Least seconds of each rival, called in turns, after one call that does not count."""
    seconds = dict.fromkeys(rivals, float("inf"))
    for number in range(rounds + 1):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def cost(arguments: argparse.Namespace) -> None:
    """Each layer alone, as a share of the last; and the uncut graph asked for its first layer."""
    from skipae import from_pretrained
    from skipae.engine.session import Session

    model = from_pretrained(MODEL, device="cpu", threads=arguments.threads)
    image = np.random.default_rng(0).random((1, 3, 256, 256), np.float32)
    names = [layer.name for layer in model.layers]
    rivals: dict[str, Callable[[], object]] = {}
    for name in names:
        rivals[name] = partial(model.net.encoder((name,)).run_all, image)
    whole = Session(model.folder, model.config, "onnx/features.onnx", model.device)
    rivals["uncut"] = lambda: whole.open().run(names[:1], {"pixel_values": image})
    found = best(ROUNDS, rivals)
    print(f"cost: {MODEL}, 256 x 256, {arguments.threads} thread(s); share of the last layer's time")
    for name, seconds in found.items():
        text = f"the first layer of the graph that is not cut ({names[0]})" if name == "uncut" else name
        print(f"cost: {text}: {1000 * seconds:.1f} ms, {seconds / found[names[-1]]:.2f}")


def photos(folder: Path, count: int) -> Path:
    """``count`` JPEGs of 160 x 120 and 120 x 160 pixels."""
    from PIL import Image

    folder.mkdir()
    for number in range(count):
        size = (160, 120) if number % 2 else (120, 160)
        Image.effect_noise(size, 20 + number % 60).convert("RGB").save(folder / f"{number:06}.jpg")
    return folder


def command(arguments: argparse.Namespace, *words: object) -> list[str]:
    """``skipae features`` on the CPU."""
    base = [sys.executable, "-m", "skipae", "features", "--device", "cpu", "--threads", arguments.threads]
    return [*map(str, [*base, *words])]


def memory(arguments: argparse.Namespace) -> None:
    """Resident memory of ``skipae features`` while it works through many images, as a picture."""
    from matplotlib import pyplot

    with tempfile.TemporaryDirectory() as temporary:
        images = photos(Path(temporary, "photos"), arguments.images)
        report = Path(temporary, "report.jsonl")
        words = [images, "-o", Path(temporary, "out"), "--layer", "enc3", "--pool", "spatial:4", "--report", report]
        child = subprocess.Popen(command(arguments, *words, "--shard-size", max(1, arguments.images // 20)))
        done, resident = [], []
        lines = 0
        report.touch()
        with report.open("rb", buffering=0) as file:
            while child.poll() is None:
                lines += file.readall().count(b"\n")
                pages = Path(f"/proc/{child.pid}/statm").read_text().split()
                if lines and pages[1] != "0":  # a process that has ended has none
                    done.append(lines)
                    resident.append(int(pages[1]) * 4096 / 2**20)
                time.sleep(0.05)
        if child.returncode:
            raise SystemExit("skipae features failed")
    early = max(m for d, m in zip(done, resident, strict=True) if d <= arguments.images / 5)
    late = max(m for d, m in zip(done, resident, strict=True) if d > arguments.images * 4 / 5)
    print(f"memory: {arguments.images} images, most in the first fifth {early:.0f} MiB, in the last {late:.0f} MiB")
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(done, resident)
    axes.set(xlabel="images done", ylabel="resident memory, MiB", ylim=(0, None), title="skipae features")
    figure.savefig(arguments.plot, dpi=110)
    print(f"memory: plotted to {arguments.plot}")


def speed(arguments: argparse.Namespace) -> None:
    """Images per second of the whole command, by batch size."""
    count = min(arguments.images, 400)
    with tempfile.TemporaryDirectory() as temporary:
        images = photos(Path(temporary, "photos"), count)
        words = [images, "-o", Path(temporary, "out"), "--overwrite", "--resize", 96, "--crop", 96, "--batch-size"]

        def run(size: int) -> None:
            subprocess.run(command(arguments, *words, size), check=True)

        found = best(2, {str(size): partial(run, size) for size in (1, 16)})
    for size, seconds in found.items():
        print(f"speed: {count} images to 96 x 96, the last layer, batch size {size}: {count / seconds:.0f} images/s")


def main() -> None:
    """Run the parts asked for, all by default."""
    parts = {"cost": cost, "memory": memory, "speed": speed}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *parts], metavar="|".join(parts))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--plot", default="features-memory.png")
    arguments = parser.parse_args()
    for name in arguments.parts or parts:
        parts[name](arguments)


if __name__ == "__main__":
    main()
