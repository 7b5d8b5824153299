"""The folder of a run: files that are checked on reading and survive a loss of power on writing.

``state.pt`` (weights, optimizers, step) and ``state.pt.previous``, the one saved before it; ``recipe.json``,
``environment.json``, ``preprocessing.json`` and, when the run has ended, ``result.json``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import pickletools
import shlex
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import torch
from accelerate.utils import get_int_from_env
from torch import Tensor, nn

from skipae import files
from skipae.console import first_line
from skipae.errors import SkipaeError
from skipae_train.earlier_runs import upgraded
from skipae_train.errors import RefusedError, RunError
from skipae_train.recipe import Recipe, RecipeId, differences
from skipae_zoo import open_regular, read_text_file

STATE, PREVIOUS = "state.pt", "state.pt.previous"
_LONGEST_NAME = 1000
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Environment variables in which launchers tell a process its number, those that accelerate reads."""


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Lock a run folder, which is created if needed, so that no other run writes into it.

    Of several processes that train together, the first holds the lock for all.  Incomplete files of a killed run are
    removed.

    Raises:
        skipae.UsageError: another run holds it.
    """
    if get_int_from_env(_RANKS, 0):
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    try:
        with files.lock(run / ".lock", out=str(run)):
            files.remove_parts(run)
            yield
    finally:
        with suppress(OSError):  # an empty folder says nothing
            run.rmdir()


@dataclass(frozen=True)
class State:
    """A run after some step."""

    network: dict[str, Tensor]
    average: dict[str, Tensor] | None
    """State of the averaged network; None where the recipe averages none."""
    optimizers: list[dict[str, Any]]
    step: int
    seconds: float
    precision: str | None
    """``fp32`` or ``bf16``; None in runs of early versions, which did not keep it."""
    losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last line of the log, whose next line has their mean; empty in early runs."""

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that are tested and exported."""
        if self.average is None:
            return self.network
        return {k.removeprefix("module."): v for k, v in self.average.items() if k.startswith("module.")}


def save_state(run: Path, state: State) -> None:
    """Write ``state.pt``, and keep the one before it as ``state.pt.previous``.

    Raises:
        skipae.ImageError: it cannot be written, for example to a full disk; the files are as they were.
    """
    values = {
        "network": state.network,
        **({} if state.average is None else {"average": state.average}),
        "optimizers": state.optimizers,
        "step": state.step,
        "seconds": state.seconds,
        "precision": state.precision,
        "losses": state.losses,
    }

    def write(file: BinaryIO) -> None:
        try:
            torch.save(values, file)
        except RuntimeError as error:  # its writer cannot end a file in which a write failed
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())  # before the oldest state goes
        _keep_previous(run)

    files.write_atomically(run / STATE, write)


def _keep_previous(run: Path) -> None:
    """Give ``state.pt`` its second name; at no time is there neither."""
    state, previous = run / STATE, run / PREVIOUS
    if not state.exists():
        return
    previous.unlink(missing_ok=True)
    try:
        os.link(state, previous)
    except (OSError, AttributeError):  # a file system without hard links
        state.replace(previous)


def read_state(path: Path) -> State:
    """Read a state file, on the CPU.

    Its code is never run: only tensors and plain values are unpickled.

    Raises:
        RunError: it is missing, damaged, no state, or holds weights that are NaN or infinite.
    """
    if not path.exists():
        raise _lacking(path)
    try:
        with open_regular(path) as file:
            _check_archive(file)
            values = torch.load(file, map_location="cpu", weights_only=True)
        state = State(
            network=_tensors(values["network"]),
            average=_tensors(values["average"]) if "average" in values else None,
            optimizers=[dict(each) for each in values["optimizers" if "optimizers" in values else "optimisers"]],
            step=_whole(values["step"]),
            seconds=float(values["seconds"]),
            precision=_one_of(values.get("precision"), ("fp32", "bf16", None)),
            losses=[float(loss) for loss in values.get("losses", [])],
        )
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from None
    except Exception as error:  # damaged archives raise nearly anything
        raise _damaged(path, first_line(error)) from error
    if not all(map(math.isfinite, state.losses)):
        raise _damaged(path, "a loss in it is NaN or infinite")
    for name, value in (state.network | (state.average or {})).items():
        if not value.isfinite().all():
            raise _damaged(path, f"{name} is NaN or infinite")
    return state


def _check_archive(file: BinaryIO) -> None:
    """Raise :class:`ValueError` for what ``torch.load`` would take hours or all memory for.

    It is not packed, as torch writes it, and its names are short: torch searches them in quadratic time for its
    message.
    """
    pickled = b""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member.filename[:80]!r} in it is packed, which torch does not do")
            if member.filename.endswith("data.pkl"):
                pickled = archive.read(member)
    for _, argument, _ in pickletools.genops(pickled):
        if isinstance(argument, str) and len(argument) > _LONGEST_NAME:
            raise ValueError(f"a name in it has {len(argument)} characters")
    file.seek(0)


def resumable_state(run: Path, notify: Callable[[str], None]) -> State | None:
    """Return the last state of a run that can be read, None where none was saved.

    ``notify`` is called if that is not ``state.pt``.

    Raises:
        RunError: there are states, or were, and none can be read.
    """
    if not (run / STATE).exists() and not (run / PREVIOUS).exists():
        done = progress(run)[0] if (run / "environment.json").exists() else 0
        if done:
            raise RunError(
                f"{run / STATE} is missing, though the run has done {done} steps: restore it from a copy, or remove "
                f"{run} to start again"
            )
        return None
    try:
        return read_state(run / STATE)
    except RunError as error:
        if not (run / PREVIOUS).exists():
            raise
        state = read_state(run / PREVIOUS)
        why = str(error).partition(": ")[0] if (run / STATE).exists() else f"{run / STATE} is missing"
        notify(f"{why}: continuing from {PREVIOUS}, step {state.step}")
        return state


def load_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights of a run folder, averaged if it averages them, and its recipe as JSON values.

    Raises:
        RunError: it is not the folder of a run, or damaged.
    """
    recipe = read_recipe(run)
    state = read_state(run / STATE)
    if not recipe.get("ema_decay"):  # a state of an earlier version may hold an average that is not in use
        return state.network, recipe
    if state.average is None:
        raise _damaged(run / STATE, "it lacks the averaged weights that the recipe requires")
    return state.weights(), recipe


