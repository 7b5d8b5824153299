"""``config.json``, the versioned description in a checkpoint folder, and the names of the folder's graphs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from skipae_zoo.architecture import Architecture, ArchitectureError
from skipae_zoo.files import read_text_file, sha256
from skipae_zoo.text import MAX_LABEL, flaw_of_name, flaw_of_path, flaw_of_text, shown

VERSION = 1
"""Version of the format of ``config.json``; readers reject later versions."""

MAX_SIDE = 8192
"""Maximum of ``resize``, ``crop`` and ``halo``, in pixels."""

MAX_LABELS = MAX_HIDDEN = 1 << 16
"""Maximum number of classes, and of channels in a hidden fully connected layer."""

MAX_COLOR = 1000.0
"""Largest magnitude of ``mean``, ``std`` and ``fill``, whose values are about 1."""

BICUBIC = 3
"""Pillow's number for the bicubic filter of ``resize``, as in ``preprocessor_config.json``."""

MAX_FILES = 64
"""Maximum number of entries in ``files``."""

MAX_SEGMENTS = 255
"""Maximum number of classes of a segmenter: label maps have 8 bits, and 255 marks pixels without a class."""

Task = Literal["restoration", "classification", "segmentation"]

INPUT = "pixel_values"
"""Name of the input of every ONNX graph: float32 [N, 3, H, W], RGB in [0, 1]."""

OUTPUT: dict[Task, str] = {"restoration": "reconstruction", "classification": "logits", "segmentation": "logits"}
"""Name of the output of each task's graph."""

GRAPH = "onnx/model.onnx"
"""The graph that does a checkpoint's task."""

FEATURES = "onnx/features.onnx"
"""The graph whose outputs are the layers of the encoder."""

QUANTIZED = "onnx/model_quantized.onnx"
"""The task's graph in int8, for checkpoints that have one; the name is the one transformers.js expects."""

QUANTIZED_FEATURES = "onnx/features_quantized.onnx"
"""The encoder in int8, of checkpoints that have it."""

HeadKind = Literal["pool-fc", "conv-pool", "fc", "decoder"]
Scores = Literal["softmax", "sigmoid"]


