"""Read the files of a checkpoint folder, which may contain links, pipes and files of any size."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

MAX_TEXT = 4 << 20
"""Maximum size of ``config.json`` and of a card, in bytes."""


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be opened, or it is, or links to, a folder, pipe or device.
    """
    # O_NONBLOCK: opening a pipe would wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_text_file(path: Path) -> str:
    """Return the UTF-8 text of a small file.

    Raises:
        OSError: it cannot be read or is larger than :data:`MAX_TEXT`.
        UnicodeDecodeError: it is not UTF-8.
    """
    with open_regular(path) as file:
        data = file.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise OSError(errno.EFBIG, f"larger than {MAX_TEXT >> 20} MiB", str(path))
    return data.decode()


def sha256(path: Path) -> str:
    """Return the sha256 of a regular file, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
