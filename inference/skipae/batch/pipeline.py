"""Process images one after the other: the next is decoded and the last encoded while the network runs."""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipae import images
from skipae.batch.job import STREAM, Failure, Job, Work
from skipae.batch.report import Report, open_report
from skipae.batch.sinks import Written
from skipae.console import Console, ProgressBar, stdout_error
from skipae.engine.session import time_limit
from skipae.errors import ImageError, SkipaeError, UsageError
from skipae.files import ExistsError, remove_parts
from skipae.tasks.pixels import Progress

if TYPE_CHECKING:
    from skipae.model import Model

Process = Callable[["Model", Job, images.Picture, Progress], Callable[[], Written]]
"""Computes an image's output and returns a function that writes it; that is called in another thread, in order."""

OVERLAP_PIXELS = 16_000_000
"""Larger images are processed alone: nothing is decoded or encoded at the same time."""

NO_MEMORY = "needs more memory than is available"
"""Reason of failure of an image for which memory ran out."""

_ENDING = 20.0
"""Seconds that each run of the network may take after an interrupt, for images that are already waiting."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Images whose outputs can be written."""

    jobs: list[Job]
    write: Callable[[], list[Written | ImageError]]
    """Writes the outputs and returns the outcome of each; an :class:`ImageError` that it raises applies to all.
    Called in another thread, in order."""


class BatchTask(ABC):
    """What a command does to each image; only :meth:`process` must be overridden."""

    per_file = True
    """True if each job's output is a file of its own."""

    def load(self) -> None:  # noqa: B027 - nothing to do, unless a task says so
        """Prepare; called once, and only if there is an image."""

    def prepare(self, job: Job) -> None:  # noqa: B027 - nothing to do, unless a task says so
        """Do what must be done before an image is read, in the thread that reads it."""

    @abstractmethod
    def process(self, job: Job, picture: images.Picture, advance: Progress) -> Ready | None:
        """Add an image and return the images that are ready: this one, several or none.

        Raises:
            ImageError: this image failed and was not added.
        """

    def flush(self) -> Ready | None:
        """Return the images that were added and not returned yet; called again if it raises an error."""
        return None

    def failed(self, name: str, reason: str) -> None:  # noqa: B027 - nothing to do, unless a task says so
        """Record an input that failed; also called before :meth:`load`."""

    def trim(self) -> None:  # noqa: B027 - nothing to do, unless a task says so
        """Free memory after a large image."""


class Each(BatchTask):
    """A task that processes each image on its own."""

    def __init__(self, load: Callable[[], Model], process: Process) -> None:
        """Prepare; nothing is loaded yet.

        Args:
            load: returns the model.
            process: called with the model and an image; returns the function that writes the output.
        """
        self._load = load
        self._process = process

    def load(self) -> None:
        """Load the model."""
        self._model = self._load()

    def process(self, job: Job, picture: images.Picture, advance: Progress) -> Ready:
        """Compute the output."""
        write = self._process(self._model, job, picture, advance)
        return Ready([job], lambda: [write()])

    def trim(self) -> None:
        """Free the memory kept from the last image."""
        self._model.trim()


@dataclass
class Outcome:
    """Number of images that succeeded."""

    done: int = 0
    failed: int = 0
    unread: int = 0
    """Number of failed images that could not be read."""
    report_failed: bool = False
    """True if lines of the report could not be written."""

    @property
    def exit_code(self) -> int:
        """0: all done; 1: some failed or are missing from the report; 5: no input could be read."""
        if not self.failed:
            return int(self.report_failed)
        return 5 if not self.done and self.unread == self.failed else 1


