"""Readers of images, checkpoints and manifests, and what all targets have in common."""

from __future__ import annotations

import io
import json
import logging
import random
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import mutations
import numpy as np
from PIL import Image

from skipae import ImageError, ModelError, UsageError, images
from skipae_zoo import ConfigError

sys.path.insert(0, str(Path(__file__).parent.parent))  # for what makes tiny checkpoints
from conftest import tiny_features, tiny_graph, write_checkpoint

ROOT = Path(__file__).parent.parent.parent
MAX_PIXELS = 4_000_000


class Fault(AssertionError):
    """Something that must not happen."""


@dataclass(frozen=True)
class Target:
    """A reader, and whole files for it."""

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, str, random.Random], bool]
    """Gives it a file that was changed in a way; whether it was taken.  Any error is a fault."""
    split: mutations.Split | None = None
    is_json: bool = False
    share: float = 1.0
    """Of the files that each reader is given; less for slow ones."""
    speaks: bool = False
    """Whether a native library writes remarks on damaged files to standard error, which nothing keeps it from."""


def check_message(error: Exception) -> None:
    """One line that says something."""
    text = str(error)
    if not text.strip() or "\n" in text or len(text) > 2000:
        raise Fault(f"a message that is not one line: {text[:200]!r}")


# Images


def photo(size: tuple[int, int] = (40, 24), mode: str = "RGB") -> Image.Image:
    random_pixels = np.random.default_rng(0).integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return Image.fromarray(random_pixels).resize(size, Image.Resampling.BILINEAR).convert(mode)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[271], data[274], data[282], data[283], data[296] = "Camera", orientation, 300.0, 150.0, 2
    data[34665] = {
        0x9204: -0.5,
        0x927C: b"note" * 20,
        0xA002: 40,
        0xA003: 24,
        40965: {1: "R98", 0x1001: 40, 0x1002: 24},
    }
    data[34853] = {1: "N", 2: (1.0, 2.0, 3.0)}
    whole = bytearray(data.tobytes())
    # A second directory with a thumbnail, at the end.
    small = saved(photo((16, 12)), "JPEG")
    first = 6 + struct.unpack_from("<I" if whole[6:7] == b"I" else ">I", whole, 10)[0]
    order = "<" if whole[6:7] == b"I" else ">"
    count = struct.unpack_from(order + "H", whole, first)[0]
    start = len(whole) - 6
    struct.pack_into(order + "I", whole, first + 2 + 12 * count, start)
    entries = ((259, 3, 1, 6), (513, 4, 1, start + 2 + 36 + 4), (514, 4, 1, len(small)))
    whole += struct.pack(order + "H", 3)
    for tag, kind, n, value in entries:
        whole += struct.pack(order + ("HHIH2x" if kind == 3 else "HHII"), tag, kind, n, value)
    return bytes(whole + bytes(4) + small)


_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"><hdrgm:A>1</hdrgm:A><xmp:Thumbnails '
    b'xmlns:xmp="x">x</xmp:Thumbnails></rdf:Description></rdf:RDF></x:xmpmeta>'
)


