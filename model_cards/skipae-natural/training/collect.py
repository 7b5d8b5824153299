"""Build the folders of training photos that ``sources.tsv`` lists: ``python collect.py CLONES OUT``.

``OUT/first``, for the greater part of the run, has all photos, those of BSDS500 twice.  ``OUT/last`` has those of
BSDS500 six times, and besides all photos at half size whose short side is of 640 pixels and more.  The photos of
``extra`` were added for the third run: they are in ``OUT/last`` only, once and at one size; their names end with the
first digits of the git hash of the version that was used.

CLONES holds the source repositories as git clones (bare or not) named ``owner/name`` or ``owner+name``, and the
folder ``BSDS500`` (with ``train`` and ``test``).  Pictures that a repository keeps only in its history are taken from
there; what is missing is counted and left out.  Photos that were shrunk are shrunk again: by a box filter where it is
exactly by two, else and in ``extra`` by Lanczos.  Needs git and Pillow.
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

HALVED = 640
"""Least short side in pixels of photos that ``last`` has at half size too."""


def versions(clones: Path, repository: str, path: str, blob: str = "") -> Iterator[bytes]:
    """The file's contents, newest version first; with ``blob``, the first digits of its hash, that version alone."""
    if repository == "BSDS500":
        yield (clones / "BSDS500" / path).read_bytes()
        return
    clone = next((p for p in (clones / repository, clones / repository.replace("/", "+")) if p.exists()), None)
    if clone is None:
        raise FileNotFoundError(f"{clones} holds no clone of {repository}")
    if (clone / "repo").is_dir():
        clone = clone / "repo"
    git = ["git", "-C", str(clone)]
    if blob:
        yield subprocess.run([*git, "cat-file", "blob", blob], capture_output=True).stdout
        return
    log = subprocess.run(
        [*git, "log", "--all", "--format=%H", "--diff-filter=AM", "--", path], capture_output=True, text=True
    )
    for commit in log.stdout.split():
        found = subprocess.run([*git, "cat-file", "blob", f"{commit}:{path}"], capture_output=True)
        if found.returncode == 0:
            yield found.stdout


def fit(photo: Image.Image, size: tuple[int, int], *, lanczos: bool = False) -> Image.Image | None:
    """The photo at the size that was trained on, or None if it has another shape or is smaller."""
    if photo.size == size:
        return photo
    scale = photo.width / size[0]
    if scale < 1 or abs(photo.height / size[1] - scale) > 0.02 * scale:
        return None
    exactly_two = abs(scale - 2) < 2 / size[0] and not lanczos
    return photo.resize(size, Image.Resampling.BOX if exactly_two else Image.Resampling.LANCZOS)


def link(file: Path, name: Path) -> None:
    """The same file under another name."""
    if name != file:
        name.parent.mkdir(parents=True, exist_ok=True)
        name.unlink(missing_ok=True)
        name.hardlink_to(file)


def main() -> None:
    """Write the photos as PNG."""
    clones, out = Path(sys.argv[1]), Path(sys.argv[2])
    missing = []
    with (Path(__file__).parent / "sources.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for row in rows:
        extra = row["file"].startswith("extra/")
        target = out / ("last" if extra else "first") / row["file"]
        size = int(row["width"]), int(row["height"])
        blob = target.stem.rsplit("-", 1)[-1] if extra else ""
        try:
            contents = versions(clones, row["repository"], row["path"], blob)
            found = [Image.open(io.BytesIO(data)) for data in contents]
        except OSError as error:
            missing.append(f"{row['file']}: {error}")
            continue
        fitted = (fit(ImageOps.exif_transpose(photo).convert("RGB"), size, lanczos=extra) for photo in found)
        photo = next((photo for photo in fitted if photo is not None), None)
        if photo is None:
            missing.append(f"{row['file']}: {row['path']} is not in {row['repository']} at this size")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        photo.save(target, compress_level=1)
        if extra:
            continue
        counts = {"first": 1, "last": 1}
        if row["repository"] == "BSDS500":
            counts = {"first": 2, "last": 6}
        for folder, count in counts.items():
            for number in range(count):
                link(target, out / folder / (f"{number}/" if number else "") / row["file"])
        if min(photo.size) >= HALVED:
            half = out / "last" / "half" / row["file"]
            half.parent.mkdir(parents=True, exist_ok=True)
            photo.reduce(2).save(half, compress_level=1)
    for line in missing:
        sys.stderr.write(line + "\n")
    sys.stdout.write(f"{len(rows) - len(missing)} of {len(rows)} photos are in {out}\n")


if __name__ == "__main__":
    main()
