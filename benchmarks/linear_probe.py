"""Accuracy of a linear classifier on frozen features, layer by layer.

    python benchmarks/linear_probe.py runs/imagenet --set cifar10 --side 64 --data DATA
    python benchmarks/linear_probe.py model_cards/skipae-imagenet --set voc07 --side 128 --data DATA
    python benchmarks/linear_probe.py --hog --rival NAME=FILE.onnx --set cifar10 --side 64 --data DATA

Each NETWORK, a run folder or a checkpoint, is compared with the same encoder at random weights (He; its batch norm has
seen training images) and with raw pixels.  Features are those of ``skipae features``: a layer after ReLU, averaged over
its height and width (``avg``), or in a grid of 2 x 2 (``grid``).  They are scaled to unit deviation, and a softmax
regression (for voc07 a logistic regression per class) is fitted to nine tenths of the training images by L-BFGS.  Its
weight decay, and the layer in the last lines, are those that do best on the other tenth; then the test images are
read.  Scores are accuracy in percent, or VOC 2007's mean average precision.

``--hog`` adds histograms of oriented gradients of the same images (``pip install scikit-image``): 9 orientations in
cells of 8 or 16 pixels, normalized in blocks of 2 x 2 cells; the size of the cells is chosen like a layer.  ``--rival``
adds another network, an ONNX file with one input, RGB in [0, 1], float32 [N, 3, H, W] for any N, H and W.  Each of its
outputs is probed, or each named VALUE inside the graph: maps like layers, vectors as they are.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import skipae_train
from skipae_train.datasets import ImageSet, StreamedSet, View, batch_indices, hold_out
from skipae_train.feed import DataConfig, open_set
from skipae_train.finetune import load_network
from skipae_train.machine import Machine, RunOptions
from skipae_train.metrics import accuracy, mean_average_precision
from skipae_train.networks import Network
from skipae_train.run_folder import require_finished
from skipae_zoo import LayerSpec

DECAYS = (1e-1, 1e-2, 1e-3, 1e-4)
"""Weights of half the squared norm of the classifier, beside the mean loss."""
STEPS = 60
"""Iterations of L-BFGS for each of them, each from the last one's solution."""
PIXELS = 32
"""Side of the images whose raw pixels are classified."""
CELLS = (8, 16)
"""Sides of the cells of HOG."""
Features = dict[tuple[str, str], Tensor]
"""By layer and pooling."""
Describe = Callable[[Tensor], Features]
"""Features of a batch of images, float32 [B, 3, H, W] in [0, 1]."""


@torch.inference_mode()
def extract(images: ImageSet, side: int, describe: Describe) -> Features:
    """Features of the center squares of all images, scaled to ``side``, float32 [N, D]."""
    found: Features = {}
    first = 0
    for pixels in squares(images, side):
        for key, rows in describe(pixels).items():
            if key not in found:
                found[key] = torch.empty(len(images), rows.shape[1])
            found[key][first : first + len(rows)] = rows
        first += len(pixels)
    return found


def pooled(layers: dict[str, Tensor]) -> Features:
    """Averages of maps [B, C, H, W] over everything and in a grid of 2 x 2; vectors [B, D] as they are."""
    values: Features = {}
    for name, layer in layers.items():
        if layer.dim() == 2:
            values[name, ""] = layer
        else:
            values[name, "avg"] = layer.float().mean((2, 3))
            values[name, "grid"] = F.adaptive_avg_pool2d(layer.float(), 2).flatten(1)
    return values


def raw(pixels: Tensor) -> Features:
    """The pixels themselves."""
    return {("pixels", ""): pixels.flatten(1)}


def layers_of(network: Network, machine: Machine) -> Describe:
    """All layers of an encoder."""

    def describe(pixels: Tensor) -> Features:
        with machine.autocast():
            return pooled(network.features(pixels.contiguous(memory_format=torch.channels_last)))

    return describe


