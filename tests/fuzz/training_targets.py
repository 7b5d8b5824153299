"""What training is given: data sets as their authors publish them, anyone's images, masks and lists, run folders."""

from __future__ import annotations

import functools
import gzip
import io
import itertools
import json
import math
import pickle
import pickletools
import random
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import targets
from PIL import Image
from targets import Fault, Target, check_message

SIDE = 16
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tiff", ".bmp")


@cache
def _folder() -> Path:
    """A temporary folder of this process."""
    return Path(tempfile.mkdtemp(prefix="skipae-fuzz-sets-"))


def _fresh(name: str) -> Path:
    folder = _folder() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _put(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _load(root: Path, name: str, split: str = "train") -> bool:
    """Read a set and all its images; whether it was taken."""
    from skipae_train.data import DataError
    from skipae_train.datasets import MemorySet, load

    try:
        found = load(name, root, split)
        rows = range(len(found))
        if isinstance(found, MemorySet):
            sizes = {tuple(found.images.shape[1:])}
        else:
            sizes = {tuple(found.whole(row)[0].shape) for row in rows}
    except DataError as error:
        check_message(error)
        return False
    if not rows or any(channels != 3 or min(size) < 1 for channels, *size in sizes):
        raise Fault(f"a set of {len(rows)} images of {sizes}")
    labels = found.labels
    if labels is not None and (len(labels) != len(rows) or int(labels.max()) >= len(found.classes)):
        raise Fault(f"{len(labels)} labels of {len(rows)} images, up to {int(labels.max())} of {len(found.classes)}")
    return True


# Files that belong together: each seed is one of them, and goes where its like was


def _set(
    name: str,
    files: Callable[[], dict[str, bytes]],
    read: Callable[[Path], bool],
    split: mutations.Split | None = None,
    *,
    is_json: bool = False,
    changed: Callable[[str], bool] = lambda name: True,
    whole: Callable[[str], bool] = lambda name: False,
    pixels: Callable[[Path], bytes] | None = None,
    share: float = 1.0,
) -> Target:
    """A target of files that are read together.

    Args:
        name: of the target.
        files: whole ones, by their paths.
        read: reads the folder that holds them; whether they were taken.
        split: takes one apart.
        is_json: whether they are JSON.
        changed: which of them are changed.
        whole: which of them may not be taken where their end is missing.
        pixels: of all their images, which must be the same where the end of one is missing that is taken.
        share: see :attr:`Target.share`.
    """
    files = cache(files)

    @cache
    def expected() -> bytes:
        folder = _fresh(f"whole-{name}")
        _put(folder, files())
        return b"" if pixels is None else pixels(folder)

    def seeds() -> list[bytes]:
        return [data for path, data in files().items() if changed(path)]

    def read_all(data: bytes, how: str, rng: random.Random) -> bool:
        likeness = {path: _likeness(data, seed) for path, seed in files().items() if changed(path)}
        best = max(likeness, key=likeness.__getitem__)
        path = best if likeness[best] else rng.choice(list(likeness))
        folder = _fresh(name.replace(" ", "-"))
        _put(folder, {**files(), path: data})
        taken = read(folder)
        if taken and how == "cut" and whole(path) and data != files()[path]:
            raise Fault(f"{path} was cut and is taken")
        if taken and how == "cut" and pixels is not None and path.endswith(_SUFFIXES) and pixels(folder) != expected():
            raise Fault(f"{path} was cut and is taken, with other pixels")
        return taken

    return Target(name, seeds, read_all, split, is_json, share, pixels is not None)


def _likeness(data: bytes, seed: bytes) -> int:
    """How many bytes at the beginning, the end and in the middle are the same."""
    middle = len(seed) // 2
    alike = sum(a == b for a, b in zip(data[:64], seed[:64], strict=False))
    alike += sum(a == b for a, b in zip(data[:-64:-1], seed[:-64:-1], strict=False))
    return alike + 8 * (seed[middle : middle + 8] in data)


# CIFAR and STL-10


def split_pickle(data: bytes) -> list[bytes]:
    """Operations of a pickle, and what follows the last that is one."""
    places = [0]
    with suppress(Exception):
        for _, _, at in pickletools.genops(data):
            places += [at] if at else []
    places.append(len(data))
    return [data[a:b] for a, b in itertools.pairwise(places)]


def _cifar_pickles() -> dict[str, bytes]:
    rows = np.random.default_rng(0).integers(0, 255, (3, 3072), dtype=np.uint8)
    batch: dict[bytes, Any] = {b"data": rows, b"fine_labels": [0, 1, 2], b"filenames": [b"a.png", b"b.png", b"c.png"]}
    names = {b"fine_label_names": [b"apple", b"bee", b"can"], b"coarse_label_names": [b"food"], b"label_names": 3.5}
    return {
        "cifar-100-python/train": pickle.dumps(batch, protocol=2),
        "cifar-100-python/meta": pickle.dumps(names, protocol=2),
    }


def _cifar10_pickles() -> dict[str, bytes]:
    rows = np.zeros((2, 3072), np.uint8)
    names = {"label_names": ["a", "b"], "num_cases_per_batch": 2, "num_vis": 3072}
    made = {"cifar-10-batches-py/batches.meta": pickle.dumps(names, protocol=4)}
    for protocol in range(5):
        batch = {"data": rows, "labels": [0, 1], "batch_label": f"training batch {protocol + 1} of 5"}
        made[f"cifar-10-batches-py/data_batch_{protocol + 1}"] = pickle.dumps(batch, protocol=protocol)
    return made


def _cifar_binary() -> dict[str, bytes]:
    pixels = np.random.default_rng(1).integers(0, 255, (2, 3072), dtype=np.uint8).tobytes()
    return {
        "cifar-100-binary/train.bin": b"\0\1" + pixels[:3072] + b"\0\0" + pixels[3072:],
        "cifar-100-binary/fine_label_names.txt": b"apple\nbee\n",
    }


def _stl() -> dict[str, bytes]:
    return {
        "stl10_binary/train_X.bin": bytes(range(256)) * 216,
        "stl10_binary/train_y.bin": b"\1\2",
        "stl10_binary/class_names.txt": b"airplane\nbird\n",
        "stl10_binary/fold_indices.txt": b"0 1\n1 0\n",
    }


def _read_stl(folder: Path) -> bool:
    from skipae_train.data import DataError
    from skipae_train.datasets import stl10_folds

    try:
        stl10_folds(folder)
    except DataError as error:
        check_message(error)
    return _load(folder, "stl10")


def _tar(files: Mapping[str, bytes], format: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def split_tar(data: bytes) -> list[bytes]:
    """Blocks of 512 bytes."""
    return [data[at : at + 512] for at in range(0, len(data), 512)]


@cache
def _tars() -> list[bytes]:
    long = {f"{'x' * 200}/{name}": data for name, data in _cifar_binary().items()}
    return [
        _tar(_cifar_binary(), tarfile.USTAR_FORMAT),
        _tar(long, tarfile.GNU_FORMAT),
        _tar(long, tarfile.PAX_FORMAT),
    ]


def _read_tar(data: bytes, how: str, rng: random.Random) -> bool:
    packed = gzip.compress(data, 1, mtime=0)
    if rng.random() < 0.2:
        packed, _ = mutations.mutate(rng, [packed], None)
    folder = _fresh("tar")
    (folder / "cifar-100-binary.tar.gz").write_bytes(packed)
    return _load(folder, "cifar100")


# Images, masks and lists


@cache
def _image(format: str, gray: bool = False) -> bytes:
    photo = targets.photo((SIDE, SIDE))
    if gray:
        return targets.saved(Image.fromarray(np.eye(SIDE, dtype=np.uint8)), format)
    return targets.saved(photo, format)


def _voc() -> dict[str, bytes]:
    xml = (
        b"<annotation><folder>VOC2007</folder><filename>a.jpg</filename><size><width>16</width></size><object>"
        b"<name>dog</name><difficult>0</difficult><bndbox><xmin>1</xmin></bndbox></object><object><name>cat</name>"
        b"<difficult>1</difficult></object></annotation>\n"
    )
    root = "VOCdevkit/VOC2007"
    return {
        f"{root}/Annotations/a.xml": xml,
        f"{root}/Annotations/b.xml": b'<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE a [<!ENTITY d "dog">]>'
        b"<annotation><object><name>&d;</name></object><!-- \xe9 --></annotation>",
        f"{root}/Annotations/c.xml": xml.decode().encode("utf-16"),
        f"{root}/ImageSets/Main/train.txt": b"a\nb\nc\n",
        **{f"{root}/ImageSets/Main/{name}_train.txt": b"a  1\nb -1\nc 0\n" for name in ("cat", "dog")},
        **{f"{root}/JPEGImages/{name}.jpg": _image("JPEG") for name in "abc"},
    }


def split_tags(data: bytes) -> list[bytes]:
    """XML cut before each tag."""
    return re.split(rb"(?=<)", data)


def _masks() -> dict[str, bytes]:
    palette = Image.fromarray(np.eye(SIDE, dtype=np.uint8), "P")
    palette.putpalette([0, 0, 0, 255, 0, 0])
    return {
        "SegmentationClass/a.png": targets.saved(palette, "PNG"),
        "SegmentationClass/b.png": _image("PNG", gray=True),
        "JPEGImages/a.jpg": _image("JPEG"),
        "JPEGImages/b.jpg": _image("JPEG"),
        "classes.txt": b"0 background\n1 mole\n255 void\n",
        "ImageSets/Segmentation/train.txt": b"a\n",
        "ImageSets/Segmentation/val.txt": b"b\n",
    }


def _read_masks(folder: Path) -> bool:
    from skipae_train.data import DataError
    from skipae_train.datasets import load

    taken = _load(folder, "masks") and _load(folder, "masks", "val")
    try:
        found: Any = load("masks", folder, "val")
        found.colors()
        found.mask_pixels()
    except DataError as error:
        check_message(error)
        return False
    return taken


def _mask_pixels(folder: Path) -> bytes:
    from skipae_train.datasets import load

    found: list[Any] = [load("masks", folder, split) for split in ("train", "val")]
    return b"".join(part.numpy().tobytes() for images in found for part in images.whole(0))


def _photos() -> dict[str, bytes]:
    files = {f"cat/{format.lower()}.{format.lower()}": _image(format) for format in ("PNG", "JPEG", "WEBP", "TIFF")}
    turned = targets.saved(targets.photo((SIDE, SIDE)), "JPEG", exif=targets.exif(6))
    deep = targets.saved(Image.fromarray(np.eye(SIDE, dtype=np.uint16) * 60_000), "PNG")
    return {**files, "dog/turned.jpg": turned, "dog/deep.png": deep, "dog/a.bmp": _image("BMP")}


def _read_photos(folder: Path) -> bool:
    both = _fresh("both")
    for split in ("train", "test"):
        shutil.copytree(folder / "cat", both / split / "cat")
        shutil.copytree(folder / "dog", both / split / "dog")
    return _load(both, "classes")


def _photo_pixels(folder: Path) -> bytes:
    from skipae_train.datasets import class_folder

    found = class_folder(folder)
    return b"".join(found.whole(row)[0].numpy().tobytes() for row in range(len(found)))


def _annotations() -> dict[str, bytes]:
    lines = b"val_0.JPEG\tn01440764\t0\t32\t44\t62\nval_1.JPEG\tn01443537\t52\t55\t57\t59\n"
    root = "tiny-imagenet-200/val"
    return {
        f"{root}/val_annotations.txt": lines,
        f"{root}/images/val_0.JPEG": _image("JPEG"),
        f"{root}/images/val_1.JPEG": _image("JPEG"),
    }


# Sets of the Hub


def _columns() -> Any:
    import datasets

    datasets.disable_progress_bars()
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    stored = [{"bytes": _image("PNG"), "path": "a.png"}] * 3 + [{"bytes": _image("JPEG"), "path": None}]
    return datasets.Dataset.from_dict({"image": stored, "label": [0, 1, 0, 1]}, features=kinds)


def _quiet(read: Callable[[Path], bool]) -> Callable[[Path], bool]:
    """Nothing of the Hub's libraries is shown, asked of a network or kept."""

    @functools.wraps(read)
    def quietly(folder: Path) -> bool:
        import datasets

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)
        datasets.config.HF_DATASETS_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        cached = Path(datasets.config.HF_DATASETS_CACHE)
        datasets.config.HF_DATASETS_CACHE = _fresh("cache")
        try:
            return read(folder)
        finally:
            datasets.config.HF_DATASETS_CACHE = cached

    return quietly


def _parquet() -> dict[str, bytes]:
    buffer = io.BytesIO()
    _columns().to_parquet(buffer)
    return {"train.parquet": buffer.getvalue(), "test.parquet": buffer.getvalue()}


def _arrow() -> dict[str, bytes]:
    folder = _folder() / "saved"
    _columns().save_to_disk(str(folder))
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    whole = {f"{split}/{name}": data for split in ("train", "test") for name, data in found.items()}
    return {**whole, "dataset_dict.json": b'{"splits": ["train", "test"]}'}


@_quiet
def _read_hub(folder: Path) -> bool:
    return _load(folder, f"hub:{folder}")


# Run folders


def _run_files() -> dict[str, bytes]:
    import torch

    from skipae_train.recipe import to_json
    from skipae_train.recipes import pretrain_recipe

    recipe = to_json(pretrain_recipe("cifar10", budget="smoke"))
    state = {
        "network": {"w": torch.ones(3, 2), "b": torch.arange(3)},
        "average": {"module.w": torch.ones(3, 2), "n_averaged": torch.tensor(3)},
        "optimizers": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "step": 3,
        "seconds": 1.5,
        "precision": "fp32",
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    environment = {"steps": 9, "steps done": 3, "start": "random weights", "hours": 0.5, "commit": "abc"}
    return {
        "state.pt": buffer.getvalue(),
        "recipe.json": json.dumps(recipe).encode(),
        "environment.json": json.dumps(environment).encode(),
        "preprocessing.json": b'{"resize": 32, "crop": 29, "labels": ["cat", "dog"], "colors": [[1, 2, 3]]}',
        "result.json": b'{"metric": "accuracy", "value": 0.5, "classes": {"cat": 0.5, "dog": null}}',
        "log.csv": b"step,loss\r\n1,0.5\r\n2,0.25\r\n",
    }


def _read_run(folder: Path) -> bool:
    from skipae.errors import SkipaeError
    from skipae_train import run_folder, run_log

    taken = True
    readers: tuple[Callable[[Path], Any], ...] = (
        partial(run_folder.resumable_state, notify=lambda line: check_message(ValueError(line))),
        run_folder.load_state,
        run_folder.progress,
        run_folder.require_finished,
        run_folder.read_preprocessing,
        run_folder.read_result,
        run_log.read_log,
    )
    for read in readers:
        try:
            found = read(folder)
        except SkipaeError as error:
            check_message(error)
            taken = taken and read is run_folder.require_finished
        else:
            if isinstance(found, run_folder.State) and not (found.step >= 0 and math.isfinite(found.seconds)):
                raise Fault(f"step {found.step}, {found.seconds} s")
    return taken


def _state(how: str, data: bytes, rng: random.Random) -> bytes:
    """Another state whose archive is right, but for what is pickled in it."""
    old = zipfile.ZipFile(io.BytesIO(data))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                content, _ = mutations.mutate(rng, [content], split_pickle)
            new.writestr(name, content)
    return buffer.getvalue()


def _state_target() -> Target:
    plain = _set(
        "state.pt",
        _run_files,
        _read_run,
        changed=lambda name: name == "state.pt",
        whole=lambda name: True,
    )

    def read(data: bytes, how: str, rng: random.Random) -> bool:
        if how not in ("cut", "") and rng.random() < 0.6:
            data = _state(how, plain.seeds()[0], rng)
        return plain.read(data, how, rng)

    return Target(plain.name, plain.seeds, read)


TARGETS = {
    target.name: target
    for target in (
        _set("CIFAR pickles", _cifar_pickles, lambda at: _load(at, "cifar100"), split_pickle, whole=lambda name: True),
        _set("CIFAR-10 pickles", _cifar10_pickles, lambda at: _load(at, "cifar10"), split_pickle),
        _set("CIFAR binary", _cifar_binary, lambda at: _load(at, "cifar100")),
        _set("STL-10", _stl, _read_stl, mutations.split_lines),
        Target("tar.gz", _tars, _read_tar, split_tar),
        _set("VOC", _voc, lambda at: _load(at, "voc07"), split_tags, changed=lambda name: not name.endswith("jpg")),
        _set("masks", _masks, _read_masks, mutations.split_image, pixels=_mask_pixels),
        _set("photos", _photos, _read_photos, mutations.split_image, pixels=_photo_pixels),
        _set(
            "annotations",
            _annotations,
            lambda at: _load(at, "tiny-imagenet", "val"),
            mutations.split_lines,
            changed=lambda name: name.endswith(".txt"),
        ),
        _set("Parquet", _parquet, _read_hub, changed=lambda name: name == "train.parquet", share=0.05),
        _set("Arrow", _arrow, _read_hub, changed=lambda name: not name.startswith("test"), share=0.2),
        _state_target(),
        _set(
            "run JSON",
            _run_files,
            _read_run,
            is_json=True,
            changed=lambda name: name.endswith(".json"),
        ),
        _set("log.csv", _run_files, _read_run, mutations.split_lines, changed=lambda name: name == "log.csv"),
    )
}
