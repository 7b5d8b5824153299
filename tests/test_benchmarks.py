"""The benchmarks whose numbers the results quote, on tiny sets."""

import csv
import io
import itertools
import json
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import make_sets
from skipae_train.evaluate import PsnrScore, best_setting, record_scores
from skipae_train.export import export
from skipae_train.machine import RunOptions
from skipae_train.networks import AutoEncoder
from skipae_train.pretrain import pretrain
from skipae_train.recipes import pretrain_recipe
from skipae_train.rivals import FFDNET_CHANNELS
from skipae_train.run_folder import load_state
from skipae_zoo import Architecture, network_1, network_2

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(script: str, *arguments: object, code: int = 0) -> str:
    """Run a benchmark in this process, since loading torch takes longer than most of them; what it prints.

    With a ``code`` other than 0 it must end with that code; what it prints on standard error is returned.
    """
    out, error, ended = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        try:
            runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
        except SystemExit as stop:
            ended = int(stop.code or 0)
    assert ended == code, error.getvalue()
    return error.getvalue() if code else out.getvalue()


@pytest.mark.parametrize(("data_set", "recipe"), [("cifar10", "cifar10-4k"), ("voc07", "imagenet")])
def test_linear_probes_of_every_layer(data_set, recipe, tmp_path):
    data, network = make_sets.everything(tmp_path / "data"), pretrain_recipe(recipe, budget="smoke")
    assert isinstance(network.architecture, Architecture)
    pretrain(network, data, tmp_path / "run", RunOptions(precision="fp32", device="cpu", quiet=True))
    restored = PsnrScore("Gaussian, sigma 25", 4, 20.0, 25.0, 1.0, "skipae-train evaluate")
    record_scores(tmp_path / "run", "toy set", [restored])
    said = run(
        "linear_probe.py", tmp_path / "run", "--set", data_set, "--data", data, "--side", 40,
        "--out", tmp_path / "x.csv", "--steps", 3, "--record",
    )  # fmt: skip
    record_scores(tmp_path / "run", "toy set", [restored])  # of either kind, in either order
    record_scores(tmp_path / "run", "toy set", [replace(restored, command="skipae-train evaluate --precision int8")])
    recorded = json.loads((tmp_path / "run" / "training" / "metrics.json").read_text())
    assert [row["set"] for row in recorded] == [data_set, "toy set", "toy set"]
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    layers = len(network.architecture.layers)
    expected = ["raw pixels"] + ["run"] * 2 * layers + ["run, random weights"] * 2 * layers
    assert [row["features"] for row in rows] == expected
    assert rows[0]["numbers"] == str(3 * 32**2)
    assert int(rows[2]["numbers"]) == 4 * int(rows[1]["numbers"]) == 4 * network.architecture.layers[0].channels
    assert all(0 <= float(row["test"]) <= 100 for row in rows)
    assert said.count("chosen by the held-out images") == 3


