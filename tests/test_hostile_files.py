"""Files made to cost more than they are: time and memory stay in proportion, and messages stay one line."""

import io
import json
import struct
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skipae import ImageError, UsageError, open_image
from skipae.batch import feature_store, plan, sources
from skipae.images import exif
from skipae.images.raster import Raster


def saved(format, size=(8, 8), **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(buffer, format, **options)
    return buffer.getvalue()


@contextmanager
def within(seconds):
    """CPU time, which other processes do not change."""
    started = time.process_time()
    yield
    assert time.process_time() - started < seconds


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def directory(*entries):
    """A TIFF directory of (tag, type, count, value or place)."""
    return struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *row) for row in entries) + bytes(4)


def test_comments_in_the_numbers_of_a_ppm_take_linear_time():
    numbers = b" ".join(b"%d" % (k % 256) for k in range(192))
    with within(5):
        picture = open_image(b"P3\n8 8\n255\n" + b"#\n" * 1_000_000 + numbers)
    assert picture.to_array().ravel().tolist() == [k % 256 for k in range(192)]


@pytest.mark.parametrize(
    "head",
    [b"iCCPx\0\0", b"zTXtRaw profile type exif\0\0", b"iTXtXML:com.adobe.xmp\0\1\0\0\0"],
    ids=["icc", "exif", "xmp"],
)
def test_what_is_compressed_in_a_png_grows_to_64_mb_in_all(head):
    whole = saved("PNG")
    bomb = chunk(head[:4], head[4:] + zlib.compress(b"\n" * (60 << 20), 1))
    with within(8):
        picture = open_image(whole[:33] + bomb * 40 + whole[33:])
    assert picture.metadata.exif is None
    assert ("the color profile is larger than 64 MB" in str(picture.metadata.left_out)) == head.startswith(b"iCCP")


def test_a_tiff_tag_of_millions_of_numbers_is_refused_before_it_is_expanded():
    count = 5_000_000
    data = struct.pack("<2sHI", b"II", 42, 8 + 2 * count) + bytes(2 * count)
    data += directory((256, 4, 1, 8), (257, 4, 1, 8), (258, 3, count, 8))
    with within(1), pytest.raises(ImageError, match=r"is damaged .*the tag 258 has 5000000 numbers"):
        open_image(data)
    tag = exif.Tag(40000, 4, 100_000, bytes(400_000))
    with pytest.raises(ValueError, match="the tag 40000 has 100000 numbers"):
        tag.values("<")
    assert len(tag.values("<", 100_000)) == 100_000


def thumbnail(*entries, more=b""):
    """EXIF data whose second directory has these entries."""
    first = directory((271, 2, 4, 0x30303030))[:-4] + struct.pack("<I", 26)
    return exif.PREFIX + struct.pack("<2sHI", b"II", 42, 8) + first + directory(*entries) + more


def test_strips_of_a_thumbnail_that_overlap_are_not_blanked_one_by_one():
    strips = 60_000
    place = 26 + 2 + 24 + 4
    numbers = bytes(4 * strips) + struct.pack("<I", 4 * strips) * strips
    data = thumbnail((273, 4, strips, place), (279, 4, strips, place + 4 * strips), more=numbers)
    with within(2):
        assert exif.without_thumbnail(data) == b""


def test_the_stated_length_of_a_thumbnail_is_not_believed():
    small = saved("JPEG")
    data = thumbnail((513, 4, 1, 26 + 30), (514, 4, 1, 2**32 - 1), more=small)
    with within(2):
        turned, dropped = exif.turned(data, 6, (8, 8))
    assert dropped and len(turned) == len(data)


def test_an_image_of_one_column_is_reduced_to_8_bits_as_fast_as_another():
    column = np.arange(3_000_000, dtype=np.uint32).astype(np.uint16)[:, None]
    raster = Raster("gray", [column], None)
    with within(3):
        raster.reduce()
    assert np.array_equal(raster.planes[0], np.rint(column / np.float32(257)))


def test_names_in_a_file_are_printable_and_few_in_a_message():
    gif = saved("GIF")
    start = 13 + 3 * (2 << (gif[10] & 7))
    gif = gif[:start] + b"!\xff\x0b\n\x1b[31mNAME2\0\0" + gif[start:]
    webp = saved("WEBP") + b"".join(b"%c\n\x1b%c\0\0\0\0" % (k, k) for k in range(65, 90))
    webp = webp[:4] + struct.pack("<I", len(webp) - 8) + webp[8:]
    messages = [str(loss) for data in (gif, webp) for loss in open_image(data).metadata.left_out]
    assert messages == [
        "extensions of a GIF are left out: [31mNAME2",
        "chunks of a WebP that are not known are left out: A  A, B  B, C  C, D  D, E  E, F  F, G  G, H  H and 17 more",
    ]


