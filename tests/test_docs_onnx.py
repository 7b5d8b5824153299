"""The examples of docs/onnx.md, run as they are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from npm import npm
from skipae import from_pretrained

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "model_cards" / "skipae-natural"
MODEL = CHECKPOINT / "onnx" / "model.onnx"


def example(heading: str) -> str:
    """The code of a section that is marked as run here."""
    page = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
    section = next(s for s in page.split("\n## ") if s.startswith(heading))
    found = re.search(r"<!-- runs in tests/test_docs_onnx.py -->\n```\w+\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.open(ROOT / "docs" / "images" / "chelsea-noisy.png").convert("RGB").crop((0, 0, 75, 61)).save(path)
    return path


def check(result: Path | np.ndarray, photo: Path) -> None:
    """Equal to the output of ``skipae denoise`` to one level of rounding."""
    expected = np.asarray(from_pretrained(CHECKPOINT, device="cpu", precision="fp32").denoise(photo)).astype(int)
    found = np.asarray(Image.open(result).convert("RGB")) if isinstance(result, Path) else result
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found.astype(int) - np.asarray(Image.open(photo))).max() > 5


def run_python(code: str, model: Path, photo: Path) -> None:
    target = photo.with_name("result.png")
    words = [sys.executable, "-c", code, str(model), str(photo), str(target)]
    subprocess.run(words, check=True, timeout=120)
    check(target, photo)


def test_onnxruntime(photo: Path) -> None:
    run_python(example("Python, onnxruntime"), MODEL, photo)


def test_opencv(photo: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("OpenCV 4 takes no dynamic shapes")
    run_python(example("OpenCV DNN"), MODEL, photo)


def test_opencv_with_a_file_for_one_size(photo: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    words = ["export", "--size", "61x75", "-o", tmp_path / "static.onnx"]
    subprocess.run([sys.executable, "-m", "skipae", *map(str, words)], check=True, timeout=120, cwd=ROOT)
    run_python(example("OpenCV DNN"), tmp_path / "static.onnx", photo)


@pytest.fixture(scope="session")
def onnxruntime_web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with onnxruntime-web from npm."""
    folder = tmp_path_factory.mktemp("web")
    npm(folder, "install", "onnxruntime-web@1.30")
    return folder


def test_onnxruntime_web(photo: Path, onnxruntime_web: Path) -> None:
    (onnxruntime_web / "denoise.mjs").write_text(example("JavaScript, onnxruntime-web"), encoding="utf-8")
    rgba = np.asarray(Image.open(photo).convert("RGBA"))
    height, width = rgba.shape[:2]
    (onnxruntime_web / "pixels").write_bytes(rgba.tobytes())
    (onnxruntime_web / "run.mjs").write_text(
        f"""
import {{ readFileSync, writeFileSync }} from "node:fs";
import * as ort from "onnxruntime-web";
import {{ denoise }} from "./denoise.mjs";
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync({json.dumps(str(MODEL))}));
const image = {{ data: new Uint8ClampedArray(readFileSync("pixels")), width: {width}, height: {height} }};
writeFileSync("result", (await denoise(session, image)).data);
""",
        encoding="utf-8",
    )
    subprocess.run(["node", "run.mjs"], cwd=onnxruntime_web, check=True, timeout=120)
    result = np.frombuffer((onnxruntime_web / "result").read_bytes(), np.uint8).reshape(height, width, 4)
    assert (result[..., 3] == 255).all()
    check(result[..., :3], photo)


def test_cpp(photo: Path, tmp_path: Path) -> None:
    """Needs ONNXRUNTIME_INCLUDE, the folder of ONNX Runtime's C++ headers, which no Python package contains."""
    headers = os.environ.get("ONNXRUNTIME_INCLUDE")
    compiler = shutil.which("g++")
    libraries = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not headers or compiler is None or not libraries:
        pytest.skip("no C++ headers of ONNX Runtime (ONNXRUNTIME_INCLUDE), no g++ or no libonnxruntime.so")
    source = tmp_path / "denoise.cpp"
    source.write_text(example("C++"), encoding="utf-8")
    words = [
        "-std=c++17",
        "-O1",
        source,
        "-isystem",
        headers,
        "-Wall",
        "-Wextra",
        "-Werror",
        "-L",
        tmp_path,
        "-lonnxruntime",
    ]
    words += [f"-Wl,-rpath,{tmp_path}", "-o", tmp_path / "denoise"]
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / name).symlink_to(libraries[-1])
    subprocess.run([compiler, *map(str, words)], check=True, timeout=200)
    Image.open(photo).save(tmp_path / "photo.ppm")
    files = [MODEL, tmp_path / "photo.ppm", tmp_path / "clean.ppm"]
    subprocess.run([tmp_path / "denoise", *files], check=True, timeout=120)
    check(tmp_path / "clean.ppm", photo)
    wrong = subprocess.run([tmp_path / "denoise", MODEL, photo, tmp_path / "no.ppm"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr) == (1, f"{photo} is not a PPM of 8 bits\n")
    missing = subprocess.run([tmp_path / "denoise", tmp_path / "none", *files[1:]], capture_output=True, text=True)
    assert missing.returncode == 1 and "none" in missing.stderr
