"""The notebooks of docs/notebooks: executed as they are, table 2 on a tiny set in CIFAR-10's format."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

import make_sets

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def printed(notebook: dict[str, Any]) -> str:
    """Everything that the code cells printed or displayed as text."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    data = [one.get("text") or one.get("data", {}).get("text/markdown", "") for one in outputs]
    return "\n".join("".join(one) for one in data)


def run(name: str) -> dict[str, Any]:
    """A notebook after its code ran in a kernel of its own; an exception in a cell is one here."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(FOLDER / name, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of jupyter_client and pyzmq, about event loops
        nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(FOLDER)}}).execute()
    found: dict[str, Any] = json.loads(nbformat.writes(notebook))
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_was_executed_before_it_was_committed(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert kinds and set(kinds) <= {"stream", "display_data"}
    assert path.stat().st_size < 500_000
    assert "/" + "work/" not in path.read_text(encoding="utf-8")


def test_denoise_and_features() -> None:
    found = run("denoise-and-features.ipynb")
    text = printed(found)
    before, after = map(float, re.findall(r"noisy ([\d.]+) dB, denoised ([\d.]+) dB", text)[0])
    assert after > before + 10
    scores = {name: float(value) for name, value in re.findall(r"^ *(enc\d+|pixels) ([\d.]+)%$", text, re.MULTILINE)}
    assert scores["enc8"] > scores["enc13"]
    committed = printed(json.loads((FOLDER / "denoise-and-features.ipynb").read_text(encoding="utf-8")))
    told = re.findall(r"noisy ([\d.]+) dB, denoised ([\d.]+) dB", committed)[0]
    assert (before, after) == pytest.approx(tuple(map(float, told)), abs=0.05)


def test_reproduce_table2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPAE_DATA", str(make_sets.cifar(tmp_path / "data")))
    monkeypatch.setenv("SKIPAE_OUT", str(tmp_path / "out"))
    path = os.pathsep.join([str(FOLDER.parent.parent / folder) for folder in ("inference", "zoo", "train")])
    monkeypatch.setenv("PYTHONPATH", path)  # for the training it starts
    text = printed(run("reproduce-table2.ipynb"))
    assert "exit code 0" in text
    assert text.count("| pre-trained with shortcuts | 80.22 ± 0.37 |") == 2  # at the budgets smoke and cpu
    assert (tmp_path / "out" / "table.md").is_file()
