"""PyInstaller finds the hook of the package, and with it all commands and the checkpoints."""

from __future__ import annotations

import pkgutil
import runpy
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

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
    hooks.collect_data_files = lambda package, subdir: [(package, subdir)]  # type: ignore[attr-defined]
    for name in ("PyInstaller", "PyInstaller.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "PyInstaller.utils.hooks", hooks)
    hook = runpy.run_path(str(Path(folder) / "hook-skipae.py"))
    assert {f"skipae.commands.{name}" for name in COMMANDS} <= set(hook["hiddenimports"])
    assert not any("integrations" in name for name in hook["hiddenimports"])  # Ray is not for everyone
    assert hook["datas"] == [("skipae", "weights")]
    assert settings["tool"]["hatch"]["build"]["targets"]["wheel"]["sources"]["model_cards"] == "skipae/weights"
