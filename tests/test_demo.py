"""The browser demo: its windows and its filling beside skipae's own, and the page in headless Chromium.

Skipped without Node.js; the page also needs npm and a Chromium or Chrome (SKIPAE_CHROMIUM names another one).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from npm import npm
from skipae import from_pretrained
from skipae.engine.net import Net
from skipae.engine.tiling import Tiling
from skipae.tasks import inpaint

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "docs" / "demo"
CHECKPOINT = ROOT / "model_cards" / "skipae-natural"
NODE = shutil.which("node")
BOX = {"left": 120, "top": 60, "width": 40, "height": 50}
TILE = 240

pytestmark = pytest.mark.skipif(NODE is None, reason="no Node.js")


def node(script: str, folder: Path) -> Any:
    """What a script prints as JSON."""
    (folder / "script.mjs").write_text(script, encoding="utf-8")
    found = subprocess.run([str(NODE), "script.mjs"], cwd=folder, check=True, capture_output=True, timeout=120)
    return json.loads(found.stdout)


def module(name: str) -> str:
    """The address of a module of the page."""
    return json.dumps((DEMO / name).as_uri())


def test_windows_of_the_page_are_those_of_skipae(tmp_path: Path) -> None:
    cases: list[dict[str, Any]] = [
        {"height": h, "width": w, "stride": s, "halo": halo, "area": area, "tile": tile}
        for h, w in [(1, 1), (232, 300), (300, 451), (2001, 2003), (4000, 6000), (199, 5000)]
        for s, halo in [(16, 84), (8, 90), (32, 180)]
        for area, tile in [(440_000, None), (90_000, None), (1, None), (1, 640)]
    ]
    script = f"""
import {{ plan, spans }} from {module("tiling.js")};
const cases = {json.dumps(cases)};
console.log(JSON.stringify(cases.map((one) => {{
  const found = plan(one.height, one.width, one);
  return [found.rows.size, found.columns.size, spans(found.rows), spans(found.columns), found.count];
}})));
"""
    found = node(script, tmp_path)
    for case, (rows, columns, row_spans, column_spans, count) in zip(cases, found, strict=True):
        expected = Tiling(case["stride"], case["halo"], case["area"], case["tile"]).plan(case["height"], case["width"])
        assert (rows, columns, count) == (expected.rows.size, expected.columns.size, expected.count), case
        assert [tuple(span) for span in row_spans] == expected.rows.spans()
        assert [tuple(span) for span in column_spans] == expected.columns.spans()


def test_page_prefers_the_8_bit_file_on_the_cpu(tmp_path: Path) -> None:
    script = f"""
import {{ modelFile, totalStride }} from {module("checkpoint.js")};
const files = (...names) => ({{ files: Object.fromEntries(names.map((name) => [name, "0"])) }});
const both = files("onnx/model.onnx", "onnx/model_quantized.onnx");
const config = {(CHECKPOINT / "config.json").read_text(encoding="utf-8")};
console.log(JSON.stringify(
  [modelFile(both, false), modelFile(both, true), modelFile(files("onnx/model.onnx"), false), totalStride(config)]));
"""
    stride = from_pretrained(CHECKPOINT, device="cpu").config.architecture.total_stride
    assert node(script, tmp_path) == ["onnx/model_quantized.onnx", "onnx/model.onnx", "onnx/model.onnx", stride]


class Brighter(Net):
    """Every pixel a little brighter than it was, in place of the network."""

    def restore(self, pixels: NDArray[Any], *_: Any, **options: Any) -> NDArray[Any]:
        brighter: NDArray[Any] = np.clip(pixels * np.float32(0.9) + np.float32(0.06), 0, 1)
        return brighter


def test_filling_follows_skipae_step_by_step(tmp_path: Path) -> None:
    """Also in holes too wide for one scale, at the rim of the photo, and in several cells."""
    net = Brighter.load(CHECKPOINT, device="cpu")
    photo = np.asarray(Image.open(ROOT / "docs" / "images" / "chelsea.png").convert("RGB"))
    mask = np.zeros(photo.shape[:2], bool)
    mask[40:45, 20:400] = True  # a scratch through two cells
    mask[100:171, 150:233] = True  # filled from coarse to fine
    mask[280:, 430:] = True
    expected = inpaint.fill(net, photo, mask).astype(int)
    height, width = photo.shape[:2]
    (tmp_path / "photo").write_bytes(np.dstack([photo, np.full_like(photo[..., :1], 255)]).tobytes())
    (tmp_path / "mask").write_bytes(mask.astype(np.uint8).tobytes())
    script = f"""
