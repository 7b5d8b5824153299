"""Compare statistics of synthetic camera noise with those of real pairs, as a plot and a CSV file.

    python benchmarks/noise_statistics.py PolyU=DIR SIDD=DIR ... --out docs/results/noise

Every argument is a name and a folder of pairs (NAME_real.* and NAME_mean.*, or NOISY_SRGB* and GT_SRGB*; RENOIR after
model_cards/skipae-natural/training/renoir_pairs.py).  The synthetic noise is that of :class:`CameraNoise`, put on the
clean halves of the same pairs, three times each.  Measured on crops of 128 pixels: standard deviation, and by gray
level; how much larger it is in the darker half of the pixels than in the brighter one, in powers of 2; the noise's mean
in pixels darker than 32 gray levels; correlation between pixels 1 to 4 apart for luma and chroma, mean of both
directions; correlation between channels.  The noise's local mean is taken out of all but its mean in the shadows, since
exposures of a pair differ a little in light.
Needs ``pip install -e ".[cpu,train]"``.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from skipae_train.camera_noise import CameraNoise
from skipae_train.data import DataError
from skipae_train.pairs import Pair, find_pairs, load_pair

SIDE = 128
SHADOWS = 32
"""Gray level below which pixels are in shadow."""
LEVELS = 8
SYNTHETIC = "synthetic"
REPEATS = 3
"""Synthetic samples for each real crop."""
LUMA = (0.299, 0.587, 0.114)
LAGS = (1, 2, 3, 4)
STATISTICS = ("sd", "dark", "shift", *(f"luma{d}" for d in LAGS), *(f"chroma{d}" for d in LAGS), "rg", "rb", "gb")
COLUMNS = ("set", "camera", *STATISTICS, *(f"sd_at_{(i * 256 + 128) // LEVELS}" for i in range(LEVELS)))
Row = dict[str, str | float]


def crops(pair: Pair, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Clean and noisy crops spread over a pair, float32 [3, SIDE, SIDE] in [0, 1]."""
    clean, noisy = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 for pixels in load_pair(pair.clean, pair.noisy))
    height, width = clean.shape[1:]
    if min(height, width) < SIDE:
        raise DataError(f"{pair.noisy} is {width} x {height} pixels, at least {SIDE} x {SIDE} are needed: leave it out")
    for number in range(most):
        top = (height - SIDE) * (2 * number + 1) // (2 * most) // 8 * 8
        left = (width - SIDE) * (2 * number + 1) // (2 * most) // 8 * 8
        window = (slice(None), slice(top, top + SIDE), slice(left, left + SIDE))
        yield clean[window], noisy[window]


def correlation(first: Tensor, second: Tensor) -> float:
    """Of two planes without their means; not a number where one of them is constant."""
    first, second = first - first.mean(), second - second.mean()
    power = first.square().mean() * second.square().mean()
    return float((first * second).mean() / power.sqrt()) if power > 1e-14 else float("nan")


def measure(clean: Tensor, noisy: Tensor) -> Row:
    """The statistics of one crop's noise, in gray levels."""
    noise = (noisy - clean) * 255
    weights = torch.tensor(LUMA).view(3, 1, 1)
    brightness = (clean * weights).sum(0)
    shadows = noise[:, brightness < SHADOWS / 255]
    shift = float(shadows.mean()) if shadows.numel() > 600 else float("nan")
    rows = F.avg_pool2d(noise, (31, 1), 1, (15, 0), count_include_pad=False)
    noise = noise - F.avg_pool2d(rows, (1, 31), 1, (0, 15), count_include_pad=False)
    luma = (noise * weights).sum(0)
    chroma = (noise[0] - luma) / 2 + (noise[2] - luma) / 2
    row: Row = {"sd": float(noise.std()), "shift": shift}
    for name, plane in ("luma", luma), ("chroma", chroma):
        for d in LAGS:
            both = correlation(plane[:, d:], plane[:, :-d]), correlation(plane[d:], plane[:-d])
            row[f"{name}{d}"] = sum(both) / 2
    red, green, blue = noise
    row |= {"rg": correlation(red, green), "rb": correlation(red, blue), "gb": correlation(green, blue)}
    dark = brightness <= brightness.median()
    if dark.all():  # a flat crop has no brighter half
        row["dark"] = float("nan")
    else:
        row["dark"] = float((noise[:, dark].std() / noise[:, ~dark].std().clamp(min=1e-3)).clamp(min=1e-3).log2())
    level = (brightness * LEVELS).long().clamp(0, LEVELS - 1)
    for number in range(LEVELS):
        here = noise[:, level == number]
        row[f"sd_at_{(number * 256 + 128) // LEVELS}"] = float(here.std()) if here.numel() > 600 else float("nan")
    return row


def collect(sets: dict[str, list[Pair]], most: int) -> list[Row]:
    """A row for every real crop and, of the set ``synthetic``, :data:`REPEATS` for noise made on its clean half."""
    rows: list[Row] = []
    generator = torch.Generator().manual_seed(0)
    for name, pairs in sets.items():
        for pair in pairs:
            for clean, noisy in crops(pair, most):
                rows.append({"set": name, "camera": pair.camera, **measure(clean, noisy)})
                for made in CameraNoise()(clean.expand(REPEATS, -1, -1, -1), generator):
                    rows.append({"set": SYNTHETIC, "camera": name, **measure(clean, made)})
    return rows