def _icc() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def _jpegs() -> list[bytes]:
    about: dict[str, Any] = {"exif": exif(6), "xmp": _XMP, "icc_profile": _icc(), "dpi": (300, 150)}
    plain = saved(photo(), "JPEG", **about)
    extra = _segment(0xE1, b"FLIR\0" + bytes(40)) + _segment(0xFE, b"hi") + _segment(0xEB, b"JP\0\1c2pa" + bytes(40))
    extra += _segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\0\0\0\4abcd8BIM\4\x0c\0\0\0\0\0\2xy")
    frames = saved(photo(), "MPO", save_all=True, append_images=[photo()])
    return [
        plain[:2] + extra + plain[2:] + saved(photo((8, 8)), "JPEG") + b"\0\0\0\x18ftypmp42",
        saved(photo(), "JPEG", progressive=True, quality=40, exif=exif(3)),
        saved(photo(mode="CMYK"), "JPEG"),
        saved(photo(mode="L"), "JPEG", exif=exif(8)),
        frames,
    ]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _pngs() -> list[bytes]:
    import imagecodecs

    more = b"".join(
        _chunk(*each)
        for each in (
            (b"iCCP", b"x\0\0" + zlib.compress(_icc())),
            (b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + _XMP),
            (b"iTXt", b"Title\0\1\0de\0T\0" + zlib.compress(b"text")),
            (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 8\n" + exif(5).hex().encode())),
            (b"pHYs", struct.pack(">IIB", 1, 2, 0)),
            (b"sBIT", b"\5\6\5"),
            (b"caBX", bytes(20)),
            (b"eXIf", exif(6)[6:]),
        )
    )
    plain = saved(photo(), "PNG")
    deep = imagecodecs.png_encode(np.arange(12 * 10 * 3, dtype=np.uint16).reshape(12, 10, 3) * 180)
    return [
        plain[:33] + more + plain[33:] + b"PK\3\4",
        saved(photo().quantize(9), "PNG", transparency=3, bits=4),
        saved(photo(), "PNG", save_all=True, append_images=[photo()]),
        saved(photo(mode="1"), "PNG"),
        saved(photo(mode="LA"), "PNG"),
        bytes(deep[:33] + more + deep[33:]),
    ]


def _tiffs() -> list[bytes]:
    import tifffile

    def tiff(pixels: Any, **options: Any) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, **options)
        return buffer.getvalue()

    pixels = np.asarray(photo())
    tags = [
        (274, 3, 1, 6, True),
        (700, 1, len(_XMP), _XMP, True),
        (65000, 4, 2, (7, 8), True),
        (271, 2, 0, "ACME", True),
    ]
    container = io.BytesIO()
    about = images.Metadata("TIFF", exif=exif(1), xmp=_XMP, icc=_icc(), dpi=(300, 150), iptc=b"\x1c\2\x50\0\1A")
    images.Picture("rgb", [pixels], None, about, []).encode(container)
    return [
        tiff(pixels, photometric="rgb", extratags=tags, compression="lzw"),
        tiff(pixels.astype(np.uint16) * 257, photometric="rgb", extratags=tags, bigtiff=True),
        tiff(pixels.transpose(2, 0, 1), photometric="rgb", planarconfig=2, byteorder=">"),
        tiff(np.zeros((3, 12, 10), np.uint8), imagej=True),
        tiff(pixels, photometric="rgb", compression="webp"),
        saved(photo(mode="1"), "TIFF", compression="group4"),
        saved(photo(mode="CMYK"), "TIFF", compression="tiff_adobe_deflate"),
        saved(photo(), "TIFF", compression="jpeg"),
        container.getvalue(),
    ]


def _webps() -> list[bytes]:
    about: dict[str, Any] = {"exif": exif(6), "xmp": _XMP, "icc_profile": _icc()}
    return [
        saved(photo(), "WEBP", lossless=True, **about),
        saved(photo(mode="RGBA"), "WEBP", quality=60, **about),
        saved(photo(), "WEBP", save_all=True, append_images=[photo().rotate(180)]),
        saved(photo(), "WEBP"),
    ]


def _gifs() -> list[bytes]:
    image = photo().quantize(16)
    turned = image.rotate(180)
    return [
        saved(image, "GIF", comment=b"hi", transparency=2),
        saved(image, "GIF", save_all=True, append_images=[turned, image], loop=0),
        saved(photo(mode="L"), "GIF", interlace=1),
    ]


def _avifs() -> list[bytes]:
    clear = photo()
    clear.putalpha(90)
    about: dict[str, Any] = {"exif": exif(1), "xmp": _XMP, "icc_profile": _icc()}
    return [
        saved(photo(), "AVIF", speed=9, **about),
        saved(clear, "AVIF", speed=9, exif=exif(6)),
        saved(photo(), "AVIF", speed=9, save_all=True, append_images=[photo()]),
    ]


def _heics() -> list[bytes]:
    import pillow_heif

    found = []
    for mode, options in (("RGB", {"xmp": _XMP, "icc_profile": _icc()}), ("RGBA", {"exif": exif(6)})):
        buffer, image = io.BytesIO(), photo(mode=mode)
        pillow_heif.encode(mode, image.size, image.tobytes(), buffer, quality=50, thumbnails=[16], **options)
        found.append(buffer.getvalue())
    return found


def _plain() -> list[bytes]:
    return [
        saved(photo(), "BMP"),
        saved(photo().quantize(7), "BMP"),
        saved(photo(), "PPM") * 2,
        saved(photo(mode="1"), "PPM"),
        b"P5 # note\n2 2\n1023\n" + bytes(8),
        b"P3 2 1 255\n1 2 3 4 5 6\n",
    ]


_pixels_of_seeds: dict[bytes, list[bytes]] = {}


def _pixels_of(seeds: tuple[bytes, ...]) -> list[bytes]:
    key = sha256(b"".join(seeds)).digest()
    if key not in _pixels_of_seeds:
        _pixels_of_seeds[key] = []
        for seed in seeds:
            with images.read_header(seed) as opened:
                _pixels_of_seeds[key].append(opened.decode().planes[0].tobytes())
    return _pixels_of_seeds[key]


