"""The training loop that pre-training and fine-tuning share, on accelerate: precision, EMA, saving, resuming, logs."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import platform
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from skipae import __version__
from skipae_train.corruption import Colour
from skipae_train.hashing import mix
from skipae_train.muon import Muon
from skipae_train.networks import Init, Network
from skipae_train.plots import Board

Precision = Literal["auto", "fp32", "bf16"]


Model = Callable[[Tensor], Tensor]


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says why, and what is safe."""


class Diverged(TrainingError):
    """The loss is not finite."""


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine down to ``floor``."""

    warmup: int
    floor: float = 0.005

    def __call__(self, step: int, steps: int) -> float:
        """Factor on the learning rate at ``step`` of ``steps``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class Trapezoid:
    """Linear warm-up, constant, then linearly down to 0 over the last ``cooldown``, a share of the run.

    Up to there the steps do not depend on the run's length, which may therefore be chosen on the way.
    """

    warmup: int
    cooldown: float

    def __call__(self, step: int, steps: int) -> float:
        """Factor on the learning rate at ``step`` of ``steps``."""
        return min(1.0, (step + 1) / self.warmup, (steps - step) / (self.cooldown * steps))


@dataclass(frozen=True)
class Milestones:
    """Multiplied by ``factor`` at each share of the run (supplement B: 60 and 90 of 120 epochs)."""

    at: tuple[float, ...]
    factor: float = 0.1

    def __call__(self, step: int, steps: int) -> float:
        """Factor on the learning rate at ``step`` of ``steps``."""
        return self.factor ** sum(step >= share * steps for share in self.at)


Schedule = Cosine | Trapezoid | Milestones


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the recipes of pre-training and of fine-tuning have in common."""

    name: str
    lr: float = 1e-4
    schedule: Schedule
    optimiser: Literal["adam", "sgd"] = "adam"
    """``adam`` is the paper's; ``sgd`` has a momentum of 0.9 (supplement C)."""
    muon_lr: float = 0.0
    """Learning rate of Muon for the kernels, but for the first's and the last's; 0 leaves all to ``optimiser``."""
    decay: float = 0.0
    """Weight decay, L2 on all weights; the paper has none."""
    init: Init = "normal"
    mean: Colour = (0.5, 0.5, 0.5)
    std: Colour = (0.25, 0.25, 0.25)
    ema: float = 0.0
    """Decay per step of the averaged weights, which are the ones exported and tested; 0 for none."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 for no limit."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Session:
    """How a run is carried out.  Nothing here changes its result, but for rounding."""

    precision: Precision = "auto"
    device: str | None = None
    """``cpu``, ``cuda``, or None for what accelerate finds."""
    accumulate: int = 1
    """Parts that each process cuts its share of a batch into, for less memory.  Batch norm sees the parts."""
    threads: int | None = None
    """CPU threads of torch; None leaves them as they are."""
    save_minutes: float = 5.0
    validate_every: int | None = None
    """Steps between measurements; None leaves it to the task."""
    stop_at: int | None = None
    """End the session at this step, with the state saved."""
    quiet: bool = False

    def machine(self, precision: str | None = None) -> Machine:
        """The device or devices, with the precision of the session unless another is given.

        :class:`TrainingError` where there is no ``cuda`` to be had.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise TrainingError(
                f"device cuda: torch {torch.__version__} finds no GPU that it can use: see whether nvidia-smi lists "
                "one and torch is built for CUDA, or take --device cpu"
            )
        if self.threads:
            torch.set_num_threads(self.threads)
        if self.precision != "auto" or precision is None:
            precision = choose_precision(self.precision, self.device)
        ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
        accelerator = Accelerator(cpu=self.device == "cpu", kwargs_handlers=[ddp])
        return Machine(accelerator, broadcast_object_list([precision])[0])  # for all what the first process found


