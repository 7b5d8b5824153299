"""Crops of real photos as two checkpoints restore them, to be looked at beside the input and non-local means.

    python benchmarks/picture_sheet.py OLD NEW --clones CLONES --out sheet

OLD and NEW are names or folders of checkpoints.  ``--crops`` is a table with tabs and the columns ``name``,
``repository``, ``path``, ``left``, ``top`` and ``jpeg`` (the quality of a JPEG that the photo is stored as before, or
nothing); ``picture_sheet.tsv`` beside this script names twelve photos that may be shown, with their terms.  CLONES has
the repositories as git clones (bare or not) or unpacked, each named ``owner/name`` or ``owner+name``.
``--out`` gets pages ``sheet-1.png``, ``sheet-2.png``, ... of six crops each: rows input, OLD, NEW, NLM at 1:1, then the
middle of each at 3x; ``sheet.jpg`` is all of them in less than 400 KB.  ``sheet.csv`` has, for each crop and row, the
estimated noise and how far the mean color moved, both in gray levels.  NLM is OpenCV's, with the estimated noise of the
photo as its strength.

Needs git and ``pip install -e ".[cpu,train]" opencv-python-headless``.
"""

from __future__ import annotations

import csv
import io
import subprocess
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from skipae import from_pretrained
from skipae.errors import SkipaeError
from skipae_train.data import DataError
from skipae_train.gather import noise_level
from skipae_train.rivals import nlm

Pixels = NDArray[np.uint8]
SIDE = 192
"""Pixels of a crop."""
MARGIN = 128
"""Pixels around a crop that are restored too, so that it does not end at a border."""
ZOOM = 3
COLUMNS = 6
LABEL = 88
GAP = 4
MOST_BYTES = 400_000
"""Size limit of the JPEG for the documentation."""


class Crop(NamedTuple):
    """A place in a photo."""

    name: str
    repository: str
    path: str
    left: int
    top: int
    jpeg: int | None
    """Quality of the JPEG that the photo is stored as before; None for the photo as it is."""


