"""The default checkpoint, as the repository and the wheel contain it."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from skipae import from_pretrained
from skipae.cli import main
from skipae_train.metrics import psnr
from skipae_zoo import read_config, verified_file

ROOT = Path(__file__).parent.parent
STAGED = ROOT / "model_cards" / "skipae-natural"
IMAGES = ROOT / "docs" / "images"


@pytest.fixture(scope="module")
def model():
    return from_pretrained(device="cpu", precision="fp32", threads=1)


def test_it_is_the_default_and_small_and_whole(model):
    assert model.name == "skipae-natural"
    assert read_config(STAGED) == model.config
    for file in ("onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/features.onnx"):
        assert verified_file(STAGED, model.config, file).stat().st_size <= 8_500_000


def test_models_info_names_its_files_as_they_are():
    shown = CliRunner().invoke(main, ["models", "info", "skipae-natural"]).output
    for file, digest in read_config(STAGED).files.items():
        assert f"{file}: sha256 {digest}" in shown.splitlines()


def test_the_photo_of_the_readme_gets_better(model):
    clean, noisy = (np.asarray(Image.open(IMAGES / f"chelsea{end}.png").convert("RGB")) for end in ("", "-noisy"))
    before, after = psnr(np.stack([clean, clean]), np.stack([noisy, model.denoise(noisy)]), 255).tolist()
    assert before == pytest.approx(20.3, abs=0.3)
    assert after > before + 9


def test_a_clean_photo_is_left_nearly_as_it_is(model):
    clean = np.asarray(Image.open(IMAGES / "chelsea.png").convert("RGB"))
    assert psnr(clean[None], model.denoise(clean)[None], 255).item() > 36


def test_int8_does_nearly_what_float32_does(model):
    noisy = np.asarray(Image.open(IMAGES / "chelsea-noisy.png").convert("RGB"))
    clean = np.asarray(Image.open(IMAGES / "chelsea.png").convert("RGB"))
    int8 = from_pretrained(device="cpu", precision="int8", threads=1)
    exact, found = psnr(np.stack([clean] * 2), np.stack([net.denoise(noisy) for net in (model, int8)]), 255).tolist()
    assert exact - 0.1 < found  # of one picture; the gate holds the mean of many to 0.03
    tiled = int8.denoise(noisy, tile=240).astype(int)
    assert np.abs(tiled - int8.denoise(noisy)).max() <= 1


def test_int8_fills_holes_as_float32_does(model):
    clean = np.asarray(Image.open(IMAGES / "chelsea.png").convert("RGB"))[60:160, 100:220]
    mask = np.zeros(clean.shape[:2], bool)
    mask[40:48, 20:100] = mask[20:80, 60:66] = True
    int8 = from_pretrained(device="cpu", precision="int8", threads=1)
    exact, found = (net.inpaint(clean, mask)[mask].astype(float) for net in (model, int8))
    assert np.abs(found - exact).mean() < 1.5


def test_tiles_with_the_measured_halo_are_the_whole(model):
    rng = np.random.default_rng(3)
    clean = np.asarray(Image.open(IMAGES / "chelsea.png").convert("RGB"))[:253, :391] / np.float32(255)
    for sigma in (0, 50):
        image = (clean + rng.normal(0, sigma / 255, clean.shape)).astype(np.float32)
        whole = model.denoise(image, tile=1024)
        assert np.abs(model.denoise(image, tile=240) - whole).max() < 1e-4
