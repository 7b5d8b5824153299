"""The files around the code: what is packaged, and what the project says of itself."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder

from skipae_zoo import CHECKPOINTS

ROOT = Path(__file__).parent.parent


def test_sdist_contains_every_tracked_file() -> None:
    """So the tests of an unpacked sdist find what they read."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tracked = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    packaged = {file.distribution_path for file in SdistBuilder(str(ROOT)).recurse_included_files()}
    assert tracked
    assert sorted(tracked - packaged) == []


def test_license_of_every_staged_checkpoint_is_stated() -> None:
    """The wheel's license expression names the weights; the file behind it has a row for each checkpoint."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0 AND LicenseRef-skipae-weights"
    assert "LICENSE-WEIGHTS.md" in project["license-files"]
    terms = (ROOT / "LICENSE-WEIGHTS.md").read_text(encoding="utf-8")
    staged = {folder.name for folder in (ROOT / "model_cards").iterdir() if (folder / "config.json").is_file()}
    assert staged <= {entry.name for entry in CHECKPOINTS}
    assert [name for name in sorted(staged) if f"| `{name}` |" not in terms] == []
