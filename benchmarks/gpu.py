"""Measure everything about skipae that needs a GPU, in one run that writes a report.

    python benchmarks/gpu.py --out report             # cuda:0
    python benchmarks/gpu.py --out report --device tensorrt
    python benchmarks/gpu.py --out report --device cpu --quick    # to try the script itself

It runs ``skipae doctor`` and the check of the device, compares restored pixels and features with the CPU's float32 (in
float32, in TF32 and in float16 where the device has them, whole and in windows), measures seconds per megapixel and
images per second, and lets memory run out.  Written are ``report/report.json`` and ``report/report.md``.  A part that
fails is in the report with its error, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipae import Model, SkipaeError, from_pretrained
from skipae.engine.device import Device, create_session, load_runtime
from skipae.engine.tiling import to_net

FEATURES = "skipae-imagenet"


def main(words: list[str] | None = None) -> int:
    """Run all parts, write the report, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--device", default="cuda:0", help="as in --device of skipae")
    parser.add_argument("--model", default="skipae-natural", help="checkpoint that restores images")
    parser.add_argument("--quick", action="store_true", help="small images and few of them")
    arguments = parser.parse_args(words)
    run = Run(arguments.device, arguments.model, quick=arguments.quick)
    report: dict[str, Any] = {"device": arguments.device, "model": arguments.model, "system": platform.platform()}
    failed = False
    for name, part in run.parts().items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            report[name] = part()
        except Exception as error:  # the other parts are worth having
            failed = True
            report[name] = {"error": str(error).splitlines()[0] if str(error) else type(error).__name__}
            if not isinstance(error, SkipaeError):
                traceback.print_exc()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "report.md").write_text(render(report), encoding="utf-8")
    print(arguments.out / "report.md")
    return int(failed)


