"""GIF: colors become a palette; profile, XMP data and all comments are read."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, BinaryIO

from skipae.images import pillow
from skipae.images.metadata import Loss, Metadata

if TYPE_CHECKING:
    from PIL import Image


_COMMENT, _PLAIN_TEXT, _APPLICATION = 0xFE, 0x01, 0xFF
_XMP, _ICC = b"XMP DataXMP", b"ICCRGBG1012"
_XMP_END = b"\1\xff\xfe"
"""What follows XMP data, so that a reader of blocks finds its end."""
_HARMLESS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")  # how often an animation repeats


def inspect(file: IO[bytes]) -> Metadata:
    """Return comments, profile and XMP data; other extensions, and what follows the pictures, are noted."""
    found, further = Metadata("GIF"), []
    file.seek(0)
    data = file.read()
    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 12 and data[10] & 0x80 else 0)
    while at + 2 < len(data) and data[at] in (0x21, 0x2C):
        if data[at] == 0x2C:  # a picture
            colors = data[at + 9] if at + 9 < len(data) else 0
            at = _blocks(data, at + 11 + (3 << (colors & 7) + 1 if colors & 0x80 else 0))[1]
            continue
        label, start = data[at + 1], at + 2
        blocks, at = _blocks(data, start)
        if label == _COMMENT and any(blocks):
            found.comments.append(b"".join(blocks))
        elif label == _PLAIN_TEXT:
            further.append(b"plain text")
        elif label == _APPLICATION and blocks and blocks[0] == _XMP:
            packet, end, _ = data[start + 12 : at].partition(_XMP_END)
            found.xmp = packet if end else None
        elif label == _APPLICATION and blocks and blocks[0] == _ICC:
            found.icc = b"".join(blocks[1:])
        elif label == _APPLICATION and blocks and blocks[0] not in _HARMLESS:
            further.append(blocks[0])
    found.leave_out("extensions of a GIF", further)
    if data[at : at + 1] == b";":
        pillow.note_trailer(data[at + 1 :], found)
    return found


def _blocks(data: bytes, at: int) -> tuple[list[bytes], int]:
    """Return blocks with their length before them, up to an empty one, and where they end."""
    found = []
    while at < len(data) and data[at]:
        found.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return found, at + 1


def write(file: BinaryIO, image: Image.Image, metadata: Metadata, quality: pillow.Quality | None) -> list[Loss]:
    """Write a GIF of one picture."""
    losses = []
    if image.mode != "L":
        losses.append(Loss("colors", "GIF cannot hold more than 256 colors: reduced to a palette"))
        image, partial = _to_palette(image)
        if partial:
            losses.append(Loss("alpha", "GIF cannot hold partial transparency: pixels become clear or opaque"))
    transparency = image.info.get("transparency")
    arguments = {} if transparency is None else {"transparency": transparency}
    if metadata.comments:
        arguments["comment"] = b"\n".join(metadata.comments)
    pillow.save(file, image, "GIF", arguments)
    return losses


def _to_palette(image: Image.Image) -> tuple[Image.Image, bool]:
    """Return the image with a palette, and whether some of its pixels were neither clear nor opaque."""
    # Pillow's way for images with alpha merges colors that are far apart.
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    palette = image.convert("RGB").quantize(256 if alpha is None else 255)
    if alpha is None:
        return palette, False
    palette.paste(255, mask=alpha.point(lambda value: 255 * (value < 128)))
    palette.info["transparency"] = 255
    return palette, any(alpha.histogram()[1:255])
