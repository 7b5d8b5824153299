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

from skipae_train.data import IMAGE_SUFFIXES, DataError, find_images, is_hidden, open_rgb, read_text
from skipae_train.datasets.sets import MEMORY, StreamedSet
from skipae_zoo import shown

_SYNSET = re.compile(r"n\d{8}")


class FileSet(StreamedSet):
    """Image files, decoded when they are drawn."""

    def __init__(
        self,
        files: Sequence[Path],
        labels: Tensor | None,
        classes: Sequence[str],
        *,
        short_side: int,
        memory: int = MEMORY,
    ) -> None:
        super().__init__(labels, classes, len(files), short_side=short_side, memory=memory)
        self.files = files

    def _name(self, row: int) -> str:
        return str(self.files[row])

    def _open(self, row: int) -> Image.Image:
        return open_rgb(self.files[row], self.files[row], self.short_side)


def image_folder(folder: Path, *, short_side: int = 256) -> FileSet:
    """Return all images below a folder, without labels."""
    return FileSet(find_images(folder), None, (), short_side=short_side)


def class_folder(folder: Path, *, short_side: int = 0) -> FileSet:
    """Return images in one folder per class (``folder/<class>/...``), classes in alphabetical order."""
    there = [at for at in folder.iterdir() if not is_hidden(at.name)] if folder.is_dir() else []
    stray = next((at for at in there if at.suffix.lower() in IMAGE_SUFFIXES and at.is_file()), None)
    if stray:
        raise DataError(f"{stray} is not in a class folder: move it into one, or remove it")
    classes = [at for at in there if at.is_dir()]
    if not classes:
        raise DataError(f"{folder} contains no class folders: --data must be a folder with one folder per class")
    found = [(file, at.name) for at in classes for file in find_images(at)]  # each must hold some, and may be a link
    found.sort()
    return _labeled([file for file, _ in found], [name for _, name in found], short_side)


_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")


def split_folder(root: Path, split: str, read: Callable[[Path], FileSet]) -> StreamedSet:
    """Return the split ``train`` or ``test`` of anyone's images, which ``read`` finds in a folder.

    Folders ``train`` and ``test`` (or ``val``) below ``root`` are the splits.  Where there are none, all images are
    read from ``root``, and about one in ten is kept for the test: a checksum of its path below ``root`` decides, so
    that it stays there when images are added.
    """
    train, test = (_folder_called(names, root) for names in (_TRAIN, _TEST))
    if train and test:
        return read(test if split == "test" else train)
    if alone := train or test:
        raise DataError(f"{root} has only a folder {alone.name}: it needs both train and test (or val), or neither")
    images = read(root)
    apart = torch.tensor([crc32(file.relative_to(root).as_posix().encode()) % 10 == 0 for file in images.files])
    if not apart.any() or apart.all():
        raise DataError(f"{root} contains {len(apart)} image(s), too few to keep one in ten for the test: add some")
    if images.labels is not None:
        missing = sorted({*range(len(images.classes))} - {*images.labels[~apart].tolist()})
        if missing:
            raise DataError(
                f"one image in ten is kept for the test, which leaves no training images for "
                f"{images.classes[missing[0]]}: add images, or make folders train and test in {root}"
            )
    return images.subset((apart if split == "test" else ~apart).nonzero().flatten())


def _folder_called(names: Sequence[str], root: Path) -> Path | None:
    """Return the first of the folders that exists, in upper or lower case."""
    there = {at.name.lower(): at for at in root.iterdir() if at.is_dir()} if root.is_dir() else {}
    return next((there[name] for name in names if name in there), None)