def read_crops(table: Path) -> list[Crop]:
    """The rows of the table; :class:`DataError` where it lacks a column or holds no number."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            crops = [
                Crop(
                    row["name"], row["repository"], row["path"], int(row["left"]), int(row["top"]),
                    int(row["jpeg"]) if row["jpeg"] else None,
                )
                for row in csv.DictReader(file, delimiter="\t")
            ]  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{table} must have the columns name, repository, path, left, top and jpeg, the last three whole numbers "
            f"({error})"
        ) from None
    if not crops:
        raise DataError(f"{table} lists no crops")
    return crops


def load(crop: Crop, clones: Path) -> Pixels:
    """The photo of a crop, uint8 [H, W, 3]; :class:`DataError` where ``clones`` does not have it."""
    places = [clones / crop.repository, clones / crop.repository.replace("/", "+")]
    clone = next((place for place in places if place.is_dir()), None)
    if clone is None:
        raise DataError(f"{clones} has no clone of {crop.repository}: git clone https://github.com/{crop.repository}")
    clone = clone / "repo" if (clone / "repo" / "HEAD").is_file() else clone
    if (clone / crop.path).is_file():
        data = (clone / crop.path).read_bytes()
    else:
        git = ["git", "-C", str(clone), "cat-file", "blob", f"HEAD:{crop.path}"]
        found = subprocess.run(git, capture_output=True, check=False)
        if found.returncode:
            raise DataError(f"{clone} has no {crop.path}: {found.stderr.decode(errors='replace').strip()}")
        data = found.stdout
    photo = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    if crop.jpeg is not None:
        buffer = io.BytesIO()
        photo.save(buffer, "JPEG", quality=crop.jpeg)
        photo = Image.open(buffer)
    return np.asarray(photo)


def cut(crop: Crop, clones: Path) -> tuple[Pixels, tuple[slice, slice], float]:
    """The photo around a crop, where the crop is in it, and the noise of the whole photo in gray levels.

    Raises:
        DataError: the crop does not fit into the photo.
    """
    photo = load(crop, clones)
    height, width = photo.shape[:2]
    if min(crop.left, crop.top) < 0 or crop.left + SIDE > width or crop.top + SIDE > height:
        raise DataError(
            f"the crop {crop.name} at {crop.left}, {crop.top} does not fit into {crop.path} ({width} x {height}): "
            f"choose left up to {width - SIDE} and top up to {height - SIDE}"
        )
    top, left = max(0, crop.top - MARGIN), max(0, crop.left - MARGIN)
    around = photo[top : crop.top + SIDE + MARGIN, left : crop.left + SIDE + MARGIN]
    inside = slice(crop.top - top, crop.top - top + SIDE), slice(crop.left - left, crop.left - left + SIDE)
    return around, inside, noise_level(photo)


def page(columns: list[tuple[str, list[Pixels]]], rows: list[str]) -> Image.Image:
    """Crops side by side, [SIDE, SIDE, 3] each, with their middle at :data:`ZOOM` below."""
    step, head = SIDE + GAP, 20
    made = Image.new("RGB", (LABEL + step * len(columns), head + 2 * step * len(rows)), "white")
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(13)
    small = SIDE // ZOOM
    start = (SIDE - small) // 2
    for number, (name, crops) in enumerate(columns):
        left = LABEL + step * number
        draw.text((left, 2), name, "black", font)
        for row, crop in enumerate(crops):
            middle = Image.fromarray(crop[start : start + small, start : start + small])
            made.paste(Image.fromarray(crop), (left, head + step * row))
            larger = middle.resize((SIDE, SIDE), Image.Resampling.NEAREST)
            made.paste(larger, (left, head + step * (len(rows) + row)))
    for row, name in enumerate([*rows, *(f"{name} {ZOOM}x" for name in rows)]):
        draw.text((2, head + step * row + SIDE // 2), name, "black", font)
    return made


def small_jpeg(pages: list[Image.Image]) -> bytes:
    """The pages below each other as a JPEG of less than :data:`MOST_BYTES`, of the highest quality that allows it."""
    whole = Image.new("RGB", (max(p.width for p in pages), sum(p.height for p in pages)), "white")
    top = 0
    for made in pages:
        whole.paste(made, (0, top))
        top += made.height
    for quality in range(95, 10, -5):
        buffer = io.BytesIO()
        whole.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() < MOST_BYTES:
            break
    return buffer.getvalue()


@click.command(help=__doc__)
@click.argument("old")
@click.argument("new")
@click.option("--clones", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option(
    "--crops",
    "table",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=Path(__file__).with_suffix(".tsv"),
    show_default="picture_sheet.tsv beside the script",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Pages are OUT-1.png, OUT-2.png, ..., OUT.jpg."
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
def main(old: str, new: str, clones: Path, table: Path, out: Path, threads: int | None) -> None:
    """Restore the crops and write the pages."""
    rows = ["input", "old", "new", "NLM"]
    columns: list[tuple[str, list[Pixels]]] = []
    try:
        crops = read_crops(table)
        cuts = [cut(crop, clones) for crop in crops]  # before the models, so that a wrong one is found at once
        models = [from_pretrained(name, device="cpu", precision="fp32", threads=threads) for name in (old, new)]
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.with_name(f"{out.name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["crop", "row", "noise", "color moved"])
            for crop, (around, inside, noise) in zip(crops, cuts, strict=True):
                pictures = [
                    around,
                    *(np.asarray(model.denoise(around)) for model in models),
                    nlm(max(1.0, noise))(around),
                ]
                found = [np.ascontiguousarray(picture[inside]) for picture in pictures]
                mean = found[0].mean((0, 1))
                for row, picture in zip(rows, found, strict=True):
                    moved = float(np.abs(picture.mean((0, 1)) - mean).max())
                    writer.writerow([crop.name, row, f"{noise_level(picture):.2f}", f"{moved:.2f}"])
                columns.append((crop.name, found))
    except SkipaeError as error:
        raise click.ClickException(str(error)) from None
    pages = [page(columns[first : first + COLUMNS], rows) for first in range(0, len(columns), COLUMNS)]
    for number, made in enumerate(pages, start=1):
        written = out.with_name(f"{out.name}-{number}.png")
        made.save(written, optimize=True)
        click.echo(written)
    small = out.with_name(f"{out.name}.jpg")
    small.write_bytes(small_jpeg(pages))
    click.echo(small)


if __name__ == "__main__":
    main()