import {{ readFileSync, writeFileSync }} from "node:fs";
import {{ inpaint }} from {module("inpaint.js")};
const network = {{
  restore: async (values) => values.map((value) => Math.max(0, Math.min(1, 0.9 * value + 0.06))),
  fill: {list(net.config.preprocessing.fill)},
  halo: {net.config.halo},
}};
const pixels = new Uint8ClampedArray(readFileSync("photo"));
const shares = [];
const filled = await inpaint(
  network, pixels, {height}, {width}, new Uint8Array(readFileSync("mask")), (share) => shares.push(share));
writeFileSync("filled", filled);
console.log(JSON.stringify(shares));
"""
    assert node(script, tmp_path)[-1] == 1
    found = np.frombuffer((tmp_path / "filled").read_bytes(), np.uint8).reshape(height, width, 4)
    difference = np.abs(found[..., :3].astype(int) - expected)
    assert difference.max() <= 2  # the page's plate is computed in float64
    assert (difference > 1).mean() < 1e-3
    assert (difference > 0).mean() < 0.01
    assert np.abs(expected - photo)[mask].max() > 20


@pytest.fixture(scope="module")
def make_demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_demo", ROOT / "docs" / "make_demo.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = os.environ.get("SKIPAE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium or Chrome")
    return found


@pytest.fixture(scope="module")
def packages(make_demo: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The npm packages of docs/demo, installed there or for this test."""
    there: Path = DEMO / "node_modules"
    if make_demo.installed(there) and (there / "playwright-core").is_dir():
        return there
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(DEMO / name, folder)
    npm(folder, "ci")
    return folder / "node_modules"


def test_building_the_page_needs_its_packages(make_demo: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="npm ci --ignore-scripts --prefix docs/demo"):
        make_demo.build(tmp_path / "site", packages=tmp_path)
    assert not (tmp_path / "site").exists()


def drive(make_demo: ModuleType, folder: Path, **options: Any) -> dict[str, Any]:
    """Serve ``folder / "site"``, let tests/demo.mjs use it, and return what it saw."""
    with make_demo.server(folder / "site") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options |= {"url": f"http://localhost:{server.server_port}/", "folder": str(folder), "tile": TILE, "box": BOX}
        words = [str(NODE), str(ROOT / "tests" / "demo.mjs"), json.dumps(options)]
        ran = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
        server.shutdown()
    assert ran.returncode == 0, ran.stderr
    seen: dict[str, Any] = json.loads((folder / "seen.json").read_text(encoding="utf-8"))
    return seen


