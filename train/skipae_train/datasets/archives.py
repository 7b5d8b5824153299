"""CIFAR-10, CIFAR-100 and STL-10 as their authors publish them: unpacked folders, or the ``.tar.gz`` itself."""

from __future__ import annotations

import io
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipae_train.data import DataError, require_file
from skipae_train.datasets.sets import MemorySet
from skipae_zoo import shown

Bytes = NDArray[np.uint8]
_CIFAR_SITE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_STL_SITE = "https://cs.stanford.edu/~acoates/stl10/"
_LARGEST = {"unlabeled_X.bin": 4 << 30, ".bin": 1 << 28, ".txt": 1 << 20, "": 1 << 28}
"""Most bytes of a file, by the end of its name; STL-10's unlabeled images are 2.8 GB, and no other has 230 MB."""

_OPERATIONS = (
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT",
    "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT",
    "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
)  # fmt: skip
"""Operations of pickles that make containers, texts, numbers and what :data:`_GLOBALS` lists."""


@dataclass(frozen=True)
class _Cifar:
    """Names and layout of the files of a CIFAR set."""

    python: tuple[str, str, str]
    """Folder, archive and description of the pickled form."""
    binary: tuple[str, str, str]
    """The same of the binary form; its batches end in ``.bin``, its description is one class name per line."""
    batches: dict[str, list[str]]
    labels: str
    """Key of a pickled batch."""
    names: str
    """Key of the pickled description."""
    skip: int
    """Label bytes of a binary record before the one wanted."""