class ConfigError(ValueError):
    """An unusable ``config.json`` or checkpoint folder; the message names the file and the key."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Preprocessing of pixels, RGB in [0, 1].  ``mean`` and ``std`` are applied inside the ONNX graphs."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fill: tuple[float, float, float]
    """Color of masked pixels, the same in training and in use."""
    resize: int | None = None
    """Short side in pixels that images are scaled to (bicubic, antialiased) before ``features``, ``classify`` and
    ``segment``, whose label map is scaled back; None leaves the size."""
    crop: int | None = None
    """Side of the center crop after scaling, in pixels, ignored by ``segment``; None takes the whole image."""


@dataclass(frozen=True, slots=True)
class Head:
    """The layers on top of the encoder in a classifier or segmenter (supplement A, table 1)."""

    kind: HeadKind
    """``pool-fc``: global average pooling and one fully connected layer (Network-1).  ``conv-pool``: a 1x1
    convolution to the classes, then global average pooling (Network-2).  ``fc``: two hidden fully connected
    layers and one to the classes (Network-3), for the image size ``Preprocessing.crop`` alone.  ``decoder``: the
    auto-encoder's decoder, its last deconvolution replaced by a 3x3 convolution to the classes (section 5.4)."""
    hidden: int = 0
    """Width of the hidden fully connected layers of ``fc``; 0 for the others."""
    scores: Scores = "softmax"
    """How logits become scores: ``softmax`` for one class per image or pixel, ``sigmoid`` for any number."""


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """The contents of ``config.json``."""

    name: str
    task: Task
    architecture: Architecture
    preprocessing: Preprocessing
    halo: int
    """Pixels around a tile that keep tiled results within 1e-4 of the whole image's, as measured; at most
    ``architecture.reach``, which is exact."""
    labels: tuple[str, ...] = ()
    """Class names in the order of the logits; empty for restoration."""
    colors: tuple[tuple[int, int, int], ...] = ()
    """Color of each class of a segmenter, RGB from 0 to 255; empty for the colors of PASCAL VOC."""
    head: Head | None = None
    """None for restoration."""
    default_layer: str | None = None
    """Default layer for features; None for the last one."""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each weight file, by path relative to the folder."""

    def to_dict(self, *, with_files: bool = True) -> dict[str, Any]:
        """Return the contents as JSON values; without ``files``, as stored in the ONNX metadata."""
        data: dict[str, Any] = {
            "version": VERSION,
            "name": self.name,
            "library_name": "skipae",
            "task": self.task,
            "architecture": self.architecture.to_dict(),
            "activation": "relu",
            "preprocessing": {
                "mean": list(self.preprocessing.mean),
                "std": list(self.preprocessing.std),
                "fill": list(self.preprocessing.fill),
                "resize": self.preprocessing.resize,
                "crop": self.preprocessing.crop,
            },
            "halo": self.halo,
            "layers": [
                {
                    "name": layer.name,
                    "channels": layer.channels,
                    "stride": layer.total_stride,
                    "receptive_field": layer.receptive_field,
                }
                for layer in self.architecture.layers
            ],
            "id2label": {str(number): label for number, label in enumerate(self.labels)},
            "num_labels": len(self.labels),
            "head": None if self.head is None else asdict(self.head),
        }
        if self.colors:
            data["colors"] = [list(color) for color in self.colors]
        if self.default_layer is not None:
            data["default_layer"] = self.default_layer
        data["transformers.js_config"] = {"dtype": "fp32"}  # which it would not take in a browser by default
        if with_files:
            data["files"] = dict(self.files)
        return data

    def to_preprocessor(self) -> dict[str, Any]:
        """Return ``preprocessor_config.json``: preprocessing outside the graph, in the Hub's convention."""
        resize, crop = self.preprocessing.resize, self.preprocessing.crop
        if self.task == "segmentation":  # takes whole images
            crop = None
        data: dict[str, Any] = {
            "image_processor_type": "ImageFeatureExtractor",
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": False,  # the graph does
            "do_pad": False,
            "do_resize": resize is not None,
            "do_center_crop": crop is not None,
        }
        if resize is not None:
            data |= {"size": {"shortest_edge": resize}, "resample": BICUBIC}
        if crop is not None:
            data["crop_size"] = {"height": crop, "width": crop}
        return data

    @classmethod
    def from_dict(cls, data: object, *, source: str) -> CheckpointConfig:
        """Check and read the output of :meth:`to_dict`.

        Args:
            data: the JSON values.
            source: name of the file, for messages.

        Raises:
            ConfigError: a value is missing, of the wrong type or out of range.
        """
        if not isinstance(data, dict):
            raise ConfigError(f"{source} must hold a JSON object, not {type(data).__name__}")
        version = data.get("version")
        if not isinstance(version, int) or isinstance(version, bool):
            raise ConfigError(f"{source} has no whole-number 'version': it is not a skipae checkpoint")
        if version < 1:
            raise ConfigError(f"{source} has version {shown(version)}: it is not a skipae checkpoint")
        if version > VERSION:
            raise ConfigError(
                f"{source} has version {shown(version)}, this skipae reads up to {VERSION}: upgrade skipae to use it"
            )
        try:
            task = data["task"]
            if task not in get_args(Task):
                raise ConfigError(f"{source}: task must be one of {', '.join(get_args(Task))}, not {shown(task)}")
            pixels = data["preprocessing"]
            architecture = Architecture.from_dict(_mapping(data["architecture"], "architecture", source))
            config = cls(
                name=_name(data["name"], source),
                task=cast(Task, task),
                architecture=architecture,
                preprocessing=Preprocessing(
                    mean=_color(pixels["mean"], "preprocessing.mean", source),
                    std=_color(pixels["std"], "preprocessing.std", source, least=1e-6),
                    fill=_color(pixels["fill"], "preprocessing.fill", source),
                    resize=_side(pixels["resize"], "preprocessing.resize", source),
                    crop=_side(pixels["crop"], "preprocessing.crop", source),
                ),
                halo=_pixels(data["halo"], "halo", source),
                labels=_labels(data["id2label"], source),
                colors=_palette(data.get("colors", []), source),
                head=_head(data["head"], source),
                default_layer=_layer(data.get("default_layer"), architecture, source),
                files={
                    _relative(k, source): _digest(v, f"files[{shown(k)}]", source)
                    for k, v in _files(data.get("files", {}), source).items()
                },
            )
        except KeyError as error:
            raise ConfigError(f"{source} lacks the key {error.args[0]!r}") from None
        except ArchitectureError as error:
            raise ConfigError(f"{source}: {error}") from None
        except TypeError as error:
            raise ConfigError(f"{source} has a value of the wrong type: {error}") from None
        if data.get("layers") != config.to_dict()["layers"]:
            raise ConfigError(f"{source}: 'layers' does not agree with 'architecture'; export the checkpoint again")
        if (task == "restoration") != (config.head is None) or (task == "segmentation") != (
            config.head is not None and config.head.kind == "decoder"
        ):
            raise ConfigError(f"{source}: a {task} checkpoint cannot have the head {shown(data['head'])}")
        if (task == "restoration") != (not config.labels):
            raise ConfigError(f"{source}: a {task} checkpoint cannot have {len(config.labels)} labels")
        if task == "segmentation" and len(config.labels) > MAX_SEGMENTS:
            raise ConfigError(f"{source}: label maps hold at most {MAX_SEGMENTS} classes, not {len(config.labels)}")
        if config.colors and (task != "segmentation" or len(config.colors) != len(config.labels)):
            raise ConfigError(
                f"{source}: colors must be one of each of a segmenter's {len(config.labels)} labels, not "
                f"{len(config.colors)}"
            )
        if config.head is not None and config.head.kind == "fc" and config.preprocessing.crop is None:
            raise ConfigError(f"{source}: preprocessing.crop must give the image size of the fully connected head")
        return config


