"""Fine-tuning: what is taken over, what is frozen, what is measured, and what comes out of it."""

import json
import re
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import make_sets
from skipae import from_pretrained
from skipae.checkpoints.resolve import BUNDLED
from skipae_train.card import _describe_run, make_card
from skipae_train.cli import cli
from skipae_train.data import DataError
from skipae_train.datasets import VOC_CLASSES, VOID, Batch, MemorySet, load
from skipae_train.errors import TrainingError
from skipae_train.evaluate import COMPLETE, MaskScore, PsnrScore, complete_mean, record_scores
from skipae_train.export import export_run
from skipae_train.feed import DataConfig, Feed, subsample
from skipae_train.finetune import (
    Finetune,
    _evaluate_masks,
    _FinetuneJob,
    balanced_weights,
    build,
    evaluate,
    finetune,
    load_finetuned,
    split_train,
)
from skipae_train.machine import Machine, RunOptions
from skipae_train.networks import AutoEncoder, TransferError
from skipae_train.pretrain import Pretrain, SetJob, load_run, pretrain
from skipae_train.probe import Probe, Probes, probe, see_clean_images
from skipae_train.recipe import to_json
from skipae_train.recipes import finetune_recipe, on_set, pretrain_recipe
from skipae_train.trainer import Part, commit

pytestmark = pytest.mark.usefixtures("without_curves")

RUN_OPTIONS = RunOptions(precision="fp32", device="cpu", quiet=True)
NOTES = "---\nlicense: cc0-1.0\n---\n## What it is for\n\n## What it is not for\n\n## Data and terms\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_sets.cifar(root)
    make_sets.tiny_imagenet(root)
    return make_sets.voc(root)


def pretrained(tmp_path_factory, data, name, **changes):
    out = tmp_path_factory.mktemp(name) / "run"
    pretrain(replace(pretrain_recipe(name, budget="smoke"), **changes), data, out, RUN_OPTIONS)
    return out


@pytest.fixture(scope="module")
def few(tmp_path_factory, data):
    return pretrained(tmp_path_factory, data, "cifar10-4k")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory, data):
    return pretrained(tmp_path_factory, data, "imagenet")


def test_the_frozen_beginning_trains_the_new_layers_alone(tmp_path, data, few):
    recipe = finetune_recipe("cifar10-4k", budget="smoke")
    assert (recipe.freeze, recipe.epochs.count) == (1, 2)
    begun = load_run(few)[0].state_dict()
    steps = 10 // 4
    finetune(recipe, data, tmp_path, replace(RUN_OPTIONS, stop_at=steps), start=few)
    frozen = load_finetuned(tmp_path)[0]
    parameters = dict(frozen.named_parameters())
    old = [name for name in parameters if name.startswith("encoder.")]
    assert old and all(torch.equal(parameters[name], begun[name]) for name in old)
    untrained = build(recipe, 10)
    torch.manual_seed(recipe.seed)
    untrained.initialize(recipe.init)
    assert not torch.equal(parameters["head.conv.weight"], untrained.state_dict()["head.conv.weight"])
    finetune(recipe, data, tmp_path, RUN_OPTIONS, start=few)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["command"] == "skipae-train finetune cifar10-4k --budget smoke"
    after = load_finetuned(tmp_path)[0].state_dict()
    assert all(not torch.equal(after[name], begun[name]) for name in old if name.endswith("conv.weight"))


@pytest.mark.parametrize("changes", [{"optimizer": "sgd", "lr": 0.1}, {"lr": 2e-2, "weight_decay": 1e-4}])
def test_a_classifier_learns_what_the_classes_look_like(tmp_path, data, changes):
    recipe = finetune_recipe("cifar10-4k", variant="random-he", budget="smoke")
    epochs = replace(recipe.epochs, count=20, batch=20, samples=0)
    recipe = replace(recipe, epochs=epochs, labeled=0, validation=0, **changes)
    found = finetune(recipe, data, tmp_path, RUN_OPTIONS)
    assert found is not None and found["value"] > 35 and found["images"] == 16  # ten classes
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert "command" not in found  # no command makes this recipe