@pytest.fixture(scope="module")
def case(
    make_demo: ModuleType, chromium: str, packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A folder of photos and of what the page saved, and what the page said."""
    folder = tmp_path_factory.mktemp("demo")
    photo = Image.open(ROOT / "docs" / "images" / "chelsea-noisy.png").convert("RGB").crop((0, 0, 300, 232))
    photo.save(folder / "photo.png")
    photo.resize((1600, 1200)).save(folder / "large.png")
    photo.convert("L").crop((100, 60, 196, 130)).convert("RGB").save(folder / "gray.png")
    Image.new("1", (10000, 10000)).save(folder / "huge.png")
    (folder / "notes.txt").write_text("a text\nof two lines\n", encoding="utf-8")
    (folder / "torn.png").write_bytes((folder / "photo.png").read_bytes()[:20])

    # One graph for both sides: the page would take an 8-bit one.
    checkpoint = folder / "checkpoint"
    (checkpoint / "onnx").mkdir(parents=True)
    shutil.copy(CHECKPOINT / "onnx" / "model.onnx", checkpoint / "onnx")
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    config["files"].pop("onnx/model_quantized.onnx", None)
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")

    make_demo.build(folder / "site", checkpoint=checkpoint, packages=packages)
    scenarios = ["main", "phone", "lost", "damaged"]
    return folder, drive(make_demo, folder, chromium=chromium, packages=str(packages), scenarios=scenarios)


def pixels(path: Path) -> NDArray[np.int_]:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_page_denoises_as_the_command_does(case: tuple[Path, dict[str, Any]]) -> None:
    """In windows, at full and at split strength, to one gray level of 255."""
    folder, seen = case
    assert Tiling(stride=16, halo=102, tile=TILE).plan(232, 300).count > 1
    for name, options in [("full", []), ("luma30", ["--luma", "0.3", "--chroma", "1"])]:
        target = folder / f"{name}-command.png"
        words = ["denoise", folder / "photo.png", "-o", target, "--device", "cpu", *options]
        # The same graph as the page's, and all of the photo in one run.
        words += ["--model", folder / "checkpoint"]
        subprocess.run([sys.executable, "-m", "skipae", *map(str, words)], check=True, cwd=ROOT, timeout=120)
        expected = pixels(target)
        assert np.abs(pixels(folder / f"{name}.png") - expected).max() <= 1
        assert np.abs(expected - pixels(folder / "photo.png")).max() > 20
    assert (pixels(folder / "reset.png") == pixels(folder / "photo.png")).all()
    assert np.abs(pixels(folder / "full.jpg") - pixels(folder / "luma30.png")).mean() < 3
    assert [seen["main"][key] for key in ("name", "jpeg", "inpaintedName")] == [
        "photo.denoised.png",
        "photo.denoised.jpg",
        "photo.inpainted.png",
    ]


def test_page_keeps_gray_photos_gray(case: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = case
    found = pixels(folder / "gray-denoised.png")
    assert (found == found[..., :1]).all()
    expected = from_pretrained(folder / "checkpoint", device="cpu").denoise(
        pixels(folder / "gray.png").astype(np.uint8)
    )
    assert np.abs(found - expected.astype(int)).max() <= 1


def test_page_fills_holes_as_the_command_does(case: tuple[Path, dict[str, Any]]) -> None:
    folder, seen = case
    photo = pixels(folder / "photo.png")
    mask = np.zeros(photo.shape[:2], bool)
    mask[BOX["top"] : BOX["top"] + BOX["height"], BOX["left"] : BOX["left"] + BOX["width"]] = True
    model = from_pretrained(folder / "checkpoint", device="cpu")
    expected = model.inpaint(photo.astype(np.uint8), mask).astype(int)
    found = pixels(folder / "box.png")
    assert np.abs(found - expected).max() <= 2  # the page's plate is computed in float64
    assert (np.abs(found - expected) > 1).mean() < 1e-4
    # Painted with the keyboard around the middle of the photo, to the left.
    changed = (pixels(folder / "painted.png") != found).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert changed.sum() > 20
    assert abs(rows.mean() - 116) < 4
    assert columns.min() > 138 and columns.max() < 156
    assert "The mask is empty" in seen["main"]["empty"]


def test_page_asks_for_its_own_files_and_sends_nothing(case: tuple[Path, dict[str, Any]]) -> None:
    main = case[1]["main"]
    assert {method for method, _ in main["requests"]} == {"GET"}
    hosts = {address.removeprefix("blob:").split("/")[2].split(":")[0] for _, address in main["requests"]}
    assert hosts == {"localhost"}
    assert main["faults"] == []


def test_page_works_offline_once_loaded(case: tuple[Path, dict[str, Any]]) -> None:
    main = case[1]["main"]
    assert "The page now works offline." in main["ready"]
    assert main["isolated"] is True  # several threads
    assert "no WebGPU" in main["ready"]
    assert main["offline"]["status"] == "sample.png, 451 x 300 pixels, is open."
    assert main["offline"]["faults"] == []


def test_page_says_what_is_wrong_with_a_file(case: tuple[Path, dict[str, Any]]) -> None:
    phone = case[1]["phone"]
    for name in ("notes.txt", "torn.png"):
        assert phone[name].startswith(f"{name} is not a picture that this browser can open. Choose a JPEG")
    assert phone["huge.png"].startswith("huge.png has 100 megapixels; this page takes up to 40.")
    assert phone["alertGone"] is True


def test_page_stops_on_request_and_fits_a_phone(case: tuple[Path, dict[str, Any]]) -> None:
    phone = case[1]["phone"]
    assert phone["stopped"] == "Stopped. Nothing was changed."
    assert phone["wider"] <= 0
    assert phone["unnamed"] == []  # controls without a name for a screen reader


def test_page_survives_a_lost_network(case: tuple[Path, dict[str, Any]]) -> None:
    folder, seen = case
    for key in ("alert", "again"):
        assert "the network connection is lost" in seen["lost"][key]
        assert "choose Retry" in seen["lost"][key]
    assert seen["lost"]["after"].startswith("Noise removed.")
    assert np.abs(pixels(folder / "after-loss.png") - pixels(folder / "full.png")).max() <= 1


def test_page_refuses_a_damaged_model(case: tuple[Path, dict[str, Any]]) -> None:
    assert case[1]["damaged"]["alert"].startswith("onnx/model.onnx is damaged: its sha256 is ")


def test_page_denoises_on_webgpu(make_demo: ModuleType, chromium: str, packages: Path, tmp_path: Path) -> None:
    """On an adapter in software, where this browser has one."""
    make_demo.build(tmp_path / "site", packages=packages)
    photo = Image.open(ROOT / "docs" / "images" / "chelsea-noisy.png").convert("RGB").crop((120, 120, 168, 160))
    photo.save(tmp_path / "photo.png")
    seen = drive(make_demo, tmp_path, chromium=chromium, packages=str(packages), gpu=True, scenarios=["plain"])["plain"]
    if "no WebGPU" in seen["ready"]:
        pytest.skip("this browser has no WebGPU in software")
    assert seen["denoised"] == "Noise removed. skipae-natural runs on the GPU (WebGPU)."
    assert seen["faults"] == []
    expected = from_pretrained(CHECKPOINT, device="cpu", precision="fp32").denoise(np.asarray(photo)).astype(int)
    assert np.abs(pixels(tmp_path / "plain.png") - expected).max() <= 1


def test_page_denoises_with_8_bits(make_demo: ModuleType, chromium: str, packages: Path, tmp_path: Path) -> None:
    """On the CPU, with the 8-bit graph, as the command does on processors that are faster with it."""
    assert "onnx/model_quantized.onnx" in from_pretrained(CHECKPOINT, device="cpu").config.files
    make_demo.build(tmp_path / "site", packages=packages)
    photo = Image.open(ROOT / "docs" / "images" / "chelsea-noisy.png").convert("RGB").crop((60, 60, 260, 200))
    photo.save(tmp_path / "photo.png")
    seen = drive(make_demo, tmp_path, chromium=chromium, packages=str(packages), scenarios=["plain"])["plain"]
    assert seen["denoised"].startswith("Noise removed. skipae-natural runs on the CPU")
    assert seen["faults"] == []
    expected = from_pretrained(CHECKPOINT, device="cpu", precision="int8").denoise(np.asarray(photo)).astype(int)
    assert np.abs(pixels(tmp_path / "plain.png") - expected).max() <= 1
