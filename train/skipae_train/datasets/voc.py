"""VOCdevkit: classification (2007) and segmentation (2012), and any set in its layout, such as CamVid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from skipae_train.data import DataError, open_pillow, open_rgb, read_small, read_text
from skipae_train.datasets.folders import FileSet
from skipae_train.datasets.sets import VOID
from skipae_zoo import shown

COARSE = {
    "animal": ["bird", "cat", "cow", "dog", "horse", "sheep"],
    "vehicle": ["aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"],
    "indoor": ["bottle", "chair", "diningtable", "pottedplant", "sofa", "tvmonitor"],
    "person": ["person"],
}
"""The coarse classes of table 5."""
_LONGEST = 200
"""Most bytes of an image's name, for which file systems have room with its extension."""
VOC_CLASSES = sorted(name for names in COARSE.values() for name in names)


def voc_classification(
    folder: Path, split: str, *, classes: Sequence[str] | None = None, short_side: int = 256
) -> FileSet:
    """Return which objects are in each image: labels int8 [N, K], 1 present, 0 absent, -1 only as difficult ones.

    ``folder`` holds ``ImageSets/Main``, ``Annotations`` and ``JPEGImages`` (``VOCdevkit/VOC2007``).  ``classes``
    default to those that have a list ``ImageSets/Main/<class>_<split>.txt``, or else to VOC's 20; objects of
    other classes do not count.
    """
    names = _image_list(folder, "Main", split)
    if classes is None:
        lists = (folder / "ImageSets" / "Main").glob(f"*_{split}.txt")
        classes = sorted(path.stem.removesuffix(f"_{split}") for path in lists) or VOC_CLASSES
    labels = np.zeros((len(names), len(classes)), np.int8)
    numbers = {name: number for number, name in enumerate(classes)}
    for row, name in zip(labels, names, strict=True):
        path = folder / "Annotations" / f"{name}.xml"
        try:
            tree = ElementTree.fromstring(read_small(path))
            found = [(o.findtext("name"), o.findtext("difficult", "0")) for o in tree.iter("object")]
        except DataError:
            raise
        except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:  # the last two of its encoding
            raise DataError(
                f"{path} cannot be read ({error}), but {split}.txt names it: unpack the set again"
            ) from None
        for label, flag in found:
            if label in numbers and row[numbers[label]] <= 0:
                row[numbers[label]] = -1 if flag.strip() == "1" else 1
    return FileSet(_images(folder, names, split), torch.from_numpy(labels), classes, short_side=short_side)


def voc_segmentation(
    folder: Path, split: str, *, classes: Sequence[str] | None = None, short_side: int = 256
) -> SegmentationSet:
    """Return images with masks.

    ``folder`` holds ``ImageSets/Segmentation``, ``SegmentationClass`` and ``JPEGImages`` (``VOCdevkit/VOC2012``,
    ``CamVid-voc``).  ``classes`` default to ``classes.txt`` in it (lines ``INDEX NAME``) if there is one, or else to
    background and VOC's 20.
    """
    names = _image_list(folder, "Segmentation", split)
    if classes is None:
        classes = _listed_classes(folder / "classes.txt") or ["background", *VOC_CLASSES]
    masks = [folder / "SegmentationClass" / f"{name}.png" for name in names]
    _check_files(masks, split)
    return SegmentationSet(_images(folder, names, split), masks, classes, short_side=short_side)


def mask_folder(folder: Path, split: str) -> SegmentationSet:
    """Return anyone's images with masks in VOC's layout; ``classes.txt`` must be there."""
    if not (folder / "classes.txt").exists():
        raise DataError(
            f"{folder} has no classes.txt: create it with lines 'INDEX NAME', the meaning of 0, 1, ... in the masks"
        )
    images = voc_segmentation(folder, split)
    lists = (set(_image_list(folder, "Segmentation", name)) for name in ("train", "val"))
    if both := sorted(set.intersection(*lists)):
        raise DataError(
            f"{len(both)} image(s), among them {both[0]}, are listed in both train.txt and val.txt in "
            f"{folder / 'ImageSets' / 'Segmentation'}: training images cannot be used for testing; remove each from one"
        )
    seen: set[int] = set()
    for row in range(min(len(images), 50)):
        seen |= set(np.unique(np.array(images._mask(row))).tolist())
    if VOID in seen and seen <= {0, VOID} and len(images.classes) > 1:
        raise DataError(
            f"the masks in {folder / 'SegmentationClass'} contain only class 0; {VOID} means no label: write "
            f"{images.classes[1]} as 1"
        )
    return images


