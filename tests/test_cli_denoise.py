"""``skipae denoise`` over inputs and outputs, with exit codes and the text of errors."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from conftest import failed
from skipae import Model, cli, from_pretrained, images, open_image
from skipae.batch import pipeline as batch
from skipae.batch import plan as plans
from skipae.batch import report
from skipae.batch.feature_task import FeatureTask
from skipae.batch.job import Work
from skipae.batch.plan import plan_jobs
from skipae.checkpoints import resolve
from skipae.commands import denoise
from skipae.console import Console
from skipae.errors import DeviceError, UsageError
from skipae.images.metadata import Loss
from skipae.install import install_command

Run = Callable[..., Result]


@pytest.fixture
def run(checkpoint: Path, folder: Path) -> Run:
    """Run a command, ``skipae denoise`` unless another is named, with the tiny model on one thread of the CPU."""

    def invoke(*arguments: object, device: str = "cpu", command: str = "denoise", **options: Any) -> Result:
        words = [command, "--model", str(checkpoint), "--device", device, "--threads", "1"]
        return CliRunner().invoke(cli.main, words + [str(word) for word in arguments], **options)

    return invoke


def photo(seed: int = 0, size: tuple[int, int] = (24, 17)) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8))


def write(path: str | Path, seed: int = 0, **options: Any) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    photo(seed).save(path, **options)
    return path


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.tif", "photo.webp"])
def test_python_and_the_command_line_write_the_same_bytes(run: Run, checkpoint: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    write(name, exif=exif.tobytes(), dpi=(300, 300))
    assert run(name).exit_code == 0
    model = from_pretrained(checkpoint, device="cpu", threads=1)
    for source in (open_image(name), Path(name)):
        assert model.denoise(source).save(Path("x") / name) == []
        assert (Path("x") / name).read_bytes() == Path(name).with_suffix(f".denoised{Path(name).suffix}").read_bytes()
    assert run(name, "--quality", 60, "-o", "cli.webp").exit_code == 0
    losses = model.denoise(open_image(name)).save("api.webp", quality=60)
    assert Path("api.webp").read_bytes() == Path("cli.webp").read_bytes()
    assert all(str(loss) in run(name, "--overwrite", "-o", "cli.webp").stderr for loss in losses)


def test_beside_the_input(run: Run, folder: Path, checkpoint: Path) -> None:
    path = write("photo.png")
    before = path.read_bytes()
    result = run(path)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert tree(folder) == ["photo.denoised.png", "photo.png"]
    assert path.read_bytes() == before
    expected = from_pretrained(checkpoint, device="cpu", threads=1).denoise(photo())
    assert Image.open("photo.denoised.png").tobytes() == expected.tobytes()


def test_device_line(run: Run) -> None:
    write("photo.png")
    line = "skipae: device: cpu (1 thread): this onnxruntime has neither CUDA nor OpenVINO\n"
    precision = "skipae: precision: fp32: tiny has no int8 graph\n"
    assert run("photo.png", "--verbose", device="auto").stderr == line + precision
    assert run("photo.png", "--overwrite", "--verbose").stderr == "skipae: device: cpu (1 thread)\n" + precision
    assert run("photo.png", "--overwrite", device="auto").stderr == ""


def test_output_file_sets_the_format(run: Run, folder: Path) -> None:
    write("photo.png")
    assert run("photo.png", "-o", "new/clean.jpg").exit_code == 0
    assert Image.open("new/clean.jpg").format == "JPEG"
    failed(run("photo.png", "-o", "clean.xyz"), 2, "clean.xyz does not say which format to write: end it in one of")
    failed(run("photo.png", "-o", "clean"), 2, "or in / for a folder")
    assert run("photo.png", "-o", "clean/").exit_code == 0
    assert tree(folder) == ["clean/photo.png", "new/clean.jpg", "photo.png"]


def test_output_folder(run: Run, folder: Path) -> None:
    write("a.png"), write("b.jpg", 1)
    Path("out").mkdir()
    assert run("a.png", "b.jpg", "-o", "out").exit_code == 0
    assert run("a.png", "b.jpg", "-o", "made").exit_code == 0
    assert tree(folder) == ["a.png", "b.jpg", "made/a.png", "made/b.jpg", "out/a.png", "out/b.jpg"]
    failed(run("a.png", "b.jpg", "-o", "made/a.png"), 2, "made/a.png is a file; several inputs or a folder need")
    failed(run("a.png", "b.jpg", "-o", "new.png"), 2, "-o new.png names one image, but several inputs or a folder need")
    assert run("a.png", "b.jpg", "-o", "new.png/").exit_code == 0 and Path("new.png/b.jpg").is_file()


def test_a_folder_s_tree_goes_below_the_output(run: Run, folder: Path) -> None:
    for name in ("noisy/a.png", "noisy/b/c/d.png", "noisy/b/no extension"):
        write(name, format="PNG")
    Path("noisy/readme.txt").write_text("not an image")
    write("noisy/.hidden.png"), write("noisy/.git/x.png")
    assert run("noisy", "-o", "noisy/out").exit_code == 0
    assert tree(folder / "noisy/out") == ["a.png", "b/c/d.png", "b/no extension"]
    # The output folder, inside the input folder, is not read.
    assert run("noisy", "-o", "noisy/out", "--overwrite").exit_code == 0
    assert tree(folder / "noisy/out") == ["a.png", "b/c/d.png", "b/no extension"]


def test_a_second_run_leaves_its_results_out(run: Run, folder: Path) -> None:
    write("noisy/a.png")
    assert run("noisy").exit_code == 0
    result = run("noisy", "--overwrite")
    assert result.exit_code == 0
    assert result.stderr == "skipae: skipped 1 output(s) of earlier runs (*.denoised.*)\n"
    assert tree(folder) == ["noisy/a.denoised.png", "noisy/a.png"]
    Path("noisy/a.png").unlink()  # remaining files are not errors
    assert (run("noisy").exit_code, run("noisy").stderr) == (0, result.stderr)


def test_patterns_and_names_that_look_like_patterns(run: Run, folder: Path) -> None:
    odd = "glob [a-z]* (1) ?.png"
    write(odd), write("x/1.png", 1), write("x/y/2.png", 2)
    assert run(odd).exit_code == 0
    assert Path("glob [a-z]* (1) ?.denoised.png").is_file()
    assert run("x/**/*.png", "-o", "out").exit_code == 0
    assert tree(folder / "out") == ["1.png", "2.png"]
    failed(run("none/*.png"), 5, "none/*.png: no file matches this pattern")
    Path("x/y/loop").symlink_to("..", target_is_directory=True)
    assert run("x/**/*.png", "-o", "again").exit_code == 0
    assert tree(folder / "again") == ["1.png", "2.png"]


def test_names_of_variables_that_are_empty(run: Run, folder: Path) -> None:
    write("photo.png")
    failed(run(""), 2, "an input is empty")
    failed(run("photo.png", "-o", ""), 2, "-o is empty")
    text = "is empty (unset shell variable?)"
    failed(run("photo.png", "-o", "", command="features"), 2, f"-o {text}")
    failed(run("photo.png", "--mask", "", command="inpaint"), 2, f"--mask {text}")
    failed(run("photo.png", "--list", ""), 2, f"--list {text}")
    failed(run("photo.png", "--report", ""), 2, f"--report {text}")
    failed(run("photo.png", "--model", ""), 4, f"the model's name {text}; use a checkpoint's name or folder")
    for words in (["models", "pull", "skipae-natural", "--to", ""], ["export", "--darktable", "-o", ""]):
        failed(CliRunner().invoke(cli.main, words), 2, f"{words[-2]} {text}")
    assert tree(folder) == ["photo.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_pipes(run: Run, folder: Path) -> None:
    data = write("in/photo.png").read_bytes()
    os.mkfifo("in/pipe.png")
    assert run("in", "-o", "out").exit_code == 0  # where nobody would ever write into it
    assert tree(folder / "out") == ["photo.png"]
    with ThreadPoolExecutor(1) as writer:
        writer.submit(Path("in/pipe.png").write_bytes, data)
        assert run("in/pipe.png", "-o", "piped.png").exit_code == 0
    assert Path("piped.png").read_bytes() == Path("out/photo.png").read_bytes()


def test_folders_that_cannot_be_read(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("in/a.png"), write("in/secret/b.png")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read all
    failed(run("in", "-o", "out"), 1, "in/secret: cannot be read: Permission denied")
    failed(run("in/secret", "-o", "out"), 5, "in/secret: cannot be read: Permission denied")
    monkeypatch.undo()
    assert [path.name for path in (folder / "out").iterdir()] == ["a.png"]


def test_names_that_differ_in_case(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("x/A.png"), write("y/a.png")
    assert len(plan_jobs(["x", "y"], "out", suffix="denoised").jobs) == 2
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError, match=r"x/A\.png and y/a\.png would both write out/a\.png"):
        plan_jobs(["x", "y"], "out", suffix="denoised")


def test_streams(run: Run, checkpoint: Path) -> None:
    data = write("photo.png").read_bytes()
    expected = from_pretrained(checkpoint, device="cpu", threads=1).denoise(photo()).tobytes()
    for arguments in (["-"], ["-", "-o", "-"], ["photo.png", "-o", "-"]):
        result = run(*arguments, input=data)
        assert result.exit_code == 0
        assert Image.open(io.BytesIO(result.stdout_bytes)).tobytes() == expected
    assert run("-", "-o", "x.webp", input=data).exit_code == 0
    assert Image.open("x.webp").format == "WEBP"
    failed(run("-", "-", input=data), 2, "can be used only once")
    failed(run("-", "photo.png", "-o", "out/", input=data), 2, "- (standard input) has no name")
    failed(run("photo.png", "x.webp", "-o", "-"), 2, "-o - (standard output) works with a single input")
    failed(run("-", input=b""), 5, "-: is empty (zero bytes)")


def test_nothing_is_overwritten(run: Run, folder: Path) -> None:
    write("a.png"), write("b.png", 1), Path("a.denoised.png").write_text("precious")
    result = run("a.png", "b.png")
    failed(result, 1, "a.png: a.denoised.png already exists; use --overwrite to replace it")
    assert Path("a.denoised.png").read_text() == "precious" and Path("b.denoised.png").is_file()
    failed(run("a.png"), 1, "already exists")
    assert run("a.png", "--overwrite").exit_code == 0
    assert Image.open("a.denoised.png").format == "PNG"


def test_an_input_is_never_overwritten(run: Run, folder: Path) -> None:
    path = write("a.png")
    before = path.read_bytes()
    Path("link").symlink_to(".", target_is_directory=True)
    for arguments in (["a.png", "-o", "a.png"], ["a.png", "-o", "."], [".", "-o", "."], ["a.png", "-o", "link/a.png"]):
        failed(run(*arguments, "--overwrite"), 2, "would overwrite the input")
    write("a.denoised.png", 1)
    failed(run("a.png", "a.denoised.png", "--overwrite"), 2, "the output of a.png would overwrite the input a.denoised")
    assert path.read_bytes() == before


def test_two_inputs_never_to_one_output(run: Run, folder: Path) -> None:
    write("x/a.png"), write("y/a.png")
    both = "x/a.png and y/a.png would both write out/a.png: pass their folder as the input or use separate"
    failed(run("x/a.png", "y/a.png", "-o", "out"), 2, both)
    failed(run("x", "y", "-o", "out"), 2, "x/a.png and y/a.png would both write")
    failed(run("x/a.png", "./x/a.png"), 2, "is listed twice")
    assert tree(folder) == ["x/a.png", "y/a.png"]


def test_unsupported_formats_are_reported(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipae.images.extra.find_spec", lambda name: None)
    write("x/a.png")
    for name in ("IMG_1.HEIC", "IMG_2.heic", "notes.txt", ".c.heic"):
        Path("x", name).write_bytes(b"no image")
    Image.new("RGB", (3, 3)).save("x/b.cr3", format="TIFF")  # as most camera raw files begin
    failed(run("x/b.cr3"), 5, "x/b.cr3: is a camera raw file, of which only a small preview could be read: develop")
    told = "skipae: skipped 3 file(s) in unsupported formats: .cr3 1, .heic 2; to read HEIC, type: "
    told += f"{install_command('heic')}\n"
    for word in ("--dry-run", "--quiet"):
        result = run("x", "-o", "out", word)
        assert (result.exit_code, result.stderr) == (0, told)


def test_heic_is_found_by_content_and_written(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pillow_heif")
    write("x/a.png"), write("x/b.jpg", format="JPEG")
    assert run("x", "-o", "out", "--format", "heic").exit_code == 0
    assert tree(folder / "out") == ["a.heic", "b.heic"]
    Path("out/b.heic").rename("out/b.jpg")
    assert run("out", "-o", "again").exit_code == 0
    assert [images.sniff(Path("again", name).read_bytes()[:64]) for name in tree(folder / "again")] == ["HEIC"] * 2
    monkeypatch.setattr("skipae.images.extra.find_spec", lambda name: None)
    command = install_command("heic")
    failed(run("out/b.jpg"), 5, f"out/b.jpg: is a HEIC: to read it, type: {command}")
    for words in (("--format", "heif"), ("-o", "one.hif")):
        failed(run("x/a.png", *words), 2, f"HEIC cannot be written here: to do so, type: {command}")


def test_resume_of_a_pattern(run: Run, folder: Path) -> None:
    write("a.png"), write("b", format="PNG")
    assert run("*").exit_code == 0
    before = tree(folder)
    assert before == ["a.denoised.png", "a.png", "b", "b.denoised"]
    again = run("*", "a.png", "b.denoised", "--resume")
    assert again.exit_code == 2  # given twice
    for named in (("*",), tuple(before), (".",)):
        again = run(*named, "--resume")
        assert (again.exit_code, tree(folder)) == (0, before)
        assert "skipped 2 output(s) of earlier runs" in again.stderr
    failed(run("a.png", "a.denoised.png", "--overwrite"), 2, "would overwrite the input a.denoised.png")


def test_a_tile_that_does_not_suit_one_image(run: Run, folder: Path) -> None:
    for name, side in (("a", 4), ("b", 90), ("c", 4)):
        Image.new("RGB", (side, side)).save(write(f"x/{name}.png"))
    result = run("x", "-o", "out", "--tile", 5, "--report", "r.jsonl")
    assert result.exit_code == 1 and "x/b.png: --tile 5 is too small" in result.stderr
    assert tree(folder / "out") == ["a.png", "c.png"] and len(Path("r.jsonl").read_text().splitlines()) == 3
    failed(run("x/b.png", "-o", "b.png", "--tile", 5), 2, "--tile 5 is too small")


def huge_png() -> bytes:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.fixture
def bad(folder: Path) -> dict[str, str]:
    """Names of bad inputs, and what is said of them."""
    write("whole.jpg")
    write("whole.png")
    Path("text.png").write_text("hello, I am a text\n")
    Path("cut.jpg").write_bytes(Path("whole.jpg").read_bytes()[:-200])
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:-200])
    Path("empty.png").touch()
    Path("huge.png").write_bytes(huge_png())
    Path("bare").mkdir()
    Path("bare/notes.txt").write_text("nothing here")
    Path("whole.jpg").unlink()
    Path("whole.png").unlink()
    return {
        "missing.png": "no such file",
        "bare": "contains no images",
        "text.png": "is not a supported image",
        "cut.jpg": "is damaged and cannot be decoded as JPEG: image file is truncated",
        "cut.png": "is damaged and cannot be decoded as PNG",
        "empty.png": "is empty (zero bytes)",
        "huge.png": "has 100000 x 100000 = 10000000000 pixels, more than 178956970; use a larger --max-pixels",
    }


def test_bad_inputs_alone(run: Run, folder: Path, bad: dict[str, str]) -> None:
    before = tree(folder)
    for name, text in bad.items():
        failed(run(name), 5, f"{name}: {text}")
    assert tree(folder) == before


def test_bad_inputs_do_not_stop_the_others(run: Run, folder: Path, bad: dict[str, str]) -> None:
    write("good1.png"), write("good2.png", 1)
    names = list(bad)
    result = run("good1.png", *names, "good2.png", "-o", "out", "--report", "report.jsonl")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == len(bad)
    for name, text in bad.items():
        assert f"skipae: error: {name}: {text}" in result.stderr
    assert tree(folder / "out") == ["good1.png", "good2.png"]
    entries = {entry["input"]: entry for entry in map(json.loads, Path("report.jsonl").read_text().splitlines())}
    assert set(entries) == {"good1.png", "good2.png", *bad}
    assert entries["good2.png"] | {"seconds": 0} == {
        "input": "good2.png",
        "output": "out/good2.png",
        "status": "done",
        "width": 24,
        "height": 17,
        "seconds": 0,
        "notes": [],
    }
    assert entries["cut.jpg"]["status"] == "failed" and "truncated" in entries["cut.jpg"]["error"]


def test_all_bad(run: Run, bad: dict[str, str]) -> None:
    result = run(*bad)
    assert result.exit_code == 5 and len(result.stderr.splitlines()) == len(bad)


def test_max_pixels(run: Run) -> None:
    write("photo.png")
    failed(
        run("photo.png", "--max-pixels", 407),
        5,
        "has 24 x 17 = 408 pixels, more than 407; use a larger --max-pixels if",
    )
    assert run("photo.png", "--max-pixels", 408).exit_code == 0


def test_unwritable_outputs(run: Run, folder: Path) -> None:
    write("photo.png")
    Path("file").touch()
    failed(run("photo.png", "-o", "file/x.png"), 1, "photo.png: cannot write file/x.png: file is not a folder")
    failed(run("photo.png", "-o", "/proc/x.png"), 1, "cannot write /proc/x.png")
    failed(run("photo.png", "-o", "/dev/null", "--overwrite"), 2, "/dev/null")
    Path("dir.png").mkdir()
    Path("dir.png/photo.png").mkdir()
    failed(run("photo.png", "-o", "dir.png", "--overwrite"), 2, "which is not a file")
    assert tree(folder) == ["file", "photo.png"]


def test_a_place_that_cannot_be_written_is_said_once(run: Run, folder: Path) -> None:
    Path("in").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        write(f"in/{name}")
    result = run("in", "-o", "/proc/nowhere", "--report", "report")
    failed(result, 1, "in/a.png: cannot write /proc/nowhere/a.png: ")
    assert result.stderr.count("skipae: error: in/") == 1 and "(and 2 more images likewise)" in result.stderr
    assert [json.loads(line)["input"] for line in Path("report").read_text().splitlines()] == [
        f"in/{name}.png" for name in "abc"
    ]


def test_full_disk(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.png"), write("b.png")

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    encode = images.Picture.encode
    monkeypatch.setattr(images.Picture, "encode", lambda self, file, **options: encode(self, Full(), **options))
    failed(
        run("a.png", "b.png"),
        1,
        "a.png: cannot write a.denoised.png: No space left on device",
        "b.png: cannot write b.denoised.png: No space left on device",
    )
    failed(run("a.png"), 1, "No space left on device")
    assert tree(folder) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "no input; pass images, folders or patterns"),
        (["photo.png", "--threads", "0"], "'--threads': 0 is not in the range"),
        (["photo.png", "--threads", "-2"], "'--threads'"),
        (["photo.png", "--strength", "1.5"], "'--strength'"),
        (["photo.png", "--strength", "nan"], "strength must be from 0 to 1, not nan"),
        (["photo.png", "--quality", "0"], "'--quality': '0' is not a whole number from 1 to 100 or keep"),
        (["photo.png", "--quality", "high"], "'high' is not a whole number from 1 to 100 or keep"),
        (["photo.png", "--nonsense"], "No such option"),
        (
            ["photo.png", "--tile", "4"],
            "--tile 4 is too small for a halo of 4 and a stride of 2; use 11 or",
        ),
        (["photo.png", "--report", "photo.png"], "--report photo.png is also an input or an output"),
        (["photo.png", "--report", "no/such/folder.jsonl"], "cannot be written"),
    ],
)
def test_usage_errors(run: Run, arguments: list[str], text: str) -> None:
    write("photo.png")
    failed(run(*arguments), 2, text)


def test_commands_and_version() -> None:
    runner = CliRunner()
    failed(runner.invoke(cli.main, ["clean"]), 2, "unknown command 'clean'; use one of")
    assert runner.invoke(cli.main, ["--version"]).stdout == "skipae 0.1.0\n"
    result = runner.invoke(cli.main, [])
    assert result.exit_code == 2 and "denoise" in result.stderr
    result = runner.invoke(cli.main, ["denoise", "--help"])
    assert result.exit_code == 0 and "Exit codes" in result.stdout
    listed = runner.invoke(cli.main, ["models", "--help"], terminal_width=60).stdout
    assert "..." not in listed.replace("[ARGS]...", "") and "whether they are available locally." in " ".join(
        listed.split()
    )


def test_defaults_are_those_of_the_library() -> None:
    defaults = {option.name: option.default for option in denoise.command.params}
    assert defaults["max_pixels"] == images.MAX_PIXELS
    assert defaults["model"] == resolve.DEFAULT


def test_a_misspelled_command_or_option(folder: Path) -> None:
    failed(CliRunner().invoke(cli.main, ["denois", "photo.png"]), 2, "unknown command 'denois' (did you mean denoise?)")
    failed(CliRunner().invoke(cli.main, ["zzz"]), 2, "unknown command 'zzz'; use one of denoise, inpaint, features")
    failed(CliRunner().invoke(cli.main, ["denoise", "photo.png", "--overwirte"]), 2, "--overwrite")


def test_outputs_are_listed_on_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.png"), write("b.png")
    Path("c.png").touch()
    said: list[str] = []
    monkeypatch.setattr(Console, "done", lambda self, text: said.append(re.sub(r"[\d.]+ s\b", "T", text)))
    assert run("a.png").exit_code == 0
    assert run("a.png", "b.png", "c.png", "--resume").exit_code == 1
    assert said == ["a.png -> a.denoised.png (T)", "1 image done, 1 skipped because the output exists, 1 failed (T)"]
    said.clear()
    assert run("a.png", "b.png", "-o", "out/new").exit_code == 0
    assert run("a.png", "b.png", "-o", "out/new", "--resume").exit_code == 0
    assert said == [
        "2 images done -> out/new (T)",
        "nothing to do: the output of all 2 images exists; use --overwrite to write it again",
    ]


def test_all_of_a_folder_in_one_format(run: Run) -> None:
    for name in ("in/a.png", "in/sub/b.bmp", "c.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        write(name)
    assert run("in", "-o", "out", "--format", "JPG").exit_code == 0
    for name in ("out/a.jpg", "out/sub/b.jpg"):
        assert Image.open(name).format == "JPEG"
    assert run("in/a.png", "--format", "tif").exit_code == 0
    assert Image.open("in/a.denoised.tif").format == "TIFF"
    assert run("c.png", "-o", "bare", "--format", "webp").exit_code == 0
    assert Image.open("bare").format == "WEBP"
    failed(
        run("c.png", "-o", "x.png", "--format", "jpg"),
        2,
        "-o x.png names a PNG file and does not suit --format JPEG",
    )
    failed(run("c.png", "--format", "xcf"), 2, "'xcf' is not a supported format; use one of png, jpg")
    write("in/a.bmp")
    failed(run("in", "-o", "two", "--format", "png"), 2, "would both write two/a.png")


def test_times_are_kept_where_asked_for(run: Run) -> None:
    write("photo.png")
    os.utime("photo.png", (1e9, 1.1e9))
    assert run("photo.png").exit_code == 0 and Path("photo.denoised.png").stat().st_mtime > 1.2e9
    assert run("photo.png", "-o", "kept.png", "--keep-times").exit_code == 0
    assert Path("kept.png").stat().st_mtime == 1.1e9


def test_a_mistyped_model_is_reported_before_an_existing_output(run: Run) -> None:
    write("photo.png"), write("photo.denoised.png")
    result = CliRunner().invoke(cli.main, ["denoise", "photo.png", "--model", "skipae-natral"])
    failed(result, 4, "did you mean skipae-natural?")
    failed(run("photo.png"), 1, "photo.denoised.png already exists")


def test_an_unwritable_folder_is_reported_before_the_model_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write("photo.png")
    monkeypatch.setattr(Model, "denoise", lambda *_, **__: pytest.fail("it ran"))
    failed(run("photo.png", "-o", "/proc/nowhere/x.png"), 1, "photo.png: cannot write /proc/nowhere/x.png")
    failed(run("photo.png", "-o", "photo.png/below/x.png"), 1, "photo.png is not a folder")


def test_progress_on_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.png"), write("b.png")
    Path("c.png").touch()

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for quiet in (False, True):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        console = Console(quiet)
        with console.progress(2) as bar:
            bar.update(0.5)
            console.error("c.png: broken")
            bar.update(1.5)
        lines = terminal.getvalue()
        assert ("2.0/2 images" in lines) != quiet
        assert "skipae: error: c.png: broken" in lines


def test_models_that_cannot_be_had(folder: Path) -> None:
    write("photo.png")

    def with_model(name: str) -> Result:
        return CliRunner().invoke(cli.main, ["denoise", "photo.png", "--device", "cpu", "--model", name])

    failed(with_model("skipae-natral"), 4, "did you mean skipae-natural?")
    failed(with_model("skipae-imagenet-animal"), 4, "not published yet")
    failed(with_model("./nowhere"), 4, "does not exist")
    failed(with_model("."), 4, "has no config.json")


def test_device_that_is_not_there(run: Run) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    write("photo.png")
    failed(run("photo.png", device="cuda"), 3, "device cuda is not in the installed onnxruntime")
    failed(run("photo.png", device="tpu"), 3, "device tpu is not in the installed onnxruntime")


def test_an_unexpected_error_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write("photo.png")

    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("a bug\nof two lines")

    monkeypatch.setattr(plans, "plan_jobs", breaks)
    failed(run("photo.png"), 1, "unexpected RuntimeError: a bug of two lines (--debug shows where)")
    shown = run("photo.png", "--debug")
    assert shown.exit_code == 1 and "in breaks" in shown.stderr and "Traceback" in shown.stderr
    assert shown.stderr.endswith("skipae: error: unexpected RuntimeError: a bug of two lines\n")


def test_a_name_that_is_too_long(run: Run) -> None:
    write("a.png")
    failed(run("a.png", "-o", "x" * 300 + "/b.png"), 1, "File name too long")


def test_closed_standard_streams(checkpoint: Path, folder: Path) -> None:
    write("a.png")
    command = f"{sys.executable} -m skipae denoise --model {checkpoint} --quiet"
    for words, code, told in (
        ("- -o - < a.png >&-", 1, "cannot write to standard output"),
        ("- -o x.png <&-", 5, "input"),
        ("--list - <&-", 2, "--list - cannot be read: standard input is closed"),
    ):
        found = subprocess.run(["sh", "-c", f"{command} {words}"], capture_output=True, text=True)
        assert found.returncode == code and told in found.stderr and len(found.stderr.splitlines()) == 1


def test_debug_keeps_the_exit_code(run: Run) -> None:
    write("photo.png")
    shown = run("photo.png", "-o", "x.png", "--resume", "--overwrite", "--debug")
    assert shown.exit_code == 2 and "Traceback" in shown.stderr


def test_an_interrupt_leaves_nothing(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write(name)
    calls: list[int] = []
    restore = images.Picture.restore

    def interrupted(self: images.Picture, function: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        restore(self, function)

    monkeypatch.setattr(images.Picture, "restore", interrupted)
    failed(
        run("a.png", "b.png", "c.png", "--report", "r.jsonl"),
        130,
        "interrupted: 1 of 3 images are done; use --resume to continue",
    )
    assert tree(folder) == ["a.denoised.png", "a.png", "b.png", "c.png", "r.jsonl"]
    Image.open("a.denoised.png").load()
    assert [json.loads(line)["input"] for line in Path("r.jsonl").read_text().splitlines()] == ["a.png"]
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert run("a.png", "b.png", "c.png", "--report", "r.jsonl", "--resume").exit_code == 0
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [(line["input"], line["status"]) for line in lines] == [
        ("a.png", "done"),
        ("a.png", "skipped"),
        ("b.png", "done"),
        ("c.png", "done"),
    ]


def test_an_interrupt_names_resume_only_where_it_continues(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ``--overwrite``, ``--resume`` would keep the old outputs; ``skipae visualize`` does not have it."""
    names = [str(write(name)) for name in ("a.png", "b.png")]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(images.Picture, "restore", interrupted)
    monkeypatch.setattr(Model, "draw_features", interrupted)
    monkeypatch.setattr(FeatureTask, "process", interrupted)
    text = "skipae: error: interrupted: 0 of 2 images are done"
    assert run(*names).stderr == f"{text}; use --resume to continue\n"
    assert run(*names, "--overwrite").stderr == f"{text}\n"
    assert run(*names, "-o", "f", command="features").stderr == f"{text}; use --resume to continue\n"
    assert run(*names, "-o", "f", "--overwrite", command="features").stderr == f"{text}\n"
    assert run(*names, "-o", "v", "--layer", "enc1", command="visualize").stderr == f"{text}\n"


