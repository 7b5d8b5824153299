import csv
import json
import re
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from skipae import SkipaeError
from skipae_train.cli import cli
from skipae_train.corruption import GaussianNoise
from skipae_train.data import DataError
from skipae_train.datasets import View
from skipae_train.datasets.photos import Photos, augment_photos
from skipae_train.errors import TrainingError
from skipae_train.export import export, export_run
from skipae_train.feed import PhotoFeed
from skipae_train.machine import RunOptions
from skipae_train.muon import orthogonal
from skipae_train.pairs import PairedPhotos, find_pairs
from skipae_train.photo_damage import PhotoDamage
from skipae_train.pretrain import (
    Phase,
    Pretrain,
    load_restorer,
    load_run,
    pretrain,
    reconstruction_loss,
    reconstruction_psnr,
)
from skipae_train.recipes import pretrain_recipe
from skipae_train.schedules import Cosine, Milestones, Trapezoid
from skipae_train.trainer import Part, Trainer
from skipae_train.wide_resnet import WideResNet
from skipae_zoo import network_1

pytestmark = pytest.mark.usefixtures("without_curves")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(6):
        coarse = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((80 + 9 * i, 70), Image.Resampling.BICUBIC)
        (folder / f"{i % 2}").mkdir(exist_ok=True)
        image.save(folder / f"{i % 2}" / f"{i}.png")
    return folder


ARCHITECTURE = network_1((1, 2, 1, 0), 4, topology="post")
RECIPE = Pretrain(
    name="tiny",
    architecture=ARCHITECTURE,
    corruption=PhotoDamage(masked=0.5),
    phases=(Phase(5, 32, 3), Phase(4, 48, 2)),
    lr=2e-3,
    schedule=Cosine(2),
    loss="rmse",
    init="he",
    ema_decay=0.9,
    max_grad_norm=1.0,
)


def run(out, data, recipe=RECIPE, start=None, **options):
    run_options = RunOptions(**{"precision": "fp32", "device": "cpu", "quiet": True, "validate_every": 3, **options})
    return pretrain(recipe, data, out, run_options, start=start)


def read_log(folder):
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


MUON = replace(
    RECIPE, muon_lr=4e-3, schedule=Trapezoid(2, 0.5), phases=(Phase(5, 32, 3), Phase(4, 48, 2, freeze_norm=True))
)


@pytest.mark.parametrize(("stop_at", "recipe"), [(1, RECIPE), (4, MUON), (7, RECIPE), (7, MUON)])
def test_a_run_that_was_stopped_resumes_to_the_same_weights(tmp_path, photos, stop_at, recipe):
    whole = run(tmp_path / "whole", photos, recipe).state_dict()
    run(tmp_path / "stopped", photos, recipe, stop_at=stop_at)
    resumed = run(tmp_path / "stopped", photos, recipe).state_dict()
    assert {k for k in whole if not torch.equal(whole[k], resumed[k])} == set()
    loaded, recipe = load_run(tmp_path / "stopped")
    assert all(torch.equal(v, whole[k]) for k, v in loaded.state_dict().items())
    assert recipe["name"] == "tiny"
    log = read_log(tmp_path / "stopped")
    assert [int(row["step"]) for row in log] == sorted({3, 6, 9, stop_at})
    assert log[-1]["psnr25"] == read_log(tmp_path / "whole")[-1]["psnr25"]


