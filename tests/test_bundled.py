"""The default checkpoint, as the repository and the wheel contain it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skipae import from_pretrained
from skipae_train.metrics import psnr
from skipae_zoo import read_config, verified_file

ROOT = Path(__file__).parent.parent
STAGED = ROOT / "model_cards" / "skipae-natural"
IMAGES = ROOT / "docs" / "images"


@pytest.fixture(scope="module")
def model():
    return from_pretrained(device="cpu", threads=2)


def test_it_is_the_default_and_small_and_whole(model):
    assert model.name == "skipae-natural"
    assert read_config(STAGED) == model.config
    for file in ("onnx/model.onnx", "onnx/features.onnx"):
        assert verified_file(STAGED, model.config, file).stat().st_size <= 8_000_000


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
