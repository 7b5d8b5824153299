"""What commands are given besides images: lists, reports and results of earlier runs, cards of checkpoints."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import mutations
import targets
from targets import Fault, Target, check_message

from skipae import UsageError, open_image
from skipae.batch import plan, report
from skipae.batch.job import Work


@cache
def _folder() -> Path:
    """A temporary folder of this process with two images."""
    folder = Path(tempfile.mkdtemp(prefix="skipae-fuzz-commands-"))
    (folder / "in").mkdir()
    (folder / "in" / "a.png").write_bytes(targets.saved(targets.photo(), "PNG"))
    (folder / "in" / "b.jpg").write_bytes(targets.saved(targets.photo(), "JPEG"))
    return folder


def _lists() -> list[bytes]:
    return [b"in/a.png\nin/b.jpg\r\n\n", b"\xef\xbb\xbfin/*.png\nin/b.jpg\n", b"in\n", b"./in/?.jpg"]


def _read_list(data: bytes, how: str, rng: random.Random) -> bool:
    path = _folder() / "list.txt"
    # Not "/", "/*" or "../..", which a change may leave of a name: the whole disk would be searched.
    path.write_bytes(re.sub(rb"(?m)^((\xef\xbb\xbf)*)[/\\]+", rb"\1", data.replace(b"..", b".")))
    before = Path.cwd()
    os.chdir(_folder())
    try:
        work = plan.plan_jobs([], "out/", suffix="denoised", lists=[str(path)])
    except UsageError as error:
        check_message(error)
        return False
    finally:
        os.chdir(before)
    return bool(work.jobs)


def _reports() -> list[bytes]:
    line = b'{"input": "a.png", "output": "b.png", "status": "done", "width": 3, "height": 4, "seconds": 1.5}\n'
    return [line * 2, line + b'{"input": "c.png", "status": "failed", "error": "no such file"}\n']


def _read_report(data: bytes, how: str, rng: random.Random) -> bool:
    path = _folder() / "report.jsonl"
    path.write_bytes(data)
    try:
        with report.open_report(str(path), Work(), lambda line: check_message(ValueError(line))) as lines:
            lines.add(input="d.png", status="skipped")
    except UsageError as error:
        check_message(error)
        if path.read_bytes() != data:
            raise Fault("a file that is refused was changed") from error
        return False
    after = path.read_bytes()
    if not after.startswith(data) or after.splitlines()[-1] != b'{"input": "d.png", "status": "skipped"}':
        raise Fault("the line is not at the end of the report")
    return True


def _results() -> list[bytes]:
    formats = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
    return [targets.saved(targets.photo(), format) for format in formats]


def _resume(data: bytes, how: str, rng: random.Random) -> bool:
    """A result of an earlier run, which is kept or made again."""
    out = _folder() / "results"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    (out / "a.png").write_bytes(data)
    with _remarks():
        work = plan.plan_jobs([str(_folder() / "in" / "a.png")], f"{out}/", suffix="denoised", resume=True)
    if len(work.jobs) + len(work.skipped) != 1:
        raise Fault(f"{len(work.jobs)} jobs, {len(work.skipped)} left out")
    if work.skipped and how == "cut":
        pixels = [open_image(seed).planes[0].tobytes() for seed in (data, *_results())]
        if pixels[0] not in pixels[1:]:
            raise Fault("a result that was cut is kept")
    return bool(work.skipped)


@contextmanager
def _remarks() -> Iterator[None]:
    """Checks lines of the log, which the command shows."""

    class Check(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            check_message(ValueError(record.getMessage()))

    log, handler = logging.getLogger("skipae"), Check()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _cards() -> list[bytes]:
    found = [path.read_bytes() for path in sorted(targets.ROOT.glob("model_cards/*/README.md"))]
    return [*found[:3], b"---\nlicense: mit\ntags:\n- a\n---\n# A\n"]


def _read_card(data: bytes, how: str, rng: random.Random) -> bool:
    from skipae.commands import models

    folder = _folder() / "card"
    if not folder.exists():
        shutil.copytree(targets.ROOT / "model_cards" / "skipae-natural", folder)
    (folder / "README.md").write_bytes(data)
    found = models._license(folder)
    if found["problem"] is not None:
        check_message(ValueError(found["problem"]))
    return found["problem"] is None


TARGETS = {
    target.name: target
    for target in (
        Target("list", cache(_lists), _read_list, mutations.split_lines),
        Target("report", _reports, _read_report, mutations.split_lines, is_json=True),
        Target("result", cache(_results), _resume, mutations.split_image),
        Target("README.md", cache(_cards), _read_card, mutations.split_lines),
    )
}