def values(rows: list[Row], name: str, column: str) -> np.ndarray:
    """The numbers of a set."""
    found = np.array([row[column] for row in rows if row["set"] == name], float)
    finite: np.ndarray = found[np.isfinite(found)]
    return finite


def spread(rows: list[Row], sets: list[str]) -> str:
    """A table: median and 5 to 95 % range of each statistic, and the share of real crops inside the synthetic range."""
    lines = ["| | " + " | ".join([SYNTHETIC, *sets]) + " |", "| --- " * (len(sets) + 2) + "|"]
    for column in STATISTICS:
        made = values(rows, SYNTHETIC, column)
        low, high = np.quantile(made, [0.025, 0.975]) if len(made) else (np.nan, np.nan)
        cells = []
        for name in [SYNTHETIC, *sets]:
            found = values(rows, name, column)
            if not len(found):  # no photo of the set has shadows, or two halves
                cells.append("-")
                continue
            five, middle, most = np.quantile(found, [0.05, 0.5, 0.95])
            inside = f", {100 * ((found >= low) & (found <= high)).mean():.0f} %" if name != SYNTHETIC else ""
            cells.append(f"{middle:.2f} ({five:.2f} to {most:.2f}){inside}")
        lines.append(f"| {column} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: list[Row], sets: list[str], file: Path) -> None:
    """Six panels, synthetic noise in gray behind the real sets."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6.4), dpi=80, constrained_layout=True)
    colors = {SYNTHETIC: "0.7", **{name: f"C{k}" for k, name in enumerate(sets)}}
    panels = (
        ("luma1", "correlation with the next pixel, luma"),
        ("chroma1", "the same, chroma"),
        ("rg", "between R and G"),
    )
    for axis, (column, title) in zip(axes[0], panels, strict=True):
        for name, color in colors.items():
            chosen = [row for row in rows if row["set"] == name]
            axis.scatter([r["sd"] for r in chosen], [r[column] for r in chosen], 8, color=color, alpha=0.6, label=name)
        axis.set(title=title, xlabel="sd, gray levels", xscale="log", xlim=(0.3, 60), ylim=(-0.7, 1))
    axes[0, 0].legend(loc="lower left", fontsize=8)
    for axis, kind in zip(axes[1, :2], ("luma", "chroma"), strict=True):
        for k, (name, color) in enumerate(colors.items()):
            found = [values(rows, name, f"{kind}{d}") for d in LAGS]
            boxes = axis.boxplot(
                found, positions=[d + 0.18 * (k - len(sets) / 2) for d in LAGS], widths=0.15, whis=(5, 95),
                showfliers=False, patch_artist=True, medianprops={"color": "black"},
            )  # fmt: skip
            for box in boxes["boxes"]:
                box.set_facecolor(color)
        axis.set(title=f"correlation by distance, {kind}", xlabel="pixels", xlim=(0.4, 4.6), ylim=(-0.7, 1))
        axis.set_xticks(LAGS, [str(d) for d in LAGS])
    levels = [(i * 256 + 128) // LEVELS for i in range(LEVELS)]
    for name, color in colors.items():
        shares = []
        for level in levels:  # of a crop's own sd, so that weak and strong noise count alike
            share = [float(r[f"sd_at_{level}"]) / float(r["sd"]) for r in rows if r["set"] == name and r["sd"]]
            share = [v for v in share if np.isfinite(v)]
            shares.append(np.quantile(share, [0.1, 0.5, 0.9]) if len(share) > 5 else [np.nan] * 3)
        low, middle, high = np.array(shares).T
        axes[1, 2].plot(levels, middle, color=color)
        axes[1, 2].fill_between(levels, low, high, color=color, alpha=0.2)
    axes[1, 2].set(title="sd by gray level / sd of the crop", xlabel="gray level", ylim=(0, 2.5))
    figure.savefig(file)
    pyplot.close(figure)


def main() -> None:
    """Measure, write ``statistics.csv``, ``statistics.md`` (the table) and ``statistics.png``, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--crops", type=int, default=2, help="crops of each pair [2]")
    arguments = parser.parse_args()
    folders = dict(item.split("=", 1) for item in arguments.sets if "=" in item)
    if len(folders) < len(arguments.sets):
        parser.error("every set is NAME=DIR with a name of its own, for example PolyU=data/polyu")
    try:
        rows = collect({name: find_pairs(Path(folder)) for name, folder in folders.items()}, arguments.crops)
    except DataError as error:
        sys.exit(str(error))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "statistics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({k: v if isinstance(v, str) else f"{v:.2f}" for k, v in row.items()} for row in rows)
    table = spread(rows, list(folders))
    (arguments.out / "statistics.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    plot(rows, list(folders), arguments.out / "statistics.png")


if __name__ == "__main__":
    main()
