"""Small jobs of every kind that writes files, each in a process forked from one in which everything is loaded."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))  # for what makes tiny checkpoints, and a Hub
from conftest import tiny_features, tiny_graph, write_checkpoint
from hub_server import Handler, HubServer
from skipae import cli
from skipae.engine.device import load_runtime

Results = dict[str, Any]
"""What a job has made, each under a name."""

LEFT = ("*.part", "*.partial", "*.incomplete", ".lock", "._manifest.jsonl.lock", "*.tmp")
"""Names of files that nobody should find when a job has ended."""


@dataclass(frozen=True)
class Kind:
    """A job, which runs in a folder of its own."""

    name: str
    program: Callable[[list[str]], object]
    words: list[str]
    again: list[str]
    """The command that continues a job that was ended."""
    results: Callable[[Path], Results]
    """Of the job's folder: what is whole there, as far as a reader can tell."""
    configure: Callable[[], object] = lambda: None
    """Is called in the process of the job."""


@dataclass(frozen=True)
class Ended:
    """What became of a process."""

    code: int
    """Exit code, or minus the signal."""
    said: str
    """On standard output and error."""
    seconds: float
    hit: bool
    """Whether a signal came while it ran."""


def run(
    kind: Kind,
    words: list[str],
    folder: Path,
    *,
    number: int = 0,
    files: int = 0,
    after: float = 0.0,
    before: Callable[[], None] = lambda: None,
) -> Ended:
    """Run a job in a folder; the signal ``number`` comes ``after`` seconds, or so long after it has made ``files``."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        started = time.monotonic()
        child = os.fork()
        if not child:
            _be(kind, words, folder, said.fileno(), before)
        gone = status = 0
        if number:
            while not gone and count_files(folder) < files:
                time.sleep(0.001)
                gone, status = os.waitpid(child, os.WNOHANG)
            if not gone:
                time.sleep(after)
                gone, status = os.waitpid(child, os.WNOHANG)
            if not gone:
                os.kill(child, number)
        if not gone:
            _, status = os.waitpid(child, 0)
        seconds = time.monotonic() - started
        said.seek(0)
        code = os.waitstatus_to_exitcode(status)
        # One that ended well did so while the signal was on its way.
        return Ended(code, said.read().decode(errors="replace"), seconds, bool(number and not gone and code))


def _be(kind: Kind, words: list[str], folder: Path, said: int, before: Callable[[], None]) -> None:
    """Be the process of a job; does not return."""
    code: object = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(folder)
        kind.configure()
        before()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        kind.program(words)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except KeyboardInterrupt:  # before the program listens
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading._shutdown()  # type: ignore[attr-defined]  # as at every end
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 71)


def count_files(folder: Path) -> int:
    """Files below a folder."""
    return sum(len(files) for _, _, files in os.walk(folder))


def left_over(folder: Path) -> list[str]:
    """Files below a folder that should not be there."""
    return sorted({str(path.relative_to(folder)) for name in LEFT for path in folder.rglob(name)})


def age(folder: Path) -> None:
    """Make the Hub's client's files look abandoned: until they are an hour old, another process may be writing them."""
    for name in ("*.incomplete", "refs/*.tmp"):
        for part in folder.rglob(name):
            os.utime(part, (1e9, 1e9))


def _files(folder: Path) -> Results:
    """Files below a folder, with their content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(path.match(pattern) for pattern in LEFT):
            found[str(path.relative_to(folder))] = sha256(path.read_bytes()).hexdigest()
    return found


def _rows(folder: Path) -> Results:
    """Rows of features that the manifest vouches for, by image; other files are separate results."""
    manifest = folder / "_manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True) if manifest.exists() else []
    found: Results = {}
    waiting: Results = {}
    named = set()
    for line in lines:
        if not line.endswith(b"\n"):
            break
        entry = json.loads(line)
        if "row" in entry:
            waiting[entry["file"]] = entry
        elif "rows" in entry:
            named |= set(entry["files"])
            for name, image in waiting.items():
                for file in entry["files"]:
                    for layer, values in _arrays(folder / file):
                        key = f"{name}: {layer}"
                        found[key] = "twice" if key in found else values[image["row"]].tobytes()
            waiting = {}
    return found | {name: "no row" for name in _files(folder) if name not in named and name != manifest.name}


