"""``skipae features``, ``layers`` and ``visualize``: files, manifest, resume, errors."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import skipae
from conftest import failed, tiny_features, tiny_graph, write_checkpoint
from skipae import DeviceError, DrawOptions, Picture, UsageError, cli, from_pretrained
from skipae.batch import feature_formats, feature_store, feature_task
from skipae.commands import options
from skipae.images.read import OpenedImage
from skipae.tasks import features

Run = Callable[..., Result]


@pytest.fixture
def run(checkpoint: Path, folder: Path) -> Run:
    """Run ``skipae features`` with the tiny model on one thread of the CPU."""

    def invoke(*arguments: object, model: Path = checkpoint, **options: Any) -> Result:
        words = ["features", "--model", str(model), "--device", "cpu", "--threads", "1"]
        return CliRunner().invoke(cli.main, words + [str(word) for word in arguments], **options)

    return invoke


def photos(count: int, *sizes: tuple[int, int], into: str = "in") -> list[str]:
    """Noise, named in order, in turns of these sizes (height, width)."""
    random = np.random.default_rng(0)
    paths = [Path(into, f"{k:03}.png") for k in range(count)]
    for k, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (*(sizes or [(12, 9)])[k % max(len(sizes), 1)], 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return [str(path) for path in paths]


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def manifest(path: str = "out/_manifest.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def read_shard(path: Path, layers: list[str]) -> dict[str, np.ndarray]:
    """A shard's arrays, whatever its format."""
    if "{layer}" in path.name:
        return {name: np.load(str(path).replace("{layer}", name), mmap_mode="r") for name in layers}
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name] for name in layers}
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    if path.suffix == ".parquet":
        from pyarrow import parquet

        table = parquet.read_table(path)
        arrays = {}
        for name in layers:
            column = table.column(name).combine_chunks()
            shape = json.loads(table.schema.field(name).metadata[b"shape"])
            arrays[name] = np.asarray(column.flatten()).reshape(len(column), *shape)
        return arrays
    import h5py

    with h5py.File(path) as root:
        return {name: root[name][...] for name in layers}


