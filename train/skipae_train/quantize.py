"""Quantize a checkpoint: calibrate the int8 forms of its graphs, measure what they lose, write those that lose little.

How a graph is rewritten is in :mod:`skipae_train.int8_graph`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from skipae import Model, from_pretrained
from skipae.engine.tiling import to_net
from skipae.errors import SkipaeError
from skipae.files import write_atomically
from skipae.tasks.pixels import prepare
from skipae_train.data import DataError, find_images, load_rgb
from skipae_train.datasets import voc_segmentation
from skipae_train.evaluate import add_noise
from skipae_train.export import session
from skipae_train.int8_graph import Calibration, Float, Graph, rounding
from skipae_train.metrics import confusion, mean_iou, psnr
from skipae_train.run_folder import read_json, write_json
from skipae_zoo import (
    FEATURES,
    GRAPH,
    QUANTIZED,
    QUANTIZED_FEATURES,
    CheckpointConfig,
    read_config,
    sha256,
    verified_file,
    write_config,
)

GraphKind = Literal["model", "features"]
"""The graph that does the checkpoint's task, and the encoder."""

FILES: dict[GraphKind, tuple[str, str]] = {"model": (GRAPH, QUANTIZED), "features": (FEATURES, QUANTIZED_FEATURES)}
"""The float32 file of each graph, and its int8 file."""

MOST_LOST = {15: 0.03, 25: 0.03, 50: 0.03, 75: 0.1, 100: 0.1}
"""Largest loss in dB by noise level, on photos that were not calibrated on."""

SIGMAS = tuple(MOST_LOST)
CALIBRATION_SIGMAS = (0, 15, 25, 15, 50, 100)
"""Noise levels of the photos to calibrate on, in turn; 15 twice, because int8 loses most there."""

LEAST_AGREEMENT = 0.99
"""Share of the images, or of their pixels, that int8 must give the same class as float32."""
MOST_POINTS = 0.1
"""Largest loss of accuracy or mIoU, in percentage points."""
LEAST_COSINE = 0.99
"""Mean cosine similarity that every layer must have with float32."""
LEAST_NEIGHBORS = 0.9
"""Share of the nearest neighbors by the default layer that int8 must have in common with float32."""
NEIGHBORS = 10
"""Nearest neighbors of each image that are compared."""

BALANCES = (0.75, 0.5)
"""Powers of the channels' ranges that they are divided by, in the order that they are tried."""

LEVELS = {"restoration": 127}
"""Largest magnitude of a weight by task.  Others keep to 63, at which they are exact on every processor and pass."""
_SAFE = 63

_CROPS = 1.2
"""Share of the allowed loss up to which layers are not kept in float32: crops lose more than the photos of the gate."""
_SIDE = 128
"""Side of the crops to calibrate and choose on, in pixels."""
_CALIBRATED, _TRIED, _COMPARED = 96, 24, 200
"""Images that labels and features are calibrated on, chosen by, and compared on, at most."""


class QuantizeError(SkipaeError, RuntimeError):
    """The graph has no int8 form that loses little enough."""


@dataclass(frozen=True)
class PsnrLoss:
    """What int8 loses in restoring images."""

    kind: ClassVar[str] = "psnr"
    sigmas: tuple[float, ...]
    float_psnr: tuple[float, ...]
    """dB of the float graph at each of ``sigmas``."""
    int8_psnr: tuple[float, ...]
    images: int

    @property
    def lost(self) -> dict[float, float]:
        """The loss in dB by noise level."""
        rows = zip(self.sigmas, self.float_psnr, self.int8_psnr, strict=True)
        return {sigma: before - after for sigma, before, after in rows}

    @property
    def flaw(self) -> str | None:
        """What is too much, if anything is."""
        for sigma, lost in self.lost.items():
            if not lost <= (most := MOST_LOST[int(sigma)]):
                return f"{lost:.3f} dB at sigma {sigma:g}, at most {most} are allowed"
        return None

    def __str__(self) -> str:
        """Return one line for people."""
        rows = zip(self.sigmas, self.float_psnr, self.int8_psnr, strict=True)
        each = ", ".join(f"sigma {s:g}: {a:.3f} -> {b:.3f} dB" for s, a, b in rows)
        return f"{each} on {self.images} photos"