def test_memory_that_one_image_exhausts(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(write(f"{k}.png", k)) for k in range(4)]
    text = "1.png: needs more memory than is available"
    for owner, method in ((images.Picture, "restore"), (images, "read_header")):
        calls: list[int] = []
        original = getattr(owner, method)

        def greedy(*arguments: Any, original: Any = original, calls: list[int] = calls, **options: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise MemoryError
            return original(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, method, greedy)
            failed(run(*names, "-o", method), 1, text)
        assert tree(folder / method) == ["0.png", "2.png", "3.png"]


def test_a_device_that_fails_loses_nothing(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [str(write(f"{k}.png", k)) for k in range(4)]
    calls: list[int] = []
    restore = images.Picture.restore

    def fails(self: images.Picture, function: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise DeviceError("the GPU is gone")
        restore(self, function)

    monkeypatch.setattr(images.Picture, "restore", fails)
    failed(run(*names, "--report", "r.jsonl"), 3, "the GPU is gone")
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [(line["input"], line["status"]) for line in lines] == [("0.png", "done"), ("1.png", "done")]


def test_an_interrupt_while_a_result_is_written(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write(name)
    encode = images.Picture.encode

    def slow(self: images.Picture, file: Any, **options: Any) -> list[Loss]:
        time.sleep(0.3)  # by now the next image waits for this one
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        return encode(self, file, **options)

    monkeypatch.setattr(images.Picture, "encode", slow)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        failed(
            run("a.png", "b.png", "c.png", "--report", "r.jsonl"),
            130,
            "interrupted: 1 of 3 images are done; use --resume to continue",
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert tree(folder) == ["a.denoised.png", "a.png", "b.png", "c.png", "r.jsonl"]
    assert [json.loads(line)["input"] for line in Path("r.jsonl").read_text().splitlines()] == ["a.png"]


def test_losses_are_said_and_quiet_does_not_hide_them(run: Run) -> None:
    photo().quantize(8).save("palette.png")
    line = "skipae: palette.png: palette pixels become 8-bit RGB\n"
    assert run("palette.png").stderr == line
    assert run("palette.png", "--quiet", "--overwrite").stderr == line


def test_strength_tile_and_quality(run: Run) -> None:
    write("photo.png")
    assert run("photo.png", "--strength", 0).exit_code == 0
    assert Image.open("photo.denoised.png").tobytes() == photo().tobytes()
    assert run("photo.png", "-o", "whole.png").exit_code == 0
    assert run("photo.png", "-o", "tiled.png", "--tile", 14).exit_code == 0
    sixteen = np.random.default_rng(0).permutation(1 << 16).astype(np.uint16).reshape(128, 128, 4)
    Path("deep.png").write_bytes(imagecodecs.png_encode(sixteen))
    for name in ("deep.out.png", "deep.out.tif"):
        result = run("deep.png", "-o", name, "--strength", 0)
        assert (result.exit_code, result.stderr) == (0, "")
        assert np.array_equal(imagecodecs.imread(name), sixteen)
    whole, tiled = (np.asarray(Image.open(name)).astype(int) for name in ("whole.png", "tiled.png"))
    assert np.abs(whole - tiled).max() <= 1
    assert run("photo.png", "-o", "seams.png", "--tile", 14, "--halo", 0).exit_code == 0
    for quality in (10, 90):
        assert run("photo.png", "-o", f"q{quality}.jpg", "--quality", quality).exit_code == 0
    assert Path("q10.jpg").stat().st_size < Path("q90.jpg").stat().st_size
    for kept in (False, True):
        assert run("q10.jpg", "-o", "again.jpg", "--overwrite", *["--quality", "keep"] * kept).exit_code == 0
        before, after = (Image.open(name) for name in ("q10.jpg", "again.jpg"))
        assert (after.quantization == before.quantization) == kept  # type: ignore[attr-defined]


def test_a_batch_of_small_and_large_images(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "OVERLAP_PIXELS", 500)
    for k, side in enumerate((10, 40, 12, 41, 42, 11)):
        path = Path(f"in/{k}.png")
        path.parent.mkdir(exist_ok=True)
        photo(k, (side, side)).save(path)
    Path("in/2b.png").write_bytes(Path("in/1.png").read_bytes()[:-90])
    result = run("in", "-o", "together")
    failed(result, 1, "in/2b.png: is damaged")
    for k in range(6):
        assert run(f"in/{k}.png", "-o", "alone/").exit_code == 0
        assert Path(f"alone/{k}.png").read_bytes() == Path(f"together/{k}.png").read_bytes()


def test_control_characters_in_names(run: Run) -> None:
    name = "two\nlines.png"
    Path(name).touch()
    failed(run(name), 5, "two lines.png: is empty")


def test_resume_leaves_results_as_they_are(run: Run, folder: Path) -> None:
    write("in/a.png"), write("in/b.png", 1)
    assert run("in/a.png", "-o", "out/").exit_code == 0
    Image.new("RGB", Image.open("in/a.png").size, "red").save("out/a.png")
    before = Path("out/a.png").read_bytes()
    result = run("in", "-o", "out", "--resume")
    assert (result.exit_code, result.stderr) == (0, "")
    assert Path("out/a.png").read_bytes() == before
    assert tree(folder / "out") == ["a.png", "b.png"]
    for words in ((), ("--dry-run",)):  # said once
        result = run("in", "-o", "out", *words)
        failed(
            result, 1, "2 outputs already exist, the first is out/a.png; use --overwrite to replace them, or --resume"
        )
        assert result.stderr.count("\n") == 1
    failed(run("in", "-o", "out", "--resume", "--overwrite"), 2, "--resume keeps existing outputs and --overwrite")


@pytest.mark.parametrize("format", [row.name for row in images.FORMATS.values() if row.is_installed])
def test_resume_makes_results_again_that_are_not_whole(run: Run, folder: Path, format: str) -> None:
    extension = next(suffix for suffix, name in images.SUFFIXES.items() if name == format)
    source, target = Path(f"in/a{extension}"), Path(f"out/a{extension}")
    images.from_pil(photo()).save(source)
    assert run("in", "-o", "out").exit_code == 0
    whole = target.read_bytes()
    result = run("in", "-o", "out", "--resume", "--report", "r.jsonl")
    assert (result.exit_code, result.stderr) == (0, "") and Path("r.jsonl").read_text().count('"skipped"') == 1
    other = io.BytesIO()
    images.from_pil(Image.new("RGB", (5, 5))).encode(other, format=format)
    size = open_image(source).size
    for damaged, text in {
        b"": "is not a complete image",
        b"a text": "is not a complete image",
        whole[:100]: "is not a complete image",
        whole[: len(whole) * 3 // 4]: "is not a complete image",
        other.getvalue(): f"has 5 x 5 pixels, not {size[0]} x {size[1]}",
    }.items():
        target.write_bytes(damaged)
        shown = run("in", "-o", "out", "--resume", "--dry-run")
        assert shown.stdout == f"{source} -> {target}\n" and target.read_bytes() == damaged
        result = run("in", "-o", "out", "--resume")
        first, *_ = result.stderr.splitlines()
        assert (result.exit_code, first) == (0, f"skipae: {target} {text}: it is written again")
        assert target.read_bytes() == whole


def test_results_of_another_run_that_resumes_too_are_kept(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        write(f"in/{name}.png")
    encode = images.Picture.encode

    def meanwhile(self: images.Picture, *arguments: Any, **options: Any) -> list[Loss]:
        for name in ("a", "c"):  # one that is being written here, and one that is to come
            write(f"out/{name}.png", 1)
        return encode(self, *arguments, **options)

    monkeypatch.setattr(images.Picture, "encode", meanwhile)
    theirs = write("theirs.png", 1).read_bytes()
    result = run("in", "-o", "out", "--resume")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [Path(f"out/{name}.png").read_bytes() == theirs for name in ("a", "c")] == [True, True]
    result = run("in/a.png", "-o", "out2/a.png")
    assert result.exit_code == 0


def test_parts_of_killed_runs_are_removed(run: Run, folder: Path) -> None:
    write("in/a.png")
    Path("out").mkdir()
    Path("out/.skipae-0123456789abcdef.part").write_bytes(b"half")
    assert run("in", "-o", "out", "--resume").exit_code == 0
    assert [path.name for path in Path("out").iterdir()] == ["a.png"]


def test_fail_fast(run: Run, folder: Path) -> None:
    for name in ("1.png", "3.png", "4.png"):
        write(name)
    Path("2.png").touch()
    names = ("1.png", "2.png", "3.png", "4.png")
    failed(run(*names, "--fail-fast"), 1, "2.png: is empty", "stopped at the first failure; 2 im")
    assert tree(folder) == ["1.denoised.png", "1.png", "2.png", "3.png", "4.png"]
    failed(run("none.png", "3.png", "--fail-fast"), 5, "none.png: no such file", "1 image(s) are left")


def test_names_that_standard_output_cannot_encode_are_escaped(folder: Path) -> None:
    write("\u96ea.png")
    command = [sys.executable, "-m", "skipae", "denoise", "\u96ea.png", "--dry-run"]
    result = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "cp1252"})
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.split() == [b"\\u96ea.png", b"->", b"\\u96ea.denoised.png"]


def test_dry_run(run: Run, folder: Path) -> None:
    write("in/a.png"), write("in/b/c.jpg")
    result = run("in", "gone.png", "-o", "out", "--dry-run", "--model", "./nowhere")
    assert result.exit_code == 1
    assert result.stdout == "in/a.png -> out/a.png\nin/b/c.jpg -> out/b/c.jpg\n"
    assert result.stderr == "skipae: error: gone.png: no such file\n"
    assert tree(folder) == ["in/a.png", "in/b/c.jpg"]


def test_lists(run: Run, folder: Path) -> None:
    write("a b.png"), write("c.png", 1), write("d.png", 2)
    Path("names.txt").write_text("a b.png\n\nc.png\n", encoding="utf-8")
    assert run("d.png", "--list", "names.txt", "-o", "out").exit_code == 0
    assert tree(folder / "out") == ["a b.png", "c.png", "d.png"]
    assert run("--list", "-", "-o", "more/", input="d.png\n").exit_code == 0
    assert tree(folder / "more") == ["d.png"]
    Path("names.txt").write_bytes(b"\xef\xbb\xbfd.png\r\n" + b"x" * 300 + b".png\r\n")  # of Windows
    failed(run("--list", "names.txt", "-o", "last/"), 1, "xx.png: no such file")
    assert tree(folder / "last") == ["d.png"]
    Path("zero.txt").write_bytes(b"a.png\0b.png")
    failed(run("--list", "zero.txt"), 2, "--list zero.txt cannot be read: it contains zero bytes; use UTF-8 text")
    odd = [os.fsdecode(b"\xe9.png"), "a\x0cb.png", "c\u2028.png"]
    Path("odd.txt").write_bytes(b"\r\n".join([b"\xef\xbb\xbf" + os.fsencode(odd[0]), *map(os.fsencode, odd[1:])]))
    for name in odd:
        write(name)
    assert run("--list", "odd.txt", "-o", "odd/").exit_code == 0 and tree(folder / "odd") == sorted(odd)
    failed(run("--list", "gone.txt"), 2, "--list gone.txt cannot be read: No such file")
    failed(run("-", "--list", "-", input="d.png\n"), 2, "- (standard input) can be used only once")
    failed(run("--list", "-", "--list", "-", input="d.png\n"), 2, "- (standard input) can be used only once")
    failed(run(), 2, "no input; pass images, folders or patterns, or use --list")


def test_luma_and_chroma(run: Run, checkpoint: Path) -> None:
    write("photo.png")
    source = np.asarray(photo()).astype(float)
    assert run("photo.png", "-o", "all.png").exit_code == 0
    whole = np.asarray(Image.open("all.png"))
    inside = ((whole > 0) & (whole < 255)).all(2)  # where nothing was clipped
    assert inside.mean() > 0.2
    change = whole - source
    bright = change @ [0.299, 0.587, 0.114]
    for luma, chroma in ((0, 1), (1, 0), (0.5, 0.25)):
        assert run("photo.png", "-o", "part.png", "--overwrite", "--luma", luma, "--chroma", chroma).exit_code == 0
        expected = (source + chroma * change + (luma - chroma) * bright[..., None]).clip(0, 255)
        assert np.abs(np.asarray(Image.open("part.png")) - expected)[inside].max() <= 1.5
    assert run("photo.png", "-o", "none.png", "--strength", 0, "--chroma", 1).exit_code == 0
    assert run("photo.png", "-o", "part.png", "--overwrite", "--luma", 0).exit_code == 0
    assert Path("none.png").read_bytes() == Path("part.png").read_bytes()
    failed(run("photo.png", "--chroma", 2), 2, "'--chroma': 2.0 is not in the range")


def test_nothing_but_a_report_is_added_to(run: Run) -> None:
    write("a.png"), write("a.denoised.png", 1)
    Path("names.txt").write_text("a.png\n")
    Path("empty.jsonl").touch()
    for name in ("a.png", "a.denoised.png", "names.txt"):
        before = Path(name).read_bytes()
        refused = run("--list", "names.txt", "--resume", "--report", name)
        assert refused.exit_code == 2 and f"--report {name} exists and is not a skipae report" in refused.stderr
        assert Path(name).read_bytes() == before
    assert run("a.png", "--overwrite", "--report", "empty.jsonl").exit_code == 0


def test_a_report_that_broke_off_is_continued_on_a_new_line(run: Run) -> None:
    write("a.png")
    Path("r.jsonl").write_text('{"input": "b.png", "sta')
    assert run("a.png", "--report", "r.jsonl").exit_code == 0
    broken, line = Path("r.jsonl").read_text().splitlines()
    assert broken == '{"input": "b.png", "sta' and json.loads(line)["status"] == "done"


def test_reports_are_added_to(run: Run) -> None:
    write("a.png")
    for _ in range(2):
        assert run("a.png", "--overwrite", "--report", "r.jsonl").exit_code == 0
    assert len(Path("r.jsonl").read_text().splitlines()) == 2


def test_plan_counts_and_names(folder: Path) -> None:
    write("d/a.png"), write("d/a.denoised.png"), write("b.jpg")
    work = plan_jobs(["d", "b.jpg", "gone"], None, suffix="denoised")
    assert [str(job.target) for job in work.jobs] == ["b.denoised.jpg"]
    assert work.left_out == 1
    assert {failure.name: failure.unread for failure in work.failed} == {"gone": True, "d/a.png": False}


# Whole processes.


def process(*arguments: object, code: str | None = None, **options: Any) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, *(["-c", code] if code else ["-m", "skipae"]), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(words, capture_output=True, timeout=120, env=environment, check=False, **options)


def test_help_loads_nothing() -> None:
    code = """
import sys
from skipae.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
heavy = {"numpy", "PIL", "onnxruntime", "torch", "tqdm", "skipae_zoo", "dataclasses"} & set(sys.modules)
assert not heavy, heavy
"""
    result = process(code=code)
    assert result.returncode == 0, result.stderr
    assert b"denoise" in result.stdout


def test_whole_process(checkpoint: Path, folder: Path) -> None:
    write("photo.png")
    result = process("denoise", "photo.png", "--model", checkpoint)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_libraries_do_not_speak_of_a_damaged_file_themselves(checkpoint: Path, folder: Path) -> None:
    saved = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    Image.fromarray(pixels).save(saved, "TIFF", compression="tiff_adobe_deflate")
    damaged = bytearray(saved.getvalue())
    damaged[5000:5010] = bytes(10)
    names = [f"{k}.tif" for k in range(3)]  # decoded by several threads
    for name in names:
        Path(name).write_bytes(damaged)
    result = process("denoise", *names, "--model", checkpoint, "--device", "cpu")
    lines = result.stderr.decode().splitlines()
    assert result.returncode == 5 and len(lines) == 3
    for name, line in zip(names, lines, strict=True):
        assert line.startswith(f"skipae: error: {name}: is damaged and cannot be decoded as TIFF: ")
    shown = process("denoise", *names, "--model", checkpoint, "--device", "cpu", "--debug").stderr.decode()
    assert len([line for line in shown.splitlines() if not line.startswith("skipae")]) >= 3


def test_only_what_native_code_writes_to_standard_error_is_hidden(folder: Path) -> None:
    code = """
import os, sys, threading, skipae.commands.layers as layers
from skipae.cli import main
def speak():
    for number in range(200):
        os.write(2, b"native\\n")
        print("ours", number, file=sys.stderr)
def call(**options):
    threads = [threading.Thread(target=speak) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
layers.command.callback = call
try:
    main(["layers"])
finally:
    os.write(2, b"after\\n")
    print("last", file=sys.stderr)
"""
    result = process(code=code)
    lines = result.stderr.decode().splitlines()
    assert result.returncode == 0 and lines[-2:] == ["after", "last"]
    assert sorted(lines[:-2]) == sorted(f"ours {number}" for number in range(200) for _ in range(4))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_standard_output_on_a_full_disk(checkpoint: Path, folder: Path) -> None:
    data = write("photo.png").read_bytes()
    with Path("/dev/full").open("wb") as full:
        words = [sys.executable, "-m", "skipae", "denoise", "-", "--model", str(checkpoint), "--device", "cpu"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        result = subprocess.run(
            words, input=data, stdout=full, stderr=subprocess.PIPE, env=environment, timeout=60, check=False
        )
    assert result.returncode == 1
    assert result.stderr == b"skipae: error: -: cannot write to standard output: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("reason", ["Broken pipe", "No space left on device", "it is closed"])
def test_nothing_is_computed_that_cannot_be_printed(classifier: Path, folder: Path, reason: str) -> None:
    names = [str(write(f"{k}.png", k)) for k in range(6)]
    if reason == "Broken pipe":
        read, output = os.pipe()
        os.close(read)
    else:
        output = os.open("/dev/full", os.O_WRONLY)
    start = ["sh", "-c", 'exec "$@" >&-', "sh"] if reason == "it is closed" else []
    words = ["classify", *names, "--model", str(classifier), "--device", "cpu", "--report", "r.jsonl"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [*start, sys.executable, "-m", "skipae", *words],
        stdout=output,
        stderr=subprocess.PIPE,
        env=environment,
        timeout=60,
        check=False,
        text=True,
    )
    os.close(output)
    *errors, last = result.stderr.splitlines()
    tried = names[: len(errors)]
    assert result.returncode == 1 and len(tried) in (1, 2), result.stderr  # the second may be computed meanwhile
    assert errors == [f"skipae: error: {name}: cannot write to standard output: {reason}" for name in tried]
    left = len(names) - len(tried)
    assert last == f"skipae: error: stopped because nothing more can be printed; {left} image(s) are left"
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [(line["input"], line["status"]) for line in lines] == [(name, "failed") for name in tried]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_report_on_a_full_disk_does_not_end_the_run(run: Run) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write(name)
    result = run("a.png", "b.png", "c.png", "-o", "out", "--report", "/dev/full")
    failed(result, 1, "--report /dev/full cannot be written: No space left on device; the run continues")
    assert len(list(Path("out").iterdir())) == 3


def test_a_report_is_whole_when_the_disk_has_room_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write(name)
    opened = report._open
    calls = 0

    @contextmanager
    def full_for_a_while(report: str, work: Work) -> Iterator[Any]:
        with opened(report, work) as file:
            assert file is not None

            class Disk:
                name = report

                def write(self, data: bytes) -> int:
                    nonlocal calls
                    calls += 1
                    if calls == 2:
                        raise OSError(28, "No space left on device")
                    return file.write(data[:20])  # a part, as files do on a disk that is nearly full

            yield Disk()

    monkeypatch.setattr(report, "_open", full_for_a_while)
    result = run("a.png", "b.png", "c.png", "-o", "out", "--report", "r.jsonl")
    assert result.exit_code == 0 and result.stderr.count("\n") == 1 and "the run continues" in result.stderr
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [line["input"] for line in lines] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_in_a_destructor_is_not_lost(name: str, code: int) -> None:
    program = f"""
import os, signal, time
import click
from skipae.cli import CommandGroup

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(0)  # here the signal is handled

@click.command()
def work():
    Dropped()
    time.sleep(200)  # longer than the test waits

signal.signal(signal.SIGINT, signal.default_int_handler)
CommandGroup(commands={{"work": work}}).main(["work"])
"""
    result = process(code=program)
    assert (result.returncode, result.stderr) == (code, b"skipae: error: interrupted\n")


def test_file_size_limit(checkpoint: Path, folder: Path) -> None:
    # The nearest to a full disk without a disk.
    photo(size=(200, 200)).save("photo.png")
    code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
from skipae.cli import main
main(["denoise", "photo.png", "--device", "cpu", "--model", {str(checkpoint)!r}])
"""
    result = process(code=code)
    assert result.returncode == 1
    assert result.stderr == b"skipae: error: photo.png: cannot write photo.denoised.png: File too large\n"
    assert tree(folder) == ["photo.png"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_leave_no_partial_file(checkpoint: Path, folder: Path, number: int, code: int) -> None:
    photo(size=(2000, 1500)).save("photo.png")
    words = [sys.executable, "-m", "skipae", "denoise", "photo.png", "--threads", "1"]
    words += ["--verbose", "--model", str(checkpoint), "--tile", "20"]  # thousands of windows: it lasts
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # A shell's background jobs, and so these tests as one, ignore SIGINT; the command is tried as in the foreground.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    child = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, preexec_fn=listen)
    assert child.stderr is not None
    assert child.stderr.readline().startswith(b"skipae: device: ")
    assert child.stderr.readline().startswith(b"skipae: precision: ")  # then it works
    time.sleep(0.3)
    child.send_signal(number)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == code, errors
    assert errors == b"skipae: error: interrupted\n"
    assert tree(folder) == ["photo.png"]
