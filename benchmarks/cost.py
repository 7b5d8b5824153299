"""What the paper's tables cost: the arithmetic of every run that ``skipae-train reproduce`` makes, none of them run.

    python benchmarks/cost.py              # five repetitions each, all results that are tables of accuracies
    python benchmarks/cost.py --seeds 3

Forward and backward passes of training are counted, by torch's own counter; tests and validation are not, they add
a few percent.  Hours are the arithmetic divided by a rate.  ``--rate`` is the one of two CPU cores, by default what
``python benchmarks/training.py --network network-2`` measured; ``--gpu-rate`` and ``--price`` are assumptions.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from skipae_train.feed import Epochs
from skipae_train.finetune import Finetune
from skipae_train.loop import Session
from skipae_train.networks import AutoEncoder, Classifier, Segmenter
from skipae_train.pretrain import Pretrain
from skipae_train.recipes.budgets import Budget
from skipae_train.reproduce import RESULTS, Bench, Scores
from skipae_zoo import Architecture, Head

TABLES = ("table1", "table2", "table3", "table4", "table5", "fig4")
IMAGES = {
    "cifar10": 50_000,
    "cifar100": 50_000,
    "stl10": 100_000,
    "imagenet": 1_281_167,
    "tiny-imagenet": 100_000,
    "voc07": 5_011,
    "voc12": 1_464,
    "camvid": 367,
}
"""Images of the whole training sets; of STL-10 the unlabelled ones."""
CLASSES = {"cifar100": 100, "voc07": 20, "voc12": 21, "camvid": 11}
FOLD = 1000
"""Images of a fold of STL-10."""


class Counted(Bench):
    """Runs nothing, but counts the operations of what would be run."""

    def __init__(self, budget: Budget, seeds: int, folder: Path) -> None:
        super().__init__(budget, seeds, folder, folder, Session(device="cpu"))
        self.operations: dict[Path, float] = {}

    def pretrain(self, recipe: Pretrain, out: Path) -> None:
        """Count a pre-training."""
        if recipe.epochs is None:
            raise ValueError(f"{recipe.name} does not train on a set")
        each = operations(recipe.architecture, None, 0, recipe.epochs.crop)
        self.operations[out] = each * images(recipe.epochs) * recipe.epochs.count

    def finetune(self, recipe: Finetune, out: Path, start: Path | None) -> Scores:
        """Count a fine-tuning."""
        epochs = recipe.epochs
        each = operations(recipe.architecture, recipe.head, CLASSES.get(epochs.data, 10), epochs.crop)
        count = FOLD if recipe.fold is not None else recipe.labelled or images(epochs)
        self.operations[out] = each * count * epochs.count
        return {"value": 0.0, "classes": {}}


@cache
def operations(architecture: Architecture, head: Head | None, classes: int, crop: int) -> float:
    """Of training on one image: forward and backward."""
    with torch.device("meta"):
        network: torch.nn.Module
        if head is None:
            network = AutoEncoder(architecture)
        elif head.kind == "decoder":
            network = Segmenter(architecture, classes, head=head)
        else:
            network = Classifier(architecture, classes, head, crop=crop)
        batch = torch.empty(2, 3, crop, crop)
    with FlopCounterMode(display=False) as counter:
        network.train()(batch).sum().backward()
    return counter.get_total_flops() / len(batch)


def images(epochs: Epochs) -> int:
    """Images of an epoch."""
    whole = next(count for name, count in IMAGES.items() if epochs.data in (name, f"{name}-animal", f"{name}-vehicle"))
    return min(epochs.samples or whole, whole)


@click.command()
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--rate", default=326.0, show_default=True, help="GFLOP/s of two cores.")
@click.option("--gpu-rate", default=200.0, show_default=True, help="TFLOP/s of a GPU, sustained.")
@click.option("--price", default=3.0, show_default=True, help="US dollars per GPU hour.")
def main(seeds: int, rate: float, gpu_rate: float, price: float) -> None:
    """Print a table in Markdown."""
    print("| result | runs | cpu budget: PFLOP | hours, two cores | paper budget: PFLOP | GPU hours | US dollars |")
    print("| --- " * 7 + "|")
    for name in TABLES:
        cells = [name]
        for budget in ("cpu", "paper"):
            bench = Counted(budget, seeds, Path(name))
            RESULTS[name].make(bench)
            total = sum(bench.operations.values())
            if budget == "cpu":
                cells += [str(len(bench.operations)), f"{total / 1e15:,.1f}", f"{total / rate / 3.6e12:,.1f}"]
            else:
                hours = total / gpu_rate / 3.6e15
                cells += [f"{total / 1e15:,.0f}", f"{hours:,.1f}", f"{hours * price:,.0f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
