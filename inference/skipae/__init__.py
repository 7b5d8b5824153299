"""Denoise photos and extract image features with convolutional auto-encoders, by ONNX Runtime.

>>> from skipae import from_pretrained
>>> model = from_pretrained("skipae-natural", device="auto")
>>> clean = model.denoise("photo.png")
>>> features = model.features(["a.png", "b.png"], layers=["enc6"])

Importing this package loads neither numpy, Pillow nor ONNX Runtime; :func:`from_pretrained` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipae.errors import DeviceError, ImageError, ModelError, SkipaeError, UsageError

if TYPE_CHECKING:
    from skipae.model import Model, from_pretrained
    from skipae.transformer import FeatureExtractor as FeatureExtractor

__version__ = "0.1.0"

__all__ = [
    "DeviceError",
    "ImageError",
    "Model",
    "ModelError",
    "SkipaeError",
    "UsageError",
    "__version__",
    "from_pretrained",
]


def __getattr__(name: str) -> object:
    if name in {"Model", "from_pretrained"}:
        from skipae import model

        return getattr(model, name)
    if name == "FeatureExtractor":  # not in __all__: import * must work without scikit-learn
        try:
            from skipae.transformer import FeatureExtractor
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] != "sklearn":
                raise
            raise ImportError('FeatureExtractor needs scikit-learn: pip install "skipae[sklearn]"') from error
        return FeatureExtractor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "FeatureExtractor"])