def stored(layers: list[str], place: str = "out", name: str = "_manifest.jsonl") -> dict[str, dict[str, np.ndarray]]:
    """Features by image, as the manifest says where they are; each image once."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for entry in manifest(f"{place}/{name}"):
        if "row" in entry:
            assert entry["file"] not in found
            arrays = read_shard(Path(place, entry["shard"]), layers)
            found[entry["file"]] = {layer: arrays[layer][entry["row"]] for layer in layers}
    return found


def check(checkpoint: Path, found: dict[str, dict[str, np.ndarray]], paths: list[str], **options: Any) -> None:
    """What Model.features gives."""
    assert sorted(found) == sorted(paths)
    model = from_pretrained(checkpoint, device="cpu", threads=1)
    for path in paths:
        for layer, values in model.features(path, **options).items():
            assert found[path][layer].dtype == values.dtype
            np.testing.assert_allclose(found[path][layer], values[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", list(feature_formats.EXTENSIONS))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_formats(run: Run, checkpoint: Path, kind: str, dtype: str) -> None:
    paths = photos(7, (12, 9), (10, 13))
    layers = ["enc2", "enc1"]
    words = ["--layer", "enc2", "--layer", "enc1", "--pool", "spatial:2", "--dtype", dtype, "--shard-size", 3]
    result = run("in", "-o", "out", "--format", kind, *words)
    assert (result.exit_code, result.stderr) == (0, "")
    check(checkpoint, stored(layers), paths, layers=layers, pool="spatial:2", dtype=dtype)
    assert [entry["rows"] for entry in manifest() if "rows" in entry] == [3, 3, 1]


def test_a_shard_says_what_it_holds(run: Run) -> None:
    import h5py
    from pyarrow import parquet
    from safetensors import safe_open

    paths = photos(3)
    for kind in ("npz", "safetensors", "parquet", "hdf5"):
        assert run("in", "-o", kind, "--format", kind).exit_code == 0
    with np.load("npz/00000.npz") as arrays:
        assert list(arrays["files"]) == paths and json.loads(str(arrays["skipae"]))["pool"] == "avg"
    with safe_open("safetensors/00000.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["files"]) == paths
        assert json.loads(file.metadata()["skipae"])["layers"] == ["enc2"]
    table = parquet.read_table("parquet/00000.parquet")
    assert table.column("file").to_pylist() == paths
    assert str(table.schema.field("enc2").type).startswith("fixed_size_list<") and b"skipae" in table.schema.metadata
    with h5py.File("hdf5/00000.h5") as root:
        assert list(root["files"].asstr()) == paths and "checkpoint" in root.attrs["skipae"]


def identity(path: str) -> dict[str, Any]:
    status = Path(path).stat()
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return {"sha256": digest, "size": status.st_size, "mtime": status.st_mtime_ns}


def test_manifest(run: Run, checkpoint: Path) -> None:
    paths = photos(2)
    assert run("in", "-o", "out", "--l2", "--report", "report.jsonl").exit_code == 0
    first, *images, last = manifest()
    about = first["run"]
    net = hashlib.sha256((checkpoint / "onnx" / "features.onnx").read_bytes()).hexdigest()
    assert (about["model"], about["checkpoint"], about["layers"]) == ("tiny", net, ["enc2"])
    assert (about["pool"], about["l2"], about["dtype"], about["resize"], about["crop"]) == (
        "avg", True, "float32", None, None,
    )  # fmt: skip
    assert {"skipae", "onnxruntime", "pillow", "numpy", "device"} == set(about["versions"])
    for row, (path, entry) in enumerate(zip(paths, images, strict=True)):
        assert entry == {"file": path, **identity(path), "shard": "00000.npz", "row": row}
    assert last == {"shard": "00000.npz", "rows": 2, "files": {"00000.npz": identity("out/00000.npz")}}
    assert names("out") == ["00000.npz", "_manifest.jsonl"]  # no lock
    report = [json.loads(line) for line in Path("report.jsonl").read_text().splitlines()]
    assert [(line["input"], line["status"], line["output"], line["row"]) for line in report] == [
        (paths[0], "done", "out", 0),
        (paths[1], "done", "out", 1),
    ]


def test_a_file_as_output(run: Run, checkpoint: Path) -> None:
    paths = photos(3)
    assert run("in/000.png", "-o", "one.parquet").exit_code == 0
    assert run("in", "-o", "new/all.npz", "--shard-size", 2).exit_code == 0
    assert names("new") == ["all-00001.npz", "all.npz", "all.npz.manifest.jsonl"]
    check(checkpoint, stored(["enc2"], "new", "all.npz.manifest.jsonl"), paths)
    # Another format beside it is apart from it.
    for words in ([], ["--overwrite"]):
        assert run("in/000.png", "-o", "new/all.parquet", *words).exit_code == 0
    check(checkpoint, stored(["enc2"], "new", "all.parquet.manifest.jsonl"), paths[:1])
    check(checkpoint, stored(["enc2"], "new", "all.npz.manifest.jsonl"), paths)
    failed(run("in", "-o", "x.npz", "--format", "hdf5"), 2, "--format hdf5 does not suit -o x.npz")
    failed(
        run("in", "-o", "f.npz", "--precision", "fp16"), 2, "--precision fp16: features are computed in fp32 or int8"
    )
    failed(run("in", "-o", "f.npz", "--precision", "int8"), 3, "tiny has no int8 features: use --precision fp32")
    failed(run("in", "-o", "in/000.png"), 2, "-o in/000.png is a file; use a folder, or a name in .npz, .npy")
    failed(run("in", "-o", "f.hdf5"), 2, "-o f.hdf5: features cannot be written as .hdf5; use .npz, .npy, .safetensors")
    failed(run("in", "-o", "-"), 2, "-o - (standard output) cannot hold features")


def test_batches_and_sizes(run: Run, checkpoint: Path) -> None:
    paths = photos(9, (12, 9), (12, 9), (10, 13), (12, 9))
    for size in (1, 2, 16):
        assert run("in", "-o", f"out{size}", "--batch-size", size, "--pool", "none").exit_code == 0
        check(checkpoint, stored(["enc2"], f"out{size}"), paths, pool="none")
        # A shard holds one shape.
        assert [entry["rows"] for entry in manifest(f"out{size}/_manifest.jsonl") if "rows" in entry] == [7, 2]


def test_shards_by_size_in_bytes(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_task, "SHARD_BYTES", 100)
    paths = photos(8)
    assert run("in", "-o", "out", "--batch-size", 2).exit_code == 0  # 16 bytes a row: full at 112
    assert [entry["rows"] for entry in manifest() if "rows" in entry] == [7, 1]
    assert run("in", "-o", "more", "--batch-size", 2, "--pool", "spatial:2").exit_code == 0
    assert [entry["rows"] for entry in manifest("more/_manifest.jsonl") if "rows" in entry] == [2, 2, 2, 2]
    check(checkpoint, stored(["enc2"], "more"), paths, pool="spatial:2")


def test_unreadable_files_in_the_middle(run: Run, checkpoint: Path) -> None:
    paths = photos(30)
    Path(paths[10]).write_bytes(Path(paths[10]).read_bytes()[:60])
    Path(paths[20]).write_text("no image")
    Image.new("RGB", (3, 3)).save(paths[25])
    good = [path for k, path in enumerate(paths) if k not in (10, 20, 25)]
    result = run("in", "-o", "out", "--crop", 8, "--batch-size", 4, "--shard-size", 7, "--report", "r.jsonl")
    assert result.exit_code == 1
    assert [line.split(": ")[2] for line in result.stderr.splitlines()] == [paths[10], paths[20], paths[25]]
    check(checkpoint, stored(["enc2"]), good, crop=8)
    errors = {entry["file"]: entry["error"] for entry in manifest() if "error" in entry}
    assert set(errors) == {paths[10], paths[20], paths[25]}
    assert errors[paths[25]] == "is 3 x 3 pixels, less than the crop of 8; use a larger resize"
    report = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert sorted(line["input"] for line in report if line["status"] == "failed") == sorted(errors)
    assert sorted(line["input"] for line in report if line["status"] == "done") == good


def test_an_image_that_fails_in_the_network_does_not_affect_its_batch(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipae.engine.session import Session

    paths = photos(6)
    bad = np.asarray(Image.open(paths[3]), np.float32)[0, 0] / 255
    run_all = Session.run_all

    def poisoned(self: Session, image: np.ndarray) -> dict[str, np.ndarray]:
        found = run_all(self, image)
        for k, pixels in enumerate(image):
            if np.allclose(pixels[:, 0, 0], bad):
                found["enc2"][k] = np.nan
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Session, "run_all", poisoned)
        failed(run("in", "-o", "out"), 1, f"{paths[3]}: the model's output is not finite")
    check(checkpoint, stored(["enc2"]), [*paths[:3], *paths[4:]])
    assert run("in", "-o", "out", "--resume").exit_code == 0  # a failed file is tried again
    check(checkpoint, stored(["enc2"]), paths)


def test_fail_fast(run: Run, checkpoint: Path) -> None:
    paths = photos(6)
    Path(paths[3]).write_text("no image")
    result = run("in", "-o", "out", "--fail-fast")
    failed(result, 1, paths[3], "stopped at the first failure; 2 image(s) are left")
    check(checkpoint, stored(["enc2"]), paths[:3])


def test_resume(run: Run, checkpoint: Path) -> None:
    paths = photos(10)
    assert run(*paths[:4], "-o", "out", "--shard-size", 2).exit_code == 0
    failed(run("in", "-o", "out"), 2, "-o out already holds features; use --resume to continue, or --overwrite")
    # What a kill leaves behind: a shard without lines, lines without the closing one, half a line.
    Path("out/00002.npz").write_bytes(b"half")
    with Path("out/_manifest.jsonl").open("a") as file:
        file.write(json.dumps({"file": paths[4], "sha256": "", "shard": "00002.npz", "row": 0}) + '\n{"file": "in/00')
    before = Path("out/00001.npz").read_bytes()
    result = run("in", "-o", "out", "--shard-size", 3, "--resume", "--report", "report.jsonl")
    assert (result.exit_code, result.stderr) == (0, "")
    check(checkpoint, stored(["enc2"]), paths)
    assert Path("out/00001.npz").read_bytes() == before
    assert Path("report.jsonl").read_text().count('"skipped"') == 4
    assert sum("run" in entry for entry in manifest()) == 2
    before = Path("out/_manifest.jsonl").read_bytes()
    assert run("in", "-o", "out", "--resume").exit_code == 0  # nothing is left to do
    assert Path("out/_manifest.jsonl").read_bytes() == before
    failed(run("in", "-o", "out", "--resume", "--overwrite"), 2, "use only one of them")


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_resume_makes_shards_again_that_are_not_what_was_written(run: Run, checkpoint: Path, kind: str) -> None:
    paths = photos(8)
    words = ["in", "-o", "out", "--format", kind, "--shard-size", 2]
    assert run(*words).exit_code == 0
    before = names("out")
    gone, cut, foreign, _ = (Path("out", name) for name in before if name.startswith("0"))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:100])
    foreign.write_bytes(b"x" * foreign.stat().st_size)
    result = run(*words, "--dry-run", "--resume")
    assert result.stdout == "".join(f"{path} -> out\n" for path in paths[:6]) and not gone.exists()
    result = run(*words, "--resume", "--report", "report.jsonl")
    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) == 3
    for line, k in zip(result.stderr.splitlines(), range(3), strict=True):
        assert line.startswith(f"skipae: out/0000{k}.") and "is missing or has changed since it was written" in line
    assert names("out") == before
    check(checkpoint, stored(["enc2"]), paths)
    assert Path("report.jsonl").read_text().count('"skipped"') == 2
    foreign.touch()  # its time alone differs
    result = run(*words, "--resume")
    assert (result.exit_code, result.stderr) == (0, "")


def test_resume_makes_one_file_again(run: Run, checkpoint: Path) -> None:
    paths = photos(3)
    for damage in (Path.unlink, lambda path: path.write_bytes(b"cut")):
        assert run("in", "-o", "one.npz", "--overwrite").exit_code == 0
        damage(Path("one.npz"))
        assert run("in", "-o", "one.npz", "--resume").exit_code == 0
        assert sorted(path.name for path in Path().glob("*one*")) == ["one.npz", "one.npz.manifest.jsonl"]
        check(checkpoint, stored(["enc2"], ".", "one.npz.manifest.jsonl"), paths)


def test_resume_notices_images_that_changed(run: Run, checkpoint: Path) -> None:
    paths = photos(6)
    words = ["-o", "out", "--shard-size", 3]
    assert run("in", *words).exit_code == 0
    Image.new("RGB", (9, 12), "red").save(paths[1])
    Path(paths[5]).touch()  # the same bytes
    text = f"{paths[1]} changed since its features were extracted"
    before = stored(["enc2"])
    result = run(paths[1], *words, "--resume")  # the others of its shard would be lost
    assert result.exit_code == 0 and f"{text}, which are kept; pass all images of 00000.npz" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and stored(["enc2"]).keys() == before.keys()
    result = run("in", *words, "--resume", "--report", "report.jsonl")
    assert (result.exit_code, result.stderr) == (0, f"skipae: {text}: 00000.npz is extracted again\n")
    check(checkpoint, stored(["enc2"]), paths)
    assert Path("report.jsonl").read_text().count('"skipped"') == 3


def test_resume_notices_an_image_that_was_replaced_while_it_was_read(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = photos(2)
    decode = OpenedImage.decode

    def replaced(opened: OpenedImage) -> Picture:
        picture = decode(opened)
        shutil.copyfile(second, first)
        return picture

    with monkeypatch.context() as patch:
        patch.setattr(OpenedImage, "decode", replaced)
        assert run("in", "-o", "out").exit_code == 0
    result = run("in", "-o", "out", "--resume")
    assert result.exit_code == 0 and f"{first} changed since its features were extracted" in result.stderr
    check(checkpoint, stored(["enc2"]), [first, second])


def test_a_second_run_into_one_output_is_refused(run: Run, checkpoint: Path) -> None:
    paths = photos(2)
    for output in ("out", "one.npz"):
        first = feature_store.Store(output, ABOUT)
        first.begin({})
        place = next(iter(Path().rglob("*manifest.jsonl")))
        before = place.read_bytes()
        text = f"-o {output} is being written by another run, process {os.getpid()} on "
        failed(run("in", "-o", output, "--overwrite"), 2, text)
        assert place.read_bytes() == before
        first.end()
        assert not list(Path().rglob("*manifest.jsonl*"))
    # Both looked before either wrote.
    second = feature_store.Store("out", ABOUT)
    assert run("in", "-o", "out").exit_code == 0
    with pytest.raises(UsageError, match="another run has written output='out'"):
        second.begin({})
    second.end()
    check(checkpoint, stored(["enc2"]), paths)


def test_parts_of_a_killed_run_are_removed(run: Run) -> None:
    paths = photos(2)
    assert run(paths[0], "-o", "out").exit_code == 0
    Path("out/.skipae-0123456789abcdef.part").write_bytes(b"half")
    Path("out/._manifest.jsonl.lock").write_text("1 on here")
    assert run("in", "-o", "out", "--resume").exit_code == 0
    assert names("out") == ["00000.npz", "00001.npz", "_manifest.jsonl"]


def test_resume_does_not_mix(run: Run, tmp_path: Path) -> None:
    photos(2)
    words = ["in", "-o", "out", "--layer", "enc2"]
    assert run(*words).exit_code == 0
    before = Path("out/_manifest.jsonl").read_bytes()
    other = write_checkpoint(tmp_path / "other" / "tiny", tiny_graph(1), tiny_features(1))
    failed(run(*words, "--resume", model=other), 2, "-o out holds features with checkpoint ")
    for option, text in {
        "--layer=enc1": "layers enc2, not enc2, enc1, which cannot be mixed; use another -o, or --overwrite",
        "--pool=max": "pool avg, not max",
        "--l2": "l2 False, not True",
        "--dtype=float16": "dtype float32, not float16",
        "--resize=9": "resize None, not 9",
        "--format=npy": "format npz, not npy",
    }.items():
        failed(run(*words, option, "--resume"), 2, text)
    assert Path("out/_manifest.jsonl").read_bytes() == before


def test_overwrite(run: Run, checkpoint: Path) -> None:
    paths = photos(5)
    words = ["in", "-o", "out", "--format", "npy", "--layer", "enc1"]
    assert run(*words, "--layer", "enc2", "--shard-size", 2).exit_code == 0
    Path("out/mine.txt").touch()
    assert run(*words, "--overwrite").exit_code == 0
    assert names("out") == ["00000.enc1.npy", "_manifest.jsonl", "mine.txt"]
    check(checkpoint, stored(["enc1"]), paths, layers="enc1")


def test_overwrite_keeps_the_old_features_until_there_are_new_ones(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(2)
    assert run("in", "-o", "out").exit_code == run("in", "-o", "one.npz").exit_code == 0
    Path("bad.png").write_text("not an image")
    before = tree(folder)
    for output in ("out", "one.npz"):
        failed(run("bad.png", "-o", output, "--overwrite"), 5, "bad.png: is not a supported image")
        assert tree(folder) == before

    def fails(*_: object) -> None:
        raise DeviceError("the GPU is gone")

    monkeypatch.setattr(features.Extractor, "run", fails)
    failed(run("in", "-o", "out", "--overwrite", "--batch-size", 1), 3, "the GPU is gone", "the GPU is gone")
    assert tree(folder) == before


def write_manifest(*lines: object, path: str = "out/_manifest.jsonl") -> None:
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines))


ABOUT = {
    "model": "tiny", "checkpoint": "", "layers": ["enc2"], "pool": "avg", "l2": False, "dtype": "float32",
    "resize": None, "crop": None, "format": "npz",
}  # fmt: skip


def tree(folder: Path) -> dict[str, bytes | str]:
    """All that is below a folder, with where its symbolic links point."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