def _image(
    name: str, seeds: Callable[[], list[bytes]], split: mutations.Split | None = None, *, speaks: bool = False
) -> Target:
    seeds = cache(seeds)

    def read(data: bytes, how: str, rng: random.Random) -> bool:
        try:
            with images.read_header(data, max_pixels=MAX_PIXELS) as opened:
                picture = opened.decode()
        except ImageError as error:
            check_message(error)
            return False
        if how == "cut" and picture.planes[0].tobytes() not in _pixels_of(tuple(seeds())):
            raise Fault("a file that was cut is taken, with other pixels than the whole one has")
        _check_png(data, picture)
        if rng.random() < 0.3:
            picture.drop_thumbnails()
        size = picture.size
        for format in (picture.metadata.format, rng.choice(list(images.FORMATS))):
            buffer = io.BytesIO()
            try:
                losses = picture.copy().encode(buffer, format=format, quality=rng.choice((None, "keep", 80)))
            except ImageError as error:
                check_message(error)
                continue
            for text in (*map(str, losses), *picture.notes):
                check_message(ImageError(text))
            with images.read_header(buffer.getvalue()) as again:
                written = again.decode()
            if written.size != size:
                raise Fault(f"written as {format} of {written.size} pixels, not {size}")
        return True

    return Target(name, seeds, read, split, speaks=speaks)


def _check_png(data: bytes, picture: images.Picture) -> None:
    """What libpng refuses because of its pixels must not be taken."""
    if picture.metadata.format != "PNG" or any("end of the file is missing" in note for note in picture.notes):
        return
    import imagecodecs

    parts = mutations.split_png(data)
    needed = [part for part in parts[1:] if part[4:8] in (b"IHDR", b"PLTE", b"IDAT", b"IEND")]
    log, silent = logging.getLogger("imagecodecs"), logging.NullHandler()
    log.addHandler(silent)  # for the remarks of this call, not of the reader's
    try:
        imagecodecs.png_decode(b"".join([data[:8], *needed]))
    except Exception as error:
        if "error: " in str(error) or "CRC" in str(error):
            raise Fault(f"libpng refuses it: {error}") from error
    finally:
        log.removeHandler(silent)


# Checkpoints


@cache
def _folder() -> Path:
    """A temporary folder of this process with a checkpoint."""
    folder = Path(tempfile.mkdtemp(prefix="skipae-fuzz-"))
    write_checkpoint(folder / "tiny", tiny_graph(), tiny_features())
    return folder


def _configs() -> list[bytes]:
    found = [path.read_bytes() for path in sorted(ROOT.glob("model_cards/*/config.json"))]
    return [*found, (_folder() / "tiny" / "config.json").read_bytes()]


def _read_config(data: bytes, how: str, rng: random.Random) -> bool:
    from skipae.checkpoints import resolve

    folder = _folder() / "config"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(data)
    try:
        config = resolve.load_config(folder)
        resolve.problems(folder, "")
        config.to_dict()
        _ = config.architecture.layers, config.halo
    except ModelError as error:
        check_message(error)
        return False
    return True


@cache
def _graph() -> bytes:
    return bytes(tiny_graph().SerializeToString())


@cache
def _encoder() -> bytes:
    return bytes(tiny_features().SerializeToString())


def _cut_onnx(data: bytes, how: str, rng: random.Random) -> bool:
    from skipae.engine import onnx_subgraph

    try:
        onnx_subgraph.has_external_data(data)
        outputs = ("enc1",) if data == _encoder() else ("reconstruction",)
        onnx_subgraph.cut(data, outputs if how == "" else [rng.choice((*outputs, "enc2", "x"))])
    except ValueError as error:
        check_message(error)
        return False
    return True


def _run_onnx(file: str, data: bytes, how: str, rng: random.Random) -> bool:
    """The whole road: a checkpoint one of whose graphs was changed, and whose digest is right."""
    from skipae import from_pretrained

    folder = _folder() / "run"
    shutil.copytree(_folder() / "tiny", folder, dirs_exist_ok=True)
    (folder / file).write_bytes(data)
    config = json.loads((folder / "config.json").read_text())
    config["files"][file] = sha256(data).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))
    pixels = np.asarray(photo((24, 16)))
    try:
        model = from_pretrained(folder, device="cpu", threads=1, notify=lambda line: None)
        if file == "onnx/model.onnx":
            if model.denoise(pixels).shape != pixels.shape:
                raise Fault("an output of another shape")
        elif model.features(pixels, layers="enc2", resize=0, crop=0)["enc2"].shape != (1, 4):
            raise Fault("features of another shape")
    except (ModelError, ImageError) as error:
        check_message(error)
        return False
    return True


