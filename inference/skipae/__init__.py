"""Denoise photos and extract image features with convolutional auto-encoders, by ONNX Runtime.

>>> from skipae import from_pretrained, open_image
>>> model = from_pretrained("skipae-natural", device="auto")
>>> losses = model.denoise(open_image("photo.jpg")).save("clean.jpg")
>>> features = model.features(["a.png", "b.png"], layers=["enc6"])

Importing this package loads neither numpy, Pillow nor ONNX Runtime; :func:`from_pretrained` does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from skipae.errors import DeviceError, ImageError, ModelError, SkipaeError, UsageError

if TYPE_CHECKING:
    from skipae.checkpoints.resolve import list_models
    from skipae.engine.tiling import Tiling
    from skipae.images import Loss, Picture, open_image
    from skipae.integrations.sklearn import FeatureExtractor as FeatureExtractor
    from skipae.model import Layer, Model, from_pretrained
    from skipae.options import DenoiseOptions, DrawOptions, FeatureSpec
    from skipae.tasks.labels import LabelMap, Score

__version__ = "0.1.0"

__all__ = [
    "DenoiseOptions",
    "DeviceError",
    "DrawOptions",
    "FeatureSpec",
    "ImageError",
    "LabelMap",
    "Layer",
    "Loss",
    "Model",
    "ModelError",
    "Picture",
    "Score",
    "SkipaeError",
    "Tiling",
    "UsageError",
    "__version__",
    "from_pretrained",
    "list_models",
    "open_image",
]

_HOMES = {
    "DenoiseOptions": "skipae.options",
    "DrawOptions": "skipae.options",
    "FeatureSpec": "skipae.options",
    "LabelMap": "skipae.tasks.labels",
    "Layer": "skipae.model",
    "Loss": "skipae.images",
    "Model": "skipae.model",
    "Picture": "skipae.images",
    "Score": "skipae.tasks.labels",
    "Tiling": "skipae.engine.tiling",
    "from_pretrained": "skipae.model",
    "list_models": "skipae.checkpoints.resolve",
    "open_image": "skipae.images",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "FeatureExtractor":  # not in __all__: import * must work without scikit-learn
        try:
            from skipae.integrations.sklearn import FeatureExtractor
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] != "sklearn":
                raise
            from skipae.install import install_command

            raise ImportError(f"FeatureExtractor needs scikit-learn: {install_command('sklearn')}") from error
        return FeatureExtractor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "FeatureExtractor"])
