"""Time by type of operator, of the float32 and int8 graphs of checkpoints, from ONNX Runtime's profile.

    python benchmarks/operators.py [CHECKPOINT ...] [--features] [--by-rows] [--size 512] [--threads 1] [--runs 10]

Prints for each graph the milliseconds of all nodes of a type in one run, their share, and their number, after ONNX
Runtime's own rewriting: layout reorders (ReorderInput, ReorderOutput), and pairs of QuantizeLinear and DequantizeLinear
that were not fused, appear as operators of their own.  Graphs run alternately, and the fastest run of each counts.  To
compare before and after a change of the export, pass both checkpoints.  ``--features`` profiles the encoder up to the
default layer.  ``--by-rows`` adds the float32 graph without DepthToSpace (see :func:`by_rows`), and prints the ratio of
its least processor time to that of the graph as it is, which other programs affect less.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
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

    def __init__(self, name: str, file: str, size: int, threads: int, folder: Path, rewritten: bool = False) -> None:
        checkpoint = find_folder(name)
        config = load_config(checkpoint)
        content = verified_file(checkpoint, config, file).read_bytes()
        if rewritten:
            content = by_rows(content, {layer.name: layer.total_stride for layer in config.architecture.layers})
        if file in (FEATURES, QUANTIZED_FEATURES):
            content = cut(content, (config.default_layer or config.architecture.layers[-1].name,))
        runtime = load_runtime()
        options = session_options(runtime, Device("cpu", threads=threads))
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / f"{len(list(folder.iterdir()))}")
        self.session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        sides = [side if isinstance(side, int) else size for side in self.session.get_inputs()[0].shape[2:]]
        self.image = np.random.default_rng(0).random((1, 3, *sides), np.float32)
        self.seconds: list[float] = []
        """Processor time of each run."""

    def run(self) -> Any:
        """Run the graph once, and return its first output."""
        started = time.process_time()
        found = self.session.run(None, {INPUT: self.image})[0]
        self.seconds.append(time.process_time() - started)
        return found

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


def by_rows(content: bytes, strides: dict[str, int]) -> bytes:
    """Return a float32 graph whose deconvolutions are woven by rows instead of by DepthToSpace.

    The 2x2 convolution of the four phases becomes two, one for each row of a block of 2 x 2 pixels, of which the upper
    has no lower taps.  Their rows are joined with the channels last, where a block's row is contiguous and a shortcut
    is added too: ONNX Runtime makes one node of such a Transpose and the change of layout that is there anyway.
    Heights and widths are computed from the image's, not from activations, whose layout would be changed for it.

    Args:
        content: an ONNX file of ``skipae-train export``, with shortcuts that join after ReLU.
        strides: total stride of each layer, by name.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(content)
    old = list(model.graph.node)
    made = {node.output[0]: node for node in old}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes: list[Any] = []
    last: dict[str, str] = {}
    """Names of tensors with the channels last."""

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(name: str, value: Any) -> str:
        if name not in stored:
            stored[name] = np.asarray(value)
            model.graph.initializer.append(numpy_helper.from_array(stored[name], name))
        return name

    def size(stride: int) -> str:
        name = f"size.{stride}"
        if not any(node.output[0] == name for node in nodes):
            whole = add("Shape", [INPUT], f"{name}.whole", start=2, end=4)
            above = add("Add", [whole, constant(f"less.{stride}", [stride - 1])], f"{name}.above")
            add("Div", [above, constant(f"stride.{stride}", [stride])], name)
        return name

    def weave(name: str, convolution: Any, stride: int) -> None:
        x, *weights = convolution.input
        kernels, bias = (stored[made[each].input[0] if each in made else each].astype(np.float32) for each in weights)
        half = len(bias) // 2
        rows = []
        for row, part in enumerate((kernels[:half, :, :1], kernels[half:])):
            inputs = [x, constant(f"{name}.{row}.w", part), constant(f"{name}.{row}.b", bias[row * half :][:half])]
            add("Conv", inputs, f"{name}.{row}", kernel_shape=part.shape[2:], pads=[0, 0, row, 1])
            add("Relu", [f"{name}.{row}"], f"{name}.{row}.relu")
            add("Transpose", [f"{name}.{row}.relu"], f"{name}.{row}.last", perm=[0, 2, 3, 1])
            rows.append(add("Unsqueeze", [f"{name}.{row}.last", constant("two", [2])], f"{name}.{row}.row"))
        add("Concat", rows, f"{name}.rows", axis=2)  # [N, H, 2, W, 2C]
        add("Mul", [size(2 * stride), "two"], f"{name}.size")
        shape = [constant("zero", [0]), f"{name}.size", constant(f"{name}.channels", [half // 2])]
        add("Concat", shape, f"{name}.shape", axis=0)
        last[name] = add("Reshape", [f"{name}.rows", f"{name}.shape"], f"{name}.last")  # [N, 2H, 2W, C]

    for node in old:
        name, x = node.output[0], node.input[0]
        if node.op_type == "DepthToSpace":
            weave(name, made[made[x].input[0]], strides[f"enc{int(name.split('.')[0][3:]) - 1}"])
        elif node.op_type == "Shape" and x.split(".")[0] in strides:
            add("Identity", [size(strides[x.split(".")[0]])], name)
        elif node.op_type == "Slice" and x in last:
            last[name] = add("Slice", [last[x], *node.input[1:3], constant("inner", [1, 2])], f"{name}.last")
            add("Transpose", [last[name]], name, perm=[0, 3, 1, 2])
        elif node.op_type == "Add" and x in last:
            shortcut = add("Transpose", [node.input[1]], f"{name}.shortcut", perm=[0, 2, 3, 1])
            add("Transpose", [add("Add", [last[x], shortcut], f"{name}.last")], name, perm=[0, 3, 1, 2])
        else:
            nodes.append(node)
    needed = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(reversed(kept))
    onnx.checker.check_model(model, full_check=True)
    written: bytes = model.SerializeToString()
    return written


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
    parser.add_argument("--by-rows", action="store_true", help="also the float32 graph without DepthToSpace")
    parser.add_argument("--size", type=int, default=512, help="side of the image, where the graph takes any")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    files = {"fp32": FEATURES, "int8": QUANTIZED_FEATURES} if arguments.features else {"fp32": GRAPH, "int8": QUANTIZED}
    chosen = {
        f"{name} {precision}": (name, file)
        for name in arguments.checkpoints
        for precision, file in files.items()
        if file in load_config(find_folder(name)).files
    }
    rewritten = {f"{row} by rows": row for row, (_, file) in chosen.items() if arguments.by_rows and file == GRAPH}
    with tempfile.TemporaryDirectory() as temporary:
        graphs = {
            row: Profiled(
                *chosen[rewritten.get(row, row)], arguments.size, arguments.threads, Path(temporary), row in rewritten
            )
            for row in (*chosen, *rewritten)
        }
        if not graphs:
            parser.error(f"none of the checkpoints has {' or '.join(files.values())}; use another one")
        for _ in range(arguments.runs + 1):
            for graph in graphs.values():
                graph.run()
        profiles = {name: graph.end() for name, graph in graphs.items()}
    print(*table(profiles), sep="\n")
    for row, plain in rewritten.items():
        away = float(np.abs(graphs[row].run() - graphs[plain].run()).max())
        ratio = min(graphs[row].seconds) / min(graphs[plain].seconds)
        print(f"{row}: {ratio:.3f} of the processor time, values differ by {away:.1g}")


if __name__ == "__main__":
    main()