@dataclass(frozen=True)
class Machine:
    """Where a run computes."""

    accelerator: Accelerator
    precision: str
    """``fp32`` or ``bf16``."""

    @property
    def device(self) -> torch.device:
        """This process's device."""
        device: torch.device = self.accelerator.device
        return device

    def autocast(self) -> torch.autocast:
        """The precision, for a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


@dataclass(frozen=True)
class Part:
    """One of the equal parts that the batch of a step is cut into, over all processes."""

    step: int
    turn: int
    turns: int
    """Parts that each process computes one after the other, of which this is ``turn``."""
    process: int
    processes: int
    device: torch.device

    @property
    def number(self) -> int:
        """Its place among all parts of the batch."""
        return self.process * self.turns + self.turn

    def size(self, batch: int) -> int:
        """Samples in it; :class:`TrainingError` where the batch cannot be cut evenly."""
        if batch % (self.processes * self.turns):
            raise TrainingError(
                f"a batch of {batch} cannot be cut evenly for {self.processes} processes that accumulate {self.turns} "
                "parts: choose numbers that divide it"
            )
        return batch // (self.processes * self.turns)


class Job(ABC):
    """What is trained, and on what: the loop asks it for losses and measurements."""

    recipe: Recipe
    network: nn.Module
    steps: int
    columns: tuple[str, ...]
    """Names of what :meth:`validate` measures."""
    validate_every: int
    """Steps between measurements, unless the session says otherwise."""
    facts: Mapping[str, str]
    """About the data, for ``environment.json``."""
    slower: Mapping[str, float] = {}
    """Factors on the learning rate, by name of parameter; 1 for all others."""
    preprocessing: Mapping[str, Any] = {}
    """Class names, and the sizes that images are scaled and cropped to, for the export (``preprocessing.json``)."""

    @abstractmethod
    def loss(self, model: Model, part: Part) -> Tensor:
        """The loss of a part of a batch; ``model`` is the network in the run's precision, its outputs float32."""

    @abstractmethod
    def validate(self, network: nn.Module, machine: Machine) -> dict[str, float]:
        """Measure the network, in eval mode, on data that it is not trained on."""

    def pictures(self, network: nn.Module, machine: Machine) -> Tensor | None:
        """A picture, float32 [3, H, W] in [0, 1], to watch the training by; None for none."""
        return None

    def frozen(self, step: int) -> Collection[str]:
        """Names of the parameters that stay as they are in this step."""
        return ()

    def frozen_norm(self, step: int) -> bool:
        """Whether batch norm uses, and keeps, the statistics it has in this step, as it will at inference."""
        return False


