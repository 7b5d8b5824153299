"""Every result of the paper at the smoke budget, on tiny sets in the original formats."""

import csv
import importlib
import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import make_sets
from skipae_train.cli import cli
from skipae_train.corruption import BlockMask
from skipae_train.cost import training_operations
from skipae_train.earlier_runs import split_name
from skipae_train.errors import TrainingError
from skipae_train.feed import open_set
from skipae_train.machine import RunOptions, choose_training_precision
from skipae_train.pretrain import pretrain
from skipae_train.probe import Probe
from skipae_train.recipe import differences, to_json
from skipae_train.recipes import (
    VARIANTS,
    RecipeError,
    finetune_recipe,
    has,
    identity_of,
    load_recipe,
    pretrain_recipe,
    recipe_names,
)
from skipae_train.recipes.budgets import cut
from skipae_train.reproduce import Bench, Cell, RunProgress, duration, finetunings, list_runs, reproduce
from skipae_train.tables import RESULTS
from skipae_zoo import Architecture

pytestmark = pytest.mark.usefixtures("without_curves")

RUN_OPTIONS = RunOptions(precision="fp32", device="cpu", quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_sets.everything(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Shared, as the default folder is."""
    return tmp_path_factory.mktemp("runs")


def read(out):
    with (out / "table.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_can_be_made(name, data, runs, tmp_path):
    announced: list[str] = []
    planned = list_runs(name, "smoke", 1, data)
    progress = RunProgress(planned, announced.append)
    table = reproduce(name, "smoke", data, tmp_path, runs, run_options=RUN_OPTIONS, progress=progress)
    text = table.read_text(encoding="utf-8")
    assert text.startswith(f"# {name}: ")
    # Just the runs that were planned, but for the probes and the rates that the tries chose.
    made = {path.stem for path in (tmp_path / "logs").glob("*.csv")}
    assert {re.sub("-lr[0-9.e-]+-smoke", "-smoke", folder) for folder in made if "probe" not in folder} == {
        identity.folder if identity.tuning else re.sub("-lr[0-9.e-]+-smoke", "-smoke", identity.folder)
        for identity in planned
    }
    assert all(re.match(rf"run \d+ of {len(planned)}: (pre-training|fine-tuning) ", line) for line in announced)
    assert all(f"- {key}: " in text for key in ("budget", "hardware", "commit", "command"))
    described = json.loads((tmp_path / "result.json").read_text())
    assert described["id"] == name and described["budget"] == "smoke"
    with Image.open(tmp_path / "figure.png") as picture:
        assert min(picture.size) > 60
    assert list((tmp_path / "logs").glob("*.csv"))
    for row in read(tmp_path):
        if row["n"] != "0":
            values = [float(value) for value in row["values"].split()]
            assert len(values) == int(row["n"]) and all(map(math.isfinite, values))
            assert float(row["mean"]) == pytest.approx(sum(values) / len(values), rel=1e-4)
    if name == "fig3":  # its curves are numbers too
        assert {"classifier, enc1", "auto-encoder without, enc8"} <= {row["row"] for row in read(tmp_path)}


def test_a_table_sets_the_papers_numbers_beside_ours_over_seeds_and_folds(data, runs, tmp_path):
    reproduce("table3", "smoke", data, tmp_path, runs, seeds=2, run_options=RUN_OPTIONS)
    rows = read(tmp_path)
    assert [row["paper"] for row in rows] == ["64.6 ± 0.7", "", "70.2 ± 0.6", "75.8 ± 0.5"]
    assert {row["n"] for row in rows} == {"4"}  # two seeds, and the two folds of the smoke budget
    assert all(row["std"] for row in rows)


def test_the_page_of_results_shows_what_was_run(data, runs, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "docs")
    make_results = importlib.import_module("make_results")
    monkeypatch.setattr(make_results, "FOLDER", tmp_path)
    reproduce("table2", "smoke", data, tmp_path / "table2", runs, run_options=RUN_OPTIONS)
    (tmp_path / "intro.md").write_text("Of toys.\n")
    (tmp_path / "table2" / "comment.md").write_text("Too small to say.\n")
    page = make_results.page()
    found = read(tmp_path / "table2")
    line = next(line for line in page.splitlines() if line.startswith("| table2 | pre-trained with shortcuts"))
    assert f"| 80.22 ± 0.37 | **{float(found[-1]['mean']):.2f}** |" in line and "| smoke |" in line
    assert "| table3 | pre-trained with shortcuts | accuracy | 75.8 ± 0.5 | not run |" in page
    overview = page.partition("Too small to say.")[0]
    assert "| [table2](#table2) | CIFAR-10 with 4,000 labels, test accuracy in % | 4 | 1 | smoke |" in overview
    assert "| table3 | STL-10, test accuracy in % over the folds | not run |" in overview
    assert "Too small to say." in page and "](docs/results/table2/figure.png)" in page


def test_every_row_of_a_comparison_is_tuned_alike_without_the_test_set(data, runs, tmp_path, monkeypatch):
    opened = []

    def watch(epochs, root, purpose):
        opened.append(purpose)
        return open_set(epochs, root, purpose)

    bench = Bench("smoke", 1, data, tmp_path / "runs", RUN_OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr("skipae_train.finetune.open_set", watch)
        for variant in ("random", "random-he"):
            assert list(bench.tries("cifar10-4k", variant)) == [2e-3, 6e-3]
    assert opened == ["train"] * 4
    monkeypatch.setattr(Bench, "tries", lambda self, name, variant: {2e-3: 0.5, 6e-3: 0.7 if variant else 0.5})
    reproduce("table2", "smoke", data, tmp_path, runs, run_options=RUN_OPTIONS)
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert [row["lr"] for row in rows] == [6e-3, 6e-3, 6e-3, 2e-3]
    logs = tmp_path / "logs"
    assert json.loads((logs / "pretrain-cifar10-4k-smoke-seed0.json").read_text())["metric"] == "psnr"
    assert {log.stem for log in logs.glob("*.json")} == {log.stem for log in logs.glob("*.csv")}
    assert rows[1]["tries"] == {"0.002": 0.5, "0.006": 0.7}
    assert (
        json.loads((runs / "finetune-cifar10-4k-random-he-lr0.006-smoke-seed0" / "recipe.json").read_text())["lr"]
        == 6e-3
    )
    assert "| 0.006 |" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_a_try_that_diverges_is_not_chosen(data, tmp_path, monkeypatch):
    monkeypatch.setattr("skipae_train.reproduce.TRIES", (1e30, 1.0))
    bench = Bench("smoke", 1, data, tmp_path, RUN_OPTIONS)
    assert next(iter(bench.tries("cifar10", "random").values())) == 0
    assert Cell(tries={1.0: 0.0, 2.0: 3.0}).lr == 2.0


def test_the_supplements_pictures_are_left_out_where_their_images_are_not_there(data, runs, tmp_path):
    table = reproduce("suppD", "smoke", data, tmp_path / "all", runs, run_options=RUN_OPTIONS)
    assert "left out" not in table.read_text(encoding="utf-8")
    assert {p.name for p in (tmp_path / "all").glob("*.png")} == {"figure.png", *(f"figure{k}.png" for k in (1, 2, 3))}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cifar-10-batches-py").symlink_to(data / "cifar-10-batches-py")
    table = reproduce("suppD", "smoke", tmp_path / "data", tmp_path / "some", runs, run_options=RUN_OPTIONS)
    text = table.read_text(encoding="utf-8")
    assert "- left out: figure 1 of the supplement, since " in text and "; figure 3 of the supplement, since " in text
    assert {p.name for p in (tmp_path / "some").glob("*.png")} == {"figure.png", "figure2.png"}


def test_progress_counts_runs_and_says_how_long_is_left():
    """Of table 2: two pre-trainings, four rows of three tries and one run."""
    planned = list_runs("table2", "cpu", 1)
    assert len(planned) == 2 + 4 * 4
    said: list[str] = []
    progress = RunProgress(planned, said.append)
    random, he = planned[0], planned[4]
    title = progress.begin(random, new=True)
    assert said == [title] == ["run 1 of 18: fine-tuning cifar10-4k, random, a try of lr 0.002, seed 0"]
    progress.end(random, 60.0)
    progress.begin(replace(he, lr=0.006, tuning=False), new=True)
    costs = [training_operations(load_recipe(identity)) or 0 for identity in planned]
    left = (sum(costs) - costs[0]) / costs[0]
    assert said[1].startswith("run 2 of 18: ") and said[1].endswith(f", about {duration(60 * left)} left")
    progress.begin(random, new=False)  # it is finished: not said again, and counted once
    assert len(said) == 2


def test_times_are_said_in_minutes_or_hours():
    assert [duration(seconds) for seconds in (1, 700, 5399, 9000)] == ["1 min", "12 min", "90 min", "2.5 h"]


def test_several_results_share_their_runs_and_one_count(data, tmp_path):
    options = ("--data", data, "--budget", "smoke", "--precision", "fp32", "--device", "cpu")
    words = [str(word) for word in ("reproduce", "fig5", "fig6", *options, "--out", tmp_path)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    said = [line for line in done.stderr.splitlines() if line.startswith("run ") and "%|" not in line]
    assert said[0] == "run 1 of 2: pre-training imagenet-animal, plain, seed 0"
    assert said[1].startswith("run 2 of 2: pre-training imagenet-vehicle, plain, seed 0")
    assert len(said) == 2  # figure 6 needs a network that figure 5 made
    for name in ("fig5", "fig6"):
        assert f"# {name}: " in done.stdout and str(tmp_path / name / "table.md") in done.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_the_papers_budget_on_a_cpu_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["pretrain", "imagenet", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    refused = CliRunner().invoke(cli, words)
    assert refused.exit_code == 5  # there is no data
    warning, error = refused.stderr.splitlines()
    found = re.match(r"--budget paper on a CPU takes about ([\d.]+) h on two fast cores", warning)
    assert found and 700 < float(found[1]) < 900 and error.startswith("skipae-train: error: ")
    assert len(CliRunner().invoke(cli, [*words, "--budget", "smoke"]).stderr.splitlines()) == 1


def test_finished_runs_are_read_and_not_run_again(data, runs, tmp_path):
    (identity,) = finetunings("cifar10-4k", "no-shortcut", "smoke", 1)
    first = Bench("smoke", 1, data, runs, RUN_OPTIONS).scores_of(identity)
    files = {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()}
    assert Bench("smoke", 1, tmp_path, runs, RUN_OPTIONS).scores_of(identity) == first
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()} == files


def test_fine_tuning_variants_share_a_pre_training(data, runs):
    bench = Bench("smoke", 1, data, runs, RUN_OPTIONS)
    plain = bench.pretrained("cifar10-4k")
    assert bench.pretrained("cifar10-4k", "all-labels") == plain
    assert bench.pretrained("cifar10-4k", "no-shortcut") != plain


def test_all_pre_training_can_be_a_variant(data, runs, tmp_path):
    bench = Bench("smoke", 1, data, runs, RUN_OPTIONS, "modern")
    run = bench.run(finetunings("cifar10-4k", "no-shortcut", "smoke", 1)[0])
    assert run.name == "finetune-cifar10-4k-no-shortcut-after-modern-smoke-seed0"
    started = json.loads((run / "environment.json").read_text())["start"]
    assert started == "cifar10-4k-modern-no-shortcut, seed 0"
    assert bench.pretrained("cifar10-4k", "random").name == "pretrain-cifar10-4k-modern-smoke-seed0"
    random = bench.run(finetunings("cifar10-4k", "random", "smoke", 1)[0])
    assert random.name == "finetune-cifar10-4k-random-smoke-seed0"
    reproduce("suppD", "smoke", data, tmp_path, runs, run_options=RUN_OPTIONS, pretraining="modern")
    assert "--data DATA --device cpu --pretraining modern" in (tmp_path / "table.md").read_text().replace(
        " --precision fp32", ""
    )


def test_the_rate_of_sgd_is_tuned_in_pre_training_too(data, runs):
    bench = Bench("smoke", 1, data, runs, RUN_OPTIONS)
    found = bench.pretraining_tries("cifar100", "sgd")
    assert list(found) == [0.1, 0.3] and all(value > 0 for value in found.values())
    described = json.loads((bench.pretrained("cifar100", "sgd") / "recipe.json").read_text())
    assert described["lr"] == max(found, key=lambda lr: found[lr]) and described["optimizer"] == "sgd"
    assert (runs / "pretrain-cifar100-sgd-eighth-lr0.3-smoke-seed0" / "state.pt").exists()


def test_the_command_line_goes_from_pre_training_to_a_figure(data, tmp_path):
    def run(command, *arguments):
        options = ("--data", data, "--budget", "smoke", "--precision", "fp32", "--device", "cpu", "--quiet")
        done = CliRunner().invoke(cli, [str(a) for a in (command, *arguments, *options)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    changed = ("--variant", "no-shortcut+half", "--seed", 3)
    run("pretrain", "cifar10-4k", "--out", tmp_path / "ae", *changed)
    recipe = json.loads((tmp_path / "ae" / "recipe.json").read_text())
    assert (recipe["name"], recipe["seed"], recipe["architecture"]["shortcuts"]) == (
        "cifar10-4k-no-shortcut-half", 3, "input-output",
    )  # fmt: skip
    arguments = ("finetune", "cifar10-4k", "--start", tmp_path / "ae", "--out", tmp_path / "classifier", *changed)
    assert "accuracy" in run(*arguments)
    assert "enc8: accuracy" in run("probe", tmp_path / "classifier", "--out", tmp_path / "probe")
    assert run("reproduce", "fig6", "--out", tmp_path / "fig6").startswith("# fig6: feature maps")
    assert (tmp_path / "fig6" / "runs" / "pretrain-imagenet-animal-smoke-seed0" / "state.pt").exists()


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_say_what_to_expect(name):
    text = importlib.import_module(f"skipae_train.recipes.{name.replace('-', '_')}").__doc__ or ""
    assert all(word in text for word in ("Command:", "Hardware:", "Hours:", "Expected:"))
    assert has(name, "PRETRAIN") or has(name, "FINETUNE")


def test_recipes_are_the_papers():
    cifar, few, stl = (finetune_recipe(name) for name in ("cifar10", "cifar10-4k", "stl10"))
    assert (cifar.epochs.count, cifar.epochs.crop, cifar.lr, cifar.freeze, cifar.corruption) == (200, 29, 1e-4, 0, None)
    assert (few.labeled, few.lr, few.freeze, few.epochs.flip) == (4000, 2e-3, 10, False)
    assert isinstance(few.corruption, BlockMask)
    assert (stl.epochs.crop, stl.freeze, stl.fold) == (89, 10, 0)
    assert [round(cifar.schedule(epoch, 200), 6) for epoch in (59, 60, 120, 160)] == [1, 0.2, 0.04, 0.008]
    for name, epochs, steps in (("cifar10", 120, (60, 90)), ("stl10", 40, (30,)), ("imagenet", 6, (4,))):
        recipe = pretrain_recipe(name)
        assert recipe.epochs is not None and recipe.epochs.count == epochs
        for number, epoch in enumerate(steps):
            assert recipe.schedule(epoch - 1, epochs) == pytest.approx(0.1**number)
            assert recipe.schedule(epoch, epochs) == pytest.approx(0.1 ** (number + 1))
    voc = finetune_recipe("voc07-cls")
    assert (voc.crops, voc.head.hidden, voc.metric, voc.epochs.count) == (10, 4096, "map", 400)
    baseline = finetune_recipe("cifar10-4k", variant="random-he")
    assert (baseline.start, baseline.freeze, baseline.corruption, baseline.init) == (None, 0, None, "he")
    modern, plain = (finetune_recipe("cifar10-4k", variant=name) for name in ("modern", ""))
    assert modern.epochs.count == 2 * plain.epochs.count and modern.epochs.flip and modern.ema_decay == 0.999
    masked: Any = pretrain_recipe("cifar10-4k", variant="modern").corruption
    noisy: Any = pretrain_recipe("cifar10", variant="modern").corruption
    assert (masked.coverage, noisy.sigma) == ((0.1, 0.6), (5.0, 55.0))
    post: Any = pretrain_recipe("cifar10", variant="post").architecture
    assert post.topology == "post"
    encoder: Any = pretrain_recipe("imagenet", variant="context-encoder")
    assert (encoder.architecture.shortcuts, encoder.loss, encoder.corruption.kind) == ("none", "masked", "big")


def test_budgets_cut_by_their_rules():
    smoke, cpu = (finetune_recipe("voc07-cls", budget=budget) for budget in ("smoke", "cpu"))
    assert (smoke.architecture.n, smoke.head.hidden, smoke.epochs.crop) == (8, 64, 33)
    assert (cpu.architecture.n, cpu.epochs.crop, cpu.epochs.short_side, cpu.epochs.count) == (32, 57, 64, 80)
    halves: list[Any] = [pretrain_recipe(f"imagenet-{half}", budget="cpu").epochs for half in ("animal", "vehicle")]
    assert [epochs.data for epochs in halves] == ["tiny-imagenet-animal", "tiny-imagenet-vehicle"]
    assert {epochs.samples for epochs in halves} == {7000}  # as many of each, as in the paper
    assert finetune_recipe("camvid-seg", budget="cpu").epochs.crop == 113
    assert pretrain_recipe("natural", budget="cpu") == pretrain_recipe("natural")
    assert pretrain_recipe("natural", budget="day").steps == 10 * pretrain_recipe("natural").steps
    few, all_labels = (finetune_recipe("cifar10-4k", variant=name, budget="cpu") for name in ("", "all-labels"))
    assert (few.architecture.n, few.epochs.count, few.freeze) == (24, 120, 6)
    assert (all_labels.epochs.count, all_labels.freeze) == (40, 2)
    assert finetune_recipe("stl10", budget="cpu").epochs.count == 120
    assert cut(Probe(name="probe", architecture=few.architecture), "cpu").epochs.count == 40
    seg = finetune_recipe("voc12-seg", variant="from-labels+modern", budget="day")
    assert (seg.epochs.data, seg.epochs.count, seg.epochs.crop, seg.lr) == ("voc12-aug", 16, 113, 1e-3)
    assert (seg.epochs.short_side, seg.epochs.test_side, seg.epochs.zoom) == (192, 128, 1.7)
    assert (seg.start, seg.transfer, seg.init, seg.old_share) == ("imagenet-labels", ("encoder",), "he", 0.3)
    labels = finetune_recipe("imagenet-labels", budget="day")
    assert (labels.epochs.data, labels.epochs.count, labels.epochs.test_side) == ("imagenet-subsets", 4, 64)
    assert finetune_recipe("imagenet-labels", budget="cpu").epochs.zoom == 1  # Tiny-ImageNet has 64 pixels
    wide: list[Any] = [
        pretrain_recipe("cifar100", variant="wide-resnet", budget=budget) for budget in ("paper", "cpu", "smoke")
    ]
    assert [recipe.architecture.widen for recipe in wide] == [8, 2, 1]


@pytest.mark.parametrize(
    "command",
    [
        "pretrain natural",
        "pretrain cifar10-4k --variant modern --budget cpu",
        "pretrain cifar100 --variant wide-resnet+sgd --budget smoke --seed 2",
        "pretrain imagenet-animal --variant half",
        "finetune cifar10-4k --variant no-shortcut+sgd-finetune --budget cpu --lr 0.006",
        "finetune stl10 --variant random-he --budget smoke --fold 3",
        "finetune voc12-seg --variant from-labels+modern --budget day",
        "finetune imagenet-labels --budget cpu",
        "pretrain imagenet --set hub:me/mine#fine --variant big-block --budget cpu",
        "finetune cifar10 --set classes --variant random",
    ],
)
def test_a_run_says_what_command_made_it(command):
    kind, name, *options = command.split()
    given = dict(zip(options[::2], options[1::2], strict=True))
    load = pretrain_recipe if kind == "pretrain" else finetune_recipe
    numbers: dict[str, Any] = {"lr": float(given["--lr"])} if "--lr" in given else {}
    if "--fold" in given:
        numbers["fold"] = int(given["--fold"])
    recipe = load(
        name,
        variant=given.get("--variant", ""),
        budget=given.get("--budget", "paper"),
        seed=int(given.get("--seed", 0)),
        data=given.get("--set"),
        **numbers,
    )
    described = to_json(recipe)
    assert identity_of(described) == recipe.id and recipe.id is not None and recipe.id.command == command
    assert replace(recipe, max_grad_norm=7.0).id is None  # no command makes it
    assert "id" not in to_json(replace(recipe, max_grad_norm=7.0))

    # Runs of the format before: the name alone, with or without a fold and a rate, and without fields of today.
    del described["id"]
    if described.get("epochs") and not described["epochs"]["test_side"]:
        del described["epochs"]["test_side"]
    described.pop("start_kind", None)
    for earlier in (recipe.name, recipe.name.partition("-lr")[0].partition("-fold")[0]):
        found = identity_of({**described, "name": earlier})
        assert found is not None and found.command == command
    assert identity_of({**described, "max_grad_norm": 7.0}) is identity_of({**described, "name": "mine"}) is None


def test_runs_of_the_same_values_are_one_run_whatever_they_are_called(data, runs):
    recipe = finetune_recipe("cifar10-4k", budget="smoke")
    described = to_json(recipe)
    assert differences({**described, "name": "other", "id": None}, recipe) == []
    assert differences({**described, "lr": 1.0}, recipe) == ["lr is 1.0 there, 0.002 requested"]
    assert differences({**described, "surprise": 1}, recipe) == ["surprise is 1 there, None requested"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("imagenet-animal-half-sgd-finetune", ("imagenet-animal", ("half", "sgd-finetune"))),
        ("imagenet-modern", ("imagenet", ("modern",))),
        ("stl10-random-he-fold3-lr0.006-try", ("stl10", ("random-he",))),
        ("mine", ("", ())),
        ("cifar10-mine", ("", ())),
    ],
)
def test_names_of_earlier_runs_are_understood(name, found):
    assert split_name(name) == found


def test_a_table_lists_the_commits_and_the_options_of_its_runs(data, tmp_path, monkeypatch):
    monkeypatch.setattr("skipae_train.trainer.commit", lambda: "aaaa")
    Bench("smoke", 1, data, tmp_path / "runs", RUN_OPTIONS).pretrained("imagenet-animal")
    monkeypatch.setattr("skipae_train.trainer.commit", lambda: "bbbb with changes")
    threads = torch.get_num_threads()
    reproduce("fig5", "smoke", data, tmp_path, tmp_path / "runs", run_options=replace(RUN_OPTIONS, threads=threads))
    described = json.loads((tmp_path / "result.json").read_text())
    assert described["commit"] == "aaaa, bbbb with changes"
    options = f"--precision fp32 --device cpu --threads {threads}"
    assert described["command"] == f"skipae-train reproduce fig5 --budget smoke --seeds 1 --data DATA {options}"


def test_a_killed_run_that_ends_at_another_commit_lists_both(data, tmp_path, monkeypatch):
    recipe = pretrain_recipe("cifar10-4k", budget="smoke")
    for commit, run_options in (
        ("aaaa", replace(RUN_OPTIONS, stop_at=2)),
        ("bbbb", RUN_OPTIONS),
        ("cccc", RUN_OPTIONS),
    ):
        monkeypatch.setattr("skipae_train.trainer.commit", lambda commit=commit: commit)
        pretrain(recipe, data, tmp_path, run_options)
    assert json.loads((tmp_path / "environment.json").read_text())["commit"] == "aaaa, bbbb"


def test_the_precision_is_chosen_once(monkeypatch):
    monkeypatch.setattr("skipae_train.machine.time.process_time", itertools.count().__next__)
    choose_training_precision.cache_clear()
    assert choose_training_precision("auto", "cpu") == "fp32"
    ever_faster = (step**0.5 for step in itertools.count())  # which bf16, tried last, would now gain by
    monkeypatch.setattr("skipae_train.machine.time.process_time", ever_faster.__next__)
    assert choose_training_precision("auto", "cpu") == "fp32"
    choose_training_precision.cache_clear()


def test_unknown_recipes_and_variants_are_refused_by_name():
    with pytest.raises(
        RecipeError, match=r"unknown recipe 'cifar' \(did you mean cifar10\?\); use one of camvid-seg, cifar10, "
    ):
        pretrain_recipe("cifar")
    with pytest.raises(RecipeError, match="the recipe imagenet has no stage finetune; use one of camvid-seg"):
        finetune_recipe("imagenet")
    with pytest.raises(RecipeError, match="unknown variant 'big'; use one of no-shortcut"):
        finetune_recipe("cifar10", variant="big")
    for name, variant in (("natural", "context-encoder"), ("cifar10-4k", "context-encoder+gaussian")):
        with pytest.raises(RecipeError, match="no block masks: context-encoder is for recipes on sets"):
            pretrain_recipe(name, variant=variant)
    with pytest.raises(RecipeError, match="cifar10 does not pre-train on photos: this variant is for natural"):
        pretrain_recipe("cifar10", variant="high-rate")
    with pytest.raises(RecipeError, match="cifar10-4k has no Network-1, whose stages this variant makes wider"):
        pretrain_recipe("cifar10-4k", variant="wide-full")
    with pytest.raises(RecipeError, match="a Wide-ResNet always has its own shortcuts"):
        pretrain_recipe("cifar100", variant="wide-resnet+no-shortcut")
    assert finetune_recipe("cifar10", variant="+".join(VARIANTS)).name.startswith("cifar10-no-shortcut-random")


def test_variants_of_the_denoiser_change_what_their_names_say():
    base = pretrain_recipe("natural")
    found = {
        name: pretrain_recipe("natural", variant=name)
        for name in ("wide-full", "wide-half", "deep+residual", "deep-decoder", "no-norm", "adam", "large-patches")
    }
    shapes = {name: cast(Architecture, recipe.architecture) for name, recipe in found.items()}
    assert (shapes["wide-full"].widths, shapes["wide-half"].widths) == ((48, 64, 128, 256), (32, 96, 128, 256))
    assert shapes["wide-full"].n == 48 and shapes["deep+residual"].m == (4, 4, 4, 4)
    assert len(shapes["deep+residual"].units) == 4 and shapes["deep-decoder"].refine == 1
    assert shapes["no-norm"].norm == "none" and (found["adam"].muon_lr, base.muon_lr) == (0.0, 4e-3)
    small = cast(Architecture, pretrain_recipe("natural", variant="wide-full", budget="smoke").architecture)
    assert small.widths == (6, 8, 16, 32)
    seen = [sum(p.steps * p.batch * p.crop**2 for p in r.phases) for r in (base, found["large-patches"])]
    assert seen[1] == pytest.approx(seen[0], rel=0.1)


def test_the_run_of_another_recipe_is_refused(data, runs, tmp_path):
    bench = Bench("smoke", 1, data, runs, RUN_OPTIONS)
    at = bench.pretrained("cifar10-4k")
    other = Bench("smoke", 1, data, runs, RUN_OPTIONS)
    (tmp_path / "recipe.json").write_text(json.dumps({**json.loads((at / "recipe.json").read_text()), "lr": 1.0}))
    other.folder = lambda *_: tmp_path  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="holds a run of another recipe"):
        other.pretrained("cifar10-4k")
    assert replace(pretrain_recipe("cifar10-4k"), seed=1) == pretrain_recipe("cifar10-4k", seed=1)
