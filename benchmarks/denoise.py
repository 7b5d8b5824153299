"""Speed, start-up, memory, tiling and overlap of ``skipae denoise``, each compared with a reference.

    python benchmarks/denoise.py [--threads 2] [speed] [start] [memory] [tiling] [overlap]
    python benchmarks/denoise.py memory --threads 1 --precision int8 --plot memory.png

Needs ``pip install -e ".[cpu,train]"``.  Rivals run interleaved with ours in one process or one loop, and the
best of several rounds counts, because timings from different runs cannot be compared.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

MODEL = "skipae-natural"
STAGED = Path(__file__).parent.parent / "model_cards" / MODEL

BARE_SCRIPT = """
import sys, numpy as np, onnxruntime
from PIL import Image
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[4])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
pixels = np.asarray(Image.open(sys.argv[2]).convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255
restored = session.run(None, {"pixel_values": pixels})[0][0].transpose(1, 2, 0)
Image.fromarray((restored.clip(0, 1) * 255).round().astype(np.uint8)).save(sys.argv[3])
"""


MEMORY = """
import json, resource, subprocess, sys, time
from pathlib import Path
started, samples = time.monotonic(), []
child = subprocess.Popen(sys.argv[1:])
while child.poll() is None:
    pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])  # 0 once it has ended
    samples.append((time.monotonic() - started, pages * resource.getpagesize() / 2**20))
    time.sleep(0.1)
print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10, "samples": samples}))
sys.exit(child.returncode)
"""
"""Runs a command and prints its resident memory in MiB: the peak, and over time (Linux: ``ru_maxrss`` is in KiB)."""


def best(rounds: int, **rivals: Callable[[], object]) -> dict[str, float]:
    """Least seconds of each rival, called in turns."""
    seconds = dict.fromkeys(rivals, float("inf"))
    for _ in range(rounds):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def ffdnet_shaped(threads: int) -> Callable[[np.ndarray], object]:
    """FFDNet's graph for color with random weights, in ONNX Runtime."""
    import onnxruntime

    from skipae_train.rivals import ffdnet_graph

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = ffdnet_graph().SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"pixel_values": x})


def speed(threads: int) -> None:
    """One megapixel: skipae, PyTorch eager with the same weights, FFDNet's graph in ONNX Runtime."""
    import torch

    from skipae import from_pretrained
    from skipae_train.networks import AutoEncoder

    torch.set_num_threads(threads)
    model = from_pretrained(MODEL, device="cpu", precision="fp32", threads=threads)
    network = AutoEncoder.from_checkpoint(STAGED)
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    image = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]).astype(np.float32) / 255
    tensor = torch.from_numpy(image)
    ffdnet = ffdnet_shaped(threads)

    def eager() -> None:
        with torch.inference_mode():
            network(tensor)

    found = best(5, skipae=lambda: model.denoise(pixels), eager=eager, ffdnet=lambda: ffdnet(image))
    for name, seconds in found.items():
        print(f"speed: {name:8} {seconds:.3f} s per 1024 x 1024, {threads} threads")
    print(f"speed: PyTorch eager / skipae = {found['eager'] / found['skipae']:.2f}")
    print(f"speed: skipae / FFDNet = {found['skipae'] / found['ffdnet']:.2f}")


def start(threads: int) -> None:
    """The whole process on a 512 x 512 PNG beside a bare script, and ``--help`` beside an empty interpreter."""
    from PIL import Image

    graph = STAGED / "onnx" / "model.onnx"
    command = Path(sys.executable).with_name("skipae")
    with tempfile.TemporaryDirectory() as folder:
        noisy, result = Path(folder, "a.png"), Path(folder, "b.png")
        rng = np.random.default_rng(0)
        Image.fromarray(rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)).save(noisy)
        bare = [sys.executable, "-c", BARE_SCRIPT, str(graph), str(noisy), str(result), str(threads)]
        ours: list[str | Path] = [
            command,
            "denoise",
            noisy,
            "-o",
            result,
            "--overwrite",
            "--device",
            "cpu",
            "--threads",
            str(threads),
        ]
        found = best(
            7,
            bare=lambda: subprocess.run(bare, check=True),
            skipae=lambda: subprocess.run(ours, check=True, stderr=subprocess.DEVNULL),
        )
    print(f"start: denoise 512 x 512 {found['skipae']:.3f} s, bare script {found['bare']:.3f} s", end=", ")
    print(f"ratio {found['skipae'] / found['bare']:.2f}")
    found = best(
        15,
        empty=lambda: subprocess.run([sys.executable, "-c", ""], check=True),
        help=lambda: subprocess.run([command, "--help"], check=True, stdout=subprocess.DEVNULL),
    )
    print(f"start: --help {1000 * found['help']:.0f} ms, empty interpreter {1000 * found['empty']:.0f} ms", end=", ")
    print(f"ratio {found['help'] / found['empty']:.2f}")


