"""Reading the files of a checkpoint folder, which may hold links, pipes and files of any size."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

MAX_TEXT = 4 << 20
"""Most bytes of ``config.json`` and of a card."""


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; :class:`OSError` where it is a folder, pipe or device, or leads to one."""
    # O_NONBLOCK: to open a pipe would wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_text_file(path: Path) -> str:
    """The UTF-8 text of a small file; :class:`OSError` or :class:`UnicodeDecodeError` where it is none."""
    with open_regular(path) as file:
        data = file.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise OSError(errno.EFBIG, f"larger than {MAX_TEXT >> 20} MiB", str(path))
    return data.decode()


def sha256(path: Path) -> str:
    """Hex digest of a regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
