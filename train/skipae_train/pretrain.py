"""Pre-training: an auto-encoder learns to restore corrupted images (section 3.3), on accelerate."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from skipae_train.corruption import Colour, Corruption, GaussianNoise
from skipae_train.data import Photos, augment_photos
from skipae_train.muon import Muon
from skipae_train.networks import AutoEncoder, Init
from skipae_zoo import Architecture

Precision = Literal["auto", "fp32", "bf16"]
Loss = Literal["mse", "rmse"]


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says why, and what is safe."""


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


@dataclass(frozen=True)
class Phase:
    """A part of the run with one crop size and batch size."""

    steps: int
    crop: int
    batch: int
    freeze_norm: bool = False
    """Whether batch norm uses, and keeps, the statistics it has, as it will at inference."""


@dataclass(frozen=True)
class Pretrain:
    """A pre-training recipe."""

    name: str
    architecture: Architecture
    corruption: Corruption
    phases: tuple[Phase, ...]
    lr: float = 1e-4
    muon_lr: float = 0.0
    """Learning rate of Muon for the kernels, but for the first's and the last's; 0 leaves all to ADAM (the paper)."""
    schedule: Cosine | Milestones | Trapezoid = Milestones((0.5, 0.75))
    loss: Loss = "mse"
    """``mse`` is the paper's.  ``rmse`` is the mean over samples of the root: the gradient of a sample is then
    as large at weak noise as at strong, where ``mse`` lets the strongest noise drown the rest."""
    init: Init = "normal"
    mean: Colour = (0.5, 0.5, 0.5)
    std: Colour = (0.25, 0.25, 0.25)
    ema: float = 0.0
    """Decay per step of the averaged weights, which are the ones exported; 0 for none."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 for no limit."""
    seed: int = 0

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        """The phase that ``step``, counted from 0, belongs to."""
        for phase in self.phases:
            step -= phase.steps
            if step < 0:
                return phase
        raise ValueError(f"step {step + self.steps} lies past the end of the run ({self.steps} steps)")


def pretrain(
    recipe: Pretrain,
    data: Path,
    out: Path,
    *,
    precision: Precision = "auto",
    device: str | None = None,
    save_minutes: float = 5.0,
    validate_every: int = 1000,
    stop_at: int | None = None,
    start: Path | None = None,
    quiet: bool = False,
) -> AutoEncoder:
    """Run a recipe, or go on where a killed run stopped, and return the trained (averaged) network.

    ``out`` receives ``state.pt`` (weights, optimiser, step), ``recipe.json``, ``environment.json`` and
    ``log.csv``.  Batches, augmentation and corruption depend on the seed and the step alone, so a resumed run
    gives the same weights as an unbroken one.  ``stop_at`` ends the session at that step with the state saved.
    ``start`` is a checkpoint folder whose weights a new run begins with.

    Raises :class:`TrainingError` when the loss is not finite (the last saved state stays), or when ``out``
    holds the run of another recipe.
    """
    description = json.loads(json.dumps(asdict(recipe)))
    described = out / "recipe.json"
    if described.exists() and json.loads(described.read_text()) != description:
        raise TrainingError(f"{out} holds a run of another recipe: give another --out, or remove the folder")

    photos = Photos(data, seed=recipe.seed)
    out.mkdir(parents=True, exist_ok=True)
    chosen = _precision(precision, device)
    accelerator = Accelerator(mixed_precision=chosen, cpu=device == "cpu")
    network = AutoEncoder(recipe.architecture, mean=recipe.mean, std=recipe.std, init=recipe.init)
    torch.manual_seed(recipe.seed)
    network.initialise(recipe.init)
    if start is not None:
        begun = AutoEncoder.from_checkpoint(start)
        if begun.architecture != recipe.architecture:
            raise TrainingError(f"{start} is {begun.architecture}, but {recipe.name} trains {recipe.architecture}")
        network.load_state_dict(begun.state_dict())
    network.to(device=accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    rule = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=rule, use_buffers=True)
    optimisers = _optimisers(network, recipe)
    step, seconds = 0, 0.0
    state_file = out / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, map_location=accelerator.device, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        for optimiser, saved_state in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved_state)
        step, seconds = state["step"], state["seconds"]
    model, *optimisers = accelerator.prepare(network, *optimisers)
    averaged = cast(AutoEncoder, average.module) if recipe.ema else network

    def save() -> None:
        if accelerator.is_main_process:
            described.write_text(json.dumps(description, indent=2) + "\n")
            environment = {
                "steps done": step,
                "hours": round(seconds / 3600, 2),
                "hardware": _hardware(accelerator),
                "precision": "fp32" if chosen == "no" else chosen,
                "torch": torch.__version__,
                "photos": f"{len(photos.files)} ({len(photos.held_out)} more held out for validation)",
            }
            (out / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")
            state = {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                "step": step,
                "seconds": seconds,
            }
            _save_atomically(state, state_file)

    held_out = photos.validation(256, 24).to(accelerator.device)
    log = _Log(out / "log.csv", ["step", "seconds", "lr", "loss", "psnr15", "psnr25", "psnr50"], step)
    end = recipe.steps if stop_at is None else min(stop_at, recipe.steps)
    bar = tqdm(total=recipe.steps, initial=step, disable=quiet or not accelerator.is_main_process, unit="step")
    saved = mark = time.monotonic()
    losses: list[float] = []
    while step < end:
        phase = recipe.phase_at(step)
        number = step * accelerator.num_processes + accelerator.process_index
        generator = torch.Generator(accelerator.device).manual_seed(_mix(recipe.seed, number))
        crops = photos.crops(number, phase.batch, phase.crop)
        clean = augment_photos(crops.to(accelerator.device).float() / 255, generator)
        corrupted = recipe.corruption(clean, generator).contiguous(memory_format=torch.channels_last)
        factor = recipe.schedule(step, recipe.steps)
        for optimiser, rate in zip(optimisers, (recipe.lr, recipe.muon_lr), strict=False):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        model.train()
        if phase.freeze_norm:
            for unit in network.modules():
                if isinstance(unit, nn.BatchNorm2d):
                    unit.eval()
        with accelerator.autocast():
            restored = model(corrupted)
        loss = reconstruction_loss(restored.float(), clean, recipe.loss)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {step} of {recipe.name}: lower the learning rate "
                f"(now {recipe.lr * factor:.2g}); "
                + (f"the last good state is in {state_file}" if state_file.exists() else "no state was saved yet")
            )
        accelerator.backward(loss)
        if recipe.clip:
            accelerator.clip_grad_norm_(network.parameters(), recipe.clip)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        if recipe.ema:
            average.update_parameters(network)
        losses.append(value)
        step += 1
        bar.update()
        now = time.monotonic()
        seconds, mark = seconds + now - mark, now
        if step % validate_every == 0 or step == end:
            row = {
                "step": step,
                "seconds": round(seconds, 1),
                "lr": f"{recipe.lr * factor:.3g}",
                "loss": f"{sum(losses) / len(losses):.5g}",
            }
            for sigma in (15, 25, 50):
                if len(held_out):
                    row[f"psnr{sigma}"] = f"{_validate(averaged, held_out, sigma, accelerator):.3f}"
            losses.clear()
            if accelerator.is_main_process:
                log.write(row)
                bar.set_postfix_str(" ".join(f"{k} {v}" for k, v in row.items() if k not in ("step", "seconds")))
            mark = time.monotonic()
        if now - saved > 60 * save_minutes:
            save()
            saved = time.monotonic()
    bar.close()
    save()
    return averaged.eval()