class SegmentationSet(FileSet):
    """Images with a palette mask each: index k is class k, :data:`VOID` means no label."""

    masked = True

    def __init__(
        self, files: Sequence[Path], masks: Sequence[Path], classes: Sequence[str], *, short_side: int
    ) -> None:
        super().__init__(files, None, classes, short_side=short_side)
        self.masks = masks

    def colors(self) -> list[list[int]]:
        """Return the color of each class, RGB from 0 to 255, as the first mask's palette shows it;
        empty for gray masks.
        """
        palette = self._stored_mask(0)[2] or []
        found = [palette[k : k + 3] for k in range(0, 3 * len(self.classes), 3)] if palette else []
        return found if found and len(found[-1]) == 3 else []

    def _open(self, row: int) -> Image.Image:
        """Open an image at its full size, which is the mask's."""
        return open_rgb(self.files[row], self.files[row])

    def _stored_mask(self, row: int) -> tuple[str, NDArray[np.uint8], list[int] | None]:
        """Return a mask's mode, values and palette."""
        path = self.masks[row]
        try:
            with open_pillow(path) as image:
                image.load()
                return image.mode, np.array(image), image.getpalette() if image.mode == "P" else None
        except DataError:
            raise
        except Exception as error:  # damaged files raise nearly anything
            raise DataError(f"{path} cannot be decoded ({error}): repair or remove it") from error

    def _mask(self, row: int) -> Image.Image:
        path = self.masks[row]
        mode, indices, _ = self._stored_mask(row)
        if mode not in ("P", "L"):
            raise DataError(f"{path} is a mask of mode {mode}: masks are palette or gray PNGs whose values are classes")
        unknown = set(np.unique(indices).tolist()) - {*range(len(self.classes)), VOID}
        if unknown:
            raise DataError(
                f"{path} has palette index {min(unknown)}: allowed are 0 to {len(self.classes) - 1}, the classes, "
                f"and {VOID} for none; repair the mask or list all classes"
            )
        return Image.fromarray(indices)


def _image_list(folder: Path, kind: str, split: str) -> list[str]:
    """Return the names of a list's images, without suffix."""
    path = folder / "ImageSets" / kind / f"{split}.txt"
    try:
        names = read_text(path).split()
    except FileNotFoundError:
        known = sorted(p.stem for p in path.parent.glob("*.txt") if "_" not in p.stem)
        there = f"there are {', '.join(known)}" if known else f"{path.parent} has no lists; unpack VOCdevkit there"
        if split == "train_aug":
            there += "; it is VOC's train with SBD's masks outside val, and --budget cpu trains without it"
        raise DataError(f"{path} is missing: {there}") from None
    if not names:
        raise DataError(f"{path} names no images: unpack the set again")
    files = [name for name in names if name.endswith((".jpg", ".png"))]
    if files:
        raise DataError(
            f"{path} has the file {shown(files[0])}, as lists of an older layout have: write one id a line, with its "
            f"mask in {folder / 'SegmentationClass'}"
        )
    outside = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise DataError(f"{path} names {shown(outside[0])}, which lies outside of the set: take it out of the list")
    unusable = [name for name in names if len(name.encode()) > _LONGEST or "\0" in name]
    if unusable:
        raise DataError(f"{path} names {shown(unusable[0])}, which is not the name of a file: take it out of the list")
    return names


def _images(folder: Path, names: Sequence[str], split: str) -> list[Path]:
    files = [folder / "JPEGImages" / f"{name}.jpg" for name in names]
    _check_files(files, split)
    return files


def _check_files(files: Sequence[Path], split: str) -> None:
    missing = [file for file in files if not file.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(
            f"{missing[0]}{more} is missing, but {split}.txt names it: unpack the set again, or edit the list"
        )


def _listed_classes(path: Path) -> list[str]:
    """Return class names of ``INDEX NAME`` lines, in order; empty without such a file."""
    if not path.exists():
        return []
    pairs = [re.fullmatch(r"(\d{1,9})\s+(.+)", line.strip()) for line in read_text(path).splitlines() if line.strip()]
    named = [(int(pair[1]), pair[2]) for pair in pairs if pair and int(pair[1]) != VOID]
    if None in pairs or [index for index, _ in named] != list(range(len(named))):
        raise DataError(f"{path} must have lines 'INDEX NAME', indices 0, 1, 2, ... (and {VOID} for no label)")
    return [name for _, name in named]