def _weights() -> list[bytes]:
    import torch
    from safetensors.torch import save

    from skipae_train.networks import AutoEncoder

    config = json.loads((_folder() / "tiny" / "config.json").read_text())
    from skipae_zoo import CheckpointConfig

    network = AutoEncoder(CheckpointConfig.from_dict(config, source="tiny").architecture)
    stored = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    torch.manual_seed(0)
    return [save(stored)]


def _split_safetensors(data: bytes) -> list[bytes]:
    length = int.from_bytes(data[:8], "little")
    return [data[:8], data[8 : 8 + length], data[8 + length :]]


def _read_weights(data: bytes, how: str, rng: random.Random) -> bool:
    from skipae_train.networks import Network

    if rng.random() < 0.5 and how != "cut":  # a header that was changed as JSON, whose length is right
        _, header, values = _split_safetensors(_weights_seed())
        header = mutations.mutate_json(rng, header)
        data = len(header).to_bytes(8, "little") + header + values
    folder = _folder() / "weights"
    shutil.copytree(_folder() / "tiny", folder, dirs_exist_ok=True)
    (folder / "model.safetensors").write_bytes(data)
    config = json.loads((folder / "config.json").read_text())
    config["files"] = {"model.safetensors": sha256(data).hexdigest()}
    (folder / "config.json").write_text(json.dumps(config))
    try:
        Network.from_checkpoint(folder)
    except ConfigError as error:
        check_message(error)
        return False
    return True


@cache
def _weights_seed() -> bytes:
    return _weights()[0]


# Manifests


@cache
def _manifests() -> list[bytes]:
    found = []
    for format in ("npz", "npy"):
        from skipae.batch import feature_store

        folder = _features(format)
        store = feature_store.Store(str(folder), _RUN, format=format)
        store.begin({"skipae": "1"})
        for k in range(2):
            row = {"enc1": np.ones(3, np.float32), "enc2": np.ones(4, np.float32)}
            names = [f"{folder.parent}/a{k}.png", f"{folder.parent}/b{k}.png"]
            store.add([{"file": name, "sha256": "0" * 64, "size": 1, "mtime": 1} for name in names], [row, row])
        store.fail("c.png", "is damaged")
        store.end()
        found.append((folder / "_manifest.jsonl").read_bytes())
        shutil.copytree(folder, folder.with_name(f"whole-{format}"))
    return found


_RUN: dict[str, Any] = {"model": "tiny", "checkpoint": "0" * 64, "layers": ["enc1", "enc2"], "pool": "avg"}
_RUN |= {"l2": False, "dtype": "float32", "resize": None, "crop": None}


def _features(format: str) -> Path:
    return _folder() / "features" / format


def _read_manifest(data: bytes, how: str, rng: random.Random) -> bool:
    from skipae.batch import feature_store

    format = "npy" if b'"npy"' in data else "npz"
    folder = _features(format)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(folder.with_name(f"whole-{format}"), folder)
    precious = folder.parent / "precious.npz"
    precious.write_bytes(b"mine")
    (folder / "_manifest.jsonl").write_bytes(data)
    overwrite = rng.random() < 0.3
    try:
        store = feature_store.Store(str(folder), _RUN, format=format, overwrite=overwrite, resume=not overwrite)
        store.check([Path(name) for name in (f"{folder.parent}/a0.png", f"{folder.parent}/b1.png", "c.png")])
        store.begin({"skipae": "1"})
        store.end()
    except (UsageError, ImageError) as error:
        check_message(error)
        return False
    finally:
        if precious.read_bytes() != b"mine" or not (_folder() / "tiny").is_dir():
            raise Fault("a file outside the folder was changed")
    return True


TARGETS = {
    target.name: target
    for target in (
        _image("JPEG", _jpegs, mutations.split_jpeg),
        _image("PNG", _pngs, mutations.split_png),
        _image("TIFF", _tiffs, mutations.split_tiff, speaks=True),
        _image("WEBP", _webps, mutations.split_riff),
        _image("GIF", _gifs),
        _image("AVIF", _avifs, mutations.split_boxes),
        _image("HEIC", _heics, mutations.split_boxes),
        _image("BMP and PPM", _plain),
        Target("config.json", cache(_configs), _read_config, is_json=True),
        Target("safetensors", lambda: [_weights_seed()], _read_weights, _split_safetensors),
        Target("ONNX", lambda: [_graph(), _encoder()], _cut_onnx),
        Target("ONNX model", lambda: [_graph()], partial(_run_onnx, "onnx/model.onnx")),
        Target("ONNX features", lambda: [_encoder()], partial(_run_onnx, "onnx/features.onnx")),
        Target("manifest", _manifests, _read_manifest, mutations.split_lines, is_json=True),
    )
}
