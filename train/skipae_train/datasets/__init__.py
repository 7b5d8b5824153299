"""Readers of the data sets of the paper, in the formats their authors publish.

``load(name, root, split)`` finds a set below the folder that contains it:

=====================  ==========================================================  ================================
name                   below ``root``                                              splits
=====================  ==========================================================  ================================
``cifar10``            ``cifar-10-batches-py``, ``cifar-10-batches-bin``, or the    train, test
                       published ``.tar.gz``
``cifar100``           ``cifar-100-python``, ``cifar-100-binary``, or ``.tar.gz``   train, test
``stl10``              ``stl10_binary`` or ``stl10_binary.tar.gz``                  train, test, unlabeled
``imagenet``           ``imagenet``, ``ILSVRC2012`` or ``ILSVRC/Data/CLS-LOC``      train, val (class folders)
``imagenet-animal``    the same, hyponyms of "mammal" or "bird" alone              train, val
``imagenet-vehicle``   the same, hyponyms of "conveyance, transport" alone         train, val
``tiny-imagenet``      ``tiny-imagenet-200``                                       train, val
``imagenet-subsets``   ``tiny-imagenet-200`` and those there are of                train, val, unlabeled
                       ``imagewoof2-320``, ``imagenette2-224squashed`` and
                       ``imagenet-sample-images`` (``unlabeled`` only)
``voc07``              ``VOCdevkit/VOC2007``                                       train, val, trainval, test
``voc12``              ``VOCdevkit/VOC2012`` (masks)                               train, val, trainval
``voc12-aug``          the same, trained on ``train_aug.txt``                      train, val
``camvid``             ``CamVid-voc`` (masks)                                      train, val
``folder``             any images, without labels                                  train, test
``classes``            a folder of images for each class                           train, test
``masks``              ``ImageSets/Segmentation``, ``JPEGImages``,                 train, val
                       ``SegmentationClass`` as VOC has them, ``classes.txt``
``hub:ORG/NAME``       (the Hub, or a folder in its formats); of several            as the set names them
                       configurations ``hub:ORG/NAME/CONFIGURATION``, of several
                       class columns ``hub:ORG/NAME#COLUMN``
=====================  ==========================================================  ================================

How ``folder``, ``classes`` and ``hub:`` are split: :func:`~skipae_train.datasets.folders.split_folder`,
:func:`~skipae_train.datasets.hub.hub`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from skipae_train.data import DataError
from skipae_train.datasets.archives import cifar10, cifar100, stl10, stl10_folds
from skipae_train.datasets.folders import class_folder, image_folder, imagenet, imagenet_subsets, split_folder, synsets
from skipae_train.datasets.hub import hub
from skipae_train.datasets.sets import (
    VOID,
    Batch,
    ImageSet,
    MemorySet,
    StreamedSet,
    View,
    balanced,
    batch_indices,
    hold_out,
)
from skipae_train.datasets.voc import COARSE, VOC_CLASSES, mask_folder, voc_classification, voc_segmentation
from skipae_train.rng import derive_seed, uniforms

__all__ = [
    "COARSE",
    "SETS",
    "VOC_CLASSES",
    "VOID",
    "Batch",
    "ImageSet",
    "MemorySet",
    "StreamedSet",
    "View",
    "balanced",
    "batch_indices",
    "cifar10",
    "cifar100",
    "class_folder",
    "derive_seed",
    "hold_out",
    "hub",
    "image_folder",
    "imagenet",
    "load",
    "stl10",
    "stl10_folds",
    "synsets",
    "uniforms",
    "voc_classification",
    "voc_segmentation",
]

_IMAGENET = ("imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")

_SUBSETS = ("imagewoof2-320", "imagenette2-224squashed", "imagenet-sample-images")

SETS: dict[str, Callable[[Path, str], ImageSet]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "stl10": stl10,
    "imagenet": lambda root, split: imagenet(_below(root, *_IMAGENET), split),
    "imagenet-animal": lambda root, split: imagenet(_below(root, *_IMAGENET), split, hypernym="animal"),
    "imagenet-vehicle": lambda root, split: imagenet(_below(root, *_IMAGENET), split, hypernym="vehicle"),
    "tiny-imagenet": lambda root, split: imagenet(_below(root, "tiny-imagenet-200"), split, short_side=64),
    "tiny-imagenet-animal": lambda root, split: imagenet(
        _below(root, "tiny-imagenet-200"), split, hypernym="animal", short_side=64
    ),
    "tiny-imagenet-vehicle": lambda root, split: imagenet(
        _below(root, "tiny-imagenet-200"), split, hypernym="vehicle", short_side=64
    ),
    "imagenet-subsets": lambda root, split: imagenet_subsets(
        [_below(root, "tiny-imagenet-200"), *(root / name for name in _SUBSETS if (root / name).is_dir())],
        split,
        short_side=64,
    ),
    "voc07": lambda root, split: voc_classification(_below(root, "VOCdevkit/VOC2007"), split),
    "voc12": lambda root, split: voc_segmentation(_below(root, "VOCdevkit/VOC2012"), split),
    "voc12-aug": lambda root, split: voc_segmentation(
        _below(root, "VOCdevkit/VOC2012"), "train_aug" if split == "train" else split
    ),
    "camvid": lambda root, split: voc_segmentation(_below(root, "CamVid-voc"), split),
    "folder": lambda root, split: split_folder(root, split, image_folder),
    "classes": lambda root, split: split_folder(root, split, class_folder),
    "masks": mask_folder,
}


def load(name: str, root: Path, split: str) -> ImageSet:
    """Load a split of the set ``name`` below ``root``.

    Raises:
        DataError: the set is unknown, missing or damaged.
    """
    if name.startswith("hub:"):
        source, _, label = name.removeprefix("hub:").partition("#")
        return hub(source, split, label=label or None)
    if name not in SETS:
        raise DataError(f"unknown data set {name!r}; use one of {', '.join(SETS)}, hub:ORG/NAME")
    return SETS[name](root, split)


def _below(root: Path, *names: str) -> Path:
    """Return the first of the folders that exists below ``root``."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(
        f"{root} does not contain {' or '.join(names)}: --data must be the folder that contains it, unpacked"
    )