def histograms(side: int) -> Describe:
    """Histograms of oriented gradients, for each of :data:`CELLS`."""
    try:
        from skimage.feature import hog
    except ImportError as error:
        raise click.UsageError("--hog needs scikit-image: pip install scikit-image") from error
    if side < 2 * max(CELLS):
        raise click.BadParameter(f"{side} is too small for --hog; use {2 * max(CELLS)} or more", param_hint="--side")

    def describe(pixels: Tensor) -> Features:
        images = pixels.permute(0, 2, 3, 1).numpy()
        rows = {
            cell: [hog(image, pixels_per_cell=(cell, cell), cells_per_block=(2, 2), channel_axis=2) for image in images]
            for cell in CELLS
        }
        return {(f"cells of {cell}", ""): torch.from_numpy(np.stack(found)) for cell, found in rows.items()}

    return describe


def outputs_of(text: str) -> tuple[str, Describe]:
    """The name and the outputs of another network, from NAME=FILE.onnx[:VALUE,...]."""
    import onnx
    import onnxruntime

    from skipae.engine.onnx_subgraph import cut

    name, _, rest = text.partition("=")
    file, _, names = rest.partition(".onnx:")
    path = Path(f"{file}.onnx" if names else rest)
    if not (name and path.is_file()):
        raise click.BadParameter(f"{text} does not name a file; use NAME=FILE.onnx[:VALUE,...]", param_hint="--rival")
    model = onnx.load(path)
    values = names.split(",") if names else [output.name for output in model.graph.output]
    made = {output for node in model.graph.node for output in node.output}
    if missing := [value for value in values if value not in made]:
        raise click.BadParameter(f"{path} has no value {', '.join(missing)}", param_hint="--rival")
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
    session = onnxruntime.InferenceSession(cut(model.SerializeToString(), values), providers=["CPUExecutionProvider"])
    (first,) = session.get_inputs()

    def describe(pixels: Tensor) -> Features:
        arrays = session.run(values, {first.name: pixels.numpy()})
        return pooled({value: torch.from_numpy(array) for value, array in zip(values, arrays, strict=True)})

    return name, describe


