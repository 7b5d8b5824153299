"""Run folders that are damaged, hostile or in use: wherever one is read, one line and the right exit code."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch

import make_sets
from skipae import UsageError
from skipae.errors import SkipaeError
from skipae_train.card import make_card
from skipae_train.cli import cli
from skipae_train.earlier_runs import upgraded
from skipae_train.errors import RunError
from skipae_train.evaluate import PsnrScore, record_scores
from skipae_train.export import export_run
from skipae_train.finetune import finetune
from skipae_train.machine import RunOptions
from skipae_train.plots import draw_curves
from skipae_train.pretrain import pretrain
from skipae_train.probe import write_probes
from skipae_train.recipe import RecipeId
from skipae_train.recipes import finetune_recipe, pretrain_recipe
from skipae_train.reproduce import Cell, Page, _bars, _save, _write_table
from skipae_train.run_folder import locked, read_recipe, read_state, save_state
from skipae_train.run_log import RunLog
from skipae_train.tables import RESULTS

pytestmark = pytest.mark.usefixtures("without_curves")

NOTES = (
    "---\nlicense: cc0-1.0\n---\nFor tests only.\n\n"
    "## What it is for\n\nTests.\n\n## What it is not for\n\nUse.\n\n## Data and terms\n\nNone.\n"
)
RUN_OPTIONS = RunOptions(precision="fp32", device="cpu", quiet=True)
AE = pretrain_recipe("cifar10-4k", budget="smoke")
CLASSIFIER = finetune_recipe("cifar10-4k", budget="smoke")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_sets.cifar(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """A pre-training, and a classifier made of it."""
    out = tmp_path_factory.mktemp("runs")
    pretrain(AE, data, out / "ae", RUN_OPTIONS)
    finetune(CLASSIFIER, data, out / "classifier", RUN_OPTIONS, start=out / "ae")
    return out


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the pre-training, to damage."""
    shutil.copytree(runs / "ae", tmp_path / "ae")
    return tmp_path / "ae"