_CIFAR10 = _Cifar(
    ("cifar-10-batches-py", "cifar-10-python.tar.gz", "batches.meta"),
    ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", "batches.meta.txt"),
    {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    "labels",
    "label_names",
    skip=0,
)
_CIFAR100 = _Cifar(
    ("cifar-100-python", "cifar-100-python.tar.gz", "meta"),
    ("cifar-100-binary", "cifar-100-binary.tar.gz", "fine_label_names.txt"),
    {"train": ["train"], "test": ["test"]},
    "fine_labels",
    "fine_label_names",
    skip=1,
)


def cifar10(root: Path, split: str) -> MemorySet:
    """Return CIFAR-10: ``train`` (50,000) or ``test`` (10,000), 32 x 32.

    Below ``root``: ``cifar-10-batches-py``, ``cifar-10-batches-bin``, or an archive of either.
    """
    return _cifar(_CIFAR10, root, split)


def cifar100(root: Path, split: str) -> MemorySet:
    """Return CIFAR-100 with its 100 fine classes: ``train`` (50,000) or ``test`` (10,000), 32 x 32.

    Below ``root``: ``cifar-100-python``, ``cifar-100-binary``, or an archive of either.
    """
    return _cifar(_CIFAR100, root, split)


def stl10(root: Path, split: str) -> MemorySet:
    """Return STL-10: ``train`` (5,000), ``test`` (8,000) or ``unlabeled`` (100,000, 2.8 GB in memory), 96 x 96.

    Below ``root``: ``stl10_binary`` or ``stl10_binary.tar.gz``.
    """
    labeled = _check_split(split, ("train", "test", "unlabeled")) != "unlabeled"
    wanted = [f"{split}_X.bin", *([f"{split}_y.bin"] if labeled else []), "class_names.txt"]
    where, files = _stl(root, wanted)
    pixels = files[f"{split}_X.bin"]
    if not len(pixels) or len(pixels) % (3 * 96 * 96):
        raise _damaged(
            where, f"{split}_X.bin", f"{len(pixels)} bytes are not a whole number of 96 x 96 images", _STL_SITE
        )
    # Column-major in the file: a view, so that 2.8 GB are not copied.
    images = torch.from_numpy(pixels).view(-1, 3, 96, 96).transpose(-1, -2)
    classes = tuple(_text(files["class_names.txt"].tobytes()).split())
    if not labeled:
        return MemorySet(images, None, classes)
    labels = torch.from_numpy(files[f"{split}_y.bin"]).long() - 1
    _check_labels(where, f"{split}_y.bin", labels, len(images), len(classes), _STL_SITE, first=1)
    return MemorySet(images, labels, classes)


FOLDS = 10
"""Folds of STL-10's training set."""


def stl10_folds(root: Path) -> list[Tensor]:
    """Return the ten folds of STL-10's training set, each as positions, int64 [1000]."""
    where, files = _stl(root, ["fold_indices.txt", "train_y.bin"])
    try:
        folds = [np.array(line.split(), np.int64) for line in files["fold_indices.txt"].tobytes().decode().splitlines()]
    except (ValueError, OverflowError) as error:
        raise _damaged(where, "fold_indices.txt", str(error), _STL_SITE) from None
    images = len(files["train_y.bin"])
    if len(folds) != FOLDS:
        raise _damaged(where, "fold_indices.txt", f"it has {len(folds)} folds instead of {FOLDS}", _STL_SITE)
    if any(len(fold) == 0 or fold.min() < 0 or fold.max() >= images for fold in folds):
        raise _damaged(where, "fold_indices.txt", f"a fold is empty or points past the {images} images", _STL_SITE)
    return [torch.from_numpy(fold) for fold in folds]


def _cifar(spec: _Cifar, root: Path, split: str) -> MemorySet:
    batches = spec.batches[_check_split(split, tuple(spec.batches))]
    python, binary = [*batches, spec.python[2]], [*(f"{name}.bin" for name in batches), spec.binary[2]]
    where, files = _read(root, [(*spec.python[:2], python), (*spec.binary[:2], binary)], _CIFAR_SITE)
    *names, meta = files
    parse = _binary_batches if meta == spec.binary[2] else _pickled_batches
    classes, batches_read = parse(spec, where, files, meta)
    for name, (rows, labels) in zip(names, batches_read, strict=True):
        _check_labels(where, name, labels, len(rows), len(classes), _CIFAR_SITE)
    images = np.concatenate([rows for rows, _ in batches_read]).reshape(-1, 3, 32, 32)
    return MemorySet(torch.from_numpy(images), torch.cat([labels for _, labels in batches_read]), classes)


def _binary_batches(
    spec: _Cifar, where: Path, files: dict[str, Bytes], meta: str
) -> tuple[tuple[str, ...], list[tuple[Bytes, Tensor]]]:
    """Return class names, and per batch the pixels, uint8 [N, 3072], and the labels."""
    size, batches = spec.skip + 1 + 3072, []
    for name, data in files.items():
        if name != meta:
            if not len(data) or len(data) % size:
                raise _damaged(
                    where, name, f"{len(data)} bytes are not a whole number of {size}-byte records", _CIFAR_SITE
                )
            records = data.reshape(-1, size)
            batches.append((records[:, -3072:], torch.from_numpy(records[:, spec.skip].astype(np.int64))))
    return tuple(_text(files[meta].tobytes()).split()), batches


def _pickled_batches(
    spec: _Cifar, where: Path, files: dict[str, Bytes], meta: str
) -> tuple[tuple[str, ...], list[tuple[Bytes, Tensor]]]:
    """Return the same of pickles."""
    described = _unpickle(where, meta, files[meta], spec.names)
    classes = described[spec.names]
    if not (isinstance(classes, list) and all(isinstance(name, str | bytes) for name in classes)):
        raise _damaged(where, meta, f"its {spec.names} are not a list of names", _CIFAR_SITE)
    batches = []
    for name, data in files.items():
        if name != meta:
            batch = _unpickle(where, name, data, "data", spec.labels)
            rows, labels = batch["data"], batch[spec.labels]
            if not isinstance(rows, _Array):
                raise _damaged(where, name, f"its data is {type(rows).__name__}, not uint8 [N, 3072]", _CIFAR_SITE)
            rows = rows.values
            if rows.ndim != 2 or rows.shape[1] != 3072 or not len(rows):
                found = f"uint8 {list(rows.shape)}" if rows.size else "not filled"
                raise _damaged(where, name, f"its data is {found}, not uint8 [N, 3072]", _CIFAR_SITE)
            count = described.get("num_cases_per_batch", len(rows))  # CIFAR-100 does not state it
            if type(count) is not int or count != len(rows):
                raise _damaged(where, name, f"it has {len(rows)} images, {meta} says {_shown(count)}", _CIFAR_SITE)
            if not (isinstance(labels, list) and all(type(label) is int and abs(label) < 2**31 for label in labels)):
                raise _damaged(where, name, f"its {spec.labels} are not a list of numbers", _CIFAR_SITE)
            batches.append((rows, torch.tensor(labels, dtype=torch.int64)))
    return tuple(_text(name) for name in classes), batches


def _stl(root: Path, wanted: list[str]) -> tuple[Path, dict[str, Bytes]]:
    return _read(root, [("stl10_binary", "stl10_binary.tar.gz", wanted)], _STL_SITE)


def _read(root: Path, places: Sequence[tuple[str, str, list[str]]], site: str) -> tuple[Path, dict[str, Bytes]]:
    """Return the wanted files of the first folder or archive that exists, in the order asked for, and where it is."""
    for folder, archive, wanted in places:
        if (root / folder).is_dir():
            return root / folder, {name: _read_file(root / folder / name, site) for name in wanted}
        if (root / archive).is_file():
            return root / archive, _read_archive(root / archive, wanted, site)
    expected = ", ".join(name for folder, archive, _ in places for name in (folder, archive))
    raise DataError(
        f"{root} contains none of {expected}: --data must be the folder that contains one of them; get it at {site}"
    )


def _read_file(path: Path, site: str) -> Bytes:
    require_file(path)
    try:
        _check_size(path.parent, path.name, path.stat().st_size, site)
        return np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise _damaged(path.parent, path.name, "it is missing", site) from None


def _read_archive(path: Path, wanted: list[str], site: str) -> dict[str, Bytes]:
    found: dict[str, Bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                if name in wanted and member.isfile() and (source := archive.extractfile(member)):
                    _check_size(path, name, member.size, site)
                    found[name] = _fill(source, member.size)
                if len(found) == len(wanted):
                    break
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is truncated or not a tar.gz ({error}): download it again from {site}") from error
    missing = [name for name in wanted if name not in found]
    if missing:
        raise _damaged(path, missing[0], "it is missing", site)
    return {name: found[name] for name in wanted}


def _check_size(where: Path, name: str, size: int, site: str) -> None:
    most = next(most for end, most in _LARGEST.items() if name.endswith(end))
    if size > most:
        raise _damaged(where, name, f"it would take {size:,} bytes, which no file does", site)


def _fill(source: Any, size: int) -> Bytes:
    """Return ``size`` bytes of a stream, without a second copy (STL-10's unlabeled images are 2.8 GB)."""
    data = np.empty(size, np.uint8)
    view, done = data.data, 0
    while done < size:
        read = source.readinto(view[done:])
        if not read:
            raise EOFError(f"{done} of {size} bytes")
        done += read
    return data


def _unpickle(where: Path, name: str, data: Bytes, *keys: str) -> dict[str, Any]:
    """Load a pickle of byte arrays, lists, strings and numbers; anything else in it is an error and is not run."""
    try:
        _check_pickle(data)
        unpickler = _Unpickler(io.BytesIO(data.data), encoding="bytes")
        unpickler.left = len(data)
        loaded = unpickler.load()
    except DataError as error:
        raise _damaged(where, name, str(error), _CIFAR_SITE) from None
    except Exception as error:  # damaged pickles raise nearly anything
        raise _damaged(where, name, f"it is not a complete pickle ({error})", _CIFAR_SITE) from error
    stored = loaded.items() if isinstance(loaded, dict) else ()
    entries = {_text(key): value for key, value in stored if isinstance(key, str | bytes)}
    missing = [key for key in keys if key not in entries]
    if missing:
        raise _damaged(where, name, f"it has no {missing[0]!r}", _CIFAR_SITE)
    return entries


def _check_pickle(data: Bytes) -> None:
    """Refuse operations that take time or memory out of proportion; :class:`DataError` names them."""
    for done, (operation, argument, _) in enumerate(pickletools.genops(io.BytesIO(data.data))):
        name = operation.name
        if name not in _OPERATIONS:
            raise DataError(f"it holds the operation {name}, which no CIFAR file needs")
        # Pickle's table of earlier values has as many places as the largest number.
        if name.endswith("PUT") and isinstance(argument, int) and not 0 <= argument <= done:
            raise DataError(f"it numbers a value {argument} that is the {done}th at most")
        # Of larger ones many have one hash value, so that a dict of them takes quadratic time.
        if isinstance(argument, int) and argument.bit_length() > 63:
            raise DataError("it holds a number of more than 64 bits")


def _text(stored: str | bytes) -> str:
    """Return a string of Python 2 or 3."""
    return stored.decode(errors="replace") if isinstance(stored, bytes) else stored


class _Unpickler(pickle.Unpickler):
    """Knows the names that CIFAR's pickles use, and those that Python 3 and numpy 2 write for the same, no others.

    A name never resolves to numpy's own class: a pickle may set the state of everything it creates, and numpy would
    interpret raw bytes as pointers.
    """

    def find_class(self, module: str, name: str) -> _Global:
        """Look a global up in the list of allowed ones."""
        return _Global(f"{module}.{name}", self)

    left: int
    """Bytes that texts may still be turned into."""


class _Global:
    """The object that a pickle gets for a name: callable as far as CIFAR needs it, and immutable."""

    def __init__(self, name: str, unpickler: _Unpickler) -> None:
        if name not in _GLOBALS:
            raise DataError(f"it asks for {shown(name)}, which no CIFAR file needs")
        self._call = partial(_encode, unpickler) if name == "_codecs.encode" else _GLOBALS[name]

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise DataError("it sets the state of a function, which no CIFAR file needs")


class _Uint8:
    """Replaces numpy's dtype; only bytes are allowed."""

    def __init__(self, kind: object, *_: object) -> None:
        if not isinstance(kind, str | bytes) or kind not in ("u1", b"u1"):
            raise DataError(f"it holds an array of type {_shown(kind)}, not of bytes (u1)")

    def __setstate__(self, state: object) -> None:
        """Ignore byte order, fields and flags, which bytes have none of."""


class _Array:
    """Replaces numpy's array, of bytes."""

    def __init__(self, *_: object) -> None:
        self.values: Bytes = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[object, tuple[int, ...], object, bool, object]) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Uint8) or type(data) is not bytes:
            raise DataError("it holds an array of something else than bytes")
        self.values = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def _no_array(*_: object) -> object:
    raise DataError("it makes an array that is never filled")