def test_three_initializations_of_a_segmenter(tmp_path, data, imagenet):
    begun = load_run(imagenet)[0].state_dict()
    recipe = replace(finetune_recipe("voc12-seg", budget="smoke"), lr=0.0)
    for variant, same in (("", ("encoder", "decoder")), ("encoder-only", ("encoder",)), ("random", ())):
        chosen = replace(finetune_recipe("voc12-seg", variant=variant, budget="smoke"), lr=0.0)
        start = imagenet if chosen.start else None
        found = finetune(chosen, data, tmp_path / f"run{variant}", RUN_OPTIONS, start=start)
        assert found is not None and 0 <= found["value"] <= 100 and "car" in found["classes"]
        state = load_finetuned(tmp_path / f"run{variant}")[0].state_dict()
        for part in ("encoder", "decoder"):
            kernels = [name for name in state if name.startswith(part) and name.endswith("conv.weight")]
            assert all(torch.equal(state[name], begun[name]) == (part in same) for name in kernels)
    assert recipe.metric == "miou"


def test_a_segmenter_can_start_from_the_labels_of_imagenet(tmp_path, data, imagenet):
    labels = tmp_path / "labels"
    found = finetune(finetune_recipe("imagenet-labels", budget="smoke"), data, labels, RUN_OPTIONS, start=imagenet)
    assert found is not None and found["metric"] == "accuracy"
    recipe = finetune_recipe("voc12-seg", variant="from-labels+modern", budget="smoke")
    with pytest.raises(TrainingError, match="starts from imagenet-labels; use the run of 'skipae-train finetune imag"):
        finetune(recipe, data, tmp_path / "x", RUN_OPTIONS, start=imagenet)
    run = tmp_path / "segmenter"
    found = finetune(replace(recipe, lr=0.0), data, run, RUN_OPTIONS, start=labels)
    assert found is not None and found["metric"] == "miou"
    begun, state = load_finetuned(labels)[0].state_dict(), load_finetuned(run)[0].state_dict()
    kernels = [name for name in state if name.endswith("conv.weight")]
    assert all(torch.equal(state[n], begun[n]) for n in kernels if n.startswith("encoder"))
    assert float(state["decoder.dec5.conv.weight"].std()) > 0.02  # He's rule
    assert json.loads((run / "environment.json").read_text())["start"] == "imagenet-labels, seed 0"
    with pytest.raises(TrainingError, match="is a run of imagenet-labels, not a pre-training run"):
        finetune(finetune_recipe("voc12-seg", budget="smoke"), data, tmp_path / "x", RUN_OPTIONS, start=labels)


def test_masks_are_scored_by_class_as_users_run_the_segmenter(tmp_path, data, imagenet, monkeypatch):
    run, made = tmp_path / "run", tmp_path / "made"
    recipe = finetune_recipe("voc12-seg", variant="modern", budget="smoke")
    inside = finetune(recipe, data, run, RUN_OPTIONS, start=imagenet)
    export_run(run, made, name="seg", halo_images=None)
    masks = data / "VOCdevkit" / "VOC2012"
    record = ("--record", "VOC 2012 val")
    opened = []

    def opening(*args, **options):
        opened.append(options)
        return from_pretrained(*args, **options)

    monkeypatch.setattr("skipae.from_pretrained", opening)
    done = CliRunner().invoke(cli, ["evaluate", str(made), "--masks", str(masks), *record])
    assert [options["precision"] for options in opened] == ["fp32"]  # not what the processor is fastest in
    *lines, mean = done.output.strip().splitlines()
    assert len(lines) == 21 and lines[4] == "boat         no pixels"
    (row,) = json.loads((made / "training" / "metrics.json").read_text())
    assert mean == f"mean IoU of the 3 classes present: {row['mean']:.2f} % on 8 images"
    assert inside is not None and row["mean"] == pytest.approx(
        inside["value"], abs=1.0
    )  # photos are scaled as in training
    (made / "training" / "notes.md").write_text(NOTES)
    assert "No test image contains aeroplane, bicycle, boat, " in make_card(made)
    shares: dict[str, float | None] = {**dict.fromkeys(COMPLETE, 30.0), "cat": 100.0, "boat": 0.0}
    assert complete_mean(shares) == pytest.approx(40) and complete_mean({**shares, "cow": None}) is None
    score = MaskScore("miou", 2, 35.0, shares, "")
    assert str(score).endswith("mean IoU of background, cat, cow, dog, horse, person, sheep: 40.00 %")
    (masks / "classes.txt").write_text("0 background\n1 bird\n")
    try:
        refused = CliRunner().invoke(cli, ["evaluate", str(made), "--masks", str(masks)])
    finally:
        (masks / "classes.txt").unlink()
    assert refused.exit_code == 5 and "the classes of " in refused.stderr


