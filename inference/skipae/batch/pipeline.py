"""Many images: which there are, which result goes where, and a pipeline that reads, computes and writes at once.

Names.  Without an output, ``photo.png`` becomes ``photo.denoised.png`` beside it; what an earlier run wrote there
is left out when a folder is walked.  With an output, one input goes to that file, or into it if it is a folder;
several inputs go into it by their names, and what a folder holds goes below it with its tree.

Results are written whole or not at all.  ``--resume`` leaves out those that are there, after a look at their header,
size and end: copies and full disks truncate files too.
"""

from __future__ import annotations

import glob
import io
import json
import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Protocol, runtime_checkable

from skipae import images
from skipae.errors import ImageError, UsageError
from skipae.files import ExistsError, flaw_of_folder, remove_parts, write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skipae.model import Model

log = logging.getLogger("skipae")

Advance = Callable[[float], None]
"""Is told the share of an image that is done, in (0, 1]."""

STREAM = "-"
"""Standard input or output."""

OVERLAP_PIXELS = 16_000_000
"""Larger images have the memory to themselves: nothing is decoded or encoded beside them."""

UNREAD = re.compile(images.RAW.pattern + r"|\.(exr|hdr|heic|heif|jp2|jxl|psd|tga)")
"""Formats of images that are not read: a folder that holds some is not done when its others are."""

NO_MEMORY = "needs more memory than there is"
"""Why an image failed that decoding, net or encoding had no room for."""


@dataclass(frozen=True, slots=True)
class Job:
    """An image to restore."""

    source: Path | None
    """None for standard input."""
    target: Path | None
    """None for standard output."""
    format: str | None = None
    """Pillow's name of the format to write; None keeps the input's."""
    tree: Path | None = None
    """The folder that was named, where the source was found below it."""
    resumes: bool = False
    """Whether a result that another run writes meanwhile is taken as done."""
    again: bool = False
    """Whether what is there is not the whole result, and is replaced."""
    keep_times: bool = False
    """Whether the result has the times of access and change of its source."""

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
    job: Job | None = None
    """What would be done if its result's place were free."""
    folder: Path | None = None
    """Where no result can be written, whatever its name."""


@dataclass
class Found:
    """The inputs that were named."""

    single: list[Path | None] = field(default_factory=list)
    """Files that were named, and None for standard input."""
    trees: list[tuple[Path, list[Path]]] = field(default_factory=list)
    """Folders that were named, with the images below them."""
    failed: list[Failure] = field(default_factory=list)
    left_out: int = 0
    """Results of earlier runs in the folders."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Files in the folders of formats that are not read, by their extension."""


@dataclass
class Work:
    """What there is to do."""

    jobs: list[Job] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    """Inputs that cannot be jobs."""
    skipped: list[Job] = field(default_factory=list)
    """Inputs whose result exists already."""
    left_out: int = 0
    """Results of earlier runs in the folders."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of an image."""

    notes: list[str] = field(default_factory=list)
    """What was changed or lost, a line each."""
    entry: dict[str, object] = field(default_factory=dict)
    """More to say in the report."""


class Task(Protocol):
    """What a command does to each image."""

    def load(self) -> None:
        """Get ready; called once, and only where there is an image."""

    def process(self, job: Job, picture: images.Picture, advance: Advance) -> Callable[[], Written]:
        """Run the net.  The function that is returned writes the result; it runs in another thread, in order."""

    def trim(self) -> None:
        """Give back memory after a large image."""


Write = Callable[[], list[Written | ImageError]]
"""Writes the results of several images, and says what became of each; an :class:`ImageError` is that of all."""


