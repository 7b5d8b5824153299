"""Write the browser demo, ready to serve, to a folder: ``python docs/make_demo.py site/demo [--serve]``.

The page is static: ``docs/demo``, a checkpoint, and onnxruntime-web (MIT license), which
``npm ci --ignore-scripts --prefix docs/demo`` installs. ``mkdocs build`` calls :func:`build` too.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import http.server
import json
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "docs" / "demo"
CHECKPOINT = ROOT / "model_cards" / "skipae-natural"
INSTALL = "npm ci --ignore-scripts --prefix docs/demo"
PAGE = (
    "index.html",
    "demo.css",
    "app.js",
    "worker.js",
    "tiling.js",
    "inpaint.js",
    "kriging.js",
    "checkpoint.js",
    "sw.js",
)
RUNTIME = (
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""Files of onnxruntime-web: the first two run on the CPU, the others on a GPU."""


def installed(packages: Path = SOURCE / "node_modules") -> bool:
    """Return whether a folder of npm packages has onnxruntime-web."""
    return all((packages / "onnxruntime-web" / "dist" / name).is_file() for name in RUNTIME)


def build(target: Path, *, checkpoint: Path = CHECKPOINT, packages: Path = SOURCE / "node_modules") -> None:
    """Write the page.

    Args:
        target: folder for it; files of the same names are replaced.
        checkpoint: folder of a checkpoint that restores images.
        packages: folder of npm packages with onnxruntime-web.

    Raises:
        FileNotFoundError: onnxruntime-web is not installed.
    """
    if not installed(packages):
        raise FileNotFoundError(f"onnxruntime-web is not in {packages}; run: {INSTALL}")
    files = {name: SOURCE / name for name in PAGE}
    files["sample.png"] = ROOT / "docs" / "images" / "chelsea-noisy.png"
    files |= {f"ort/{name}": packages / "onnxruntime-web" / "dist" / name for name in RUNTIME}
    files["checkpoint/config.json"] = checkpoint / "config.json"
    listed = json.loads(files["checkpoint/config.json"].read_text(encoding="utf-8"))["files"]
    for name in ("onnx/model.onnx", "onnx/model_quantized.onnx"):
        if name in listed:
            files[f"checkpoint/{name}"] = checkpoint / name
    version = hashlib.sha256()
    for name, path in sorted(files.items()):
        version.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
    worker = (SOURCE / "sw.js").read_text(encoding="utf-8").replace("demo-VERSION", f"demo-{version.hexdigest()[:16]}")
    page = [*(name for name in PAGE if name != "sw.js"), "checkpoint/config.json", "sample.png"]
    worker = worker.replace('"FILES"', ", ".join(map(json.dumps, page)))
    (target / "sw.js").write_text(worker, encoding="utf-8")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with the content types that modules and WebAssembly need, whatever the machine's own table."""

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def server(folder: Path, port: int = 0) -> http.server.ThreadingHTTPServer:
    """A server of a folder on this machine alone; port 0 takes a free one."""
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Handler, directory=str(folder)))


def main() -> None:
    """Build the page, and serve it on request."""
    parser = argparse.ArgumentParser(description="Write the browser demo, ready to serve, to a folder.")
    parser.add_argument("target", type=Path, help="folder to write to, for example site/demo")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="folder of a checkpoint")
    parser.add_argument("--serve", action="store_true", help="serve it on http://localhost:8000 until Ctrl-C")
    options = parser.parse_args()
    build(options.target, checkpoint=options.checkpoint)
    if options.serve:
        with server(options.target, 8000) as one:
            one.serve_forever()


if __name__ == "__main__":
    main()
