"""Folders of images: ILSVRC, Tiny-ImageNet, their subsets by WordNet hypernym, classes as folders, any folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.resources import files as package_files
from pathlib import Path
from zlib import crc32

import torch
from PIL import Image
from torch import Tensor

from skipae_train.data import DataError, find_images, open_rgb
from skipae_train.datasets.sets import StreamedSet

_SYNSET = re.compile(r"n\d{8}")


class FileSet(StreamedSet):
    """Image files, decoded when they are drawn."""

    def __init__(
        self, files: Sequence[Path], labels: Tensor | None, classes: Sequence[str], *, short_side: int
    ) -> None:
        super().__init__(labels, classes, len(files), short_side=short_side)
        self.files = files

    def _name(self, row: int) -> str:
        return str(self.files[row])

    def _open(self, row: int) -> Image.Image:
        return open_rgb(self.files[row], self.files[row], self.short_side)


def image_folder(folder: Path, *, short_side: int = 256) -> FileSet:
    """All images below a folder, without labels."""
    return FileSet(find_images(folder), None, (), short_side=short_side)


def class_folder(folder: Path, *, short_side: int = 0) -> FileSet:
    """Images in one folder per class (``folder/<class>/...``), classes in alphabetical order."""
    files = find_images(folder)
    stray = next((file for file in files if file.parent == folder), None)
    if stray:
        raise DataError(f"{stray} lies in no class folder: move it into one, or remove it")
    return _labelled(files, [file.relative_to(folder).parts[0] for file in files], short_side)


def own(root: Path, split: str, read: Callable[[Path], FileSet]) -> StreamedSet:
    """The split ``train`` or ``test`` of anyone's images, which ``read`` finds in a folder.

    Folders ``train`` and ``test`` (or ``val``, ``validation``) below ``root`` are the splits.  Where there is no
    ``train``, all images are read from ``root``, and one in ten is kept for the test: a checksum of its name decides,
    so that it stays there when images are added.
    """
    if (root / "train").is_dir():
        tests = [root / name for name in ("test", "val", "validation") if (root / name).is_dir()]
        if not tests:
            raise DataError(f"{root} has a folder train, but none called test, val or validation: add one to test on")
        train, test = read(root / "train"), read(tests[0])
        if test.classes != train.classes:
            odd = sorted(set(test.classes) ^ set(train.classes))
            raise DataError(f"{tests[0]} and {root / 'train'} must have the same classes, but {odd[0]} is in one alone")
        return test if split == "test" else train
    images = read(root)
    kept = torch.tensor([crc32(file.name.encode()) % 10 == 0 for file in images.files])
    if kept.all() or not kept.any():
        raise DataError(
            f"{root} holds {len(kept)} image(s), too few to keep one in ten apart: add folders train and test"
        )
    return images.subset((kept if split == "test" else ~kept).nonzero().flatten())


def imagenet(folder: Path, split: str, *, hypernym: str | None = None, short_side: int = 256) -> FileSet:
    """ImageNet, labelled by synset: ``folder/<split>`` with ILSVRC's class folders, or Tiny-ImageNet's layout.

    The synset of an image is the last WordNet id (``n`` and eight digits) in its path below the split, or what
    ``val_annotations.txt`` says.  With ``hypernym``, only images of synsets in :func:`synsets` are kept.
    """
    at = folder / split
    files = find_images(at)
    listed = at / "val_annotations.txt"
    named = _annotations(listed, at) if listed.exists() else {}
    keys = []
    for file in files:
        below = str(file.relative_to(at))
        key = named.get(file.name) or (_SYNSET.findall(below) or [None])[-1]
        if key is None:
            raise DataError(f"{file} has no WordNet id in its path (as n01440764): sort the images into class folders")
        keys.append(key)
    if hypernym is not None:
        wanted = synsets(hypernym)
        kept = [(file, key) for file, key in zip(files, keys, strict=True) if key in wanted]
        if not kept:
            raise DataError(f"none of the {len(files)} images below {at} is a hyponym of {hypernym}")
        files, keys = [file for file, _ in kept], [key for _, key in kept]
    return _labelled(files, keys, short_side)


def synsets(hypernym: str) -> frozenset[str]:
    """ImageNet ids of the hyponyms of ``vehicle`` ("conveyance, transport") or ``animal`` ("mammal" or "bird")."""
    folder = package_files(__package__) / "wordnet"
    known = sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt"))
    if hypernym not in known:
        raise DataError(f"there is no list of hyponyms of {hypernym!r}: choose one of {', '.join(known)}")
    text = (folder / f"{hypernym}.txt").read_text()
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


def _annotations(path: Path, folder: Path) -> dict[str, str]:
    """File name -> synset, as Tiny-ImageNet's validation set states it."""
    named = {}
    for line in path.read_text().splitlines():
        fields = line.split("\t")
        if len(fields) < 2 or not _SYNSET.fullmatch(fields[1]):
            raise DataError(f"{path} has the line {line!r}, not 'FILE<tab>SYNSET<tab>...': unpack the set again")
        named[fields[0]] = fields[1]
    there = {entry.name for entry in (folder / "images").iterdir()}
    missing = sorted(set(named) - there)
    if missing:
        raise DataError(f"{folder / 'images' / missing[0]} is missing, but {path.name} names it: unpack the set again")
    return named


def _labelled(files: Sequence[Path], keys: Sequence[str], short_side: int) -> FileSet:
    classes = sorted(set(keys))
    number = {key: index for index, key in enumerate(classes)}
    return FileSet(files, torch.tensor([number[key] for key in keys]), classes, short_side=short_side)