FOREIGN_NAMES = (
    "{victim}", "../victim.txt", "below/victim.txt", "../out/below/victim.txt", "mine.txt", "", ".", "..", "/",
    "00000.npz/../mine.txt", "mine.txt\0", "mine.txt\ud800", "\u0660" * 5 + ".npz", "00000.npz\n", 7, None, ["x"],
    "{layer}", "x" * 5000, "00000.{layer}.npz", "00000.h5",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_a_manifest_names_no_other_files_to_delete(run: Run, checkpoint: Path, folder: Path, kind: str) -> None:
    photos(1)
    net = hashlib.sha256((checkpoint / "onnx" / "features.onnx").read_bytes()).hexdigest()
    about = ABOUT | {"checkpoint": net, "format": kind}
    Path("out/below").mkdir(parents=True)
    for path in ("victim.txt", "out/mine.txt", "out/below/victim.txt", "out/00000.npz", "out/00000.enc2.npy"):
        Path(path).write_text("mine")
    shard = "00000.{layer}.npy" if kind == "npy" else "00000.npz"
    for foreign in FOREIGN_NAMES:
        name = str(folder / "victim.txt") if foreign == "{victim}" else foreign
        for layers, closing in (([name], shard), (["enc2"], name)):
            write_manifest({"run": about | {"layers": layers}}, {"shard": closing, "rows": 1})
            before = tree(folder)
            for mode in ("--overwrite", "--resume"):
                result = run("in/000.png", "-o", "out", "--format", kind, mode)
                failed(result, 2, "out/_manifest.jsonl is not a skipae manifest: ")
                assert len(result.stderr) < 400 and result.stderr.rstrip("\n").isprintable()
            assert tree(folder) == before


def test_a_file_that_is_not_a_manifest_is_kept(run: Run, folder: Path) -> None:
    photos(1)
    Path("out").mkdir()
    deep = b"[" * 100_000 + b"\n"
    lines = (b"mine\n", b"[]\n", b"7\n", b'{"rows": 1}\n', b'{"run": 1}\n', b'{"run": {}}\n', deep, b'{"run": \xff}\n')
    for text in lines:
        Path("out/_manifest.jsonl").write_bytes(text)
        for mode in ("--overwrite", "--resume"):
            failed(run("in", "-o", "out", mode), 2, "out/_manifest.jsonl is not a skipae manifest: ")
        assert Path("out/_manifest.jsonl").read_bytes() == text and names("out") == ["_manifest.jsonl"]


def test_symbolic_links_in_the_folder_are_not_followed(run: Run, folder: Path) -> None:
    photos(1)
    Path("out").mkdir()
    Path("list.jsonl").write_text("")  # what an interrupted run leaves is empty too
    Path("out/_manifest.jsonl").symlink_to(folder / "list.jsonl")
    for mode in ("--overwrite", "--resume"):
        failed(run("in", "-o", "out", mode), 2, "is not a skipae manifest: it is not a regular file")
    Path("out/_manifest.jsonl").unlink()
    Path("victim.npz").write_text("mine")
    Path("out/00000.npz").symlink_to(folder / "victim.npz")
    Path("out/00001.npz").symlink_to(folder / "victim.npz")
    write_manifest({"run": ABOUT}, *({"shard": f"0000{k}.npz", "rows": 1} for k in range(2)))
    assert run("in", "-o", "out", "--overwrite").exit_code == 0
    assert Path("victim.npz").read_text() == "mine"
    assert names("out") == ["00000.npz", "_manifest.jsonl"] and not Path("out/00000.npz").is_symlink()


def test_a_file_that_is_in_the_way(run: Run, checkpoint: Path) -> None:
    paths = photos(3)
    Path("out").mkdir()
    mine = Path("out/00000.npz")
    mine.write_text("mine")
    text = "out/00000.npz already exists; use --overwrite to replace it"
    for words in ([], ["--resume"], ["--dry-run"]):  # said before any work; without a manifest nothing there is ours
        failed(run("in", "-o", "out", *words), 2, f"-o out: {text}, or another -o")
    assert mine.read_text() == "mine" and names("out") == ["00000.npz"]
    mine.rename("out/00001.npz")
    failed(run("in", "-o", "out", "--shard-size", 2), 1, f"{paths[2]}: {text.replace('00000', '00001')}")
    assert Path("out/00001.npz").read_text() == "mine"
    Path("out/00001.npz").rename("out/00002.npz")
    paths = photos(5)
    failed(run("in", "-o", "out", "--resume", "--shard-size", 2), 1, f"{paths[4]}: {text.replace('00000', '00002')}")
    check(checkpoint, stored(["enc2"]), paths[:4])
    assert Path("out/00002.npz").read_text() == "mine"
    assert run("in", "-o", "out", "--overwrite").exit_code == 0
    check(checkpoint, stored(["enc2"]), paths)


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_a_disk_that_is_full_for_a_while(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    paths = photos(6)
    Path("in/0.png").write_text("no image")
    fsync = os.fsync
    calls = 0

    def full(number: int) -> None:
        nonlocal calls
        calls += os.path.samestat(os.fstat(number), Path("out/_manifest.jsonl").stat())
        if calls == 1:
            calls += 1
            raise OSError(28, "No space left on device")
        fsync(number)

    words = ["in", "-o", "out", "--format", kind, "--layer", "enc1,enc2"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        text = "cannot write out/_manifest.jsonl: No space left on device"
        failed(
            run(*words, "--shard-size", 2),
            1,
            *("in/0.png: is not a supported image", f"{paths[0]}: {text}", f"{paths[1]}: {text}"),
        )
    check(checkpoint, stored(["enc1", "enc2"]), paths[2:], layers=["enc1", "enc2"])
    assert [entry["file"] for entry in manifest() if "error" in entry] == ["in/0.png", *paths[:2]]
    assert [entry["rows"] for entry in manifest() if "rows" in entry] == [2, 2]
    assert len(names("out")) == (3 if kind == "npz" else 5)  # no shard that nothing vouches for
    assert run(*words, "--resume").exit_code == 1
    check(checkpoint, stored(["enc1", "enc2"]), paths, layers=["enc1", "enc2"])


def test_a_killed_run_can_be_resumed(checkpoint: Path, run: Run) -> None:
    paths = photos(40, (150, 150))
    words = [sys.executable, "-m", "skipae", "features", "in", "-o", "out", "--shard-size", "2", "--batch-size", "1"]
    words += ["--model", str(checkpoint), "--device", "cpu", "--threads", "1"]
    child = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    while child.poll() is None and not (Path("out/_manifest.jsonl").exists() and len(manifest_lines()) > 5):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 0 < sum('"rows"' in line for line in manifest_lines()) < 20
    assert run("in", "-o", "out", "--resume").exit_code == 0
    assert sorted(stored(["enc2"])) == paths


def manifest_lines() -> list[str]:
    return Path("out/_manifest.jsonl").read_text().splitlines()


@pytest.mark.parametrize("where", ["process", "run"])
def test_an_interrupt_keeps_what_is_done(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    paths = photos(8)
    owner = feature_task.FeatureTask if where == "process" else features.Extractor
    original = getattr(owner, where)
    calls = 0

    def interrupted(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, where, interrupted)
        result = run("in", "-o", "out", "--shard-size", 4, "--batch-size", 1)
    done = 5 if where == "process" else 6  # the sixth call is for an image already waiting: it is run again
    failed(result, 130, f"interrupted: {done} of 8 images are done")
    check(checkpoint, stored(["enc2"]), paths[:done])
    assert run("in", "-o", "out", "--resume").exit_code == 0
    check(checkpoint, stored(["enc2"]), paths)


@pytest.mark.parametrize("call", [6, 8])
def test_a_device_that_fails_loses_nothing(
    run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    paths = photos(8)
    original = features.Extractor.run
    calls = 0

    def fails(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise DeviceError("the GPU is gone")
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(features.Extractor, "run", fails)
        result = run("in", "-o", "out", "--shard-size", 4, "--batch-size", 1, "--report", "r.jsonl")
    failed(result, 3, f"{paths[call - 1]}: the GPU is gone", "the GPU is gone")
    check(checkpoint, stored(["enc2"]), paths[: call - 1])
    report = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [line["status"] for line in report] == ["done"] * (call - 1) + ["failed"]
    assert run("in", "-o", "out", "--resume").exit_code == 0
    check(checkpoint, stored(["enc2"]), paths)


def test_inputs(run: Run, checkpoint: Path) -> None:
    paths = photos(3)
    Path("names").write_text("\n".join(paths[1:]))
    assert run(paths[0], paths[0], "--list", "names", "-o", "in/out").exit_code == 0  # given twice, taken once
    check(checkpoint, stored(["enc2"], "in/out"), paths)
    # An output inside the input is not read.
    Image.new("RGB", (9, 9)).save("in/out/picture.png")
    assert run("in", "-o", "in/out", "--overwrite").exit_code == 0
    check(checkpoint, stored(["enc2"], "in/out"), paths)
    result = run("-", "-o", "stream.npz", input=Path(paths[1]).read_bytes())
    assert result.exit_code == 0
    (entry,) = [entry for entry in manifest("stream.npz.manifest.jsonl") if "row" in entry]
    assert (entry["file"], entry["sha256"]) == ("-", None)
    result = run("-", "-o", "stream.npz", "--resume", input=Path(paths[2]).read_bytes())  # another image
    failed(result, 2, "--resume identifies images by name, and - (standard input) has none")
    os.mkfifo("pipe")
    with ThreadPoolExecutor(1) as writer:
        writer.submit(Path("pipe").write_bytes, Path(paths[1]).read_bytes())
        assert run("pipe", "-o", "pipe.npz").exit_code == 0  # read once: a second time it would wait for ever
    (entry,) = [entry for entry in manifest("pipe.npz.manifest.jsonl") if "row" in entry]
    assert (entry["file"], entry["sha256"]) == ("pipe", None)
    result = run(*paths, "-o", "dry", "--dry-run")
    assert result.exit_code == 0 and result.stdout == "".join(f"{path} -> dry\n" for path in paths)
    assert not Path("dry").exists()


def test_bad_input(run: Run, folder: Path, tmp_path: Path) -> None:
    photos(1)
    Path("empty").mkdir()
    failed(run("empty", "-o", "out"), 5, "empty: contains no images (PNG, JPEG")
    failed(run("none.png", "-o", "out"), 5, "none.png: no such file")
    failed(run("in", "-o", "out", "--layer", "enc12"), 2, "no layer 'enc12' (did you mean enc2?); use any of enc1")
    failed(run("in", "-o", "out", "--pool", "mean"), 2, "pool must be none, avg, max or spatial:N")
    failed(run("-o", "out"), 2, "no input; pass images")
    failed(run("in"), 2, "Missing option '-o'")
    failed(run("in", "-o", "out", model=Path("/nowhere/tiny")), 4, "does not exist; use the folder")
    assert not Path("out").exists()
    damaged = write_checkpoint(tmp_path / "damaged", tiny_graph(), tiny_features())
    with (damaged / "onnx" / "features.onnx").open("ab") as file:
        file.write(b"x")
    failed(run("in", "-o", "out", model=damaged), 4, "does not match its config.json (sha256 ")
    bare = write_checkpoint(tmp_path / "bare", tiny_graph())
    failed(run("in", "-o", "out", model=bare), 4, "has no onnx/features.onnx: use another checkpoint")


@pytest.mark.parametrize(("kind", "module"), list(feature_formats.EXTRAS.items()))
def test_a_missing_extra(run: Run, monkeypatch: pytest.MonkeyPatch, kind: str, module: str) -> None:
    photos(1)
    monkeypatch.setitem(sys.modules, module, None)
    failed(
        run("in", "-o", "out", "--format", kind),
        2,
        f"--format {kind} needs {module}",
    )
    assert f'[{kind}]"' in run("in", "-o", "out", "--format", kind).stderr
    assert not Path("out").exists()


def test_layers(checkpoint: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.main, ["layers", str(checkpoint), "--size", "21x30"])
    assert result.exit_code == 0
    title, _, *rows, last = [line.split() for line in result.stdout.splitlines()]
    assert title == ["tiny,", "image", "of", "21", "x", "30"]
    assert [" ".join(row) for row in rows] == ["enc1 4 1 3 4 x 21 x 30", "enc2 4 2 5 4 x 11 x 15"]
    assert " ".join(last) == "default layer of skipae features: enc2"
    named = write_checkpoint(tmp_path / "named", tiny_graph(), tiny_features(), default_layer="enc1")
    assert (
        CliRunner().invoke(cli.main, ["layers", str(named)]).stdout.endswith("default layer of skipae features: enc1\n")
    )
    found = json.loads(CliRunner().invoke(cli.main, ["layers", "--json"]).stdout)
    assert found["model"] == "skipae-imagenet" and found["image"] == [224, 224] and len(found["layers"]) == 13
    assert found["default_layer"] == "enc8"
    assert found["layers"][7] == {
        "name": "enc8", "channels": 256, "stride": 8, "receptive_field": 53, "output": [256, 28, 28],
    }  # fmt: skip
    assert (
        json.loads(CliRunner().invoke(cli.main, ["layers", "skipae-natural", "--json"]).stdout)["default_layer"]
        == "enc6"
    )

    failed(CliRunner().invoke(cli.main, ["layers", "--size", "0x3"]), 2, "'0x3' is not a size in pixels")
    assert (
        CliRunner()
        .invoke(cli.main, ["layers", "--model", str(named)])
        .stdout.endswith("default layer of skipae features: enc1\n")
    )
    failed(CliRunner().invoke(cli.main, ["layers", "x", "--model", "y"]), 2, "x and --model y both name a checkpoint")
    failed(CliRunner().invoke(cli.main, ["layers", "skipae-naturl"]), 4, "did you mean skipae-natural?")


def test_features_are_those_of_imagenet_unless_another_model_is_named(folder: Path) -> None:
    Image.new("RGB", (90, 120), "teal").save("photo.png")
    assert CliRunner().invoke(cli.main, ["features", "photo.png", "-o", "f.npz", "--device", "cpu"]).exit_code == 0
    with np.load("f.npz") as found:
        assert found["enc8"].shape == (1, 256)
    assert skipae.FeatureExtractor().model == "skipae-imagenet"


def test_a_run_without_features_is_not_in_the_way(run: Run) -> None:
    (path,) = photos(1, (40, 50))
    for output in ("out", "one.npz"):
        failed(run(path, "-o", output, "--crop", 500), 1, "less than the crop of 500")
        assert run(path, "-o", output).exit_code == 0


def test_visualize(checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = photos(1, (90, 120))

    def draw(*words: object, image: str = path) -> Result:
        base = ["visualize", image, "--model", str(checkpoint), "--device", "cpu", "--threads", "1"]
        return CliRunner().invoke(cli.main, base + [str(word) for word in words])

    assert draw("--layer", "enc1", "-o", "a.png").exit_code == 0
    assert draw("--layer", "enc1", "-o", "b.png", "--sigma", 25, "--blocks", 0).exit_code == 0
    assert draw("--layer", "enc1", "-o", "same.png").exit_code == 0
    assert draw("--layer", "enc1", "-o", "c.png", "--seed", 1).exit_code == 0
    sheets = {name: np.asarray(Image.open(f"{name}.png")) for name in ("a", "b", "c", "same")}
    assert np.array_equal(sheets["a"], sheets["same"])
    middle = sheets["a"].shape[1] // 2
    for name in ("b", "c"):
        clean = np.s_[40:500, : middle - 6]  # the picture; maps have the pair's scale
        assert np.array_equal(sheets["a"][clean], sheets[name][clean])
        assert not np.array_equal(sheets["a"][:, middle:], sheets[name][:, middle:])
    Image.open(path).save("photo.jpg")
    assert draw("--layer", "enc1", "-o", "figures/", image="photo.jpg").exit_code == 0
    assert names("figures") == ["photo.png"] and Image.open("figures/photo.png").format == "PNG"
    with monkeypatch.context() as patch:
        terminal = SimpleNamespace(isatty=lambda: True)
        patch.setattr(options, "sys", SimpleNamespace(stdout=terminal, stderr=sys.stderr))
        failed(draw("--layer", "enc1", "-o", "-"), 2, "standard output is a terminal; use -o FILE")
    failed(draw("--layer", "enc1", "-o", "a.png"), 1, "a.png already exists; use --overwrite")
    Image.open(path).save("in/b.png")
    assert draw("--layer", "enc1", "-o", "figures", image="in").exit_code == 0
    assert len(names("figures")) == 3
    several = draw("--layer", "enc1", "-o", "figures", image="in")
    failed(several, 1, "2 outputs already exist, the first is figures/")
    assert several.stderr.endswith("use --overwrite to replace them\n")  # and no --resume, which it has not
    failed(draw("--layer", "enc9", "-o", "d.png"), 2, "no layer 'enc9' (did you mean enc2?)")
    failed(draw("--layer", "enc1", "-o", path, "--overwrite"), 2, "would overwrite the input")
    failed(draw("--layer", "enc1", "-o", "d.png", image="none.png"), 5, "none.png: no such file")
    monkeypatch.setattr("skipae.tasks.feature_maps.LARGEST", 45)
    for name, words in (("small", []), ("same", ["--resize", 45]), ("whole", ["--resize", 0])):
        assert draw("--layer", "enc1", "-o", f"{name}.png", "--overwrite", *words).exit_code == 0
    small, same, whole = (np.asarray(Image.open(f"{name}.png")) for name in ("small", "same", "whole"))
    assert np.array_equal(small, same) and np.array_equal(whole, sheets["a"])


def test_figures_of_narrow_images_and_in_every_format(checkpoint: Path, folder: Path) -> None:
    def draw(image: str, output: str) -> Result:
        words = ["--model", str(checkpoint), "--device", "cpu", "--threads", "1", "--layer", "enc1", "--maps", "1"]
        return CliRunner().invoke(cli.main, ["visualize", image, "-o", output, *words])

    photos(1, (4, 30))
    for extension, format in (("heic", "HEIC"), ("webp", "WEBP"), ("gif", "GIF"), ("tif", "TIFF")):
        assert draw("in/000.png", f"v.{extension}").exit_code == 0
        assert skipae.open_image(f"v.{extension}").metadata.format == format
    Image.new("RGB", (3000, 2), "teal").save("wide.png")
    assert draw("wide.png", "wide.figure.png").exit_code == 0
    Image.new("RGB", (8, 200), "teal").save("tall.png")
    failed(draw("tall.png", "tall.webp"), 1, "tall.png: cannot be written as WEBP: ")
    Image.new("RGB", (2, 4000), "teal").save("in/b.png")  # beside another image, which is drawn
    Image.new("RGB", (30, 4), "teal").save("in/c.png")
    failed(draw("in", "figures"), 1, "in/b.png: is 2 x 4000 pixels, too narrow for a figure: cut out the part that")
    assert names("figures") == ["000.png", "c.png"]


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"maps": 0}, "at least 1, not 0"),
        ({"blocks": 1}, "at least 0 and less than 1, not 1"),
        ({"sigma": float("nan")}, "a number from 0 on, not nan"),
        ({"seed": -1}, "at least 0, not -1"),
    ],
)
def test_a_figure_that_cannot_be_drawn(checkpoint: Path, options: dict[str, Any], allowed: str) -> None:
    """Blocks that cover all of an image were looked for without end."""
    with pytest.raises(UsageError, match=f"{next(iter(options))} must be {allowed}"):
        from_pretrained(checkpoint, device="cpu").draw_features(np.zeros((9, 9), np.uint8), "enc1", **options)


def test_corruption() -> None:
    from skipae.tasks.feature_maps import corrupt

    clean = np.random.default_rng(0).random((80, 100, 3)).astype(np.float32)
    fill = (0.25, 0.5, 0.75)
    blocks = corrupt(clean, fill, DrawOptions(blocks=0.3))
    covered = (blocks == np.array(fill, np.float32)).all(2)
    assert 0.3 <= covered.mean() < 0.36 and np.array_equal(blocks[~covered], clean[~covered])
    noisy = corrupt(np.full((80, 100, 3), 0.5, np.float32), fill, DrawOptions(blocks=0, sigma=10))
    assert noisy.std() == pytest.approx(10 / 255, rel=0.05)
