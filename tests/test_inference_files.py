"""Files that are whole or not there, left-overs of killed runs, locks."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from skipae import ImageError, UsageError, files
from skipae.files import ExistsError, flaw_of_folder, lock, remove_parts, write_atomically


def write_bytes(data: bytes) -> Callable[[Any], None]:
    return lambda file: file.write(data)


def test_atomic_writing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.png"
    write_atomically(path, write_bytes(b"one"))
    assert path.read_bytes() == b"one"
    (tmp_path / "probe").touch()
    assert path.stat().st_mode == (tmp_path / "probe").stat().st_mode

    def full(file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ImageError, match=r"cannot write .*x\.png: No space left on device"):
        write_atomically(path, full)

    def interrupted(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert [child.name for child in path.parent.iterdir()] == ["x.png"]
    assert path.read_bytes() == b"one"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file that nobody closes
@pytest.mark.parametrize("call", ["open", "flock"])
def test_a_signal_right_after_a_part_was_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    owner = Path if call == "open" else pytest.importorskip("fcntl")
    original = getattr(owner, call)

    def interrupted(*arguments: Any) -> None:
        original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, call, interrupted)
    for write in (lambda: write_atomically(tmp_path / "x.png", write_bytes(b"one")), lambda: flaw_of_folder(tmp_path)):
        with pytest.raises(KeyboardInterrupt):
            write()
        assert not list(tmp_path.iterdir())


def test_atomic_writing_beside_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))
    monkeypatch.setattr(secrets, "token_hex", lambda size: "1" * 2 * size)
    other = tmp_path / ".skipae-1111111111111111.part"
    other.write_text("of another process")
    with pytest.raises(ImageError, match=r"cannot write .*x\.png: File exists"):
        write_atomically(tmp_path / "x.png", write_bytes(b"one"))
    assert other.read_text() == "of another process" and not synced
    monkeypatch.setattr(secrets, "token_hex", lambda size: "2" * 2 * size)
    write_atomically(tmp_path / "x.png", write_bytes(b"one"))
    assert synced == [3]  # whole before it has its name
    assert sorted(child.name for child in tmp_path.iterdir()) == [other.name, "x.png"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"

    def meanwhile(file: Any) -> None:
        file.write(b"ours")
        path.write_bytes(b"theirs")

    with pytest.raises(ExistsError, match=r"x\.png already exists; use overwrite=True"):
        write_atomically(path, meanwhile, overwrite=False)
    assert path.read_bytes() == b"theirs" and list(tmp_path.iterdir()) == [path]
    write_atomically(path, meanwhile)
    assert path.read_bytes() == b"ours"

    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", unsupported)  # FAT, some network shares
    with pytest.raises(ExistsError):
        write_atomically(path, meanwhile, overwrite=False)
    path.unlink()
    write_atomically(path, write_bytes(b"ours"), overwrite=False)
    assert path.read_bytes() == b"ours" and list(tmp_path.iterdir()) == [path]


def test_permissions_outlast_overwriting_and_links_are_not_followed(tmp_path: Path) -> None:
    path, link = tmp_path / "x.png", tmp_path / "link.png"
    path.write_bytes(b"old")
    path.chmod(0o600)
    write_atomically(path, write_bytes(b"new"))
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o600
    link.symlink_to(path)
    write_atomically(link, write_bytes(b"more"))
    assert path.read_bytes() == b"new" and not link.is_symlink() and link.read_bytes() == b"more"


def test_parts_of_killed_runs_are_removed_and_those_of_live_ones_kept(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from skipae.files import write_atomically\n"
        "def write(file):\n"
        "    file.write(b'half'); file.flush(); print('ready', flush=True); sys.stdin.read()\n"
        "write_atomically(Path('x.png'), write)"
    )
    words = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        (part,) = tmp_path.glob(files.PART)
        assert remove_parts(tmp_path) == 0 and part.exists()
        child.kill()
        child.wait()
    assert part.exists()  # a kill leaves it
    (tmp_path / ".skipae-link.part").symlink_to(tmp_path / "mine")
    (tmp_path / "mine").touch()
    assert remove_parts(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".skipae-link.part", "mine"]


def test_a_folder_that_may_not_be_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Python 3.12, ``Path.exists`` raises the error."""

    def refuse(path: Path, **_: object) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    assert flaw_of_folder(Path("private/out")) == "Permission denied"


def test_a_lock_names_its_holder_and_outlives_no_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock(path, output="out"):
        with pytest.raises(
            UsageError, match=rf"^output='out' is being written by another run, process {os.getpid()} on "
        ):
            lock(path, output="out").__enter__()
        assert path.exists()
    assert not path.exists()
    path.write_text("1 on another machine")  # of a process that was killed
    with lock(path, output="out"):
        assert path.read_text().startswith(f"{os.getpid()} on ")
    assert not path.exists()


@pytest.mark.parametrize("call", ["open", "exists", "stat", "unlink"])
def test_an_interrupt_after_any_call_leaves_no_lock_of_ours_and_keeps_that_of_others(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, original = tmp_path / "lock", getattr(Path, call)
    coming = True

    def interrupted(self: Path, *words: Any, **options: Any) -> Any:
        nonlocal coming
        value = original(self, *words, **options)
        if coming:
            coming = False
            if call == "open":
                value.close()  # as the interpreter does with what nobody has yet
            raise KeyboardInterrupt
        return value

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), ExitStack() as stack:
        patch.setattr(Path, call, interrupted)
        stack.enter_context(lock(path, output="out"))
    assert not coming and not path.exists()
    if call == "open":
        with lock(path, output="out"):
            held, coming = path.read_bytes(), True
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(Path, call, interrupted)
                lock(path, output="out").__enter__()
            assert path.read_bytes() == held
