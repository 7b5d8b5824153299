"""The training loop that pre-training and fine-tuning share, on accelerate: EMA, saving, resuming, stopping, logs."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from skipae import __version__
from skipae_train.errors import Diverged, RefusedError
from skipae_train.interrupts import StopRequest, stopped
from skipae_train.machine import Machine, RunOptions, channels_last, hardware
from skipae_train.muon import Muon
from skipae_train.networks import Network
from skipae_train.recipe import Recipe, to_json
from skipae_train.rng import derive_seed
from skipae_train.run_folder import (
    STATE,
    State,
    check_data,
    check_run,
    damage_of,
    progress,
    read_environment,
    read_result,
    resumable_state,
    save_state,
    write_json,
)
from skipae_train.run_log import RunLog

Forward = Callable[[Tensor], Tensor]


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

    def following(self) -> Iterator[Part]:
        """Yield this part and those that its process computes after it, without end."""
        for number in count(self.step * self.turns + self.turn):
            step, turn = divmod(number, self.turns)
            yield replace(self, step=step, turn=turn)

    @property
    def number(self) -> int:
        """Its place among all parts of the batch."""
        return self.process * self.turns + self.turn

    def size(self, batch: int) -> int:
        """Return the number of samples in it; :class:`RefusedError` where the batch cannot be cut evenly."""
        if batch % (self.processes * self.turns):
            raise RefusedError(
                f"a batch of {batch} cannot be cut evenly for {self.processes} processes that accumulate {self.turns} "
                "parts: choose numbers that divide it"
            )
        return batch // (self.processes * self.turns)


class TrainingJob(ABC):
    """What is trained, and on what: the loop asks it for losses and measurements."""

    recipe: Recipe
    network: nn.Module
    steps: int
    columns: tuple[str, ...]
    """Names of what :meth:`validate` measures."""
    validate_every: int
    """Steps between measurements, unless the run's options say otherwise."""
    facts: Mapping[str, str]
    """About the data, for ``environment.json``."""
    slower: Mapping[str, float] = {}
    """Factors on the learning rate, by name of parameter; 1 for all others."""
    preprocessing: Mapping[str, Any] = {}
    """Class names, and the sizes that images are scaled and cropped to, for the export (``preprocessing.json``)."""

    @abstractmethod
    def loss(self, model: Forward, part: Part) -> Tensor:
        """Return the loss of a part of a batch; ``model`` is the network in the run's precision."""

    @abstractmethod
    def validate(self, network: nn.Module, machine: Machine) -> dict[str, float]:
        """Measure the network, in eval mode, on data that it is not trained on."""

    def pictures(self, network: nn.Module, machine: Machine) -> Tensor | None:
        """Return a picture, float32 [3, H, W] in [0, 1], to watch the training by; None for none."""
        return None

    def frozen(self, step: int) -> Collection[str]:
        """Return the names of the parameters that stay as they are in this step."""
        return ()

    def frozen_norm(self, step: int) -> bool:
        """Return whether batch norm uses, and keeps, the statistics it has in this step, as it will at inference."""
        return False


