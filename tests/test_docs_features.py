"""Run the examples of docs/features.md in order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from skipae import cli

ROOT = Path(__file__).parent.parent


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    found = re.findall(r"(?:<!-- runs in tests/(\w+).py -->\n)?```(\w+)\n(.*?)```", page, re.DOTALL)
    assert all(test for test, _, _ in found)
    blocks = [block for block in found if block[0] == "test_docs_features"]
    assert len(blocks) >= 9
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    photo = Image.open(ROOT / "docs" / "images" / "chelsea.png").convert("RGB")
    for k, name in enumerate("abc"):
        photo.crop((60 * k, 20, 60 * k + 80, 90)).save(f"photos/{name}.jpg")
    names: dict[str, Any] = {}
    for _, language, code in blocks:
        if language == "python":
            exec(code, names)
            continue
        for line in code.splitlines():
            program, *words = shlex.split(line)
            assert program == "skipae"
            result = CliRunner().invoke(cli.main, words)
            assert result.exit_code == 0, f"{line}: {result.stderr}"
    assert names["features"]["enc8"].shape == (2, 256)
    assert names["found"]["enc4"].shape == (64,)
    np.testing.assert_allclose(names["vectors"][:2], names["features"]["enc8"], rtol=0, atol=1e-5)
    assert names["where"]["photos/c.jpg"] == ("00001.parquet", 0)
    assert Image.open("maps.png").width > 1000