def train(job: Job, out: Path, session: Session, start: Mapping[str, str]) -> None:
    """Run a job to its end, or go on where a killed run stopped.

    ``start`` says what the job's network holds at the beginning (see :func:`started_from`).  ``out`` receives
    ``state.pt`` (weights, optimiser, step), ``recipe.json``, ``preprocessing.json``, ``environment.json``,
    ``log.csv``, ``curves.png``, ``pictures/`` and ``tensorboard/``.  All that is random depends on the recipe's seed
    and on numbers of steps, epochs and samples, so a resumed run gives the same weights as an unbroken one.

    The batch of a step is cut into one part per process, or ``session.accumulate`` of them.  Gradients and the
    running statistics of batch norm are means over the parts: n processes give what one process with n parts gives.

    Raises :class:`Diverged` when the loss is not finite (the last saved state stays), :class:`TrainingError` when
    ``out`` holds the run of another recipe, or one that was started from other weights.
    """
    recipe, network = job.recipe, job.network
    described, state_file = out / "recipe.json", out / "state.pt"
    earlier = _check_run(recipe, out, start)
    out.mkdir(parents=True, exist_ok=True)
    saved = torch.load(state_file, map_location="cpu", weights_only=True) if state_file.exists() else {}
    if saved:
        _check_data(job, out, earlier)
    # A resumed run keeps its precision: what "auto" finds may differ from one day to the next.
    machine = session.machine(saved.get("precision"))
    accelerator = machine.accelerator
    network.to(device=accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    rule = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=rule, use_buffers=True) if recipe.ema else None
    optimisers = _optimisers(recipe, network, job.slower)
    step, seconds = 0, 0.0
    commits: list[str] = []
    if saved:
        network.load_state_dict(saved["network"])
        if average is not None:
            average.load_state_dict(saved["average"])
        for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        step, seconds = saved["step"], saved["seconds"]
        if earlier:
            start = {key: earlier[key] for key in start if key in earlier}
            commits = earlier["commit"].split(", ") if "commit" in earlier else []
        del saved
    if step < job.steps and commit() not in commits:
        commits.append(commit())
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    averaged = network if average is None else average.module

    def save() -> None:
        if accelerator.is_main_process:
            environment = {
                "steps": job.steps,
                "steps done": step,
                "hours": round(seconds / 3600, 2),
                "hardware": hardware(accelerator),
                "precision": machine.precision,
                "torch": torch.__version__,
                **({"commit": ", ".join(commits)} if commits else {}),
                **start,
                **job.facts,
            }
            state = {
                "network": network.state_dict(),
                **({} if average is None else {"average": average.state_dict()}),
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                "step": step,
                "seconds": seconds,
                "precision": machine.precision,
            }
            write_atomically(state_file, lambda path: torch.save(state, path))
            write_json(out / "environment.json", environment)

    if accelerator.is_main_process and not state_file.exists():
        if job.preprocessing:
            write_json(out / "preprocessing.json", dict(job.preprocessing))
        write_json(described, to_json(recipe))
    board = Board(out, ["step", "seconds", "lr", "loss", *job.columns], step) if accelerator.is_main_process else None
    end = job.steps if session.stop_at is None else min(session.stop_at, job.steps)
    every = session.validate_every or job.validate_every
    bar = tqdm(total=job.steps, initial=step, disable=session.quiet or not accelerator.is_main_process, unit="step")
    saved_at = mark = time.monotonic()
    losses: list[float] = []
    model: nn.Module | None = None
    frozen: Collection[str] = ()
    processes = accelerator.num_processes
    statistics = _Statistics(accelerator, network, session.accumulate)

    def forward(images: Tensor) -> Tensor:
        with machine.autocast():
            outputs: Tensor = cast(nn.Module, model)(images)
        return outputs.float()

    while step < end:
        if model is None or job.frozen(step) != frozen:
            frozen = job.frozen(step)
            model = _wrap(accelerator, network, frozen)
        factor = recipe.schedule(step, job.steps)
        for optimiser, rate in zip(optimisers, (recipe.lr, recipe.muon_lr), strict=False):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor * group.get("share", 1.0)
        model.train()
        if job.frozen_norm(step):
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
                    module.eval()
        total = torch.zeros((), device=accelerator.device)
        statistics.begin()
        for turn in range(session.accumulate):
            part = Part(step, turn, session.accumulate, accelerator.process_index, processes, accelerator.device)
            torch.manual_seed(mix(recipe.seed, step, part.number))  # for dropout
            with nullcontext() if turn == session.accumulate - 1 else accelerator.no_sync(model):
                loss = job.loss(forward, part) / session.accumulate
                accelerator.backward(loss)
            total += loss.detach()
            statistics.add_part()
        statistics.finish()
        value = float(accelerator.reduce(total, "mean"))
        if not math.isfinite(value):
            raise Diverged(
                f"the loss is {value} at step {step} of {recipe.name}: lower the learning rate "
                f"(now {recipe.lr * factor:.2g}); "
                + (f"the last good state is in {state_file}" if state_file.exists() else "no state was saved yet")
            )
        if recipe.clip:
            accelerator.clip_grad_norm_(network.parameters(), recipe.clip)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        if average is not None:
            average.update_parameters(network)
        losses.append(value)
        step += 1
        bar.update()
        now = time.monotonic()
        seconds, mark = seconds + now - mark, now
        if board is not None and (step % every == 0 or step == end):
            averaged.eval()
            measured = job.validate(averaged, machine)
            row = {"step": step, "seconds": seconds, "lr": recipe.lr * factor, "loss": sum(losses) / len(losses)}
            bar.set_postfix_str(board.write({**row, **measured}, job.pictures(averaged, machine)))
            losses.clear()
            mark = time.monotonic()
        if now - saved_at > 60 * session.save_minutes:
            save()
            saved_at = time.monotonic()
    bar.close()
    save()
    if board is not None:
        board.close()
    accelerator.wait_for_everyone()


