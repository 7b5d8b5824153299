"""The checkpoint that comes with the package, as it lies in the repository."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from skipae import from_pretrained
from skipae_train.card import write_card
from skipae_train.metrics import psnr
from skipae_train.networks import AutoEncoder
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
    assert (BUNDLED / "README.md").is_file()


def test_the_staged_folder_is_the_same_checkpoint(model):
    assert read_config(STAGED) == model.config
    verified_file(STAGED, model.config, "model.safetensors")


def test_the_photo_of_the_readme_gets_better(model):
    clean, noisy = (np.asarray(Image.open(IMAGES / f"chelsea{end}.png").convert("RGB")) for end in ("", "-noisy"))
    before, after = psnr(np.stack([clean, clean]), np.stack([noisy, model.denoise(noisy)]), 255).tolist()
    assert before == pytest.approx(20.3, abs=0.3)
    assert after > before + 9


def test_a_clean_photo_is_left_nearly_as_it_is(model):
    clean = np.asarray(Image.open(IMAGES / "chelsea.png").convert("RGB"))
    assert psnr(clean[None], model.denoise(clean)[None], 255).item() > 36


def test_onnx_and_safetensors_hold_one_network(model):
    network = AutoEncoder.from_checkpoint(STAGED)
    noisy = np.asarray(Image.open(IMAGES / "chelsea-noisy.png").convert("RGB").crop((30, 40, 231, 177))) / np.float32(
        255
    )
    with torch.no_grad():
        expected = network(torch.from_numpy(noisy).permute(2, 0, 1)[None])[0].permute(1, 2, 0).clamp(0, 1).numpy()
    np.testing.assert_allclose(model.denoise(noisy), expected, atol=2e-3)


def test_tiles_with_the_measured_halo_are_the_whole(model):
    rng = np.random.default_rng(3)
    clean = np.asarray(Image.open(IMAGES / "chelsea.png").convert("RGB"))[:253, :391] / np.float32(255)
    for sigma in (0, 15, 50):
        image = (clean + rng.normal(0, sigma / 255, clean.shape)).astype(np.float32)
        whole = model.denoise(image, tile=1024)
        assert np.abs(model.denoise(image, tile=224) - whole).max() < 1e-4


def test_the_cards_are_up_to_date(tmp_path):
    import shutil

    shutil.copytree(STAGED, tmp_path / "copy")
    card = write_card(tmp_path / "copy").read_text()
    assert card == (STAGED / "README.md").read_text()
    assert card == (BUNDLED / "README.md").read_text()
