"""Time by type of operator, of the float32 and int8 graphs of checkpoints, from ONNX Runtime's profile.

    python benchmarks/operators.py [CHECKPOINT ...] [--features] [--size 512] [--threads 1] [--runs 10]

Prints for each graph the milliseconds of all nodes of a type in one run, their share, and their number, after ONNX
Runtime's own rewriting: layout reorders (ReorderInput, ReorderOutput), and pairs of QuantizeLinear and DequantizeLinear
that were not fused, appear as operators of their own.  Graphs run alternately, and the fastest run of each counts.  To
compare before and after a change of the export, pass both checkpoints.  ``--features`` profiles the encoder up to the
default layer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skipae.checkpoints.resolve import find_folder, load_config
from skipae.engine.device import Device, load_runtime, session_options
from skipae.engine.onnx_subgraph import cut
from skipae_zoo import FEATURES, GRAPH, INPUT, QUANTIZED, QUANTIZED_FEATURES, verified_file


@dataclass
class Operators:
    """What the nodes of a type take in one run."""

    milliseconds: float = 0.0
    nodes: int = 0


@dataclass(frozen=True)
class Profile:
    """One run of a graph."""

    milliseconds: float
    """Duration of the whole run."""
    operators: dict[str, Operators]
    """What each type of operator takes."""


class Profiled:
    """A graph of a checkpoint in a session that records a profile."""

    def __init__(self, name: str, file: str, size: int, threads: int, folder: Path) -> None:
        checkpoint = find_folder(name)
        config = load_config(checkpoint)
        content = verified_file(checkpoint, config, file).read_bytes()
        if file in (FEATURES, QUANTIZED_FEATURES):
            content = cut(content, (config.default_layer or config.architecture.layers[-1].name,))
        runtime = load_runtime()
        options = session_options(runtime, Device("cpu", threads=threads))
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / f"{len(list(folder.iterdir()))}")
        self.session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        sides = [side if isinstance(side, int) else size for side in self.session.get_inputs()[0].shape[2:]]
        self.image = np.random.default_rng(0).random((1, 3, *sides), np.float32)

    def run(self) -> None:
        """Run the graph once."""
        self.session.run(None, {INPUT: self.image})

    def end(self) -> Profile:
        """Return the fastest run but the first."""
        events = json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
        runs = sorted((event for event in events if event["name"] == "model_run"), key=lambda event: event["ts"])[1:]
        best = min(runs, key=lambda event: event["dur"])
        found: dict[str, Operators] = defaultdict(Operators)
        for event in events:
            if event["name"].endswith("_kernel_time") and _is_within(event, best):
                row = found[event["args"]["op_name"]]
                row.milliseconds += event["dur"] / 1000
                row.nodes += 1
        return Profile(best["dur"] / 1000, dict(found))


def _is_within(event: dict[str, Any], run: dict[str, Any]) -> bool:
    return bool(run["ts"] <= event["ts"] <= run["ts"] + run["dur"])


def table(profiles: dict[str, Profile]) -> list[str]:
    """Lines in Markdown, the operators that take longest first."""
    shares: dict[str, float] = defaultdict(float)
    for profile in profiles.values():
        for kind, row in profile.operators.items():
            shares[kind] = max(shares[kind], row.milliseconds / profile.milliseconds)
    lines = [
        f"| operator | {' | '.join(f'{name}: ms | share | nodes' for name in profiles)} |",
        f"| --- |{' --- | --- | --- |' * len(profiles)}",
    ]
    for kind in sorted(shares, key=lambda kind: -shares[kind]):
        cells = []
        for profile in profiles.values():
            row = profile.operators.get(kind, Operators())
            share = f"{row.milliseconds / profile.milliseconds:.1%}"
            cells.append(f"{row.milliseconds:.2f} | {share} | {row.nodes}" if row.nodes else " | | ")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    totals = []
    for profile in profiles.values():
        nodes = sum(row.nodes for row in profile.operators.values())
        totals.append(f"{profile.milliseconds:.2f} | 100.0% | {nodes}")
    return [*lines, f"| whole run | {' | '.join(totals)} |"]


def main() -> None:
    """Profile the graphs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", default=["skipae-natural"], metavar="CHECKPOINT")
    parser.add_argument("--features", action="store_true", help="the encoder, instead of the task's graph")
    parser.add_argument("--size", type=int, default=512, help="side of the image, where the graph takes any")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    files = {"fp32": FEATURES, "int8": QUANTIZED_FEATURES} if arguments.features else {"fp32": GRAPH, "int8": QUANTIZED}
    with tempfile.TemporaryDirectory() as temporary:
        graphs = {
            f"{name} {precision}": Profiled(name, file, arguments.size, arguments.threads, Path(temporary))
            for name in arguments.checkpoints
            for precision, file in files.items()
            if file in load_config(find_folder(name)).files
        }
        if not graphs:
            parser.error(f"none of the checkpoints has {' or '.join(files.values())}; use another one")
        for _ in range(arguments.runs + 1):
            for graph in graphs.values():
                graph.run()
        profiles = {name: graph.end() for name, graph in graphs.items()}
    print(*table(profiles), sep="\n")


if __name__ == "__main__":
    main()