def run(
    task: BatchTask,
    work: Work,
    console: Console,
    *,
    max_pixels: int = images.MAX_PIXELS,
    report: str | None = None,
    fail_fast: bool = False,
) -> Outcome:
    """Process all images; one that fails does not stop the others.

    Args:
        task: what is done to each image.
        work: the jobs, from :func:`skipae.batch.plan.plan_jobs`.
        console: shows losses and failures.
        max_pixels: largest image to accept, in pixels.
        report: a file to which a line of JSON is appended for each input.
        fail_fast: whether the first failure stops the run.

    Raises:
        DeviceError: the device failed.
        ModelError: the model is unavailable.
        UsageError: the report cannot be written.
        KeyboardInterrupt: the run was interrupted; outputs and report are complete, and the message says how much is
            done.
    """
    outcome, started = Outcome(), time.perf_counter()

    def complain(error: SkipaeError) -> None:
        console.error(error.command_line())

    with open_report(report, work, complain) as lines, console.progress(len(work.jobs)) as progress:
        alone = len(work.jobs) + len(work.failed) + len(work.skipped) == 1
        pipeline = _Pipeline(task, console, lines, outcome, progress, max_pixels, fail_fast, alone, work.resumable)
        try:
            for job in work.skipped:
                pipeline.skip(job)
            for failure, line in announced(work):
                if line:
                    console.error(line)
                pipeline.count_failure(failure.name, failure.error.command_line(), unread=failure.unread)
            pipeline.run(work.jobs)
        finally:
            outcome.report_failed = lines.failed
    if not alone:
        console.done(_summary(task, work, outcome, time.perf_counter() - started))
    return outcome


def announced(work: Work) -> Iterator[tuple[Failure, str]]:
    """Pair inputs that failed before any work with the line to print; it is empty if an earlier one counts them."""
    causes = [ExistsError if isinstance(each.error, ExistsError) else each.folder for each in work.failed]
    counts = Counter(causes)
    for failure, cause in zip(work.failed, causes, strict=True):
        count = 1 if cause is None else counts.pop(cause, 0)
        line = f"{failure.name}: {failure.error.command_line()}" if count else ""
        if count > 1 and cause is ExistsError and failure.job is not None and failure.job.target is not None:
            line = ExistsError.of_several(failure.job.target, count, resumable=work.resumable).command_line()
        elif count > 1:
            line += f" (and {count - 1} more image{'s' * (count > 2)} likewise)"
        yield failure, line


def _summary(task: BatchTask, work: Work, outcome: Outcome, seconds: float) -> str:
    """Return what became of several inputs, in one line."""
    skipped = len(work.skipped)
    done = outcome.done - skipped
    if skipped and not done and not outcome.failed:
        text = f"nothing to do: the output of all {skipped} images exists; use {{overwrite}} to write it again"
        return UsageError(text, overwrite=True).command_line()
    said = f"{done} image{'s' * (done != 1)} done"
    if done and (place := _place(task, work.jobs)):
        said += f" -> {place}"
    if skipped:
        said += f", {skipped} skipped because the output exists"
    if outcome.failed:
        said += f", {outcome.failed} failed"
    return f"{said} ({seconds:.1f} s)"


def _place(task: BatchTask, jobs: list[Job]) -> str:
    """Return the folder of all outputs, or their file if they have one; empty if they have nothing in common."""
    targets = [job.target for job in jobs if job.target is not None]
    with suppress(ValueError):  # there is none, or they are on several drives
        return os.path.commonpath([target.parent if task.per_file else target for target in targets])
    return ""


@dataclass(frozen=True, slots=True)
class _Image:
    """An image that the task holds."""

    started: float
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Writing:
    """Outputs on their way to their files."""

    jobs: list[Job]
    future: Future[list[Written | ImageError]]


