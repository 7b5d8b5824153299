"""Crops of real photos as two checkpoints restore them, to be looked at beside the input and non-local means.

    python benchmarks/picture_sheet.py OLD NEW --data DATA --out sheet

OLD and NEW are names or folders of checkpoints.  ``--crops`` is a CSV file with the columns ``name``, ``file``
(relative to ``--data``), ``left`` and ``top``; ``picture_sheet.csv`` beside this script names twelve photos of public
sets (imagenet-sample-images, PolyU, SIDD's small set).
``--out`` gets pages ``sheet-1.png``, ``sheet-2.png``, ... of six crops each: rows input, OLD, NEW, NLM at 1:1, then the
middle of each at 3x.  ``sheet.csv`` has, for each crop and row, the estimated noise and how far the mean color moved,
both in gray levels.  NLM is OpenCV's, with the estimated noise of the photo as its strength.

Needs ``pip install -e ".[cpu,train]" opencv-python-headless``.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from skipae import from_pretrained
from skipae.errors import SkipaeError
from skipae_train.data import DataError, load_rgb
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


class Crop(NamedTuple):
    """A place in a photo."""

    name: str
    file: Path
    left: int
    top: int


def read_crops(table: Path, data: Path) -> list[Crop]:
    """The rows of the CSV file; :class:`DataError` where it lacks a column or holds no number."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            crops = [
                Crop(row["name"], data / row["file"], int(row["left"]), int(row["top"])) for row in csv.DictReader(file)
            ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{table} must have the columns name, file, left and top, the last two in pixels ({error})"
        ) from None
    if not crops:
        raise DataError(f"{table} lists no crops")
    return crops


def cut(crop: Crop) -> tuple[Pixels, tuple[slice, slice]]:
    """The photo around a crop, and where the crop is in it; :class:`DataError` where it does not fit."""
    photo = load_rgb(crop.file)
    height, width = photo.shape[:2]
    if min(crop.left, crop.top) < 0 or crop.left + SIDE > width or crop.top + SIDE > height:
        raise DataError(
            f"the crop {crop.name} at {crop.left}, {crop.top} does not fit into {crop.file} ({width} x {height}): "
            f"choose left up to {width - SIDE} and top up to {height - SIDE}"
        )
    top, left = max(0, crop.top - MARGIN), max(0, crop.left - MARGIN)
    around = photo[top : crop.top + SIDE + MARGIN, left : crop.left + SIDE + MARGIN]
    inside = slice(crop.top - top, crop.top - top + SIDE), slice(crop.left - left, crop.left - left + SIDE)
    return around, inside


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


@click.command(help=__doc__)
@click.argument("old")
@click.argument("new")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option(
    "--crops",
    "table",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=Path(__file__).with_suffix(".csv"),
    show_default="picture_sheet.csv beside the script",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Pages are OUT-1.png, OUT-2.png, ...")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
def main(old: str, new: str, data: Path, table: Path, out: Path, threads: int | None) -> None:
    """Restore the crops and write the pages."""
    rows = ["input", "old", "new", "NLM"]
    columns: list[tuple[str, list[Pixels]]] = []
    try:
        crops = read_crops(table, data)
        cuts = [cut(crop) for crop in crops]  # before the models, so that a wrong one is found at once
        models = [from_pretrained(name, device="cpu", precision="fp32", threads=threads) for name in (old, new)]
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.with_name(f"{out.name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["crop", "row", "noise", "color moved"])
            for crop, (around, inside) in zip(crops, cuts, strict=True):
                strength = max(1.0, noise_level(around))
                pictures = [around, *(np.asarray(model.denoise(around)) for model in models), nlm(strength)(around)]
                found = [np.ascontiguousarray(picture[inside]) for picture in pictures]
                mean = found[0].mean((0, 1))
                for row, picture in zip(rows, found, strict=True):
                    moved = float(np.abs(picture.mean((0, 1)) - mean).max())
                    writer.writerow([crop.name, row, f"{noise_level(picture):.2f}", f"{moved:.2f}"])
                columns.append((crop.name, found))
    except SkipaeError as error:
        raise click.ClickException(str(error)) from None
    for number, first in enumerate(range(0, len(columns), COLUMNS), start=1):
        written = out.with_name(f"{out.name}-{number}.png")
        page(columns[first : first + COLUMNS], rows).save(written, optimize=True)
        click.echo(written)


if __name__ == "__main__":
    main()
