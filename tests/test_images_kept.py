"""What a file has besides its pixels is kept as it is where the output can hold it, and named where it cannot."""

# ruff: noqa: E501 (the tables have a case per line)

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image, ImageCms, JpegImagePlugin

from skipae import ImageError, cli, images
from skipae.images import exif, read_header, xmp

SIZE = (64, 40)
"""Width and height as stored."""


def photo(size: tuple[int, int] = SIZE, mode: str = "RGB") -> Image.Image:
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return Image.fromarray(np.dstack([x * 3 % 256, y * 5 % 256, (x + y) % 256]).astype(np.uint8)).convert(mode)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def passed(data: bytes, format: str | None = None, **options: Any) -> tuple[bytes, list[str]]:
    """Decoded and encoded without restoring, and what is said."""
    with read_header(data) as opened:
        picture = opened.decode()
    buffer = io.BytesIO()
    losses = picture.encode(buffer, format=format, **options)
    return buffer.getvalue(), picture.notes + [str(loss) for loss in losses]


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg(segments: bytes = b"", trailer: bytes = b"", **options: Any) -> bytes:
    data = saved(photo(), "JPEG", **options)
    return data[:2] + segments + data[2:] + trailer


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: tuple[bytes, bytes], mode: str = "RGB", trailer: bytes = b"") -> bytes:
    data = saved(photo(mode=mode), "PNG")
    return data[:33] + b"".join(chunk(*each) for each in chunks) + data[33:] + trailer


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], 8
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        found.append((kind, data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


# EXIF data as cameras write it: a maker's note with an offset from the start of all, unusual types, a thumbnail.

TEXT = b"SERIAL 0123456789 ABCDE\0"


def camera_exif(order: str, orientation: int, thumbnail: bytes, at: int = 0) -> bytes:
    """EXIF data for an image of :data:`SIZE`; ``at`` bytes are empty before the maker's note."""

    def entry(tag: int, kind: int, count: int, value: int | bytes) -> bytes:
        packed = value if isinstance(value, bytes) else struct.pack(order + ("H2x" if kind == 3 else "I"), value)
        return struct.pack(order + "HHI", tag, kind, count) + packed

    def directory(entries: list[bytes], following: int = 0) -> bytes:
        return struct.pack(order + "H", len(entries)) + b"".join(entries) + struct.pack(order + "I", following)

    details = 8 + 2 + 12 * 3 + 4 + 6
    interop = details + 2 + 12 * 6 + 4 + 8
    note = interop + 2 + 12 * 2 + 4 + at
    inner = struct.pack(order + "HHHII", 1, 6, 2, len(TEXT), note + 14) + TEXT
    second = note + len(inner)
    first = [entry(271, 2, 5, details - 6), entry(274, 3, 1, orientation), entry(34665, 4, 1, details)]
    data = (
        (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + directory(first, second) + b"ACME\0\0"
    )
    data += directory(
        [
            entry(0x9101, 7, 4, b"\1\2\3\0"),
            entry(0x9204, 10, 1, interop - 8),
            entry(0x927C, 7, len(inner), note),
            entry(0xA002, 4, 1, SIZE[0]),
            entry(0xA003, 3, 1, SIZE[1]),
            entry(40965, 4, 1, interop),
        ]
    )
    data += struct.pack(order + "ii", 0, 3)
    data += directory([entry(0x1001, 3, 1, SIZE[0]), entry(0x1002, 3, 1, SIZE[1])]) + bytes(at) + inner
    where = second + 2 + 12 * 4 + 4
    link = [
        entry(259, 3, 1, 6),
        entry(274, 3, 1, orientation),
        entry(513, 4, 1, where),
        entry(514, 4, 1, len(thumbnail)),
    ]
    return b"Exif\0\0" + data + directory(link) + thumbnail


def stored_with(format: str, data: bytes, orientation: int) -> bytes:
    if format == "TIFF":
        # As a camera would: the EXIF data is the file's beginning, and the picture's tags come after.
        container = io.BytesIO()
        metadata = images.Metadata("TIFF", exif=exif.without_thumbnail(data))
        images.Picture("rgb", [np.asarray(photo())], None, metadata, []).encode(container)
        written = bytearray(container.getvalue())
        order = "<" if written[:2] == b"II" else ">"
        reader = exif.Reader(io.BytesIO(bytes(written)))
        tag = reader.directory(reader.first).tags[284]  # 1, of no use to readers: becomes the orientation
        struct.pack_into(order + "HHIH", written, tag.entry, 274, 3, 1, orientation)
        return bytes(written)
    if format == "AVIF":
        # Pillow would rewrite the data: it replaces other data of the same length.
        like = data.replace(
            struct.pack("<H" if data[6:7] == b"I" else ">H", 274), b"\x13\x01" if data[6:7] == b"I" else b"\x01\x13", 1
        )
        return saved(photo(), "AVIF", quality=90, exif=like).replace(like[6:], data[6:])
    return saved(photo(), format, exif=data, **({"lossless": True} if format == "WEBP" else {}))


def look(data: bytes) -> dict[str, Any]:
    """What is in EXIF data, by offsets."""
    reader = exif.Reader(io.BytesIO(data.removeprefix(b"Exif\0\0")))
    first = reader.directory(reader.first)
    details = reader.below(first, exif.EXIF)
    note = details.tags[0x927C]
    target = struct.unpack_from(reader.order + "I", note.data, 10)[0]
    inner = reader.below(details, exif.INTEROPERABILITY)
    return {
        "make": first.tags[271].data,
        "orientation": exif.orientation(data),
        "maker's text": reader.read(target, len(TEXT)),
        "types": {number: tag.type for number, tag in details.tags.items() if number not in (0xA002, 0xA003)},
        "exposure": details.tags[0x9204].data,
        "size": tuple(details.tags[number].values(reader.order)[0] for number in (0xA002, 0xA003)),
        "related size": tuple(inner.tags[number].values(reader.order)[0] for number in (0x1001, 0x1002)),
        "thumbnail": first.following,
    }


def exif_of(data: bytes) -> bytes:
    with read_header(data) as opened:
        found = opened.decode().metadata.exif
    assert found is not None
    return found


THUMBNAIL = saved(photo().resize((32, 20), Image.Resampling.BOX), "JPEG", quality=95)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_of_a_turned_photo_is_changed_where_it_is(format: str, orientation: int, order: str) -> None:
    data = camera_exif(order, orientation, THUMBNAIL)
    before = look(data)
    source = stored_with(format, data, orientation)
    result, said = passed(source)
    on_side = orientation > 4
    if format == "AVIF":  # its pixels are turned by what the format itself says, of which there is nothing here
        on_side = False
    after = look(exif_of(result))
    assert Image.open(io.BytesIO(result)).size == (SIZE[::-1] if on_side else SIZE)
    assert after["orientation"] == (0 if format == "TIFF" else 1) and said == []  # a TIFF need not say it
    assert after["size"] == after["related size"] == (SIZE[::-1] if on_side else SIZE)
    for what in ("make", "maker's text", "types", "exposure"):
        assert after[what] == before[what], what
    assert after["maker's text"] == TEXT
    assert bool(after["thumbnail"]) == (format != "TIFF")  # a TIFF would show it as another page
    if format in ("JPEG", "PNG", "WEBP"):
        changed = sum(a != b for a, b in zip(data[: -len(THUMBNAIL)], exif_of(result), strict=False))
        assert len(data) == len(exif_of(result)) and changed <= (22 if on_side else 2) + 8


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_thumbnail_is_turned_with_the_photo(orientation: int) -> None:
    data = camera_exif("<", orientation, THUMBNAIL)
    result, said = passed(saved(photo(), "JPEG", exif=data))
    whole = exif_of(result)
    reader = exif.Reader(io.BytesIO(whole[6:]))
    second = reader.directory(reader.directory(reader.first).following)
    place, length = (second.tags[number].values("<")[0] for number in (513, 514))
    small = Image.open(io.BytesIO(whole[6 + place : 6 + place + length]))
    large = Image.open(io.BytesIO(result))
    assert said == [] and exif.orientation(whole) == 1 and second.tags[274].values("<") == (1,)
    difference = np.abs(np.asarray(large.resize(small.size, Image.Resampling.BOX)).astype(int) - np.asarray(small))
    assert small.size == tuple(side // 2 for side in large.size) and difference.mean() < 8


def test_a_thumbnail_that_is_upright_already_stays() -> None:
    upright = saved(photo((20, 32)), "JPEG")
    whole = exif_of(passed(saved(photo(), "JPEG", exif=camera_exif("<", 6, upright)))[0])
    assert upright in whole


@pytest.mark.parametrize("thumbnail", [b"\xff\xd8\xff none", saved(photo((32, 20)), "BMP")])
def test_a_thumbnail_that_cannot_be_turned_is_left_out_and_named(thumbnail: bytes) -> None:
    result, said = passed(saved(photo(), "JPEG", exif=camera_exif("<", 6, thumbnail)))
    assert said == ["the thumbnail in EXIF data cannot be turned and is left out"]
    assert not look(exif_of(result))["thumbnail"] and thumbnail not in result
    assert passed(saved(photo(), "JPEG", exif=camera_exif("<", 1, thumbnail)))[1] == []


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("at", [0, 20_000])
def test_a_maker_s_note_of_a_tiff_keeps_its_place(format: str, at: int) -> None:
    result, said = passed(stored_with("TIFF", camera_exif("<", 6, THUMBNAIL, at), 6), format)
    assert look(exif_of(result))["maker's text"] == TEXT and said == []


def test_a_maker_s_note_that_must_move_is_named() -> None:
    source = stored_with("TIFF", camera_exif("<", 1, THUMBNAIL, 70_000), 1)
    said = passed(source, "JPEG")[1]
    assert said == ["the maker's note in EXIF data moves: places in the file that it may hold are lost"]


def test_truncated_exif_data_is_not_an_error() -> None:
    whole = camera_exif(">", 6, THUMBNAIL)
    for length in range(6, len(whole) - len(THUMBNAIL), 7):
        for format in ("JPEG", "TIFF"):
            metadata = images.Metadata("JPEG", exif=whole[:length])
            notes: list[str] = []
            assert metadata.upright(notes, SIZE) in (1, 6)
            picture = images.Picture("rgb", [np.asarray(photo())], None, metadata, notes)
            picture.encode(io.BytesIO(), format=format)


# JPEG


@pytest.mark.parametrize(
    ("marker", "data", "name"),
    [
        (0xE1, b"FLIR\0\1\0\0" + bytes(range(256)), "APP1 FLIR"),
        (0xEC, b"Ducky\0\1\0\4\0\0\0\x50\0\0", "APP12 Ducky"),
        (0xE4, b"\1\2\3", "APP4"),
        (0xED, b"Adobe_CM\0\2", "APP13 Adobe_CM"),
        (0xE2, b"FPXR\0\0", "APP2 FPXR"),
    ],
)
def test_segments_stay_in_a_jpeg_and_are_named_elsewhere(marker: int, data: bytes, name: str) -> None:
    source = jpeg(segment(marker, data))
    result, said = passed(source)
    assert segment(marker, data) in result and said == []
    assert passed(source, "PNG")[1] == [f"PNG cannot hold the segment {name}"]


def test_all_comments_are_kept() -> None:
    source = jpeg(segment(0xFE, b"first") + segment(0xFE, b"second"))
    result, said = passed(source)
    assert segment(0xFE, b"first") + segment(0xFE, b"second") in result and said == []
    assert passed(source, "PNG")[1] == ["PNG cannot hold comments"]
    assert b"first\nsecond" in passed(source, "GIF")[0]


C2PA = "content credentials (C2PA) are left out: their signature no longer holds"
JUMBF = b"JP\0\1\0\0\0\1" + struct.pack(">I4sI4s4s", 300, b"jumb", 40, b"jumd", b"c2pa") + bytes(280)


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        (segment(0xEB, JUMBF) + segment(0xEB, JUMBF), C2PA),
        (segment(0xEB, JUMBF.replace(b"c2pa", b"jxtd")), "the segment APP11 JUMBF is left out: it belongs to the pixels as they were"),
        (segment(0xE0, b"JFXX\0\x10" + THUMBNAIL), "the thumbnail in a JFXX segment is left out"),
        (segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<a/>") * 2, "a second packet of XMP data is left out"),
        (segment(0xE2, b"ICC_PROFILE\0\1\2abc"), "the color profile is damaged and is left out"),
        (segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"), "the gain map (HDR) is left out"),
    ],
)  # fmt: skip
def test_segments_that_no_output_can_have_are_named(segments: bytes, said: str) -> None:
    result, found = passed(jpeg(segments))
    assert found == [said]
    assert not any(word in result for word in (b"jumb", b"JFXX", b"21496", b"ICC_PROFILE"))


MP4 = struct.pack(">I4s4s", 24, b"ftyp", b"mp42") + bytes(12) + b"\0\0\0\x08moov"


@pytest.mark.parametrize(
    ("trailer", "said"),
    [
        (bytes(100), []),
        (THUMBNAIL, ["only the first of 2 pictures is kept"]),
        (bytes(9) + THUMBNAIL + THUMBNAIL, ["only the first of 3 pictures is kept"]),
        (MP4, ["a video after the picture is left out"]),
        (THUMBNAIL + MP4, ["only the first of 2 pictures is kept", "a video after the picture is left out"]),
        (b"AXS!something", ["13 bytes after the picture are left out"]),
    ],
)
@pytest.mark.parametrize("progressive", [False, True])
def test_what_follows_the_picture_of_a_jpeg_is_named(trailer: bytes, said: list[str], progressive: bool) -> None:
    result, found = passed(jpeg(trailer=trailer, progressive=progressive))
    assert found == said and (not said or trailer.strip(b"\0") not in result)


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "WEBP", "PPM", "TIFF"])
def test_losses_of_reading_are_returned_by_save(format: str, tmp_path: Any) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(trailer=MP4))
    losses = images.open_image(path).save(tmp_path / f"x.{format.lower()}")
    assert [loss.what for loss in losses][:1] == ["trailer"]


def xmp_of(*attributes: str, inner: str = "", prefix: str = "") -> bytes:
    spaces = {
        "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
        "C": "http://ns.google.com/photos/1.0/container/",
        "Item": "http://ns.google.com/photos/1.0/container/item/",
        "GCamera": "http://ns.google.com/photos/1.0/camera/",
        "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    }
    declared = " ".join(f'xmlns:{name}="{uri}"' for name, uri in spaces.items())
    return f'{prefix}<rdf:RDF {declared}><rdf:Description rdf:about=""{"".join(attributes)}>{inner}</rdf:Description></rdf:RDF>'.encode()


ITEM = '<C:Directory><rdf:Seq><rdf:li><C:Item Item:Semantic="{}" Item:Length="9"/></rdf:li></rdf:Seq></C:Directory>'


@pytest.mark.parametrize(
    ("packet", "promised", "left"),
    [
        (xmp_of(' hdrgm:Version="1.0"', ' rdf:x="1"'), "a gain map (HDR)", xmp_of(' rdf:x="1"')),
        (xmp_of(inner="<hdrgm:A b='x>y'/><rdf:y/>"), "a gain map (HDR)", xmp_of(inner="<rdf:y/>")),
        (xmp_of(inner=ITEM.format("GainMap")), "a gain map (HDR)", xmp_of()),
        (xmp_of(" GCamera:MotionPhoto='1'", inner=ITEM.format("MotionPhoto")), "a motion photo's video", xmp_of()),
        (xmp_of(inner="<GCamera:MicroVideoOffset>7</GCamera:MicroVideoOffset>"), "a motion photo's video", xmp_of()),
        (xmp_of(inner=ITEM.format("Depth")), "further pictures", xmp_of()),
        (xmp_of(' hdrgm:Version="1"', prefix='<?xpacket begin="?" id="x"?>') + b"\0", "a gain map (HDR)", xmp_of(prefix='<?xpacket begin="?" id="x"?>') + b"\0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("format", ["JPEG", "WEBP", "TIFF", "PNG"])
def test_xmp_does_not_promise_what_is_left_out(packet: bytes, promised: str, left: bytes, format: str) -> None:
    options: dict[str, Any] = {"tiffinfo": {700: packet}} if format == "TIFF" else {"xmp": packet}
    data = (
        png((b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + packet))
        if format == "PNG"
        else saved(photo(), format, **options)
    )
    with read_header(data) as opened:
        picture = opened.decode()
    assert picture.metadata.xmp == left
    assert [str(loss) for loss in picture.encode(io.BytesIO())] == [
        f"XMP data no longer speaks of {promised}, left out"
    ]


@pytest.mark.parametrize("packet", [b"<a hdrgm:Version='1'/>", b"<!DOCTYPE x><a b='GainMap'/>", b"<a b='GainMap'>"])
def test_xmp_that_is_not_xml_is_reported(packet: bytes) -> None:
    found = xmp.correct(packet)
    assert (found.data, found.promised, found.is_corrected) == (packet, ["a gain map (HDR)"], False)
    assert passed(saved(photo(), "JPEG", xmp=packet))[1] == ["XMP data still speaks of a gain map (HDR), left out"]


def test_other_xmp_stays_byte_for_byte() -> None:
    for packet in (xmp_of(' rdf:x="1"', inner="<!-- hdrgm:Version -->"), b"<x/>", b"\xff\xfe<\0", b"", b"no xml"):
        assert xmp.correct(packet).data == packet and not xmp.correct(packet).promised


def with_tables(numbers: list[int], tables: dict[int, list[int]], **options: Any) -> bytes:
    """A JPEG whose channels use these tables."""
    data = bytearray(saved(photo(), "JPEG", qtables=[tables[number] for number in sorted(tables)], **options))
    frame = data.index(b"\xff\xc0")
    for k, number in enumerate(numbers):
        data[frame + 12 + 3 * k] = number
    return bytes(data)


def test_tables_in_an_unusual_order_are_kept_for_each_channel() -> None:
    tables = {0: [3] * 64, 1: [7] * 64, 2: [11] * 64}
    result, said = passed(with_tables([2, 0, 1], tables), quality="keep")
    image: Any = Image.open(io.BytesIO(result))
    assert [image.quantization[layer[3]][0] for layer in image.layer] == [11, 3, 7] and said == []


def test_a_jpeg_without_usable_tables_is_written_with_quality_95() -> None:
    with read_header(jpeg()) as opened:
        picture = opened.decode()
    reference: Any = Image.open(io.BytesIO(saved(photo(), "JPEG", quality=95)))
    for tables in ({}, {0: [1] * 63}, {k: [1] * 64 for k in range(5)}, {0: [-1] * 64}):  # a lossless JPEG has none
        copy = picture.copy()
        copy.metadata.jpeg = copy.metadata.jpeg | {"qtables": tables}
        buffer = io.BytesIO(b"")
        losses = copy.encode(buffer, quality="keep")
        assert [loss.what for loss in losses] == ["tables"]
        assert str(losses[0]) == "the quantization tables cannot be kept: written with quality 95"
        result: Any = Image.open(io.BytesIO(buffer.getvalue()))
        assert result.quantization == reference.quantization and JpegImagePlugin.get_sampling(result) == 2


@pytest.mark.parametrize(
    ("frame", "name"),
    [
        (b"\xff\xc1\0\x11\x0c", "a JPEG of 12 bits per color"),
        (b"\xff\xf7\0\x11\x08", "JPEG-LS"),
        (b"\xff\xc5\0\x11\x08", "a hierarchical JPEG"),
    ],
)
def test_kinds_of_jpeg_that_are_not_read_are_named_and_not_called_damaged(frame: bytes, name: str) -> None:
    data = jpeg()
    place = data.index(b"\xff\xc0")
    with pytest.raises(ImageError, match=f"is {name}, which skipae does not read"):
        read_header(data[:place] + frame + data[place + 5 :])


def test_damaged_segments_do_not_hide_the_picture() -> None:
    for data in (b"Photoshop 3.0\0" + b"8BIM", b"Photoshop 3.0\x008BIM\4", b"MPF\0II*\0", b"MPF\0"):
        marker = 0xED if data[:1] == b"P" else 0xE2
        with read_header(jpeg(segment(marker, data))) as opened:
            assert opened.decode().size == SIZE


# PNG

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_large_profiles_and_texts_of_a_png_are_read() -> None:
    noise = np.random.default_rng(0).integers(0, 255, 1_500_000, dtype=np.uint8).tobytes()
    profile = PROFILE + noise
    text = b"Comment\0" + b"x" * 3_000_000
    packed = b"Long\0\0" + zlib.compress(bytes(80_000_000))  # is not unpacked
    result, said = passed(png((b"iCCP", b"scan\0\0" + zlib.compress(profile)), (b"tEXt", text), (b"zTXt", packed)))
    found = chunks_of(result)
    assert said == [] and (b"tEXt", text) in found and (b"zTXt", packed) in found
    with read_header(result) as opened:
        assert opened.decode().metadata.icc == profile


@pytest.mark.parametrize(
    ("data", "why"),
    [(zlib.compress(bytes(70 << 20)), "is larger than 64 MB"), (b"none", "is damaged"), (zlib.compress(PROFILE)[:-9], "is damaged")],
)  # fmt: skip
def test_a_profile_that_cannot_be_unpacked_is_named(data: bytes, why: str) -> None:
    assert passed(png((b"iCCP", b"x\0\0" + data)))[1] == [f"the color profile {why} and is left out"]


KEPT = [
    (b"mDCV", bytes(24)),
    (b"cLLI", bytes(8)),
    (b"sBIT", b"\5\6\5"),
    (b"tIME", struct.pack(">HBBBBB", 2024, 5, 6, 7, 8, 9)),
    (b"bKGD", bytes(6)),
    (b"npTc", bytes(32)),
    (b"vpAg", bytes(9)),
    (b"pHYs", struct.pack(">IIB", 1, 2, 0)),
    (b"tEXt", b"Author\0one"),
    (b"tEXt", b"Author\0two"),
    (b"iTXt", b"Title\0\0\0de\0Titel\0\xc3\xa4"),
]


@pytest.mark.parametrize("deep", [False, True])
def test_chunks_stay_in_a_png_in_their_order(deep: bool) -> None:
    source = png(*KEPT)
    if deep:
        from skipae.images.png import encode_16bit

        source = encode_16bit(np.zeros((5, 4, 3), np.uint16), source)
    result, said = passed(source)
    assert [each for each in chunks_of(result) if each in KEPT] == sorted(
        KEPT, key=lambda each: each[0][1:] == b"EXt" or each[0] == b"iTXt"
    )
    assert said == [] and Image.open(io.BytesIO(result)).size == (SIZE if not deep else (4, 5))
    names = "mDCV, cLLI, sBIT, tIME, bKGD, npTc, vpAg, pHYs"
    assert passed(png(*KEPT), "JPEG")[1] == [
        "JPEG cannot hold texts of a PNG",
        f"JPEG cannot hold the PNG chunks {names}",
    ]


def test_chunks_that_suit_only_the_old_pixels_are_named() -> None:
    said = "chunks of a PNG that suit only the pixels as they were are left out: "
    assert passed(png((b"caBX", bytes(9))))[1] == [C2PA]
    assert passed(png((b"dSIG", bytes(9)), (b"iDOT", bytes(9))))[1] == [said + "dSIG"]
    palette = png((b"sBIT", b"\5\6\5"), (b"tIME", bytes(7)), mode="P")
    result, found = passed(palette)
    assert found == ["palette pixels become 8-bit RGB", said + "sBIT"] and b"tIME" in result


def test_the_aspect_of_pixels_turns_with_the_picture() -> None:
    turned = png((b"pHYs", struct.pack(">IIB", 1, 2, 0)), (b"eXIf", camera_exif("<", 6, THUMBNAIL)[6:]))
    assert (b"pHYs", struct.pack(">IIB", 2, 1, 0)) in chunks_of(passed(turned)[0])


def test_damaged_chunks_are_left_out_and_named_but_not_those_of_the_pixels() -> None:
    broken = bytearray(png((b"tIME", bytes(7)), (b"tEXt", b"a\0b")))
    broken[33 + 8] ^= 1
    assert passed(bytes(broken))[1] == ["chunks of a PNG that are damaged or too large are left out: tIME"]
    pixels = bytearray(png())
    pixels[pixels.index(b"IDAT") + 20] ^= 1
    with pytest.raises(ImageError, match="is damaged and cannot be decoded as PNG"):
        passed(bytes(pixels))
    with pytest.raises(ImageError, match="has a chunk CgBI, without which it cannot be decoded"):
        read_header(png((b"CgBI", bytes(4))))
    assert passed(png()[:-12])[1] == ["the end of the file is missing; all pixels are there"]


def test_what_follows_a_png_is_named() -> None:
    assert passed(png(trailer=b"PK\3\4zip"))[1] == ["7 bytes after the picture are left out"]
    assert passed(png(trailer=bytes(50)))[1] == []


# TIFF


def tiff(pixels: Any = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    values = np.asarray(photo()) if pixels is None else pixels
    tifffile.imwrite(buffer, values, **{"photometric": "rgb", "metadata": None, "software": False} | options)
    return buffer.getvalue()


def tags_of(data: bytes) -> dict[int, Any]:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return {tag.code: (int(tag.dtype), tag.value) for tag in file.pages.first.tags}


@pytest.mark.parametrize("compression", [None, "lzw", "packbits", "zstd", "deflate"])
@pytest.mark.parametrize("bits", [8, 16])
def test_tags_stay_in_a_tiff_with_their_types_and_compression(compression: str | None, bits: int) -> None:
    tags = [
        (65000, 4, 2, (7, 8), True),
        (65001, 12, 1, 0.5, True),
        (50341, 7, 4, b"Prin", True),
        (315, 2, 0, "Ann", True),
    ]
    pixels = np.asarray(photo()) if bits == 8 else np.asarray(photo()).astype(np.uint16) * 257
    source = tiff(pixels, extratags=tags, compression=compression)
    result, said = passed(source)
    before, after = tags_of(source), tags_of(result)
    assert {number: after[number] for number in (65000, 65001, 50341, 315)} == {
        number: before[number] for number in (65000, 65001, 50341, 315)
    }
    assert said == [] and np.array_equal(tifffile.imread(io.BytesIO(result)), pixels)
    if bits == 8:
        assert after[259][1] == before[259][1] or compression == "deflate"
    assert passed(source, "PNG")[1] == ["PNG cannot hold the TIFF tags 65000, 65001"]


def test_imagej_planes_are_counted_and_their_description_goes() -> None:
    stack = np.zeros((5, 12, 10), np.uint8)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stack, imagej=True, metadata={"axes": "ZYX", "Labels": list("abcde")})
    whole = buffer.getvalue()
    said = ["only the first of 5 pictures is kept", "the description of all pictures (ImageDescription) is left out"]
    result, found = passed(whole)
    assert found == said and not {270, 50838, 50839} & set(tags_of(result))
    # ImageJ itself writes large stacks without pages after the first.
    reader = exif.Reader(io.BytesIO(whole))
    link = reader.directory(reader.first).link
    assert passed(whole[:link] + bytes(4) + whole[link + 4 :])[1] == said
    single = io.BytesIO()
    tifffile.imwrite(single, stack[0], imagej=True)
    result, found = passed(single.getvalue())
    assert found == [] and tags_of(result)[270][1].startswith("ImageJ=")


def test_further_pictures_and_layers_of_a_tiff_are_named() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(np.asarray(photo()), photometric="rgb", subifds=1, metadata=None)
        file.write(np.asarray(photo())[::2, ::2], photometric="rgb", metadata=None)
    assert passed(buffer.getvalue())[1] == ["further pictures of a TIFF (SubIFDs) are left out"]
    layers = tiff(extratags=[(37724, 7, 30, b"Adobe Photoshop Document Data\0", True)])
    result, said = passed(layers)
    assert said == ["Photoshop's layers are left out: they show the picture as it was"] and 37724 not in tags_of(result)


@pytest.mark.parametrize("compression", ["webp", "jpegxl", "lerc", "jpeg2000", "png", "jpegxr"])
def test_compressions_that_pillow_lacks_are_read_by_the_extra_or_named(
    compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"webp": {"lossless": True}}.get(compression, {})
    source = tiff(compression=compression, compressionargs=options)
    result, said = passed(source)
    assert said == []
    assert np.abs(np.asarray(Image.open(io.BytesIO(result))).astype(int) - np.asarray(photo())).mean() < 3
    monkeypatch.setattr("skipae.images.extra.find_spec", lambda name: None)
    with pytest.raises(
        ImageError, match=r'is compressed by [\w ]+ \(\d+\): to read it, type: pip install ".+\[16bit\]"$'
    ):
        read_header(source)


@pytest.mark.parametrize("compression", ["tiff_lzw", "lzma", "tiff_adobe_deflate"])
def test_damaged_pixels_of_a_compressed_tiff_are_refused(compression: str) -> None:
    whole = bytearray(saved(photo(), "TIFF", compression=compression))
    reader = exif.Reader(io.BytesIO(bytes(whole)))
    tags = reader.directory(reader.first).tags
    start, length = (tags[number].values("<")[0] for number in (273, 279))
    for place in range(start + length // 2, start + length, 7):
        whole[place] ^= 0x55
    for damaged in (bytes(whole), tiff(compression="jpeg")[:-100]):
        with pytest.raises(ImageError, match="is damaged and cannot be decoded as TIFF"):
            passed(damaged)


# WebP, GIF, BMP, PPM, AVIF


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    data = saved(photo(), "WEBP", lossless=True)
    body = data[8:] + b"".join(k + struct.pack("<I", len(d)) + d + b"\0" * (len(d) % 2) for k, d in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_chunks_of_a_webp_and_what_follows_it_are_named() -> None:
    assert passed(riff())[1] == []
    assert passed(riff((b"C2PA", b"abc")))[1] == [C2PA]
    assert passed(riff((b"ABCD", b"abc"), (b"XYZ ", b"")))[1] == [
        "chunks of a WebP that are not known are left out: ABCD, XYZ"
    ]
    assert passed(riff() + MP4)[1] == ["a video after the picture is left out"]


def gif(*extensions: bytes, trailer: bytes = b"") -> bytes:
    data = saved(photo().quantize(8), "GIF")
    start = data.index(b",", 13 + 3 * 8) if b"!" not in data[13 + 24 : 13 + 26] else 13 + 24
    return data[:start] + b"".join(extensions) + data[start:] + trailer


def blocks(*parts: bytes) -> bytes:
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


XMP_TAIL = b"\1" + bytes(range(255, -1, -1)) + b"\0"


def test_extensions_of_a_gif_are_carried_or_named() -> None:
    colors = ["palette pixels become 8-bit RGB", "GIF cannot hold more than 256 colors: reduced to a palette"]
    profile = b"!\xff" + blocks(b"ICCRGBG1012", PROFILE[:255], PROFILE[255:510], PROFILE[510:])
    packet = b"!\xff\x0bXMP DataXMP<x/>" + XMP_TAIL
    comments = b"!\xfe" + blocks(b"one", b" and a half") + b"!\xfe" + blocks(b"two")
    source = gif(
        profile, packet, comments, b"!\xff" + blocks(b"ABCDEFGH1.0", b"x"), b"!\x01" + blocks(bytes(12), b"hi")
    )
    with read_header(source) as opened:
        metadata = opened.decode().metadata
    assert (metadata.icc, metadata.xmp, metadata.comments) == (PROFILE, b"<x/>", [b"one and a half", b"two"])
    further = "extensions of a GIF are left out: ABCDEFGH1.0, plain text"
    assert passed(source, "PNG")[1] == [colors[0], further, "PNG cannot hold comments"]
    result, said = passed(source)
    assert said == [colors[0], further, "GIF cannot hold the color profile", "GIF cannot hold XMP data", colors[1]]
    assert b"one and a half\ntwo" in result
    assert passed(gif(trailer=b"more"))[1] == [colors[0], "4 bytes after the picture are left out", colors[1]]


def test_the_profile_of_a_bmp_is_read_and_what_follows_it_is_named() -> None:
    plain = saved(photo(), "BMP")
    pixels = plain[54:]
    header = plain[14:54].replace(plain[14:18], struct.pack("<I", 124), 1).ljust(124, b"\0")
    header = header[:56] + b"DEBM" + header[60:112] + struct.pack("<II", 124 + len(pixels), len(PROFILE)) + header[120:]
    size = 14 + 124 + len(pixels) + len(PROFILE)
    source = struct.pack("<2sIII", b"BM", size, 0, 138) + header + pixels + PROFILE
    with read_header(source) as opened:
        assert opened.decode().metadata.icc == PROFILE
    assert passed(source)[1] == ["BMP cannot hold the color profile"]
    assert passed(source + b"more")[1][0] == "4 bytes after the picture are left out"
    assert passed(plain)[1] == []


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_further_pictures_in_a_ppm_and_comments_are_found(mode: str) -> None:
    one = saved(photo(mode=mode), "PPM")
    changed = ["1-bit pixels become 8-bit gray"] if mode == "1" else []
    assert passed(one * 3)[1] == [*changed, "only the first of 3 pictures is kept"]
    assert passed(one + b"\nend")[1] == [*changed, "4 bytes after the picture are left out"]
    source = one[:3] + b"# Created by hand\n#two\n" + one[3:]
    result, said = passed(source)
    assert said == changed and result[3:].startswith(b"# Created by hand\n#two\n")
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(result))), np.asarray(photo(mode=mode).convert("L" if mode != "RGB" else mode))
    )
    assert passed(source, "PNG")[1] == [*changed, "PNG cannot hold comments"]


def box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + kind + data


def test_what_an_avif_has_besides_is_named() -> None:
    clear = photo()
    clear.putalpha(100)
    plain, alpha = saved(photo(), "AVIF"), saved(clear, "AVIF")
    assert passed(plain)[1] == passed(alpha)[1] == []
    credentials = box(b"uuid", bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + bytes(9))
    assert passed(plain + credentials)[1] == [C2PA]
    assert passed(plain + box(b"abcd", bytes(9)))[1] == ["a box abcd is left out"]
    assert passed(plain + b"\0\0\0\1tail")[1] == ["8 bytes after the picture are left out"]
    depth = alpha.replace(b"auxiliary:alpha", b"auxiliary:depth")
    assert passed(depth)[1] == ["a depth map is left out"]
    thumbnail = alpha.replace(b"auxl", b"thmb")
    assert passed(thumbnail)[1][:1] == ["the thumbnail of an AVIF is left out"]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM", "AVIF", "TIFF"])
def test_files_cut_anywhere_are_refused_or_whole(format: str) -> None:
    whole = saved(photo(mode="L") if format == "GIF" else photo(), format)
    with read_header(whole) as opened:
        pixels = opened.decode().planes[0]
    for length in range(1, len(whole), max(1, len(whole) // 60)):
        try:
            with read_header(whole[:length]) as opened:
                found = opened.decode().planes[0]
        except ImageError:
            continue
        assert np.array_equal(found, pixels), (format, length, len(whole))


# What tests/fuzz found


@pytest.mark.parametrize("format", ["PNG", "WEBP", "AVIF", "TIFF", "JPEG"])
@pytest.mark.parametrize("in_exif", [None, 1, 3])
def test_a_written_picture_is_not_turned_again_by_its_xmp(format: str, in_exif: int | None) -> None:
    packet = b'<a xmlns:tiff="t" tiff:Orientation="6"/>'
    options: dict[str, Any] = {"tiffinfo": {700: packet}} if format == "TIFF" else {"xmp": packet}
    if in_exif is not None and format != "TIFF":
        options["exif"] = camera_exif("<", in_exif, THUMBNAIL)
    data = saved(photo(), format, **options)
    if format == "PNG":
        data = png(
            (b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + packet), *([(b"eXIf", options["exif"][6:])] if in_exif else [])
        )
    with read_header(data) as opened:
        picture = opened.decode()
    for to in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
        buffer = io.BytesIO()
        picture.copy().encode(buffer, format=to)
        with read_header(buffer.getvalue()) as opened:
            assert opened.decode().size == picture.size, to


def test_an_avif_that_no_reader_takes_is_not_written() -> None:
    tall = images.Picture("gray", [np.zeros((33_000, 2), np.uint8)], None, images.Metadata("PNG"), [])
    with pytest.raises(ImageError, match="it has 2 x 33000 pixels, and readers take sides of 32768"):
        tall.copy().encode(io.BytesIO(), format="AVIF")


def test_libpng_does_not_speak_of_chunks_that_do_not_suit(capfd: pytest.CaptureFixture[str]) -> None:
    from skipae.images.png import encode_16bit

    gray = encode_16bit(np.zeros((5, 4, 2), np.uint16), png((b"PLTE", bytes(9)), (b"tRNS", b"\0\1")))
    palette = gray[:33] + chunk(b"PLTE", bytes(9)) + chunk(b"tRNS", b"\0\1") + gray[33:]
    assert passed(palette)[1] == []
    method = bytearray(gray[:33])
    method[26] = 1
    method[29:33] = struct.pack(">I", zlib.crc32(bytes(method[12:29])))
    with pytest.raises(ImageError, match="its compression, filters or interlacing are of a kind that no PNG has"):
        read_header(bytes(method) + gray[33:])
    assert capfd.readouterr() == ("", "")


def test_an_interlaced_png_of_16_bits_has_its_pixels_in_place(capfd: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (11, 13, 3), dtype=np.uint16)
    rows = b""
    for x, y, across, down in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        rows += b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels[y::down, x::across])
    header = struct.pack(">IIBBBBB", 13, 11, 16, 2, 0, 0, 1)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    with read_header(data) as opened:
        assert np.array_equal(opened.decode().planes[0], pixels)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("data", "pictures"),
    [
        (jpeg(trailer=b"\xff\xd8" + b"\xff" * 100_000 + b"\0"), 2),
        (jpeg()[:-2] + b"\xff" * 100_000 + b"\0\xff\xd9", 1),
        (jpeg(trailer=b"\xff\xd8\xff\xd9" * 200_000), 200_001),
        (b"P6 1 1 255\nabc" * 100_000, 100_000),
    ],
    ids=["fill bytes after the picture", "fill bytes in it", "tiny JPEGs", "tiny PPMs"],
)
def test_what_follows_a_picture_is_looked_at_in_linear_time(data: bytes, pictures: int) -> None:
    started = time.process_time()
    with read_header(data) as opened:
        lost = [str(loss) for loss in opened.decode().metadata.left_out]
    assert lost == ([f"only the first of {pictures} pictures is kept"] if pictures > 1 else [])
    assert time.process_time() - started < 5  # quadratic work would take a minute


def test_what_a_decoder_does_not_know_is_not_called_damaged() -> None:
    bmp = bytearray(saved(photo(), "BMP"))
    bmp[30:34] = struct.pack("<I", 4)  # a JPEG inside
    with pytest.raises(ImageError, match=r"is a BMP of a kind that skipae does not read \(Unsupported BMP compression"):
        read_header(bytes(bmp))


@pytest.mark.parametrize(
    "command",
    [
        ["features", "-o", "f.npz", "--layer", "enc1", "--resize", "0", "--crop", "0"],
        ["visualize", "-o", "v.png", "--layer", "enc1"],
        ["denoise", "-o", "d.png"],
    ],
)
def test_every_command_says_that_further_pictures_are_left_out(
    command: list[str], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.gif").write_bytes(saved(photo(), "GIF", save_all=True, append_images=[photo().rotate(180)]))
    name, *options = command
    result = CliRunner().invoke(
        cli.main, [name, "a.gif", *options, "--model", str(checkpoint), "--device", "cpu", "--quiet"]
    )
    assert result.exit_code == 0, result.stderr
    assert "a.gif: only the first of 2 pictures is kept\n" in result.stderr
