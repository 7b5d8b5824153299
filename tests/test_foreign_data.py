"""Data sets that are damaged or made to do harm: each is one line that names the file, and none waits or takes all."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import time
import zipfile
import zlib
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from skipae_train.data import DataError, find_images, open_rgb
from skipae_train.datasets import hub, load
from skipae_train.datasets.hub import HubSet
from skipae_train.errors import RunError
from skipae_train.run_folder import read_state


def image(path, side=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), 99, np.uint8)).save(path)
    return path


def huge_png(path, side=30_000, color=3):
    """A PNG of a few bytes that says it is 30,000 x 30,000 pixels, with a palette."""
    header = struct.pack(">IIBBBBB", side, side, 8, color, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", b"\0" * 6), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    made = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + made)


def masks(root):
    """Two images with masks, in VOC's layout."""
    for name, list_ in (("a", "train"), ("b", "val")):
        image(root / "JPEGImages" / f"{name}.jpg")
        (root / "SegmentationClass").mkdir(exist_ok=True)
        Image.fromarray(np.eye(16, dtype=np.uint8)).save(root / "SegmentationClass" / f"{name}.png")
        (root / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Segmentation" / f"{list_}.txt").write_text(f"{name}\n")
    (root / "classes.txt").write_text("0 lawn\n1 mole\n")
    return root


def refused(told, name, root, split="train"):
    with pytest.raises(DataError, match=told) as error:
        images: Any = load(name, root, split)
        for row in range(len(images)):
            images.whole(row)
    assert "\n" not in str(error.value)


def test_an_archive_member_of_absurd_size_is_refused_before_memory_is_taken(tmp_path):
    header = tarfile.TarInfo("stl10_binary/train_X.bin")
    header.size = 10**13
    (tmp_path / "stl10_binary.tar.gz").write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024))
    told = r"stl10_binary.tar.gz/train_X.bin .*10,000,000,000,000 bytes, which no file does; download"
    refused(told, "stl10", tmp_path)


def test_a_pipe_in_the_place_of_a_batch_is_refused(tmp_path):
    (tmp_path / "stl10_binary").mkdir()
    os.mkfifo(tmp_path / "stl10_binary" / "train_X.bin")
    refused(r"train_X.bin is not a regular file: replace it with a file", "stl10", tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda p: p.symlink_to("gone")])
def test_anything_but_a_file_among_images_is_refused_without_waiting(tmp_path, make):
    image(tmp_path / "cat" / "a.png")
    make(tmp_path / "cat" / "b.png")
    with pytest.raises(DataError, match=r"b.png is a broken link, a pipe or a device: remove it"):
        find_images(tmp_path)


def test_a_pipe_that_takes_an_image_s_place_later_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png is not a regular file"):
        open_rgb(tmp_path / "a.png", "a.png")


def test_images_are_found_below_folders_but_not_through_links_to_them(tmp_path):
    found = [image(tmp_path / "set" / name) for name in ("a.png", "b/c.JPG", "b/d/e.webp")]
    image(tmp_path / "other" / "f.png")
    (tmp_path / "set" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "set" / "g.png").symlink_to(tmp_path / "other" / "f.png")
    (tmp_path / "set" / ".h.png").write_bytes(b"")
    (tmp_path / "set" / "folder.png").mkdir()
    assert find_images(tmp_path / "set") == sorted([*found, tmp_path / "set" / "g.png"])


def test_a_mask_or_an_image_beyond_the_pixel_limit_is_refused(tmp_path):
    masks(tmp_path)
    huge_png(tmp_path / "SegmentationClass" / "a.png")
    refused(r"a.png cannot be decoded \(Image size \(900000000 pixels\).*repair or remove it", "masks", tmp_path)
    image(tmp_path / "more" / "a.png")
    huge_png(tmp_path / "more" / "b.png")
    with pytest.raises(DataError, match=r"b.png cannot be decoded \(Image size"):
        open_rgb(tmp_path / "more" / "b.png", tmp_path / "more" / "b.png")