def test_linear_probes_of_other_features(tmp_path, monkeypatch):
    data = make_sets.everything(tmp_path / "data")
    torch.manual_seed(0)
    network = AutoEncoder(network_1((1, 1, 0, 0), 4, topology="post"), init="he")
    export(network, tmp_path / "same", name="same", fill=(0.5, 0.5, 0.5), halo_images=[])
    graph = tmp_path / "same" / "onnx" / "features.onnx"

    def hog(image, pixels_per_cell, cells_per_block, channel_axis):
        assert image.shape == (40, 40, 3) and cells_per_block == (2, 2) and channel_axis == 2
        return image[: 40 // pixels_per_cell[0], 0, 0]

    feature = ModuleType("skimage.feature")
    monkeypatch.setattr(feature, "hog", hog, raising=False)
    monkeypatch.setitem(sys.modules, "skimage", ModuleType("skimage"))
    monkeypatch.setitem(sys.modules, "skimage.feature", feature)
    common = ["--set", "voc07", "--data", data, "--steps", 3]
    said = run(
        "linear_probe.py", tmp_path / "same", "--hog", "--rival", f"all={graph}", "--rival", f"one={graph}:enc2",
        *common, "--side", 40, "--out", tmp_path / "x.csv",
    )  # fmt: skip
    rows: dict[str, list[list[str]]] = {}
    for name, *row in csv.reader((tmp_path / "x.csv").read_text().splitlines()[1:]):
        rows.setdefault(name, []).append(row)
    assert list(rows) == ["raw pixels", "HOG", "all", "one", "same", "same, random weights"]
    assert [row[:3] for row in rows["HOG"]] == [["cells of 8", "", "5"], ["cells of 16", "", "2"]]
    assert [row[:3] for row in rows["all"]] == [row[:3] for row in rows["same"]]  # the same network
    assert [float(row[4]) for row in rows["all"]] == pytest.approx([float(row[4]) for row in rows["same"]], abs=1)
    assert rows["one"] == [row for row in rows["all"] if row[0] == "enc2"]
    assert "HOG: " in said and said.count("chosen by the held-out images") == 6
    for words, message in (
        (["--side", 16, "--hog"], "16 is too small for --hog; use 32 or more"),
        (["--side", 40, "--rival", graph], "use NAME=FILE.onnx[:VALUE,...]"),
        (["--side", 40, "--rival", f"one={graph}:enc2,enc99"], "has no value enc99"),
    ):
        assert message in run("linear_probe.py", *common, *words, code=2)
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    assert "pip install scikit-image" in run("linear_probe.py", *common, "--side", 40, "--hog", code=2)


def test_noise_statistics_of_photos_without_shadows(tmp_path):
    rng = np.random.default_rng(0)
    for number, kind in itertools.product((1, 2), ("mean", "real")):
        pixels = np.clip(rng.normal(170, 5, (128, 128, 3)), 100, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"Sony_toy_{number}_{kind}.png")
    printed = run("noise_statistics.py", f"Bright={tmp_path}", "--out", tmp_path / "out", "--crops", 1)
    rows = {line.split(" | ")[0].strip("| "): line for line in printed.splitlines()}
    assert rows["shift"].endswith("| - | - |") and "%" in rows["sd"]
    assert (tmp_path / "out" / "statistics.png").exists()


def test_the_report_of_a_gpu_with_the_cpu_in_its_place(tmp_path):
    said = run("gpu.py", "--out", tmp_path / "report", "--device", "cpu", "--quick")
    assert said.strip() == str(tmp_path / "report" / "report.md")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["doctor"]["devices"]["cpu"] == "works"
    rows = report["precision"]
    exact = [row["largest difference"] for row in rows if row["precision"] == "fp32"]
    assert len(exact) == 3 and max(exact) <= 1e-4
    (half,) = (row for row in rows if row["precision"] == "fp16")
    assert "device cpu does not compute in fp16" in half["refused"]
    (int8,) = (row for row in rows if row["precision"] == "int8")
    assert 0 < int8["largest difference"] < 0.1
    assert report["seconds per megapixel"][0]["ratio"] > 0
    assert report["features per second"][0]["images per second"] > 0
    assert report["out of memory"]["said"] and report["out of memory"]["largest difference"] <= 1
    assert "| fp32 | whole |" in (tmp_path / "report" / "report.md").read_text()


def test_the_bake_off_trains_measures_and_continues(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8))
        photo = coarse.resize((70, 60), Image.Resampling.BICUBIC)
        for name in (f"photos/{number}.png", f"clean/{number}.png", f"pairs/A1_desk{number}_mean.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            photo.save(tmp_path / name)
        noisy = np.clip(np.asarray(photo) + rng.normal(0, 9, (60, 70, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / f"pairs/A1_desk{number}_real.png")
    folders = {name: tmp_path / name for name in ("photos", "clean", "pairs", "out", "runs")}
    options = [part for name, folder in folders.items() for part in (f"--{name}", folder)]
    options += ["--every", 2, "--budget", "smoke", "--threads", 1, "--precision", "fp32"]
    run("bakeoff.py", *options, "--minutes", 0.02, "--variants", "base")
    finished = (tmp_path / "runs" / "base" / "run" / "state.pt").read_bytes()
    said = run("bakeoff.py", *options, "--minutes", 0.02, "--variants", "base,deep+residual")
    assert (tmp_path / "runs" / "base" / "run" / "state.pt").read_bytes() == finished
    rows = {row["variant"]: row for row in csv.DictReader((tmp_path / "out" / "bakeoff.csv").read_text().splitlines())}
    assert list(rows) == ["base", "deep+residual"]
    base, deep = rows.values()
    assert float(deep["GFLOP/MP"]) > 1.2 * float(base["GFLOP/MP"]) and int(deep["parameters"]) > int(base["parameters"])
    assert all(
        int(row["steps"]) > 1 and 5 < float(row["psnr25"]) < 60 and float(row["pairs"]) > 5 for row in rows.values()
    )
    assert "| deep+residual |" in said and (tmp_path / "out" / "bakeoff.png").exists()
    for stopped in (False, True):
        if stopped:
            (tmp_path / "runs" / "base" / "bakeoff.json").unlink()
        refused = run("bakeoff.py", *options, "--minutes", 1, "--variants", "base", code=2)
        assert "is a run of 0.02 minutes, not 1: give another --runs" in refused


def test_fine_tuning_compares_masks_and_rates_of_the_encoder_and_continues(tmp_path):
    data, options = make_sets.cifar(tmp_path / "data"), RunOptions(precision="fp32", device="cpu", quiet=True)
    for name, variant in (("with", ""), ("without", "no-shortcut")):
        pretrain(pretrain_recipe("cifar10-4k", variant=variant, budget="smoke"), data, tmp_path / name, options)
    given: list[object] = ["--data", data, "--with", tmp_path / "with", "--without", tmp_path / "without"]
    given += ["--budget", "smoke", "--frozen", 1, "--epochs", 1, "--threads", 1, "--seeds", 1]
    given += ["--out", tmp_path / "out", "--runs", tmp_path / "runs"]
    run("finetuning.py", *given, "--experiment", "masks")
    states = {path: path.read_bytes() for path in tmp_path.glob("runs/masks/*/state.pt")}
    assert len(states) == 8
    said = run("finetuning.py", *given)
    assert all(path.read_bytes() == before for path, before in states.items())
    assert "| pre-trained with shortcuts |" in said and "the same for all seeds" in said

    def recipe(folder: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tmp_path / "runs" / folder / "recipe.json").read_text())
        return found

    for weights in ("random", "random-he", "no-shortcut", "shortcuts"):
        masked, clean = (recipe(f"masks/{weights}-{setting}-seed0") for setting in ("masks", "none"))
        assert masked["corruption"]["kind"] == "small" and clean["corruption"] is None
        assert {masked["freeze"], clean["freeze"]} == {0} and masked["lr"] == clean["lr"] == 2e-3
    assert recipe("masks/random-he-masks-seed0")["init"] == "he"

    def encoder(folder: str) -> torch.Tensor:
        weights, _ = load_state(tmp_path / "runs" / "encoder-rate" / folder)
        return torch.cat([v.flatten() for k, v in weights.items() if k.startswith("encoder.") and "conv" in k])

    start = torch.cat(
        [v.flatten() for k, v in load_state(tmp_path / "with")[0].items() if k.startswith("encoder.") and "conv" in k]
    )
    moved = [float((encoder(f"shortcuts-{rate}-seed0") - start).abs().max()) for rate in ("0", "1e-05", "0.002")]
    assert moved[0] == 0 and 0 < moved[1] < 1e-4 < moved[2]
    table = (tmp_path / "out" / "encoder-rate.csv").read_text().splitlines()
    rates = list(csv.DictReader(table))
    assert len(rates) == 10 and all(0 <= float(row["held out, head alone"]) <= 100 for row in rates)
    heads = {(row["row"], row["held out, head alone"], row["loss, head alone"]) for row in rates}
    assert len(heads) == 2  # until then, the runs of a row are the same
    assert (tmp_path / "out" / "masks.png").exists() and (tmp_path / "out" / "encoder-rate.png").exists()
    refused = run("finetuning.py", *given, "--with", tmp_path / "with", "--seeds", 3, code=2)
    assert "--with is given 2 times: give one run for all seeds, or 3" in refused


def test_the_picture_sheet_has_the_crops_of_both_checkpoints_and_of_nlm(tmp_path):
    pytest.importorskip("cv2")
    torch.manual_seed(0)
    network = AutoEncoder(network_1((1, 1, 0, 0), 4, topology="post"), init="he")
    for name in ("old", "new"):
        export(network, tmp_path / name, name=name, fill=(0.5, 0.5, 0.5), halo_images=[])
        torch.nn.init.zeros_(network.last.weight)  # the new one returns its input
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (200, 210, 3), np.uint8)
    unpacked, clone = tmp_path / "data" / "a" / "unpacked", tmp_path / "data" / "a+cloned"
    for folder in (unpacked, clone):
        folder.mkdir(parents=True)
        Image.fromarray(photo).save(folder / "a.png")
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    (clone / "a.png").unlink()  # only in the history
    table, heads = tmp_path / "crops.tsv", "name\trepository\tpath\tleft\ttop\tjpeg\n"
    places = ["a/unpacked"] * 6 + ["a/cloned"]
    table.write_text(heads + "".join(f"crop {k}\t{place}\ta.png\t{k}\t8\t\n" for k, place in enumerate(places)))
    given = [tmp_path / "old", tmp_path / "new", "--clones", tmp_path / "data", "--crops", table]
    given += ["--out", tmp_path / "s"]
    said = run("picture_sheet.py", *given)
    assert said.split() == [str(tmp_path / name) for name in ("s-1.png", "s-2.png", "s.jpg")]
    assert (tmp_path / "s.jpg").stat().st_size < 400_000
    with Image.open(tmp_path / "s.jpg") as small:
        assert small.size == (88 + 6 * 196, 2 * (20 + 8 * 196))
    pages = [np.asarray(Image.open(tmp_path / f"s-{k}.png").convert("RGB")) for k in (1, 2)]
    assert [page.shape[1] for page in pages] == [88 + 6 * 196, 88 + 196]
    crop = photo[8:200, 6:198]
    rows = [pages[1][20 + 196 * row : 212 + 196 * row, 88:280] for row in range(8)]
    assert np.array_equal(rows[0], crop) and np.array_equal(rows[2], crop)
    assert not np.array_equal(rows[1], crop) and not np.array_equal(rows[3], crop)
    assert np.array_equal(rows[4], crop[64:128, 64:128].repeat(3, 0).repeat(3, 1))
    for row, message in (
        ("far\ta/cloned\ta.png\t19\t8\t", "(210 x 200): choose left up to 18 and top up to 8"),
        ("q\ta/cloned\ta.png\t0\t0\tbest", "the last three whole numbers"),
        ("gone\ta/cloned\tb.png\t0\t0\t", "has no b.png"),
        ("gone\tb/c\tb.png\t0\t0\t", "git clone https://github.com/b/c"),
    ):
        table.write_text(f"{heads}{row}\n")
        assert message in run("picture_sheet.py", *given, code=1)
    table.write_text(f"{heads}q\ta/cloned\ta.png\t0\t8\t30\n")
    run("picture_sheet.py", *given)
    stored = np.asarray(Image.open(tmp_path / "s-1.png").convert("RGB"))[20:212, 88:280]
    assert not np.array_equal(stored, photo[8:200, :192])


def test_biharmonic_inpainting_is_a_row_where_scikit_image_is_installed(tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    ramp = np.arange(20, 212, 2)[:, None, None] * np.ones((1, 112, 3))
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "skimage.restoration", None)
    rows = [line.split(" ")[1] for line in run("inpaint.py", tmp_path, "--method", "Telea").splitlines()[1:]]
    assert rows == ["method", "---", "Telea"]
    monkeypatch.setattr(sys, "argv", ["inpaint.py", str(tmp_path), "--method", "biharmonic"])
    with pytest.raises(SystemExit, match="pip install scikit-image"):
        runpy.run_path(str(BENCHMARKS / "inpaint.py"), run_name="__main__")
    filled = ModuleType("skimage.restoration")
    monkeypatch.setattr(filled, "inpaint_biharmonic", lambda photo, mask, channel_axis: (ramp + 1) / 255, raising=False)
    monkeypatch.setitem(sys.modules, "skimage.restoration", filled)
    said = run("inpaint.py", tmp_path, "--method", "biharmonic").splitlines()[-1].split("|")[1:-1]
    assert said[0].strip() == "biharmonic" and {cell.strip() for cell in said[1:]} == {"48.13"}  # by one


def test_denoisers_are_compared_file_for_file(tmp_path):
    pytest.importorskip("cv2")
    torch.manual_seed(0)
    network = AutoEncoder(network_1((1, 1, 0, 0), 4, topology="post"), init="he")
    torch.nn.init.zeros_(network.last.weight)  # returns its input
    export(network, tmp_path / "same", name="same", fill=(0.5, 0.5, 0.5), halo_images=[])
    photos, val = tmp_path / "data" / "polyu-real-noise", tmp_path / "data" / "denoise" / "BSDS500" / "val"
    photos.mkdir(parents=True)
    val.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k, camera in enumerate(["A1", "Canon80D", "Canon80D"]):
        clean = np.full((48, 40 + k, 3), 100, np.uint8)
        noisy = np.clip(clean + rng.normal(0, 8, clean.shape), 0, 255).astype(np.uint8)
        Image.fromarray(clean).save(photos / f"{camera}_wall_{k}_mean.png")
        Image.fromarray(noisy).save(photos / f"{camera}_wall_{k}_real.png")
    Image.fromarray(clean).save(val / "a.png")
    sets = [word for name in ("PolyU", "PolyU, Canon80D", "BSDS500 val, sigma 5") for word in ("--set", name)]
    for denoiser, name in ((tmp_path / "same", "same"), ("OpenCV-NLM", "nlm")):
        run("denoisers.py", "measure", denoiser, "--data", tmp_path / "data", *sets, "--out", tmp_path / f"{name}.json")
    sizes = list(itertools.pairwise(FFDNET_CHANNELS))
    weights = {f"model.{2 * k}.weight": torch.zeros(after, before, 3, 3) for k, (before, after) in enumerate(sizes)}
    biases = {f"model.{2 * k}.bias": torch.full((after,), 101 / 255) for k, (_, after) in enumerate(sizes)}
    torch.save(weights | biases, tmp_path / "ffdnet.pth")  # always 101, which is one more than the photos
    run(
        "denoisers.py", "measure", tmp_path / "ffdnet.pth", "--data", tmp_path / "data", "--set", "PolyU",
        "--out", tmp_path / "ffdnet.json",
    )  # fmt: skip
    said = run("denoisers.py", "compare", tmp_path / "same.json", tmp_path / "ffdnet.json")
    assert "| 48.13 (sigma = 3) |" in said
    found = json.loads((tmp_path / "same.json").read_text())["sets"]["PolyU, Canon80D"]
    assert found["files"] == [f"polyu-real-noise/Canon80D_wall_{k}_mean.png" for k in (1, 2)]
    assert found["before"] == found["after"]
    said = run("denoisers.py", "compare", tmp_path / "same.json", tmp_path / "nlm.json")
    rows = {cells[1]: cells[2:-1] for cells in ([c.strip() for c in line.split("|")] for line in said.splitlines())}
    assert rows["set"] == ["files", "noisy", "same", "nlm", "nlm - same (files ahead)"]
    assert [rows[name][0] for name in sets[1::2]] == ["3", "2", "1"]
    for name in sets[1::2]:
        count, before, same, nlm, gain = rows[name]
        assert before == same and "(h = " in nlm
        assert float(gain.split()[0]) > 3 and gain.endswith(f"({count})")


def test_the_best_setting_of_a_rival_is_not_only_that_of_every_tenth_file(tmp_path):
    pairs, calls = [], dict.fromkeys(range(12), 0)
    for k in range(20):  # noisy 100; clean 103 in every tenth file, else 108
        for name, value in (("clean", 103 if k % 10 == 0 else 108), ("noisy", 100)):
            Image.new("RGB", (4, 4), (value, value, value)).save(tmp_path / f"{k}{name}.png")
        pairs.append((tmp_path / f"{k}clean.png", tmp_path / f"{k}noisy.png"))

    def brighter(by):
        def denoise(pixels):
            calls[by] += 1
            return pixels + np.uint8(by) + (np.arange(4)[:, None, None] == 0).astype(np.uint8)

        return denoise

    setting, scores = best_setting({f"by {by}": brighter(by) for by in calls}, pairs)
    assert setting == "by 8" and len(scores.after) == 20
    assert calls == {by: 2 + (20 if 2 <= by <= 9 else 0) for by in calls}


def test_what_the_tables_cost():
    lines = [line.split("|")[1:-1] for line in run("cost.py", "--seeds", 1).splitlines()[2:]]
    cost = {cells[0].strip(): [float(cell.replace(",", "")) for cell in cells[1:]] for cells in lines}
    assert set(cost) == {"table1", "table2", "table3", "table4", "table5", "fig4"}
    # Table 2 once: two pre-trainings; four rows of three tries and one run.
    assert cost["table2"][0] == 2 + 4 * 4
    # By hand: forward and backward through Network-2's convolutions, and through the decoder that mirrors them.
    encoder = 0.0
    for layer in network_2(96).layers:
        height, width = layer.output_size(29, 29)
        encoder += 3 * 2 * layer.kernel**2 * layer.in_channels * layer.channels * height * width
    assert cost["table2"][3] * 1e15 == pytest.approx(
        2 * 120 * 50_000 * 2 * encoder + 16 * 200 * 4000 * encoder, rel=0.02
    )


def test_spinning_and_sleeping_threads():
    said = run("spinning.py", "--size", 64, "--rounds", 1, "--threads", 1, 2).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said if line.startswith("| ")][2:]
    assert [row[:3] for row in rows] == [
        [precision, threads, machine]
        for precision in ("fp32", "int8")
        for threads in "12"
        for machine in ("idle", "one core busy")
    ]
    assert all(float(row[5].split()[0]) > 0 for row in rows)
    assert [line.split(":")[0] for line in said[-2:]] == ["idle", "one core busy"]
    pair = runpy.run_path(str(BENCHMARKS / "spinning.py"))["pair"]
    options = [model.net.graph.open().get_session_options() for model in pair("int8", 2)]
    assert [each.get_session_config_entry("session.intra_op.allow_spinning") for each in options] == ["1", "0"]


