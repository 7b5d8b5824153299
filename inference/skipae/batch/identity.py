"""Detect files that changed since they were read or written."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Any

from skipae.errors import ImageError


def identify(source: Path | bytes) -> dict[str, Any]:
    """Describe a file so that changes can be detected: sha256 (None for a pipe), size in bytes, and time.

    Raises:
        ImageError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return {"sha256": hashlib.sha256(source).hexdigest()}
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):
            return {"sha256": None}
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    return {"sha256": sha256, "size": status.st_size, "mtime": status.st_mtime_ns}


def is_unchanged(path: Path, about: object) -> bool:
    """Return whether a file still matches its :func:`identify`; the content is read only if the time differs."""
    if not isinstance(about, dict):
        return False
    if about.get("sha256") is None:  # read once
        return True
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != about.get("size", status.st_size):
            return False
        return status.st_mtime_ns == about.get("mtime") or identify(path)["sha256"] == about["sha256"]
    except (OSError, ImageError):
        return False
