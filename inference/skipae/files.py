"""Write files completely or not at all, and lock folders that only one process may write."""

from __future__ import annotations

import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from skipae.errors import ImageError, UsageError

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed
    fcntl = None  # type: ignore[assignment]

PART = ".skipae-*.part"
"""Pattern of the names of files that are being written."""


class ExistsError(ImageError):
    """Another file has the name of the output."""

    @classmethod
    def of(cls, path: Path | None) -> ExistsError:
        """Return the error for an output."""
        return cls("{path!s} already exists; use {overwrite} to replace it", path=path, overwrite=True)

    @classmethod
    def of_several(cls, path: Path, count: int, *, resumable: bool) -> ExistsError:
        """Return the error for ``count`` outputs, of which ``path`` is the first."""
        text = "{count!s} outputs already exist, the first is {path!s}; use {overwrite} to replace them"
        skip = ", or {resume} to skip them" if resumable else ""
        return cls(text + skip, count=count, path=path, overwrite=True, resume=True)


def write_atomically(path: Path, write: Callable[[BinaryIO], object], *, overwrite: bool = True) -> None:
    """Call ``write`` with a temporary file that becomes ``path`` on success and is removed on failure.

    The folder is created if needed.  The finished file survives a loss of power.  A replaced file passes its
    permissions on to the new one; a symbolic link is replaced, and its target is kept.

    Args:
        path: path of the output.
        write: writes its content.
        overwrite: whether an existing file is replaced, even one that appears during ``write``.

    Raises:
        ExistsError: the file exists, and ``overwrite`` is false.
        ImageError: the file cannot be written; the message is one line.
    """
    try:
        if os.path.lexists(path.parent) and not path.parent.is_dir():
            raise ImageError(f"cannot write {path}: {path.parent} is not a folder")
        replace_file(path, write, overwrite=overwrite)
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror or error}") from error


def replace_file(path: Path, write: Callable[[BinaryIO], object], *, overwrite: bool = True) -> None:
    """Do as :func:`write_atomically`, but raise the system's own :class:`OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _part(path.parent) as (part, file):
        write(file)
        file.flush()
        os.fsync(file.fileno())
        if overwrite:
            _keep_permissions(path, part)
        if fcntl is None:
            file.close()  # an open file cannot be renamed
        _name(part, path, overwrite)  # elsewhere while it is locked


def flaw_of_folder(folder: Path) -> str | None:
    """Return why a folder, or its closest existing parent, is not writable; None if it is."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            return f"{folder} is not a folder"
        with _part(folder):  # permissions are not reliable on all file systems
            pass
    except OSError as error:
        return error.strerror or str(error)
    return None


def remove_parts(folder: Path) -> int:
    """Remove incomplete files of killed runs from a folder; files that a live process is writing are kept.

    Returns:
        Number of files removed.
    """
    removed = 0
    for part in folder.glob(PART):
        with suppress(OSError):  # owned by another user, or on a file system without locks
            if not stat.S_ISREG(part.lstat().st_mode):
                continue
            with part.open("rb") as file:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    part.unlink()
                    removed += 1
            if fcntl is None:
                part.unlink()
                removed += 1
    return removed


@contextmanager
def lock(path: Path, **argument: str) -> Iterator[None]:
    """Hold a lock file, which is removed at the end; a lock file left by a killed process is taken over.

    Args:
        path: path of the lock file.
        **argument: the argument that names the output, for the message.

    Raises:
        UsageError: another process holds the lock; the message names the argument and the process.
        OSError: the lock file cannot be created.
    """
    (name,) = argument
    file: IO[bytes] | None = None
    try:  # around all of it, because a signal's exception may come after any call
        while True:
            file = path.open("a+b")
            try:
                _take(file)
            except BlockingIOError:
                with file:
                    file.seek(0)
                    holder = file.read(200).decode(errors="replace").strip() or "that has just started"
                raise UsageError(
                    f"{{{name}}} is being written by another run, process {{holder!s}}: "
                    f"wait until it ends, or use another {{{name}:name}}",
                    holder=holder,
                    **argument,
                ) from None
            if _is_at(path, file):  # the previous holder may have removed it between the two calls
                break
            file.close()
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        yield
    finally:
        _release(path, file)


def _release(path: Path, file: IO[bytes] | None) -> None:
    """Remove a lock file, unless another process holds it."""
    with suppress(OSError):
        if file is None or file.closed:
            file = path.open("r+b")
        with file:
            _take(file)
            if fcntl is not None and _is_at(path, file):
                path.unlink()
    if fcntl is None:
        with suppress(OSError):  # another process has it open
            path.unlink()


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Return whether an open file still has its name."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _take(file: IO[bytes]) -> None:
    """Lock a file; :class:`BlockingIOError` if another process holds the lock."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            return
    else:
        import msvcrt

        file.seek(1 << 20)  # beyond the part that is read, because a locked part cannot be read
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            raise BlockingIOError from None


@contextmanager
def _part(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a new file, locked so that :func:`remove_parts` of another process leaves it; at the end it is removed.

    A signal's exception may come after any call.  So the name is known before there is a file, and nothing is called
    before it is removed.
    """
    while True:
        # Short, because the output's name may be as long as the file system allows.
        part = folder / f".skipae-{secrets.token_hex(8)}.part"
        name = str(part)
        try:
            try:
                file = part.open("xb")
            except FileExistsError:  # of another process
                name = ""
                raise
            with file:
                if fcntl is not None:
                    with suppress(OSError):  # a file system without locks, or remove_parts holds the lock
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    if not os.fstat(file.fileno()).st_nlink:
                        continue
                yield part, file
                return
        finally:
            try:
                if name:
                    os.unlink(name)  # noqa: PTH108
            except FileNotFoundError:  # it has its name
                pass


def _keep_permissions(path: Path, part: Path) -> None:
    with suppress(OSError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            part.chmod(stat.S_IMODE(status.st_mode) & 0o777)


def _name(part: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        part.replace(path)
        return
    try:
        os.link(part, path)
    except FileExistsError:
        raise ExistsError.of(path) from None
    except (OSError, AttributeError):  # a file system without hard links
        if os.path.lexists(path):
            raise ExistsError.of(path) from None
        part.replace(path)