@pytest.mark.parametrize(
    ("words", "graphs"),
    [
        (("--size", 96), ("skipae-natural fp32", "skipae-natural int8")),
        (("skipae-imagenet", "--features", "--size", 64), ("skipae-imagenet fp32", "skipae-imagenet int8")),
    ],
)
def test_time_by_operator(words, graphs):
    said = run("operators.py", *words, "--runs", 2).splitlines()
    rows = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in said)}
    assert rows.pop("operator") == [part for graph in graphs for part in (f"{graph}: ms", "share", "nodes")]
    del rows["---"]
    whole = rows.pop("whole run")
    assert next(iter(rows)) in ("Conv", "QLinearConv")  # those that take longest come first
    for column in (0, 3):
        milliseconds, _, nodes = zip(
            *(cells[column : column + 3] for cells in rows.values() if cells[column]), strict=True
        )
        assert sum(map(int, nodes)) == int(whole[column + 2])
        assert 0 < sum(map(float, milliseconds)) <= 1.01 * float(whole[column])
    assert int(rows["Conv"][2]) > 5 and not rows["QLinearConv"][0] and int(rows["QLinearConv"][5]) > 5


def test_weaving_by_rows_changes_no_value():
    said = run("operators.py", "--by-rows", "--size", 61, "--runs", 1).splitlines()  # blocks at the border are cut
    assert [cell.strip() for cell in said[0].split("|")][8] == "skipae-natural fp32 by rows: ms"
    (woven,) = (line.split("|") for line in said if line.startswith("| DepthToSpace "))
    assert int(woven[4]) == 2 and not woven[10].strip()
    found = re.fullmatch(
        r"skipae-natural fp32 by rows: ([\d.]+) of the processor time, values differ by (\S+)", said[-1]
    )
    assert found is not None and float(found[1]) > 0 and float(found[2]) < 1e-6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_beyond_the_image_and_the_result(tmp_path):
    plot = tmp_path / "memory.svg"
    said = run(
        "denoise.py", "memory", "--side", 400, "--threads", 1, "--precision", "fp32", "int8", "--plot", plot
    ).splitlines()  # fmt: skip
    assert said[0] == "memory: 0.16 megapixels, 1 thread(s): image and result 0 MiB each"
    for line, precision in zip(said[1:3], ("fp32", "int8"), strict=True):
        peak, beyond, gigabytes = re.findall(r"[\d.]+(?= MiB| GB)", line)
        assert line.startswith(f"memory: {precision}: ") and 30 < float(peak) < 1000
        assert float(beyond) == pytest.approx(float(peak) - 2 * 3 * 400**2 / 2**20, abs=1.1)
        assert float(gigabytes) == pytest.approx(float(beyond) * 2**20 / 1e9, abs=0.01)
    assert said[3] == f"memory: plotted to {plot}" and "<svg" in plot.read_text()