def read_config(folder: Path) -> CheckpointConfig:
    """Read ``config.json`` of a checkpoint folder.

    Raises:
        ConfigError: it is missing or invalid; the message explains why.
    """
    path = folder / "config.json"
    try:
        data = json.loads(read_text_file(path))
    except FileNotFoundError:
        run = ", but the folder of a training run: export it with 'skipae-train export'"
        told = run if (folder / "recipe.json").exists() else ": it has no config.json"
        raise ConfigError(f"{folder} is not a checkpoint folder{told}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply: it is not a skipae checkpoint") from None
    return CheckpointConfig.from_dict(data, source=str(path))


def write_config(folder: Path, config: CheckpointConfig) -> None:
    """Write ``config.json`` and ``preprocessor_config.json`` into a checkpoint folder."""
    for file, data in (("config.json", config.to_dict()), ("preprocessor_config.json", config.to_preprocessor())):
        text = json.dumps(data, indent=2, ensure_ascii=False)
        (folder / file).write_text(text + "\n", encoding="utf-8")


def verified_file(folder: Path, config: CheckpointConfig, name: str) -> Path:
    """Return the path of a weight file after checking its sha256 against ``config.json``.

    Raises:
        ConfigError: the file is not listed, cannot be read, or has another sha256.
    """
    path = folder / name
    expected = config.files.get(name)
    if expected is None:
        raise ConfigError(
            f"{config.name} has no {name}: use another checkpoint ({folder / 'config.json'} lists its files)"
        )
    try:
        found = sha256(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): fetch the checkpoint again") from None
    if found != expected:
        raise ConfigError(
            f"{path} does not match its config.json (sha256 {found[:12]}..., expected "
            f"{expected[:12]}...): fetch the checkpoint again"
        )
    return path


