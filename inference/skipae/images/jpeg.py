"""JPEG: subsampling, Photoshop's resources and, where asked for, the quantization tables are kept."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from skipae.images.metadata import Metadata
from skipae.images.pillow import Quality, number

if TYPE_CHECKING:
    from PIL import Image
    from PIL.ImageFile import ImageFile

SEGMENT = 65_533 - 64
"""Most bytes of EXIF or XMP data, which must fit in a segment."""


def finish(image: ImageFile, metadata: Metadata, notes: list[str]) -> None:
    """Complete the metadata of a decoded JPEG."""
    from PIL import JpegImagePlugin

    subsampling = JpegImagePlugin.get_sampling(image)
    names = [layer[0] for layer in image.layer]  # type: ignore[attr-defined]
    metadata.jpeg = {
        "qtables": dict(image.quantization),  # type: ignore[attr-defined]
        # An unusual one becomes none, which loses nothing.
        "subsampling": max(subsampling, 0),
        "progressive": bool(image.info.get("progressive")),
        "keep_rgb": image.mode == "RGB" and (names == [82, 71, 66] or image.info.get("adobe_transform") == 0),
    }
    segments: list[tuple[str, bytes]] = image.applist  # type: ignore[attr-defined]
    photoshop = [data[14:] for name, data in segments if name == "APP13" and data[:14] == b"Photoshop 3.0\0"]
    metadata.photoshop = b"".join(photoshop) or None
    if any(name == "APP1" and data.startswith(b"http://ns.adobe.com/xmp/extension/\0") for name, data in segments):
        notes.append("extended XMP data is left out")


def arguments(image: Image.Image, metadata: Metadata, quality: Quality | None) -> dict[str, Any]:
    """Arguments of ``Image.save``."""
    found: dict[str, Any] = {"extra": _photoshop_segments(metadata)}
    if metadata.comment is not None:
        found["comment"] = metadata.comment
    found |= metadata.jpeg
    if quality != "keep" or not metadata.jpeg:
        found.pop("qtables", None)
        found["quality"] = number(quality)
    if image.mode == "RGB":
        found.setdefault("subsampling", _subsampling(metadata))
    else:
        found.pop("subsampling", None)
    return found


def _subsampling(metadata: Metadata) -> str:
    """Of the file it was read from, where that was no JPEG: full color must not be lost without a word."""
    if metadata.format == "WEBP" and not metadata.lossless:
        return "4:2:0"
    return metadata.subsampling if metadata.subsampling in ("4:2:2", "4:2:0") else "4:4:4"


def _photoshop_segments(metadata: Metadata) -> bytes:
    resources = metadata.photoshop or b""
    if metadata.iptc and b"8BIM\x04\x04" not in resources:
        iptc = metadata.iptc + b"\0" * (len(metadata.iptc) % 2)
        resources = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(metadata.iptc)) + iptc + resources
    parts = [resources[k : k + SEGMENT] for k in range(0, len(resources), SEGMENT)]
    return b"".join(b"\xff\xed" + struct.pack(">H", len(part) + 16) + b"Photoshop 3.0\0" + part for part in parts)
