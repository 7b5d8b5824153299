"""Jobs on a full disk say so and leave nothing broken: a few of the places that ``full_disk.py`` tries on demand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL_DISK = Path(__file__).with_name("full_disk.py")


KINDS = [("file", 2), ("batch", 13), ("features", 17), ("inpaint", 3), ("export", 3)]
"""Jobs, and how many writes lie between those that are tried."""


@pytest.mark.skipif(sys.platform != "linux", reason="looks up open files in /proc")
@pytest.mark.parametrize(("kind", "step"), KINDS)
def test_a_full_disk_is_named_and_leaves_nothing_broken(kind: str, step: int) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["--only", kind, "--way", "calls", "--step", str(step), "--first", "2"]
    result = subprocess.run([sys.executable, FULL_DISK, *words], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    tried = int(result.stdout.split()[2])
    assert tried >= 4 and " 0 faults" in result.stdout