def imagenet(folder: Path, split: str, *, hypernym: str | None = None, short_side: int = 256) -> FileSet:
    """Return ImageNet, labeled by synset: ``folder/<split>`` with ILSVRC's class folders, or Tiny-ImageNet's layout.

    The synset of an image is the last WordNet id (``n`` and eight digits) in its path below the split, or what
    ``val_annotations.txt`` says; where there is none at all (``val`` as it is unpacked), there are no labels.  With
    ``hypernym``, only images of synsets in :func:`synsets` are kept.
    """
    at = folder / split
    files, keys = _synsets_of(at)
    if hypernym is None and not any(keys):
        return FileSet(files, None, (), short_side=short_side)
    _require_synsets(files, keys)
    if hypernym is not None:
        wanted = synsets(hypernym)
        kept = [(file, key) for file, key in zip(files, keys, strict=True) if key in wanted]
        if not kept:
            raise DataError(f"none of the {len(files)} images below {at} is a hyponym of {hypernym}")
        files, keys = [file for file, _ in kept], [key for _, key in kept]
    return _labeled(files, keys, short_side)


def imagenet_subsets(folders: Sequence[Path], split: str, *, short_side: int) -> FileSet:
    """Return public subsets of ImageNet as one set; images are enlarged to 64 pixels at most.

    Args:
        folders: each has folders ``train`` and ``val`` with class folders or in Tiny-ImageNet's layout, or no splits.
        split: ``train`` or ``val``, labeled by WordNet id, so that a class that several folders have is one class; or
            ``unlabeled``, which is ``train`` without labels and with the folders that have no splits.
        short_side: short side in pixels that images are scaled to.

    Raises:
        DataError: an image of a labeled split has no WordNet id in its path.
    """
    files: list[Path] = []
    keys: list[str] = []
    for folder in folders:
        split_up = (folder / "train").is_dir()
        if split == "unlabeled":
            files += find_images(folder / "train" if split_up else folder)
        elif split_up:
            found, synsets_found = _synsets_of(folder / split)
            _require_synsets(found, synsets_found)
            files += found
            keys += synsets_found
    images = _labeled(files, keys, short_side) if keys else FileSet(files, None, (), short_side=short_side)
    images.enlarge_to = 64  # the size of Tiny-ImageNet; larger ones are only scaled down
    return images


def synsets(hypernym: str) -> frozenset[str]:
    """Return the ids of the hyponyms of ``vehicle`` ("conveyance, transport") or ``animal`` ("mammal" or "bird")."""
    folder = package_files(__package__) / "wordnet"
    known = sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt"))
    if hypernym not in known:
        raise DataError(f"unknown hypernym {hypernym!r}; use one of {', '.join(known)}")
    text = (folder / f"{hypernym}.txt").read_text()
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


def _synsets_of(at: Path) -> tuple[list[Path], list[str]]:
    """Return all images below a folder, and the WordNet id of each, empty where there is none."""
    files = find_images(at)
    listed = at / "val_annotations.txt"
    named = _annotations(listed, at) if listed.exists() else {}
    keys = [named.get(file.name) or (_SYNSET.findall(str(file.relative_to(at))) or [""])[-1] for file in files]
    return files, keys


def _require_synsets(files: Sequence[Path], keys: Sequence[str]) -> None:
    if "" in keys:
        raise DataError(
            f"{files[keys.index('')]} has no WordNet id in its path (as n01440764): sort the images into class folders"
        )


def _annotations(path: Path, folder: Path) -> dict[str, str]:
    """Return a map from file name to synset, as Tiny-ImageNet's validation set states it."""
    named = {}
    for line in read_text(path).splitlines():
        fields = line.split("\t")
        if len(fields) < 2 or not _SYNSET.fullmatch(fields[1]):
            raise DataError(f"{path} has the line {shown(line)}, not 'FILE<tab>SYNSET<tab>...': unpack the set again")
        named[fields[0]] = fields[1]
    if not (folder / "images").is_dir():
        raise DataError(f"{folder / 'images'} is missing, but {path.name} names files in it: unpack the set again")
    there = {entry.name for entry in (folder / "images").iterdir()}
    missing = sorted(set(named) - there)
    if missing:
        raise DataError(
            f"{folder / 'images'} lacks {shown(missing[0])}, but {path.name} names it: unpack the set again"
        )
    return named


def _labeled(files: Sequence[Path], keys: Sequence[str], short_side: int) -> FileSet:
    classes = sorted(set(keys))
    number = {key: index for index, key in enumerate(classes)}
    return FileSet(files, torch.tensor([number[key] for key in keys]), classes, short_side=short_side)
