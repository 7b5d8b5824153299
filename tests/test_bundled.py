"""The checkpoint that comes with the package, as it lies in the repository."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skipae import from_pretrained
from skipae_train.metrics import psnr
from skipae_zoo import read_config, verified_file

ROOT = Path(__file__).parent.parent
BUNDLED = ROOT / "inference" / "skipae" / "weights" / "skipae-natural"
STAGED = ROOT / "model_cards" / "skipae-natural"
IMAGES = ROOT / "docs" / "images"


@pytest.fixture(scope="module")
def model():
    return from_pretrained(device="cpu", threads=2)


def test_it_is_the_default_and_small_and_whole(model):
    assert model.name == "skipae-natural"
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*") if path.is_file()) <= 12_000_000
    for file in ("onnx/model.onnx", "onnx/features.onnx"):
        verified_file(BUNDLED, model.config, file)


def test_the_staged_folder_is_the_same_checkpoint(model):
    assert read_config(STAGED) == model.config
    assert (STAGED / "onnx").resolve() == BUNDLED / "onnx"
    assert (BUNDLED / "README.md").read_text() == (STAGED / "README.md").read_text()


def test_the_photo_of_the_readme_gets_better(model):
    clean, noisy = (np.asarray(Image.open(IMAGES / f"chelsea{end}.png").convert("RGB")) for end in ("", "-noisy"))
    before, after = psnr(np.stack([clean, clean]), np.stack([noisy, model.denoise(noisy)]), 255).tolist()
    assert before == pytest.approx(20.3, abs=0.3)
    assert after > before + 9


def test_a_clean_photo_is_left_nearly_as_it_is(model):
    clean = np.asarray(Image.open(IMAGES / "chelsea.png").convert("RGB"))
    assert psnr(clean[None], model.denoise(clean)[None], 255).item() > 36


def test_tiles_with_the_measured_halo_are_the_whole(model):
    rng = np.random.default_rng(3)
    clean = np.asarray(Image.open(IMAGES / "chelsea.png").convert("RGB"))[:253, :391] / np.float32(255)
    for sigma in (0, 15, 50):
        image = (clean + rng.normal(0, sigma / 255, clean.shape)).astype(np.float32)
        whole = model.denoise(image, tile=1024)
        assert np.abs(model.denoise(image, tile=224) - whole).max() < 1e-4