def test_a_mask_with_values_of_no_class_and_a_pipe_for_a_mask_are_refused(tmp_path):
    masks(tmp_path)
    mask = tmp_path / "SegmentationClass" / "a.png"
    Image.fromarray(np.full((16, 16), 7, np.uint8)).save(mask)
    refused(r"a.png has palette index 7: allowed are 0 to 1, the classes, and 255", "masks", tmp_path)
    mask.unlink()
    os.mkfifo(mask)
    refused(r"a.png is missing, but train.txt names it", "masks", tmp_path)


@pytest.mark.parametrize("file", ["ImageSets/Segmentation/train.txt", "classes.txt"])
def test_lists_that_are_not_utf_8_are_refused(tmp_path, file):
    (masks(tmp_path) / file).write_bytes("0 Käfer\n".encode("latin-1"))
    refused(rf"{file} is not UTF-8 text .*save it in that encoding", "masks", tmp_path)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("a\nmissing\n", r"missing.png is missing, but train.txt names it"),
        ("../../secret\n", r"train.txt names '../../secret', which lies outside of the set"),
        ("/etc/passwd\n", r"train.txt names '/etc/passwd', which lies outside of the set"),
    ],
)
def test_a_list_that_names_what_is_not_there_or_not_of_the_set_is_refused(tmp_path, names, told):
    (masks(tmp_path) / "ImageSets" / "Segmentation" / "train.txt").write_text(names)
    refused(told, "masks", tmp_path)


@pytest.mark.parametrize(
    "xml",
    [
        b'<?xml version="1.0" encoding="klingon"?><annotation/>',
        b'<?xml version="1.0" encoding="utf-7"?><annotation/>',
        b'<?xml version="1.0" encoding="utf-8"?><annotation>\xff</annotation>',
        b"",
    ],
)
def test_an_annotation_that_cannot_be_read_is_refused(tmp_path, xml):
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    image(folder / "JPEGImages" / "a.jpg")
    for part in ("ImageSets/Main", "Annotations"):
        (folder / part).mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("a\n")
    (folder / "Annotations" / "a.xml").write_bytes(xml)
    refused(r"a.xml cannot be read .*unpack the set again", "voc07", tmp_path, "trainval")
    (folder / "Annotations" / "a.xml").unlink()
    os.mkfifo(folder / "Annotations" / "a.xml")
    refused(r"a.xml is not a regular file", "voc07", tmp_path, "trainval")


def test_a_tiny_imagenet_without_its_images_is_reported(tmp_path):
    at = tmp_path / "tiny-imagenet-200" / "val"
    image(at / "a.png")
    (at / "val_annotations.txt").write_text("a.png\tn01440764\n")
    refused(r"images is missing, but val_annotations.txt names files in it", "tiny-imagenet", tmp_path, "val")


def test_a_hub_set_with_a_script_is_refused(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')")
    with pytest.raises(DataError, match=r"set cannot be used \(") as error:
        hub(str(tmp_path / "set"), "train")
    assert not (tmp_path / "harm").exists() and "\n" not in str(error.value)


def test_a_hub_row_opens_no_file_that_is_not_the_set_s(tmp_path, monkeypatch):
    secret = image(tmp_path / "home" / "secret.png")
    kind = datasets.Features({"image": datasets.Image()})
    images = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": str(secret)}]}, features=kind)
    rows = HubSet("org/name", images, None, None, short_side=0)
    told = r"org/name, row 0 names the file '.*secret.png' for its image, which is not part of the set"
    with pytest.raises(DataError, match=told):
        rows.whole(0)
    # A local set's own files, and what was fetched into the cache, may be named.
    assert HubSet(str(tmp_path / "home"), images, None, None, short_side=0).whole(0)[0].shape == (3, 16, 16)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "home"))
    assert HubSet("org/name", images, None, None, short_side=0).whole(0)[0].shape == (3, 16, 16)
    link = tmp_path / "set" / "a.png"
    link.parent.mkdir()
    link.symlink_to(secret)
    monkeypatch.undo()
    table = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": str(link)}]}, features=kind)
    with pytest.raises(DataError, match="not part of the set"):
        HubSet(str(link.parent), table, None, None, short_side=0).whole(0)