def memory(threads: int, side: int, precisions: Sequence[str], plot: Path | None) -> None:
    """Peak memory of ``skipae denoise`` from JPEG to JPEG, beyond the image and the result, and over time."""
    from PIL import Image

    from skipae.images import read_header

    held = 3 * side**2 / 2**20
    print(f"memory: {side**2 / 1e6:.3g} megapixels, {threads} thread(s): image and result {held:.0f} MiB each")
    curves: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        photo, result = Path(folder, "photo.jpg"), Path(folder, "result.jpg")
        Image.effect_noise((side, side), 60).convert("RGB").save(photo, quality=90)
        for precision in precisions:
            options = ["--overwrite", "--quiet", "--device", "cpu", "--precision", precision, "--threads", threads]
            command = [Path(sys.executable).with_name("skipae"), "denoise", photo, "-o", result, *options]
            # By way of a small process: a child's peak starts at its parent's size, and ours may hold torch by now.
            measure = [sys.executable, "-c", MEMORY, *map(str, command)]
            started = time.perf_counter()
            found = json.loads(subprocess.run(measure, check=True, stdout=subprocess.PIPE).stdout)
            seconds = time.perf_counter() - started
            with read_header(result) as written:
                if written.size != (side, side):
                    raise SystemExit("the result has another size")
            peak, beyond = found["peak"], found["peak"] - 2 * held
            print(f"memory: {precision}: peak {peak:.0f} MiB, beyond image and result {beyond:.0f} MiB", end=" ")
            print(f"({beyond * 2**20 / 1e9:.2f} GB), {seconds:.0f} s")
            curves[precision] = found["samples"]
    if plot is not None:
        from matplotlib.figure import Figure

        figure = Figure((6, 3), layout="constrained")
        axes = figure.subplots()
        for precision, samples in curves.items():
            axes.plot(*zip(*samples, strict=True), label=precision)
        axes.axhline(2 * held, color="0.5", linestyle="--", label="image and result")
        axes.set(xlabel="seconds", ylabel="resident memory, MiB", ylim=(0, None), title="skipae denoise")
        axes.legend()
        figure.savefig(plot, dpi=110)
        print(f"memory: plotted to {plot}")


def tiling(threads: int) -> None:
    """Difference between tiled and whole on an image of 4 megapixels and odd size, by halo and noise level."""
    from skipae import from_pretrained

    model = from_pretrained(MODEL, device="cpu", precision="fp32", threads=threads)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:2003, 0:2001] / 2000
    smooth = np.stack([0.5 + 0.4 * np.sin(40 * y * x + k) * np.cos(90 * (x - y)) for k in range(3)], -1)
    for sigma in (0, 15, 50):
        image = (smooth + rng.normal(0, sigma / 255, smooth.shape)).astype(np.float32)
        whole = model.denoise(image, tile=4096)
        for halo in (model.config.architecture.reach, model.config.halo, 64, 32, 16, 0):
            away = 255 * np.abs(model.denoise(image, tile=640, halo=halo) - whole)
            print(f"tiling: sigma {sigma}, halo {halo}, gray levels: most {away.max():.2g}, mean {away.mean():.2g}")


def overlap(threads: int, count: int = 6, size: tuple[int, int] = (1200, 900)) -> None:
    """Compare decoding, network and encoding of a folder of photos in parallel and in sequence.

    The gain is limited to the total time divided by that of the slowest part, and needs a core besides the network's
    threads.
    """
    from PIL import Image

    from skipae import Model, from_pretrained, images
    from skipae.batch import pipeline
    from skipae.batch.job import Job
    from skipae.batch.plan import plan_jobs
    from skipae.batch.sinks import Written, write_picture
    from skipae.console import Console
    from skipae.tasks.pixels import Progress

    class Restoration(pipeline.Each):
        def trim(self) -> None:
            """Keep the memory: allocating it again for each image is not part of working in turn."""

    def denoise(model: Model, job: Job, picture: images.Picture, advance: Progress) -> Callable[[], Written]:
        clean = model.denoise(picture)
        return lambda: Written(write_picture(job, clean, overwrite=True))

    limit = pipeline.OVERLAP_PIXELS
    model = from_pretrained(MODEL, device="cpu", precision="fp32", threads=threads)
    task = Restoration(lambda: model, denoise)
    with tempfile.TemporaryDirectory() as folder:
        noisy = Path(folder, "noisy")
        noisy.mkdir()
        for number in range(count):
            Image.effect_noise(size, 40 + number).convert("RGB").save(noisy / f"{number}.png")

        def run(largest: int) -> None:
            pipeline.OVERLAP_PIXELS = largest  # larger images have the machine to themselves
            work = plan_jobs([str(noisy)], str(Path(folder, "clean")), suffix="denoised", overwrite=True)
            if pipeline.run(task, work, Console(quiet=True)).done != count:
                raise SystemExit("not all images were restored")

        found = best(3, overlapped=lambda: run(limit), serial=lambda: run(0))
        opened = images.read_header(noisy / "0.png")
        parts = [time.perf_counter()]
        picture = opened.decode()
        parts.append(time.perf_counter())
        picture = model.denoise(picture)
        parts.append(time.perf_counter())
        picture.encode(io.BytesIO())
        parts.append(time.perf_counter())
    seconds = np.diff(parts)
    gain = found["serial"] / found["overlapped"]
    print(f"overlap: one image: decode {seconds[0]:.3f} s, net {seconds[1]:.3f} s, encode {seconds[2]:.3f} s", end=", ")
    print(f"so at most {seconds.sum() / seconds.max():.2f} times as fast")
    print(f"overlap: {count} PNG of {size[0]} x {size[1]}, {threads} thread(s), {os.cpu_count()} cores", end=": ")
    print(f"serial {found['serial']:.2f} s, overlapped {found['overlapped']:.2f} s, ratio {gain:.2f}")


def main() -> None:
    """Run the parts asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["speed", "start", "memory", "tiling", "overlap"]
    parser.add_argument("parts", nargs="*", choices=[[], *names], metavar="|".join(names))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=10_000, help="memory: side of the photo in pixels")
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"], help="memory: precisions to measure")
    parser.add_argument("--plot", type=Path, help="memory: draw it over time")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[int], None]] = {
        "speed": speed,
        "start": start,
        "memory": partial(memory, side=arguments.side, precisions=arguments.precision, plot=arguments.plot),
        "tiling": tiling,
        "overlap": overlap,
    }
    for name in arguments.parts or names:
        parts[name](arguments.threads)


if __name__ == "__main__":
    main()