def test_a_gif_that_was_cut_at_a_semicolon_is_made_again_by_resume(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    (tmp_path / "out").mkdir()
    noise.save(tmp_path / "a.gif")
    whole = (tmp_path / "a.gif").read_bytes()
    cut = whole[: whole.index(b";", len(whole) // 2) + 1]
    assert len(cut) < len(whole)
    for data, jobs in ((cut, 1), (whole, 0)):
        (tmp_path / "out" / "a.gif").write_bytes(data)
        work = plan.plan_jobs([str(tmp_path / "a.gif")], f"{tmp_path}/out/", suffix="denoised", resume=True)
        assert len(work.jobs) == jobs


def test_a_result_of_another_size_is_not_decoded_by_resume(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(saved("PNG"))
    (tmp_path / "out").mkdir()
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))
    (tmp_path / "out" / "a.png").write_bytes(huge)
    monkeypatch.setattr("skipae.images.OpenedImage.decode", lambda _: pytest.fail("its pixels would take 10 GB"))
    work = plan.plan_jobs([str(tmp_path / "a.png")], f"{tmp_path}/out/", suffix="denoised", resume=True)
    assert [job.again for job in work.jobs] == [True]


def test_a_search_does_not_open_files_that_say_they_are_empty(tmp_path, monkeypatch):
    """As those below /proc do, of which some wait for ever."""
    (tmp_path / "kmsg").touch()
    Image.new("RGB", (4, 4)).save(tmp_path / "photo", "PNG")
    opened, open_path = [], Path.open

    def noted(path, *mode):
        opened.append(path.name)
        return open_path(path, *mode)

    monkeypatch.setattr(Path, "open", noted)
    assert [path.name for _, below in sources.find([str(tmp_path)]).trees for path in below] == ["photo"]
    assert opened == ["photo"]


def test_a_pattern_of_a_thousand_folders_finds_nothing():
    found = sources.find(["a*/" * 3000 + "*.png"])
    assert [str(failure.error) for failure in found.failed] == ["no file matches this pattern"]


def test_a_link_that_cannot_be_followed_does_not_end_the_search_for_images(tmp_path):
    (tmp_path / "a.png").symlink_to("x" * 300)  # too long for a name
    (tmp_path / "b.png").write_bytes(saved("PNG"))
    assert [path.name for _, below in sources.find([str(tmp_path)]).trees for path in below] == ["a.png", "b.png"]
    assert [path and path.name for path in sources.find([f"{tmp_path}/*.png"]).single] == ["b.png"]


RUN = {"model": "m", "checkpoint": "0" * 64, "layers": ["enc1"], "pool": "avg", "l2": False}
RUN |= {"dtype": "float32", "resize": None, "crop": None}


def manifest(folder, layers, shards):
    lines: list[dict[str, object]] = [{"run": RUN | {"layers": layers, "format": "npz"}}]
    for k in range(shards):
        lines.append({"file": f"{k}.png", "sha256": None, "shard": f"{k:05}.npz", "row": 0})
        lines.append({"shard": f"{k:05}.npz", "rows": 1, "files": {}})
    (folder / "_manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_manifest_of_more_layers_than_a_network_has_is_refused(tmp_path):
    manifest(tmp_path, [f"enc{k}" for k in range(1, 5000)], 1)
    with pytest.raises(UsageError, match="a run does not have 1 to 64 layers"):
        feature_store.Store(str(tmp_path), RUN, overwrite=True)


def test_a_manifest_of_ten_thousand_lost_shards_takes_linear_time(tmp_path):
    manifest(tmp_path, ["enc1"], 10_000)
    with within(6):
        store = feature_store.Store(str(tmp_path), RUN, resume=True)
    assert not store.done and len(store.notes) == 10_000


def test_line_breaks_from_a_manifest_do_not_reach_a_message(tmp_path):
    (tmp_path / "_manifest.jsonl").write_text(
        json.dumps({"run": RUN | {"format": "npz", "pool": "a\nb\x1b[31m"}}) + "\n"
    )
    with pytest.raises(UsageError, match="holds features with pool a b") as error:
        feature_store.Store(str(tmp_path), RUN, resume=True)
    assert str(error.value).isprintable()
