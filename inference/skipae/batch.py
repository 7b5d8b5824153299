"""Many images: which result goes where, and a pipeline that restores them with one session.

Names.  Without an output, ``photo.png`` becomes ``photo.denoised.png`` beside it; what an earlier run wrote there
is left out when a folder is walked.  With an output, one input goes to that file, or into it if it is a folder;
several inputs go into it by their names, and what a folder holds goes below it with its tree.
"""

from __future__ import annotations

import glob
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Protocol

from skipae import images
from skipae.errors import ImageError, UsageError

if TYPE_CHECKING:
    from skipae.model import Model

STREAM = "-"
"""Standard input or output."""

OVERLAP_PIXELS = 16_000_000
"""Larger images have the memory to themselves: nothing is decoded or encoded beside them."""


@dataclass(frozen=True, slots=True)
class Job:
    """An image to restore."""

    source: Path | None
    """None for standard input."""
    target: Path | None
    """None for standard output."""
    format: str | None = None
    """Pillow's name of the format to write; None keeps the input's."""

    @property
    def name(self) -> str:
        """How messages call the input."""
        return STREAM if self.source is None else str(self.source)


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that failed before it was opened."""

    name: str
    reason: str
    unread: bool = True
    """Whether the input is at fault, and not its result's place."""


@dataclass
class Work:
    """What there is to do."""

    jobs: list[Job] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    """Inputs that cannot be jobs."""
    skipped: int = 0
    """Results of earlier runs that were left out."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to restore and write; see ``skipae denoise --help``."""

    strength: float = 1.0
    tile: int | None = None
    halo: int | None = None
    quality: int | None = None
    max_pixels: int = images.MAX_PIXELS
    overwrite: bool = False


