"""Tiny sets in the formats their authors publish, for tests of training: random pictures, one color per class."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pictures(labels: NDArray[np.int64], side: int, seed: int) -> NDArray[np.uint8]:
    """Coarse noise around a color per class, uint8 [N, side, side, 3]."""
    rng = np.random.default_rng(seed)
    colors = np.random.default_rng(99).integers(40, 216, (int(labels.max()) + 1, 1, 1, 3))
    coarse = rng.integers(-40, 40, (len(labels), 6, 6, 3)) + colors[labels]
    images = [Image.fromarray(c.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC) for c in coarse]
    return np.stack([np.asarray(image) for image in images])


def cifar(root: Path, classes: int = 10, train: int = 80) -> Path:
    """CIFAR-10 or CIFAR-100 in the python format."""
    folder = root / ("cifar-10-batches-py" if classes == 10 else "cifar-100-python")
    folder.mkdir(parents=True)
    key, meta = (b"labels", "batches.meta") if classes == 10 else (b"fine_labels", "meta")
    names = [f"data_batch_{k}" for k in range(1, 6)] if classes == 10 else ["train"]
    each = train // len(names)
    for seed, name in enumerate([*names, "test_batch" if classes == 10 else "test"]):
        count = each if classes == 10 else train // 2 if name == "test" else train
        labels = np.arange(count) * 7 % classes
        data = pictures(labels, 32, seed).transpose(0, 3, 1, 2).reshape(count, -1)
        entry = {b"data": data, key: labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(entry, protocol=3))
    described: dict[bytes, object] = {
        b"label_names" if classes == 10 else b"fine_label_names": [f"class{k}".encode() for k in range(classes)]
    }
    if classes == 10:
        described[b"num_cases_per_batch"] = each
    (folder / meta).write_bytes(pickle.dumps(described, protocol=3))
    return root


def stl10(root: Path, train: int = 40, test: int = 16, unlabeled: int = 40) -> Path:
    """STL-10's binary format, with ten folds."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for seed, (split, count) in enumerate((("train", train), ("test", test), ("unlabeled", unlabeled))):
        labels = np.arange(count) * 7 % 10
        columns_first = pictures(labels, 96, seed).transpose(0, 3, 2, 1)
        (folder / f"{split}_X.bin").write_bytes(columns_first.tobytes())
        if split != "unlabeled":
            (folder / f"{split}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
    (folder / "class_names.txt").write_text("\n".join(f"class{k}" for k in range(10)) + "\n")
    folds = [np.random.default_rng(k).permutation(train)[: train // 2] for k in range(10)]
    (folder / "fold_indices.txt").write_text("\n".join(" ".join(map(str, fold)) for fold in folds) + "\n")
    return root


def tiny_imagenet(root: Path, synsets: tuple[str, ...] = ("n02085620", "n02930766"), each: int = 16) -> Path:
    """Tiny-ImageNet: an animal and a vehicle."""
    at = root / "tiny-imagenet-200"
    lines = []
    for number, synset in enumerate(synsets):
        for split, count in (("train", each), ("val", each // 2)):
            folder = at / "train" / synset / "images" if split == "train" else at / "val" / "images"
            folder.mkdir(parents=True, exist_ok=True)
            for k, pixels in enumerate(pictures(np.full(count, number), 64, number)):
                file = folder / f"{synset}_{k}.png"
                Image.fromarray(pixels).save(file)
                if split == "val":
                    lines.append(f"{file.name}\t{synset}\t0\t0\t63\t63")
    (at / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return root


def voc(root: Path, train: int = 24, test: int = 8) -> Path:
    """VOCdevkit 2007 for classification, a bird or a car in each image, and 2012 for segmentation."""
    for year, splits in (("2007", {"trainval": train, "test": test}), ("2012", {"train": train, "val": test})):
        at = root / "VOCdevkit" / f"VOC{year}"
        kind = "Main" if year == "2007" else "Segmentation"
        for folder in ("JPEGImages", "Annotations", "SegmentationClass", f"ImageSets/{kind}"):
            (at / folder).mkdir(parents=True, exist_ok=True)
        for split, count in splits.items():
            labels = np.arange(count) % 2
            names = [f"{split}{k:04}" for k in range(count)]
            for name, label, pixels in zip(names, labels, pictures(labels, 80, count), strict=True):
                Image.fromarray(pixels[:60]).save(at / "JPEGImages" / f"{name}.jpg")
                thing = ("bird", "car")[label]
                objects = f"<object><name>{thing}</name><difficult>0</difficult></object>"
                (at / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
                mask = np.zeros((60, 80), np.uint8)
                mask[10:50, 20:60], mask[:, 0] = (3, 7)[label], 255
                image = Image.fromarray(mask)
                image.putpalette(bytes(range(256)) * 3)
                image.save(at / "SegmentationClass" / f"{name}.png")
            (at / "ImageSets" / kind / f"{split}.txt").write_text("\n".join(names) + "\n")
            for thing in ("bird", "car"):
                (at / "ImageSets" / kind / f"{thing}_{split}.txt").write_text("")
    return root


def everything(root: Path) -> Path:
    """All sets that the results of the paper need."""
    cifar(root)
    cifar(root, classes=100, train=200)
    stl10(root)
    tiny_imagenet(root)
    return voc(root)
