"""Without a folder of its own: PyInstaller finds the package's hook, and a zip on ``sys.path`` is enough."""

from __future__ import annotations

import os
import pkgutil
import runpy
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

import skipae
import skipae_zoo
from skipae.cli import COMMANDS


def test_the_hook_is_found_and_names_every_command_and_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, function = settings["project"]["entry-points"]["pyinstaller40"]["hook-dirs"].partition(":")
    (folder,) = getattr(import_module(module), function)()

    def collect(package: str, filter: Callable[[str], bool] = lambda name: True) -> list[str]:
        found = pkgutil.walk_packages(import_module(package).__path__, f"{package}.")
        return [part.name for part in found if filter(part.name)]

    hooks = ModuleType("PyInstaller.utils.hooks")  # as much of it as the hook uses
    hooks.collect_submodules = collect  # type: ignore[attr-defined]
    for name in ("PyInstaller", "PyInstaller.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "PyInstaller.utils.hooks", hooks)
    hook = runpy.run_path(str(Path(folder) / "hook-skipae.py"))
    assert {f"skipae.commands.{name}" for name in COMMANDS} <= set(hook["hiddenimports"])
    assert not any("integrations" in name for name in hook["hiddenimports"])  # Ray is not for everyone
    files = {f"{folder}/{Path(file).name}" for file, folder in hook["datas"]}
    natural = "skipae/weights/skipae-natural"
    assert {f"{natural}/config.json", f"{natural}/README.md", f"{natural}/onnx/model.onnx"} <= files
    assert not any("training" in file or file.endswith(".safetensors") for file in files)
    assert settings["tool"]["hatch"]["build"]["targets"]["wheel"]["sources"]["model_cards"] == "skipae/weights"


FROM_A_ZIP = """
import sys
sys.path.insert(0, "packages.zip")
import skipae
assert "packages.zip" in skipae.__file__
from skipae.cli import main
main(["denoise", "photo.png", "--device", "cpu", "--threads", "1"])
"""


def test_a_package_in_a_zip_has_its_commands_and_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packages.zip", "w") as archive:
        for package in (skipae, skipae_zoo):
            folder = Path(package.__path__[0])
            for path in folder.rglob("*.py"):
                archive.write(path, path.relative_to(folder.parent))
        for path in checkpoint.rglob("*"):
            archive.write(path, Path("skipae/weights/skipae-natural") / path.relative_to(checkpoint))
    Image.new("RGB", (20, 30), "orange").save(tmp_path / "photo.png")
    words = [sys.executable, "-c", FROM_A_ZIP]
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(tmp_path / "photo.denoised.png") as result:
        assert result.size == (20, 30)
    assert not list((tmp_path / "temporary").iterdir())  # nothing is left behind
