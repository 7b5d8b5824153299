"""Pages that were reworded keep to the words of CONTRIBUTING.md, as far as a list of phrases can say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORDS = tomllib.loads((ROOT / "docs" / "words.toml").read_text(encoding="utf-8"))
PHRASES = [(re.compile(phrase["pattern"], re.IGNORECASE), phrase) for phrase in WORDS["phrase"]]
FILES = sorted({path for pattern in WORDS["files"] for path in ROOT.glob(pattern)})


def prose(path: Path) -> str:
    """The text of a file without code, and without the glossary, which quotes what not to say."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = re.sub(r"(?s)```.*?```", lambda block: "\n" * block[0].count("\n"), text)
        text = re.sub(r"`[^`\n]*`", "`code`", text)
        text = re.sub(r"(?m)^\| say \| for \| not \|\n(\|.*\n)+", lambda table: "\n" * table[0].count("\n"), text)
    return text


@pytest.mark.parametrize("pattern", WORDS["files"])
def test_every_pattern_of_the_list_has_files(pattern: str) -> None:
    assert list(ROOT.glob(pattern))


@pytest.mark.parametrize(("pattern", "phrase"), PHRASES, ids=[phrase["wrong"] for _, phrase in PHRASES])
def test_every_phrase_is_found_in_its_example(pattern: re.Pattern[str], phrase: dict[str, str]) -> None:
    assert pattern.search(phrase["wrong"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_words(path: Path) -> None:
    text = prose(path)
    found = [
        f"line {text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}; say: {phrase['say']}"
        for pattern, phrase in PHRASES
        for match in pattern.finditer(text)
    ]
    assert found == []
