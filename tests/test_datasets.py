"""Readers and samplers, on tiny files in each original format."""

import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image

import make_sets
from skipae_train import datasets as sets
from skipae_train.data import DataError, open_rgb
from skipae_train.datasets import (
    COARSE,
    VOC_CLASSES,
    Batch,
    MemorySet,
    StreamedSet,
    View,
    balanced,
    batch_indices,
    class_folder,
    derive_seed,
    hold_out,
    hub,
    image_folder,
    imagenet,
    stl10_folds,
    synsets,
    uniforms,
    voc_classification,
    voc_segmentation,
)

RNG = np.random.default_rng(0)
PER_BATCH = 4
SPLITS = ("train", "test")


def load(name, root, split) -> Any:
    """A set of the kind that its name stands for."""
    return sets.load(name, root, split)


def labels_of(images: StreamedSet | Batch) -> torch.Tensor:
    """Of a set or batch that has some."""
    assert images.labels is not None
    return images.labels


def cifar_rows(count=PER_BATCH):
    return RNG.integers(0, 256, (count, 3072), dtype=np.uint8)


def write_cifar10_python(root, **changes):
    """As published: pickle protocol 2, keys of bytes."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rows = {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        rows[name] = cifar_rows()
        batch = {
            b"batch_label": b"batch 1 of 5",
            b"labels": [0, 1, 9, 3],
            b"data": rows[name],
            b"filenames": [b"x.png"] * 4,
        }
        (folder / name).write_bytes(pickle.dumps(batch | changes.get(name, {}), 2))
    names = [f"class{i}".encode() for i in range(10)]
    meta = {b"num_cases_per_batch": PER_BATCH, b"label_names": names, b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, 2))
    return rows


def write_cifar10_binary(root):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    rows = {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        rows[name] = cifar_rows()
        labels = np.array([[0], [1], [9], [3]], np.uint8)
        (folder / f"{name}.bin").write_bytes(np.concatenate([labels, rows[name]], 1).tobytes())
    (folder / "batches.meta.txt").write_text("".join(f"class{i}\n" for i in range(10)) + "\n")
    return rows


def pack(folder, archive):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)


@pytest.mark.parametrize("write", [write_cifar10_python, write_cifar10_binary])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar10(tmp_path, write, packed):
    rows = write(tmp_path / "a" if packed else tmp_path)
    if packed:
        folder = next((tmp_path / "a").iterdir())
        pack(folder, tmp_path / f"cifar-10-{'python' if folder.name.endswith('py') else 'binary'}.tar.gz")
    train, test = load("cifar10", tmp_path, "train"), load("cifar10", tmp_path, "test")
    assert (len(train), len(test)) == (5 * PER_BATCH, PER_BATCH)
    assert train.classes == tuple(f"class{i}" for i in range(10))
    assert train.labels.tolist() == [0, 1, 9, 3] * 5
    # The format: 1024 red values row by row, then green, then blue.
    assert train.images[4, 1, 3, 5] == rows["data_batch_2"][0, 1024 + 3 * 32 + 5]
    np.testing.assert_array_equal(test.images.reshape(4, -1), rows["test_batch"])


@pytest.mark.parametrize("binary", [False, True])
def test_cifar100_takes_the_fine_labels(tmp_path, binary):
    rows, fine, coarse = cifar_rows(), [99, 0, 7, 7], [19, 0, 1, 1]
    folder = tmp_path / ("cifar-100-binary" if binary else "cifar-100-python")
    folder.mkdir()
    names = [f"fine{i}" for i in range(100)]
    for split in ("train", "test"):
        if binary:
            labels = np.array([coarse, fine], np.uint8).T
            (folder / f"{split}.bin").write_bytes(np.concatenate([labels, rows], 1).tobytes())
        else:
            batch = {b"data": rows, b"fine_labels": fine, b"coarse_labels": coarse}
            (folder / split).write_bytes(pickle.dumps(batch, 2))
    (folder / "fine_label_names.txt").write_text("\n".join(names))
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [name.encode() for name in names]}, 2))
    images = load("cifar100", tmp_path, "train")
    assert images.labels.tolist() == fine and len(images.classes) == 100
    np.testing.assert_array_equal(images.images.reshape(4, -1), rows)


def test_cifar_pickles_run_no_code(tmp_path):
    write_cifar10_python(tmp_path)

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps({b"data": Harm()}, 2))
    with pytest.raises(DataError, match=r"test_batch .*asks for 'posix.mkdir"):
        load("cifar10", tmp_path, "test")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({b"labels": [0, 1, 10, 3]}, r"test_batch .*label 10 is out of range 0\.\.9"),
        ({b"labels": [0, -1, 2, 3]}, r"label -1 is out of range"),
        ({b"labels": [0, 1, 2]}, r"3 labels for 4 images"),
        ({b"labels": ["cat"] * 4}, r"labels are not a list of numbers"),
        ({b"labels": 5}, r"labels are not a list of numbers"),
        ({b"data": cifar_rows(3), b"labels": [0, 1, 2]}, r"3 images, batches.meta says 4"),
        ({b"data": cifar_rows()[:, :3000]}, r"uint8 \[4, 3000\], not uint8 \[N, 3072\]"),
        ({b"data": cifar_rows().astype(np.float32)}, r"array of type 'f4', not of bytes"),
        ({b"data": 5}, r"its data is int"),
    ],
)
def test_wrong_cifar_batches(tmp_path, changes, message):
    write_cifar10_python(tmp_path, test_batch=changes)
    with pytest.raises(DataError, match=message) as error:
        load("cifar10", tmp_path, "test")
    assert "download" in str(error.value)


def opcodes(name):
    """The pickle opcode that asks for a global."""
    module, _, name = name.rpartition(".")
    return b"c%s\n%s\n" % (module.encode(), name.encode())


def pickled_array(kind=b"u1", flags=0, shape=(10, 3072), data=None):
    """An array as Python 2's numpy writes it, with a dtype whose state the pickle sets, as opcodes."""
    data = b"\x41" * int(np.prod(shape)) if data is None else data
    made = opcodes("numpy.core.multiarray._reconstruct") + b"(" + opcodes("numpy.ndarray") + b"(I0\ntS'b'\ntR"
    dtype = opcodes("numpy.dtype") + b"(S'" + kind + b"'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI%d\ntb" % flags
    sizes = b"".join(b"I%d\n" % size for size in shape)
    return made + b"(I1\n(" + sizes + b"t" + dtype + b"I00\nT" + len(data).to_bytes(4, "little") + data + b"tb"