def read_recipe(run: Path) -> dict[str, Any]:
    """Return ``recipe.json`` of a run folder; :class:`RunError` where it is missing or damaged."""
    path = run / "recipe.json"
    recipe: dict[str, Any] = upgraded(read_json(path))
    with damage_of(path):
        for key, kind in (("name", str), ("seed", int)):
            if not isinstance(recipe[key], kind):
                raise TypeError(f"{key} is {recipe[key]!r}")
        if not isinstance(recipe.get("ema_decay", 0.0), int | float):
            raise TypeError(f"ema_decay is {recipe['ema_decay']!r}")
        for key in {"mean", "std"} & set(recipe):  # a card needs neither
            if len(recipe[key]) != 3 or not all(map(math.isfinite, recipe[key])):
                raise TypeError(f"{key} is {recipe[key]!r}")
    return recipe


def read_environment(run: Path) -> dict[str, Any]:
    """Return ``environment.json`` of a run folder; :class:`RunError` where it is missing or damaged."""
    path = run / "environment.json"
    environment: dict[str, Any] = read_json(path)
    with damage_of(path):
        done, steps = (_whole(environment.get(key, 0)) for key in ("steps done", "steps"))  # a card needs neither
        if done > steps:
            raise ValueError(f"{done} of {steps} steps are done")
        for key in ("start", "start sha256", "commit", "hardware", "precision"):
            if not isinstance(environment.get(key, ""), str):
                raise TypeError(f"{key} is {environment[key]!r}")
        if not math.isfinite(environment.get("hours", 0.0)):
            raise ValueError(f"hours is {environment.get('hours')!r}")
    return environment


def read_preprocessing(run: Path) -> dict[str, Any]:
    """Return ``preprocessing.json`` of a run folder, {} where there is none; :class:`RunError` where it is damaged."""
    path = run / "preprocessing.json"
    if not path.exists():
        return {}
    values: dict[str, Any] = read_json(path)
    with damage_of(path):
        if set(values) - {"resize", "crop", "labels", "colors"}:
            raise ValueError(f"it has the keys {', '.join(map(repr, values))}")
        for key in ("resize", "crop"):
            if values.get(key) is not None:
                _whole(values[key])
        if not isinstance(values.get("labels", []), list) or not all(isinstance(x, str) for x in values["labels"]):
            raise TypeError("labels is not a list of names")
        for color in values.get("colors", []):
            if not isinstance(color, list) or len(color) != 3 or not all(_whole(x) < 256 for x in color):
                raise TypeError(f"colors holds {color!r}")
    return values


def read_result(run: Path) -> dict[str, Any] | None:
    """Return ``result.json`` of a run folder, None where there is none; :class:`RunError` where it is damaged."""
    path = run / "result.json"
    if not path.exists():
        return None
    result: dict[str, Any] = read_json(path)
    with damage_of(path):
        if "layers" in result:  # of a probe
            numbers = [row[key] for row in result["layers"] for key in ("accuracy", "psnr")]
        else:
            numbers = [result["value"]]
            if not isinstance(result["metric"], str):
                raise TypeError(f"metric is {result['metric']!r}")
            for value in (result.get("classes") or {}).values():
                numbers += [] if value is None else [value]
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise TypeError(f"{number!r} is not a number")
    return result


def read_json(path: Path, kind: type[Any] = dict) -> Any:
    """Return a JSON object, or list, in a file of a run; :class:`RunError` where it is missing or damaged."""
    if not path.exists():
        raise _lacking(path)
    try:
        value = json.loads(read_text_file(path))
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"not JSON: {first_line(error)}") from None
    if not isinstance(value, kind):
        raise _damaged(path, f"not a JSON {'object' if kind is dict else 'list'} but {json.dumps(value)[:40]}")
    return value


