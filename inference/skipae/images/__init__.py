"""Read and write image files with all their metadata.

A file is decoded by its content, whatever its name: :func:`open_image` gives a :class:`Picture`, whose ``save``
returns what the new format could not hold.  docs/images.md tells users what happens to each kind of file.

Imports go one way: read -> picture -> write -> formats -> one module per format -> heif, pillow -> raster,
metadata.
"""

from skipae.images.formats import FORMATS, SUFFIXES, Format, sniff
from skipae.images.metadata import Loss, Metadata
from skipae.images.picture import Picture
from skipae.images.pillow import QUALITY, Quality
from skipae.images.raster import reduced_alpha, to_8_bits
from skipae.images.read import (
    MAX_PIXELS,
    RAW,
    OpenedImage,
    Source,
    check_array,
    from_pil,
    is_pil,
    open_image,
    read_header,
    to_picture,
)
from skipae.images.write import format_of, require_writer

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "QUALITY",
    "RAW",
    "SUFFIXES",
    "Format",
    "Loss",
    "Metadata",
    "OpenedImage",
    "Picture",
    "Quality",
    "Source",
    "check_array",
    "format_of",
    "from_pil",
    "is_pil",
    "open_image",
    "read_header",
    "reduced_alpha",
    "require_writer",
    "sniff",
    "to_8_bits",
    "to_picture",
]
