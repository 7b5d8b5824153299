"""The picture of ``skipae bench --plot``."""

from __future__ import annotations

import os
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from skipae.errors import ImageError, UsageError
from skipae.files import ExistsError, flaw_of_folder, write_atomically
from skipae.install import install_command

FORMATS = ("png", "svg", "pdf")
"""Extensions of pictures."""

Panel = tuple[str, str]
"""The key of a measured number, and its title."""

_OURS, _OTHERS = "tab:blue", "0.7"


def check_plot(path: Path, *, overwrite: bool) -> None:
    """Refuse a picture that could not be written, before anything is measured.

    Args:
        path: the picture.
        overwrite: whether an existing file may be replaced.

    Raises:
        UsageError: the extension is not one of :data:`FORMATS`, or matplotlib is not installed.
        ImageError: the file exists, or its folder is not writable.
    """
    if _format(path) not in FORMATS:
        raise UsageError("{plot} must end in .png, .svg or .pdf", plot=path)
    if find_spec("matplotlib") is None:
        raise UsageError("{plot:name} needs matplotlib: {install!s}", plot=path, install=install_command("plot"))
    if path.is_dir():
        raise ImageError(f"cannot write {path}: it is a folder")
    if os.path.lexists(path) and not overwrite:
        raise ExistsError.of(path)
    flaw = flaw_of_folder(path.parent)
    if flaw is not None:
        raise ImageError(f"cannot write {path}: {flaw}")


def panels(small: int, sides: tuple[int, ...]) -> tuple[list[Panel], list[Panel]]:
    """Return what is drawn of restored images and of features.

    Args:
        small: side of the small images, in pixels.
        sides: sides of the images whose features are measured, in pixels.
    """
    memory = ("peak_mib", "peak memory in MiB (less is better)")
    restored = [
        ("seconds_per_megapixel", "seconds per megapixel (less is better)"),
        ("images_per_second", f"images of {small} x {small} per second (more is better)"),
        memory,
    ]
    features = [(f"images_per_second_{side}", f"features: images of {side} x {side} per second") for side in sides]
    return restored, [*features, memory]


def draw(
    result: dict[str, Any], groups: tuple[list[Panel], ...], path: Path, *, others: Collection[str], overwrite: bool
) -> None:
    """Draw bars of every row, a panel for each number and a line of panels for each group.

    Args:
        result: what ``skipae bench --json`` prints.
        groups: panels of each group; a row belongs to the group whose first number it has.
        path: the picture; its extension sets the format.
        others: rows of other programs, which are gray.
        overwrite: whether an existing file may be replaced.

    Raises:
        ImageError: the file cannot be written, or exists without ``overwrite``.
    """
    from matplotlib.figure import Figure

    measured: dict[str, dict[str, Any]] = result["devices"]
    lines = [
        (group, rows)
        for group in groups
        if (rows := {name: row for name, row in measured.items() if group[0][0] in row})
    ]
    heights = [1.0 + 0.3 * len(rows) for _, rows in lines]
    figure = Figure((4.0 * max(len(group) for group, _ in lines), 0.4 + sum(heights)), layout="constrained")
    figure.suptitle(f"skipae bench: {result['model']}, {result['size']} x {result['size']} pixels")
    grid = figure.subplots(
        len(lines), max(len(group) for group, _ in lines), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axes_of_line, (group, rows) in zip(grid, lines, strict=True):
        names = list(rows)
        for number, (axes, (key, title)) in enumerate(zip(axes_of_line, group, strict=True)):
            values = [rows[name][key] or 0 for name in names]  # memory is None on Windows
            bars = axes.barh(names, values, color=[_OTHERS if name in others else _OURS for name in names])
            axes.bar_label(bars, [_short(value) for value in values], padding=3)
            axes.set_title(title, fontsize="medium")
            axes.margins(x=0.2)
            axes.invert_yaxis()  # the first row on top
            axes.tick_params(labelleft=number == 0)
            axes.spines[["top", "right"]].set_visible(False)
    write_atomically(path, lambda file: figure.savefig(file, format=_format(path), dpi=120), overwrite=overwrite)


def _format(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