@dataclass(frozen=True)
class LabelLoss:
    """What int8 changes in the classes of images, or of their pixels."""

    kind: ClassVar[str] = "labels"
    agreement: float
    """Share of the images, or pixels, with the same class, in [0, 1]."""
    images: int
    metric: str | None = None
    """``accuracy`` or ``mIoU`` where there are labels, both in percent."""
    float_value: float = 0.0
    int8_value: float = 0.0
    labeled: int = 0
    """Images with labels."""

    @property
    def flaw(self) -> str | None:
        """What is too much, if anything is."""
        if not self.agreement >= LEAST_AGREEMENT:
            return f"{1 - self.agreement:.2%} of the classes, at most {1 - LEAST_AGREEMENT:.0%} are allowed"
        lost = self.float_value - self.int8_value
        if not lost <= MOST_POINTS:
            return f"{lost:.2f} points of {self.metric}, at most {MOST_POINTS} are allowed"
        return None

    def __str__(self) -> str:
        """Return one line for people."""
        said = f"{self.agreement:.2%} of the classes are the same on {self.images} images"
        if self.metric is None:
            return said
        return f"{self.metric} {self.float_value:.2f} -> {self.int8_value:.2f} % on {self.labeled} images, {said}"


@dataclass(frozen=True)
class FeatureLoss:
    """What int8 changes in features."""

    kind: ClassVar[str] = "features"
    cosine: dict[str, float]
    """Mean cosine similarity with float32 by layer."""
    neighbors: float
    """Share of the nearest neighbors that are the same, in [0, 1]."""
    images: int
    nearest: int = NEIGHBORS
    """How many neighbors of each image were compared."""

    @property
    def flaw(self) -> str | None:
        """What is too much, if anything is."""
        layer = min(self.cosine, key=self.cosine.__getitem__)
        if not self.cosine[layer] >= LEAST_COSINE:
            return f"too much of {layer}: cosine similarity {self.cosine[layer]:.4f}, at least {LEAST_COSINE} is needed"
        if not self.neighbors >= LEAST_NEIGHBORS:
            return f"{1 - self.neighbors:.0%} of the nearest neighbors, at most {1 - LEAST_NEIGHBORS:.0%} are allowed"
        return None

    def __str__(self) -> str:
        """Return one line for people."""
        layer = min(self.cosine, key=self.cosine.__getitem__)
        return (
            f"cosine similarity of at least {self.cosine[layer]:.4f} ({layer}), {self.neighbors:.1%} of the "
            f"{self.nearest} nearest neighbors are the same, on {self.images} images"
        )


AnyLoss = PsnrLoss | LabelLoss | FeatureLoss


@dataclass(frozen=True)
class Quantized:
    """An int8 graph that :func:`quantize_checkpoint` wrote."""

    file: str
    loss: AnyLoss
    kept: tuple[str, ...]
    """Convolutions that stay in float32."""
    balance: float


def quantize_checkpoint(
    folder: Path,
    photos: Path,
    gate: Path | None = None,
    *,
    graphs: Sequence[GraphKind] = (),
    notify: Callable[[str], None] = lambda text: None,
) -> list[Quantized]:
    """Write the int8 graphs of a checkpoint folder, and their sha256 into config.json.

    Args:
        folder: of the checkpoint, whose float32 graphs are quantized.
        photos: folder of clean photos to calibrate on, searched recursively; those that ``gate`` holds are left out.
        gate: folder of other photos, on which the loss is measured; by default every fourth of ``photos``, which is
            then not calibrated on.  For a classifier, folders named as its classes give the accuracy too; for a
            segmenter, masks in VOC's layout, of which those of ``val`` are taken, the mIoU.
        graphs: which ones; by default all that the checkpoint has.
        notify: is called with a line for each step.

    Raises:
        QuantizeError: int8 loses more than is allowed, or the checkpoint lacks the graph; nothing is written then.
        DataError: there are too few photos, or they are too small.
    """
    config = read_config(folder)
    wanted = list(graphs) or [kind for kind, (file, _) in FILES.items() if file in config.files]
    lacking = [FILES[kind][0] for kind in wanted if FILES[kind][0] not in config.files]
    if lacking or not wanted:
        raise QuantizeError(f"{config.name} has no {lacking[0] if lacking else GRAPH}: export the checkpoint with it")
    files, held = _split(photos, gate)
    done = []
    for kind in wanted:
        task = config.task if kind == "model" else "features"
        graph = Graph(onnx.load(verified_file(folder, config, FILES[kind][0])))
        images, trial = (_restoration if task == "restoration" else _likeness)(graph, config, files)
        levels = LEVELS.get(task, _SAFE)
        kept, balance, model = _choose(graph, Calibration(graph, images), trial, levels, config.name, notify)
        if task == "restoration":
            loss: AnyLoss = _gate(folder, config, model, held)
        else:
            with _both(folder, config, model, kind) as (exact, int8):
                if task == "features":
                    loss = _compare_features(exact, int8, held)
                elif task == "classification":
                    loss = _compare_classes(exact, int8, held)
                else:
                    loss = _compare_masks(exact, int8, held, gate)
        notify(f"{config.name}, {FILES[kind][1]}: {loss}")
        if loss.flaw is not None:
            raise QuantizeError(
                f"{config.name}: {FILES[kind][1]} would lose {loss.flaw}: calibrate on more photos, of the kind that "
                "the checkpoint is used on"
            )
        done.append((Quantized(FILES[kind][1], loss, tuple(sorted(kept)), balance), model, levels))
    for result, model, levels in done:
        config = _write(folder, config, model, result, levels)
    return [result for result, _, _ in done]