def test_layers_that_were_taken_over_learn_at_their_share_of_the_rate(tmp_path, data, imagenet):
    begun, recipe = load_run(imagenet)[0].state_dict(), finetune_recipe("voc12-seg", budget="smoke")
    moved, new = {}, {}
    for share in (1.0, 0.1):
        run = tmp_path / str(share)
        chosen = replace(recipe, old_share=share, transfer=("encoder",), optimizer="sgd", lr=1e-6)
        finetune(chosen, data, run, replace(RUN_OPTIONS, stop_at=1), start=imagenet)
        state = load_finetuned(run)[0].state_dict()
        moved[share] = float((state["encoder.enc1.conv.weight"] - begun["encoder.enc1.conv.weight"]).norm())
        new[share] = state["head.conv.weight"]
    assert moved[0.1] == pytest.approx(0.1 * moved[1.0], rel=0.02) and moved[1.0] > 0
    assert torch.equal(new[1.0], new[0.1])


def test_rare_classes_count_more(data):
    weights = balanced_weights(torch.tensor([8000, 1000, 999, 1, 0]), 1 / 3)
    assert float(weights[1] / weights[0]) == pytest.approx(2, rel=1e-4)
    assert weights[3:].tolist() == [3, 3] and torch.equal(balanced_weights(torch.tensor([5, 1]), 0), torch.ones(2))
    recipe = finetune_recipe("voc12-seg", variant="random+modern", budget="smoke")
    images: Any = load("voc12", data, "train")
    pixels = images.mask_pixels()
    assert pixels.sum() == 24 * (60 * 80 - 60) and pixels[3] == pixels[7] == 12 * 40 * 40  # the first column is void
    part = Part(0, 0, 1, 0, 1, torch.device("cpu"))
    logits = torch.zeros(4, 21, 33, 33)
    logits[:, 0] = 4  # all background
    losses = {}
    for balance in (0.0, 1 / 3):
        job = _FinetuneJob(replace(recipe, balance=balance), build(recipe, 21), images, [], data)
        losses[balance] = float(job.loss(lambda x: logits, part))
    assert losses[1 / 3] > 1.2 * losses[0.0]


def test_random_crops_of_a_multi_label_classifier_are_averaged(data):
    recipe = finetune_recipe("voc07-cls", variant="random", budget="smoke")
    test: Any = load("voc07", data, "test")
    test.short_side = recipe.epochs.short_side
    machine = Machine(RUN_OPTIONS.machine().accelerator, "fp32")
    seen = []

    class Brightness(torch.nn.Module):
        def forward(self, images):
            seen.append(images)
            return images.mean((2, 3))[:, :2]

    center, ten, again = (evaluate(Brightness(), test, recipe, machine, crops=crops) for crops in (1, 10, 10))
    assert set(ten["classes"]) == set(center["classes"]) == {"bird", "car"}
    assert ten == again
    assert len(seen) == 21 and all(torch.equal(a, b) for a, b in zip(seen[1:11], seen[11:], strict=True))
    assert not any(torch.equal(seen[k], seen[k + 1]) for k in range(10))


def test_difficult_objects_and_void_pixels_do_not_count(data, monkeypatch):
    from skipae_train.finetune import _FinetuneJob

    part = Part(0, 0, 1, 0, 1, torch.device("cpu"))
    images = torch.randint(0, 256, (8, 3, 33, 33), dtype=torch.uint8)
    recipe = replace(finetune_recipe("voc07-cls", variant="random", budget="smoke"), validation=0)
    recipe = replace(recipe, epochs=replace(recipe.epochs, samples=0))
    losses = []
    for value in (0, 1):
        labels = torch.zeros(8, 2, dtype=torch.int8)
        labels[:, 1] = value
        difficult = labels.clone()
        difficult[:, 1] = -1
        for chosen in (labels, difficult):
            job = _FinetuneJob(recipe, build(recipe, 2), MemorySet(images, chosen, ("a", "b")), [], data)
            losses.append(float(job.loss(lambda x: torch.tensor([[0.0, 3.0]]).repeat(len(x), 1), part)))
    assert losses[0] != losses[2] and losses[1] == losses[3]
    masks = torch.full((8, 33, 33), VOID, dtype=torch.uint8)
    segmentation = replace(finetune_recipe("voc12-seg", variant="random", budget="smoke"), validation=0)
    job = _FinetuneJob(segmentation, build(segmentation, 3), MemorySet(images, None, ("a", "b", "c")), [], data)
    monkeypatch.setattr(job.feed, "batch", lambda _: (Batch(torch.arange(8), images, masks), None))
    assert float(job.loss(lambda x: torch.zeros(len(x), 3, 33, 33), part)) == 0


