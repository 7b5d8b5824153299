"""Which files of 16 bits tifffile with imagecodecs read exactly, and which pyvips does; their size and import time.

    pip install tifffile imagecodecs "pyvips[binary]"
    python benchmarks/sixteen_bit.py

docs/architecture.md has the result, and what follows from it.
"""

from __future__ import annotations

import io
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

PACKAGES = {
    "tifffile, imagecodecs": ("tifffile", "imagecodecs"),
    "pyvips": ("pyvips", "pyvips-binary", "cffi", "pycparser"),
}
CODECS: dict[str, dict[str, Any]] = {
    "none": {},
    "LZW": {"compression": "lzw"},
    "LZW, predictor": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "deflate"},
    "deflate, predictor": {"compression": "deflate", "predictor": True},
    "packbits": {"compression": "packbits"},
    "LZMA": {"compression": "lzma"},
    "ZSTD": {"compression": "zstd"},
    "ZSTD, predictor": {"compression": "zstd", "predictor": True},
    "JPEG XL": {"compression": "jpegxl", "compressionargs": {"lossless": True}},
    "JPEG 2000": {"compression": "jpeg2000", "compressionargs": {"reversible": True, "level": 0}},
    "JPEG XR": {"compression": "jpegxr", "compressionargs": {"level": 1.0}},
    "LERC": {"compression": "lerc"},
    "PNG": {"compression": "png"},
    "tiles": {"tile": (16, 16)},
    "BigTIFF, big-endian": {"bigtiff": True, "byteorder": ">"},
}


def images() -> dict[str, tuple[bytes, np.ndarray[Any, Any]]]:
    """Files and their pixels [H, W, C]."""
    random = np.random.default_rng(0)

    def pixels(channels: int) -> np.ndarray[Any, Any]:
        return random.integers(0, 65536, (40, 56, channels), dtype=np.uint16)

    def tiff(values: np.ndarray[Any, Any], **options: Any) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, **{"photometric": "rgb", "metadata": None} | options)
        return buffer.getvalue()

    found = {}
    for channels, name in enumerate(("gray", "gray and alpha", "RGB", "RGBA"), 1):
        values = pixels(channels)
        found[f"PNG, {name}"] = bytes(imagecodecs.png_encode(values.squeeze())), values
    for name, options in CODECS.items():
        values = pixels(3)
        found[f"TIFF, {name}"] = tiff(values, **options), values
    values = pixels(4)
    found["TIFF, CMYK"] = tiff(values, photometric="separated"), values
    values = pixels(3).astype(np.float32)
    found["TIFF, float32"] = tiff(values, compression="deflate", predictor=True), values
    for bits in (10, 12):
        values = pixels(3) >> (16 - bits)
        found[f"AVIF, {bits} bits"] = bytes(imagecodecs.avif_encode(values, level=100, bitspersample=bits)), values
    return found


def by_imagecodecs(data: bytes) -> Any:
    """Pixels by tifffile and imagecodecs."""
    if data[:2] in (b"II", b"MM"):
        return tifffile.imread(io.BytesIO(data))
    return imagecodecs.png_decode(data) if data[1:4] == b"PNG" else imagecodecs.avif_decode(data)


def by_pyvips(data: bytes) -> Any:
    """Pixels by pyvips, which returns wrong ones unless it is asked to fail."""
    import pyvips

    return pyvips.Image.new_from_buffer(data, "", fail_on="error").numpy()


def verdict(read: Any, data: bytes, pixels: np.ndarray[Any, Any]) -> str:
    """Say whether a reader returns the exact pixels, other values, or an error."""
    try:
        found = np.asarray(read(data)).reshape(pixels.shape)
    except Exception as error:  # whatever a library raises
        return f"no ({' '.join(str(error).split())[:50]})"
    return "exact" if np.array_equal(found, pixels) else f"other values ({found.min()} to {found.max()})"


def main() -> None:
    """Print the tables."""
    print("| | installed, MB | import, s of CPU time (least of 5) |\n| --- | --- | --- |")
    for modules, names in PACKAGES.items():
        paths = [str(path.locate()) for name in names for path in files(name) or [] if path.suffix != ".pyc"]
        size = sum(path.stat().st_size for path in map(Path, paths) if path.is_file())
        code = f"import time, numpy; start = time.process_time(); import {modules}; print(time.process_time() - start)"
        times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(5)]
        print(f"| {modules} | {size / 1e6:.1f} | {min(times):.3f} |")
    print("\n| file | tifffile, imagecodecs | pyvips |\n| --- | --- | --- |")
    for name, (data, pixels) in images().items():
        print(f"| {name} | {verdict(by_imagecodecs, data, pixels)} | {verdict(by_pyvips, data, pixels)} |")


if __name__ == "__main__":
    main()
