"""From a checkpoint's name to its folder."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from skipae.errors import ModelError
from skipae_zoo import CHECKPOINTS, CheckpointConfig, ConfigError, Task, find_checkpoint, read_config

DEFAULT = "skipae-natural"
"""The checkpoint that comes with the package."""

BUNDLED = Path(__file__).parent / "weights"
"""Folder of the checkpoints in the package."""

MIRROR = "SKIPAE_MIRROR"
"""Environment variable: a folder that holds checkpoint folders."""


def find_folder(name: str | Path) -> Path:
    """Folder of a checkpoint: a path to one, a bundled one, or one in the folder ``$SKIPAE_MIRROR``.

    Raises:
        ModelError: there is none; the message says why and what to do.
    """
    text = str(name)
    path = Path(name).expanduser()
    bare = path.name == text
    entry = find_checkpoint(text) if bare else None
    # A folder of that name that is no checkpoint, an output folder for example, does not hide a named one.
    if (path / "config.json").is_file() or (path.is_dir() and entry is None):
        return path
    mirror = os.environ.get(MIRROR)
    if bare:
        if (BUNDLED / text).is_dir():
            return BUNDLED / text
        if mirror and (Path(mirror) / text).is_dir():
            return Path(mirror) / text
    else:
        what = "is not a folder" if path.exists() else "does not exist"
        raise ModelError(
            f"model {text!r} {what}: give the folder that holds its config.json, or one of {', '.join(_names())}"
        )
    looked = f"; {MIRROR}={mirror} does not hold it" if mirror else ""
    if entry is None:
        close = difflib.get_close_matches(text, _names(), n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ModelError(
            f"unknown model {text!r}{hint}: give a checkpoint folder or one of {', '.join(_names())}{looked}"
        )
    if entry.bundled:
        raise ModelError(f"model {text} should come with skipae, but {BUNDLED / text} is missing: install skipae again")
    raise ModelError(
        f"the weights of {text} are not published yet, and this version of skipae does not download any{looked}: make "
        f"them with 'skipae-train pretrain {entry.recipe}' and give the folder, or set {MIRROR} to a folder that "
        f"holds {text}/"
    )


def load_config(folder: Path) -> CheckpointConfig:
    """``config.json`` of a checkpoint folder; :class:`ModelError` says what is wrong with it."""
    try:
        return read_config(folder)
    except ConfigError as error:
        raise ModelError(str(error)) from error


def require_task(config: CheckpointConfig, task: Task, verb: str) -> None:
    """Refuse a checkpoint made for another task; the :class:`ModelError` names those that can ``verb``."""
    if config.task != task:
        able = ", ".join(entry.name for entry in CHECKPOINTS if entry.task == task)
        raise ModelError(f"model {config.name} is for {config.task} and cannot {verb}: these can: {able}")


def _names() -> list[str]:
    return [entry.name for entry in CHECKPOINTS]
