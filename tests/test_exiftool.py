"""``exiftool -validate`` finds nothing wrong in photos of many cameras that was not wrong in them before.

Skipped where exiftool is missing: it is looked for as the environment variable EXIFTOOL says, then in PATH.  Its source
has a folder ``t/images`` beside the program, with photos of many makers; EXIFTOOL_IMAGES names another folder of JPEGs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from skipae import cli

PROGRAM = os.environ.get("EXIFTOOL") or shutil.which("exiftool")
IMAGES = Path(os.environ.get("EXIFTOOL_IMAGES") or (Path(PROGRAM).resolve().parent / "t" / "images" if PROGRAM else ""))
KNOWN = {
    # A signature of the camera's own file, which a changed photo is not.
    "Canon1DmkIII.jpg": "Invalid original decision data",
    # Made by hand of every segment there is; exiftool compares places in segments that follow each other otherwise.
    "ExifTool.jpg": "ImageInfo pointer references previous IFD0 directory",
}
"""New warnings that are correct, in any orientation."""

ORIENTATIONS = range(1, 9)


def exiftool(*words: object) -> str:
    command = [str(PROGRAM), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace").stdout


def warnings_of(folder: Path) -> dict[str, Counter[str]]:
    """What exiftool warns of, by file."""
    found = json.loads(exiftool("-validate", "-warning", "-error", "-a", "-G4", "-j", "-r", folder))
    return {
        str(Path(tags["SourceFile"]).relative_to(folder)): Counter(
            str(value) for key, value in tags.items() if key.rpartition(":")[2] in ("Warning", "Error")
        )
        for tags in found
    }


@pytest.mark.skipif(PROGRAM is None, reason="exiftool is missing")
def test_photos_of_many_cameras_get_no_new_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    photos = sorted(path for path in IMAGES.glob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not photos:
        pytest.skip(f"no JPEGs in {IMAGES}")
    monkeypatch.chdir(tmp_path)
    for orientation in ORIENTATIONS:
        exiftool("-q", "-m", "-n", f"-IFD0:Orientation={orientation}", "-o", f"in/{orientation}/", *photos)
    words = ["denoise", "in", "-o", "out", "--model", str(checkpoint), "--device", "cpu", "--threads", "1"]
    result = CliRunner().invoke(cli.main, words)
    before, after = warnings_of(tmp_path / "in"), warnings_of(tmp_path / "out")
    new = {name: sorted((after[name] - before[name]).elements()) for name in after}
    lines = [
        f"{name}: {warning}"
        for name, found in new.items()
        for warning in found
        if KNOWN.get(Path(name).name) != warning
    ]
    assert len(after) >= 0.8 * len(before) >= 0.8 * len(ORIENTATIONS), result.stderr  # some are cut on purpose
    assert not lines, "\n".join(lines)
