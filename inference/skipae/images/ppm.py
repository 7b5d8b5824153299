"""PPM: color of 16 bits is refused, which Pillow would reduce to 8."""

from __future__ import annotations

import re
from typing import IO

from skipae.errors import ImageError
from skipae.images.metadata import Metadata


def inspect(file: IO[bytes]) -> Metadata:
    """Nothing but the format.

    Raises:
        ImageError: it has more than 8 bits per color.
    """
    file.seek(0)
    fields = re.sub(rb"#[^\n]*\n", b" ", file.read(1024)).split(maxsplit=4)
    if fields[0] in (b"P3", b"P6") and len(fields) > 3 and fields[3].isdigit() and int(fields[3]) > 255:
        raise ImageError("has 16 bits per colour, of which 8 would be lost: convert it to a PNG of 16 bits first")
    return Metadata("PPM")
