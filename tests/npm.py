"""Packages of npm for tests that run JavaScript; without Node.js, or where npm cannot get them, those are skipped."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def npm(folder: Path, *words: str) -> None:
    """Run npm with ``words``, ``install PACKAGE`` or ``ci``, in a folder."""
    program = shutil.which("npm")
    if program is None or shutil.which("node") is None:
        pytest.skip("no Node.js with npm")
    command = [program, *words, "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=400, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not answer")
    if done.returncode:
        pytest.skip(f"npm {' '.join(words)} fails: {done.stderr.decode(errors='replace')[:200]}")
