"""What PyInstaller asks a package for: where its hook is."""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """The folder with ``hook-skipae.py``."""
    return [str(Path(__file__).parent)]