def _split(photos: Path, gate: Path | None) -> tuple[list[Path], list[Path]]:
    """Return photos to calibrate on, and those to measure the loss on."""
    files = find_images(photos)
    if gate is None:
        files, held = [file for number, file in enumerate(files) if number % 4 != 3], files[3::4]
    elif _has_masks(gate):
        held = list(voc_segmentation(gate, "val").files)
    else:
        held = find_images(gate)
    there = {file.resolve() for file in held}
    files = [file for file in files if file.resolve() not in there]
    if len(files) < 8 or len(held) < 2:
        raise DataError(
            f"{photos}: {len(files)} photos to calibrate on and {len(held)} for the gate are too few; use at least "
            "8 and 2"
        )
    return files, held


def _has_masks(folder: Path) -> bool:
    return (folder / "ImageSets" / "Segmentation").is_dir()


Trial = Callable[[onnx.ModelProto], float]
"""Loss of an int8 graph on a few images, as a share of what is allowed."""


def _choose(
    graph: Graph, calibration: Calibration, trial: Trial, levels: int, name: str, notify: Callable[[str], None]
) -> tuple[frozenset[str], float, onnx.ModelProto]:
    """Return the convolutions to keep in float32, the balance, and the graph that they make."""
    makers = {balance: rounding(graph, calibration, balance=balance, levels=levels) for balance in BALANCES}
    kept: frozenset[str] = graph.in_float
    tried = {balance: trial(make(kept)) for balance, make in makers.items()}
    balance = min(tried, key=tried.__getitem__)
    make = makers[balance]
    lost = tried[balance]
    notify(f"{len(graph.convolutions()) - len(kept)} convolutions in int8: {lost:.0%} of the loss that is allowed")
    while lost > _CROPS:
        rest = [node.output[0] for node in graph.convolutions() if node.output[0] not in kept]
        if len(rest) <= len(kept):
            raise QuantizeError(
                f"{name}: int8 loses {lost:.1f} times what is allowed with half of it in float32: use more photos"
            )
        losses = {output: trial(make(kept | {output})) for output in rest}
        best = min(losses, key=losses.__getitem__)
        kept, lost = kept | {best}, losses[best]
        notify(f"{best} in float32 too: {lost:.0%} of the loss that is allowed")
    return kept, balance, make(kept)


def _restoration(graph: Graph, config: CheckpointConfig, files: Sequence[Path]) -> tuple[list[Float], Trial]:
    """Return noisy crops to calibrate on, and the loss of PSNR on others."""
    chosen = _evenly(files, 48)
    shown = _evenly([file for file in files if file not in chosen] or files, _TRIED)
    crops = [_crop(file, CALIBRATION_SIGMAS[number % len(CALIBRATION_SIGMAS)])[1] for number, file in enumerate(chosen)]
    for crop in crops[::4]:  # holes, as inpainting fills them
        for top, left, side in ((8, 16, 40), (72, 64, 24)):
            hole = np.array(config.preprocessing.fill, np.float32)
            crop[0, :, top : top + side, left : left + side] = hole[:, None, None]
    trials = [(sigma, *_crop(file, sigma)) for file in shown for sigma in SIGMAS]
    before = _psnr(graph.to_model(), trials)

    def lose(model: onnx.ModelProto) -> float:
        after = _psnr(model, trials)
        return max((a - b) / most for a, b, most in zip(before, after, MOST_LOST.values(), strict=True))

    return crops, lose


def _likeness(graph: Graph, config: CheckpointConfig, files: Sequence[Path]) -> tuple[list[Float], Trial]:
    """Return images as the checkpoint takes them, to calibrate on, and how much outputs turn away
    from float32 on others.
    """
    chosen = _evenly(files, _CALIBRATED)
    shown = _evenly([file for file in files if file not in chosen] or files, _TRIED)
    images, others = ([to_net(_prepared(config, file)) for file in each] for each in (chosen, shown))
    exact = session(graph.to_model())
    wanted = [exact.run(None, {graph.image: image}) for image in others]

    def lose(model: onnx.ModelProto) -> float:
        opened = session(model)
        found = [opened.run(None, {graph.image: image}) for image in others]
        likeness = [[_cosine(a, b) for a, b in zip(*pair, strict=True)] for pair in zip(wanted, found, strict=True)]
        return float((1 - np.mean(likeness, axis=0)).max() / (1 - LEAST_COSINE))

    return images, lose