@contextmanager
def damage_of(path: Path) -> Iterator[None]:
    """Turn what values of a wrong kind raise into a :class:`RunError` that names their file."""
    try:
        yield
    except SkipaeError:
        raise
    except Exception as error:  # wrong values raise nearly anything
        _raise_damage(path, error)


def _raise_damage(path: Path, error: Exception) -> NoReturn:
    why = f"it lacks {error.args[0]!r}" if isinstance(error, KeyError) and error.args else first_line(error)
    raise _damaged(path, why) from error


def _lacking(path: Path) -> RunError:
    return RunError(f"{path.parent} is not the folder of a run: it lacks {path.name}")


def _damaged(path: Path, why: str) -> RunError:
    run = path.parent
    if path.name == STATE and (run / PREVIOUS).exists():
        repair = f"run the same command again, which continues from {PREVIOUS}"
    else:
        repair = f"restore it from a copy, or remove {run} and run it again"
    return RunError(f"{path} is damaged ({why}): {repair}")


def _tensors(values: Any) -> dict[str, Tensor]:
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise TypeError("it does not hold weights by name")
    return values


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{value!r} is not a whole number >= 0")
    return value


def _one_of(value: Any, allowed: tuple[str | None, ...]) -> str | None:
    if value not in allowed:
        raise ValueError(f"{value!r} is not one of {', '.join(map(str, allowed))}")
    return cast(str | None, value)


def require_finished(run: Path) -> None:
    """Raise :class:`RefusedError` where a run folder holds weights that are not the run's last."""
    done, steps = progress(run)
    if done < steps:
        raise RefusedError(f"{run} stopped at step {done} of {steps}; run its command again to finish it")


def progress(run: Path) -> tuple[int, int]:
    """Return the steps done and the steps in all of a run folder."""
    environment = read_environment(run)
    with damage_of(run / "environment.json"):
        return environment["steps done"], environment["steps"]


RANDOM = {"start": "random weights"}
"""What :func:`started_from` says where nothing was loaded."""


def started_from(name: str, network: nn.Module) -> dict[str, str]:
    """Return what ``environment.json`` says of the weights that a run begins with, or reads."""
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return {"start": name, "start sha256": digest.hexdigest()}


def finished(recipe: Recipe, out: Path, start: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the final result of the run in ``out``; None if it is missing or unfinished."""
    check_run(recipe, out, start)
    return read_result(out)


def check_run(recipe: Recipe, out: Path, start: Mapping[str, str]) -> dict[str, Any]:
    """Return ``environment.json`` of the run in ``out``, {} where there is none.

    :class:`RefusedError` if it is another run.
    """
    if not (out / "recipe.json").exists():
        return {}
    described = read_recipe(out)
    wrong = differences(described, recipe)
    if wrong:
        with damage_of(out / "recipe.json"):
            there = RecipeId.from_json(described["id"]).command if described.get("id") else ""
        asked = recipe.id.command if recipe.id else ""
        if there and asked and there != asked:
            raise RefusedError(
                f"{out} holds the run of 'skipae-train {there}', not of 'skipae-train {asked}': to continue it, use "
                f"those options with --out {shlex.quote(str(out))}; for a new run, use another --out"
            )
        raise RefusedError(
            f"{out} holds a run of another recipe ({', '.join(wrong[:3])}{', ...' if wrong[3:] else ''}): "
            "use another --out or remove the folder"
        )
    environment = read_environment(out) if (out / "environment.json").exists() else {}
    # Runs of earlier versions do not record what they were started from.
    if "start" in environment and environment.get("start sha256") != start.get("start sha256"):
        before, now = (f"{e['start']} {e.get('start sha256', '')[:8]}".strip() for e in (environment, start))
        raise RefusedError(
            f"{out} holds a run that was started from other weights ({before} there, {now} requested): "
            "start it from the same, or use another --out"
        )
    return environment


def check_data(
    out: Path, environment: Mapping[str, Any], facts: Mapping[str, str], preprocessing: Mapping[str, Any]
) -> None:
    """Raise :class:`RefusedError` if the run in ``out`` saw other images or classes than these."""
    before = read_preprocessing(out)
    changes = [
        f"{name}: {then} there, {now} now"
        for there, here in ((environment, facts), (before, preprocessing))
        for name, now in here.items()
        if (then := there.get(name, now)) != now
    ]
    if changes:
        raise RefusedError(
            f"{out} holds a run on other data ({'; '.join(changes)}); use the same data or another --out"
        )


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_bytes(path, f"{json.dumps(value, indent=2)}\n".encode())


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], **options: Any) -> None:
    """Write a table with a heading, whole or not at all; ``options`` are those of :class:`csv.DictWriter`."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, **options)
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    files.write_atomically(path, lambda file: file.write(data))
