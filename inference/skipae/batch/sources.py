"""Find inputs: files, folders, patterns, lists and standard input, as named on the command line."""

from __future__ import annotations

import glob
import logging
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from skipae import images
from skipae.batch.job import STREAM, Failure
from skipae.errors import ImageError, UsageError
from skipae.install import install_command

log = logging.getLogger("skipae")

UNREAD = re.compile(images.RAW.pattern + r"|\.(exr|hdr|jp2|jxl|psd|tga)")
"""Formats of images that are not read: a folder that holds some is not done when its others are."""


@dataclass
class Found:
    """The inputs that were found."""

    single: list[Path | None] = field(default_factory=list)
    """Files named on the command line, and None for standard input."""
    trees: list[tuple[Path, list[Path]]] = field(default_factory=list)
    """Folders named on the command line, with the images in them and their subfolders."""
    failed: list[Failure] = field(default_factory=list)
    left_out: int = 0
    """Number of outputs of earlier runs in the folders."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Number of files of unsupported formats in the folders, by extension."""


def find(
    inputs: Iterable[str], lists: Iterable[str] = (), *, results: Path | None = None, suffixes: Iterable[str] = ()
) -> Found:
    """Find the inputs.

    Args:
        inputs: files, folders (searched recursively), patterns such as ``*.png`` and ``**/*.jpg``, or ``-``.  An
            existing path is never used as a pattern.
        lists: text files with one input per line; ``-`` is standard input.
        results: a folder that is not searched.
        suffixes: suffixes of outputs of earlier runs (``photo.SUFFIX.png``), which are skipped in folders.

    Raises:
        UsageError: a list cannot be read, or standard input is named twice.
    """
    found = Found()
    named = list(inputs)
    files = list(lists)
    marks = tuple(f".{suffix}" for suffix in suffixes)
    if named.count(STREAM) + files.count(STREAM) > 1:
        raise UsageError("- (standard input) can be used only once")
    for text in files:
        named.extend(_lines(text))
    if not named:
        raise UsageError("no input; pass images, folders or patterns, or use {lists:name}", lists=())
    for text in named:
        if not text:
            raise UsageError("an input is empty (unset shell variable?)")
        path = Path(text)
        if text == STREAM:
            found.single.append(None)
        elif os.path.isdir(path):  # noqa: PTH112 (false, and no error, for names too long)
            before = len(found.failed), found.left_out
            below = _walk(path, results, marks, found)
            found.trees.append((path, below))
            if not below and (len(found.failed), found.left_out) == before:
                found.failed.append(Failure(text, ImageError(f"contains no images ({', '.join(images.FORMATS)})")))
        elif os.path.lexists(path):
            found.single.append(path)
        elif not glob.has_magic(text):
            found.failed.append(Failure(text, ImageError("no such file")))
        else:
            try:
                names = sorted(glob.glob(text, recursive=True), key=len, reverse=True)  # noqa: PTH207 (absolute too)
            except RecursionError:  # of hundreds of folders
                names = []
            # Once, by its shortest name, even if links make a folder contain itself.
            unique = {(identity(Path(name).parent), Path(name).name): Path(name) for name in names}
            # Not Path.is_file, which raises an error for files of folders that may not be searched.
            matches = sorted(match for match in unique.values() if os.path.isfile(match))  # noqa: PTH113
            found.single.extend(matches)
            if not matches:
                found.failed.append(Failure(text, ImageError("no file matches this pattern")))
    if found.passed_over:
        kinds = ", ".join(f"{extension} {count}" for extension, count in sorted(found.passed_over.items()))
        rows = {images.FORMATS[images.SUFFIXES[each]] for each in found.passed_over if each in images.SUFFIXES}
        ways = "".join(f"; to read {row.name}, type: {install_command(row.extra)}" for row in rows if row.extra)
        log.warning("skipped %d file(s) in unsupported formats: %s%s", found.passed_over.total(), kinds, ways)
    return found


def identity(path: Path) -> str:
    """Return a key that is equal for two names of one file."""
    name = os.path.normcase(os.path.realpath(path))
    return name.casefold() if sys.platform == "darwin" else name


def _lines(text: str) -> list[str]:
    """Return the inputs of a list."""
    if not text:
        raise UsageError("{lists:name} is empty (unset shell variable?)", lists=text)
    if text == STREAM and sys.stdin is None:
        raise UsageError("{lists} cannot be read: standard input is closed", lists=text)
    try:
        lines = sys.stdin.buffer.read() if text == STREAM else Path(text).read_bytes()
    except OSError as error:
        raise UsageError("{lists} cannot be read: {reason!s}", lists=text, reason=error.strerror) from None
    if b"\0" in lines:
        raise UsageError("{lists} cannot be read: it contains zero bytes; use UTF-8 text, a path per line", lists=text)
    named = (line.removesuffix(b"\r").decode(errors="surrogateescape") for line in lines.split(b"\n"))
    return [line for line in (name.removeprefix("\ufeff") for name in named) if line.strip()]


def _walk(folder: Path, output: Path | None, marks: tuple[str, ...], found: Found) -> list[Path]:
    """Return the images in a folder and its subfolders, in order; failures and skipped files are added to ``found``."""

    def unreadable(error: OSError) -> None:
        found.failed.append(Failure(str(error.filename), ImageError(f"cannot be read: {error.strerror}")))

    results = None if output is None else identity(output)
    below: list[Path] = []
    missing = {suffix for suffix, format in images.SUFFIXES.items() if not images.FORMATS[format].is_installed}
    for parent, names, files in os.walk(folder, onerror=unreadable):
        # Skip an output folder inside the input folder, and hidden files.
        names[:] = sorted(
            name for name in names if not name.startswith(".") and identity(Path(parent, name)) != results
        )
        for name in sorted(files):
            path = Path(parent, name)
            if name.startswith("."):
                continue
            suffix = path.suffix.lower()
            if suffix in missing or not _looks_like_image(path):
                if suffix in missing or UNREAD.fullmatch(suffix):
                    found.passed_over[suffix] += 1
                continue
            if path.stem.endswith(marks) or path.suffix in marks:
                found.left_out += 1
            else:
                below.append(path)
    return below


def _looks_like_image(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:  # a broken link, or one to where nobody may look
        status = None
    if status is not None and not stat.S_ISREG(status.st_mode):
        return False  # opening a pipe would wait
    if images.RAW.fullmatch(path.suffix.lower()):
        return False
    # By name too, so that a damaged image is reported and not skipped.
    if path.suffix.lower() in images.SUFFIXES:
        return True
    if status is None or not status.st_size:  # nor are those of /proc opened, some of which wait too
        return False
    try:
        with path.open("rb") as file:
            return images.sniff(file.read(64)) is not None
    except OSError:
        return False
