"""The loop of pre-training and fine-tuning: killed runs, several processes, full disks."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._dynamo.utils
from accelerate.state import AcceleratorState

import make_sets
from skipae import SkipaeError
from skipae_train.cli import cli
from skipae_train.corruption import BlockMask, GaussianNoise
from skipae_train.errors import TrainingError
from skipae_train.finetune import finetune
from skipae_train.interrupts import StopRequest
from skipae_train.machine import RunOptions
from skipae_train.pretrain import pretrain
from skipae_train.recipes import finetune_recipe, pretrain_recipe
from skipae_train.rng import SampleRandom
from skipae_train.trainer import Trainer

RUN_OPTIONS = RunOptions(precision="fp32", device="cpu", quiet=True, save_minutes=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_sets.cifar(tmp_path_factory.mktemp("data"), train=200)


def recipes(epochs=2):
    """Two small ones with all that is random in them: order, crops, flips, corruption, a frozen beginning, EMA."""
    ae, classifier = pretrain_recipe("cifar10-4k", budget="smoke"), finetune_recipe("cifar10-4k", budget="smoke")
    assert ae.epochs is not None
    ae = replace(ae, epochs=replace(ae.epochs, count=epochs, flip=True))
    classifier = replace(
        classifier, epochs=replace(classifier.epochs, count=2 * epochs, flip=True), labeled=20, freeze=1, ema_decay=0.9
    )
    return ae, classifier


def run(data, out, run_options=RUN_OPTIONS, epochs=2):
    ae, classifier = recipes(epochs)
    pretrain(ae, data, out / "ae", run_options)
    return finetune(classifier, data, out / "classifier", run_options, start=out / "ae")


def state(out):
    return torch.load(out / "state.pt", weights_only=True)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    run(data, out)
    return out


def test_the_network_may_be_compiled(data, whole, tmp_path, monkeypatch):
    """By torch.compile with the backend that accelerate is told."""
    torch._dynamo.utils.counters.clear()
    AcceleratorState._reset_state(True)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "eager")
    try:
        pretrain(recipes()[0], data, tmp_path, RUN_OPTIONS)
    finally:
        AcceleratorState._reset_state(True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    same = state(whole / "ae")["network"]
    assert all(torch.equal(value, same[name]) for name, value in state(tmp_path)["network"].items())


SCRIPT = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import test_loop
test_loop.run(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def start(tmp_path, data, out, *launcher):
    (tmp_path / "script.py").write_text(SCRIPT)
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, tmp_path / "script.py", tests, data, out]
    return subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize(("killed", "after"), [("ae", 3), ("classifier", 7)])
def test_a_run_killed_at_any_time_ends_with_the_same_weights(tmp_path, data, whole, killed, after):
    process = start(tmp_path, data, tmp_path)
    environment = tmp_path / killed / "environment.json"
    deadline = time.monotonic() + 300
    while not (environment.exists() and json.loads(environment.read_text())["steps done"] >= after):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert not (tmp_path / "classifier" / "result.json").exists()
    run(data, tmp_path)
    for name in ("ae", "classifier"):
        expected, found = state(whole / name), state(tmp_path / name)
        assert ("average" in expected) == (name == "classifier")  # whose recipe has ema
        for part in expected.keys() & {"network", "average"}:
            assert {k for k, v in expected[part].items() if not torch.equal(v, found[part][k])} == set()
        scores = [json.loads((out / name / "result.json").read_text())["value"] for out in (whole, tmp_path)]
        assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "ae"), (signal.SIGTERM, "classifier"), (signal.SIGHUP, "ae")]
)
def test_a_signal_saves_the_state_and_says_how_to_continue(tmp_path, data, whole, number, name, monkeypatch, capfd):
    """Sent to this process in the middle of a step; the run then ends as one that was left alone."""
    words = {
        "ae": ["pretrain", "cifar10-4k"],
        "classifier": ["finetune", "cifar10-4k", "--start", str(whole / "ae"), "--lr", "0.001"],
    }[name]
    options = ["--data", str(data), "--budget", "smoke", "--precision", "fp32", "--device", "cpu"]
    options += ["--save-minutes", "1000", "--quiet"]
    update = Trainer.update

    def end(out, *, stopped_by=None):
        """Exit code and what standard error says of a command, which a signal may stop in its third step."""

        def interrupted(trainer):
            if stopped_by and trainer.step == 2:
                signal.raise_signal(stopped_by)
            update(trainer)

        monkeypatch.setattr(Trainer, "update", interrupted)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, "--out", str(out), *options])
        return ended.value.code, capfd.readouterr().err.strip()

    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        code, error = end(tmp_path / "run", stopped_by=number)
        assert code == 128 + number
        notice, _, message = error.partition("\n")
        assert notice.startswith("saving the state after this step")
        done = json.loads((tmp_path / "run" / "environment.json").read_text())
        assert done["steps done"] == 3 < done["steps"] and state(tmp_path / "run")["step"] == 3
        told = f"stopped at step 3 of {done['steps']}; the state is saved in {tmp_path / 'run'}; to continue, run: "
        command = shlex.join(["skipae-train", *words, "--out", str(tmp_path / "run"), *options])
        assert message == f"skipae-train: error: {told}{command}"
        assert not (tmp_path / "run" / ".lock").exists()
        for out in ("run", "alone"):
            assert end(tmp_path / out) == (0, "")
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    logs = [
        [{**row, "seconds": ""} for row in csv.DictReader((tmp_path / out / "log.csv").read_text().splitlines())]
        for out in ("alone", "run")
    ]
    assert logs[0] == logs[1] and "3" not in [row["step"] for row in logs[0]]  # so a mean has losses of both parts
    expected, found = (state(tmp_path / out)["network"] for out in ("alone", "run"))
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


STUCK = """
import sys, time
from skipae_train import trainer
from skipae_train.cli import main

