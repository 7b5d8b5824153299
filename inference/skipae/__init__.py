"""Denoise photos with convolutional auto-encoders, by ONNX Runtime.

>>> from skipae import from_pretrained
>>> model = from_pretrained("skipae-natural", device="auto")
>>> clean = model.denoise("photo.png")

Importing this package loads neither numpy, Pillow nor ONNX Runtime; :func:`from_pretrained` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipae.errors import DeviceError, ImageError, ModelError, SkipaeError, UsageError

if TYPE_CHECKING:
    from skipae.model import Model, from_pretrained

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
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
