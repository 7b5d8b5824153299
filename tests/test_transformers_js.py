"""transformers.js loads every checkpoint of the repository as it is, and gives skipae's values.

Skipped without Node.js and npm, or where npm cannot install it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from npm import npm
from skipae import from_pretrained
from skipae_zoo import read_config

ROOT = Path(__file__).parent.parent
STAGED = ROOT / "model_cards"
SIZES = {
    "skipae-natural": (75, 61),
    "skipae-imagenet": (96, 64),
    "skipae-camvid-seg": (160, 128),
    "skipae-voc12-seg": (160, 128),
}
"""Width and height at which a checkpoint scales nothing: the libraries' filters are not the same to the last bit."""

SCRIPT = """
import { AutoModel, AutoProcessor, RawImage, env } from "@huggingface/transformers";
import { writeFileSync } from "node:fs";
const [staged, name, file, image] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = staged;
const model = await AutoModel.from_pretrained(name, { model_file_name: file });
const processor = await AutoProcessor.from_pretrained(name);
const { pixel_values } = await processor(await RawImage.read(image));
const found = {};
for (const [key, value] of Object.entries(await model({ pixel_values }))) {
  found[key] = value.dims;
  writeFileSync(`${key}.bin`, new Uint8Array(value.data.buffer, value.data.byteOffset, value.data.byteLength));
}
console.log(JSON.stringify({ dims: found, labels: model.config.id2label }));
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with transformers.js from npm."""
    folder = tmp_path_factory.mktemp("js")
    npm(folder, "install", "@huggingface/transformers@4")
    (folder / "run.mjs").write_text(SCRIPT, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", sorted(path.name for path in STAGED.iterdir()))
def test_a_staged_folder_loads_and_agrees(library: Path, tmp_path: Path, name: str) -> None:
    config, model = read_config(STAGED / name), from_pretrained(STAGED / name, device="cpu", precision="fp32")
    size = SIZES.get(name) or (config.preprocessing.resize or 64,) * 2
    photo = tmp_path / "photo.png"
    Image.open(ROOT / "docs" / "images" / "chelsea.png").convert("RGB").resize(size).save(photo)
    file = "model" if "onnx/model.onnx" in config.files else "features"
    words = ["node", "run.mjs", f"{STAGED}/", name, file, str(photo)]
    done = subprocess.run(words, cwd=library, check=True, capture_output=True, timeout=120)
    said = json.loads(done.stdout)

    def output(key: str) -> NDArray[np.float32]:
        found: NDArray[np.float32] = np.fromfile(library / f"{key}.bin", np.float32).reshape(said["dims"][key])[0]
        return found

    assert list(said["labels"].values()) == list(config.labels)
    if file == "features":
        layers = [layer.name for layer in model.layers]
        expected = model.features(photo, layers=layers, pool="none")
        assert list(said["dims"]) == layers
        for layer in layers:
            assert np.abs(output(layer) - expected[layer][0]).max() < 1e-4 * np.abs(expected[layer]).max()
    elif config.task == "restoration":
        clean = np.asarray(model.denoise(photo).to_array(), float)
        assert np.abs(output("reconstruction").transpose(1, 2, 0).clip(0, 1) * 255 - clean).max() <= 0.51
    elif config.task == "segmentation":
        assert (output("logits").argmax(0) == np.asarray(model.segment(photo))).all()
    else:
        logits = output("logits").astype(float)
        if config.head is not None and config.head.scores == "sigmoid":
            scores = 1 / (1 + np.exp(-logits))
        else:
            scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        for label, score in model.classify(photo, top=len(config.labels)):
            assert scores[config.labels.index(label)] == pytest.approx(score, abs=1e-5)
