"""BMP: an embedded profile is read, and what follows the picture is named."""

from __future__ import annotations

import io
import struct
from typing import IO

from skipae.images import pillow
from skipae.images.metadata import Loss, Metadata

_V5 = 124  # bytes of the header that may have a profile
_MOST_PROFILE = 64 << 20


def inspect(file: IO[bytes]) -> Metadata:
    """Return the profile, and whether anything follows the picture."""
    found = Metadata("BMP")
    file.seek(0)
    head = file.read(14 + _V5)
    size = file.seek(0, io.SEEK_END)
    if len(head) < 34:
        return found
    stated, pixels, header = struct.unpack_from("<I4xII", head, 2)
    end = max(stated, pixels)
    if header == _V5 and len(head) == 14 + _V5:
        kind = head[70:74]
        place, length = struct.unpack_from("<II", head, 126)
        if kind == b"DEBM" and 0 < length <= _MOST_PROFILE:  # MBED, an embedded profile
            file.seek(14 + place)
            profile = file.read(length)
            end = max(end, 14 + place + length)
            if len(profile) == length:
                found.icc = profile
        if kind == b"KNIL":
            found.left_out.append(Loss("icc", "the color profile, which is in another file, is left out"))
    if stated > 54 and end < size:
        file.seek(end)
        pillow.note_trailer(file.read(), found)
    return found
