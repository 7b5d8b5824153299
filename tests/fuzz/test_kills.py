"""Jobs that are ended at random times lose nothing: a few of those that ``kills.py`` tries on demand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).with_name("kills.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
@pytest.mark.parametrize("kind", ["batch", "features", "pull", pytest.param("training", marks=pytest.mark.train)])
def test_a_job_that_is_ended_at_random_times_loses_nothing(kind: str) -> None:
    if kind == "training":
        pytest.importorskip("torch")
    # In a process of its own, since what other tests have loaded and started may not be forked.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, KILLS, "--count", "3", "--only", kind], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{kind:10}    3 ended, 0 faults" in result.stdout