def _evenly(files: Sequence[Path], count: int) -> list[Path]:
    """Return at most ``count`` of the files, evenly spread."""
    count = min(count, len(files))
    return [files[number * len(files) // count] for number in range(count)]


def _crop(file: Path, sigma: float) -> tuple[NDArray[np.uint8], Float]:
    """Return the middle of a photo, uint8 [128, 128, 3], and the same with noise as a graph takes it."""
    clean = load_rgb(file)
    if min(clean.shape[:2]) < _SIDE:
        raise DataError(f"{file} is smaller than {_SIDE} pixels: leave it out")
    clean = _middle(clean, _SIDE)
    return clean, _noisy(clean, sigma, file)


def _middle(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return the middle of an image, of at most ``side`` pixels in height and width."""
    top, left = (max(0, length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _prepared(config: CheckpointConfig, file: Path) -> NDArray[np.uint8]:
    """Return a photo scaled and cropped as the checkpoint takes it; where it takes any size, its middle."""
    resize, crop = config.preprocessing.resize, config.preprocessing.crop
    if config.task == "segmentation":
        crop = None
    pixels = load_rgb(file)
    if resize is None and crop is None:
        return _middle(pixels, 2 * _SIDE)
    if resize is None and crop is not None and min(pixels.shape[:2]) < crop:
        resize = crop
    return cast("NDArray[np.uint8]", prepare(pixels, resize, crop))


def _noisy(clean: NDArray[np.uint8], sigma: float, file: Path) -> Float:
    return to_net(add_noise(clean, sigma, file.stem, clipped=True))


def _cosine(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the cosine similarity of two arrays of one shape; 1 where both are zero."""
    a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length else float(np.array_equal(a, b))


def _psnr(model: onnx.ModelProto | Path, trials: Iterable[tuple[float, NDArray[np.uint8], Float]]) -> list[float]:
    """Return the mean dB at each of :data:`SIGMAS`, in 8 bits."""
    opened = session(model)
    name = opened.get_inputs()[0].name
    scores: dict[float, list[float]] = {sigma: [] for sigma in SIGMAS}
    for sigma, clean, noisy in trials:
        restored = opened.run(None, {name: noisy})[0][0].transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
        pixels = np.rint(np.clip(restored, 0, 1) * 255)
        scores[sigma].append(float(psnr(clean[None], pixels[None], 255)))
    return [float(np.mean(found)) for found in scores.values()]


def _gate(folder: Path, config: CheckpointConfig, model: onnx.ModelProto, files: Sequence[Path]) -> PsnrLoss:
    """Return the loss on whole photos, against the file as it is."""

    def trials() -> Iterator[tuple[float, NDArray[np.uint8], Float]]:
        for file in files:
            clean = load_rgb(file)
            for sigma in SIGMAS:
                yield sigma, clean, _noisy(clean, sigma, file)

    before = _psnr(verified_file(folder, config, GRAPH), trials())
    return PsnrLoss(SIGMAS, tuple(before), tuple(_psnr(model, trials())), len(files))


@contextmanager
def _both(
    folder: Path, config: CheckpointConfig, model: onnx.ModelProto, kind: GraphKind
) -> Iterator[tuple[Model, Model]]:
    """The checkpoint in float32 and in int8, as users load it, before its int8 file is in its folder."""
    exact, int8 = FILES[kind]
    with tempfile.TemporaryDirectory() as place:
        at = Path(place)
        (at / "onnx").mkdir()
        shutil.copyfile(folder / exact, at / exact)
        onnx.save(model, at / int8)
        write_config(at, replace(config, files={name: sha256(at / name) for name in (exact, int8)}))
        yield (
            from_pretrained(at, device="cpu", precision="fp32"),
            from_pretrained(at, device="cpu", precision="int8"),
        )


def _compare_features(exact: Model, int8: Model, files: Sequence[Path]) -> FeatureLoss:
    """Compare every layer, and the nearest neighbors by the default layer."""
    chosen = _evenly(files, _COMPARED)
    layers = [layer.name for layer in exact.layers]
    default = exact.config.default_layer or layers[-1]
    cosine: list[list[float]] = []
    pooled: tuple[list[Any], list[Any]] = ([], [])
    for file in chosen:
        pixels = _prepared(exact.config, file)
        found = [model.features(pixels, layers=layers, pool="none", resize=0, crop=0) for model in (exact, int8)]
        cosine.append([_cosine(found[0][layer], found[1][layer]) for layer in layers])
        for kept, values in zip(pooled, found, strict=True):
            kept.append(values[default][0].mean((1, 2)))
    count = min(NEIGHBORS, max(1, len(chosen) // 5))  # if they were most of the others, they would always be the same
    nearest = [_nearest(np.stack(rows), count) for rows in pooled]
    same = np.mean([len(set(a) & set(b)) / count for a, b in zip(*nearest, strict=True)])
    means = np.mean(cosine, axis=0)
    return FeatureLoss(dict(zip(layers, map(float, means), strict=True)), float(same), len(chosen), count)


def _nearest(rows: NDArray[Any], count: int) -> list[list[int]]:
    """Return the numbers of the ``count`` rows [n, C] that are most like each row."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    found: list[list[int]] = np.argsort(-likeness, 1, kind="stable")[:, :count].tolist()
    return found


def _compare_classes(exact: Model, int8: Model, files: Sequence[Path]) -> LabelLoss:
    """Compare the classes of whole images; a file in a folder named as a class has it as its label."""
    labels = set(exact.config.labels)
    labeled = [file.parent.name in labels for file in files]
    if any(labeled) and not all(labeled):
        odd = files[labeled.index(False)]
        raise DataError(
            f"{odd} is not in a folder named as a class of {exact.name}, as other images are: rename {odd.parent}, or "
            "move the image"
        )
    chosen = files if all(labeled) else _evenly(files, _COMPARED)
    same, right = 0, [0, 0]
    for file in chosen:
        pixels = load_rgb(file)
        found = [model.classify(pixels, top=1)[0].label for model in (exact, int8)]
        same += found[0] == found[1]
        for number, label in enumerate(found):
            right[number] += label == file.parent.name
    if not all(labeled):
        return LabelLoss(same / len(chosen), len(chosen))
    before, after = (100 * count / len(chosen) for count in right)
    return LabelLoss(same / len(chosen), len(chosen), "accuracy", before, after, len(chosen))


def _compare_masks(exact: Model, int8: Model, files: Sequence[Path], gate: Path | None) -> LabelLoss:
    """Compare the classes of pixels, and the mIoU where ``gate`` has masks."""
    masks = voc_segmentation(gate, "val", short_side=0) if gate and _has_masks(gate) else None
    classes = len(exact.config.labels)
    if masks is not None and tuple(masks.classes) != tuple(exact.config.labels):
        raise DataError(f"{gate} has other classes than {exact.name}: give masks of the checkpoint's own classes")
    chosen = files if masks is not None else _evenly(files, _COMPARED)
    matrices = [torch.zeros(classes, classes, dtype=torch.int64) for _ in range(2)]
    same = pixels_in_all = 0
    for position, file in enumerate(chosen):
        pixels = load_rgb(file)
        found = [model.segment(pixels) for model in (exact, int8)]
        same += int((found[0] == found[1]).sum())
        pixels_in_all += found[0].size
        if masks is not None:
            mask = cast(Tensor, masks.whole(position)[1])
            for matrix, labels in zip(matrices, found, strict=True):
                matrix += confusion(torch.from_numpy(labels), mask, classes)
    if masks is None:
        return LabelLoss(same / pixels_in_all, len(chosen))
    before, after = (100 * mean_iou(matrix)[0] for matrix in matrices)
    return LabelLoss(same / pixels_in_all, len(chosen), "mIoU", before, after, len(chosen))


def _write(
    folder: Path, config: CheckpointConfig, model: onnx.ModelProto, result: Quantized, levels: int
) -> CheckpointConfig:
    record = {
        "kept": list(result.kept),
        "balance": result.balance,
        "levels": levels,
        result.loss.kind: asdict(result.loss),
        "summary": str(result.loss),
    }
    helper.set_model_props(
        model, {p.key: p.value for p in model.metadata_props} | {"skipae_quantization": json.dumps(record)}
    )
    records = folder / "training" / "quantization.json"
    found = read_json(records) if records.exists() else {}  # a damaged one ends the command before the graph changes
    path = folder / result.file
    write_atomically(path, lambda file: onnx.save(model, file))
    config = replace(config, files={**config.files, result.file: sha256(path)})
    write_json(records, {name: row for name, row in found.items() if name in config.files} | {result.file: record})
    write_config(folder, config)
    return config