def fails(capfd, *words):
    """Exit code and message of a command, which is one line."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    error = capfd.readouterr().err
    assert error.startswith("skipae-train: error: ") and error.count("\n") == 1, error
    return ended.value.code, error


class Opens:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def nan(path):
    state = torch.load(path, weights_only=True)
    next(iter(state["network"].values())).fill_(float("nan"))
    torch.save(state, path)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def change(path, **values):
    """Other values of a JSON object; None takes one away."""
    fields = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))


DAMAGES = {
    "state.pt": {
        "missing": Path.unlink,
        "empty": lambda path: path.write_bytes(b""),
        "cut": lambda path: path.write_bytes(path.read_bytes()[:1000]),
        "text": lambda path: path.write_text("state"),
        "a program": lambda path: path.write_bytes(pickle.dumps(Opens(path.with_name("proof")))),
        "a list": lambda path: torch.save([1, 2], path),
        "no weights": lambda path: torch.save({"network": {"a": 1}, "step": 1}, path),
        "of another network": lambda path: torch.save(
            torch.load(path, weights_only=True) | {"network": {"a": torch.zeros(3)}}, path
        ),
        "NaN": nan,
        "a folder": lambda path: path.unlink() or path.mkdir(),
        "a pipe": pipe,
    },
    "recipe.json": {
        "missing": Path.unlink,
        "empty": lambda path: path.write_text(""),
        "cut": lambda path: path.write_text(path.read_text()[:100]),
        "a list": lambda path: path.write_text("[1]"),
        "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe"),
        "deep": lambda path: path.write_text("[" * 100_000),
        "no name": lambda path: change(path, name=None),
        "a seed in words": lambda path: change(path, seed="one"),
        "another architecture": lambda path: change(path, architecture=[1]),
        "two colors": lambda path: change(path, mean=[0.5, 0.5]),
    },
    "environment.json": {
        "cut": lambda path: path.write_text(path.read_text()[:30]),
        "no steps": lambda path: change(path, steps=None),
        "steps in words": lambda path: change(path, steps="all"),
        "more steps than there are": lambda path: change(path, **{"steps done": 10**9}),
    },
}
CASES = [(file, kind) for file, kinds in DAMAGES.items() for kind in kinds]


@pytest.mark.parametrize(("file", "kind"), CASES)
def test_a_damaged_run_is_one_line_wherever_it_is_read(file, kind, run, data, tmp_path, capfd):
    DAMAGES[file][kind](run / file)
    (run / "state.pt.previous").unlink(missing_ok=True)
    where = ("--data", data, "--out", tmp_path / "new")
    quiet = ("--budget", "smoke", "--device", "cpu", "--precision", "fp32", "--quiet")
    commands = [
        ("finetune", "cifar10-4k", "--start", run, *where, *quiet),
        ("probe", run, *where, *quiet),
        ("export", run, "--name", "made", "--out", tmp_path / "made"),
    ]
    if (file, kind) != ("recipe.json", "missing"):  # which is a folder of something else
        (run / "result.json").unlink()
        commands.append(("pretrain", "cifar10-4k", "--data", data, "--out", run, *quiet))
    for words in commands:
        code, error = fails(capfd, *words)
        refused = words[0] == "pretrain" and "another recipe" in error  # readable, but not what was asked for
        assert code == (2 if refused else 4), error
        assert file in error or refused
        assert "to start again" in error or "run it again" in error or "is not the folder of a run" in error or refused
    assert not (tmp_path / "made").exists() and not (tmp_path / "new").exists()
    assert not (run / "proof").exists()


@pytest.mark.parametrize("values", [{"crop": "29"}, {"labels": [1]}, {"colors": [[1, 2]]}, {"surprise": 1}])
def test_preprocessing_of_the_wrong_kind_is_not_exported(values, run, tmp_path, capfd):
    change(run / "preprocessing.json", **values)
    code, error = fails(capfd, "export", run, "--name", "made", "--out", tmp_path / "made")
    assert code == 4 and "preprocessing.json is damaged" in error


@pytest.mark.parametrize("values", [{"metric": None}, {"value": "high"}, {"classes": {"cat": "all"}}])
def test_a_result_of_the_wrong_kind_is_not_taken_for_one(values, runs, data, tmp_path, capfd):
    shutil.copytree(runs / "classifier", tmp_path / "run")
    change(tmp_path / "run" / "result.json", **values)
    words = ("finetune", "cifar10-4k", "--data", data, "--start", runs / "ae", "--budget", "smoke", "--quiet")
    code, error = fails(capfd, *words, "--out", tmp_path / "run")
    assert code == 4 and "result.json is damaged" in error


@pytest.mark.parametrize("kind", ["cut", "NaN", "missing"])
def test_a_run_continues_from_the_state_before_a_damaged_one(kind, data, tmp_path, runs, capfd):
    run = tmp_path / "run"
    pretrain(AE, data, run, replace(RUN_OPTIONS, save_minutes=0, stop_at=3))
    assert read_state(run / "state.pt.previous").step == 3  # the loop's last save, then the one at its end
    shutil.copyfile(run / "state.pt", tmp_path / "third")
    pretrain(AE, data, run, replace(RUN_OPTIONS, stop_at=4))
    assert read_state(run / "state.pt.previous").step == 3 and read_state(run / "state.pt").step == 4
    DAMAGES["state.pt"][kind](run / "state.pt")
    if kind != "missing":
        with pytest.raises(RunError, match=r"run the same command again, which continues from state\.pt\.previous"):
            read_state(run / "state.pt")
    capfd.readouterr()
    pretrain(AE, data, run, RUN_OPTIONS)
    error = capfd.readouterr().err
    assert str(run / "state.pt") in error and "continuing from state.pt.previous, step 3" in error
    expected = read_state(runs / "ae" / "state.pt").network
    assert all(torch.equal(value, expected[name]) for name, value in read_state(run / "state.pt").network.items())


def test_a_run_of_the_format_before_is_continued_exported_and_knows_its_command(runs, data, tmp_path):
    """Its recipe.json has no id, other names of fields, and lacks those that came later; so has its state."""
    run = tmp_path / "run"
    pretrain(AE, data, run, replace(RUN_OPTIONS, stop_at=3))
    described = json.loads((run / "recipe.json").read_text())
    assert AE.id is not None and described["id"] == json.loads(json.dumps(asdict(AE.id)))
    del described["id"], described["epochs"]["test_side"], described["muon_lr"]
    now = {"optimizer": "optimiser", "weight_decay": "decay", "ema_decay": "ema", "max_grad_norm": "clip"}
    earlier = json.dumps({now.get(name, name): value for name, value in described.items()})
    assert all(f'"{name}"' in earlier for name in now.values())
    (run / "recipe.json").write_text(earlier)
    state = torch.load(run / "state.pt", weights_only=True)
    torch.save({"optimisers": state.pop("optimizers"), **state}, run / "state.pt")
    assert read_recipe(run) == described
    assert upgraded({"labelled": 20}) == {"labeled": 20}
    pretrain(AE, data, run, RUN_OPTIONS)
    expected = read_state(runs / "ae" / "state.pt").network
    assert all(torch.equal(value, expected[name]) for name, value in read_state(run / "state.pt").network.items())
    assert RecipeId.from_json(read_recipe(run)["id"]) == AE.id  # it was written when the run continued

    (run / "recipe.json").write_text(earlier)
    finetune(CLASSIFIER, data, tmp_path / "classifier", RUN_OPTIONS, start=run)
    export_run(run, tmp_path / "made", name="made", halo_images=None)
    training = tmp_path / "made" / "training"
    assert read_recipe(training) == {**described, "id": json.loads(json.dumps(asdict(AE.id)))}
    (training / "notes.md").write_text(NOTES)
    record_scores(tmp_path / "made", "toy", [PsnrScore("sigma 25", 1, 20.0, 21.0, 0.0, "")])
    command = "(`skipae-train pretrain cifar10-4k --budget smoke --data DATA --out RUN`)"
    assert command in " ".join(make_card(tmp_path / "made").split())
    (training / "recipe.json").write_text(earlier)  # a checkpoint that was exported before
    assert command in " ".join(make_card(tmp_path / "made").split())


@pytest.mark.parametrize("values", [{"kind": "train"}, {"recipe": 1}, {"variants": None}, {"surprise": 1}])
def test_an_identity_of_the_wrong_kind_is_one_line(values, run, data, tmp_path, capfd):
    path = run / "recipe.json"
    change(path, id=json.loads(path.read_text())["id"] | values)
    code, error = fails(capfd, "export", run, "--name", "made", "--out", tmp_path / "made")
    assert code == 4 and "recipe.json is damaged" in error
    words = ("finetune", "cifar10-4k", "--data", data, "--start", run, "--budget", "smoke", "--out", tmp_path / "x")
    code, error = fails(capfd, *words)
    assert code == 4 and "recipe.json is damaged" in error


def test_a_damaged_log_is_named(run, data, capfd):
    (run / "result.json").unlink()
    (run / "log.csv").write_text("step,loss\nmany,1\n")
    quiet = ("--budget", "smoke", "--device", "cpu", "--precision", "fp32", "--quiet")
    code, error = fails(capfd, "pretrain", "cifar10-4k", "--data", data, "--out", run, *quiet)
    assert code == 4 and "log.csv is damaged" in error


def test_a_run_folder_is_not_a_checkpoint(run, capfd):
    for words in (["evaluate", run, "--clean", run], ["card", run]):
        code, error = fails(capfd, *words)
        assert code == 4 and "export it with 'skipae-train export'" in error


def test_a_state_is_on_the_disk_before_the_one_before_it_goes(run, monkeypatch):
    calls = []

    def noted(name, call, *words):
        calls.append(name)
        return call(*words)

    for name in ("fsync", "link", "replace"):
        monkeypatch.setattr(os, name, partial(noted, name, getattr(os, name)))
    save_state(run, read_state(run / "state.pt"))
    assert calls[0] == "fsync" and calls.index("link") > calls.index("fsync")
    assert read_state(run / "state.pt").step == read_state(run / "state.pt.previous").step == 6


@pytest.mark.parametrize("number", [1, 2, 5, -1])
def test_a_disk_that_is_full_at_any_write_of_a_state_is_named(number, run, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file, self.left = file, number

        def write(self, data):
            self.left -= 1
            if self.left == 0 or (number < 0 and len(data) < 100 and bytes(data[:4]) == b"PK\x05\x06"):  # the last
                raise OSError(28, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda values, file: save(values, Full(file)))
    with pytest.raises(SkipaeError, match=r"cannot write .*state\.pt: No space left on device"):
        save_state(run, read_state(run / "state.pt"))
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


HOLD = """
import sys, time
from pathlib import Path
from skipae_train.run_folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_runs_never_write_into_one_folder(data, tmp_path):
    out = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], env=environment, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError) as refused:
            pretrain(AE, data, out, RUN_OPTIONS)
        told = f"--out {out} is being written by another run, process {holder.pid} on "
        said = refused.value.command_line()
        assert said.startswith(told) and said.endswith("or use another --out")
        assert not (out / "state.pt").exists()
    finally:
        holder.kill()
        holder.communicate()
    pretrain(AE, data, out, RUN_OPTIONS)  # a killed run's lock is taken over
    assert not (out / ".lock").exists()


