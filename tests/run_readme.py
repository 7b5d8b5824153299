"""Run every example of README.md, each in a folder of its own, with the skipae of the environment that runs this.

    PYTHON tests/run_readme.py README.md docs/images/chelsea-noisy.png

Lines of skipae-train and pytest need another environment and data: tests/test_project.py parses the former.  Of lines
that install first, the part from skipae on is run.  Prints each example, and ends with 1 where one fails, says an
error, or leaves nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw


def examples(page: str) -> list[list[str]]:
    """Commands of the page: lines of shell blocks that call skipae, and whole Python blocks."""
    found = []
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        if language == "python":
            found.append([sys.executable, "-c", block])
        else:
            calls = re.findall(r"(?:^|&& \S*/)(skipae .*)$", block, re.MULTILINE)
            found += [["bash", "-c", line] for line in calls]
    return found


def prepare(folder: Path, picture: Path) -> None:
    """The files that the examples name."""
    image = Image.open(picture).convert("RGB")
    for name in (
        "photo.jpg",
        "photo.png",
        "cat.jpg",
        "a.jpg",
        "b.jpg",
        "holiday/1.jpg",
        "holiday/sea/2.png",
        "photos/1.jpg",
        "docs/images/chelsea-noisy.png",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).rectangle((40, 30, 60, 50), 255)
    mask.save(folder / "mask.png")


def main(page: Path, picture: Path) -> int:
    """Run them; the exit code."""
    commands, failed = examples(page.read_text(encoding="utf-8")), 0
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for words in commands:
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work)
            prepare(folder, picture.resolve())
            before = set(folder.rglob("*"))
            done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
            made = {path.relative_to(folder).as_posix() for path in set(folder.rglob("*")) - before}
        fine = done.returncode == 0 and "error" not in done.stderr and bool(made or done.stdout)
        failed += not fine
        print(f"{'ok' if fine else 'FAILED'}: {words[-1].strip()}", *sorted(made), sep="\n    ")
        if not fine:
            print(f"exit code {done.returncode}", done.stdout, done.stderr, sep="\n")
    print(f"{len(commands) - failed} of {len(commands)} examples run")
    return int(failed > 0 or not commands)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
