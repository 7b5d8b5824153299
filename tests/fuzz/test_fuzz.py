"""Changed files end in one line: no traceback, no hang, no wrong success.  ``--fuzz-seconds`` tries longer."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from registry import NEEDS, TARGETS
from runner import run

FILES = 40
"""For each reader in the ordinary suite."""


@pytest.mark.filterwarnings("ignore")  # of Pillow, of damaged files; the command hides them
@pytest.mark.parametrize("name", TARGETS)
def test_changed_files_end_in_one_line(name: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip(NEEDS.get(name, "skipae"))
    seconds = request.config.getoption("--fuzz-seconds")
    outcome = run(
        TARGETS[name],
        count=None if seconds else max(4, round(FILES * TARGETS[name].share)),
        seconds=seconds and seconds / len(TARGETS),
    )
    assert not outcome.faults, "\n\n".join(outcome.faults)
    assert outcome.files > outcome.taken  # some are broken for sure


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_whole_files_are_taken(name: str) -> None:
    pytest.importorskip(NEEDS.get(name, "skipae"))
    for data in TARGETS[name].seeds():
        rng = random.Random(0)
        rng.random = lambda: 0.99  # type: ignore[method-assign]
        assert TARGETS[name].read(data, "", rng)
