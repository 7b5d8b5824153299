"""Find the folder of a checkpoint by name."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from zipimport import zipimporter

from skipae.checkpoints.hub import Access, Hub, Mirror
from skipae.console import redact
from skipae.errors import ModelError, suggest
from skipae_zoo import (
    CHECKPOINTS,
    DEFAULTS,
    GRAPH,
    QUANTIZED,
    CheckpointConfig,
    ConfigError,
    Task,
    find_checkpoint,
    read_config,
    verified_file,
)

DEFAULT = DEFAULTS["restoration"]
"""Name of the checkpoint that is loaded by default."""

DEFAULT_OF_FEATURES = DEFAULTS["features"]
"""Name of the default checkpoint for features."""

_PACKAGE = Path(__file__).parents[1]
_INSTALLED, _CHECKOUT = _PACKAGE / "weights", _PACKAGE.parents[1] / "model_cards"

_ARCHIVE = Path(__spec__.loader.archive) if isinstance(__spec__.loader, zipimporter) else None
"""The zip that the package is imported from."""


def _bundled_folder() -> Path:
    if _ARCHIVE is None:
        return _CHECKOUT if _CHECKOUT.is_dir() and not _INSTALLED.is_dir() else _INSTALLED
    import atexit
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="skipae-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


BUNDLED = _bundled_folder()
"""Folder of the bundled checkpoints: in the wheel or, for an editable install, in the checkout.  Of a package inside a
zip it is a temporary one, which :func:`bundled` unpacks them into."""
_unpacking = threading.Lock()

MIRROR = "SKIPAE_MIRROR"
"""Environment variable: a folder of checkpoint folders, or its URL."""

try:
    _STARTED = os.getcwd()  # noqa: PTH109
except OSError:  # it no longer exists
    _STARTED = ""

INFERENCE = "onnx/"
"""Prefix of the paths of the weight files that this package needs."""

ACCESS = Access()

HUB_ID = re.compile(r"(?!\.{1,2}/)[\w.-]+/(?!\.{1,2}$)[\w.-]+")
"""``org/name``, but not a path like ``./name``."""


def bundled(name: str) -> Path:
    """Return the folder of a bundled checkpoint; it does not exist where none has that name."""
    folder = BUNDLED / name
    if _ARCHIVE is None:
        return folder
    with _unpacking:
        if not folder.is_dir():
            import zipfile

            part, inside = BUNDLED / f".{name}", f"{(_INSTALLED / name).relative_to(_ARCHIVE).as_posix()}/"
            with zipfile.ZipFile(_ARCHIVE) as archive:
                for member in archive.infolist():
                    if member.filename.startswith(inside) and not member.is_dir():
                        file = part / member.filename.removeprefix(inside)
                        file.parent.mkdir(parents=True, exist_ok=True)
                        file.write_bytes(archive.read(member))
            if part.is_dir():
                part.rename(folder)  # whole
    return folder


def find_folder(
    name: str | os.PathLike[str],
    *,
    files: str = INFERENCE,
    extra: tuple[str, ...] = (),
    revision: str | None = None,
    access: Access = ACCESS,
) -> Path:
    """Find the folder of a checkpoint: a bundled one, a path, or one of the mirror, the Hub's cache or the Hub.

    Args:
        name: name of a checkpoint, ``org/name`` of a repository on the Hub, or the path of a folder.
        files: prefix of the paths of the weight files that must exist; "" for all that ``config.json`` lists.
        extra: further files to fetch from a mirror or the Hub if it has them.
        revision: commit sha, branch or tag on the Hub; if set, bundled checkpoints and the mirror are not used.
        access: how to access the Hub and the mirror.

    Returns:
        The folder.

    Raises:
        ModelError: the checkpoint does not exist or is unavailable; the message says why and what to do.
    """
    text = os.fspath(name)
    if not text:
        raise ModelError("the model's name is empty (unset shell variable?); use a checkpoint's name or folder")
    path = expanded(text)
    entry = find_checkpoint(text)
    bare = path.name == text != ".."
    is_hub_id = isinstance(name, str) and HUB_ID.fullmatch(text) is not None
    repo = text if is_hub_id else entry.repo if entry else None
    holds = (path / "config.json").is_file()
    is_run = (path / "recipe.json").is_file()
    if entry is not None and isinstance(name, str):
        # The current folder may come from someone else: its contents must not replace a named checkpoint.
        if holds:
            access.say(f"{text} is the checkpoint of that name, not the local folder; for the folder pass ./{text}")
    elif holds or is_run or (path.is_dir() and not bare and not is_hub_id):  # load_config says what it lacks
        return path
    if not bare and repo is None:
        what = "is not a folder" if path.exists() else "does not exist"
        raise ModelError(
            f"model {text!r} {what}; use the folder that contains its config.json, or one of {', '.join(list_models())}"
        )
    if revision is None and bare and _holds(folder := bundled(text), files):
        return folder
    mirror = find_mirror() if revision is None else None
    if mirror:
        found = _in_mirror(mirror, text, files, extra, access)
        if found is not None:
            return found
    looked = f"; {MIRROR}={redact(mirror)} does not contain it" if mirror else ""
    if repo is None and path.is_dir():
        return path
    if repo is None:
        raise ModelError(
            f"unknown model {text!r}{suggest(text, list_models())}; use a checkpoint folder, org/name of the Hub, or "
            f"one of {', '.join(list_models())}{looked}"
        )
    published = entry.published if entry else None
    if entry and published is None and revision is None:
        if text == DEFAULT and files == INFERENCE:
            raise ModelError(f"model {text} is bundled with skipae, but {bundled(text)} is missing: reinstall skipae")
        kind = " for training" if _holds(bundled(text), INFERENCE) else ""
        able = ", ".join(name for name in list_models() if _holds(bundled(name), files)) or "none"
        raise ModelError(
            f"the weights of {text}{kind} are not published yet{looked}; bundled with skipae: {able}. To "
            f"train it, run '{entry.command}', then 'skipae-train export RUN --out FOLDER --name {text}', and pass "
            f"that folder, or set {MIRROR} to a folder that contains {text}/"
        )
    pinned = published if revision is None else None
    source = Hub(repo, pinned.revision if pinned else revision or "main", access)
    return source.fetch(files, config_digest=pinned.config if pinned else None, extra=extra)


def _holds(folder: Path, files: str) -> bool:
    """Return whether this is a checkpoint folder with these files; missing files for inference are reported on load."""
    if not (folder / "config.json").is_file():
        return False
    if files == INFERENCE:
        return True
    return all((folder / file).is_file() for file in load_config(folder).files if file.startswith(files))


def find_mirror() -> str | None:
    """Return ``SKIPAE_MIRROR``; a relative path refers to the folder in which the process started."""
    mirror = os.environ.get(MIRROR)
    if not mirror or mirror.startswith(("http://", "https://")):
        return mirror
    return os.path.join(_STARTED, expanded(mirror))  # noqa: PTH118 (the folder may no longer exist)


def expanded(path: str) -> Path:
    """Return a path with ``~`` replaced; the home of a user who does not exist stays as it is written."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (which raises RuntimeError)


