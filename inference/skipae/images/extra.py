"""The extras ``16bit`` and ``heic``: whether their packages are installed, and the command that installs them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from skipae.errors import ImageError

Extra = Literal["16bit", "heic"]

_PACKAGES: dict[Extra, tuple[str, ...]] = {"16bit": ("imagecodecs", "tifffile"), "heic": ("pillow_heif",)}


def has(extra: Extra) -> bool:
    """Return True if the packages of an extra are installed."""
    return all(find_spec(package) is not None for package in _PACKAGES[extra])


def require(extra: Extra, why: str) -> None:
    """Raise an :class:`ImageError` that begins with ``why`` and ends with the command, where it is not installed."""
    if not has(extra):
        from skipae.install import install_command

        raise ImageError(f"{why}, type: {install_command(extra)}")


def require_16bit() -> None:
    """Raise an :class:`ImageError` for a file of 16 bits per color if the extra ``16bit`` is not installed."""
    require("16bit", "has 16 bits per color, of which 8 would be lost: to keep them")
