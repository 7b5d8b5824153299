"""Export a checkpoint's graph for other programs with ONNX Runtime alone: for one image size, or for darktable."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from skipae.checkpoints.resolve import require_task
from skipae.console import first_line
from skipae.engine.device import load_runtime
from skipae.engine.onnx_subgraph import with_standard_operators
from skipae.errors import ModelError, UsageError
from skipae.files import write_atomically
from skipae_zoo import GRAPH, INPUT, QUANTIZED, CheckpointConfig, ConfigError, verified_file

TOLERANCE = 1e-4
"""Largest difference allowed between the graphs of one size and of any size, as a share of the largest value."""


def write_fixed_size(
    folder: Path, config: CheckpointConfig, target: Path, height: int, width: int, *, overwrite: bool = True
) -> float:
    """Write the task's graph for one image of a fixed size, in float32, with standard ONNX operators only.

    Sizes that the graph computes become constants.

    Args:
        folder: folder of a checkpoint.
        config: configuration of the checkpoint.
        target: the ``.onnx`` file to write.
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        overwrite: whether to replace ``target`` if it exists.

    Returns:
        The largest difference to the checkpoint's own graph on noise in [0, 1], as a share of its largest value.

    Raises:
        UsageError: the checkpoint requires images of another size.
        ModelError: the checkpoint is damaged, has no task graph, or its output differs in the new file.
        ImageError: the file cannot be written.
    """
    import numpy as np

    side = config.preprocessing.crop
    if config.head is not None and config.head.kind == "fc" and (height, width) != (side, side):
        raise UsageError(f"{config.name} requires images of {side} x {side} pixels, not {height} x {width}")
    source, runtime = _graph(folder, config), load_runtime()
    image = np.random.default_rng(0).random((1, 3, height, width), np.float32)
    with TemporaryDirectory() as work:
        made = Path(work) / "model.onnx"
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(made)
        try:
            own = runtime.InferenceSession(source, providers=["CPUExecutionProvider"])
            for name, length in zip(own.get_inputs()[0].shape, image.shape, strict=True):
                if isinstance(name, str):
                    options.add_free_dimension_override_by_name(name, length)
            whole = own.run(None, {INPUT: image})[0]
            runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            model = with_standard_operators(made.read_bytes())
            fixed = runtime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {INPUT: image})[0]
        except Exception as error:  # the runtime's exceptions have no common base class
            raise ModelError(
                f"{source} cannot be written for {height} x {width} pixels: {first_line(error)}"
            ) from error
    difference = float(np.abs(fixed - whole).max() / np.abs(whole).max())
    if not difference <= TOLERANCE:
        raise ModelError(
            f"the graph for {height} x {width} pixels differs from that of {config.name} by {difference:.2g}"
        )
    write_atomically(target, lambda file: _put(file, model), overwrite=overwrite)
    return difference


def write_darktable(folder: Path, config: CheckpointConfig, target: Path, *, overwrite: bool = True) -> None:
    """Write the package of a denoising model that darktable 5.6 and later import.

    Args:
        folder: folder of a checkpoint.
        config: configuration of the checkpoint.
        target: the ``.dtmodel`` file to write.
        overwrite: whether to replace ``target`` if it exists.

    Raises:
        ModelError: the checkpoint is damaged, or does not restore images.
        ImageError: the file cannot be written.
    """
    require_task(config, "restoration", "denoise")
    source = _graph(folder, config)
    name = config.name.lower()
    manifest = {
        "id": f"denoise-{name}",
        "name": f"denoise {name}",
        "description": "Convolutional auto-encoder with symmetric shortcuts, from the project skipae",
        "task": "denoise",
        "backend": "onnx",
        "version": "1.0",
        "num_inputs": 1,
        "tiling": True,
    }
    package = BytesIO()
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps(manifest, indent=2) + "\n")
        archive.write(source, "model.onnx")
    write_atomically(target, lambda file: _put(file, package.getvalue()), overwrite=overwrite)


def _put(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def _graph(folder: Path, config: CheckpointConfig) -> Path:
    if GRAPH not in config.files and QUANTIZED in config.files:
        raise ModelError(f"{config.name} has no float32 graph here: use its folder in the repository of skipae")
    try:
        return verified_file(folder, config, GRAPH)
    except ConfigError as error:
        raise ModelError(str(error)) from error