class _Statistics:
    """Makes batch norm's running statistics, after a step, the mean over the parts of its batch."""

    def __init__(self, accelerator: Accelerator, network: nn.Module, accumulate: int) -> None:
        # Synchronised batch norm has seen the parts of all processes already.
        synchronised = any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
        self.accelerator, self.network, self.accumulate = accelerator, network, accumulate
        self.reduces = accelerator.num_processes > 1 and not synchronised

    def begin(self) -> None:
        """Remember them as they are before a step."""
        # Looked up each time: wrapping for several processes puts other tensors in the place of buffers.
        named = self.network.named_buffers() if self.reduces or self.accumulate > 1 else ()
        self.running = [buffer for name, buffer in named if ".running_" in name]
        self.before = [buffer.clone() for buffer in self.running]
        self.total = [torch.zeros_like(buffer) for buffer in self.running]

    def add_part(self) -> None:
        """Keep what a part made of them, and begin the next part from the same values."""
        for total, buffer, before in zip(self.total, self.running, self.before, strict=True):
            total += buffer / self.accumulate
            buffer.copy_(before)

    def finish(self) -> None:
        """Set them to the mean over all parts of all processes."""
        if self.running:
            flat = torch.cat(self.total)
            if self.reduces:
                flat = self.accelerator.reduce(flat, "mean")
            for buffer, mean in zip(self.running, torch.split(flat, [len(b) for b in self.running]), strict=True):
                buffer.copy_(mean)


