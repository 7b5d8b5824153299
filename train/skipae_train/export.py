"""Export a trained network to a checkpoint folder (config.json, safetensors, ONNX), checked for parity.

The graphs are written node by node rather than traced, because the contract requires forms that tracing
cannot produce: batch norm folded into the convolutions, deconvolutions rewritten as convolutions, and any
height and width restored exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save
from torch import nn

from skipae.engine.device import load_runtime
from skipae.errors import SkipaeError
from skipae.files import write_atomically
from skipae_train.corruption import Color
from skipae_train.finetune import load_network
from skipae_train.networks import AutoEncoder, ChannelBias, Classifier, ConvNorm, Network, Segmenter, check_finite
from skipae_train.recipes import identity_of
from skipae_train.run_folder import damage_of, read_preprocessing, write_bytes, write_json
from skipae_zoo import (
    FEATURES,
    GRAPH,
    INPUT,
    OUTPUT,
    QUANTIZED,
    QUANTIZED_FEATURES,
    CheckpointConfig,
    ConfigError,
    Preprocessing,
    read_config,
    sha256,
    write_config,
)

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FILES = ("model.safetensors", GRAPH, FEATURES)
"""Weights of a checkpoint folder: for training frameworks, of the task, of the features."""

OPSET = 18
IR_VERSION = 10
TOLERANCE = {"float32": 1e-4, "float16": 2e-3}
"""Largest difference between torch and ONNX Runtime by type of the stored weights: of restored pixels in units of the
[0, 1] range, of logits as a share of the largest of them (of 1 where they are smaller)."""

WOVEN_STRIDE = 4
"""Deconvolutions from up to this total stride are woven from a 2x2 convolution, deeper ones are ConvTranspose."""

Array = NDArray[np.float64]


class ExportError(SkipaeError, RuntimeError):
    """The exported graph and the network differ."""


class _Graph:
    """Collects the nodes and weights of one ONNX graph."""

    def __init__(self, storage: str) -> None:
        self.storage = np.dtype(storage)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Return a constant as it is."""
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, name: str, value: Array) -> str:
        """Return a float32 value, stored in the storage type; runtimes fold the cast when they load the file."""
        if self.storage == np.float32:
            return self.constant(name, value.astype(np.float32))
        self.constant(f"{name}.half", value.astype(self.storage))
        return self.add("Cast", [f"{name}.half"], name, to=TensorProto.FLOAT)

    def convolution(self, x: str, name: str, weight: Array, bias: Array | None, stride: int, pads: list[int]) -> str:
        inputs = [x, self.weight(f"{name}.weight", weight)]
        if bias is not None and bias.any():
            inputs.append(self.weight(f"{name}.bias", bias))
        return self.add(
            "Conv", inputs, f"{name}.conv", kernel_shape=weight.shape[2:], strides=[stride, stride], pads=pads
        )

    def deconvolution(self, x: str, unit: ConvNorm, name: str, weight: Array, bias: Array, woven: bool) -> str:
        """Return a deconvolution, weight [in, out, k, k]; one of stride 2 is not finished without :meth:`enlarge`."""
        kernel, stride = weight.shape[-1], unit.conv.stride[0]
        if stride == 1:
            # The transposed convolution of stride 1 is the convolution with the kernel turned by 180 degrees.
            turned = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)  # (in, out, k, k) -> (out, in, k, k)
            return self.convolution(x, name, turned, bias, 1, [kernel // 2] * 4)
        if not woven:
            inputs = [x, self.weight(f"{name}.weight", weight), self.weight(f"{name}.bias", bias)]
            attributes = {"kernel_shape": [kernel, kernel], "strides": [2, 2], "pads": [1] * 4}
            return self.add("ConvTranspose", inputs, f"{name}.conv", output_padding=[1, 1], **attributes)
        kernels = weave(weight)
        return self.convolution(x, name, kernels, np.tile(bias, 4), 1, [0, 0, 1, 1])

    def enlarge(self, x: str, name: str, like: str, woven: bool) -> str:
        """Interleave the phases of a :meth:`deconvolution` of stride 2 and crop to the height and width of ``like``."""
        if woven:
            x = self.add("DepthToSpace", [x], f"{name}.woven", blocksize=2, mode="DCR")
        size = self.add("Shape", [like], f"{name}.size", start=2, end=4)
        if not any(w.name == "origin" for w in self.weights):
            self.constant("origin", np.zeros(2, np.int64))
            self.constant("plane", np.array([2, 3], np.int64))
        return self.add("Slice", [x, "origin", size, "plane"], f"{name}.cut")

    def linear(self, x: str, name: str, layer: nn.Linear) -> str:
        """Return a fully connected layer on [N, C]."""
        weight = self.weight(f"{name}.weight", _values(layer.weight))  # (out, in)
        return self.add("Gemm", [x, weight, self.weight(f"{name}.bias", _values(layer.bias))], name, transB=1)

    def affine(self, x: str, name: str, scale: Array, shift: Array) -> str:
        """Multiply and add per channel."""
        scaled = self.weight(f"{name}.scale", scale.reshape(1, -1, 1, 1))
        shifted = self.weight(f"{name}.shift", shift.reshape(1, -1, 1, 1))
        return self.add("Add", [self.add("Mul", [x, scaled], f"{name}.scaled"), shifted], f"{name}.norm")

    def model(
        self,
        outputs: dict[str, tuple[int | str, ...]],
        config: CheckpointConfig,
        size: tuple[int | str, int | str] = ("height", "width"),
    ) -> onnx.ModelProto:
        """Return the finished model for images of ``size``; ``outputs`` maps each name to its shape."""
        image = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", 3, *size])
        infos = [helper.make_tensor_value_info(k, TensorProto.FLOAT, list(v)) for k, v in outputs.items()]
        graph = helper.make_graph(self.nodes, config.name, [image], infos, self.weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="skipae"
        )
        helper.set_model_props(model, {"skipae": json.dumps(config.to_dict(with_files=False))})
        onnx.checker.check_model(model, full_check=True)
        return model


def weave(weight: NDArray[Any]) -> NDArray[Any]:
    """Return the 2x2 convolution [4 out, in, 2, 2] that gives the four phases, (row, column,
    channel), of a deconvolution.

    The deconvolution has weights [in, out, 3, 3], stride 2 and padding 1: along one axis output 2j is w1 x[j], output
    2j + 1 is w2 x[j] + w0 x[j + 1].  Depth-to-space weaves the phases.
    """
    taps = {0: {0: 1}, 1: {0: 2, 1: 0}}
    channels_in, channels = weight.shape[:2]
    phases = np.zeros((2, 2, channels, channels_in, 2, 2), weight.dtype)
    for row in (0, 1):
        for column in (0, 1):
            for y, ky in taps[row].items():
                for x, kx in taps[column].items():
                    phases[row, column, :, :, y, x] = weight[:, :, ky, kx].T
    return phases.reshape(4 * channels, channels_in, 2, 2)


def _values(tensor: torch.Tensor | None) -> Array:
    if tensor is None:
        raise ExportError("a layer has no weights to export")
    return tensor.detach().cpu().double().numpy()


def _norm(unit: ConvNorm) -> tuple[Array, Array]:
    """Scale and shift per channel that batch norm, or what is in its place, applies in use."""
    norm = unit.norm
    if isinstance(norm, ChannelBias):
        shift = _values(norm.bias)
        return np.ones_like(shift), shift
    if not isinstance(norm, nn.BatchNorm2d):
        raise ExportError(f"expected batch norm, found {type(norm).__name__}")
    scale = _values(norm.weight) / np.sqrt(_values(norm.running_var) + norm.eps)
    return scale, _values(norm.bias) - _values(norm.running_mean) * scale


def _encoder(
    graph: _Graph, network: Network, outputs: Callable[[str], str], raw: Sequence[int] = ()
) -> tuple[str, list[str]]:
    """Add the encoder; names of its output, and of what the shortcuts carry from each layer.

    That is the output of ReLU, or for the layers whose numbers are in ``raw`` the convolution's, before batch norm.
    """
    x = graph.add("Sub", [INPUT, graph.constant("mean", network.mean.numpy())], "pixels")
    skips = []
    ends = {last: first for first, last in network.architecture.units}
    results: list[str] = []
    for number, layer in enumerate(network.architecture.layers, start=1):
        unit = network.unit(layer.name)
        weight = _values(unit.conv.weight)
        if number == 1:  # the graph's pixels are not divided by the standard deviation: the first layer does it
            weight = weight / _values(network.std).reshape(1, 3, 1, 1)
        scale, shift = _norm(unit)
        pads = [layer.kernel // 2] * 4
        if number in raw:  # the raw output is carried too, so batch norm stays apart
            x = graph.convolution(x, layer.name, weight, None, layer.stride, pads)
            skips.append(x)
            x = graph.affine(x, layer.name, scale, shift)
        else:
            x = graph.convolution(x, layer.name, weight * scale.reshape(-1, 1, 1, 1), shift, layer.stride, pads)
        if number in ends:
            x = graph.add("Relu", [x], f"{layer.name}.alone")
            x = graph.add("Add", [x, results[ends[number] - 2]], outputs(layer.name))
        else:
            x = graph.add("Relu", [x], outputs(layer.name))
        results.append(x)
        if number not in raw:
            skips.append(x)
    return x, skips


def _decoder(graph: _Graph, network: Network, x: str, skips: list[str]) -> str:
    """Add the decoder down to ``dec2``; the name of its output, which has the size of the first layer."""
    architecture = network.architecture
    starts = {last: first for first, last in architecture.units}
    entered: dict[int, str] = {}
    for number in range(len(architecture.layers), 1, -1):
        name = f"dec{number}"
        unit = network.unit(name)
        like = skips[number - 2]
        scale, shift = _norm(unit)
        joins = number - 1 in architecture.shortcut_layers
        if number in starts:
            entered[starts[number]] = x
        if joins and architecture.topology == "pre":
            x = _deconvolution(graph, network, x, number, _values(unit.conv.weight), np.zeros_like(shift), like)
            x = graph.affine(graph.add("Add", [x, like], f"{name}.sum"), name, scale, shift)
            x = graph.add("Relu", [x], f"{name}.relu")
        else:
            weight = _values(unit.conv.weight) * scale.reshape(1, -1, 1, 1)
            x = _deconvolution(graph, network, x, number, weight, shift, like, "Relu")
            if joins:
                x = graph.add("Add", [x, like], f"{name}.sum")
        if number in entered:
            x = graph.add("Add", [x, entered.pop(number)], f"{name}.unit")
        for further in architecture.refinements(number):
            unit = network.unit(further)
            scale, shift = _norm(unit)
            weight = _values(unit.conv.weight) * scale.reshape(1, -1, 1, 1)
            x = graph.add(
                "Relu", [graph.deconvolution(x, unit, further, weight, shift, woven=False)], f"{further}.relu"
            )
    return x


def _deconvolution(
    graph: _Graph, network: Network, x: str, number: int, weight: Array, bias: Array, like: str, then: str | None = None
) -> str:
    """Add the deconvolution ``dec{number}``, weight [in, out, k, k], which gives the height and width of ``like``.

    ``then`` is an operator that goes before what is cut off, where there are fewer pixels.
    """
    name = f"dec{number}"
    layer = network.architecture.layers[number - 1]
    strided = layer.stride == 2
    # Weaving is faster, and stores 16 taps for 9: not worth it where there are few pixels and many channels.
    woven = strided and layer.total_stride <= WOVEN_STRIDE
    x = graph.deconvolution(x, network.unit(name), name, weight, bias, woven)
    if then is not None:
        x = graph.add(then, [x], f"{name}.{then.lower()}")
    return graph.enlarge(x, name, like, woven) if strided else x


def build_model(network: Network, config: CheckpointConfig, storage: str = "float32") -> onnx.ModelProto:
    """Return the task graph: ``pixel_values`` [N, 3, H, W] in [0, 1] to ``reconstruction``, not
    clamped, or to ``logits``.

    ``storage`` is the type of the stored weights, float32 or float16; the arithmetic is float32 in both.
    """
    graph = _Graph(storage)
    architecture = network.architecture
    output = OUTPUT[config.task]
    dynamic = ("height", "width")
    if isinstance(network, Classifier):
        x, _ = _encoder(graph, network, lambda name: f"{name}.relu")
        for name, layer in network.head.named_children():
            name = f"head.{name}"
            if isinstance(layer, nn.Linear):
                x = graph.linear(x, name, layer)
            elif isinstance(layer, nn.Conv2d):
                x = graph.convolution(x, name, _values(layer.weight), _values(layer.bias), 1, [0] * 4)
            elif not isinstance(layer, nn.Dropout):
                operator = {nn.AdaptiveAvgPool2d: "GlobalAveragePool", nn.Flatten: "Flatten", nn.ReLU: "Relu"}
                x = graph.add(operator[type(layer)], [x], name)
        graph.add("Identity", [x], output)
        return graph.model({output: ("n", network.classes)}, config, network.size or dynamic)
    raw = architecture.shortcut_layers if architecture.topology == "pre" else ()
    x = _decoder(graph, network, *_encoder(graph, network, lambda name: f"{name}.relu", raw))
    if isinstance(network, Segmenter):
        last = network.last
        x = graph.convolution(x, "head", _values(last.weight), _values(last.bias), 1, [1] * 4)
        graph.add("Identity", [x], output)
        return graph.model({output: ("n", network.classes, *dynamic)}, config)
    last = network.last
    std = _values(network.std).reshape(3)
    bias = _values(last.bias) * std
    if architecture.shortcuts == "none":
        bias = bias + _values(network.mean).reshape(3)
    x = _deconvolution(graph, network, x, 1, _values(last.weight) * std.reshape(1, 3, 1, 1), bias, INPUT)
    if architecture.shortcuts == "none":
        graph.add("Identity", [x], output)
    else:
        graph.add("Add", [x, INPUT], output)
    return graph.model({output: ("n", 3, *dynamic)}, config)


def build_features(network: Network, config: CheckpointConfig, storage: str = "float32") -> onnx.ModelProto:
    """Return the encoder alone, every layer after ReLU a named output: ``enc1`` .. ``encL``."""
    graph = _Graph(storage)
    _encoder(graph, network, lambda name: name)
    shapes: dict[str, tuple[int | str, ...]] = {
        layer.name: ("n", layer.channels, f"{layer.name}_height", f"{layer.name}_width")
        for layer in network.architecture.layers
    }
    return graph.model(shapes, config)


@dataclass(frozen=True)
class Parity:
    """Differences between ONNX Runtime and torch."""

    storage: str
    output: float
    """Difference of the task graph's output, in the units of :data:`TOLERANCE`."""
    features: float
    """Difference of the layers, as a share of a layer's largest value."""

    def check(self) -> None:
        """Raise :class:`ExportError` beyond :data:`TOLERANCE`."""
        allowed = TOLERANCE[self.storage]
        if not self.output <= allowed:
            raise ExportError(
                f"ONNX Runtime and torch differ by {self.output:.2g} with weights stored as {self.storage}, "
                f"more than {allowed:g}: export with --storage float32"
            )


def session(model: onnx.ModelProto | Path) -> InferenceSession:
    """Return a CPU session of a built or saved graph."""
    onnxruntime = load_runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    opened: InferenceSession = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return opened


PARITY_SIZES = ((1, 1, 1), (2, 29, 31), (1, 64, 48), (3, 45, 100))
"""Batch, height and width: single pixels, sizes that no stride divides, and several batches."""


@torch.no_grad()
def measure_parity(network: Network, config: CheckpointConfig, storage: str) -> Parity:
    """Return what :func:`compare` finds for the graphs as they would be written with weights of type ``storage``."""
    network = network.eval().float().cpu()
    model, features = session(build_model(network, config, storage)), session(build_features(network, config, storage))
    return compare(network, model, features, storage)


@torch.no_grad()
def compare(
    network: Network, model: InferenceSession | None, features: InferenceSession | None, storage: str
) -> Parity:
    """Compare the existing graphs with torch, on noise in [0, 1] and at the sizes of :data:`PARITY_SIZES`.

    A classifier with fully connected layers has one size only; its batches are as many.
    """
    generator = torch.Generator().manual_seed(0)
    worst = worst_feature = 0.0
    for n, height, width in PARITY_SIZES:
        image = torch.rand(n, 3, *(network.size or (height, width)), generator=generator)
        if model is not None:
            worst = max(worst, _difference(network, model, image))
        if features is None:
            continue
        expected = network.features(image)
        found_features = features.run(list(expected), {INPUT: image.numpy()})
        for name, found in zip(expected, found_features, strict=True):
            want = expected[name].numpy()
            worst_feature = max(worst_feature, float(np.abs(found - want).max() / max(np.abs(want).max(), 1e-6)))
    return Parity(storage, worst, worst_feature)


def _difference(network: Network, model: InferenceSession, image: torch.Tensor) -> float:
    """Return the difference between torch and ONNX Runtime, in the units of :data:`TOLERANCE`."""
    want = network(image).numpy()
    largest = 1.0 if isinstance(network, AutoEncoder) else max(1.0, float(np.abs(want).max()))
    return float(np.abs(model.run(None, {INPUT: image.numpy()})[0] - want).max()) / largest


def measure_halo(model: InferenceSession, config: CheckpointConfig, images: Sequence[Array]) -> int:
    """Return the smallest halo, a multiple of 4, whose tiles stay within 1e-4 of the whole image's result.

    Logits are measured as a share of the largest of them, or of 1 where they are smaller.

    Pieces of each image, float [H, W, 3] in [0, 1], are restored whole and with one side cut off by a multiple
    of the total stride, as windows are; the error by distance from the cut says how far it is felt.  All four
    sides are tried, on the images as they are and with Gaussian noise of sigma 15, 50 and 100, and on random pixels;
    the last ones at sizes of every remainder by the stride, which is nothing to the first ones.  A tenth of the error
    that is allowed is what counts as felt.
    """
    stride, reach = config.architecture.total_stride, config.architecture.reach
    logits = config.task != "restoration"
    side = reach + 4 * stride  # no cut is felt farther than the reach
    rng = np.random.default_rng(0)
    tries = [rng.random((side, side, 3))]
    for image in images:
        if min(image.shape[:2]) >= side:
            top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
            piece = image[top : top + side, left : left + side]
            tries += [np.clip(piece + rng.normal(0, sigma / 255, piece.shape), 0, 1) for sigma in (0, 15, 50, 100)]
    halo = 0
    for remainder in range(stride):
        piece = tries[remainder % len(tries)][: side - remainder, : side - remainder]
        x = np.ascontiguousarray(piece.transpose(2, 0, 1)[None], dtype=np.float32)  # (H, W, C) -> (N, C, H, W)
        whole = model.run(None, {INPUT: x})[0]
        felt = 1e-5 * (max(1.0, float(np.abs(whole).max())) if logits else 1)
        cut = 2 * stride
        for axis in (2, 3):
            for first in (False, True) if remainder < len(tries) else (False,):
                part = (np.s_[:],) * axis + (np.s_[cut:] if first else np.s_[:-cut],)
                found = model.run(None, {INPUT: np.ascontiguousarray(x[part])})[0]
                error = np.abs(found - whole[part]).max((0, 1, 5 - axis))
                far = np.flatnonzero((error if first else error[::-1]) > felt)  # by distance from the cut
                halo = max(halo, 1 + int(far.max(initial=-1)))
    return min(-(-halo // 4) * 4, reach)


def export(
    network: Network,
    out: Path,
    *,
    name: str,
    fill: Color,
    halo_images: Sequence[Array] | None = None,
    storage: str = "float16",
    labels: Sequence[str] = (),
    colors: Sequence[Sequence[int]] = (),
    resize: int | None = None,
    crop: int | None = None,
    default_layer: str | None = None,
    without: Sequence[str] = (),
) -> tuple[CheckpointConfig, Parity]:
    """Write a checkpoint folder: config.json and :data:`FILES`, except those in ``without``.

    Files are written under temporary names and renamed at the end.

    Args:
        network: the trained network.
        out: folder to write.
        name: name of the checkpoint.
        fill: color of masked pixels, RGB in [0, 1].
        halo_images: float [H, W, 3] in [0, 1], on which the halo of tiles is measured (see :func:`measure_halo`).
            Without them, and for classifiers, the halo is the reach, which is exact.
        storage: type of the layers' weights in all three files, ``float16`` or ``float32``.
        labels: class names of a classifier or segmenter.
        colors: see :class:`skipae_zoo.CheckpointConfig`.
        resize: see :class:`skipae_zoo.Preprocessing`.
        crop: see :class:`skipae_zoo.Preprocessing`; a network of a fixed size has its own crop.
        default_layer: see :class:`skipae_zoo.CheckpointConfig`.
        without: files to omit.

    Returns:
        The configuration, and the differences between ONNX Runtime and torch.

    Raises:
        ExportError: ONNX Runtime does not reproduce torch to :data:`TOLERANCE`, or the config would be invalid; nothing
            is written.
    """
    network = network.eval().float().cpu()
    if network.size is not None:
        if crop not in (None, network.size[0]):
            raise ExportError(f"{name} takes images of {network.size} pixels only: crop cannot be {crop}")
        crop = network.size[0]
    if len(labels) != network.classes:
        raise ExportError(f"{name} has {network.classes} classes, but {len(labels)} labels are given")
    config = CheckpointConfig(
        name=name,
        task=network.task,
        architecture=network.architecture,
        preprocessing=Preprocessing(_color(network.mean), _color(network.std), fill, resize, crop),
        halo=network.architecture.reach,
        labels=tuple(labels),
        colors=tuple((red, green, blue) for red, green, blue in colors),
        head=network.head_config,
        default_layer=default_layer,
    )
    try:
        check_finite(network.state_dict(), name)
        CheckpointConfig.from_dict(json.loads(json.dumps(config.to_dict())), source=f"the config of {name}")
    except ConfigError as error:
        raise ExportError(str(error)) from error
    measure_parity(network, config, "float32").check()
    parity = measure_parity(network, config, storage)
    parity.check()
    if halo_images is not None and not isinstance(network, Classifier):
        exact = session(build_model(network, config))
        config = replace(config, halo=measure_halo(exact, config, halo_images))
    kind = {"float32": torch.float32, "float16": torch.float16}[storage]
    tensors = {
        key: value.to(kind) if key.endswith("weight") and value.ndim > 1 else value  # batch norm's stay as they are
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    writers: dict[str, Callable[[BinaryIO], object]] = {
        "model.safetensors": lambda file: file.write(
            # One entry of metadata: safetensors writes several in a random order, and the same weights have one digest.
            save({k: v.contiguous() for k, v in tensors.items()}, {"format": "pt"})
        ),
        "onnx/model.onnx": lambda file: onnx.save(build_model(network, config, storage), file),
        "onnx/features.onnx": lambda file: onnx.save(build_features(network, config, storage), file),
    }
    before: Mapping[str, str] = {}
    with suppress(ConfigError):
        before = read_config(out).files
    files = {}
    for file, write in writers.items():
        if file not in without:
            write_atomically(out / file, write)
            files[file] = sha256(out / file)
    outdated = [*without, QUANTIZED, QUANTIZED_FEATURES, "training/quantization.json"]
    if any(before.get(file) != digest for file, digest in files.items()):  # the scores are of other weights
        outdated += ["training/metrics.json", "training/speed.json", "training/result.json"]
    for file in outdated:
        (out / file).unlink(missing_ok=True)
    config = replace(config, files=files)
    write_config(out, config)
    return config, parity


def export_run(
    run: Path,
    out: Path,
    *,
    name: str,
    halo_images: Sequence[Array] | None,
    storage: str = "float16",
    default_layer: str | None = None,
    without: Sequence[str] = (),
) -> tuple[Network, CheckpointConfig, Parity]:
    """Export the network of a run folder (see :func:`export`), and copy the records for its card."""
    network, recipe = load_network(run)
    with damage_of(run / "recipe.json"):
        identity = identity_of(recipe)
        fill = tuple((recipe["corruption"] or {}).get("fill", recipe["mean"]))
    pixels = read_preprocessing(run)
    if not isinstance(network, Classifier):  # it takes whole images, whatever it was trained on
        pixels.pop("crop", None)
    config, parity = export(
        network,
        out,
        name=name,
        fill=fill,
        halo_images=halo_images,
        storage=storage,
        default_layer=default_layer,
        without=without,
        **pixels,
    )
    training = out / "training"
    write_json(training / "recipe.json", {**recipe, "id": asdict(identity)} if identity else recipe)
    for file in ("environment.json", "log.csv", "result.json"):
        if (run / file).exists():
            write_bytes(training / file, (run / file).read_bytes())
    write_json(training / "parity.json", asdict(parity))
    return network, config, parity


def _color(tensor: torch.Tensor) -> Color:
    red, green, blue = (round(float(v), 6) for v in tensor.flatten())
    return red, green, blue
