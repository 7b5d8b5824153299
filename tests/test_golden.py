"""Values that the staged checkpoints give for one photo: a change of any step between file and result shows here.

``python tests/test_golden.py`` writes them again, after a checkpoint was trained again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skipae import Model, from_pretrained

ROOT = Path(__file__).parent.parent
STAGED = ROOT / "model_cards"
GOLDEN = Path(__file__).with_suffix(".json")
PHOTO = ROOT / "docs" / "images" / "chelsea.png"
NAMES = sorted(path.name for path in STAGED.iterdir())

TOLERANCE = 2e-4
"""Largest difference, as a share of the largest of the five values.  Processors sum in different orders, which changes
float32 results by some 1e-6, and Pillow's scaling may round a pixel otherwise, which is less than 1e-4 of a mean; a
wrong channel order, normalization, scaling or layer changes them by more than 1e-2."""


def compute(name: str) -> dict[str, Any]:
    """Five values of each task that a checkpoint has, and the sha256 of its files."""
    model = from_pretrained(STAGED / name, device="cpu", precision="fp32", threads=1)
    with Image.open(PHOTO) as photo:
        image = photo.convert("RGB").crop((100, 60, 260, 188))
    pixels = np.asarray(image)
    found: dict[str, Any] = {
        "files": {file: sha for file, sha in model.config.files.items() if file.startswith("onnx/")}
    }
    for task, values in compute_tasks(model, pixels).items():
        found[task] = [round(float(value), 6) for value in values]
    return found


def compute_tasks(model: Model, pixels: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "onnx/features.onnx" in model.config.files:
        (values,) = model.features(pixels).values()
        found["features"] = values[0, :5]
    if "onnx/model.onnx" not in model.config.files:
        return found
    if model.config.task == "restoration":
        small = (pixels / 255).astype(np.float32)
        found["denoise"] = model.denoise(small)[10:60:11, 17, 1] - small[10:60:11, 17, 1]
        mask = np.zeros(small.shape[:2], bool)
        mask[20:27, 30:37] = True
        found["inpaint"] = model.inpaint(small, mask)[21:26, 33, 0]
    elif model.config.task == "classification":
        scores = dict(model.classify(pixels, top=len(model.config.labels)))
        found["classify"] = [-np.log(scores[label]) for label in model.config.labels[:5]]
    else:
        labels = model.segment(pixels)
        found["segment"] = np.bincount(labels.reshape(-1), minlength=5)[:5] / labels.size
    return found


@pytest.mark.parametrize("name", NAMES)
def test_values_of_a_photo(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    found = compute(name)
    assert found.keys() == golden.keys()
    assert found.pop("files") == golden.pop("files"), f"{name} is another one: python tests/test_golden.py"
    for task, values in found.items():
        expected = np.array(golden[task])
        # Whole pixels may change sides in a label map.
        tolerance = 2e-3 if task == "segment" else TOLERANCE * np.abs(expected).max()
        np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance, err_msg=f"{name}: {task}")


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: compute(name) for name in NAMES}, indent=1) + "\n")
