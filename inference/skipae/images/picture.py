"""A picture: pixels, alpha and everything else that its file says, as one value."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from skipae.errors import ImageError, UsageError
from skipae.files import write_atomically
from skipae.images import write
from skipae.images.metadata import Loss, Metadata
from skipae.images.pillow import Quality
from skipae.images.raster import Raster, cmyk_to_rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image


@dataclass(eq=False)
class Picture(Raster):
    """An image with 8 or 16 bits per channel, alpha and metadata, upright.

    :func:`skipae.open_image` reads one, the methods of :class:`skipae.Model` return another, and :meth:`save` writes
    it with everything that the format can hold.
    """

    metadata: Metadata
    """ICC profile, EXIF, XMP, IPTC, resolution, and how the file was encoded."""
    notes: list[str]
    """Changes and omissions when the file was read, one line each."""

    def __repr__(self) -> str:
        """Return size, kind of pixels and format."""
        width, height = self.size
        alpha = " with alpha" if self.alpha is not None else ""
        return f"<skipae.Picture {width} x {height}, {self.bits}-bit {self.kind}{alpha}, from {self.metadata.format}>"

    @property
    def remarks(self) -> list[str]:
        """Return the notes, with one on further pictures that were left out, for outputs that are not an image."""
        return [*(str(loss) for loss in self.metadata.left_out if loss.what == "pictures"), *self.notes]

    def copy(self) -> Picture:
        """Return a picture whose planes, metadata and notes can be replaced without changing this one."""
        return replace(self, planes=list(self.planes), metadata=replace(self.metadata), notes=list(self.notes))

    def save(self, path: str | os.PathLike[str], *, quality: Quality | None = None) -> list[Loss]:
        """Write an image file, completely or not at all; an existing file is replaced.

        Args:
            path: its extension sets the format.
            quality: for JPEG, WebP and AVIF, 1 to 100; by default 95 (a WebP that was lossless stays lossless).
                ``"keep"`` compresses a JPEG with the quantization tables of the JPEG it was read from, which loses
                again what they lost there.

        Returns:
            What the format cannot hold, for example EXIF data in a BMP; empty when nothing is lost.

        Raises:
            UsageError: the extension names no format that is written, or ``quality`` is not allowed.
            ImageError: the format cannot hold the image, or the file cannot be written.

        >>> photo = open_image("photo.jpg")
        >>> photo.save("photo.png")
        []
        """
        if quality not in (None, "keep") and not (isinstance(quality, int) and 1 <= quality <= 100):
            raise UsageError(f"quality must be from 1 to 100, or 'keep', not {quality!r}")
        target = Path(path)
        format = write.format_of(target)
        losses: list[Loss] = []
        write_atomically(target, lambda file: losses.extend(self.copy().encode(file, format=format, quality=quality)))
        return losses

    def encode(self, file: BinaryIO, *, format: str | None = None, quality: Quality | None = None) -> list[Loss]:
        """Write to an open file; the planes are given up to save memory.  See :func:`skipae.images.write.encode`."""
        return write.encode(self, self.metadata, file, format=format, quality=quality)

    def to_pil(self) -> Image.Image:
        """Return a ``PIL.Image`` with profile, EXIF, XMP and resolution in ``info``.

        Raises:
            ImageError: it has 16 bits per color, which a ``PIL.Image`` cannot hold.

        >>> open_image("photo.jpg").to_pil().mode
        'RGB'
        """
        if self.is_deep:
            raise ImageError("has 16 bits per color, which a PIL.Image cannot hold: use to_array() instead")
        image = self.copy().take_image()
        found = self.metadata
        info = {"icc_profile": found.icc, "exif": found.exif, "xmp": found.xmp, "dpi": found.dpi}
        image.info.update({key: value for key, value in info.items() if value is not None})
        return image

    def to_array(self) -> NDArray[Any]:
        """Return the pixels, uint8 or uint16, alpha last.

        Returns:
            [H, W] (gray), [H, W, 2] (gray and alpha), [H, W, 3] (RGB) or [H, W, 4] (RGB and alpha); CMYK becomes RGB
            of 8 bits.

        >>> open_image("photo.jpg").to_array().shape
        (32, 48, 3)
        """
        import numpy as np

        colors = self.rgb()
        return colors.copy() if self.alpha is None else np.dstack([colors, np.asarray(self.alpha)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return :meth:`to_array`, for numpy."""
        pixels = self.to_array()
        return pixels if dtype is None else pixels.astype(dtype)

    def rgb(self) -> NDArray[Any]:
        """Return pixels without alpha, [H, W] (gray) or [H, W, 3] (RGB), not copied; CMYK is converted."""
        if self.kind != "cmyk":
            return self.planes[0]
        import numpy as np

        pixels = self.copy()
        if pixels.bits == 16:  # which the conversion cannot keep
            pixels.reduce()
        return np.asarray(cmyk_to_rgb(pixels.take_image(), self.metadata.icc))

    def drop_thumbnails(self) -> None:
        """Leave out the small copies in EXIF, XMP and Photoshop's data, which show what the image no longer does."""
        if self.metadata.drop_thumbnails():
            self.notes.append("thumbnails in its metadata, which show what was filled, are left out")