def _mapping(value: object, key: str, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: {key} must be an object, not {shown(value)}")
    return value


def _name(value: object, source: str) -> str:
    name = _string(value, "name", source)
    return _without(flaw_of_name(name), name, "name", source)


def _labels(value: object, source: str) -> tuple[str, ...]:
    names = _mapping(value, "id2label", source)
    if len(names) > MAX_LABELS:
        raise ConfigError(f"{source}: id2label must be at most {MAX_LABELS} class names, not {len(names)}")
    if list(names) != [str(number) for number in range(len(names))]:
        raise ConfigError(f'{source}: the keys of id2label must be the numbers of the classes, in order from "0"')
    labels = [_string(label, "id2label", source) for label in names.values()]
    return tuple(_without(flaw_of_text(label, MAX_LABEL), label, "a label", source) for label in labels)


def _palette(value: object, source: str) -> tuple[tuple[int, int, int], ...]:
    if not isinstance(value, list) or len(value) > MAX_SEGMENTS:
        raise ConfigError(f"{source}: colors must be a list of at most {MAX_SEGMENTS} colors, not {shown(value)}")
    for color in value:
        if not isinstance(color, list) or len(color) != 3:
            raise ConfigError(f"{source}: a color must be three numbers (R, G, B), not {shown(color)}")
    red_green_blue = ((_pixels(number, "a color", source, 255) for number in color) for color in value)
    return tuple((next(color), next(color), next(color)) for color in red_green_blue)


def _files(value: object, source: str) -> dict[str, Any]:
    files = _mapping(value, "files", source)
    if len(files) > MAX_FILES:
        raise ConfigError(f"{source}: files must name at most {MAX_FILES} files, not {len(files)}")
    return files


def _relative(value: object, source: str) -> str:
    """Return a path that is known to stay inside the folder; the folder may come from anyone."""
    path = _string(value, "files", source)
    return _without(flaw_of_path(path), path, "a path in files", source)


def _digest(value: object, key: str, source: str) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise ConfigError(f"{source}: {key} must be a sha256, not {shown(value)}")
    return value


def _without(flaw: str | None, text: str, key: str, source: str) -> str:
    if flaw is not None:
        raise ConfigError(f"{source}: {key}, {shown(text)}, {flaw}")
    return text


def _string(value: object, key: str, source: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{source}: {key} must be text, not {shown(value)}")
    return value


def _pixels(value: object, key: str, source: str, most: int = MAX_SIDE) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ConfigError(f"{source}: {key} must be a whole number from 0 to {most}, not {shown(value)}")
    return value


def _side(value: object, key: str, source: str) -> int | None:
    if value is None:
        return None
    if _pixels(value, key, source) == 0:
        raise ConfigError(f"{source}: {key} must be null or at least 1 pixel, not 0")
    return cast(int, value)


def _head(value: object, source: str) -> Head | None:
    if value is None:
        return None
    data = _mapping(value, "head", source)
    for key, allowed in (("kind", get_args(HeadKind)), ("scores", get_args(Scores))):
        if data[key] not in allowed:
            raise ConfigError(f"{source}: head.{key} must be one of {', '.join(allowed)}, not {shown(data[key])}")
    return Head(data["kind"], _pixels(data["hidden"], "head.hidden", source, MAX_HIDDEN), data["scores"])


def _layer(value: object, architecture: Architecture, source: str) -> str | None:
    names = [layer.name for layer in architecture.layers]
    if value is not None and value not in names:
        raise ConfigError(f"{source}: default_layer must be one of {', '.join(names)}, not {shown(value)}")
    return value


def _color(value: object, key: str, source: str, least: float = -MAX_COLOR) -> tuple[float, float, float]:
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(isinstance(v, int | float) and not isinstance(v, bool) and least <= v <= MAX_COLOR for v in value)
    ):
        raise ConfigError(
            f"{source}: {key} must be three numbers (R, G, B) from {least:g} to {MAX_COLOR:g}, not {shown(value)}"
        )
    red, green, blue = (float(v) for v in value)
    return red, green, blue