class Run:
    """The parts of the report for one device."""

    def __init__(self, device: str, name: str, *, quick: bool) -> None:
        self.device, self.name = device, name
        self.sides = (128,) if quick else (512, 1024, 2048, 4096)
        self.batches = (4,) if quick else (16, 64, 256)
        self.feature_sides = (64,) if quick else (64, 224)
        self.large = 600 if quick else 12_000
        self._model: Model | None = None

    def parts(self) -> dict[str, Callable[[], Any]]:
        """By name, in the order to run."""
        return {
            "doctor": doctor,
            "precision": self.precision,
            "seconds per megapixel": self.speed,
            "features per second": self.features,
            "out of memory": self.out_of_memory,
        }

    @property
    def model(self) -> Model:
        """The checkpoint on the device, in float32; loading it is the check of the device."""
        if self._model is None:
            self._model = from_pretrained(self.name, device=self.device, precision="fp32")
        return self._model

    def precision(self) -> list[dict[str, Any]]:
        """Largest differences from the CPU's float32: of pixels in [0, 1], and as a share of the largest feature."""
        image = pixels(301, 333)
        exact = from_pretrained(self.name, device="cpu", precision="fp32").denoise(image)
        rows = []
        for tile in (None, 256):
            difference = float(np.abs(self.model.denoise(image, tile=tile) - exact).max())
            rows.append({"precision": "fp32", "windows": tile or "whole", "largest difference": difference})
        small = pixels(64, 64)
        found, expected = (
            from_pretrained(FEATURES, device=device, precision="fp32").features(small, resize=0, crop=0)
            for device in (self.device, "cpu")
        )
        for layer, value in expected.items():
            difference = float(np.abs(found[layer] - value).max() / np.abs(value).max())
            rows.append({"precision": "fp32", "windows": f"features {layer}", "largest difference": difference})
        if self.model.device.kind == "cuda":
            difference = float(np.abs(self._with_tf32(image) - exact.transpose(2, 0, 1)).max())
            rows.append({"precision": "TF32", "windows": "whole", "largest difference": difference})
        for precision in ("fp16", "int8"):
            row: dict[str, Any] = {"precision": precision, "windows": "whole"}
            try:
                other = from_pretrained(self.name, device=self.device, precision=precision)
                row["largest difference"] = float(np.abs(other.denoise(image) - exact).max())
            except SkipaeError as error:
                row["refused"] = str(error)
            rows.append(row)
        return rows

    def _with_tf32(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return CUDA's output with TF32 allowed, clipped to [0, 1]: [3, H, W]."""
        runtime = load_runtime()
        options = runtime.SessionOptions()
        settings = {"device_id": str(self.model.device.index), "use_tf32": "1"}
        path = self.model.net.folder / "onnx" / "model.onnx"
        session = runtime.InferenceSession(str(path), options, providers=[("CUDAExecutionProvider", settings)])
        feed = {session.get_inputs()[0].name: image.transpose(2, 0, 1)[None]}  # (H, W, C) -> (1, C, H, W)
        found: NDArray[np.float32] = session.run(None, feed)[0][0].clip(0, 1)
        return found

    def speed(self) -> list[dict[str, Any]]:
        """Measure seconds per megapixel of images in memory, the best of three runs, and of FFDNet on a whole image."""
        from skipae_train.rivals import ffdnet_graph

        device = Device(self.model.device.kind, self.model.device.index, self.model.device.threads)
        rival = create_session(load_runtime(), ffdnet_graph().SerializeToString(), device)
        rows = []
        for side in self.sides:
            image = (pixels(side, side) * 255).astype(np.uint8)
            ours = best(partial(self.model.denoise, image)) / side**2 * 2**20
            theirs = best(partial(rival.run, None, {"pixel_values": to_net(image)})) / side**2 * 2**20
            rows.append({"side": side, "skipae": ours, "FFDNet's shape": theirs, "ratio": ours / theirs})
        return rows

    def features(self) -> list[dict[str, Any]]:
        """Images per second of the default layer, of arrays in memory."""
        model = from_pretrained(FEATURES, device=self.device, precision="fp32")
        rows = []
        for side in self.feature_sides:
            for batch in self.batches:
                images = np.stack([(pixels(side, side, seed) * 255).astype(np.uint8) for seed in range(batch)])
                seconds = best(partial(model.features, images, resize=0, crop=0, batch_size=batch))
                rows.append({"side": side, "batch": batch, "images per second": batch / seconds})
        return rows

    def out_of_memory(self) -> dict[str, Any]:
        """A window for a whole large image is asked for; where it does not fit, smaller ones must give the same.

        The CPU has too much memory for that to happen in good time: its place is taken by a limit of 512 x 512 pixels.
        """
        from skipae.engine.tiling import Plan, Tiling, restore

        side = self.large
        tile = (pixels(300, 300) * 255).astype(np.uint8)
        image = np.tile(tile, (-(-side // 300), -(-side // 300), 1))[:side, :side]
        expected = self.model.denoise(image[:512, :512])[:256, :256]
        said: list[str] = []
        graph, config = self.model.net.graph, self.model.config

        def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
            if self.model.device.kind == "cpu" and x.shape[2] * x.shape[3] > 512**2:
                raise MemoryError
            return graph.run(x)

        def shrunk(windows: Plan) -> None:
            said.append(f"out of memory: continuing with tiles of {windows.columns.size} x {windows.rows.size} pixels")

        started = time.perf_counter()
        whole = Tiling(stride=config.architecture.total_stride, halo=config.halo, area=2**31)
        found = restore(run, image, whole, shrunk=shrunk)
        seconds = time.perf_counter() - started
        difference = int(np.abs(found[:256, :256].astype(int) - expected).max())
        if difference > 1:
            raise RuntimeError(f"after memory ran out the result differs by {difference} gray levels: {said}")
        return {"side": side, "seconds": seconds, "said": said, "largest difference": difference}


def doctor() -> Any:
    """What ``skipae doctor`` finds."""
    done = subprocess.run(
        [sys.executable, "-m", "skipae", "doctor", "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    return json.loads(done.stdout)


def pixels(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Noise around smooth colors, float32 [H, W, 3] in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 100
    smooth = np.stack([0.5 + 0.4 * np.sin(3 * x * (1 + k) + y + seed) for k in range(3)], -1)
    return np.clip(smooth + rng.normal(0, 0.1, smooth.shape), 0, 1).astype(np.float32)


def best(run: Callable[[], object]) -> float:
    """Seconds, the least of three, after one run that does not count."""
    run()
    found = []
    for _ in range(3):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return min(found)


def render(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    lines = [f"# skipae on {report['device']}", "", f"{report['model']}, {report['system']}", ""]
    for name, found in report.items():
        if isinstance(found, str):
            continue
        lines += [f"## {name}", ""]
        if isinstance(found, list) and found:
            columns = list(dict.fromkeys(key for row in found for key in row))
            lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
            lines += [f"| {' | '.join(_cell(row.get(key, '')) for key in columns)} |" for row in found]
        else:
            lines += ["```json", json.dumps(found, indent=2), "```"]
        lines.append("")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