def _arrays(path: Path) -> list[tuple[str, Any]]:
    with np.load(path) as arrays:
        return [(name, arrays[name]) for name in arrays if name.startswith("enc")]


def photos(folder: Path, count: int) -> None:
    """Pictures of several formats and sizes."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for k in range(count):
        side = 48 + 24 * (k % 3)
        pixels = np.asarray(
            Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).resize((side, 64), Image.Resampling.BICUBIC)
        )
        kind = ("png", "jpg", "webp", "tif")[k % 4]
        options: dict[str, Any] = {"quality": 90} if kind == "jpg" else {}
        Image.fromarray(pixels).save(folder / f"{k:02}.{kind}", **options)


MODEL = ["--device", "cpu", "--threads", "1"]


@contextmanager
def make(name: str, root: Path, checkpoint: Path, *, small: bool = False) -> Iterator[Kind]:
    """A job and what it needs, which is made in a folder; ``small`` ones have few images."""
    count = 4 if small else 30
    if name == "pull":
        kind, server = pull(root, checkpoint)
        try:
            yield kind
        finally:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
    elif name == "training":
        yield training(root, small)
    elif name == "batch":
        yield denoise(root, checkpoint, count)
    elif name == "features":
        yield features(root, checkpoint, count)
    else:
        yield one(root, checkpoint, name)


def one(root: Path, checkpoint: Path, name: str) -> Kind:
    """A command that writes one file."""
    photos(root / name, 1)
    words = {
        "file": ["denoise", str(root / name / "00.png"), "-o", "out.png", *MODEL],
        "inpaint": ["inpaint", str(root / name / "00.png"), "--box", "9,9,8,8", "-o", "out.png", *MODEL],
        "export": ["export", "--size", "32x32", "-o", "out.onnx"],
    }[name]
    words += ["--model", str(checkpoint)]

    def configure() -> None:
        tempfile.tempdir = str(Path("temporary").absolute())
        Path(tempfile.tempdir).mkdir(exist_ok=True)

    nothing: Callable[[], None] = lambda: None  # noqa: E731
    return Kind(name, cli.main, words, [*words, "--overwrite"], _files, configure if name == "export" else nothing)


def denoise(root: Path, checkpoint: Path, count: int) -> Kind:
    """A batch into a folder, with a report."""
    photos(root / "photos", count)
    words = ["denoise", str(root / "photos"), "-o", "out", "--report", "report.jsonl", "--model", str(checkpoint)]
    words += MODEL
    return Kind("batch", cli.main, words, [*words, "--resume"], lambda folder: _files(folder / "out"))


def features(root: Path, checkpoint: Path, count: int) -> Kind:
    """Features into shards."""
    photos(root / "pictures", count)
    words = ["features", str(root / "pictures"), "-o", "out", "--shard-size", "2", "--batch-size", "1", *MODEL]
    words += ["--model", str(checkpoint), "--layer", "enc1,enc2"]
    return Kind("features", cli.main, words, [*words, "--resume"], lambda folder: _rows(folder / "out"))


class _Slow:
    """Sends a body in pieces, so that most of the time of a download is spent in it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, content: bytes) -> int:
        for at in range(0, len(content), 1 << 16):
            self._file.write(content[at : at + (1 << 16)])
            self._file.flush()
            time.sleep(0.004)
        return len(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _SlowHandler(Handler):
    def setup(self) -> None:
        super().setup()
        self.wfile = _Slow(self.wfile)  # type: ignore[assignment]


def serve(checkpoint: Path, name: str) -> tuple[int, str]:
    """A Hub and a mirror that hold a checkpoint, in a process of their own: its id, and its URL."""
    reads, writes = os.pipe()
    server = HubServer()
    child = os.fork()
    if not child:
        os.close(reads)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        server.RequestHandlerClass = _SlowHandler
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that was killed
        server.add("someone/net", checkpoint)
        for path in checkpoint.rglob("*"):
            if path.is_file():
                server.mirror[f"{name}/{path.relative_to(checkpoint).as_posix()}"] = path.read_bytes()
        os.close(writes)
        try:
            server.serve_forever(0.01)
        finally:
            os._exit(0)
    os.close(writes)
    os.read(reads, 1)  # until it is ready
    os.close(reads)
    url = server.url
    server.socket.close()
    return child, url


def pull(root: Path, checkpoint: Path) -> tuple[Kind, int]:
    """Two checkpoints, from the Hub and from a mirror, into the caches and a folder; and the server to end."""
    name = "skipae-stl10"
    server, url = serve(checkpoint, name)

    def configure() -> None:
        from huggingface_hub import constants

        from skipae.checkpoints import resolve

        os.environ["SKIPAE_MIRROR"], os.environ["HF_ENDPOINT"] = f"{url}/mirror", url
        constants.HF_HUB_OFFLINE = False
        constants.HF_HUB_CACHE = str(Path("cache").absolute())
        constants.HF_ASSETS_CACHE = str(Path("assets").absolute())
        resolve.BUNDLED = Path("nothing")

    words = ["models", "pull", name, "someone/net", "--to", "to", "--safetensors"]
    return Kind("pull", cli.main, words, words, lambda folder: _files(folder / "to"), configure), server


def published(folder: Path) -> Path:
    """A checkpoint on a Hub that sends the weights slowly."""
    write_checkpoint(folder, tiny_graph(), tiny_features(), name="skipae-stl10")
    random = np.random.default_rng(0)
    (folder / "model.safetensors").write_bytes(random.bytes(1_500_000))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    config = json.loads((folder / "config.json").read_text())
    config["files"]["model.safetensors"] = sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def training(root: Path, small: bool) -> Kind:
    """A pre-training that saves its state after every step, a ``small`` one when it ends."""
    import torch

    import make_sets
    from skipae_train.cli import cli as program
    from skipae_train.run_folder import read_state

    data = make_sets.cifar(root / "data", train=80)
    words = ["pretrain", "cifar10-4k", "--data", str(data), "--out", "run", "--budget", "smoke", "--precision", "fp32"]
    words += ["--device", "cpu", "--threads", "1", "--save-minutes", "9" if small else "0", "--quiet"]

    def results(folder: Path) -> Results:
        run, found = folder / "run", Results()
        if (run / "state.pt").exists():
            state = read_state(run / "state.pt")  # raises where it is not whole
            if state.step == 6:
                values = io.BytesIO()
                torch.save([state.network, state.average, state.optimizers], values)
                found["state"] = sha256(values.getvalue()).hexdigest()
        if (run / "result.json").exists():
            result = json.loads((run / "result.json").read_text())
            found["result"] = result["value"]
            # Until then nobody reads the files, or they are written again.
            log = [line.split(",") for line in (run / "log.csv").read_text().splitlines()]
            found["log"] = [line[:1] + line[2:] for line in log]  # but the seconds
            for path in (*sorted(run.glob("pictures/*")), run / "curves.png"):
                with Image.open(path) as image:
                    image.load()
                    shown = path.name if path.name != "curves.png" else "curves"
                    found[shown] = image.size if shown == "curves" else sha256(image.tobytes()).hexdigest()
            for name in ("recipe.json", "preprocessing.json"):
                found[name] = (run / name).read_text()
            found["steps"] = json.loads((run / "environment.json").read_text())["steps done"]
        return found

    return Kind("training", program.main, words, words, results, partial(os.environ.pop, "SKIPAE_MIRROR", None))


def preload(names: list[str]) -> None:
    """Load what the jobs use; nothing is computed, so that no thread is there that a fork would lose."""
    import huggingface_hub  # noqa: F401

    import skipae.console  # noqa: F401
    from skipae.checkpoints import resolve  # noqa: F401
    from skipae.commands import denoise, export, features, inpaint, models  # noqa: F401

    load_runtime()
    Image.init()
    if "training" in names:
        import accelerate  # noqa: F401
        import tensorboardX  # noqa: F401

        from skipae_train import finetune, plots, pretrain, reproduce, trainer  # noqa: F401

        with tempfile.TemporaryDirectory() as folder:  # once, for the fonts
            plots.draw_curves([{"step": "1", "loss": "1.5"}], Path(folder) / "curves.png")
        trainer.commit()


def fresh(root: Path) -> Path:
    """An empty folder for a job."""
    folder = root / "work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