def test_an_image_held_in_the_set_needs_no_file(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    kind = datasets.Features({"image": datasets.Image()})
    entry = {"bytes": file.getvalue(), "path": "somewhere.png"}
    rows = datasets.Dataset.from_dict({"image": [entry]}, features=kind)
    assert HubSet("org/name", rows, None, None, short_side=0).whole(0)[0].shape == (3, 8, 8)


def cifar100(root, batch=None, meta=None):
    """CIFAR-100 with these pickles in place of its own."""
    folder = root / "cifar-100-python"
    folder.mkdir()
    rows = {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [0]}
    (folder / "test").write_bytes(batch or pickle.dumps(rows, protocol=2))
    (folder / "meta").write_bytes(meta or pickle.dumps({"fine_label_names": ["a"]}, protocol=2))
    return root


@pytest.mark.parametrize(
    ("pickled", "told"),
    [
        # The table of earlier values would take 34 GB.
        (b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b".", "it numbers a value 2147483647 that is the 2th at most"),
        # A text of 100 kB is turned into bytes again and again.
        (
            b"\x80\x02c_codecs\nencode\nq\0X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"q\1U\6latin1q\2"
            b"0" + b"h\0h\1h\2\x86R0" * 50 + b"}.",
            "it makes more bytes than it holds",
        ),
        (b"\x80\x02}\x8a\x10" + b"\x7f" * 16 + b"K\1s.", "a number of more than 64 bits"),
        (b"\x80\x04\x8f.", "it holds the operation EMPTY_SET, which no CIFAR file needs"),
    ],
    ids=["memo", "encode", "numbers", "sets"],
)
def test_a_cifar_pickle_that_takes_more_time_or_memory_than_it_has_bytes_is_refused(tmp_path, pickled, told):
    refused(told, "cifar100", cifar100(tmp_path, batch=pickled), "test")


def test_a_number_of_images_that_holds_itself_a_trillion_times_is_not_shown(tmp_path):
    nested: list[object] = []
    for _ in range(40):
        nested = [nested, nested]
    meta = pickle.dumps({"fine_label_names": ["a"], "num_cases_per_batch": nested}, protocol=2)
    refused("it has 1 images, meta says a list", "cifar100", cifar100(tmp_path, meta=meta), "test")


def test_postscript_by_the_name_of_an_image_starts_no_program(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *arguments: started.append(arguments))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n(/etc/passwd) (r) file\n%%EOF\n"
    (tmp_path / "a.png").write_bytes(script)
    with pytest.raises(DataError, match=r"a.png cannot be decoded"):
        open_rgb(tmp_path / "a.png", tmp_path / "a.png")
    mask = masks(tmp_path / "set") / "SegmentationClass" / "a.png"
    mask.write_bytes(script)
    refused(r"a.png cannot be decoded", "masks", tmp_path / "set")
    assert not started


def test_lists_of_names_that_no_file_has_and_lists_without_end_are_refused(tmp_path, monkeypatch):
    listed = masks(tmp_path) / "ImageSets" / "Segmentation" / "train.txt"
    listed.write_text("x" * 100_000)
    refused(r"train.txt names 'xxx.*\.\.\., which is not the name of a file", "masks", tmp_path)
    monkeypatch.setattr("skipae_train.data._MOST_TEXT", 1 << 16)
    refused(r"train.txt is larger than 0 MiB, which no list is", "masks", tmp_path)


def test_a_set_of_the_hub_without_rows_is_refused():
    kinds = datasets.Features({"image": datasets.Image()})
    empty = datasets.Dataset.from_dict({"image": []}, features=kinds)
    with pytest.raises(DataError, match=r"^set has no rows"):
        HubSet("set", empty, None, None, short_side=8)


@pytest.mark.parametrize("how", ["long name", "packed"])
def test_a_state_that_torch_would_take_hours_or_all_memory_for_is_refused(tmp_path, how):
    pickled = b"\x80\x02c" + b"x" * 300_000 + b"\nb\n." if how == "long name" else b"\x80\x02}."
    with zipfile.ZipFile(tmp_path / "state.pt", "w", zipfile.ZIP_DEFLATED if how == "packed" else 0) as archive:
        archive.writestr("state/data.pkl", pickled)
        archive.writestr("state/version", "3")
    told = {"long name": "a name in it has 300002 characters", "packed": "'state/data.pkl' in it is packed"}[how]
    started = time.process_time()
    with pytest.raises(RunError, match=rf"state.pt is damaged \({told}"):
        read_state(tmp_path / "state.pt")
    assert time.process_time() - started < 2
