"""Gathering photos to train on."""

import csv

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from skipae_train.cli import cli
from skipae_train.data import DataError, load_rgb
from skipae_train.gather import NEAR, gather, noise_level, perceptual_hash


def photo(seed, size=(240, 200)):
    """A smooth random picture, uint8 [H, W, 3]."""
    coarse = np.random.default_rng(seed).integers(30, 226, (6, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def noisy(pixels, sigma):
    return np.clip(pixels + np.random.default_rng(9).normal(0, sigma, pixels.shape), 0, 255).round().astype(np.uint8)


def test_hashes_of_one_picture_are_near_and_of_two_far(tmp_path):
    Image.fromarray(photo(0)).resize((150, 120)).save(tmp_path / "a.jpg", quality=60)
    again = perceptual_hash(np.asarray(Image.open(tmp_path / "a.jpg")))
    assert (perceptual_hash(photo(0)) != again).sum() <= NEAR
    apart = [int((perceptual_hash(photo(a)) != perceptual_hash(photo(b))).sum()) for a in range(12) for b in range(a)]
    assert min(apart) > NEAR and 26 < np.mean(apart) < 36


@pytest.mark.parametrize("sigma", [1.0, 3.0, 8.0])
def test_the_noise_of_smooth_pictures_is_estimated(sigma):
    assert noise_level(noisy(photo(0, (480, 400)), sigma)) == pytest.approx(sigma, rel=0.25, abs=0.3)
    assert noise_level(photo(0)) < 0.8


def test_photos_are_gathered_without_test_pictures_copies_and_noise(tmp_path):
    folders = {name: tmp_path / name for name in ("mine", "kodak", "out")}
    folders["mine"].mkdir()
    folders["kodak"].mkdir()
    Image.fromarray(photo(1)).save(folders["kodak"] / "kodim01.png")
    for name, pixels in {
        "a": photo(2), "b-turned": np.rot90(photo(1), 1), "c-copy": photo(2)[:, ::-1], "d-noisy": noisy(photo(3), 9),
        "e-small": photo(4, (150, 150)), "f-large": photo(5, (500, 420)),
    }.items():  # fmt: skip
        Image.fromarray(np.ascontiguousarray(pixels)).save(folders["mine"] / f"{name}.png")
    (folders["mine"] / "g.png").write_bytes(b"no image")
    done = CliRunner().invoke(
        cli, ["gather", *map(str, [folders["mine"], "--out", folders["out"], "--test-set", folders["kodak"]]),
              "--halve-from", "400"], catch_exceptions=False,
    )  # fmt: skip
    assert done.exit_code == 0 and "2 photos" in done.output
    rows = list(csv.reader((folders["out"] / "gathered.tsv").read_text().splitlines(), delimiter="\t"))[1:]
    reasons = {row[0]: row[3] for row in rows}
    assert reasons.pop("a.png") == reasons.pop("f-large.png") == ""
    assert reasons["b-turned.png"] == "is kodim01.png of the test set kodak"
    assert reasons["c-copy.png"].startswith("is a copy of ") and reasons["d-noisy.png"].startswith("is noisy (")
    assert reasons["e-small.png"] == "is smaller than 160 pixels" and reasons["g.png"] == "cannot be decoded"
    assert sorted(load_rgb(f).shape for f in folders["out"].glob("*.png")) == [(200, 240, 3), (210, 250, 3)]
    with pytest.raises(DataError, match="is not empty: choose a new folder"):
        gather([folders["mine"]], folders["out"], [folders["kodak"]])