def cifar_entry(**entries):
    """A pickled dict, as opcodes."""
    return b"\x80\x02}(" + b"".join(b"S'%s'\n" % key.encode() + value for key, value in entries.items()) + b"u."


def test_a_cifar_pickle_of_python_2_is_read(tmp_path):
    write_cifar10_python(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    labels = b"(l" + b"I7\na" * PER_BATCH
    entry = cifar_entry(data=pickled_array(shape=(PER_BATCH, 3072)), labels=labels)
    (folder / "test_batch").write_bytes(entry)
    images = load("cifar10", tmp_path, "test")
    assert images.labels.tolist() == [7] * PER_BATCH and (images.images == 0x41).all()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        # An array of objects made of raw bytes: numpy would follow them as pointers.
        ({"label_names": pickled_array(b"O8", 0, (10,), b"AAAAAAAA" * 10)}, "of type .*O8.*, not of bytes"),
        ({"label_names": pickled_array(b"u1", 63, (10,))}, "not a list of names"),
        ({"label_names": opcodes("numpy.dtype") + b"(S'O8'\ntR"}, "of type .*O8"),
        ({"label_names": pickled_array(shape=(10,), data=b"short")}, "cannot reshape"),
        ({"label_names": opcodes("numpy.ndarray") + b"((I100000000000\ntS'u1'\ntR"}, "never filled"),
        ({"label_names": opcodes("numpy.core.multiarray.scalar") + b"(tR"}, "asks for 'numpy.core.multiarray.scalar"),
        ({"label_names": opcodes("numpy.dtype") + b"}b"}, "sets the state of a function"),
        ({"label_names": opcodes("numpy.ndarray") + b")\x81"}, "the operation NEWOBJ"),
        ({"label_names": b"I5\n"}, "not a list of names"),
        ({"label_names": b"(lI5\na"}, "not a list of names"),
    ],
)
def test_a_cifar_pickle_cannot_set_the_state_of_numpy(tmp_path, entry, message):
    write_cifar10_python(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "batches.meta").write_bytes(cifar_entry(**entry))
    with pytest.raises(DataError, match=rf"batches\.meta cannot be used: .*{message}.*; download the set again from"):
        load("cifar10", tmp_path, "test")


def test_a_cifar_array_that_the_file_does_not_fill_is_refused(tmp_path):
    write_cifar10_python(tmp_path)
    empty = opcodes("numpy.core.multiarray._reconstruct") + b"(tR"
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(cifar_entry(data=empty, labels=b"(l"))
    with pytest.raises(DataError, match=r"test_batch .*its data is not filled"):
        load("cifar10", tmp_path, "test")


def test_truncated_and_missing_files(tmp_path):
    write_cifar10_python(tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    whole = batch.read_bytes()
    batch.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"data_batch_3 .*not a complete pickle"):
        load("cifar10", tmp_path, "train")
    batch.unlink()
    with pytest.raises(DataError, match=r"data_batch_3 .*missing"):
        load("cifar10", tmp_path, "train")
    with pytest.raises(DataError, match=r"unknown split 'val'; use one of train, test"):
        load("cifar10", tmp_path, "val")
    with pytest.raises(DataError, match=r"contains none of cifar-100-python, cifar-100-python.tar.gz, .*--data"):
        load("cifar100", tmp_path, "train")
    with pytest.raises(DataError, match=r"unknown data set 'cifar'"):
        load("cifar", tmp_path, "train")