def test_validation_is_cut_from_train_or_from_what_is_left_over(data):
    images: Any = load("cifar10", data, "train")
    recipe = finetune_recipe("cifar10", budget="smoke")
    for labeled, count in ((0, len(images) // 10), (20, recipe.validation)):
        chosen, held = split_train(replace(recipe, labeled=labeled), images, data)
        assert len(held) == count < 11 and not set(chosen.tolist()) & set(held.tolist())
    assert len(chosen) == 20
    assert torch.bincount(images.labels[chosen]).tolist() == [2] * 10
    other = split_train(replace(recipe, labeled=20, seed=1), images, data)[0]
    assert not torch.equal(chosen, other)
    tried, watched = split_train(replace(recipe, labeled=20, tuning=True), images, data)
    assert sorted([*tried.tolist(), *watched.tolist()]) == sorted(chosen.tolist()) and len(watched) == 4
    with pytest.raises(TrainingError, match="labeled must be a multiple of the 10 classes, not 15"):
        split_train(replace(recipe, labeled=15), images, data)


def test_what_is_held_out_labeled_or_drawn_overlaps_by_chance_alone(data):
    count = 5000
    numbers = torch.arange(count)
    digits = torch.stack([numbers // 256, numbers % 256, numbers * 0], 1).byte()
    images = MemorySet(digits[:, :, None, None].expand(-1, -1, 16, 16), numbers % 10, tuple("abcdefghij"))
    own = pretrain_recipe("cifar10-4k", budget="smoke")
    assert own.epochs is not None
    epochs = replace(own.epochs, crop=16, samples=1000)

    def shared(seed):
        job = SetJob(replace(own, seed=seed), epochs, load_run_like(own), images)

        def positions(pixels):
            return pixels[:, 0, 0, 0].long() * 256 + pixels[:, 1, 0, 0]

        assert isinstance(job.feed.images, MemorySet)
        held, drawn = positions(job.held_out), positions(job.feed.images.images)
        few = finetune_recipe("cifar10-4k", budget="smoke", seed=seed)
        few = replace(few, labeled=1000, validation=500, epochs=replace(few.epochs, samples=0))
        labeled, watched = split_train(few, images, data)
        whole, cut = split_train(replace(few, labeled=0), images, data)
        sampled = subsample(numbers, 1000, seed)
        pairs = {"held, labeled": (held, labeled), "held, watched": (held, watched), "held, cut": (held, cut)}
        pairs |= {"drawn, labeled": (drawn, labeled), "cut, labeled": (cut, labeled), "sampled, held": (sampled, held)}
        assert len(whole) + len(cut) == count and not set(held.tolist()) & set(drawn.tolist())
        for name, (one, other) in pairs.items():
            expected = len(one) * len(other) / count
            found = int(torch.isin(one, other).sum())
            assert abs(found - expected) < 5 * max(expected, 1) ** 0.5, f"{name}: {found}, by chance {expected:.0f}"
        return held

    assert not torch.equal(shared(0), shared(1))


def test_the_hint_for_a_start_can_be_followed(tmp_path, data):
    """With another variant, the paper's budget and no folder it could not."""
    common = ["--data", str(data), "--device", "cpu", "--quiet"]
    words = ["finetune", "cifar10-4k", "--variant", "no-shortcut+encoder-only", "--budget", "smoke", *common]
    refused = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "out")])
    assert refused.exit_code == 2
    found = re.search(r"'skipae-train (.*) --data DATA --out RUN' makes one", refused.output)
    assert found is not None, refused.output
    made = CliRunner().invoke(cli, [*found[1].split(), *common, "--out", str(tmp_path / "run")])
    assert made.exit_code == 0, made.output
    words.remove("--quiet")
    done = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "out"), "--start", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert done.output.rstrip().endswith(f"skipae-train export {tmp_path / 'out'} --out FOLDER --name NAME")