def load_run(run: Path) -> tuple[AutoEncoder, dict[str, Any]]:
    """The network of a run folder, with its averaged weights if it keeps them, and its recipe as JSON values."""
    try:
        recipe = json.loads((run / "recipe.json").read_text())
        state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainingError(f"{run} is not the folder of a run: it lacks {Path(error.filename).name}") from None
    architecture = Architecture.from_dict(recipe["architecture"])
    network = AutoEncoder(architecture, mean=recipe["mean"], std=recipe["std"], init=recipe["init"])
    weights = state["network"]
    if recipe["ema"]:
        weights = {k.removeprefix("module."): v for k, v in state["average"].items() if k.startswith("module.")}
    network.load_state_dict(weights)
    return network.eval(), recipe


def reconstruction_loss(restored: Tensor, clean: Tensor, kind: Loss) -> Tensor:
    """Mean square error over all pixels, or the mean over samples of its root."""
    error = (restored - clean).square()
    if kind == "mse":
        return error.mean()
    # Half a grey level keeps the gradient finite where a sample is all but perfect.
    return (error.mean((1, 2, 3)) + (0.5 / 255) ** 2).sqrt().mean()


def _optimisers(network: AutoEncoder, recipe: Pretrain) -> list[torch.optim.Optimizer]:
    """ADAM, and Muon for the inner kernels where the recipe has it."""
    if not recipe.muon_lr:
        return [torch.optim.Adam(network.parameters(), recipe.lr, fused=True)]
    inner = [network.unit(name).conv.weight for name in (*network.encoder, *network.decoder) if name[3:] != "1"]
    chosen = {id(kernel) for kernel in inner}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in chosen]
    return [torch.optim.Adam(rest, recipe.lr, fused=True), Muon(inner, recipe.muon_lr)]


def _validate(network: nn.Module, clean: Tensor, sigma: int, accelerator: Accelerator) -> float:
    """Mean PSNR in dB on noisy 8-bit copies of ``clean``, uint8 [N, 3, H, W]; always the same noise."""
    network.eval()
    generator = torch.Generator(clean.device).manual_seed(sigma)
    noise = GaussianNoise((sigma, sigma), as_file=1.0)
    total = 0.0
    for image in torch.split(clean, 4):
        target = image.float() / 255
        with torch.inference_mode(), accelerator.autocast():
            restored = network(noise(target, generator).contiguous(memory_format=torch.channels_last))
        error = (restored.float().clamp(0, 1) - target).square().mean((1, 2, 3))
        total += float((-10 * error.log10()).sum())
    return total / len(clean)


def _precision(precision: Precision, device: str | None) -> str:
    """accelerate's name of the precision; ``auto`` takes what the device does faster, by trying it."""
    if precision != "auto":
        return {"fp32": "no", "bf16": "bf16"}[precision]
    if device != "cpu" and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    conv = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.zeros(4, 64, 48, 48).to(memory_format=torch.channels_last)

    def best(enabled: bool) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                conv(image).float().sum().backward()
            times.append(time.perf_counter() - start)
        return min(times)

    return "bf16" if best(True) < best(False) else "no"


def _hardware(accelerator: Accelerator) -> str:
    """The processor or GPU, and how many of them."""
    if accelerator.device.type == "cuda":
        return f"{accelerator.num_processes} x {torch.cuda.get_device_name()}"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return f"{name}, {torch.get_num_threads()} threads"


def _mix(seed: int, number: int) -> int:
    """One seed out of two numbers, so that neighbours are unrelated (a multiplicative hash)."""
    return (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9) % 2**63


def _save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write beside ``path`` and rename, so that a full disk or a kill leaves the earlier state whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        torch.save(state, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class _Log:
    """A CSV file that a resumed run goes on with; rows past the resumed step are dropped."""

    def __init__(self, path: Path, columns: list[str], step: int) -> None:
        self.path, self.columns = path, columns
        rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def write(self, row: dict[str, Any]) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)