class _Pipeline:
    """Decodes the next image and encodes the last one while the network runs."""

    def __init__(
        self,
        task: BatchTask,
        console: Console,
        report: Report,
        outcome: Outcome,
        progress: ProgressBar,
        max_pixels: int,
        fail_fast: bool,
        alone: bool,
        resumable: bool,
    ) -> None:
        """Prepare.

        Args:
            alone: whether an option that does not suit the image is a usage error, not the failure of one of many.
            resumable: whether ``resume`` continues the run after an interrupt.
        """
        self.task = task
        self.alone = alone
        self.resumable = resumable
        self.console = console
        self.report = report
        self.outcome = outcome
        self.progress = progress
        self.max_pixels = max_pixels
        self.fail_fast = fail_fast
        self.writing: _Writing | None = None
        self.held: dict[Job, _Image] = {}
        """Images that the task holds and that are not written yet."""

    def run(self, jobs: list[Job]) -> None:
        """Process all jobs, in order."""
        if not jobs or self.stopped(len(jobs)):
            return
        if self.task.per_file:
            for folder in dict.fromkeys(job.target.parent for job in jobs if job.target is not None):
                remove_parts(folder)
        self.task.load()
        if len(jobs) == 1:
            self._alone(jobs[0])
            return
        before = self.outcome.done
        with ThreadPoolExecutor(1) as decoder, ThreadPoolExecutor(1) as encoder:
            for pool in (decoder, encoder):
                pool.submit(int).result()  # starts the thread now: one interrupted while starting is not joined
            try:
                self._overlapped(jobs, decoder, encoder)
                self._finish()
                self._flush()
            except BaseException as stop:
                # Outputs being written are completed, and waiting images are run, on a second try if the network fails.
                for end in (self._finish, self._flush, self._flush):
                    with suppress(Exception), time_limit(_ENDING):  # the first error is the one to report
                        end()
                if isinstance(stop, KeyboardInterrupt):
                    done = self.outcome.done - before
                    way = "; use {resume} to continue" if self.resumable and jobs[0].target is not None else ""
                    text = f"interrupted: {done} of {len(jobs)} images are done{way}"
                    stop.args = (UsageError(text, resume=True).command_line(),)
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
                self.skip(job)
                self.progress.update(1)
                continue
            following = jobs[k + 1] if k + 1 < len(jobs) else None
            try:
                opened = self._read(job, wait_if_large=True) if current is None else current.result()
            except ImageError as error:
                self._skip(job, error)
                continue
            del current  # it also refers to the picture
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
                ready = self._process(job, picture, started)
            except ImageError as error:
                self.fail(job.name, error.command_line())
                continue
            del picture
            if ready is not None:
                self._finish()
            if large:
                self.task.trim()
            if ready is not None:
                self.writing = _Writing(ready.jobs, encoder.submit(ready.write))
                del ready  # it refers to the output
            if large:
                self._finish()

    def stopped(self, left: int) -> bool:
        """Return True, and report it, if ``fail_fast`` or a closed or full standard output ends the run."""
        if self.fail_fast and self.outcome.failed:
            why = "at the first failure"
        elif stdout_error() is not None:
            why = "because nothing more can be printed"
        else:
            return False
        self._finish()  # whose failure is reported first
        self.console.error(f"stopped {why}; {left} image(s) are left")
        return True

    def skip(self, job: Job) -> None:
        """Count an input whose output exists."""
        self.outcome.done += 1
        self.report.add(input=job.name, output=str(job.target), status="skipped")

    def fail(self, name: str, reason: str, *, unread: bool = False) -> None:
        """Count and report a failed input."""
        self.console.error(f"{name}: {reason}")
        self.count_failure(name, reason, unread=unread)

    def count_failure(self, name: str, reason: str, *, unread: bool) -> None:
        """Count a failed input, without a message."""
        self.outcome.failed += 1
        self.outcome.unread += unread
        self.task.failed(name, reason)
        self.report.add(input=name, status="failed", error=reason)

    def _skip(self, job: Job, error: ImageError) -> None:
        self.fail(job.name, error.command_line(), unread=True)
        self.progress.update(1)

    def _alone(self, job: Job) -> None:
        # Threads take time to start, and have nothing to overlap with.
        started = time.perf_counter()
        try:
            opened = self._read(job, wait_if_large=False)
            picture = opened.decode() if isinstance(opened, images.OpenedImage) else opened
        except ImageError as error:
            self.fail(job.name, error.command_line(), unread=True)
            return
        size = picture.size
        try:
            ready = self._process(job, picture, started)
        except ImageError as error:
            self.fail(job.name, error.command_line())
            return
        del picture
        if size[0] * size[1] > OVERLAP_PIXELS:
            self.task.trim()  # room for the encoder
        if ready is not None:
            self._settle(ready.jobs, _results(ready.jobs, ready.write))
        self._flush()

    def _process(self, job: Job, picture: images.Picture, started: float) -> Ready | None:
        """Run the network and return the images whose outputs can be written."""
        self.held[job] = _Image(started, picture.size)
        try:
            return self.task.process(job, picture, self._advance())
        except ImageError:
            del self.held[job]
            raise
        except MemoryError:
            del self.held[job]
            raise ImageError(NO_MEMORY) from None
        except UsageError as error:  # an option that does not suit this image
            if self.alone:
                raise
            del self.held[job]
            raise ImageError(error.command_line()) from error

    def _read(self, job: Job, *, wait_if_large: bool) -> images.Picture | images.OpenedImage:
        """Return the decoded picture; a large one is only opened, and decoded later."""
        try:
            if job.source is None and sys.stdin is None:
                raise ImageError("standard input is closed")
            self.task.prepare(job)
            source = sys.stdin.buffer.read() if job.source is None else job.source
            opened = images.read_header(source, max_pixels=self.max_pixels)
        except MemoryError:
            raise ImageError(NO_MEMORY) from None
        if wait_if_large and opened.size[0] * opened.size[1] > OVERLAP_PIXELS:
            return opened
        return opened.decode()

    def _advance(self) -> Progress:
        """Return a function that advances the bar by the work since its last call."""
        last = 0.0

        def advance(done: float) -> None:
            nonlocal last
            self.progress.update(done - last)
            last = done

        return advance

    def _finish(self) -> None:
        """Wait for the last outputs to be written, and report them."""
        if self.writing is not None:
            found = _results(self.writing.jobs, self.writing.future.result)  # awaited again after an interrupt
            jobs, self.writing = self.writing.jobs, None
            self._settle(jobs, found)

    def _flush(self) -> None:
        """Write the outputs of the images that the task still holds."""
        ready = self.task.flush()
        if ready is not None:
            self._settle(ready.jobs, _results(ready.jobs, ready.write))

    def _settle(self, jobs: list[Job], found: list[Written | ImageError]) -> None:
        """Report outputs."""
        for job, result in zip(jobs, found, strict=True):
            image = self.held.pop(job, None)
            if image is None:  # it already failed, together with its batch
                continue
            if isinstance(result, ImageError):
                self.fail(job.name, result.command_line())
            else:
                self._done(job, image, result)

    def _done(self, job: Job, image: _Image, written: Written) -> None:
        self.outcome.done += 1
        seconds = time.perf_counter() - image.started
        for note in written.notes:
            self.console.say(f"{job.name}: {note}")
        if self.alone and job.target is not None:
            self.console.done(f"{job.name} -> {job.target} ({seconds:.1f} s)")
        self.report.add(
            input=job.name,
            output=STREAM if job.target is None else str(job.target),
            status="done",
            width=image.size[0],
            height=image.size[1],
            seconds=round(seconds, 3),
            notes=written.notes,
            **written.entry,
        )


def _results(jobs: list[Job], write: Callable[[], list[Written | ImageError]]) -> list[Written | ImageError]:
    """Write outputs and return the outcome of each."""
    try:
        return write()
    except ImageError as error:
        return [error] * len(jobs)
    except MemoryError:
        return [ImageError(NO_MEMORY)] * len(jobs)