def test_a_bundled_checkpoint_that_fits_is_named(tmp_path):
    words = ["finetune", "voc07-cls", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    fits = f"--start {BUNDLED / 'skipae-imagenet'} fits as well"
    assert fits in CliRunner().invoke(cli, [*words, "--budget", "cpu"]).output
    assert fits not in CliRunner().invoke(cli, words).output  # it is half as wide as the paper's
    labels = CliRunner().invoke(cli, [*words, "--variant", "from-labels"]).output
    assert "'skipae-train finetune imagenet-labels --data DATA --start PRETRAINED --out RUN' makes one" in labels


def test_a_start_that_does_not_fit_is_refused(tmp_path, data, few):
    recipe = finetune_recipe("cifar10-4k", budget="smoke")
    with pytest.raises(
        TrainingError, match="cifar10-4k starts from a run of the recipe cifar10-4k: pass its folder as start"
    ):
        finetune(recipe, data, tmp_path, RUN_OPTIONS)
    with pytest.raises(TrainingError, match="cifar10-4k-random does not take a start, not "):
        random = finetune_recipe("cifar10-4k", variant="random", budget="smoke")
        finetune(random, data, tmp_path, RUN_OPTIONS, start=few)
    with pytest.raises(TransferError, match="another architecture"):
        finetune(finetune_recipe("cifar10", budget="smoke"), data, tmp_path, RUN_OPTIONS, start=few)
    no_shortcut = finetune_recipe("cifar10-4k", variant="no-shortcut", budget="smoke")
    with pytest.raises(TransferError, match="shortcuts is 'symmetric' and must be 'input-output'; use one"):
        finetune(no_shortcut, data, tmp_path, RUN_OPTIONS, start=few)
    with pytest.raises(TrainingError, match="is a run of cifar10-4k, but other starts from cifar10; use the run"):
        finetune(replace(recipe, name="other", start="cifar10"), data, tmp_path, RUN_OPTIONS, start=few)
    assert not (tmp_path / "state.pt").exists()


def test_an_unfinished_run_cannot_be_a_start_and_its_export_says_so(tmp_path, data):
    run, made = tmp_path / "run", tmp_path / "made"
    pretrain(pretrain_recipe("cifar10-4k", budget="smoke"), data, run, replace(RUN_OPTIONS, stop_at=2))
    message = f"{run} stopped at step 2 of 6; run its command again to finish it"
    with pytest.raises(TrainingError, match=message):
        finetune(finetune_recipe("cifar10-4k", budget="smoke"), data, tmp_path / "x", RUN_OPTIONS, start=run)
    probed = CliRunner().invoke(cli, ["probe", str(run), "--data", str(data), "--out", str(tmp_path / "x")])
    assert probed.stderr == f"skipae-train: error: {message}\n" and probed.exit_code == 2
    assert not (tmp_path / "x").exists()
    done = CliRunner().invoke(cli, ["export", str(run), "--out", str(made), "--name", "made"])
    assert done.exit_code == 0 and done.stderr == f"{run} stopped at step 2 of 6: exporting its current weights\n"
    (made / "training" / "notes.md").write_text(NOTES)
    record_scores(made, "toy", [PsnrScore("sigma 25", 1, 20.0, 21.0, 0.0, "")])
    assert "The run stopped at step 2 of 6" in make_card(made)


def test_a_run_keeps_to_the_weights_it_was_started_from(tmp_path, data, few):
    recipe = finetune_recipe("cifar10-4k", budget="smoke")
    found = finetune(recipe, data, tmp_path / "run", RUN_OPTIONS, start=few)
    path = tmp_path / "run" / "environment.json"
    environment = json.loads(path.read_text())
    assert environment["start"] == "cifar10-4k, seed 0" and len(environment["start sha256"]) == 64
    assert environment["commit"] == commit()
    assert finetune(recipe, data, tmp_path / "run", RUN_OPTIONS, start=few) == found
    other = tmp_path / "other"
    pretrain(pretrain_recipe("cifar10-4k", budget="smoke", seed=1), data, other, RUN_OPTIONS)
    told = r"started from other weights \(cifar10-4k, seed 0 \w{8} there, cifar10-4k, seed 1 \w{8} requested\): start"
    with pytest.raises(TrainingError, match=told):
        finetune(recipe, data, tmp_path / "run", RUN_OPTIONS, start=other)
    stopped = tmp_path / "stopped"
    finetune(recipe, data, stopped, replace(RUN_OPTIONS, stop_at=1), start=few)
    with pytest.raises(TrainingError, match=told):
        finetune(recipe, data, stopped, RUN_OPTIONS, start=other)
    del environment["start"], environment["start sha256"], environment["commit"]  # as earlier versions wrote it
    path.write_text(json.dumps(environment))
    assert finetune(recipe, data, tmp_path / "run", RUN_OPTIONS, start=few) == found
    probes = Probe(name="probe", architecture=recipe.architecture, epochs=recipe.epochs, labeled=10, weights=100)
    for run in (few, other):
        network = load_run(run)[0]
        if run is few:
            assert len(probe(probes, network, data, tmp_path / "probe", RUN_OPTIONS)) == 8
            continue
        with pytest.raises(TrainingError, match="probe holds a run that was started from other weights"):
            probe(probes, network, data, tmp_path / "probe", RUN_OPTIONS)


def test_a_checkpoint_need_only_fit(tmp_path, data, few):
    export_run(few, tmp_path / "made", name="made", halo_images=None)
    recipe = finetune_recipe("cifar10-4k", variant="no-shortcut", budget="smoke")
    assert finetune(recipe, data, tmp_path / "run", RUN_OPTIONS, start=tmp_path / "made")
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["start"] == "made"


def test_a_run_is_exported_with_its_classes_and_sizes(tmp_path, data, few):
    finetune(finetune_recipe("cifar10-4k", budget="smoke"), data, tmp_path / "run", RUN_OPTIONS, start=few)
    config = export_run(tmp_path / "run", tmp_path / "made", name="made", halo_images=None)[1]
    assert config.labels == tuple(f"class{k}" for k in range(10))
    assert (config.preprocessing.resize, config.preprocessing.crop) == (32, 29)
    assert (tmp_path / "made" / "training" / "result.json").exists()
    assert from_pretrained(tmp_path / "made", device="cpu", threads=1).config.task == "classification"


def test_probes_read_statistics_of_clean_images(few):
    network = load_run(few)[0]
    images = MemorySet(torch.randint(0, 256, (30, 3, 40, 40), dtype=torch.uint8), None)
    see_clean_images(network, images, 33)
    first: Any = network.encoder["enc1"]
    raw, norm = first.conv(network.normalize(images.images[..., 3:36, 3:36].float() / 255)), first.norm
    torch.testing.assert_close(norm.running_mean, raw.mean((0, 2, 3)).detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(norm.running_var, raw.var((0, 2, 3)).detach(), rtol=1e-3, atol=1e-6)
    assert not network.training


def test_probes_of_all_layers_have_as_many_weights_and_leave_the_network_alone(tmp_path, data, few):
    network = load_run(few)[0]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    probes = Probes(network, 10, 29, 20_000)
    sizes = [sum(p.numel() for p in stack.parameters() if p.dim() > 1) for stack in probes.stacks.values()]
    assert all(abs(size - 20_000) < 2_500 for size in sizes)
    assert not any(name.startswith("encoder") for name in probes.state_dict())
    logits, pixels = probes.split(probes(torch.rand(2, 3, 29, 29)))
    assert logits.shape == (2, 8, 10) and pixels.shape == (2, 8, 3, 29, 29)
    recipe = Probe(
        name="toy",
        architecture=network.architecture,
        epochs=DataConfig(data="cifar10", count=20, batch=20, crop=29),
        labeled=50,
        weights=5_000,
    )
    rows = probe(recipe, network, data, tmp_path, RUN_OPTIONS)
    assert [row["layer"] for row in rows] == [f"enc{k}" for k in range(1, 9)]
    assert max(row["accuracy"] for row in rows) > 30 and max(row["psnr"] for row in rows) > 12
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with Image.open(tmp_path / "probe.png") as picture:
        assert np.asarray(picture).std() > 1
    assert (tmp_path / "probe.csv").read_text().startswith("network,layer,accuracy,psnr\n")


def test_training_on_own_images(tmp_path):
    mine = tmp_path / "mine"
    for name, count in (("train", 30), ("test", 10)):
        labels = np.arange(count) % 2
        for number, pixels in enumerate(make_sets.pictures(labels, 48, count)):
            file = mine / name / ("heron", "stork")[labels[number]] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)

    def skipae_train(kind, recipe, *options):
        common = ("--data", mine, "--budget", "smoke", "--device", "cpu", "--precision", "fp32", "--quiet")
        done = CliRunner().invoke(cli, [str(word) for word in (kind, recipe, *options, *common)])
        return done.output if done.exit_code == 0 else (done.exit_code, done.stderr)

    ae, birds = tmp_path / "ae", tmp_path / "birds"
    skipae_train("pretrain", "imagenet", "--set", "folder", "--out", ae)
    assert json.loads((ae / "environment.json").read_text())["images"].startswith("24 of folder")
    said = skipae_train("finetune", "voc07-cls", "--set", "classes", "--start", ae, "--out", birds)
    assert said.startswith(f"{birds}: accuracy ") and said.endswith(" % on 10 test images\n")
    made = tmp_path / "made"
    export_run(birds, made, name="birds", halo_images=None)
    answer = from_pretrained(str(made)).classify(make_sets.pictures(np.array([0]), 64, 0)[0])
    assert {label for label, _ in answer[:2]} == {"heron", "stork"}
    told = "`skipae-train finetune voc07-cls --set classes --budget smoke --start RUN --data DATA --out RUN`"
    (made / "training" / "notes.md").write_text(NOTES)
    assert told in make_card(made)

    refused = skipae_train("finetune", "voc07-cls", "--set", "folder", "--start", ae, "--out", tmp_path / "x")
    message = "voc07-cls learns from one class an image, but the set folder has no labels: choose another of them"
    assert refused == (2, f"skipae-train: error: {message}\n")
    refused = skipae_train("finetune", "voc12-seg", "--set", "classes", "--start", ae, "--out", tmp_path / "x")
    assert "voc12-seg learns from masks, but the set classes has one class an image" in str(refused)
    refused = skipae_train("pretrain", "natural", "--set", "folder", "--out", tmp_path / "x")
    assert "natural trains on photos, any folder of them: another set is for recipes on sets" in str(refused)
    assert not (tmp_path / "x").exists()


def test_segmenting_with_own_masks(tmp_path, data, imagenet):
    mine = data / "VOCdevkit" / "VOC2012"
    recipe = on_set(finetune_recipe("voc12-seg", budget="smoke"), "masks")
    (mine / "classes.txt").write_text("".join(f"{k} class{k}\n" for k in range(9)))
    try:
        found = finetune(recipe, mine, tmp_path, RUN_OPTIONS, start=imagenet)
    finally:
        (mine / "classes.txt").unlink()
    assert found is not None and found["metric"] == "miou" and found["images"] > 0
    assert found["classes"]["class3"] is not None and None in found["classes"].values()  # not all classes are there
    empty = torch.full((8, 8), VOID, dtype=torch.uint8)

    class Blind:
        classes = ("a", "b")

        def __len__(self):
            return 1

        def whole(self, position):
            return empty.expand(3, 8, 8), empty

    with pytest.raises(TrainingError, match="no pixel of the 1 masks to measure with has a label: all are 255"):
        _evaluate_masks(torch.nn.Identity(), cast(Any, Blind()), RUN_OPTIONS.machine())


def test_the_256th_class_is_a_class(data):
    recipe = on_set(finetune_recipe("cifar10", variant="random", budget="smoke"), "classes")
    images = MemorySet(torch.zeros(8, 3, 33, 33, dtype=torch.uint8), torch.full((8,), VOID), ("x",) * 300)
    job = _FinetuneJob(replace(recipe, validation=0), build(recipe, 300), images, [], data)
    loss = job.loss(lambda x: torch.zeros(len(x), 300), Part(0, 0, 1, 0, 1, torch.device("cpu")))
    assert float(loss) == pytest.approx(np.log(300), rel=1e-5)


def test_a_run_continues_only_with_the_same_images(tmp_path, data):
    recipe = on_set(finetune_recipe("cifar10", variant="random", budget="smoke"), "classes")
    run_options, mine = replace(RUN_OPTIONS, stop_at=1), tmp_path / "mine"
    for part in ("train", "test"):
        for number, pixels in enumerate(make_sets.pictures(np.arange(30) % 3, 40, 0)):
            (mine / part / "abc"[number % 3]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(mine / part / "abc"[number % 3] / f"{number}.png")
    broken = mine / "train" / "a" / "0.png"
    stored = broken.read_bytes()
    for file in (mine / "train" / "a").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be decoded"):
        finetune(recipe, mine, tmp_path / "run", run_options)
    for file in (mine / "train" / "a").iterdir():
        file.write_bytes(stored)
    for part in ("train", "test"):
        (mine / part / "b").rename(mine / part / "z")  # nothing was learned yet
    finetune(recipe, mine, tmp_path / "run", run_options)
    known = json.loads((tmp_path / "run" / "preprocessing.json").read_text())
    assert known["labels"] == ["a", "c", "z"]
    for part in ("train", "test"):
        (mine / part / "z").rename(mine / part / "b")
    told = r"holds a run on other data \(labels: \['a', 'c', 'z'\] there, \['a', 'b', 'c'\] now\); use the same data"
    with pytest.raises(TrainingError, match=told):
        finetune(recipe, mine, tmp_path / "run", RUN_OPTIONS)
    (mine / "test" / "b").rename(mine / "test" / "z")
    with pytest.raises(TrainingError, match="must have the same classes to train and to test on; b is in one alone"):
        finetune(recipe, mine, tmp_path / "other", RUN_OPTIONS)
    only = tmp_path / "only"
    for part in ("train", "test"):
        (only / part).mkdir(parents=True)
        (mine / part / "a").rename(only / part / "a")
    with pytest.raises(TrainingError, match="the set classes has only one class, a; at least two are needed"):
        finetune(recipe, only, tmp_path / "other", RUN_OPTIONS)


def test_a_feed_can_begin_at_any_step_and_part():
    images = MemorySet(torch.randint(0, 256, (22, 3, 12, 12), dtype=torch.uint8), torch.arange(22))
    epochs = DataConfig(data="", count=2, batch=8, crop=9)
    whole = Feed(images, epochs, seed=3)
    device = torch.device("cpu")
    steps = [whole.batch(Part(step, 0, 1, 0, 1, device))[0] for step in range(4)]
    assert sorted(torch.cat([s.indices for s in steps[:2]]).tolist()) != list(range(16))
    for step in (1, 2, 3):
        late = Feed(images, epochs, seed=3).batch(Part(step, 0, 1, 0, 1, device))[0]
        assert torch.equal(late.images, steps[step].images)
        for turns, processes in ((2, 1), (1, 2), (2, 2)):
            parts = [
                Feed(images, epochs, seed=3).batch(Part(step, turn, turns, process, processes, device))[0].images
                for process in range(processes)
                for turn in range(turns)
            ]
            assert torch.equal(torch.cat(parts), steps[step].images)


def test_the_context_encoder_is_trained_on_masked_pixels_alone(data):
    recipe = pretrain_recipe("imagenet", variant="context-encoder", budget="smoke")
    assert isinstance(recipe, Pretrain) and isinstance(finetune_recipe("voc07-cls"), Finetune)
    assert recipe.epochs is not None
    epochs = replace(recipe.epochs, batch=2, crop=16)
    images = MemorySet(torch.full((6, 3, 16, 16), 255, dtype=torch.uint8), None)
    job = SetJob(replace(recipe, epochs=epochs), epochs, load_run_like(recipe), images)
    loss = job.loss(lambda x: x, Part(0, 0, 1, 0, 1, torch.device("cpu")))
    # What is masked has the fill color, elsewhere the input is right; in units of the deviation.
    expected = sum(((1 - c) / s) ** 2 for c, s in zip(recipe.mean, recipe.std, strict=True)) / 3
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def load_run_like(recipe):
    return AutoEncoder(recipe.architecture)


def test_a_card_says_what_was_left_out_and_that_labels_were_used():
    environment = {"steps": 1, "steps done": 1}
    for variant, told in (("from-labels", True), ("", False)):
        recipe = to_json(finetune_recipe("voc07-cls", variant=variant))
        text = _describe_run(recipe, environment, ["bus", "car", "cat", "person", "train"])
        assert "without images in the set are omitted: aeroplane, bicycle, bird, " in text and "tvmonitor." in text
        assert ("with the labels of ImageNet" in text) == told
    assert "omitted" not in _describe_run(recipe, environment, VOC_CLASSES)