def train(job: TrainingJob, out: Path, run_options: RunOptions, start: Mapping[str, str]) -> None:
    """Run a job to its end, or continue where an earlier run stopped.

    ``start`` says what the job's network holds at the beginning (see :func:`skipae_train.run_folder.started_from`).
    ``out`` receives ``state.pt`` (weights, optimizer, step), ``state.pt.previous``, ``recipe.json``,
    ``preprocessing.json``, ``environment.json``, ``log.csv``, ``curves.png``, ``pictures/`` and ``tensorboard/``.  All
    that is random depends on the recipe's seed and on numbers of steps, epochs and samples, so a resumed run yields the
    same weights as an uninterrupted one.

    The batch of a step is cut into one part per process, or ``run_options.accumulate`` of them.  Gradients and the
    running statistics of batch norm are means over the parts: n processes are equivalent to one process with n parts.

    Call it while the folder is :func:`skipae_train.run_folder.locked`.

    Raises:
        Diverged: the loss is not finite; the last saved state stays.
        RefusedError: ``out`` holds the run of another recipe, or one that was started from other weights.
        RunError: ``out`` holds a run whose files are damaged.
        skipae.errors.Stopped: Ctrl-C, SIGTERM or SIGHUP came; the state after the step that ran is saved.
    """
    recipe = job.recipe
    earlier = check_run(recipe, out, start)
    saved = resumable_state(out, notify=functools.partial(tqdm.write, file=sys.stderr))
    if saved:
        check_data(out, earlier, job.facts, job.preprocessing)
    # A resumed run keeps its precision: what "auto" finds may differ from one day to the next.
    machine = run_options.machine(saved.precision if saved else None)
    trainer = Trainer(job, machine, run_options.accumulate)
    if saved:
        with damage_of(out / STATE):
            trainer.resume(saved)
        start = {key: earlier[key] for key in start if key in earlier} if earlier else start
    saved = None
    commits = earlier["commit"].split(", ") if "commit" in earlier else []
    if trainer.step < job.steps and commit() not in commits:
        commits.append(commit())
    first = machine.accelerator.is_main_process

    def save() -> None:
        if first:
            save_state(out, trainer.state())
            write_json(out / "environment.json", {**trainer.environment(commits), **start, **job.facts})

    if first:
        if job.preprocessing and not (out / STATE).exists():
            write_json(out / "preprocessing.json", dict(job.preprocessing))
        if recipe.id is not None or not (out / "recipe.json").exists():  # runs of earlier versions have no id
            write_json(out / "recipe.json", to_json(recipe))
    log = RunLog(out, ["step", "seconds", "lr", "loss", *job.columns], trainer.step) if first else None
    end = job.steps if run_options.stop_at is None else min(run_options.stop_at, job.steps)
    every = run_options.validate_every or job.validate_every
    bar = tqdm(
        total=job.steps,
        initial=trainer.step,
        desc=run_options.title or recipe.name,
        disable=run_options.quiet or not first,
        unit="step",
    )
    begun = trainer.step
    trainer.restart_clock()
    saved_at = time.monotonic()
    alone = machine.accelerator.num_processes == 1
    with StopRequest(announce=first) as request:
        stop = False
        while trainer.step < end and not stop:
            loss, stop = trainer.compute_gradients(request.came)
            if not math.isfinite(loss):
                raise Diverged(
                    f"the loss is {loss} at step {trainer.step} of {recipe.name}: lower the learning rate "
                    f"(now {trainer.lr:.2g}); "
                    + (
                        f"the last good state is in {out / STATE}"
                        if (out / STATE).exists()
                        else "no state was saved yet"
                    )
                )
            trainer.update()
            stop = stop or (alone and request.came())
            trainer.losses.append(loss)
            if trainer.step == begun + 1:
                _forget_warm_up(bar)
            else:
                bar.update()
            if log is not None and (trainer.step % every == 0 or trainer.step == end):
                trainer.averaged.eval()
                measured = job.validate(trainer.averaged, machine)
                row = {
                    "step": trainer.step,
                    "seconds": trainer.seconds,
                    "lr": trainer.lr,
                    "loss": sum(trainer.losses) / len(trainer.losses),
                }
                bar.set_postfix_str(log.write({**row, **measured}, job.pictures(trainer.averaged, machine)))
                trainer.losses.clear()
                trainer.restart_clock()
            if time.monotonic() - saved_at > 60 * run_options.save_minutes:
                save()
                saved_at = time.monotonic()
        bar.close()
        save()
    if log is not None:
        log.close()
    machine.accelerator.wait_for_everyone()
    if stop:
        raise stopped(request.number, f"stopped at step {trainer.step} of {job.steps}; the state is saved in {out}")


def _forget_warm_up(bar: tqdm[Any]) -> None:
    """Show the first step of a session, and begin to count for the remaining time after it: it is much slower."""
    if not bar.disable:
        bar.n = bar.initial = bar.last_print_n = bar.n + 1
        bar.unpause()
        bar.refresh()


