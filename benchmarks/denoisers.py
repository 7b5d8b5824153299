"""Denoisers compared on the test sets, file for file, as users get their results: in files.

    python benchmarks/denoisers.py measure OpenCV-NLM --data DATA --out nlm.json
    python benchmarks/denoisers.py measure skipae-natural --data DATA --out old.json
    python benchmarks/denoisers.py measure ./new --data DATA --out new.json
    python benchmarks/denoisers.py measure ffdnet_color_clip.pth --data DATA --out ffdnet-clip.json
    python benchmarks/denoisers.py compare nlm.json ffdnet-clip.json old.json new.json

``measure`` writes the PSNR in dB of every file.  A checkpoint (a name or a folder) is run by ``skipae denoise`` with
its default options.  ``OpenCV-NLM`` is non-local means at the one strength h that is best for the whole set.  A file of
weights, ``ffdnet_color.pth`` or ``ffdnet_color_clip.pth`` of its authors, is FFDNet at the one noise level that is best
for the set.  No user can make these choices.  ``compare`` prints the means of the sets and on how many files the last
denoiser is better than each of the others.  Needs ``pip install -e ".[cpu,train]" opencv-python-headless``.

DATA contains, as far as ``--set`` asks for them:

    denoise/BSDS500/val        100 photos; noise of sigma 5, 10, 15, 25 and 50, clipped and rounded to 8 bits
    polyu-real-noise           100 crops of JPEG photos; those of the camera Canon80D are a set of their own too
    renoir                     28 pairs that model_cards/skipae-natural/training/renoir_pairs.py makes
    SIDD_Small_sRGB_Only       35 pairs of the phone Galaxy S6
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from skipae.errors import SkipaeError
from skipae_train.data import DataError
from skipae_train.evaluate import best_setting, gaussian_files, score_files
from skipae_train.pairs import find_pairs
from skipae_train.rivals import Denoiser, ffdnet_settings, nlm_settings
from skipae_train.run_folder import read_json, write_json

RIVAL = "OpenCV-NLM"
GAUSSIAN = {f"BSDS500 val, sigma {sigma}": sigma for sigma in (5, 10, 15, 25, 50)}
CAMERAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "PolyU": ("polyu-real-noise", ()),
    "PolyU, Canon80D": ("polyu-real-noise", ("Canon80D",)),
    "RENOIR": ("renoir", ()),
    "SIDD, Galaxy S6": ("SIDD_Small_sRGB_Only", ("S6",)),
}
SETS = (*GAUSSIAN, *CAMERAS)


def set_files(name: str, data: Path, work: Path) -> list[tuple[Path, Path]]:
    """Clean and noisy files of a set."""
    if name in GAUSSIAN:
        return gaussian_files(data / "denoise" / "BSDS500" / "val", GAUSSIAN[name], work)
    folder, cameras = CAMERAS[name]
    return [(pair.clean, pair.noisy) for pair in find_pairs(data / folder, cameras=cameras)]


def rival_settings(denoiser: str) -> dict[str, Denoiser]:
    """Another denoiser at all of its strengths; {} for a checkpoint."""
    if denoiser == RIVAL:
        return nlm_settings()
    return ffdnet_settings(Path(denoiser)) if denoiser.endswith(".pth") else {}


@click.group(help=__doc__)
def main() -> None:
    """Measure or compare."""


@main.command()
@click.argument("denoiser")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--set", "sets", multiple=True, type=click.Choice(SETS), default=SETS, help="Only this set (repeatable).")
@click.option("--every", type=click.IntRange(min=1), default=1, help="Use every n-th file of each set.")
@click.option("--precision", default="auto", show_default=True, help="Of a checkpoint.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a checkpoint.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON file; sets are added."
)
def measure(
    denoiser: str,
    data: Path,
    sets: tuple[str, ...],
    every: int,
    precision: str,
    threads: int | None,
    out: Path,
) -> None:
    """Measure DENOISER, a checkpoint, OpenCV-NLM or FFDNet's weights, and write the PSNR of each file."""
    found: dict[str, Any] = read_json(out, dict) if out.exists() else {"denoiser": denoiser, "sets": {}}
    try:
        if found["denoiser"] != denoiser:
            raise DataError(f"{out} has scores of {found['denoiser']}: give another --out")
        settings = rival_settings(denoiser)
        for name in sets:
            with tempfile.TemporaryDirectory() as work:
                pairs = set_files(name, data, Path(work))[::every]
                if settings:
                    setting, scores = best_setting(settings, pairs)
                else:
                    setting, scores = precision, score_files(denoiser, pairs, threads, precision)
            files = [clean.relative_to(data).as_posix() for clean, _ in pairs]
            found["sets"][name] = {"setting": setting, "files": files, **scores._asdict()}
            write_json(out, found)
            click.echo(scores.mean(f"{name}, {denoiser}, {setting}"))
    except SkipaeError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("scores", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def compare(scores: tuple[Path, ...]) -> None:
    """Print a table of SCORES, files that 'measure' wrote, over the files that all of them have."""
    measured = {path.stem: read_json(path, dict)["sets"] for path in scores}
    last = scores[-1].stem
    others = [name for name in measured if name != last]
    click.echo(
        "| set | files | noisy | "
        + " | ".join(measured)
        + " | "
        + " | ".join(f"{last} - {name} (files ahead)" for name in others)
        + " |"
    )
    click.echo("| --- " * (3 + len(measured) + len(others)) + "|")
    for name in SETS:
        if not all(name in sets for sets in measured.values()):
            continue
        after = {key: dict(zip(s[name]["files"], s[name]["after"], strict=True)) for key, s in measured.items()}
        before = dict(zip(measured[last][name]["files"], measured[last][name]["before"], strict=True))
        files = [file for file in before if all(file in each for each in after.values())]
        table = {key: np.array([each[file] for file in files]) for key, each in after.items()}
        cells = [name, str(len(files)), f"{np.mean([before[file] for file in files]):.2f}"]
        for key, values in table.items():
            setting = measured[key][name]["setting"]
            cells.append(f"{values.mean():.2f}" + (f" ({setting})" if "=" in setting else ""))
        for key in others:
            gain = table[last] - table[key]
            cells.append(f"{gain.mean():+.2f} ({(gain > 0).sum()})")
        click.echo("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