def test_a_run_that_is_refused_leaves_no_folder(tmp_path):
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "run"):
        _ = 1 / 0
    assert not (tmp_path / "run").exists() and time.monotonic() - started < 5


def _write_reproduced(out):
    _write_table("table2", RESULTS["table2"], Page(("accuracy",), [("row", [Cell("1", [2.0])])]), {"seeds": 1}, out)


@pytest.mark.parametrize(
    ("write", "names"),
    [
        (lambda out: draw_curves([{"step": "1", "loss": "1.5"}], out / "curves.png"), ["curves.png"]),
        (
            lambda out: RunLog(out, ["step", "loss"], 9).write({"step": 9, "loss": 1.0}, torch.zeros(3, 4, 4)),
            ["log.csv", "pictures/0000009.png"],
        ),
        (
            lambda out: write_probes(out / "probe", {"net": [{"layer": "enc1", "accuracy": 1.0, "psnr": 2.0}]}),
            ["probe.csv", "probe.png"],
        ),
        (_write_reproduced, ["table.csv", "table.md", "result.json"]),
        (lambda out: _save(torch.zeros(3, 4, 4))(out / "figure.png"), ["figure.png"]),
        (lambda out: _bars(Page(("a",), [("row", [Cell("1", [2.0])])]), out / "figure.png"), ["figure.png"]),
    ],
    ids=["curves", "log", "probe", "reproduced table", "reproduced picture", "reproduced bars"],
)
def test_a_disk_that_fills_keeps_the_earlier_plots_and_tables_whole(write, names, tmp_path, monkeypatch):
    write(tmp_path)
    earlier = {name: (tmp_path / name).read_bytes() for name in names}
    fsync, files = os.fsync, [len(names)]

    def full(number):  # each of the files in turn
        files[0] -= 1
        if files[0] == 0:
            raise OSError(28, "No space left on device")
        fsync(number)

    monkeypatch.setattr(os, "fsync", full)
    for count in range(1, len(names) + 1):
        files[0] = count
        with pytest.raises(SkipaeError, match="No space left on device"):
            write(tmp_path)
        assert {name: (tmp_path / name).read_bytes() for name in names} == earlier
        assert not list(tmp_path.rglob(".skipae-*"))
