import json
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from skipae import from_pretrained
from skipae_train.cli import cli, main
from skipae_train.evaluate import add_noise


def run(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((180, 170), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, photos):
    """What a user gets who follows the path: pretrain at the smoke budget, then export."""
    folder = tmp_path_factory.mktemp("run")
    trained = run(
        "pretrain", "natural", "--data", photos, "--out", folder / "run", "--budget", "smoke", "--precision", "fp32",
        "--device", "cpu", "--quiet",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    exported = run("export", folder / "run", "--out", folder / "tiny", "--name", "skipae-tiny", "--images", photos)
    assert exported.exit_code == 0, exported.output
    assert "ONNX Runtime differs from torch by" in exported.output
    return folder / "tiny"


def test_the_training_packages_are_named_where_they_lack(tmp_path):
    script = "import sys; sys.modules['torch'] = None; from skipae_train.cli import main; main()"
    for words in (["recipes"], ["probe", tmp_path, "--data", tmp_path, "--out", tmp_path / "run"]):
        found = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (1, "")
        assert re.fullmatch(
            r'skipae-train: error: this needs the module torch: pip install ".*\[train\]"\n', found.stderr
        )


def test_a_device_that_is_not_there(photos, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    words = ["pretrain", "natural", "--budget", "smoke", "--data", str(photos), "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--device", "cuda"])
    assert ended.value.code == 3
    assert "device cuda: torch" in capsys.readouterr().err and not (tmp_path / "run" / "state.pt").exists()
    assert "is not one of 'cpu', 'cuda'" in run(*words, "--device", "gpu:7").output


def test_what_was_trained_and_exported_can_denoise(checkpoint, photos):
    model = from_pretrained(checkpoint, device="cpu", threads=1)
    assert model.name == "skipae-tiny"
    assert model.denoise(Image.open(photos / "0.png")).size == (180, 170)


def test_scores_are_recorded_and_the_card_is_made_of_them(checkpoint, photos, tmp_path):
    for k, file in enumerate(sorted(photos.iterdir())):
        clean = Image.open(file)
        clean.save(tmp_path / f"cam{k}_mean.png")
        Image.fromarray(add_noise(np.asarray(clean), 10, file.stem, clipped=True)).save(tmp_path / f"cam{k}_real.png")
    for _ in range(2):  # the second run replaces the scores of the first
        done = run(
            "evaluate", checkpoint, "--clean", photos, "--sigma", 25, "--pairs", tmp_path, "--every", 2,
            "--record", "toy set", "--threads", 1,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
    scores = json.loads((checkpoint / "training" / "metrics.json").read_text())
    assert [(s["set"], s["label"], s["images"]) for s in scores] == [
        ("toy set", "Gaussian, sigma 25, 8-bit", 4),
        ("toy set", "camera noise", 2),
    ]
    assert 20 < scores[0]["before"] < 21
    assert 27.5 < scores[1]["before"] < 29
    assert scores[1]["command"] == "skipae-train evaluate skipae-tiny --pairs DIR --every 2"

    sections = "## What it is for\n\nTests.\n\n## What it is not for\n\nUse.\n\n## Data and terms\n\nNone.\n"
    notes = f"---\nlicense: cc0-1.0\n---\nFor tests only.\n\n{sections}"
    (checkpoint / "training" / "notes.md").write_text(notes)
    assert run("card", checkpoint).exit_code == 0
    card = (checkpoint / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: skipae\nlicense: cc0-1.0\n")
    assert f"| {scores[0]['std']:.2f} |" in card
    assert "For tests only." in card
    assert f"**{scores[0]['after']:.2f}**" in card
    for digest in json.loads((checkpoint / "config.json").read_text())["files"].values():
        assert digest in card


def test_unclipped_noise_is_the_papers_protocol(checkpoint, photos):
    done = run("evaluate", checkpoint, "--clean", photos, "--sigma", 50, "--unclipped", "--threads", 1)
    before = float(done.output.split(": ")[1].split(" ->")[0])
    assert before == pytest.approx(20 * np.log10(255 / 50), abs=0.05)


def test_each_command_is_described_in_whole_sentences():
    for width in (60, 80):
        listed = CliRunner().invoke(cli, ["--help"], terminal_width=width).output.partition("Commands:")[2]
        assert "..." not in listed
    assert {line.split()[0] for line in listed.splitlines() if line.strip()} >= {"pretrain", "export", "reproduce"}


def test_recipes_are_listed():
    lines = run("recipes").output.splitlines()
    assert [line.split()[0] for line in lines] == [
        "fig2", "fig3", "table1", "table2", "table3", "table4", "table5", "fig4", "fig5", "fig6", "suppC", "suppD",
        "natural",
    ]  # fmt: skip
    assert lines[3].startswith("table2  cifar10-4k: ")
    assert "Expected:" in run("recipes", "cifar10-4k").output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pretrain", "zzz", "--data", "{photos}", "--out", "x"], 2, "unknown recipe 'zzz'; use one of"),
        (
            ["pretrain", "imagnet", "--data", "{photos}", "--out", "x"],
            2,
            "'imagnet' (did you mean imagenet?); use one of",
        ),
        (
            ["pretrain", "natural", "--variant", "deap", "--data", "{photos}", "--out", "x"],
            2,
            "unknown variant 'deap' (did you mean deep?)",
        ),
        (["pretrain", "natural", "--data", "{empty}", "--out", "{empty}/run"], 5, "contains no images"),
        (
            ["finetune", "cifar10", "--data", "{empty}", "--out", "{empty}/x"],
            2,
            "'skipae-train pretrain cifar10 --data DATA --out RUN' makes one; --variant random needs none",
        ),
        (["finetune", "imagenet", "--data", "{empty}", "--out", "x"], 2, "the recipe imagenet has no stage finetune"),
        (
            ["finetune", "cifar10", "--fold", "1", "--data", "{empty}", "--out", "x"],
            2,
            "--fold is for recipes on STL-10",
        ),
        (["probe", "{empty}", "--data", "{empty}", "--out", "x"], 4, "is not the folder of a run"),
        (
            ["reproduce", "table9", "--data", "{empty}"],
            2,
            "unknown result 'table9' (did you mean table5?); use one of fig2, fig3",
        ),
        (["reproduce", "table2", "--budget", "smoke", "--data", "{empty}", "--out", "{empty}/r"], 5, "contains none"),
        (["export", "{empty}", "--out", "x", "--name", "x", "--images", "{photos}"], 4, "is not the folder of a run"),
        (
            ["export", "{empty}", "--out", "x", "--name", "x", "--quantize"],
            2,
            "--quantize needs --images FOLDER",
        ),
        (["quantize", "{empty}", "--photos", "{photos}"], 4, "is not a checkpoint folder"),
        (["quantize", "{tiny}", "--photos", "{photos}"], 5, "for the gate are too few; use at least 8 and 2"),
        (["evaluate", "skipae-natural"], 2, "nothing to measure"),
        (["evaluate", "no-such-model", "--clean", "{photos}"], 4, "unknown model 'no-such-model'"),
        (["evaluate", "skipae-natural", "--clean", "{photos}", "--record", "x"], 2, "--record needs the folder"),
        (["evaluate", "{tiny}", "--pairs", "{photos}"], 5, "contains no pair"),
        (
            ["evaluate", "{tiny}", "--clean", "{photos}", "--ffdnet", "{tiny}/config.json"],
            2,
            "--ffdnet needs --through",
        ),
        (
            ["evaluate", "{tiny}", "--clean", "{photos}", "--through-files", "--ffdnet", "{tiny}/config.json"],
            5,
            "does not contain the weights of FFDNet for color",
        ),
        (["card", "{empty}"], 4, "is not a checkpoint folder"),
    ],
)
def test_expected_errors_are_one_line(arguments, code, message, photos, checkpoint, tmp_path, capsys):
    places = {"photos": photos, "empty": tmp_path, "tiny": checkpoint}
    with pytest.raises(SystemExit) as caught:
        main([a.format(**places) for a in arguments])
    assert caught.value.code == code
    *notes, error = capsys.readouterr().err.splitlines()
    assert error.startswith("skipae-train: error: ") and message in error
    assert all(note.startswith(("--budget paper on a CPU takes", "run 1 of 14: ")) for note in notes)


def test_evaluate_what_the_command_line_writes(checkpoint, photos, tmp_path):
    pytest.importorskip("cv2")
    state = {}
    channels = [13, *[96] * 11, 12]
    for number, (before, after) in enumerate(pairwise(channels)):
        state[f"model.{2 * number}.weight"], state[f"model.{2 * number}.bias"] = (
            torch.zeros(after, before, 3, 3), torch.full((after,), 0.5),
        )  # fmt: skip
    torch.save(state, tmp_path / "ffdnet.pth")
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    rng = np.random.default_rng(0)
    for k, file in enumerate(sorted(photos.iterdir())[:2]):
        pixels = np.asarray(Image.open(file))
        Image.fromarray(pixels).save(pairs / f"A1_{k}_mean.JPG", quality=98)
        noisy = np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(pairs / f"A1_{k}_real.JPG", quality=90)
    done = run(
        "evaluate", checkpoint, "--pairs", pairs, "--camera", "A1", "--through-files", "--ffdnet",
        tmp_path / "ffdnet.pth", "--record", "mine",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    ours, nlm, ffdnet = done.output.splitlines()
    gain = {}
    for line in (ours, nlm, ffdnet):
        found = re.fullmatch(r" *(.*): ([\d.]+) -> ([\d.]+) dB over 2 images", line)
        assert found is not None, line
        gain[found[1]] = float(found[3]) - float(found[2])
    assert next(iter(gain)) == "camera noise, A1 files"
    assert "OpenCV NLM, h = " in nlm and gain[list(gain)[1]] > 5  # smooth pictures
    assert "FFDNet, sigma = " in ffdnet and gain[list(gain)[2]] < -5  # these weights make all pixels gray
    (recorded,) = json.loads((checkpoint / "training" / "metrics.json").read_text())[-1:]
    assert recorded["set"] == "mine" and recorded["command"].endswith("--pairs DIR --camera A1 --through-files")
    Image.open(pairs / "A1_0_mean.JPG").crop((0, 0, 40, 30)).save(pairs / "A1_0_mean.JPG")
    unequal = run("evaluate", checkpoint, "--pairs", pairs, "--through-files")
    assert unequal.exit_code == 5 and "have different sizes" in unequal.output
    clean = run("evaluate", checkpoint, "--clean", pairs, "--sigma", 20, "--through-files")
    assert clean.exit_code == 0 and clean.output.startswith("Gaussian, sigma 20, files: 2")


def test_export_needs_a_name_that_a_checkpoint_may_have(checkpoint, tmp_path):
    for arguments, message in (
        ((), "needs --name"),
        (("--name", "a/b"), "--name 'a/b' is a path"),
        (("--name", "\x1b[1m"), "has characters that cannot be printed"),
    ):
        refused = run("export", checkpoint, "--out", tmp_path, *arguments)
        assert refused.exit_code == 2 and message in refused.output and refused.output.count("\n") == 1
