"""Features on disk: files of many images each (shards), and a manifest that maps images to shards and rows.

The manifest has one JSON object per line: first ``{"run": ...}`` with everything that the values depend on, then for
each shard its images ``{"file", "sha256", "size", "mtime", "shard", "row"}`` and a closing line
``{"shard", "rows", "files"}`` with sha256, size and time of the files written; failed images are ``{"file", "error"}``.
A shard is written whole, then its lines in one piece, so that a killed run leaves a known state: lines after the last
closed shard do not count, and ``resume`` continues from there and extracts shards again whose files changed.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from skipae.batch.feature_formats import EXTENSIONS, WRITERS, need
from skipae.batch.identity import identify, is_unchanged
from skipae.batch.job import check_existing
from skipae.console import clean
from skipae.engine.device import Device, load_runtime
from skipae.errors import ImageError, UsageError
from skipae.files import lock, remove_parts, write_atomically
from skipae.options import FeatureSpec
from skipae.tasks.features import Features
from skipae_zoo import MAX_LAYERS

_OTHERS = (".arrow", ".csv", ".feather", ".hdf5", ".json", ".jsonl", ".mat", ".pkl", ".pt", ".pth", ".txt")
"""Extensions that users may expect but that are not supported; other names with a dot are folders."""

_LAYER = re.compile(r"enc[1-9][0-9]{0,3}")
"""Valid layer names; they become parts of file names."""

Entry = dict[str, Any]
"""A line of the manifest."""

_SAME = ("checkpoint", "layers", "pool", "l2", "dtype", "resize", "crop", "format")
"""What ``resume`` refuses to mix; other versions of the programs are noted in the manifest."""


class Store:
    """The files that features are written to."""

    def __init__(
        self,
        output: str,
        run: dict[str, Any],
        *,
        format: str | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        """Check what exists; nothing is written yet.

        Args:
            output: a folder, or a file whose extension names the format; later shards then have a number in their name.
            run: the settings that the values depend on, for the manifest; JSON.
            format: one of :data:`EXTENSIONS`; by default the format of ``output``, else npz.
            overwrite: whether to replace the features of an earlier run, which are kept until the first shard is ready.
            resume: whether to add to the features of an earlier run.

        Raises:
            UsageError: ``output`` is unsuitable, already holds features (or features of other settings), or another
                file has the name of a shard.
        """
        if format is not None and format not in EXTENSIONS:
            raise UsageError(f"format must be {', '.join(EXTENSIONS)}, not {format!r}")
        self.output = Path(output)
        extension = self.output.suffix.lower()
        named = {known: name for name, known in EXTENSIONS.items()}.get(extension)
        if extension in _OTHERS and not self.output.is_dir() and not str(output).endswith(("/", os.sep)):
            known = ", ".join(EXTENSIONS.values())
            raise UsageError(
                "{output}: features cannot be written as {extension!s}; use {known!s}, or a folder",
                output=str(output),
                extension=extension,
                known=known,
            )
        self._single = named is not None and not self.output.is_dir()
        if self._single and format not in (None, named):
            raise UsageError(
                "{format} does not suit {output}: leave one out, or use a folder", format=format, output=str(output)
            )
        if not self._single and self.output.exists() and not self.output.is_dir():
            raise UsageError(
                "{output} is a file; use a folder, or a name in {known!s}",
                output=str(output),
                known=", ".join(EXTENSIONS.values()),
            )
        self.format = (named if self._single else format) or "npz"
        need(self.format)
        self.folder = self.output.parent if self._single else self.output
        # Readers of Parquet folders ignore names that start with _.
        self.manifest = self.folder / (f"{self.output.name}.manifest.jsonl" if self._single else "_manifest.jsonl")
        self.run = run | {"format": self.format}
        self.done: dict[str, tuple[str, Entry]] = {}
        """Images whose features exist, with their shard and the file they were extracted from."""
        self.notes: list[str] = []
        """Changes that ``resume`` found, one line each."""
        self._failures: deque[Entry] = deque()
        self._shards: set[str] = set()
        """Shards that are complete."""
        self._number = 0
        """All shards with smaller numbers exist."""
        self._lost: set[str] = set()
        """Shards of the manifest that are extracted again."""
        self._replaced: list[Path] = []
        self._begun = False
        self._closed = 0  # bytes of the manifest up to the last closed shard
        self._lock = self.manifest.with_name(f".{self.manifest.name}.lock")
        self._locked = ExitStack()
        self._seen = _state(self.manifest)
        self._overwrite = overwrite
        check_existing(overwrite, resume)
        begun = False
        if os.path.lexists(self.manifest):
            if not (overwrite or resume):
                raise UsageError(
                    "{output} already holds features; use {resume} to continue, or {overwrite} to replace them",
                    output=str(output),
                    resume=True,
                    overwrite=True,
                )
            begun = self._read(resume)
        there = self._existing(self._name())
        if resume and begun:
            self._replaced += there  # a shard without its lines: the run was killed
        elif there and not overwrite:
            raise UsageError(
                "{output}: {path!s} already exists; use {overwrite} to replace it, or another {output:name}",
                output=str(output),
                path=there[0],
                overwrite=True,
            )

    def begin(self, versions: dict[str, str]) -> None:
        """Start writing.

        Args:
            versions: versions of programs, for the manifest.

        Raises:
            UsageError: the output cannot be written, or another process is writing there.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._locked.enter_context(lock(self._lock, output=str(self.output)))
            if _state(self.manifest) != self._seen:
                raise UsageError(
                    "another run has written {output} in the meantime; try again with {resume}",
                    output=str(self.output),
                    resume=True,
                )
            remove_parts(self.folder)
            self._versions = versions
            if not self._overwrite:
                self._start()
        except (OSError, ImageError) as error:
            self._locked.close()
            reason = error.strerror or error if isinstance(error, OSError) else error
            raise UsageError(
                "{output} cannot be written: {reason!s}", output=str(self.output), reason=reason
            ) from error
        except UsageError:
            self._locked.close()
            raise

    def _start(self) -> None:
        """Remove what is replaced and begin the manifest; with ``overwrite`` only once the first shard is ready."""
        for path in self._replaced:
            path.unlink(missing_ok=True)
        if self._lost:
            self._drop()
        with self.manifest.open("ab") as file:
            file.truncate(self._closed)
            file.write(json.dumps({"run": self.run | {"versions": self._versions}}).encode() + b"\n")
        self._begun = True

    def fail(self, file: str, error: str) -> None:
        """Record an image that failed."""
        self._failures.append({"file": file, "error": error})

    def add(self, entries: list[Entry], rows: list[Features]) -> str:
        """Write a shard and return its name.

        Args:
            entries: entries of the images for the manifest.
            rows: features of the images, with the same shapes for all.

        Raises:
            ImageError: the shard cannot be written; no part of it remains.
        """
        if not self._begun:
            try:
                self._start()
            except OSError as error:
                raise ImageError(f"cannot write {self.manifest}: {error.strerror or error}") from error
        name = self._name()
        arrays = {layer: np.stack([row[layer] for row in rows]) for layer in rows[0]}
        files = [entry["file"].encode(errors="backslashreplace").decode() for entry in entries]
        if self.format == "npy":
            writes = [partial(np.save, arr=values) for values in arrays.values()]
        else:
            about = {"skipae": json.dumps(self.run)}
            writes = [partial(WRITERS[self.format], arrays=arrays, files=files, about=about)]
        lines = [entry | {"shard": name, "row": row} for row, entry in enumerate(entries)]
        written: list[Path] = []
        try:
            for path, write in zip(self._paths(name), writes, strict=True):
                write_atomically(path, write, overwrite=self._overwrite)
                written.append(path)
            made = {path.name: identify(path) for path in written}
            self._append([*lines, {"shard": name, "rows": len(rows), "files": made}])
        except ImageError:
            for path in written:
                path.unlink(missing_ok=True)
            raise
        self._shards.add(name)
        return name

    def end(self) -> None:
        """Write the remaining lines of the manifest; nothing is written if no features were extracted.

        Raises:
            ImageError: the manifest cannot be written.
        """
        with self._locked:
            if self._begun and not self._shards:
                self.manifest.unlink(missing_ok=True)
            elif self._begun:
                self._append([])

    def check(self, sources: Iterable[Path]) -> None:
        """Find the images among ``sources`` that changed since their features were extracted, to extract them again.

        All images of their shard are extracted again, because a shard must match the manifest.  If some of those are
        not among ``sources``, the shard is kept, and :attr:`notes` names the changed image.
        """
        given = {str(source): source for source in sources}
        changed: dict[str, list[str]] = {}
        for name in given.keys() & self.done.keys():
            shard, about = self.done[name]
            if not is_unchanged(given[name], about):
                changed.setdefault(shard, []).append(name)
        held: Counter[str] = Counter(shard for shard, _ in self.done.values())
        found: Counter[str] = Counter(self.done[name][0] for name in given.keys() & self.done.keys())
        for shard, names in sorted(changed.items()):
            for name in sorted(names):
                if held[shard] == found[shard]:
                    self.notes.append(f"{name} changed since its features were extracted: {shard} is extracted again")
                else:
                    self.notes.append(
                        f"{name} changed since its features were extracted, which are kept; pass all images of {shard} "
                        "to extract them again"
                    )
        lost = [shard for shard in sorted(changed) if held[shard] == found[shard]]
        for shard in lost:
            self._replaced += self._paths(shard)
        self._lose(lost)

    def _lose(self, shards: list[str]) -> None:
        self._lost.update(shards)
        self._shards -= self._lost
        self._number = 0
        self.done = {name: value for name, value in self.done.items() if value[0] not in self._lost}

    def _drop(self) -> None:
        """Rewrite the manifest without the lines of lost shards."""
        with self.manifest.open("rb") as file:
            lines = file.read(self._closed).splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line).get("shard") not in self._lost]
        write_atomically(self.manifest, lambda file: file.writelines(kept))
        self._closed = sum(map(len, kept))

    def _read(self, resume: bool) -> bool:
        """Read the manifest and return whether it records a run of skipae.

        The folder may come from anywhere, and what the manifest names is deleted by ``overwrite``: only names that
        this program writes are taken.
        """
        waiting: list[Entry] = []
        broken: list[str] = []
        about: dict[str, Any] = {}
        size = 0
        try:
            if not stat.S_ISREG(self.manifest.lstat().st_mode):
                raise ValueError("it is not a regular file")
            with self.manifest.open("rb") as file:
                for number, line in enumerate(file, 1):
                    size += len(line)
                    if not line.endswith(b"\n"):
                        break  # an incomplete line: the run was killed
                    try:
                        entry = json.loads(line)
                    except (ValueError, RecursionError):
                        raise ValueError(f"line {number} is not JSON") from None
                    if not isinstance(entry, dict):
                        raise ValueError(f"line {number} is not an object")
                    if "run" in entry:
                        about = _about(entry["run"])
                        if resume:
                            self._compare(about)
                    elif not about:
                        raise ValueError(f"line {number} comes before one of a run")
                    elif "rows" in entry:
                        paths = self._paths_of(entry.get("shard"), about)
                        if resume:
                            self._closed = size
                            shard = entry["shard"]
                            whole = self._is_whole(paths, entry.get("files"))
                            if not whole:
                                broken.append(shard)
                                self.notes.append(
                                    f"{self.folder / shard} is missing or has changed since it was written: its "
                                    f"{len(waiting)} image(s) are extracted again"
                                )
                            self._shards.add(shard)
                            self.done.update((image["file"], (shard, image)) for image in waiting)
                            waiting = []
                        if not resume or not whole:
                            self._replaced += paths
                    elif "row" in entry:
                        if not isinstance(entry["file"], str):
                            raise ValueError(f"line {number} names no file")
                        waiting.append(entry)
        except (OSError, ValueError, TypeError, KeyError) as error:
            if isinstance(error, UsageError):
                raise
            reason = (
                error.strerror
                if isinstance(error, OSError)
                else f"no {error}"
                if isinstance(error, KeyError)
                else error
            )
            raise UsageError(
                "{manifest!s} is not a skipae manifest: {reason!s}; remove it, or use another {output:name}",
                manifest=self.manifest,
                reason=reason,
                output=str(self.output),
            ) from error
        self._lose(broken)
        return bool(about)

    def _is_whole(self, paths: list[Path], made: object) -> bool:
        if not isinstance(made, dict):
            return False
        found = [made.get(path.name) for path in paths]
        return all(
            isinstance(about, dict) and about.get("sha256") is not None and is_unchanged(path, about)
            for path, about in zip(paths, found, strict=True)
        )

    def _paths_of(self, shard: object, about: dict[str, Any]) -> list[Path]:
        """Return the files of a shard that a manifest names.

        Raises:
            ValueError: this program would not use the name.
        """
        stem = re.escape(self.output.stem) + r"(-\d{5,9})?" if self._single else r"\d{5,9}"
        layer = r"\.\{layer\}" if about["format"] == "npy" else ""
        if self._single and about["format"] != self.format:
            raise ValueError(f"it names files of format {about['format']}")
        pattern = f"{stem}{layer}{re.escape(EXTENSIONS[about['format']])}"
        if not isinstance(shard, str) or re.fullmatch(pattern, shard, re.ASCII) is None:
            raise ValueError(f"{_short(repr(shard))} is not the name of a feature file")
        return self._paths(shard, about["layers"])

    def _compare(self, there: dict[str, Any]) -> None:
        for key in _SAME:
            if there[key] != self.run[key]:
                raise UsageError(
                    "{output} holds features with {key!s} {found!s}, not {asked!s}, which cannot be mixed; use another "
                    "{output:name}, or {overwrite}",
                    output=str(self.output),
                    key=key,
                    found=_short(there[key]),
                    asked=_short(self.run[key]),
                    overwrite=True,
                )

    def _append(self, lines: list[Entry]) -> None:
        """Append lines, after those of the failures, all or none.

        Raises:
            ImageError: they cannot be written.
        """
        failures = list(self._failures)
        text = "".join(json.dumps(line) + "\n" for line in failures + lines)
        try:
            size = self.manifest.stat().st_size
            try:
                with self.manifest.open("ab") as file:
                    file.write(text.encode())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                os.truncate(self.manifest, size)
                raise
        except OSError as error:
            raise ImageError(f"cannot write {self.manifest}: {error.strerror or error}") from error
        for _ in failures:  # not those added in the meantime
            self._failures.popleft()

    def _name(self) -> str:
        """Return the file name of the next shard; ``{layer}`` stands for each layer's name in the format npy."""
        while True:
            number = f"{self._number:05}"
            stem = number if not self._single else self.output.stem + (f"-{number}" if self._number else "")
            name = f"{stem}{'.{layer}' if self.format == 'npy' else ''}{EXTENSIONS[self.format]}"
            if name not in self._shards:
                return name
            self._number += 1

    def _existing(self, name: str) -> list[Path]:
        """Return the existing files where a shard's files go."""
        return [path for path in self._paths(name) if os.path.lexists(path)]

    def _paths(self, name: str, layers: list[str] | None = None) -> list[Path]:
        """Return the files of a shard."""
        named = self.run["layers"] if layers is None else layers
        return [self.folder / file for file in dict.fromkeys(name.replace("{layer}", layer) for layer in named)]