class Trainer:
    """A job on its way: network, optimizers, average, and how far it is."""

    def __init__(self, job: TrainingJob, machine: Machine, accumulate: int) -> None:
        self.job, self.machine, self.accumulate = job, machine, accumulate
        self.network, recipe = job.network, job.recipe
        accelerator = machine.accelerator
        channels_last(self.network, accelerator.device)
        rule = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.network, multi_avg_fn=rule, use_buffers=True) if recipe.ema_decay else None
        self.optimizers = _optimizers(recipe, self.network, job.slower)
        self.step, self.seconds, self.lr = 0, 0.0, 0.0
        self.losses: list[float] = []
        """Losses of the steps since the last line of the log."""
        self._model: nn.Module | None = None
        self._frozen: Collection[str] = ()
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
        self._statistics = _Statistics(accelerator, self.network, accumulate)
        self.restart_clock()

    @property
    def averaged(self) -> nn.Module:
        """The network with the weights that are tested and exported."""
        return self.network if self.average is None else self.average.module

    def restart_clock(self) -> None:
        """Leave out the time since the last step."""
        self._mark = time.monotonic()

    def resume(self, state: State) -> None:
        """Continue from a state; raises nearly anything where it is that of another run."""
        self.network.load_state_dict(state.network)
        if self.average is not None:
            if state.average is None:
                raise ValueError("it lacks the averaged weights that the recipe requires")
            self.average.load_state_dict(state.average)
        for optimizer, values in zip(self.optimizers, state.optimizers, strict=True):
            optimizer.load_state_dict(values)
        self.step, self.seconds, self.losses = state.step, state.seconds, state.losses

    def state(self) -> State:
        """Return what :meth:`restore` takes."""
        return State(
            network=self.network.state_dict(),
            average=None if self.average is None else self.average.state_dict(),
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
            step=self.step,
            seconds=self.seconds,
            precision=self.machine.precision,
            losses=self.losses,
        )

    def environment(self, commits: Collection[str]) -> dict[str, Any]:
        """Return what ``environment.json`` says of the run so far."""
        return {
            "steps": self.job.steps,
            "steps done": self.step,
            "hours": round(self.seconds / 3600, 2),
            "hardware": hardware(self.machine.accelerator),
            "precision": self.machine.precision,
            "torch": torch.__version__,
            **({"commit": ", ".join(commits)} if commits else {}),
        }

    def compute_gradients(self, asked_to_stop: Callable[[], bool] = lambda: False) -> tuple[float, bool]:
        """Return the gradients of a step.

        Args:
            asked_to_stop: whether this process was, called when the gradients are there.

        Returns:
            The loss, a mean over all processes, and whether any of them was asked to stop.
        """
        job, recipe, step, accelerator = self.job, self.job.recipe, self.step, self.machine.accelerator
        if self._model is None or job.frozen(step) != self._frozen:
            self._frozen = job.frozen(step)
            self._model = _wrap(accelerator, self.network, self._frozen)
        model = self._model
        factor = recipe.schedule(step, job.steps)
        self.lr = recipe.lr * factor
        for optimizer, rate in zip(self.optimizers, (recipe.lr, recipe.muon_lr), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor * group.get("share", 1.0)
        model.train()
        if job.frozen_norm(step):
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
                    module.eval()
        turns, device = self.accumulate, accelerator.device
        total = torch.zeros((), device=device)
        self._statistics.begin()
        for turn in range(turns):
            part = Part(step, turn, turns, accelerator.process_index, accelerator.num_processes, device)
            torch.manual_seed(derive_seed(recipe.seed, step, part.number))  # for dropout
            with nullcontext() if turn == turns - 1 else accelerator.no_sync(model):
                loss = job.loss(self._forward, part) / turns
                accelerator.backward(loss)
            total += loss.detach()
            self._statistics.add_part()
        self._statistics.finish()
        # One exchange for both, so that all processes stop after the same step.
        value, stops = accelerator.reduce(
            torch.stack([total, total.new_tensor(float(asked_to_stop()))]), "mean"
        ).tolist()
        return value, stops > 0

    def update(self) -> None:
        """Take the step whose gradients were computed."""
        recipe = self.job.recipe
        if recipe.max_grad_norm:
            self.machine.accelerator.clip_grad_norm_(self.network.parameters(), recipe.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.step += 1
        now = time.monotonic()
        self.seconds, self._mark = self.seconds + now - self._mark, now

    def _forward(self, images: Tensor) -> Tensor:
        with self.machine.autocast():
            outputs: Tensor = cast(nn.Module, self._model)(images)
        return outputs.float()


class _Statistics:
    """Makes batch norm's running statistics, after a step, the mean over the parts of its batch."""

    def __init__(self, accelerator: Accelerator, network: nn.Module, accumulate: int) -> None:
        # Synchronized batch norm has seen the parts of all processes already.
        synchronized = any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
        self.accelerator, self.network, self.accumulate = accelerator, network, accumulate
        self.reduces = accelerator.num_processes > 1 and not synchronized

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
    """Return the network as accelerate trains it, without the frozen parameters."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    model: nn.Module = accelerator.prepare_model(network)
    return model


def _optimizers(recipe: Recipe, network: nn.Module, slower: Mapping[str, float]) -> list[torch.optim.Optimizer]:
    """Return the recipe's optimizer, with a group for each factor on its rate, and Muon for the inner kernels
    if it has it.
    """
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
    if recipe.optimizer == "sgd":
        first = torch.optim.SGD(rest, recipe.lr, 0.9, weight_decay=recipe.weight_decay, fused=True)
    else:
        first = torch.optim.Adam(rest, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return [first, Muon(inner, recipe.muon_lr)] if inner else [first]


def finish(
    recipe: Recipe, out: Path, run_options: RunOptions, test: Callable[[Machine], dict[str, Any]]
) -> dict[str, Any] | None:
    """Measure a run that has ended, and keep what is found as ``result.json``; None where it has not ended."""
    done, steps = progress(out)
    if done < steps:
        return None
    environment = read_environment(out)
    machine = run_options.machine(environment["precision"])
    if machine.accelerator.is_main_process:
        command = {"command": f"skipae-train {recipe.id.command}"} if recipe.id and recipe.id.command else {}
        facts = {key: environment[key] for key in ("hardware", "precision", "hours")}
        write_json(out / "result.json", {**test(machine), **command, **facts})
    machine.accelerator.wait_for_everyone()
    return read_result(out)


@functools.cache
def commit() -> str:
    """Return the commit of this code, or the version outside a checkout."""
    here = Path(__file__).parent
    try:
        head, changes = (
            subprocess.run(["git", *command], cwd=here, capture_output=True, check=True, text=True).stdout.strip()
            for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return f"skipae {__version__}"
    return head + (" with changes" if changes else "")
