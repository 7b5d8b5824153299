"""Entry point for PyInstaller, which asks a package where its hook is."""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Return the folder of ``hook-skipae.py``."""
    return [str(Path(__file__).parent)]
