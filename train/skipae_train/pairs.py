"""Pairs of real photos, noisy and clean, by camera and scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skipae_train.data import DataError, find_images


@dataclass(frozen=True)
class Pair:
    """A noisy photo and its clean partner."""

    clean: Path
    noisy: Path
    camera: str
    """``Canon5D2``, ``S6``, ...: the first word of a name in PolyU's layout, the third of a folder in SIDD's."""


def find_pairs(folder: Path, *, cameras: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> list[Pair]:
    """Pairs below ``folder``, sorted by path; at least one.

    Two layouts are known: ``CAMERA_..._real.*`` beside ``CAMERA_..._mean.*`` (PolyU) and ``*NOISY_SRGB*`` beside
    ``*GT_SRGB*`` in a folder ``INSTANCE_SCENE_CAMERA_...`` (SIDD).

    Args:
        folder: Searched recursively.
        cameras: Take only these; all if empty.
        without: Leave these out, so that they can be tested on.

    Raises:
        DataError: No pair is left, or a noisy photo has no partner.
    """
    pairs = []
    for file in find_images(folder):
        if file.stem.endswith("_real"):
            clean, camera = file.with_name(file.name.replace("_real.", "_mean.")), file.name.split("_")[0]
        elif "NOISY_SRGB" in file.name:
            words = file.parent.name.split("_")
            clean, camera = file.with_name(file.name.replace("NOISY_SRGB", "GT_SRGB")), "".join(words[2:3])
        else:
            continue
        if not clean.exists():
            raise DataError(f"{file} has no partner {clean.name}")
        pairs.append(Pair(clean, file, camera))
    if not pairs:
        raise DataError(f"{folder} holds no pair NAME_real.*, NAME_mean.* or NOISY_SRGB*, GT_SRGB*")
    found = {pair.camera for pair in pairs}
    unknown = sorted({*cameras, *without} - found)
    if unknown:
        raise DataError(f"{folder} has no pairs of the camera {unknown[0]}: choose from {', '.join(sorted(found))}")
    kept = [pair for pair in pairs if (not cameras or pair.camera in cameras) and pair.camera not in without]
    if not kept:
        raise DataError(f"no camera of {folder} is left: it has {', '.join(sorted(found))}")
    return kept