@dataclass
class Outcome:
    """How many images went well."""

    done: int = 0
    failed: int = 0
    unread: int = 0
    """Of the failed, those that could not be read."""

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 5 no input could be read."""
        if not self.failed:
            return 0
        return 5 if not self.done and self.unread == self.failed else 1


class Console(Protocol):
    """Where messages go."""

    def say(self, text: str) -> None:
        """A loss or a remark about an input."""

    def error(self, text: str) -> None:
        """Why an input failed."""

    def progress(self, total: int) -> AbstractContextManager[Progress]:
        """A bar over ``total`` images."""


class Progress(Protocol):
    """A progress bar."""

    def update(self, images: float) -> None:
        """So much more is done, in images."""


class NoProgress:
    """A progress bar that is not shown."""

    def update(self, images: float) -> None:
        """Nothing."""


def plan(inputs: Iterable[str], output: str | None, *, suffix: str, overwrite: bool = False) -> Work:
    """Find the inputs and name the results.

    Args:
        inputs: files, folders (searched with all below them), patterns such as ``*.png`` and ``**/*.jpg``, or
            ``-``.  A path that exists is taken as it is before it is taken as a pattern.
        output: a file or a folder, ``-`` for standard output, or None for beside the inputs.
        suffix: between name and extension of a result beside its input, for example ``denoised``.
        overwrite: whether results may replace existing files.

    Raises:
        UsageError: a result would overwrite an input or another result, or ``output`` does not suit the inputs.
    """
    work = Work()
    single: list[Path | None] = []  # files that were named, and the stream
    trees: list[tuple[Path, list[Path]]] = []
    for text in inputs:
        path = Path(text)
        if text == STREAM:
            single.append(None)
        elif path.is_dir():
            found, skipped = _walk(path, output, suffix)
            work.skipped += skipped
            trees.append((path, found))
            if not found:
                work.failed.append(Failure(text, f"holds no images ({', '.join(images.FORMATS)})"))
        elif os.path.lexists(path):
            single.append(path)
        elif not glob.has_magic(text):
            work.failed.append(Failure(text, "no such file"))
        else:
            matches = sorted(Path(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207 (absolute too)
            files = [match for match in matches if match.is_file()]
            single.extend(files)
            if not files:
                work.failed.append(Failure(text, "no file matches this pattern"))
    if single.count(None) > 1:
        raise UsageError("- (standard input) can be given once")
    if output == STREAM:
        if trees or len(single) != 1:
            raise UsageError("-o - (standard output) takes one input that is not a folder")
        work.jobs.append(Job(single[0], None))
        return work
    work.jobs.extend(_named(single, trees, output, suffix))
    _refuse_collisions(work.jobs)
    if not overwrite:
        taken = [job for job in work.jobs if job.target is not None and os.path.lexists(job.target)]
        work.jobs = [job for job in work.jobs if job not in taken]
        work.failed.extend(Failure(job.name, _exists(job), unread=False) for job in taken)
    return work


def run(
    load: Callable[[], Model], work: Work, options: Options, console: Console, report: Path | None = None
) -> Outcome:
    """Restore all images; one that fails does not stop the others.

    Args:
        load: gives the model, and is only called where there are jobs.
        work: from :func:`plan`.
        options: how.
        console: is told of losses and failures.
        report: a file that gets a line of JSON for each input, added at its end.

    Raises:
        DeviceError: the device failed.
        ModelError: the model could not be had.
        UsageError: the report cannot be written.
    """
    outcome = Outcome()
    with _open_report(report, work) as log, console.progress(len(work.jobs)) as progress:
        pipeline = _Pipeline(load, options, console, log, outcome, progress)
        for failure in work.failed:
            pipeline.fail(failure.name, failure.reason, unread=failure.unread)
        pipeline.run(work.jobs)
    return outcome


@dataclass(frozen=True, slots=True)
class _Writing:
    """A result on its way to its file."""

    job: Job
    started: float
    size: tuple[int, int]
    future: Future[list[str]]


class _Pipeline:
    """Decodes the next image and encodes the last one while the net runs."""

    def __init__(
        self,
        load: Callable[[], Model],
        options: Options,
        console: Console,
        log: IO[str] | None,
        outcome: Outcome,
        progress: Progress,
    ) -> None:
        self.load = load
        self.options = options
        self.console = console
        self.log = log
        self.outcome = outcome
        self.progress = progress

    def run(self, jobs: list[Job]) -> None:
        """All jobs, in order."""
        if not jobs:
            return
        self.model = self.load()
        if len(jobs) == 1:
            self._alone(jobs[0])
            return
        with ThreadPoolExecutor(1) as decoder, ThreadPoolExecutor(1) as encoder:
            coming: Future[images.Picture | images.OpenedImage] | None
            coming = decoder.submit(self._read, jobs[0], wait_if_large=True)
            writing: _Writing | None = None
            for k, job in enumerate(jobs):
                started = time.perf_counter()
                current, coming = coming, None
                following = jobs[k + 1] if k + 1 < len(jobs) else None
                try:
                    opened = self._read(job, wait_if_large=True) if current is None else current.result()
                except ImageError as error:
                    self.fail(job.name, str(error), unread=True)
                    self.progress.update(1)
                    continue
                del current  # it holds the picture too
                large = isinstance(opened, images.OpenedImage)
                if large:
                    self._finish(writing)
                    writing = None
                elif following is not None:
                    coming = decoder.submit(self._read, following, wait_if_large=True)
                try:
                    picture = opened.decode() if isinstance(opened, images.OpenedImage) else opened
                except ImageError as error:
                    self.fail(job.name, str(error), unread=True)
                    self.progress.update(1)
                    continue
                del opened
                try:
                    self._restore(picture)
                except ImageError as error:
                    self.fail(job.name, str(error))
                    continue
                self._finish(writing)
                if large:
                    self.model.trim()
                writing = _Writing(job, started, picture.size, encoder.submit(self._write, job, picture))
                del picture
                if large:
                    self._finish(writing)
                    writing = None
            self._finish(writing)

    def fail(self, name: str, reason: str, *, unread: bool = False) -> None:
        """Count and tell of an input that failed."""
        self.outcome.failed += 1
        self.outcome.unread += unread
        self.console.error(f"{name}: {reason}")
        self._report(input=name, status="failed", error=reason)

    def _alone(self, job: Job) -> None:
        # Threads take time to start, and have nothing to overlap with.
        started = time.perf_counter()
        try:
            opened = self._read(job, wait_if_large=False)
            picture = opened.decode() if isinstance(opened, images.OpenedImage) else opened
        except ImageError as error:
            self.fail(job.name, str(error), unread=True)
            return
        size = picture.size
        try:
            self._restore(picture)
            if size[0] * size[1] > OVERLAP_PIXELS:
                self.model.trim()  # room for the encoder
            notes = self._write(job, picture)
        except ImageError as error:
            self.fail(job.name, str(error))
            return
        self._done(job, notes, started, size)

    def _read(self, job: Job, *, wait_if_large: bool) -> images.Picture | images.OpenedImage:
        """The decoded picture; a large one may wait, opened only."""
        source = sys.stdin.buffer.read() if job.source is None else job.source
        opened = images.open_image(source, max_pixels=self.options.max_pixels)
        if wait_if_large and opened.size[0] * opened.size[1] > OVERLAP_PIXELS:
            return opened
        return opened.decode()

    def _restore(self, picture: images.Picture) -> None:
        share = 1 / len(picture.planes)
        last = 0.0

        def advance(done: float) -> None:
            nonlocal last
            self.progress.update((done - last) * share)
            last = done % 1

        options = self.options
        picture.restore(
            lambda pixels: self.model.restore(
                pixels, strength=options.strength, tile=options.tile, halo=options.halo, progress=advance
            )
        )

    def _write(self, job: Job, picture: images.Picture) -> list[str]:
        notes: list[str] = []

        def encode(file: BinaryIO) -> None:
            notes.extend(picture.encode(file, format=job.format, quality=self.options.quality))

        if job.target is not None:
            if not self.options.overwrite and os.path.lexists(job.target):
                raise ImageError(_exists(job))
            images.write_atomically(job.target, encode)
        else:
            buffer = io.BytesIO()
            encode(buffer)
            try:
                sys.stdout.buffer.write(buffer.getbuffer())
                sys.stdout.buffer.flush()
            except OSError as error:
                # Else the interpreter tries again when it ends, and complains on its own.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                raise ImageError(f"cannot write to standard output: {error.strerror or error}") from error
        return picture.notes + notes

    def _finish(self, writing: _Writing | None) -> None:
        """Wait for a result to be written, and report it."""
        if writing is None:
            return
        try:
            notes = writing.future.result()
        except ImageError as error:
            self.fail(writing.job.name, str(error))
            return
        self._done(writing.job, notes, writing.started, writing.size)

    def _done(self, job: Job, notes: list[str], started: float, size: tuple[int, int]) -> None:
        self.outcome.done += 1
        for note in notes:
            self.console.say(f"{job.name}: {note}")
        self._report(
            input=job.name,
            output=STREAM if job.target is None else str(job.target),
            status="done",
            width=size[0],
            height=size[1],
            seconds=round(time.perf_counter() - started, 3),
            notes=notes,
        )

    def _report(self, **entry: object) -> None:
        if self.log is not None:
            self.log.write(json.dumps(entry) + "\n")
            self.log.flush()


def _open_report(report: Path | None, work: Work) -> AbstractContextManager[IO[str] | None]:
    if report is None:
        return nullcontext()
    for job in work.jobs:
        for path in (job.source, job.target):
            if path is not None and _identity(path) == _identity(report):
                raise UsageError(f"--report {report} is an input or a result too: give another name")
    try:
        return report.open("a", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--report {report} cannot be written: {error.strerror}") from error


def _walk(folder: Path, output: str | None, suffix: str) -> tuple[list[Path], int]:
    """Images below a folder, in order, and how many results of earlier runs were left out."""
    results = None if output is None else _identity(Path(output))
    found: list[Path] = []
    skipped = 0
    for parent, names, files in os.walk(folder):
        # An output folder in the input folder is not read; hidden files are nobody's photos.
        names[:] = sorted(
            name for name in names if not name.startswith(".") and _identity(Path(parent, name)) != results
        )
        for name in sorted(files):
            path = Path(parent, name)
            if name.startswith(".") or not _looks_like_image(path):
                continue
            if output is None and path.stem.endswith(f".{suffix}"):
                skipped += 1
            else:
                found.append(path)
    return found, skipped


def _looks_like_image(path: Path) -> bool:
    # By name too, so that a damaged image is reported and not passed over.
    if path.suffix.lower() in images.SUFFIXES:
        return True
    try:
        with path.open("rb") if path.is_file() else nullcontext(io.BytesIO()) as file:
            return images.sniff(file.read(64)) is not None
    except OSError:
        return False


def _named(
    single: list[Path | None], trees: list[tuple[Path, list[Path]]], output: str | None, suffix: str
) -> Iterator[Job]:
    if output is None:
        for path in single:
            yield Job(path, None if path is None else _beside(path, suffix))
        for _, files in trees:
            yield from (Job(path, _beside(path, suffix)) for path in files)
        return
    folder = Path(output)
    is_folder = folder.is_dir() or output.endswith(("/", os.sep))
    if len(single) == 1 and not trees and not is_folder:
        yield Job(single[0], folder, images.format_of(folder))
        return
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"-o {output} is a file, but several inputs or a folder need a folder")
    for path in single:
        if path is None:
            raise UsageError(f"- (standard input) has no name: give a file after -o instead of the folder {output}")
        yield Job(path, folder / path.name)
    for tree, files in trees:
        yield from (Job(path, folder / path.relative_to(tree)) for path in files)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.stem}.{suffix}{path.suffix}")


def _refuse_collisions(jobs: list[Job]) -> None:
    sources = {_identity(job.source): job for job in jobs if job.source is not None}
    targets: dict[str, Job] = {}
    for job in jobs:
        if job.target is None:
            continue
        identity = _identity(job.target)
        if identity in sources:
            raise UsageError(
                f"the result of {job.name} would overwrite the input {sources[identity].name}: give another -o"
            )
        if identity in targets:
            other = targets[identity]
            same = other.source is not None and job.source is not None
            if same and _identity(other.source) == _identity(job.source):  # type: ignore[arg-type]
                raise UsageError(f"{job.name} is given twice")
            raise UsageError(
                f"the results of {other.name} and {job.name} would both be {job.target}: give their folder as the "
                "input, or run them apart"
            )
        if os.path.lexists(job.target) and not job.target.is_file():
            raise UsageError(f"the result of {job.name} would be {job.target}, which is not a file: give another -o")
        targets[identity] = job


def _exists(job: Job) -> str:
    return f"{job.target} exists already: give --overwrite to replace it"


def _identity(path: Path) -> str:
    """The same for two names of one file."""
    return os.path.normcase(os.path.realpath(path))


def one_line(text: str) -> str:
    """A message on one line, whatever characters a file name holds."""
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", text).strip()