def test_truncated_archives(tmp_path):
    write_cifar10_binary(tmp_path / "a")
    archive = tmp_path / "cifar-10-binary.tar.gz"
    pack(tmp_path / "a" / "cifar-10-batches-bin", archive)
    whole = archive.read_bytes()
    for size in (0, 20, len(whole) // 2, len(whole) - 20_000):
        archive.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz .*truncated"):
            load("cifar10", tmp_path, "train")
    batch = tmp_path / "a" / "cifar-10-batches-bin" / "test_batch.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"12291 bytes are not a whole number of 3073-byte records"):
        load("cifar10", tmp_path / "a", "test")


@pytest.fixture
def stl(tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images = RNG.integers(0, 256, (5, 3, 96, 96), dtype=np.uint8)
    for split in ("train", "test", "unlabeled"):
        (folder / f"{split}_X.bin").write_bytes(images.swapaxes(2, 3).tobytes())
    for split in ("train", "test"):
        (folder / f"{split}_y.bin").write_bytes(bytes([1, 10, 3, 4, 5]))
    (folder / "class_names.txt").write_text("\n".join(f"c{i}" for i in range(10)))
    (folder / "fold_indices.txt").write_text("0 2 \n4 1 \n" * 5)
    return tmp_path, images


def test_stl10(stl):
    root, images = stl
    train, unlabeled = load("stl10", root, "train"), load("stl10", root, "unlabeled")
    np.testing.assert_array_equal(train.images, images)
    assert train.labels.tolist() == [0, 9, 2, 3, 4] and unlabeled.labels is None
    assert [fold.tolist() for fold in stl10_folds(root)] == [[0, 2], [4, 1]] * 5
    fold = train.subset(stl10_folds(root)[1])
    assert fold.labels.tolist() == [4, 9]
    (batch,) = unlabeled.batches(batch_indices(5, 5, shuffle=False), View(96))
    np.testing.assert_array_equal(batch.images, images)


def test_damaged_stl10(stl):
    root, _ = stl
    folder = root / "stl10_binary"
    (folder / "train_y.bin").write_bytes(bytes([1, 2, 0, 4, 5]))
    with pytest.raises(DataError, match=r"train_y.bin .*label 0 is out of range 1\.\.10"):
        load("stl10", root, "train")
    (folder / "fold_indices.txt").write_text("0 2 \n4 1 \n")
    with pytest.raises(DataError, match=r"fold_indices.txt .*it has 2 folds instead of 10"):
        stl10_folds(root)
    (folder / "fold_indices.txt").write_text("0 2 \n4 5 \n" * 5)
    with pytest.raises(DataError, match=r"fold_indices.txt .*past the 5 images"):
        stl10_folds(root)
    (folder / "test_X.bin").write_bytes(bytes(3 * 96 * 96 + 1))
    with pytest.raises(DataError, match=r"test_X.bin .*27649 bytes"):
        load("stl10", root, "test")


def write_voc(folder, objects, split="trainval", lists=()):
    for part in ("ImageSets/Main", "ImageSets/Segmentation", "Annotations", "JPEGImages", "SegmentationClass"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, (name, found) in enumerate(objects.items()):
        size = (40 + 6 * number, 30)
        Image.fromarray(RNG.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(folder / f"JPEGImages/{name}.jpg")
        xml = "".join(f"<object><name>{n}</name><difficult>{d}</difficult></object>" for n, d in found)
        (folder / f"Annotations/{name}.xml").write_text(f"<annotation>{xml}</annotation>")
    for kind in ("Main", "Segmentation"):
        (folder / f"ImageSets/{kind}/{split}.txt").write_text("\n".join(objects))
    for name in lists:
        (folder / f"ImageSets/Main/{name}_{split}.txt").write_text("")


OBJECTS = {"000005": [("cat", 0), ("cat", 1), ("train", 1)], "000007": [("dog", 0)], "000009": []}


def test_voc_classification(tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    write_voc(folder, OBJECTS)
    images = load("voc07", tmp_path, "trainval")
    assert (
        images.classes == tuple(VOC_CLASSES) and len(VOC_CLASSES) == 20 and VOC_CLASSES[-2:] == ["train", "tvmonitor"]
    )
    row = dict(zip(images.classes, images.labels[0].tolist(), strict=True))
    assert (row["cat"], row["train"], row["dog"]) == (1, -1, 0)
    assert images.labels.dtype == torch.int8 and images.labels[2].tolist() == [0] * 20
    # The classes that have lists, or those asked for.
    write_voc(folder, OBJECTS, lists=("train", "cat"))
    assert voc_classification(folder, "trainval").classes == ("cat", "train")
    chosen = voc_classification(folder, "trainval", classes=["dog", "cat"])
    assert labels_of(chosen).tolist() == [[0, 1], [1, 0], [0, 0]]
    assert sorted(name for names in COARSE.values() for name in names) == VOC_CLASSES


def test_voc_lists_and_files_must_match(tmp_path):
    write_voc(tmp_path, OBJECTS)
    with pytest.raises(DataError, match=r"test.txt is missing: there are trainval"):
        voc_classification(tmp_path, "test")
    (tmp_path / "Annotations" / "000007.xml").write_text("<annotation><object>")
    with pytest.raises(DataError, match=r"000007.xml cannot be read"):
        voc_classification(tmp_path, "trainval")
    write_voc(tmp_path, OBJECTS)
    (tmp_path / "JPEGImages" / "000009.jpg").unlink()
    with pytest.raises(DataError, match=r"000009.jpg is missing, but trainval.txt names it"):
        voc_classification(tmp_path, "trainval")


def write_masks(folder, values, mode="P"):
    for name in OBJECTS:
        with Image.open(folder / f"JPEGImages/{name}.jpg") as image:
            width, height = image.size
        mask = Image.fromarray(np.resize(np.array(values, np.uint8), (height, width)))
        if mode == "P":
            mask.putpalette([i for i in range(256) for _ in range(3)])
        mask.convert(mode).save(folder / f"SegmentationClass/{name}.png")


def test_voc_segmentation(tmp_path):
    write_voc(tmp_path, OBJECTS)
    write_masks(tmp_path, [0, 20, 255])
    images = voc_segmentation(tmp_path, "trainval", short_side=0)
    assert images.classes[0] == "background" and len(images.classes) == 21
    whole, mask = images.whole(1)
    assert (
        whole.shape == (3, 30, 46)
        and mask is not None
        and mask.shape == (30, 46)
        and mask.unique().tolist() == [0, 20, 255]
    )
    (batch,) = images.batches(batch_indices(3, 3, shuffle=False), View(24, random=True, flip=True, seed=5))
    assert labels_of(batch).shape == (3, 24, 24) and labels_of(batch).dtype == torch.uint8
    # Image and mask are cut alike: each pair is one window of the file's, mirrored or not.
    for place, (pixels, labels) in enumerate(zip(batch.images, labels_of(batch), strict=True)):
        whole, mask = images.whole(place)
        assert mask is not None
        places = [
            (top, left, flip)
            for top in range(whole.shape[1] - 23)
            for left in range(whole.shape[2] - 23)
            for flip in (False, True)
            if torch.equal(pixels.flip(-1) if flip else pixels, whole[:, top : top + 24, left : left + 24])
        ]
        ((top, left, flip),) = places
        assert torch.equal(labels.flip(-1) if flip else labels, mask[top : top + 24, left : left + 24])
    # Scaled for the network, scored on the original mask.
    whole, mask = voc_segmentation(tmp_path, "trainval", short_side=16).whole(0)
    assert whole.shape == (3, 16, 21) and mask is not None and mask.shape == (30, 40)
    # A JPEG that is much too large is decoded at its full size all the same, since its mask is.
    (small,) = voc_segmentation(tmp_path, "trainval", short_side=8).batches(batch_indices(3, 3, shuffle=False), View(8))
    assert small.images.shape == (3, 3, 8, 8) and labels_of(small).shape == (3, 8, 8)


def test_the_larger_list_of_voc_2012(tmp_path):
    make_sets.voc(tmp_path, train=4, test=3)
    at = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    with pytest.raises(DataError, match=r"train_aug.txt is missing: there are train, val; .* --budget cpu trains with"):
        load("voc12-aug", tmp_path, "train")
    (at / "train_aug.txt").write_text("train0001\ntrain0003\nval0000\n")
    images = load("voc12-aug", tmp_path, "train")
    assert [file.stem for file in images.files] == ["train0001", "train0003", "val0000"]
    assert load("voc12-aug", tmp_path, "val").files == load("voc12", tmp_path, "val").files
    (at / "train_aug.txt").write_text("/JPEGImages/train0001.jpg /SegmentationClassAug/train0001.png\n")
    with pytest.raises(
        DataError, match=r"has the file '/JPEGImages/train0001.jpg', as lists of an older layout have: wr"
    ):
        load("voc12-aug", tmp_path, "train")
    (at / "train_aug.txt").write_text("train0001\n2008_000001\n")
    with pytest.raises(DataError, match=r"2008_000001.png is missing, but train_aug.txt names it: unpack"):
        load("voc12-aug", tmp_path, "train")


def test_a_zoomed_mask_stays_on_its_image(tmp_path):
    at = make_sets.voc(tmp_path, train=2, test=1) / "VOCdevkit" / "VOC2012"
    rng = np.random.default_rng(0)
    for name in ("train0000", "train0001"):  # two gray halves, and a mask that says which
        mask = np.zeros((64, 96), np.uint8)
        mask[:, rng.integers(30, 60) :] = 1
        mask[rng.integers(20, 40) :] ^= 1
        Image.fromarray(mask).save(at / "SegmentationClass" / f"{name}.png")
        Image.fromarray(mask * 200).convert("RGB").save(at / "JPEGImages" / f"{name}.jpg", quality=100)
    images = voc_segmentation(at, "train", short_side=0)
    wide = View(20, random=True, zoom=3.0, flip=True, seed=1)
    shares = []
    for epoch in range(20):
        (batch,) = images.batches(batch_indices(2, 2, seed=1, epoch=epoch), wide, epoch=epoch)
        assert labels_of(batch).shape == (2, 20, 20) and set(labels_of(batch).unique().tolist()) <= {0, 1}
        shares.append(((batch.images[:, 0] > 100) == (batch.labels == 1)).float().mean())
    assert min(shares) > 0.9


def test_segmentation_of_other_classes(tmp_path):
    folder = tmp_path / "CamVid-voc"
    write_voc(folder, OBJECTS)
    write_masks(folder, [0, 1, 255])
    (folder / "classes.txt").write_text("0 sky\n1 traffic sign\n255 void\n")
    images = load("camvid", tmp_path, "trainval")
    assert images.classes == ("sky", "traffic sign")
    assert images.colors() == [[0, 0, 0], [1, 1, 1]]  # of the masks' palette
    write_masks(folder, [0, 1, 2])
    images = load("camvid", tmp_path, "trainval")
    with pytest.raises(DataError, match=r"000005.png has palette index 2: allowed are 0 to 1"):
        list(images.batches(batch_indices(3, 3, shuffle=False), View(24)))
    write_masks(folder, [0, 1], "RGB")
    with pytest.raises(DataError, match=r"000005.png is a mask of mode RGB"):
        images.whole(0)
    Image.new("L", (8, 8)).save(folder / "SegmentationClass" / "000005.png")
    with pytest.raises(DataError, match=r"000005.jpg is 8 x 8 pixels, the image 40 x 30"):
        list(images.batches(batch_indices(3, 3, shuffle=False), View(24)))
    (folder / "classes.txt").write_text("0 sky\n2 road\n")
    with pytest.raises(DataError, match=r"classes.txt must have lines"):
        load("camvid", tmp_path, "trainval")


def write_image(path, size=(20, 16), color=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.new("RGB", size, color) if color else Image.fromarray(pixels)
    image.save(path, "JPEG" if path.suffix.lower() in (".jpeg", ".jpg") else None)


def test_imagenet_and_its_hyponyms(tmp_path):
    for name in ("n02085620/n02085620_7.JPEG", "n02690373/n02690373_1.JPEG", "n01440764/n01440764_9.JPEG"):
        write_image(tmp_path / "imagenet" / "train" / name)
    write_image(tmp_path / "imagenet" / "val" / "n02690373" / "ILSVRC2012_val_00000001.JPEG")
    images = load("imagenet", tmp_path, "train")
    assert images.classes == ("n01440764", "n02085620", "n02690373") and images.labels.tolist() == [0, 1, 2]
    assert load("imagenet", tmp_path, "val").classes == ("n02690373",)
    # Chihuahua is a mammal, airliner a conveyance, tench neither.
    assert load("imagenet-animal", tmp_path, "train").classes == ("n02085620",)
    assert load("imagenet-vehicle", tmp_path, "train").classes == ("n02690373",)
    with pytest.raises(DataError, match="none of the 1 images"):
        load("imagenet-animal", tmp_path, "val")
    write_image(tmp_path / "flat" / "imagenet" / "val" / "ILSVRC2012_val_00000001.JPEG")
    assert load("imagenet", tmp_path / "flat", "val").labels is None
    with pytest.raises(DataError, match=r"00000001.JPEG has no WordNet id"):
        load("imagenet-animal", tmp_path / "flat", "val")
    write_image(tmp_path / "imagenet" / "train" / "stray.JPEG")
    with pytest.raises(DataError, match=r"stray.JPEG has no WordNet id"):
        load("imagenet", tmp_path, "train")
    with pytest.raises(DataError, match=r"does not contain tiny-imagenet-200"):
        load("tiny-imagenet", tmp_path, "train")


def test_hyponym_lists():
    animal, vehicle = synsets("animal"), synsets("vehicle")
    # Mammal, bird, conveyance themselves; hen, tiger, container ship, racer; tench and (a horse by name) Secretariat.
    assert {"n01861778", "n01503061", "n01514859", "n02129604"} <= animal
    assert {"n03100490", "n03095699", "n04037443"} <= vehicle
    assert not {"n01440764", "n02384428"} & (animal | vehicle) and not animal & vehicle
    with pytest.raises(DataError, match="'plant'; use one of animal, vehicle"):
        synsets("plant")


def test_the_hyponym_lists_are_what_their_script_writes(tmp_path):
    """On a WordNet of four synsets, with an instance, which does not count."""
    folder = Path(__file__).parents[1] / "train" / "skipae_train" / "datasets" / "wordnet"
    nouns = [
        "  1 The license.  ",
        "00000010 05 n 02 mammal 0 mammalian 0 002 ~ 00000030 n 0000 #m 00000050 n 0000 | milk",
        "00000020 05 n 01 bird 0 000 | feathers",
        "00000030 05 n 01 horse 0 001 ~i 00000040 n 0000 | hooves",
        "00000050 06 n 02 conveyance 1 transport 2 000 | moves",
    ]
    (tmp_path / "data.noun").write_text("\n".join(nouns))
    script = tmp_path / "make_lists.py"
    script.write_bytes((folder / "make_lists.py").read_bytes())
    subprocess.run([sys.executable, script, tmp_path / "data.noun"], check=True)
    lines = (tmp_path / "animal.txt").read_text().splitlines()
    assert [line for line in lines if line[0] != "#"] == ["n00000010", "n00000020", "n00000030"]
    assert (tmp_path / "vehicle.txt").read_text().endswith("# The license.\nn00000050\n")


def test_tiny_imagenet(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for number, wnid in enumerate(("n02085620", "n02690373")):
        write_image(root / "train" / wnid / "images" / f"{wnid}_0.JPEG", (64, 64))
        write_image(root / "val" / "images" / f"val_{number}.JPEG", (64, 64))
    listed = root / "val" / "val_annotations.txt"
    listed.write_text("val_0.JPEG\tn02690373\t0\t0\t9\t9\nval_1.JPEG\tn02085620\t0\t0\t9\t9\n")
    train, val = load("tiny-imagenet", tmp_path, "train"), load("tiny-imagenet", tmp_path, "val")
    assert train.classes == val.classes and train.labels.tolist() == [0, 1] and val.labels.tolist() == [1, 0]
    memory = train.loaded()
    assert memory.images.shape == (2, 3, 64, 64) and memory.labels.tolist() == [0, 1]
    assert torch.equal(memory.images[0], train.whole(0)[0])
    listed.write_text(listed.read_text() + "val_2.JPEG\tn02085620\t0\t0\t9\t9\n")
    with pytest.raises(DataError, match=r"lacks 'val_2.JPEG', but val_annotations.txt names it"):
        load("tiny-imagenet", tmp_path, "val")
    listed.write_text("val_0.JPEG n02690373\n")
    with pytest.raises(DataError, match=r"val_annotations.txt has the line"):
        load("tiny-imagenet", tmp_path, "val")


def test_subsets_of_imagenet_share_their_classes(tmp_path):
    make_sets.tiny_imagenet(tmp_path, ("n02085620", "n02930766"), each=4)
    for split, count in (("train", 3), ("val", 2)):
        for synset in ("n02085620", "n01440764"):
            for k, pixels in enumerate(make_sets.pictures(np.zeros(count, int), 80, 5)):
                file = tmp_path / "imagewoof2-320" / split / synset / f"ILSVRC_{k}.JPEG"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    (tmp_path / "imagenet-sample-images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "imagenet-sample-images" / "n01443537_goldfish.JPEG")
    splits = {split: load("imagenet-subsets", tmp_path, split) for split in ("train", "val", "unlabeled")}
    for split, dogs, cars, fish in (("train", 4 + 3, 4, 3), ("val", 2 + 2, 2, 2)):
        images = splits[split]
        assert images.classes == ("n01440764", "n02085620", "n02930766")
        assert torch.bincount(images.labels).tolist() == [fish, dogs, cars]
        assert all(images.classes[label] in str(images.files[k]) for k, label in enumerate(images.labels.tolist()))
    assert splits["unlabeled"].labels is None and len(splits["unlabeled"]) == len(splits["train"]) + 1
    assert splits["train"].scaled(40).whole(0)[0].shape[1:] == (40, 40)


def test_folders(tmp_path):
    write_image(tmp_path / "cat" / "a.jpg", (40, 20))
    write_image(tmp_path / "dog" / "deep" / "b.png", (20, 50))
    images = image_folder(tmp_path, short_side=10)
    assert images.labels is None and [images.whole(i)[0].shape[1:] for i in (0, 1)] == [(10, 20), (25, 10)]
    assert class_folder(tmp_path).classes == ("cat", "dog") and labels_of(class_folder(tmp_path)).tolist() == [0, 1]
    with pytest.raises(DataError, match=r"a crop of 11 does not fit .*a.jpg, 20 x 10 pixels"):
        list(images.batches(batch_indices(2, 2, shuffle=False), View(11)))
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken.jpg cannot be decoded"):
        list(image_folder(tmp_path).batches(batch_indices(3, 3, shuffle=False), View(8)))
    write_image(tmp_path / "c.png")
    with pytest.raises(DataError, match=r"c.png is not in a class folder"):
        class_folder(tmp_path)


def test_own_images_are_split(tmp_path):
    for number in range(40):
        write_image(tmp_path / "mine" / "ab"[number % 2] / f"{number}.png")
    for hidden in ("a/._1.png", ".ipynb_checkpoints/1.png", "__MACOSX/a/1.png"):
        write_image(tmp_path / "mine" / hidden)
    parts = {(name, split): load(name, tmp_path / "mine", split) for name in ("folder", "classes") for split in SPLITS}
    train, test = parts["classes", "train"], parts["classes", "test"]
    assert len(train) + len(test) == 40 and 1 <= len(test) <= 8
    assert (train.classes, test.classes) == (("a", "b"), ("a", "b")) and parts["folder", "train"].labels is None
    names = {split: {train._name(row) for row in parts["folder", split]._rows} for split in SPLITS}
    assert not names["train"] & names["test"] and len(names["test"]) == len(test)
    write_image(tmp_path / "mine" / "a" / "more.png")
    again = load("classes", tmp_path / "mine", "test")
    assert names["test"] <= {again._name(row) for row in again._rows}  # what was tested on is never trained on

    own = tmp_path / "own"
    write_image(own / "train" / "a" / "1.png")
    write_image(own / "train" / "b" / "2.png")
    for split in SPLITS:
        with pytest.raises(DataError, match=r"has only a folder train: it needs both train and test \(or val\)"):
            load("folder", own, split)
    write_image(own / "Valid" / "b" / "3.png")
    assert (len(load("folder", own, "train")), len(load("folder", own, "test"))) == (2, 1)
    assert load("classes", own, "test").classes == ("b",)
    with pytest.raises(DataError, match=r"contains 1 image\(s\), too few to keep one in ten"):
        load("folder", own / "Valid" / "b", "train")
    (own / "train" / "c").symlink_to(own / "Valid" / "b")
    assert load("classes", own, "train").labels.tolist() == [0, 1, 2]
    (tmp_path / "links").mkdir()
    with pytest.raises(DataError, match=r"links contains no class folders"):
        class_folder(tmp_path / "links")
    (tmp_path / "links" / "b").symlink_to(own / "Valid" / "b")
    assert class_folder(tmp_path / "links").classes == ("b",)
    (own / "train" / "d").mkdir()
    with pytest.raises(DataError, match=r"d contains no images"):
        load("classes", own, "train")

    rare = next(n for n in range(100) if crc32(f"rare/{n}.png".encode()) % 10 == 0)
    write_image(tmp_path / "mine" / "rare" / f"{rare}.png")
    with pytest.raises(DataError, match=r"leaves no training images for rare: add images, or make folders"):
        load("classes", tmp_path / "mine", "train")


def test_16_bit_greys_are_not_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 100 * 257, np.uint16)).save(tmp_path / "a.png")
    assert np.array(open_rgb(tmp_path / "a.png", "a.png")).tolist() == [[[100] * 3] * 8] * 8


def test_own_masks(tmp_path):
    for folder in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("b\n")
    write_image(tmp_path / "JPEGImages" / "a.jpg", (8, 8))
    with pytest.raises(DataError, match=r"has no classes.txt: create it with lines 'INDEX NAME'"):
        load("masks", tmp_path, "train")
    (tmp_path / "classes.txt").write_text("0 lawn\n1 mole\n")
    mask = np.zeros((8, 8), np.uint8)
    for value, message in ((255, "contain only class 0; 255 means no label: write mole as 1"), (7, "index 7")):
        mask[:2] = value
        Image.fromarray(mask).save(tmp_path / "SegmentationClass" / "a.png")
        with pytest.raises(DataError, match=message):
            load("masks", tmp_path, "train")
    mask[:2] = 1
    Image.fromarray(mask).save(tmp_path / "SegmentationClass" / "a.png")
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    for split in ("train", "val"):
        with pytest.raises(DataError, match=r"1 image\(s\), among them a, are listed in both train.txt and val.txt"):
            load("masks", tmp_path, split)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("b\n")
    assert load("masks", tmp_path, "train").classes == ("lawn", "mole")


def test_statistics(tmp_path):
    write_image(tmp_path / "a.png", color=(255, 0, 51))
    write_image(tmp_path / "b.png", color=(0, 0, 51))
    mean, std = image_folder(tmp_path, short_side=0).statistics()
    assert mean == pytest.approx((0.5, 0, 0.2)) and std == pytest.approx((0.5, 0, 0), abs=1e-7)
    images = torch.from_numpy(RNG.integers(0, 256, (7, 3, 9, 9), dtype=np.uint8))
    mean, std = MemorySet(images, None).statistics()
    values = images.double() / 255
    assert mean == pytest.approx(values.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(values.std((0, 2, 3), correction=0).tolist())


def hub_rows():
    datasets = pytest.importorskip("datasets")
    data = []
    for number in range(20):
        buffer = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
        data.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": number % 2, "note": "x"})
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["a", "b"]),
        "note": datasets.Value("string"),
    }
    return datasets.Dataset.from_list(data, datasets.Features(features))


def test_hub_formats_on_disk(tmp_path, monkeypatch):
    rows = hub_rows()
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    expected = [np.array(row["image"]) for row in rows]
    rows.save_to_disk(tmp_path / "arrow")
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "splits")
    (tmp_path / "parquet").mkdir()
    rows.to_parquet(tmp_path / "parquet" / "train-0.parquet")
    apart = (uniforms(0, 0, torch.arange(20), 1)[:, 0] < 0.1).nonzero().flatten().tolist()
    assert 0 < len(apart) < 5
    for folder in ("arrow", "splits", "parquet"):
        images, test = (hub(str(tmp_path / folder), split, short_side=0) for split in SPLITS)
        assert images.classes == test.classes == ("a", "b") and len(images) + len(test) == 20
        assert labels_of(test).tolist() == [row % 2 for row in apart]
        for position, row in enumerate(apart):
            np.testing.assert_array_equal(test.whole(position)[0].permute(1, 2, 0), expected[row])
        left = [row for row in range(20) if row not in apart]
        np.testing.assert_array_equal(
            images.whole(17 - len(apart))[0].permute(1, 2, 0), expected[left[17 - len(apart)]]
        )
    datasets.DatasetDict({"train": rows, "validation": rows.select([3, 10])}).save_to_disk(tmp_path / "validated")
    assert len(hub(str(tmp_path / "validated"), "train")) == 20
    tested = hub(str(tmp_path / "validated"), "test", short_side=0)
    np.testing.assert_array_equal(tested.whole(1)[0].permute(1, 2, 0), expected[10])
    broken = [
        {**row, "image": {"bytes": b"no image", "path": None}}
        for row in hub_rows().cast_column("image", datasets.Image(decode=False))
    ]
    broken = datasets.Dataset.from_list(broken, rows.features)
    datasets.DatasetDict({"train": broken, "test": broken, "validation": broken}).save_to_disk(tmp_path / "broken")
    assert len(hub(str(tmp_path / "broken"), "test")) == 20  # to look for a split decodes no image
    secret = rows.map(lambda _: {"label": -1})
    datasets.DatasetDict({"train": rows, "test": secret, "validation": rows}).save_to_disk(tmp_path / "secret")
    assert labels_of(hub(str(tmp_path / "secret"), "test")).tolist() == [0, 1] * 10
    rows.map(lambda row: {"label": None if row["note"] == "x" else 0}).save_to_disk(tmp_path / "gaps")
    with pytest.raises(DataError, match=r"has no label in row 0 of 'label': fill it, or drop the row"):
        hub(str(tmp_path / "gaps"), "train")
    rows.map(lambda _: {"image": None}).save_to_disk(tmp_path / "blank")
    with pytest.raises(DataError, match=r"blank, row 0 has no image: drop the row"):
        hub(str(tmp_path / "blank"), "train").whole(0)
    with pytest.raises(DataError, match=r"does not name a set; use hub:ORG/NAME"):
        load("hub:", tmp_path, "train")
    two = rows.rename_column("label", "fine").add_column("coarse", [0] * 20)
    two = two.cast_column("coarse", datasets.ClassLabel(names=["all"])).rename_column("image", "img")
    two.save_to_disk(tmp_path / "two")
    with pytest.raises(DataError, match=r"has several class columns, fine, coarse: name one of them"):
        load(f"hub:{tmp_path / 'two'}", tmp_path, "train")
    assert load(f"hub:{tmp_path / 'two'}#coarse", tmp_path, "train").classes == ("all",)
    for part in ("first", "second"):
        (tmp_path / "parts" / part).mkdir(parents=True)
        rows.select(range(20 if part == "first" else 18)).to_parquet(tmp_path / "parts" / part / "train-0.parquet")
    listed = "".join(f"- config_name: {part}\n  data_files: {part}/*.parquet\n" for part in ("first", "second"))
    (tmp_path / "parts" / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"parts cannot be used \(ValueError: .*'first', 'second'"):
        load("hub:./parts", tmp_path, "train")
    assert sum(len(load("hub:./parts/second#label", tmp_path, split)) for split in SPLITS) == 18
    rows.remove_columns("label").save_to_disk(tmp_path / "unlabeled")
    assert hub(str(tmp_path / "unlabeled"), "train").labels is None
    rows.remove_columns("image").save_to_disk(tmp_path / "blind")
    with pytest.raises(DataError, match=r"has no image column: its columns are label, note"):
        hub(str(tmp_path / "blind"), "train")
    rows.select(range(min(apart))).save_to_disk(tmp_path / "few")
    with pytest.raises(DataError, match=r"rows and no split to test on: too few to keep one in ten apart"):
        hub(str(tmp_path / "few"), "train")
    arrow = load(f"hub:{tmp_path / 'arrow'}", tmp_path, "train").subset(torch.arange(4))
    (batch,) = arrow.batches(batch_indices(4, 4, shuffle=False), View(225))
    assert batch.images.shape == (4, 3, 225, 225)
    with pytest.raises(DataError, match=r"no image column 'img'; its image columns: image"):
        hub(str(tmp_path / "arrow"), "train", image="img")
    with pytest.raises(DataError, match=r"no class column 'note'; its class columns: label"):
        hub(str(tmp_path / "arrow"), "train", label="note")
    with pytest.raises(DataError, match=r"has no split 'unlabeled': it has train, test"):
        hub(str(tmp_path / "splits"), "unlabeled")
    with pytest.raises(DataError, match=r"nowhere cannot be used \(FileNotFoundError"):
        hub(str(tmp_path / "nowhere" / "nowhere" / "nowhere"), "train")


def ramp(count=12, side=10):
    """Images whose pixels tell sample, row and column."""
    sample, y, x = torch.meshgrid(torch.arange(count), torch.arange(side), torch.arange(side), indexing="ij")
    return MemorySet(torch.stack([sample, y, x], 1).to(torch.uint8), torch.arange(count))


def test_batches_cut_in_memory():
    images, view = ramp(250), View(7, random=True, flip=True, seed=3)
    (batch,) = images.batches([torch.arange(250)], view, epoch=2)
    assert batch.images.shape == (250, 3, 7, 7) and batch.images.is_contiguous(memory_format=torch.channels_last)
    sample, y, x = batch.images.long().unbind(1)
    assert (sample == torch.arange(250)[:, None, None]).all()
    assert (y == y[:, :1, :1] + torch.arange(7)[:, None]).all()
    step = x[:, 0, 1] - x[:, 0, 0]
    assert set(step.tolist()) == {1, -1} and 90 < int((step == 1).sum()) < 160
    assert (x == x[:, :1, :1] + step[:, None, None] * torch.arange(7)).all()
    # Every place comes up, and no two epochs or seeds are alike.
    assert set(y[:, 0, 0].tolist()) == set(x.amin((1, 2)).tolist()) == {0, 1, 2, 3}
    others = [View(7, True, True, seed=4), View(7, True, True, seed=3)]
    for other, epoch in zip(others, (2, 3), strict=True):
        (changed,) = images.batches([torch.arange(250)], other, epoch=epoch)
        assert not torch.equal(changed.images, batch.images)
    (center,) = images.batches([torch.arange(250)], View(7))
    assert torch.equal(center.images, images.images[..., 1:8, 1:8])
    with pytest.raises(DataError, match=r"a crop of 11 does not fit images of 10 x 10"):
        next(images.batches([torch.arange(2)], View(11)))


def test_a_sample_is_cut_alike_in_memory_and_streamed_and_in_any_batch(tmp_path):
    for number in range(6):
        write_image(tmp_path / f"{number}.png", (20, 20))
    streamed = image_folder(tmp_path, short_side=20)
    view = View(13, random=True, flip=True, seed=1)
    whole = next(streamed.loaded().batches([torch.arange(6)], view, epoch=4)).images
    parts = streamed.batches([torch.tensor([5, 2]), torch.tensor([0]), torch.tensor([4, 1, 3])], view, epoch=4)
    for batch in parts:
        assert torch.equal(batch.images, whole[batch.indices])
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_streams_keep_images_up_to_a_limit(tmp_path, monkeypatch):
    for number in range(4):
        write_image(tmp_path / f"{number}.png", (20, 20))
    images = image_folder(tmp_path, short_side=20)
    images._memory[0] = 2 * 20 * 20 * 3
    opened = []
    open_ = type(images)._open

    def noted(self, row):
        opened.append(row)
        return open_(self, row)

    monkeypatch.setattr(type(images), "_open", noted)
    for _ in range(3):
        assert len(list(images.batches(batch_indices(4, 1, shuffle=False), View(20)))) == 4
    assert len(opened) == 4 + 2 + 2
    part = images.subset(torch.tensor([3, 1]))
    assert torch.equal(part.whole(0)[0], images.whole(3)[0]) and len(part) == 2


def test_a_stream_that_is_left_early_stops(tmp_path):
    for number in range(9):
        write_image(tmp_path / f"{number}.png", (20, 20))
    batches = image_folder(tmp_path, short_side=20).batches(batch_indices(9, 1, shuffle=False), View(20))
    next(batches)
    batches.close()


def test_the_plan_is_shared_by_processes():
    whole = batch_indices(103, 10, seed=1, epoch=2)
    assert [len(part) for part in whole] == [10] * 10 and len(torch.cat(whole).unique()) == 100
    assert all(map(torch.equal, whole, batch_indices(103, 10, seed=1, epoch=2)))
    assert not torch.equal(whole[0], batch_indices(103, 10, seed=1, epoch=3)[0])
    assert [len(part) for part in batch_indices(103, 10, shuffle=False)] == [10] * 10 + [3]
    with pytest.raises(DataError, match="9 images do not fill a batch of 10"):
        batch_indices(9, 10)


def test_random_numbers_are_those_of_splitmix64():
    """Beside a transcription in plain integers."""

    def finish(state):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    assert finish(0) == 0xE220A8397B1DCDAF  # the generator's published first output for seed 0
    indices = torch.tensor([0, 1, 49_999, 2**40])
    drawn = uniforms(7, 3, indices, 5)
    expected = [[(finish(finish(i ^ derive_seed(7, 3)) ^ c) >> 40) / 2**24 for c in range(5)] for i in indices.tolist()]
    assert drawn.tolist() == expected
    many = uniforms(0, 0, torch.arange(20_000), 3)
    assert torch.allclose(many.mean(0), torch.tensor(0.5), atol=0.01) and many.min() >= 0 and many.max() < 1
    assert abs(torch.corrcoef(many.T) - torch.eye(3)).max() < 0.03
    assert len({derive_seed(a, b) for a in range(50) for b in range(50)}) == 2500


def test_balanced_and_held_out():
    labels = torch.arange(100) % 5
    chosen = balanced(labels, 4, seed=0)
    assert torch.bincount(labels[chosen]).tolist() == [4] * 5 and torch.equal(chosen, chosen.unique())
    assert torch.equal(chosen, balanced(labels, 4, seed=0)) and not torch.equal(chosen, balanced(labels, 4, seed=1))
    with pytest.raises(DataError, match="class 0 has 20 images, fewer than the requested 21"):
        balanced(labels, 21, seed=0)
    train, held = hold_out(100, 10, 0, labels)
    assert torch.bincount(labels[held]).tolist() == [2] * 5
    assert torch.equal(torch.cat([train, held]).sort().values, torch.arange(100))
    assert [len(part) for part in hold_out(100, 7, 0)] == [93, 7]
    with pytest.raises(DataError, match="7 images cannot be held out evenly from 5 classes"):
        hold_out(100, 7, 0, labels)
    with pytest.raises(DataError, match="100 of 100"):
        hold_out(100, 100, 0)


REAL = Path(os.environ.get("SKIPAE_DATA", ""))


@pytest.mark.realdata
@pytest.mark.skipif("SKIPAE_DATA" not in os.environ, reason="SKIPAE_DATA names no folder of real data")
@pytest.mark.parametrize(
    ("name", "split", "below", "counts", "classes"),  # of a sample, of the whole set
    [
        ("cifar10", "train", "cifar-10-batches-py", {50_000}, {10}),
        ("cifar10", "test", "cifar-10-batches-py", {10_000}, {10}),
        ("tiny-imagenet", "train", "tiny-imagenet-200", {4_000, 100_000}, {200}),
        ("tiny-imagenet", "val", "tiny-imagenet-200", {1_000, 10_000}, {200}),
        ("voc07", "trainval", "VOCdevkit/VOC2007", {560, 5011}, {5, 20}),
        ("voc07", "test", "VOCdevkit/VOC2007", {240, 4952}, {5, 20}),
        ("voc12", "train", "VOCdevkit/VOC2012", {44, 1464}, {21}),
        ("voc12", "val", "VOCdevkit/VOC2012", {29, 1449}, {21}),
        ("camvid", "train", "CamVid-voc", {367}, {11}),
        ("camvid", "val", "CamVid-voc", {101}, {11}),
    ],
)
def test_real_data(name, split, below, counts, classes):
    if not (REAL / below).exists():
        pytest.skip(f"{REAL} holds no {below}")
    images = load(name, REAL, split)
    assert len(images) in counts and len(images.classes) in classes
    side = 29 if name == "cifar10" else 57 if name == "tiny-imagenet" else 225
    for batch in images.batches(batch_indices(len(images), 16)[:4], View(side, random=True, flip=True)):
        assert batch.images.shape[1:] == (3, side, side) and 60 < batch.images.float().mean() < 190
        assert batch.labels is not None
    if name == "voc07":  # the devkit's own lists of each class say the same as the XML
        for number, wanted in enumerate(images.classes):
            lines = (REAL / below / f"ImageSets/Main/{wanted}_{split}.txt").read_text().split("\n")
            stated = [{"1": 1, "-1": 0, "0": -1}[line.split()[1]] for line in lines if line]
            assert stated == images.labels[:, number].tolist()


@pytest.mark.realdata
@pytest.mark.skipif("SKIPAE_DATA" not in os.environ, reason="SKIPAE_DATA names no folder of real data")
def test_real_subsets():
    if (REAL / "stl10_binary").exists():
        assert [len(fold) for fold in stl10_folds(REAL)] == [1000] * 10
    train = load("cifar10", REAL, "train")
    chosen = train.subset(balanced(train.labels, 400, 0))
    assert len(chosen) == 4000 and torch.bincount(chosen.labels).tolist() == [400] * 10
    mean, std = train.statistics()  # as everyone publishes them
    assert mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4)
    assert std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)
    tiny = [imagenet(REAL / "tiny-imagenet-200", "train", hypernym=kind) for kind in ("animal", "vehicle")]
    assert [len(images.classes) for images in tiny] == [30, 15]