def squares(images: ImageSet, side: int) -> Iterator[Tensor]:
    """Batches of the center squares of all images, scaled to ``side``, float32 [B, 3, side, side] in [0, 1]."""
    crop = images.short_side if isinstance(images, StreamedSet) else min(images.images.shape[-2:])
    for batch in images.batches(batch_indices(len(images), max(8, 2**18 // side**2), shuffle=False), View(crop)):
        pixels = batch.images.float() / 255
        if crop != side:
            pixels = F.interpolate(pixels, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        yield pixels


@torch.inference_mode()
def randomize(network: Network, images: ImageSet, side: int) -> Network:
    """The network with random weights, its batch norm at the statistics of up to 1,000 images."""
    torch.manual_seed(0)
    network.initialize("he")
    for module in network.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    for pixels in squares(images.subset(torch.arange(len(images))[:1000]), side):
        network.features(pixels)
    return network.eval()


def fit(features: Tensor, labels: Tensor, held: Tensor, steps: int = STEPS) -> tuple[float, Callable[[Tensor], Tensor]]:
    """The best score on ``held`` of classifiers fitted to the others, and that classifier."""
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held] = False
    mean, std = features[kept].mean(0), features[kept].std(0).clamp(min=1e-6)
    x, y, several = (features - mean) / std, labels, labels.dim() == 2
    train, target, known = x[kept], y[kept], y[kept] >= 0
    weight = torch.zeros(x.shape[1] + 1, y.shape[1] if several else int(y.max()) + 1, requires_grad=True)
    best = (-1.0, weight.detach())
    for decay in DECAYS:
        optimizer = torch.optim.LBFGS([weight], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

        def loss(decay: float = decay, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            logits = train @ weight[:-1] + weight[-1]
            if several:
                each = F.binary_cross_entropy_with_logits(logits, target.clamp(min=0).float(), reduction="none")
                value = (each * known).sum() / known.sum()
            else:
                value = F.cross_entropy(logits, target)
            value = value + decay / 2 * weight[:-1].square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        found = weight.detach().clone()
        best = max(best, (score(x[held] @ found[:-1] + found[-1], y[held]), found), key=lambda pair: pair[0])
    chosen = best[1]
    return best[0], lambda other: (other - mean) / std @ chosen[:-1] + chosen[-1]


def score(logits: Tensor, labels: Tensor) -> float:
    """Accuracy, or mean average precision, in percent."""
    return 100 * (accuracy(logits, labels) if labels.dim() == 1 else mean_average_precision(logits, labels)[0])


def load(source: Path) -> Network:
    """The network of a run folder or a checkpoint."""
    if not (source / "state.pt").exists():
        return skipae_train.load(source)
    require_finished(source)
    return load_network(source)[0]


def add(path: Path, data_set: str, layer: str, pooling: str, images: int, value: float) -> None:
    """Write a score where ``skipae-train card`` reads it, in place of an earlier one."""
    rows = json.loads(path.read_text()) if path.exists() else []
    measure = "mAP" if data_set == "voc07" else "accuracy"
    rows = [row for row in rows if (row["set"], row.get("metric", "").split(",")[0]) != (data_set, measure)]
    metric = f"{measure}, %, of a linear probe on {layer}, pooled to {'2 x 2' if pooling == 'grid' else 'its mean'}"
    rows.append({"set": data_set, "metric": metric, "images": images, "mean": value})
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=2) + "\n")


@click.command()
@click.argument("networks", metavar="[NETWORK]...", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--set", "data_set", type=click.Choice(["cifar10", "voc07"]), required=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--side", type=click.IntRange(min=8), required=True, help="Pixels that images are scaled to.")
@click.option("--hog", is_flag=True, help="Add histograms of oriented gradients (scikit-image).")
@click.option("--rival", "rivals", metavar="NAME=FILE.onnx[:VALUE,...]", multiple=True, help="Add another network.")
@click.option("--out", type=click.Path(path_type=Path), help="A CSV file of all scores.")
@click.option("--steps", type=click.IntRange(min=1), default=STEPS, show_default=True, help="Iterations of L-BFGS.")
@click.option("--record", is_flag=True, help="Add the best layer's score to each NETWORK's training/metrics.json.")
def main(
    networks: tuple[Path, ...],
    data_set: str,
    data: Path,
    side: int,
    hog: bool,
    rivals: tuple[str, ...],
    out: Path | None,
    steps: int,
    record: bool,
) -> None:
    """Probe networks, print a table in Markdown, and for each network the layer to take."""
    epochs = DataConfig(data=data_set, count=1, batch=1, crop=side, short_side=max(side, PIXELS))
    train, test = open_set(epochs, data, "train"), open_set(epochs, data, "test")
    truth, expected = train.labels, test.labels
    if truth is None or expected is None:
        raise click.UsageError(f"{data_set} has no labels")
    machine = RunOptions(device="cpu").machine()
    held = hold_out(len(train), len(train) // 10, 0)[1]
    sources: list[tuple[str, int, Describe]] = [("raw pixels", PIXELS, raw)]
    if hog:
        sources.append(("HOG", side, histograms(side)))
    sources += [(name, side, describe) for name, describe in map(outputs_of, rivals)]
    encoders: list[tuple[LayerSpec, ...]] = []
    for path in networks:
        trained = load(path)
        sources.append((path.name, side, layers_of(trained, machine)))
        if trained.architecture.layers not in encoders:
            encoders.append(trained.architecture.layers)
            random = randomize(load(path), train, side)
            sources.append((f"{path.name}, random weights", side, layers_of(random, machine)))
    rows = []
    print(f"{len(train) - len(held)} training images of {data_set}, {len(test)} test images, {side} pixels\n")
    print("| features | layer | pooling | numbers | held out | test |\n| --- | --- | --- | --- | --- | --- |")
    for label, pixels, describe in sources:
        found, unseen = (extract(images, pixels, describe) for images in (train, test))
        for (layer, pooling), features in found.items():
            validation, classify = fit(features, truth, held, steps)
            result = score(classify(unseen[layer, pooling]), expected)
            rows.append((label, layer, pooling, features.shape[1], round(validation, 2), round(result, 2)))
            print("| " + " | ".join(map(str, rows[-1])) + " |", flush=True)
    print()
    if out is not None:
        with out.open("w", newline="") as file:
            csv.writer(file).writerows([("features", "layer", "pooling", "numbers", "held out", "test"), *rows])
    for label, _, _ in sources:
        best = max((row for row in rows if row[0] == label), key=lambda row: row[4])
        print(f"{label}: {best[5]:.1f} % with {best[1]} {best[2]}, chosen by the held-out images")
        for path in networks:
            if record and path.name == label:
                add(path / "training" / "metrics.json", data_set, best[1], best[2], len(test), best[5])


if __name__ == "__main__":
    main()