def describe(spec: FeatureSpec, model: str, checkpoint: str) -> dict[str, Any]:
    """Return the settings that values depend on, for the manifest.

    Args:
        spec: resolved, see :meth:`skipae.FeatureSpec.resolve`.
        checkpoint: sha256 of the features graph.
    """
    return {
        "model": model,
        "checkpoint": checkpoint,
        "layers": list(spec.names),
        "pool": spec.pool,
        "l2": spec.l2,
        "dtype": spec.dtype,
        "resize": spec.resize or None,
        "crop": spec.crop or None,
    }


def versions(device: Device) -> dict[str, str]:
    """Return the versions of programs and the device of this process, for the manifest."""
    import PIL

    from skipae import __version__

    return {
        "skipae": __version__,
        "onnxruntime": load_runtime().__version__,
        "pillow": PIL.__version__,
        "numpy": np.__version__,
        "device": str(device),
    }


def _about(run: object) -> dict[str, Any]:
    """Return the settings of a run that a manifest contains.

    Raises:
        ValueError: this program would not write them.
    """
    if not isinstance(run, dict) or not all(key in run for key in _SAME):
        raise ValueError("the settings of a run are missing")
    if run["format"] not in list(EXTENSIONS):  # may be of any type
        raise ValueError(f"format {_short(repr(run['format']))}")
    layers = run["layers"]
    if not isinstance(layers, list) or not 0 < len(layers) <= MAX_LAYERS:
        raise ValueError(f"a run does not have 1 to {MAX_LAYERS} layers")
    for layer in layers:
        if not isinstance(layer, str) or _LAYER.fullmatch(layer) is None:
            raise ValueError(f"{_short(repr(layer))} is not a layer")
    return run


def _state(path: Path) -> tuple[int, int, int] | None:
    """Return a stamp that changes when another process writes the file; None if it does not exist."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _short(value: object) -> str:
    text = clean(", ".join(value) if isinstance(value, list) else str(value))
    return text if len(text) < 64 else f"{text[:12]}..."