@runtime_checkable
class Collector(Protocol):
    """What a command does to each image, where results are written many at a time."""

    def load(self) -> None:
        """Get ready; called once, and only where there is an image."""

    def collect(self, job: Job, picture: images.Picture, advance: Advance) -> Write | None:
        """Take an image in.  What is returned writes all results that were taken in before this one, in order.

        An :class:`ImageError` is this image's, which was not taken in.
        """

    def flush(self) -> Write:
        """What writes the results that are left; where it raises an error, it is called again."""

    def fail(self, name: str, reason: str) -> None:
        """Is told of each input that failed, those before :meth:`load` too."""

    def trim(self) -> None:
        """Give back memory after a large image."""


@dataclass
class Outcome:
    """How many images went well."""

    done: int = 0
    failed: int = 0
    unread: int = 0
    """Of the failed, those that could not be read."""
    report_failed: bool = False
    """Whether lines of the report are missing."""

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed or are missing in the report, 5 no input could be read."""
        if not self.failed:
            return int(self.report_failed)
        return 5 if not self.done and self.unread == self.failed else 1


class Console(Protocol):
    """Where messages go."""

    def say(self, text: str) -> None:
        """A loss or a remark about an input."""

    def error(self, text: str) -> None:
        """Why an input failed."""

    def done(self, text: str) -> None:
        """What went well, for a person who watches."""

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


def find(
    inputs: Iterable[str], lists: Iterable[str] = (), *, results: Path | None = None, suffixes: Iterable[str] = ()
) -> Found:
    """Find the inputs.

    Args:
        inputs: files, folders (searched with all below them), patterns such as ``*.png`` and ``**/*.jpg``, or
            ``-``.  A path that exists is taken as it is before it is taken as a pattern.
        lists: text files with an input per line; ``-`` is standard input.
        results: a folder that is not searched.
        suffixes: of results of earlier runs (``photo.SUFFIX.png``) that folders are searched without.

    Raises:
        UsageError: a list cannot be read, or standard input is given twice.
    """
    found = Found()
    named = list(inputs)
    files = list(lists)
    marks = tuple(f".{suffix}" for suffix in suffixes)
    if named.count(STREAM) + files.count(STREAM) > 1:
        raise UsageError("- (standard input) can be given once")
    for text in files:
        named.extend(_lines(text))
    if not named:
        raise UsageError("no input: give images, folders or patterns, or a --list of them")
    for text in named:
        if not text:
            raise UsageError("an input has no name: is a variable of the shell empty?")
        path = Path(text)
        if text == STREAM:
            found.single.append(None)
        elif os.path.isdir(path):  # noqa: PTH112 (false, and no error, for names too long)
            before = len(found.failed), found.left_out
            below = _walk(path, results, marks, found)
            found.trees.append((path, below))
            if not below and (len(found.failed), found.left_out) == before:
                found.failed.append(Failure(text, f"holds no images ({', '.join(images.FORMATS)})"))
        elif os.path.lexists(path):
            found.single.append(path)
        elif not glob.has_magic(text):
            found.failed.append(Failure(text, "no such file"))
        else:
            names = sorted(glob.glob(text, recursive=True), key=len, reverse=True)  # noqa: PTH207 (absolute too)
            # Once, by its shortest name, where links make a folder part of itself.
            unique = {(_identity(Path(name).parent), Path(name).name): Path(name) for name in names}
            matches = sorted(match for match in unique.values() if match.is_file())
            found.single.extend(matches)
            if not matches:
                found.failed.append(Failure(text, "no file matches this pattern"))
    if found.passed_over:
        kinds = ", ".join(f"{extension} {count}" for extension, count in sorted(found.passed_over.items()))
        log.warning("passed over %d file(s) of formats that are not read: %s", found.passed_over.total(), kinds)
    return found


def plan(
    inputs: Iterable[str],
    output: str | None,
    *,
    suffix: str,
    extension: str | None = None,
    format: str | None = None,
    lists: Iterable[str] = (),
    overwrite: bool = False,
    resume: bool = False,
    keep_times: bool = False,
    earlier: Iterable[str] = (),
) -> Work:
    """Find the inputs and name the results.

    Args:
        inputs: see :func:`find`.
        output: a file or a folder, ``-`` for standard output, or None for beside the inputs.
        suffix: between name and extension of a result beside its input, for example ``denoised``.
        extension: of all results that are named after their input, for example ``.png``; None keeps the input's.
        format: a key of ``images.FORMATS`` to write, which sets the extension too; None keeps the input's, or takes
            what the name of ``output`` says.
        lists: see :func:`find`.
        overwrite: whether results may replace existing files.
        resume: whether inputs whose result exists are left out, instead of failing.
        keep_times: whether results get the times of their inputs.
        earlier: more suffixes that the command's results have, beside ``suffix``.

    Raises:
        UsageError: a result would overwrite an input or another result, ``output`` does not suit the inputs, or
            see :func:`find`.
    """
    if output == "":
        raise UsageError("-o has no name: is a variable of the shell empty?")
    if overwrite and resume:
        raise UsageError("--resume keeps existing results and --overwrite replaces them: give one of them")
    results = None if output in (None, STREAM) else Path(output)
    found = find(inputs, lists, results=results, suffixes=(suffix, *earlier) if output is None else ())
    work = Work(failed=found.failed, left_out=found.left_out)
    if output == STREAM:
        if found.trees or len(found.single) != 1:
            raise UsageError("-o - (standard output) takes one input that is not a folder")
        work.jobs.append(Job(found.single[0], None, format))
        return work
    if format is not None:
        extension = images.FORMATS[format].suffixes[0]
    jobs = list(_named(found, output, suffix, extension, format))
    if resume and output is None:  # a pattern finds the results too
        made = {_identity(job.target) for job in jobs if job.target is not None}
        inputs_alone = [job for job in jobs if job.source is None or _identity(job.source) not in made]
        work.left_out += len(jobs) - len(inputs_alone)
        jobs = inputs_alone
    _refuse_collisions(jobs)
    folders = {job.target.parent for job in jobs if job.target is not None}
    flaws = {folder: flaw_of_folder(folder) for folder in folders}
    for job in (replace(job, keep_times=keep_times) for job in jobs):
        flaw = None if job.target is None else flaws[job.target.parent]
        if flaw is not None:
            folder = None if job.target is None else job.target.parent
            work.failed.append(Failure(job.name, f"cannot write {job.target}: {flaw}", unread=False, folder=folder))
        elif overwrite or job.target is None or not os.path.lexists(job.target):
            work.jobs.append(replace(job, resumes=resume))
        elif resume:
            flaw = _flaw(job.target, job.source)
            if flaw is None:
                work.skipped.append(job)
            else:
                log.warning("%s %s: it is made again", job.target, flaw)
                work.jobs.append(replace(job, again=True))
        else:
            work.failed.append(Failure(job.name, _exists(job), unread=False, job=job))
    return work


def run(
    task: Task | Collector,
    work: Work,
    console: Console,
    *,
    max_pixels: int = images.MAX_PIXELS,
    report: str | None = None,
    fail_fast: bool = False,
) -> Outcome:
    """Process all images; one that fails does not stop the others.

    Args:
        task: what is done to each.
        work: from :func:`plan`.
        console: is told of losses and failures.
        max_pixels: the largest image to accept.
        report: a file that gets a line of JSON for each input, added at its end.
        fail_fast: whether the first failure stops the run.

    Raises:
        DeviceError: the device failed.
        ModelError: the model could not be had.
        UsageError: the report cannot be written.
        KeyboardInterrupt: as it came; results and report are whole, and the message says how much is done.
    """
    outcome, started = Outcome(), time.perf_counter()
    with _open_report(report, work) as log, console.progress(len(work.jobs)) as progress:
        alone = len(work.jobs) + len(work.failed) + len(work.skipped) == 1
        pipeline = _Pipeline(task, console, log, outcome, progress, max_pixels, fail_fast, alone)
        for job in work.skipped:
            outcome.done += 1
            pipeline.report(input=job.name, output=str(job.target), status="skipped")
        alike = Counter(failure.folder for failure in work.failed)
        for failure in work.failed:
            more = 0 if failure.folder is None else alike[failure.folder] - 1
            pipeline.fail(failure.name, failure.reason, unread=failure.unread, more=more)
            if failure.folder is not None:
                alike[failure.folder] = 0  # said once
        pipeline.run(work.jobs)
    if not alone:
        done = outcome.done - len(work.skipped)
        counts = {"left out": len(work.skipped), "failed": outcome.failed}
        said = f"{done} image{'s' * (done != 1)} done" + "".join(f", {n} {what}" for what, n in counts.items() if n)
        console.done(f"{said} ({time.perf_counter() - started:.1f} s)")
    return outcome


class Restoration:
    """Restores each image and writes it, in its input's format or the one that its result's name asks for."""

    def __init__(
        self,
        load: Callable[[], Model],
        restore: Callable[[Model, NDArray[Any], Advance], NDArray[Any]],
        *,
        quality: images.Quality | None = None,
        overwrite: bool = False,
    ) -> None:
        """Args: ``load`` gives the model, ``restore`` restores pixels [H, W] or [H, W, 3]."""
        self._load = load
        self._restore = restore
        self._quality = quality
        self._overwrite = overwrite

    def load(self) -> None:
        """Load the model."""
        self._model = self._load()

    def process(self, job: Job, picture: images.Picture, advance: Advance) -> Callable[[], Written]:
        """Restore the picture, one plane after the other."""
        planes = len(picture.planes)
        before = 0

        def restore(pixels: NDArray[Any]) -> NDArray[Any]:
            nonlocal before
            restored = self._restore(self._model, pixels, lambda done: advance((before + done) / planes))
            before += 1
            return restored

        picture.restore(restore)
        return lambda: Written(write_picture(job, picture, quality=self._quality, overwrite=self._overwrite))

    def trim(self) -> None:
        """Give back the memory kept from the last image."""
        self._model.trim()


def write_picture(
    job: Job, picture: images.Picture, *, quality: images.Quality | None = None, overwrite: bool = False
) -> list[str]:
    """Write a picture where ``job`` says, and return what was changed or lost, a line each.

    Raises:
        ImageError: it cannot be written, or the file exists.
    """
    notes: list[str] = []

    def encode(file: BinaryIO) -> None:
        notes.extend(map(str, picture.encode(file, format=job.format, quality=quality)))

    write_result(job, encode, overwrite=overwrite)
    return picture.notes + notes


def write_result(job: Job, write: Callable[[BinaryIO], None], *, overwrite: bool = False) -> None:
    """Call ``write`` with a file for a job's result, which exists whole afterwards or not at all.

    Raises:
        ImageError: it cannot be written, or the file exists.
    """
    if job.target is not None:
        try:
            write_atomically(job.target, write, overwrite=overwrite or job.again)
        except ExistsError:
            if not job.resumes:
                raise
            return
        if job.keep_times and job.source is not None:
            _copy_times(job.source, job.target)
        return
    buffer = io.BytesIO()
    write(buffer)
    write_stdout(buffer.getbuffer())


def _copy_times(source: Path, target: Path) -> None:
    try:
        status = source.stat()
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    except OSError as error:
        raise ImageError(f"{target} is written, but cannot get the times of the input: {error.strerror}") from error


_stdout_error: str | None = None
"""Why standard output can be written no more."""


def write_stdout(data: bytes | memoryview) -> None:
    """Write to standard output, at once; :class:`ImageError` where that fails or failed before."""
    global _stdout_error
    if sys.stdout is None:
        raise ImageError("cannot write to standard output: it is closed")
    if _stdout_error is None:
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        except OSError as error:
            # Else the interpreter tries again when it ends, and complains on its own.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            _stdout_error = f"cannot write to standard output: {error.strerror or error}"
    raise ImageError(_stdout_error)


@dataclass(frozen=True, slots=True)
class _Image:
    """An image that went through the net."""

    job: Job
    started: float
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Writing:
    """Results on their way to their file."""

    images: list[_Image]
    future: Future[list[Written | ImageError]]


_ENDING = 20.0
"""Seconds that each run of the net gets after an interrupt, for images that were taken in already."""


class _Pipeline:
    """Decodes the next image and encodes the last one while the net runs."""

    def __init__(
        self,
        task: Task | Collector,
        console: Console,
        log: IO[bytes] | None,
        outcome: Outcome,
        progress: Progress,
        max_pixels: int,
        fail_fast: bool,
        alone: bool,
    ) -> None:
        """Args: ``alone``, an option that does not suit the image is a usage error, not the failure of one of many."""
        self.task = task
        self.alone = alone
        self.console = console
        self.log = log
        self.outcome = outcome
        self.progress = progress
        self.max_pixels = max_pixels
        self.fail_fast = fail_fast
        self.writing: _Writing | None = None
        self.held: list[_Image] = []
        """What a collector took in."""
        self.unreported = bytearray()
        """Lines of the report that could not be written yet."""

    def run(self, jobs: list[Job]) -> None:
        """All jobs, in order."""
        if not jobs or self.stopped(len(jobs)):
            return
        if not isinstance(self.task, Collector):
            for folder in dict.fromkeys(job.target.parent for job in jobs if job.target is not None):
                remove_parts(folder)
        self.task.load()
        if len(jobs) == 1:
            self._alone(jobs[0])
            return
        before = self.outcome.done
        with ThreadPoolExecutor(1) as decoder, ThreadPoolExecutor(1) as encoder:
            try:
                self._overlapped(jobs, decoder, encoder)
                self._finish()
                self._flush()
            except BaseException as stop:
                from skipae.engine.device import time_limit

                # What is being written will be whole, and what is held is kept, on a second try where the net fails.
                for end in (self._finish, self._flush, self._flush):
                    with suppress(Exception), time_limit(_ENDING):  # the first error is the one to tell
                        end()
                if isinstance(stop, KeyboardInterrupt):
                    done = self.outcome.done - before
                    way = "" if jobs[0].target is None else "; give --resume to go on"
                    stop.args = (f"interrupted: {done} of {len(jobs)} images are done{way}",)
                raise

    def _overlapped(self, jobs: list[Job], decoder: ThreadPoolExecutor, encoder: ThreadPoolExecutor) -> None:
        coming: Future[images.Picture | images.OpenedImage] | None
        coming = decoder.submit(self._read, jobs[0], wait_if_large=True)
        for k, job in enumerate(jobs):
            if self.stopped(len(jobs) - k):
                return
            started = time.perf_counter()
            current, coming = coming, None
            if job.resumes and job.target is not None and os.path.lexists(job.target):  # by another run, meanwhile
                self.outcome.done += 1
                self.report(input=job.name, output=str(job.target), status="skipped")
                self.progress.update(1)
                continue
            following = jobs[k + 1] if k + 1 < len(jobs) else None
            try:
                opened = self._read(job, wait_if_large=True) if current is None else current.result()
            except ImageError as error:
                self._skip(job, error)
                continue
            del current  # it holds the picture too
            large = isinstance(opened, images.OpenedImage)
            if large:
                self._finish()
            elif following is not None:
                coming = decoder.submit(self._read, following, wait_if_large=True)
            try:
                picture = opened.decode() if isinstance(opened, images.OpenedImage) else opened
            except ImageError as error:
                self._skip(job, error)
                continue
            del opened
            try:
                ready, write = self._process(job, picture, started)
            except ImageError as error:
                self.fail(job.name, str(error))
                continue
            del picture
            if write is not None:
                self._finish()
            if large:
                self.task.trim()
            if write is not None:
                self.writing = _Writing(ready, encoder.submit(write))
                del write
            if large:
                self._finish()

    def stopped(self, left: int) -> bool:
        """Whether ``--fail-fast``, or standard output that is closed or full, ends the run here."""
        if self.fail_fast and self.outcome.failed:
            why = "at the first failure, as --fail-fast asks"
        elif _stdout_error is not None:
            why = "since nothing more can be printed"
        else:
            return False
        self._finish()  # whose failure is told first
        self.console.error(f"stopped {why}; {left} image(s) are left")
        return True

    def fail(self, name: str, reason: str, *, unread: bool = False, more: int = 0) -> None:
        """Count and tell of an input that failed, and that so do ``more``; of those (-1) nothing is told."""
        self.outcome.failed += 1
        self.outcome.unread += unread
        if isinstance(self.task, Collector):
            self.task.fail(name, reason)
        if more >= 0:
            likewise = f" (and {more} more image{'s' * (more > 1)} likewise)" if more else ""
            self.console.error(f"{name}: {reason}{likewise}")
        self.report(input=name, status="failed", error=reason)

    def report(self, **entry: object) -> None:
        """Add a line to the report."""
        if self.log is None:
            return
        self.unreported += json.dumps(entry).encode() + b"\n"
        try:
            while self.unreported:
                del self.unreported[: self.log.write(self.unreported)]
        except OSError as error:  # a disk may have room again
            if not self.outcome.report_failed:
                self.console.error(f"--report {self.log.name} cannot be written: {error.strerror}; the run continues")
            self.outcome.report_failed = True
        else:
            self.outcome.report_failed = False

    def _skip(self, job: Job, error: ImageError) -> None:
        self.fail(job.name, str(error), unread=True)
        self.progress.update(1)

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
            ready, write = self._process(job, picture, started)
        except ImageError as error:
            self.fail(job.name, str(error))
            return
        del picture
        if size[0] * size[1] > OVERLAP_PIXELS:
            self.task.trim()  # room for the encoder
        if write is not None:
            self._settle(ready, _results(ready, write))
        self._flush()

    def _process(self, job: Job, picture: images.Picture, started: float) -> tuple[list[_Image], Write | None]:
        """Run the net; the images whose results can be written now, and what writes them."""
        image = _Image(job, started, picture.size)
        try:
            if not isinstance(self.task, Collector):
                write = self.task.process(job, picture, self._advance())
                return [image], lambda: [write()]
            several = self.task.collect(job, picture, self._advance())
        except MemoryError:
            raise ImageError(NO_MEMORY) from None
        except UsageError as error:  # an option that does not suit this image
            if self.alone:
                raise
            raise ImageError(str(error)) from error
        ready: list[_Image] = []
        if several is not None:
            ready, self.held = self.held, ready
        self.held.append(image)
        return ready, several

    def _read(self, job: Job, *, wait_if_large: bool) -> images.Picture | images.OpenedImage:
        """The decoded picture; a large one may wait, opened only."""
        try:
            if job.source is None and sys.stdin is None:
                raise ImageError("standard input is closed")
            source = sys.stdin.buffer.read() if job.source is None else job.source
            opened = images.read_header(source, max_pixels=self.max_pixels)
        except MemoryError:
            raise ImageError(NO_MEMORY) from None
        if wait_if_large and opened.size[0] * opened.size[1] > OVERLAP_PIXELS:
            return opened
        return opened.decode()

    def _advance(self) -> Advance:
        """Moves the bar by what was done since it was last called."""
        last = 0.0

        def advance(done: float) -> None:
            nonlocal last
            self.progress.update(done - last)
            last = done

        return advance

    def _finish(self) -> None:
        """Wait for the last results to be written, and report them."""
        if self.writing is not None:
            found = _results(self.writing.images, self.writing.future.result)  # an interrupt here comes back for it
            ready, self.writing = self.writing.images, None
            self._settle(ready, found)

    def _flush(self) -> None:
        """Write what a collector still holds."""
        if self.held and isinstance(self.task, Collector):
            write = self.task.flush()
            ready, self.held = self.held, []
            self._settle(ready, _results(ready, write))

    def _settle(self, ready: list[_Image], found: list[Written | ImageError]) -> None:
        """Report results."""
        for image, result in zip(ready, found, strict=True):
            if isinstance(result, ImageError):
                self.fail(image.job.name, str(result))
            else:
                self._done(image, result)

    def _done(self, image: _Image, written: Written) -> None:
        job = image.job
        self.outcome.done += 1
        seconds = time.perf_counter() - image.started
        for note in written.notes:
            self.console.say(f"{job.name}: {note}")
        if self.alone and job.target is not None:
            self.console.done(f"{job.name} -> {job.target} ({seconds:.1f} s)")
        self.report(
            input=job.name,
            output=STREAM if job.target is None else str(job.target),
            status="done",
            width=image.size[0],
            height=image.size[1],
            seconds=round(seconds, 3),
            notes=written.notes,
            **written.entry,
        )


def _results(ready: list[_Image], write: Write) -> list[Written | ImageError]:
    """Write results, and say what became of each."""
    try:
        return write()
    except ImageError as error:
        return [error] * len(ready)
    except MemoryError:
        return [ImageError(NO_MEMORY)] * len(ready)


def _open_report(report: str | None, work: Work) -> AbstractContextManager[IO[bytes] | None]:
    if report is None:
        return nullcontext()
    path = Path(report)
    for job in work.jobs:
        for other in (job.source, job.target):
            if other is not None and _identity(other) == _identity(path):
                raise UsageError(f"--report {report} is an input or a result too: give another name")
    try:
        if path.is_file():
            with path.open("rb") as file:
                begins = file.read(9)
            if begins not in (b"", b'{"input":'):
                raise UsageError(f"--report {report} is there, and no report: give another name")
        return path.open("ab", buffering=0)
    except OSError as error:
        raise UsageError(f"--report {report} cannot be written: {error.strerror}") from error


def _lines(text: str) -> list[str]:
    """The inputs that a list names."""
    try:
        lines = sys.stdin.buffer.read() if text == STREAM else Path(text).read_bytes()
    except OSError as error:
        raise UsageError(f"--list {text} cannot be read: {error.strerror}") from None
    if b"\0" in lines:
        raise UsageError(f"--list {text} cannot be read: it holds zero bytes; give a text in UTF-8, a path per line")
    named = (line.removesuffix(b"\r").decode(errors="surrogateescape") for line in lines.split(b"\n"))
    return [line for line in (name.removeprefix("\ufeff") for name in named) if line.strip()]


def _walk(folder: Path, output: Path | None, marks: tuple[str, ...], found: Found) -> list[Path]:
    """Images below a folder, in order; ``found`` is told of folders that cannot be read and of what is left out."""

    def unreadable(error: OSError) -> None:
        found.failed.append(Failure(str(error.filename), f"cannot be read: {error.strerror}"))

    results = None if output is None else _identity(output)
    below: list[Path] = []
    for parent, names, files in os.walk(folder, onerror=unreadable):
        # An output folder in the input folder is not read; hidden files are nobody's photos.
        names[:] = sorted(
            name for name in names if not name.startswith(".") and _identity(Path(parent, name)) != results
        )
        for name in sorted(files):
            path = Path(parent, name)
            if name.startswith("."):
                continue
            if not _looks_like_image(path):
                if UNREAD.fullmatch(path.suffix.lower()):
                    found.passed_over[path.suffix.lower()] += 1
                continue
            if path.stem.endswith(marks) or path.suffix in marks:
                found.left_out += 1
            else:
                below.append(path)
    return below


def _looks_like_image(path: Path) -> bool:
    if path.exists() and not path.is_file():
        return False  # a pipe would be waited for
    if images.RAW.fullmatch(path.suffix.lower()):
        return False
    # By name too, so that a damaged image is reported and not passed over.
    if path.suffix.lower() in images.SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return images.sniff(file.read(64)) is not None
    except OSError:
        return False


def _named(found: Found, output: str | None, suffix: str, extension: str | None, format: str | None) -> Iterator[Job]:
    if output is None:
        for path in found.single:
            yield Job(path, None if path is None else _renamed(path, extension, suffix), format)
        for tree, files in found.trees:
            yield from (Job(path, _renamed(path, extension, suffix), format, tree) for path in files)
        return
    folder = Path(output)
    is_folder = folder.is_dir() or output.endswith(("/", os.sep))
    if len(found.single) == 1 and not found.trees and not is_folder:
        asked = images.SUFFIXES.get(folder.suffix.lower(), format) if format else images.format_of(folder)
        if format not in (None, asked):
            raise UsageError(f"-o {output} is a {asked} by its name, and --format asks for {format}: give one of them")
        yield Job(found.single[0], folder, asked)
        return
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"-o {output} is a file, but several inputs or a folder need a folder")
    for path in found.single:
        if path is None:
            raise UsageError(f"- (standard input) has no name: give a file after -o instead of the folder {output}")
        yield Job(path, folder / _renamed(path, extension).name, format)
    for tree, files in found.trees:
        yield from (Job(path, folder / _renamed(path, extension).relative_to(tree), format, tree) for path in files)


def _renamed(path: Path, extension: str | None, suffix: str = "") -> Path:
    middle = f".{suffix}" if suffix else ""
    return path.with_name(f"{path.stem}{middle}{path.suffix if extension is None else extension}")


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
            one, two = other.source, job.source
            if one is not None and two is not None and _identity(one) == _identity(two):
                raise UsageError(f"{job.name} is given twice")
            beside = one is not None and two is not None and one.parent == two.parent
            way = "rename one" if beside else "give their folder as the input"
            raise UsageError(
                f"the results of {other.name} and {job.name} would both be {job.target}: {way}, or give each a run "
                "with an -o of its own"
            )
        if os.path.lexists(job.target) and not job.target.is_file():
            raise UsageError(f"the result of {job.name} would be {job.target}, which is not a file: give another -o")
        targets[identity] = job


_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "GIF": b";"}
"""What whole files end with."""


def _flaw(target: Path, source: Path | None) -> str | None:
    """What shows that a file is not the whole result for an image, which has the image's size; None if nothing does."""
    try:
        with images.read_header(target, max_pixels=sys.maxsize) as opened, target.open("rb") as file:
            size, format = opened.size, images.sniff(file.read(64)) or ""
            file.seek(0)
            header = file.read(8)
            length = file.seek(0, os.SEEK_END)
            end = _ENDS.get(format, b"")
            file.seek(max(0, length - len(end)))
            whole = file.read() == end if end else False
            if format == "WEBP":
                whole = length >= int.from_bytes(header[4:], "little") + 8
            if not whole:
                opened.decode()
    except (ImageError, OSError, MemoryError):
        return "is not a whole image"
    try:
        if source is not None:
            with images.read_header(source, max_pixels=sys.maxsize) as opened:
                if sorted(opened.size) != sorted(size):
                    return f"is of {size[0]} x {size[1]} pixels, not {opened.size[0]} x {opened.size[1]}"
    except (ImageError, MemoryError):
        pass  # there is nothing to make it again from
    return None


def _exists(job: Job) -> str:
    return f"{job.target} exists already: give --overwrite to replace it"


def _identity(path: Path) -> str:
    """The same for two names of one file."""
    name = os.path.normcase(os.path.realpath(path))
    return name.casefold() if sys.platform == "darwin" else name