@pytest.mark.parametrize(("lr", "muon_lr"), [(1e-2, 0.0), (1e-2, 5e-2)])
def test_training_lowers_the_loss(tmp_path, photos, lr, muon_lr):
    phases, noise = (Phase(120, 32, 4),), GaussianNoise((30, 30))
    network = network_1((2, 2, 0, 0), 8, topology="post")
    recipe = replace(
        RECIPE, architecture=network, corruption=noise, phases=phases, ema_decay=0.0, lr=lr, muon_lr=muon_lr
    )
    run(tmp_path, photos, recipe, validate_every=30)
    losses = [float(row["loss"]) for row in read_log(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]


def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_weights(tmp_path, photos):
    before = {
        k: v.clone() for k, v in run(tmp_path, photos, replace(MUON, ema_decay=0.0), stop_at=5).state_dict().items()
    }
    after = run(tmp_path, photos, replace(MUON, ema_decay=0.0)).state_dict()
    same = {k for k in before if torch.equal(before[k], after[k])}
    assert same == {"mean", "std"} | {k for k in before if "running" in k or "tracked" in k}


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_orthogonal_keeps_the_directions_and_evens_out_their_strength(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    strengths = torch.diag(u.T @ orthogonal(matrix) @ v.T)
    assert strengths.min() > 0.6 and strengths.max() < 1.3
    assert torch.allclose(orthogonal(matrix), u * strengths @ v, atol=0.05)


def test_the_length_of_a_trapezoid_does_not_matter_before_its_cooldown():
    schedule = Trapezoid(warmup=4, cooldown=0.25)
    assert [schedule(step, 40) for step in (0, 3, 29)] == [0.25, 1.0, 1.0]
    assert [schedule(step, 100) for step in (0, 3, 29)] == [0.25, 1.0, 1.0]
    assert schedule(35, 40) == 0.5
    assert schedule(39, 40) == 0.1


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state(tmp_path, photos):
    run(tmp_path, photos, stop_at=2)
    before = (tmp_path / "state.pt").read_bytes()

    class Explodes(GaussianNoise):
        def __call__(self, clean, generator):
            return clean * float("nan")

    with pytest.raises(TrainingError, match=r"loss is nan at step 2 of tiny: lower the learning rate.*state\.pt"):
        # The same fields, so that the run folder accepts it as its own recipe.
        broken = Explodes()
        recipe = replace(RECIPE, corruption=broken)
        (tmp_path / "recipe.json").unlink()
        run(tmp_path, photos, recipe)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_disk_that_fills_up_keeps_the_last_state(tmp_path, photos, monkeypatch):
    run(tmp_path, photos, stop_at=2)
    before = (tmp_path / "state.pt").read_bytes()

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(SkipaeError, match=r"cannot write .*state\.pt: No space left"):
        run(tmp_path, photos)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert not list(tmp_path.glob(".skipae-*"))


def test_the_remaining_time_leaves_out_the_warm_up(tmp_path, photos, monkeypatch, capsys):
    compute, slow = Trainer.compute_gradients, [3.0, 0.0]

    def first_slow(*arguments):
        time.sleep(slow.pop(0) if slow else 0.01)
        return compute(*arguments)

    monkeypatch.setattr(Trainer, "compute_gradients", first_slow)
    run(tmp_path, photos, quiet=False)
    bars = [line for line in capsys.readouterr().err.split("\r") if "/9 [" in line]
    assert "1/9 [00:00<?" in bars[1]  # not known yet
    assert re.search(r" 9/9 \[00:0[012]<", bars[-1]), bars[-1]


def test_the_run_of_another_budget_is_named(tmp_path, photos):
    out = tmp_path / "my run"
    run(out, photos, pretrain_recipe("natural", budget="smoke", seed=2), stop_at=1)
    there, asked = "natural --budget smoke --seed 2", "natural --variant adam --budget cpu"
    told = re.escape(
        f"holds the run of 'skipae-train pretrain {there}', not of 'skipae-train pretrain {asked}': to continue it, "
        f"use those options with --out '{out}'; for a new run, use another --out"
    )
    with pytest.raises(TrainingError, match=told):
        run(out, photos, pretrain_recipe("natural", variant="adam", budget="cpu"))


def test_the_folder_of_another_recipe_is_refused(tmp_path, photos):
    run(tmp_path, photos, stop_at=1)
    told = r"lr is 0\.002 there, 1\.0 requested, architecture\.n is 4 there, 8 requested"
    with pytest.raises(TrainingError, match=rf"holds a run of another recipe \({told}\)"):
        run(tmp_path, photos, replace(RECIPE, lr=1.0, architecture=replace(ARCHITECTURE, n=8)))


def test_a_recipe_without_ema_keeps_no_average_and_continues_from_a_state_that_has_one(tmp_path, photos):
    recipe = replace(RECIPE, ema_decay=0.0)
    whole = run(tmp_path / "whole", photos, recipe).state_dict()
    run(tmp_path / "stopped", photos, recipe, stop_at=4)
    state = torch.load(tmp_path / "stopped" / "state.pt", weights_only=True)
    assert "average" not in state
    old = {f"module.{name}": torch.zeros_like(value) for name, value in state["network"].items()}
    torch.save({**state, "average": old}, tmp_path / "stopped" / "state.pt")
    resumed = run(tmp_path / "stopped", photos, recipe).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_run_can_start_from_the_weights_of_a_checkpoint(tmp_path, photos):
    recipe = replace(RECIPE, phases=(Phase(1, 32, 2),), lr=0.0)
    first = run(tmp_path / "first", photos, recipe)
    export(first, tmp_path / "made", name="made", fill=(0.5, 0.5, 0.5), halo_images=[], storage="float32")
    second = run(tmp_path / "second", photos, replace(recipe, seed=5), start=tmp_path / "made")
    for name, value in first.named_parameters():
        torch.testing.assert_close(second.state_dict()[name], value.detach())
    with pytest.raises(TrainingError, match=r"other weights \(made \w{8} there, random weights requested\): start it"):
        run(tmp_path / "second", photos, replace(recipe, seed=5))
    other = replace(recipe, architecture=network_1((1, 1, 0, 0), 4))
    with pytest.raises(TrainingError, match="two layers more"):
        run(tmp_path / "third", photos, other, start=tmp_path / "made")


def test_a_plain_image_that_is_restored_exactly_does_not_make_the_mean_infinite():
    images = torch.cat(
        [torch.full((1, 3, 16, 16), 255, dtype=torch.uint8), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)]
    )
    found = reconstruction_psnr(
        torch.nn.Hardtanh(1, 2), images, GaussianNoise((25, 25)), RunOptions(device="cpu").machine()
    )
    assert found == pytest.approx((100 + 0) / 2)  # 100 dB at most


def test_a_learning_rate_applies_to_all_weights():
    plain, lower = pretrain_recipe("natural"), pretrain_recipe("natural", lr=5e-4)
    assert lower.lr == 5e-4 and lower.muon_lr == pytest.approx(plain.muon_lr * 5e-4 / plain.lr)


def test_load_run_names_what_is_missing(tmp_path):
    with pytest.raises(TrainingError, match=r"lacks recipe\.json"):
        load_run(tmp_path)


def test_cosine_warms_up_and_ends_at_its_floor():
    schedule = Cosine(10, floor=0.01)
    factors = [schedule(step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1
    assert factors[55] == pytest.approx(0.505)
    assert factors[-1] == pytest.approx(0.01, abs=1e-3)


def test_milestones_of_supplement_b():
    schedule = Milestones((60 / 120, 90 / 120), 0.1)
    assert [round(schedule(epoch, 120), 6) for epoch in (0, 59, 60, 89, 90, 119)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_losses_against_their_definition():
    a, b = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8)
    assert torch.allclose(reconstruction_loss(a, b, "mse"), torch.nn.functional.mse_loss(a, b))
    expected = torch.stack([(x - y).square().mean().sqrt() for x, y in zip(a, b, strict=True)]).mean()
    assert torch.allclose(reconstruction_loss(a, b, "rmse"), expected, atol=1e-4)


def test_crops_depend_on_seed_and_step_alone(photos):
    def crops(feed, *steps, turns=1, processes=1):
        cpu = torch.device("cpu")
        parts = [Part(s, t, turns, p, processes, cpu) for s in steps for p in range(processes) for t in range(turns)]
        return torch.cat([feed.crops(part, 8, 40) for part in parts])

    def feed(seed=1, **options):
        return PhotoFeed(Photos(photos, seed=seed, hold_out=0, **options), seed)

    expected = crops(feed(), 0, 1, 2)
    assert expected.shape == (24, 3, 40, 40) and len(expected.flatten(1).unique(dim=0)) == 24
    late = feed(memory=0)  # decoded again each time
    assert torch.equal(crops(late, 2), expected[16:]) and torch.equal(crops(late, 0), expected[:8])
    for turns, processes in ((2, 1), (1, 2), (2, 2)):
        assert torch.equal(crops(feed(), 0, 1, 2, turns=turns, processes=processes), expected)
    assert not torch.equal(crops(feed(2), 0), expected[:8])


def test_large_photos_are_drawn_more_often_and_small_ones_never(tmp_path):
    for number, size in enumerate(((20, 20), (40, 40), (80, 80))):
        Image.new("RGB", size, (number,) * 3).save(tmp_path / f"{number}.png")
    (batch,) = Photos(tmp_path, hold_out=0).batches([torch.arange(3000)], View(30, random=True))
    drawn = torch.bincount(batch.images[:, 0, 0, 0].int(), minlength=3) / 3000
    assert drawn[0] == 0 and float(drawn[2]) == pytest.approx(2 / 3, abs=0.04)  # twice the root of the pixels


def test_held_out_photos_are_never_drawn_and_neither_are_their_copies(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "once")
    shutil.copytree(photos, tmp_path / "again")
    once, twice = Photos(photos, hold_out=3), Photos(tmp_path, hold_out=3)
    assert [f.name for f in once.held_out] == ["5.png"]  # the only name whose CRC-32 three divides
    assert [f.name for f in twice.held_out] == ["5.png", "5.png"]
    assert not {f.name for f in twice.held_out} & {f.name for f in twice.files}
    assert once.validation(64, 8).shape == (1, 3, 64, 64)
    assert once.validation(200, 8).shape == (0, 3, 200, 200)


def test_data_errors_say_what_to_do(tmp_path, photos):
    with pytest.raises(DataError, match="is not a folder"):
        Photos(tmp_path / "none")
    with pytest.raises(DataError, match="contains no images"):
        Photos(tmp_path)
    with pytest.raises(DataError, match="no image is at least 500 x 500"):
        next(Photos(photos).batches([torch.arange(1)], View(500, random=True)))
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken\.png cannot be decoded"):
        Photos(tmp_path, hold_out=0)


def test_augmentation_keeps_range_and_geometry():
    image = torch.rand(16, 3, 24, 24)
    out = augment_photos(image, torch.Generator().manual_seed(0))
    assert out.shape == image.shape
    assert out.min() >= 0
    assert out.max() <= 1
    # Black stays black nowhere else than where a flip or turn can bring it.
    dot = torch.ones(32, 3, 9, 9)
    dot[:, :, 2, 3] = 0
    places = {tuple(p.mean(0).argmin().item() // n % 9 for n in (9, 1)) for p in augment_photos(dot, torch.Generator())}
    assert places <= {(y, x) for a, b in ((2, 3), (3, 2)) for y in (a, 8 - a) for x in (b, 8 - b)}
    assert len(places) > 4


def test_the_bundled_denoisers_two_runs_at_the_smoke_budget(tmp_path, photos):
    network = run(tmp_path / "natural", photos, pretrain_recipe("natural", budget="smoke"))
    assert all(bool(v.isfinite().all()) for v in network.state_dict().values())
    more = pretrain_recipe("natural-more", budget="smoke")
    with pytest.raises(TrainingError, match=r"natural-more continues training a network.*as --start"):
        run(tmp_path / "more", photos, more)
    assert not (tmp_path / "more").exists()
    export(network, tmp_path / "made", name="made", fill=(1.0, 0.0, 1.0), halo_images=[], storage="float32")
    further = run(tmp_path / "more", photos, more, start=tmp_path / "made").state_dict()
    before = network.state_dict()
    changed = {name.rpartition(".")[2] for name, value in before.items() if not torch.equal(value, further[name])}
    assert "weight" in changed and not {"running_mean", "running_var"} & changed


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pairs of two cameras and five scenes; the noise has a mean of 8 gray levels."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(1)
    for number, scene in enumerate(("desk", "cat", "wall", "toy", "door")):  # of which "cat" is held out
        for camera in ("A1", "B2"):
            clean = Image.fromarray(rng.integers(60, 196, (6, 7, 3), np.uint8)).resize(
                (70, 60), Image.Resampling.BICUBIC
            )
            noisy = np.clip(np.asarray(clean) + rng.normal(8, 12, (60, 70, 3)), 0, 255).astype(np.uint8)
            clean.save(folder / f"{camera}_{scene}_{number}_mean.png")
            Image.fromarray(noisy).save(folder / f"{camera}_{scene}_{number}_real.png")
    return folder


def test_real_pairs_are_drawn_by_scene_and_stay_together(pairs):
    photos = PairedPhotos(find_pairs(pairs, without=("B2",)), seed=3)
    assert sorted(photos.scenes) == ["desk", "door", "toy", "wall"] and len(photos.held_out) == 1
    clean, noisy = photos.crops(5, 40, 24)
    again = PairedPhotos(find_pairs(pairs, without=("B2",)), seed=3).crops(5, 40, 24)
    assert torch.equal(clean, again[0]) and torch.equal(noisy, again[1])
    noise = (noisy.float() - clean.float()).flatten(1)
    assert float(noise.std(1).min()) > 10 and float(noise.std(1).max()) < 14 and float(noise.mean(1).min()) > 5
    assert len({tuple(crop.flatten()[:9].tolist()) for crop in clean}) > 20
    ((target, given),) = photos.validation(32, 4)
    assert target.shape == given.shape == (1, 3, 32, 32)
    with pytest.raises(DataError, match="no pair is at least 64 x 64 pixels: lower the crop or add larger pairs"):
        photos.crops(0, 1, 64)


def test_pairs_that_do_not_fit_are_refused(tmp_path, pairs):
    shutil.copytree(pairs, tmp_path / "pairs")
    Image.new("RGB", (70, 59)).save(tmp_path / "pairs" / "A1_desk_0_mean.png")
    with pytest.raises(
        DataError, match=r"A1_desk_0_mean\.png have different sizes \(70 x 60 and 70 x 59\): remove or crop the pair"
    ):
        PairedPhotos(find_pairs(tmp_path / "pairs"))
    only = find_pairs(pairs)
    with pytest.raises(DataError, match="show 1 scene"):
        PairedPhotos([pair for pair in only if pair.scene == "cat"])
    with pytest.raises(TrainingError, match=r"cifar10 trains on the set cifar10: pairs are for recipes on photos"):
        pretrain(pretrain_recipe("cifar10", budget="smoke"), tmp_path, tmp_path / "run", pairs=only)


def test_training_with_real_pairs_resumes_to_the_same_weights_and_keeps_its_pairs(tmp_path, photos, pairs):
    recipe = replace(RECIPE, paired=0.4)
    found = find_pairs(pairs, without=("B2",))
    run_options = RunOptions(precision="fp32", device="cpu", quiet=True, validate_every=3)
    whole = pretrain(recipe, photos, tmp_path / "whole", run_options, pairs=found).state_dict()
    pretrain(recipe, photos, tmp_path / "stopped", replace(run_options, stop_at=4), pairs=found)
    resumed = pretrain(recipe, photos, tmp_path / "stopped", run_options, pairs=found).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    plain = pretrain(recipe, photos, tmp_path / "plain", run_options).state_dict()
    assert not all(torch.equal(value, plain[name]) for name, value in whole.items())
    row = read_log(tmp_path / "whole")[-1]
    assert float(row["psnr_pairs"]) > 10 and "psnr_pairs" not in read_log(tmp_path / "plain")[-1]
    described = json.loads((tmp_path / "whole" / "environment.json").read_text())["pairs"]
    assert described == "4 of A1 (1 of 1 scenes more held out)"
    with pytest.raises(TrainingError, match=r"other data \(pairs: 4 of A1 .* there, none now\); use the same"):
        pretrain(recipe, photos, tmp_path / "stopped", run_options)


def test_the_command_mixes_pairs_in(tmp_path, photos, pairs):
    options = ["pretrain", "natural", "--budget", "smoke", "--device", "cpu", "--quiet", "--out", str(tmp_path / "run")]
    given = [*options, "--data", str(photos), "--without-camera", "B2"]
    refused = CliRunner().invoke(cli, given)
    assert refused.exit_code == 2 and "--without-camera B2 needs --pairs FOLDER" in refused.output
    done = CliRunner().invoke(cli, [*given, "--pairs", str(pairs)], catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["pairs"].startswith("4 of A1 ")


def test_a_wide_resnet_is_trained_and_resumed_but_never_exported(tmp_path, photos):
    recipe = replace(RECIPE, architecture=WideResNet(10, 1))
    whole = run(tmp_path / "whole", photos, recipe).state_dict()
    run(tmp_path / "stopped", photos, recipe, stop_at=4)
    resumed = run(tmp_path / "stopped", photos, recipe).state_dict()
    assert {k for k in whole if not torch.equal(whole[k], resumed[k])} == set()
    network, described = load_restorer(tmp_path / "whole")
    assert all(torch.equal(v, whole[k]) for k, v in network.state_dict().items())
    assert described["architecture"] == {"depth": 10, "widen": 1}
    with pytest.raises(
        TrainingError, match=r"whole is a run of a Wide-ResNet, which is not a network of the zoo; .*wide-resnet$"
    ):
        export_run(tmp_path / "whole", tmp_path / "made", name="made", halo_images=None)
    assert not (tmp_path / "made").exists()