def stuck(self, asked_to_stop):
    print("step", flush=True)
    time.sleep(1000)
    while True:  # a signal's handler ends the sleep, and no more
        time.sleep(1)

trainer.Trainer.compute_gradients = stuck
main()
"""


def test_a_second_signal_ends_at_once(tmp_path, data):
    options = ["--data", str(data), "--budget", "smoke", "--precision", "fp32", "--device", "cpu", "--quiet"]
    words = ["pretrain", "cifar10-4k", "--out", str(tmp_path / "run"), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, *words],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "step\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert process.stderr.readline().startswith("saving the state after this step; press Ctrl-C again")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM


def test_an_ignored_signal_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as request:
            signal.raise_signal(signal.SIGHUP)
        assert request.number is None and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    handler = signal.getsignal(signal.SIGINT)
    with StopRequest():
        pass
    assert signal.getsignal(signal.SIGINT) is handler


def test_two_processes_give_what_one_that_accumulates_gives(tmp_path, data, whole):
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    port = ("--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no")
    process = start(tmp_path, data, tmp_path / "two", *launcher, *port)
    output = process.communicate(timeout=600)[0].decode()
    assert process.returncode == 0, output
    run(data, tmp_path / "one", replace(RUN_OPTIONS, accumulate=2))
    for name in ("ae", "classifier"):
        one, two, unlike = (state(out / name)["network"] for out in (tmp_path / "one", tmp_path / "two", whole))
        for key in one:
            if "tracked" not in key:
                torch.testing.assert_close(
                    {key: two[key]}, {key: one[key]}, rtol=1e-4, atol=1e-5
                )  # which names the key
        # Batch norm sees parts, so the same batch in one piece gives something else.
        assert max(float((one[k] - unlike[k]).abs().max()) for k in one if "running_mean" in k) > 1e-4
    assert "2 processes" in json.loads((tmp_path / "two" / "ae" / "environment.json").read_text())["hardware"]


def test_a_batch_that_cannot_be_cut_evenly_is_refused(tmp_path, data):
    with pytest.raises(
        TrainingError, match="a batch of 4 cannot be cut evenly for 1 processes that accumulate 3 parts"
    ):
        pretrain(recipes()[0], data, tmp_path, replace(RUN_OPTIONS, accumulate=3))


def test_a_disk_that_fills_keeps_the_last_good_state(tmp_path, data, whole, monkeypatch):
    stop = replace(RUN_OPTIONS, stop_at=3)
    classifier = recipes()[1]
    finetune(classifier, data, tmp_path, stop, start=whole / "ae")
    kept = {name: (tmp_path / name).read_bytes() for name in ("state.pt", "recipe.json", "environment.json", "log.csv")}
    save = torch.save

    def full(value, file):
        save(value, file)
        file.truncate(1000)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(SkipaeError, match=r"cannot write .*state\.pt: No space left"):
            finetune(classifier, data, tmp_path, RUN_OPTIONS, start=whole / "ae")
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert not list(tmp_path.glob(".skipae-*"))
    finetune(classifier, data, tmp_path, RUN_OPTIONS, start=whole / "ae")
    expected = state(whole / "classifier")["network"]
    assert all(torch.equal(v, expected[k]) for k, v in state(tmp_path)["network"].items())


def test_every_run_shows_its_curves_and_pictures(whole):
    for name, pictures in (("ae", True), ("classifier", False)):
        files = {
            str(p.relative_to(whole / name)).partition("events")[0] for p in (whole / name).rglob("*") if p.is_file()
        }
        assert {"curves.png", "log.csv", "result.json", "environment.json", "tensorboard/"} <= files
        assert any(file.startswith("pictures/") for file in files) == pictures


@pytest.mark.parametrize("corruption", [GaussianNoise((30, 30)), BlockMask("big"), BlockMask("small")])
def test_corruption_depends_on_seed_epoch_and_sample_not_on_the_batch(corruption):
    images = torch.rand(6, 3, 24, 24)
    together = corruption(images, SampleRandom(1, 2, torch.arange(6)))
    order = torch.tensor([4, 1])
    assert torch.equal(corruption(images[order], SampleRandom(1, 2, order)), together[order])
    for other in (SampleRandom(2, 2, torch.arange(6)), SampleRandom(1, 3, torch.arange(6))):
        assert not torch.equal(corruption(images, other), together)


def test_random_numbers_of_samples_are_uniform_normal_and_unrelated():
    random = SampleRandom(0, 0, torch.arange(2000))
    uniform, normal, again = random.rand(50), random.randn(50), random.rand(50)
    assert uniform.min() >= 0 and uniform.max() < 1
    assert abs(float(uniform.mean()) - 0.5) < 0.005 and abs(float(uniform.var()) - 1 / 12) < 0.002
    assert abs(float(normal.mean())) < 0.01 and abs(float(normal.var()) - 1) < 0.02
    assert abs(float((normal**4).mean()) - 3) < 0.15
    for other in (again, uniform.roll(1, 0), uniform.roll(1, 1)):
        assert abs(float(torch.corrcoef(torch.stack([uniform.flatten(), other.flatten()]))[0, 1])) < 0.02