def _encode(unpickler: _Unpickler, text: object, *_: object) -> bytes:
    """Return the bytes of a text, which are no more in all than the file has: one text may be named many times."""
    if not isinstance(text, str) or len(text) > unpickler.left:
        raise DataError("it makes more bytes than it holds")
    unpickler.left -= len(text)
    return text.encode("latin-1")


def _shown(value: object) -> str:
    """Return a value in a message; a container may hold itself many times over, so that its text has no end."""
    return shown(value) if isinstance(value, str | bytes | int | float | None) else f"a {type(value).__name__}"


_GLOBALS: dict[str, Callable[..., object]] = {
    "numpy.dtype": _Uint8,
    "numpy.ndarray": _no_array,  # named as the class that _reconstruct creates
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "_codecs.encode": _no_array,  # how Python 3 writes bytes for Python 2: see _encode
}


def _check_split(split: str, allowed: tuple[str, ...]) -> str:
    if split not in allowed:
        raise DataError(f"unknown split {split!r}; use one of {', '.join(allowed)}")
    return split


def _check_labels(where: Path, name: str, labels: Tensor, images: int, classes: int, site: str, first: int = 0) -> None:
    """Check that there is one label per image, each in [0, classes); ``first`` is what the file calls class 0."""
    if labels.ndim != 1 or len(labels) != images:
        raise _damaged(where, name, f"it has {len(labels)} labels for {images} images", site)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = (low if low < 0 else high) + first
        raise _damaged(where, name, f"label {wrong} is out of range {first}..{classes - 1 + first}", site)


def _damaged(where: Path, name: str, why: str, site: str) -> DataError:
    return DataError(f"{where / name} cannot be used: {why}; download the set again from {site}")
