"""Gathering photos to train on."""

import csv

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from skipae_train.cli import cli
from skipae_train.data import DataError, load_rgb
from skipae_train.gather import NEAR, gather, gather_pairs, noise_level, perceptual_hash
from skipae_train.pairs import find_pairs, load_pair
from skipae_train.plots import save_picture


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


def test_pairs_of_both_layouts_are_gathered_without_test_pictures_and_cameras_to_test_on(tmp_path):
    sidd, polyu, test = tmp_path / "sidd" / "0005_001_S6_00100_x", tmp_path / "polyu", tmp_path / "test"
    for folder in (sidd, polyu, test):
        folder.mkdir(parents=True)
    made = {
        "a": (polyu / "A1_5_100_desk_3_mean.png", polyu / "A1_5_100_desk_3_real.png"),
        "known": (polyu / "A1_5_100_wall_1_mean.png", polyu / "A1_5_100_wall_1_real.png"),
        "phone": (sidd / "GT_SRGB_010.PNG", sidd / "NOISY_SRGB_010.PNG"),
        "b": (polyu / "B2_5_100_toy_1_mean.png", polyu / "B2_5_100_toy_1_real.png"),
    }
    for seed, (clean, real) in enumerate(made.values()):
        Image.fromarray(photo(seed)).save(clean)
        Image.fromarray(noisy(photo(seed), 5)).save(real)
    Image.fromarray(np.ascontiguousarray(photo(1)[:, ::-1])).save(test / "wall.png")
    Image.fromarray(photo(3, (200, 240))).save(made["b"][0])
    out = tmp_path / "out"
    given = ["gather", str(tmp_path / "sidd"), str(polyu), "--out", str(out), "--test-set", str(test)]
    refused = CliRunner().invoke(cli, [*given, "--without-camera", "S6"])
    assert refused.exit_code == 2 and "--without-camera S6 is for --pairs" in refused.output
    whole = CliRunner().invoke(cli, [*given, "--out", str(tmp_path / "all"), "--pairs"], catch_exceptions=False)
    scenes = {(pair.camera, pair.scene) for pair in find_pairs(tmp_path / "all")}
    assert whole.exit_code == 0 and {("S6", "001"), ("A1", "desk")} <= scenes
    done = CliRunner().invoke(cli, [*given, "--without-camera", "S6", "--pairs"], catch_exceptions=False)
    assert done.exit_code == 0 and "1 pairs" in done.output
    (pair,) = find_pairs(out)
    assert (pair.camera, pair.scene) == ("A1", "desk")
    clean, real = load_pair(pair.clean, pair.noisy)
    assert np.array_equal(clean, photo(0)) and np.array_equal(real, noisy(photo(0), 5))
    rows = list(csv.reader((out / "gathered.tsv").read_text().splitlines(), delimiter="\t"))[1:]
    reasons = {row[0].rpartition("/")[2]: row[3] for row in rows if row[3]}
    assert reasons["A1_5_100_wall_1_real.png"] == "is wall.png of the test set test"
    assert reasons["NOISY_SRGB_010.PNG"] == "is of the camera S6"
    assert "different sizes (240 x 200 and 200 x 240)" in reasons["B2_5_100_toy_1_real.png"]
    unknown = CliRunner().invoke(
        cli, [*given[:4], str(tmp_path / "new"), *given[5:], "--pairs", "--without-camera", "C3"]
    )
    assert unknown.exit_code == 5 and "no pairs of the camera C3: choose from A1, B2, S6" in unknown.output


@pytest.mark.parametrize("pairs", [False, True])
def test_an_interrupted_run_leaves_a_list_of_what_it_wrote(tmp_path, monkeypatch, pairs):
    source, known = tmp_path / "source", tmp_path / "known"
    for folder in (source, known):
        folder.mkdir()
    Image.fromarray(photo(9)).save(known / "known.png")
    for seed, name in enumerate(("a", "b", "c", "d")):
        pixels = photo(9 if name == "b" else seed)
        if pairs:
            Image.fromarray(pixels).save(source / f"A1_5_100_{name}_1_mean.png")
            Image.fromarray(noisy(pixels, 5)).save(source / f"A1_5_100_{name}_1_real.png")
        else:
            Image.fromarray(pixels).save(source / f"{name}.png")
    run = gather_pairs if pairs else gather
    assert run([source], tmp_path / "whole", [known]) == 3
    left = 3 if pairs else 1

    def interrupted(*arguments, **options):
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        save_picture(*arguments, **options)

    monkeypatch.setattr("skipae_train.gather.save_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):  # at c, in a pair after the noisy photo
        run([source], tmp_path / "part", [known])
    lines = (tmp_path / "whole" / "gathered.tsv").read_bytes().splitlines(keepends=True)
    assert (tmp_path / "part" / "gathered.tsv").read_bytes() == b"".join(lines[:4])
    listed = {line.split(b"\t")[2].decode() for line in lines[1:4]} - {""}
    written = {file.name.replace("_mean.", "_real.") for file in (tmp_path / "part").glob("*.png")}
    assert len(listed) == 2 and written <= listed
