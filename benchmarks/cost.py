"""Cost of the paper's tables: the operations of every run of ``skipae-train reproduce``, without running any.

    python benchmarks/cost.py              # five repetitions each, all results that are tables of accuracies
    python benchmarks/cost.py --seeds 3

Forward and backward passes of training are counted, by torch's own counter; tests and validation are not, they add
a few percent.  Hours are the arithmetic divided by a rate.  ``--rate`` is the one of two CPU cores, by default what
``python benchmarks/training.py --network network-2`` measured; ``--gpu-rate`` and ``--price`` are assumptions.
"""

from __future__ import annotations

import click

from skipae_train.cost import CPU_RATE, training_operations
from skipae_train.recipe import Budget
from skipae_train.recipes import load_recipe
from skipae_train.reproduce import list_runs

TABLES = ("table1", "table2", "table3", "table4", "table5", "fig4")


def total(name: str, budget: Budget, seeds: int) -> tuple[int, float]:
    """How many runs a result has, and their arithmetic."""
    costs = [training_operations(load_recipe(identity)) for identity in list_runs(name, budget, seeds)]
    return len(costs), sum(cost for cost in costs if cost is not None)


@click.command()
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--rate", default=CPU_RATE / 1e9, show_default=True, help="GFLOP/s of two cores.")
@click.option("--gpu-rate", default=200.0, show_default=True, help="TFLOP/s of a GPU, sustained.")
@click.option("--price", default=3.0, show_default=True, help="US dollars per GPU hour.")
def main(seeds: int, rate: float, gpu_rate: float, price: float) -> None:
    """Print a table in Markdown."""
    print("| result | runs | cpu budget: PFLOP | hours, two cores | paper budget: PFLOP | GPU hours | US dollars |")
    print("| --- " * 7 + "|")
    for name in TABLES:
        cells = [name]
        runs, cpu = total(name, "cpu", seeds)
        cells += [str(runs), f"{cpu / 1e15:,.1f}", f"{cpu / rate / 3.6e12:,.1f}"]
        paper = total(name, "paper", seeds)[1]
        hours = paper / gpu_rate / 3.6e15
        cells += [f"{paper / 1e15:,.0f}", f"{hours:,.1f}", f"{hours * price:,.0f}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
