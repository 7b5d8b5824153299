"""The packages of the extra ``16bit``."""

from __future__ import annotations

from importlib.util import find_spec

from skipae.errors import ImageError


def has_16bit() -> bool:
    """Whether the extra is installed."""
    return find_spec("imagecodecs") is not None and find_spec("tifffile") is not None


def require_16bit() -> None:
    """Refuse a file of 16 bits per color, with the command to type, where the extra is not installed."""
    if not has_16bit():
        from skipae.install import install_command

        raise ImageError(
            f"has 16 bits per color, of which 8 would be lost: to keep them, type: {install_command('16bit')}"
        )
