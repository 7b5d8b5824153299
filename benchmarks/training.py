"""How fast training is: against a bare loop of the same network, and against what the machine's convolutions reach.

    python benchmarks/training.py                      # all networks; a few minutes on two idle cores
    python benchmarks/training.py --network network-2  # one

For each network it prints images per second of ``skipae-train pretrain`` on a set in memory (shuffling, crops, flips,
corruption, loss, optimizer, checks and logs), those of a bare loop (forward, backward, ADAM on one batch that never
changes) in the same precision, and their ratio, which should be at least 0.75.  For Network-2, at the paper's width and
batches of 64, it prints the arithmetic rate too, beside the machine's limit: a 3x3 convolution of 96 to 96 channels on
the same batch, forward and backward; the ratio should be at least 0.5.  Where one falls short, a profile follows.

Take the numbers on an idle machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import click
import torch
from torch import nn

from skipae_train.datasets import MemorySet
from skipae_train.feed import DataConfig
from skipae_train.machine import RunOptions, TrainingPrecision, channels_last, choose_training_precision
from skipae_train.networks import AutoEncoder
from skipae_train.pretrain import Pretrain, SetJob
from skipae_train.recipes import pretrain_recipe
from skipae_train.run_folder import RANDOM
from skipae_train.trainer import train
from skipae_zoo import Architecture

LOOP, LIMIT = 0.75, 0.5


def recipes() -> dict[str, Pretrain]:
    """Network-2 as in the paper; the others at the widths and crops of the cpu budget."""
    return {
        "network-1": pretrain_recipe("cifar10", budget="cpu"),
        "network-2": pretrain_recipe("cifar10-4k"),
        "network-3": pretrain_recipe("imagenet", budget="cpu"),
    }


def architecture_of(recipe: Pretrain) -> Architecture:
    """None of :func:`recipes` trains a Wide-ResNet."""
    assert isinstance(recipe.architecture, Architecture)  # noqa: S101
    return recipe.architecture


def flop(network: Architecture, side: int) -> float:
    """Floating-point operations of a training step per image: three times those of the forward pass."""
    total = 0
    for layer in network.layers:
        height, width = layer.output_size(side, side)
        total += 2 * layer.kernel**2 * layer.in_channels * layer.channels * height * width
    return 3.0 * 2 * total  # the decoder mirrors the encoder


def ours(
    recipe: Pretrain, epochs: DataConfig, out: Path, steps: int, precision: TrainingPrecision
) -> tuple[float, Callable[[], float]]:
    """Seconds per step of the training loop, and a function that runs more steps (for a profile)."""
    count, side = epochs.batch * (3 * steps + 10), epochs.crop + 3
    images = MemorySet(torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8), None)
    epochs = replace(epochs, count=1)
    job = SetJob(recipe, epochs, AutoEncoder(architecture_of(recipe), init="he"), images)
    job.held_out = job.held_out[:4]
    run_options = RunOptions(precision=precision, save_minutes=1e6, validate_every=10**9, quiet=True)

    def until(step: int) -> float:
        train(job, out, replace(run_options, stop_at=step), RANDOM)
        return float(torch.load(out / "state.pt", weights_only=True)["seconds"])

    seconds = [until(stop) for stop in (5, 5 + steps, 5 + 2 * steps)]
    return min(b - a for a, b in pairwise(seconds)) / steps, lambda: until(5 + 3 * steps)


def bare(recipe: Pretrain, epochs: DataConfig, steps: int, precision: str) -> float:
    """Seconds per step of the shortest loop that trains the network."""
    network = AutoEncoder(architecture_of(recipe), mean=recipe.mean, std=recipe.std, init="he")
    channels_last(network).train()
    optimizer = torch.optim.Adam(network.parameters(), recipe.lr, fused=True)
    batch = torch.rand(epochs.batch, 3, epochs.crop, epochs.crop)
    batch = batch.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            restored = network(batch)
        (restored.float() - batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return _timed(step, steps)


def limit(precision: str, steps: int) -> float:
    """Operations per second of a 3x3 convolution, 96 to 96 channels, batch 64 of 29 x 29, forward and backward."""
    conv = channels_last(nn.Conv2d(96, 96, 3, padding=1, bias=False))
    x = torch.rand(64, 96, 29, 29).contiguous(memory_format=torch.channels_last).requires_grad_()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            y = conv(x)
        y.backward(y.detach())

    return 3 * 2 * 9 * 96 * 96 * 29 * 29 * 64 / _timed(step, 4 * steps)


def _timed(step: Callable[[], None], steps: int) -> float:
    """Median seconds of a call."""
    for _ in range(3):
        step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@click.command()
@click.option("--network", type=click.Choice(["network-1", "network-2", "network-3"]), multiple=True)
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
@click.option("--batch", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--threads", type=click.IntRange(min=1))
def main(
    network: tuple[str, ...], steps: int, precision: TrainingPrecision, batch: int | None, threads: int | None
) -> None:
    """Measure training on the CPU."""
    if threads:
        torch.set_num_threads(threads)
    chosen = choose_training_precision(precision, "cpu")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {chosen}")
    for name, recipe in recipes().items():
        if (network and name not in network) or recipe.epochs is None:
            continue
        epochs = replace(recipe.epochs, batch=batch or recipe.epochs.batch)
        size = epochs.batch
        with tempfile.TemporaryDirectory() as folder:
            shortest = bare(recipe, epochs, steps, chosen)
            took, more = ours(recipe, epochs, Path(folder), steps, chosen)
            ratios = [(shortest / took, LOOP)]
            print(
                f"{name}, n = {architecture_of(recipe).n}, batch {size}: {size / took:.1f} images/s, bare loop "
                f"{size / shortest:.1f}: ratio {shortest / took:.2f} (at least {LOOP})"
            )
            if name == "network-2":
                rate, most = flop(architecture_of(recipe), epochs.crop) * size / took, limit(chosen, steps)
                ratios.append((rate / most, LIMIT))
                print(f"  {rate / 1e9:.0f} GFLOP/s of {most / 1e9:.0f}: ratio {rate / most:.2f} (at least {LIMIT})")
            if any(ratio < least for ratio, least in ratios):
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                    more()
                print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


if __name__ == "__main__":
    main()