def _wrap(accelerator: Accelerator, network: nn.Module, frozen: Collection[str]) -> nn.Module:
    """The network as accelerate trains it, without the frozen parameters."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    model: nn.Module = accelerator.prepare_model(network)
    return model


def _optimisers(recipe: Recipe, network: nn.Module, slower: Mapping[str, float]) -> list[torch.optim.Optimizer]:
    """The recipe's optimiser, with a group for each factor on its rate, and Muon for the inner kernels if it has it."""
    inner: list[Tensor] = []
    if recipe.muon_lr and isinstance(network, Network):
        inner = [network.unit(name).conv.weight for name in (*network.encoder, *network.decoder) if name[3:] != "1"]
    chosen = {id(kernel) for kernel in inner}
    shares: dict[float, list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if id(parameter) not in chosen:
            shares.setdefault(slower.get(name, 1.0), []).append(parameter)
    rest = [{"params": parameters, "share": share} for share, parameters in shares.items()]
    first: torch.optim.Optimizer
    if recipe.optimiser == "sgd":
        first = torch.optim.SGD(rest, recipe.lr, 0.9, weight_decay=recipe.decay, fused=True)
    else:
        first = torch.optim.Adam(rest, recipe.lr, weight_decay=recipe.decay, fused=True)
    return [first, Muon(inner, recipe.muon_lr)] if inner else [first]


def load_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of a run folder, averaged if it averages them, and its recipe as JSON values."""
    try:
        recipe = json.loads((run / "recipe.json").read_text())
        state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainingError(f"{run} is not the folder of a run: it lacks {Path(error.filename).name}") from None
    weights = state["network"]
    if recipe["ema"]:
        weights = {k.removeprefix("module."): v for k, v in state["average"].items() if k.startswith("module.")}
    return weights, recipe


def require_finished(run: Path) -> None:
    """Raise :class:`TrainingError` where a run folder holds weights that are not the run's last."""
    done, steps = progress(run)
    if done < steps:
        raise TrainingError(f"{run} stopped at step {done} of {steps}: give its command again to finish it")


def progress(run: Path) -> tuple[int, int]:
    """Steps done, and steps in all, of a run folder."""
    path = run / "environment.json"
    if not path.exists():
        raise TrainingError(f"{run} is not the folder of a run: it lacks {path.name}")
    environment = json.loads(path.read_text())
    return environment["steps done"], environment["steps"]


RANDOM = {"start": "random weights"}
"""What :func:`started_from` says where nothing was loaded."""


def started_from(name: str, network: nn.Module) -> dict[str, str]:
    """What ``environment.json`` says of the weights that a run begins with, or reads."""
    digest = hashlib.sha256()
    for key, value in network.state_dict().items():
        digest.update(key.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return {"start": name, "start sha256": digest.hexdigest()}


def finished(recipe: Recipe, out: Path, start: Mapping[str, str]) -> dict[str, Any] | None:
    """What the run in ``out`` measured at its end; None where it is not there, or has not ended."""
    _check_run(recipe, out, start)
    path = out / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


def finish(out: Path, session: Session, test: Callable[[Machine], dict[str, Any]]) -> dict[str, Any] | None:
    """Measure a run that has ended, and keep what is found as ``result.json``; None where it has not ended."""
    from skipae_train.recipes import command_for  # imports this module

    environment = json.loads((out / "environment.json").read_text())
    if environment["steps done"] < environment["steps"]:
        return None
    path, machine = out / "result.json", session.machine(environment["precision"])
    if machine.accelerator.is_main_process:
        command = command_for(json.loads((out / "recipe.json").read_text()))  # which tells the budget
        facts = {key: environment[key] for key in ("hardware", "precision", "hours")}
        write_json(path, {**test(machine), **({"command": f"skipae-train {command}"} if command else {}), **facts})
    machine.accelerator.wait_for_everyone()
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _check_run(recipe: Recipe, out: Path, start: Mapping[str, str]) -> dict[str, Any]:
    """``environment.json`` of the run in ``out``, if it is there; :class:`TrainingError` if it is another run."""
    described, path = out / "recipe.json", out / "environment.json"
    if not described.exists():
        return {}
    there, asked = (dict(_leaves(fields)) for fields in (json.loads(described.read_text()), to_json(recipe)))
    wrong = [name for name in {**there, **asked} if there.get(name) != asked.get(name)]
    if wrong:
        told = ", ".join(f"{name} is {there.get(name)!r} there, {asked.get(name)!r} asked for" for name in wrong[:3])
        raise TrainingError(
            f"{out} holds a run of another recipe ({told}{', ...' if wrong[3:] else ''}): "
            "give another --out, or remove the folder"
        )
    environment: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    # Runs of earlier versions do not say what they were started from.
    if "start" in environment and environment.get("start sha256") != start.get("start sha256"):
        before, now = (f"{e['start']} {e.get('start sha256', '')[:8]}".strip() for e in (environment, start))
        raise TrainingError(
            f"{out} holds a run that was started from other weights ({before} there, {now} asked for): "
            "start it from the same, or give another --out"
        )
    return environment


def _check_data(job: Job, out: Path, environment: Mapping[str, Any]) -> None:
    """:class:`TrainingError` if the run in ``out`` saw other images or classes than the job has."""
    path = out / "preprocessing.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    changes = [
        f"{name}: {then} there, {now} now"
        for there, here in ((environment, job.facts), (before, job.preprocessing))
        for name, now in here.items()
        if (then := there.get(name, now)) != now
    ]
    if changes:
        raise TrainingError(f"{out} holds a run on other data ({'; '.join(changes)}): give the same, or another --out")


def to_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe as ``recipe.json`` holds it."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return values


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a recipe by name, those of its parts as ``epochs.count``."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@functools.cache
def commit() -> str:
    """The commit of this code, or the version where it does not lie in a checkout."""
    here = Path(__file__).parent
    try:
        head, changes = (
            subprocess.run(["git", *command], cwd=here, capture_output=True, check=True, text=True).stdout.strip()
            for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return f"skipae {__version__}"
    return head + (" with changes" if changes else "")


@functools.cache
def choose_precision(precision: Precision, device: str | None) -> Literal["fp32", "bf16"]:
    """``auto`` takes what the device does faster, by trying it once; other work on the cores does not count."""
    if precision != "auto":
        return precision
    if device != "cpu" and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    conv = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.zeros(4, 64, 48, 48).to(memory_format=torch.channels_last)

    def seconds(bf16: bool) -> float:
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            conv(image).float().sum().backward()
        return time.process_time() - start

    fp32, bf16 = zip(*((seconds(False), seconds(True)) for _ in range(5)), strict=True)
    return "bf16" if min(bf16) < min(fp32) else "fp32"


def hardware(accelerator: Accelerator) -> str:
    """The processor or GPU, and how many of them."""
    if accelerator.device.type == "cuda":
        return f"{accelerator.num_processes} x {torch.cuda.get_device_name()}"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    processes = f"{accelerator.num_processes} processes of " if accelerator.num_processes > 1 else ""
    return f"{name}, {processes}{torch.get_num_threads()} threads"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_atomically(path, lambda partial: partial.write_text(json.dumps(value, indent=2) + "\n"))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside ``path`` and rename, so that a full disk or a kill leaves the earlier file whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
