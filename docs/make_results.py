"""Write RESULTS.md: ``python docs/make_results.py``, with ``--check`` as in ``make_command_pages.py``.

A result of the paper that was run has the folder ``docs/results/ID``: a copy of what ``skipae-train reproduce ID`` left
in ``results/ID``, or a ``result.json`` of that form, written by hand, whose rows name the command, hardware and commit
for a single run each.  ``docs/results/ID/comment.md`` says what agrees with the paper, what does not and why,
or why it was not run; ``docs/results/intro.md`` comes first, the other pages there last.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from skipae_train.tables import RESULTS

ROOT = Path(__file__).parent.parent
FOLDER, PAGE = ROOT / "docs" / "results", ROOT / "RESULTS.md"
COLUMNS = ("result", "row", "measure", "paper", "ours", "std", "n", "budget", "hardware", "command", "commit")


def rows(name: str) -> list[list[str]]:
    """The lines of a result in the table, its id first."""
    path = FOLDER / name / "result.json"
    if not path.exists():
        result = RESULTS[name]
        table = result.table
        papers = [
            [name, row.label, column.label, table.paper(row, number), "not run", *[""] * 6]
            for row in (table.rows if table else ())
            for number, column in enumerate(table.columns if table else ())
            if table and table.paper(row, number)
        ]
        return papers or [[name, result.title, "", "", "not run", *[""] * 6]]
    found = json.loads(path.read_text(encoding="utf-8"))

    def facts(row: dict[str, Any]) -> list[str]:
        own = {**found, **row}
        return [own["budget"], own["hardware"], f"`{own['command']}`", own["commit"]]

    return [
        [
            name,
            row["row"],
            row["column"],
            row["paper"],
            "" if row["mean"] is None else f"**{row['mean']:.2f}**",
            "" if row["std"] is None else f"{row['std']:.2f}",
            str(row["n"]),
            *facts(row),
        ]
        for row in found["rows"]
    ] or [[name, found["title"], "", "", "pictures", "", "", *facts({})]]


def comment(name: str) -> str:
    """Return the comment on a result, with its pictures."""
    folder = FOLDER / name
    lines = [f'<a id="{name}"></a>', "", f"## {name}: {RESULTS[name].title}", ""]
    if (folder / "comment.md").exists():
        lines += [(folder / "comment.md").read_text(encoding="utf-8").strip(), ""]
    lines += [f"![{name}](docs/results/{name}/{path.name})\n" for path in sorted(folder.glob("*.png"))]
    return "\n".join(lines)


def summary(name: str) -> list[str]:
    """The line of a result in the overview: how many rows of it were run, with how many seeds, at which budget."""
    every = [dict(zip(COLUMNS, row, strict=True)) for row in rows(name)]
    run = [row for row in every if row["ours"] != "not run"]
    seeds = " or ".join(sorted({row["n"] for row in run} - {""}))
    shown = f"[{name}](#{name})" if (FOLDER / name).is_dir() else name
    if not run:
        return [shown, RESULTS[name].title, "not run", "", ""]
    return [shown, RESULTS[name].title, f"{len(run)}", seeds, ", ".join(sorted({row["budget"] for row in run}))]


def page() -> str:
    """The text of RESULTS.md."""

    def table(columns: tuple[str, ...], cells: list[list[str]]) -> list[str]:
        head = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
        return [*head, *(f"| {' | '.join(row)} |" for row in cells), ""]

    lines = ["# Results", "", "Written by `python docs/make_results.py` from `docs/results`.", ""]
    lines += [(FOLDER / "intro.md").read_text(encoding="utf-8").strip(), ""]
    lines += table(("result", "what it shows", "values measured", "n", "budget"), [summary(name) for name in RESULTS])
    said = [comment(name) for name in RESULTS if (FOLDER / name).is_dir()]
    more = [p.read_text(encoding="utf-8").strip() for p in sorted(FOLDER.glob("*.md")) if p.name != "intro.md"]
    every = ["", "## All values", "", *table(COLUMNS, [row for name in RESULTS for row in rows(name)])]
    return "\n".join([*lines, *said, "\n\n".join(more), *every]).rstrip() + "\n"


def main() -> int:
    """Write or check the page."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.stderr.write("RESULTS.md is not up to date with docs/results: run python docs/make_results.py\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