def _in_mirror(mirror: str, name: str, files: str, extra: tuple[str, ...], access: Access) -> Path | None:
    if not mirror.startswith(("http://", "https://")):
        folder = Path(mirror) / name
        return folder if _holds(folder, files) else None
    try:
        return Mirror(mirror, name, access).fetch(files, extra=extra)
    except FileNotFoundError:
        return None


def load_config(folder: Path) -> CheckpointConfig:
    """Read ``config.json`` of a checkpoint folder.

    The wheel omits some float32 graphs where it has the int8 one; ``files`` does not list them then.

    Raises:
        ModelError: it is missing or invalid.
    """
    try:
        config = read_config(folder)
    except ConfigError as error:
        raise ModelError(str(error)) from error
    if folder.parent == BUNDLED != _CHECKOUT and QUANTIZED in config.files and not (folder / GRAPH).exists():
        config = replace(config, files={name: digest for name, digest in config.files.items() if name != GRAPH})
    return config


def list_models(task: Task | None = None) -> list[str]:
    """List the names of the checkpoints that :func:`skipae.from_pretrained` knows.

    Args:
        task: ``restoration``, ``classification`` or ``segmentation``; by default all.

    >>> list_models("restoration")[0]
    'skipae-natural'
    """
    return [entry.name for entry in CHECKPOINTS if task is None or entry.task == task]


def problems(folder: Path, needed: str) -> list[str]:
    """Return what is wrong with the files of a checkpoint folder, one line each.

    All files that ``config.json`` lists are checked; only those whose path starts with ``needed`` must exist.
    """
    try:
        config = load_config(folder)
    except ModelError as error:
        return [str(error)]
    found = []
    for file in config.files:
        if file.startswith(needed) or (folder / file).exists():
            try:
                verified_file(folder, config, file)
            except ConfigError as error:
                found.append(str(error))
    return found


def require_task(config: CheckpointConfig, task: Task, verb: str) -> None:
    """Raise :class:`ModelError` for a checkpoint of another task; the message names bundled ones that can ``verb``."""
    if config.task != task:
        names = list_models(task)
        able = ", ".join([name for name in names if bundled(name).is_dir()] or names)
        raise ModelError(f"model {config.name} is for {config.task} and cannot {verb}; use {able}")
