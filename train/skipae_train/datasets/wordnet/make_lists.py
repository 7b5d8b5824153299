"""Write ``animal.txt`` and ``vehicle.txt`` beside this file: the hyponyms of table 5, as ImageNet ids.

usage: python make_lists.py /usr/share/wordnet/data.noun

ImageNet's ids are the noun offsets of WordNet 3.0 (Debian: ``apt-get install wordnet-base``).
"""

from __future__ import annotations

import sys
from pathlib import Path

LISTS = {"animal": ("mammal mammalian", "bird"), "vehicle": ("conveyance transport",)}


def read_nouns(data: Path) -> dict[str, tuple[str, list[str]]]:
    """Return a map from offset to (words, offsets of the direct hyponyms), of all noun synsets (format: man 5 wndb)."""
    nouns = {}
    for line in data.read_text().splitlines():
        if line.startswith("  "):  # the license
            continue
        fields = line.split()
        words = int(fields[3], 16)
        pointers = fields[5 + 2 * words :]
        below = [pointers[4 * i + 1] for i in range(int(fields[4 + 2 * words])) if pointers[4 * i] == "~"]
        nouns[fields[0]] = " ".join(fields[4 : 4 + 2 * words : 2]), below
    return nouns


def hyponyms(nouns: dict[str, tuple[str, list[str]]], words: str) -> set[str]:
    """Return the offsets of the only synset with exactly these words, and of all synsets below it."""
    (root,) = (offset for offset, (named, _) in nouns.items() if named == words)
    found, open_ = set(), [root]
    while open_:
        offset = open_.pop()
        if offset not in found:
            found.add(offset)
            open_ += nouns[offset][1]
    return found


def main(data: Path) -> None:
    """Write the lists, each headed by WordNet's license."""
    license = [line[4:].strip() for line in data.read_text().splitlines() if line.startswith("  ")]
    nouns = read_nouns(data)
    for name, roots in LISTS.items():
        offsets = sorted(set().union(*(hyponyms(nouns, root) for root in roots)))
        title = " or ".join(f'"{root.replace(" ", ", ")}"' for root in roots)
        head = [f"WordNet 3.0 synsets under {title}, as ImageNet ids; written by make_lists.py.", "", *license]
        lines = [f"# {line}".strip() for line in head] + [f"n{offset}" for offset in offsets]
        Path(__file__).with_name(f"{name}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
