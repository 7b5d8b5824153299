"""Pixels in memory: planes that a network restores, alpha beside them, and the way from and to ``PIL.Image``."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from skipae.errors import ImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

Kind = Literal["gray", "rgb", "cmyk"]

CHANNELS: dict[Kind, int] = {"gray": 1, "rgb": 3, "cmyk": 4}
"""Number of channels without alpha."""

_STRIP_PIXELS = 4 << 20  # images are converted from and to arrays in strips of about this many pixels


@dataclass(eq=False)
class Raster:
    """The pixels of an image.

    Planes are one array [H, W] (gray) or [H, W, 3] (RGB).  CMYK has two, so that the separation survives: cyan,
    magenta and yellow as light [H, W, 3], and black [H, W].
    """

    kind: Kind
    planes: list[NDArray[Any]]
    """Arrays of uint8 or uint16."""
    alpha: Image.Image | None
    """Mode L, or I;16 beside planes of uint16."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.planes[0].shape[:2]
        return width, height

    @property
    def bits(self) -> int:
        """Bits per channel, 8 or 16."""
        return 8 * self.planes[0].itemsize

    @property
    def is_deep(self) -> bool:
        """True if Pillow has no mode for it: 16 bits, and more than one channel."""
        return self.bits == 16 and (self.kind != "gray" or self.alpha is not None)

    def restore(self, restore: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        """Replace each plane by the result of ``restore``."""
        for k, plane in enumerate(self.planes):
            self.planes[k] = restore(plane)

    def reduce(self) -> None:
        """Round 16 bits to 8."""
        self.restore(to_8_bits)
        if self.alpha is not None:
            self.alpha = reduced_alpha(self.alpha)

    def take_image(self) -> Image.Image:
        """Convert to a ``PIL.Image``; the planes are given up to save memory."""
        image = _from_planes(self.kind, self.planes)
        if self.alpha is not None:
            image.putalpha(self.alpha)
        return image

    def take_channels(self) -> NDArray[Any]:
        """Convert to one array [H, W, C] of the file's channels, alpha last; the planes are given up to save memory."""
        import numpy as np

        parts = self.planes if self.alpha is None else [*self.planes, np.asarray(self.alpha)]
        pixels = np.dstack(parts)
        if self.kind == "cmyk":
            pixels[..., :3] ^= np.iinfo(pixels.dtype).max
        self.planes.clear()
        return pixels


def reduced_alpha(alpha: Image.Image) -> Image.Image:
    """Return alpha of 8 bits."""
    import numpy as np
    from PIL import Image

    return alpha if alpha.mode == "L" else Image.fromarray(to_8_bits(np.asarray(alpha)))


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return a view of [H, W, C], turned as the EXIF orientation asks."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


def from_channels(pixels: NDArray[Any], kind: Kind, alpha: bool) -> Raster:
    """Make a raster of one array [H, W, C] of a file's channels."""
    import numpy as np
    from PIL import Image

    colors = np.ascontiguousarray(pixels[..., 0] if kind == "gray" else pixels[..., :3])
    planes = [colors]
    if kind == "cmyk":
        colors ^= np.iinfo(colors.dtype).max  # ink to light
        planes.append(np.ascontiguousarray(pixels[..., 3]))
    return Raster(kind, planes, Image.fromarray(np.ascontiguousarray(pixels[..., -1])) if alpha else None)


def from_image(image: Image.Image, format: str, notes: list[str]) -> Raster:
    """Make a raster of an image as Pillow decoded it; ``notes`` get what was changed.

    Raises:
        ImageError: its mode would be truncated.
    """
    mode = image.mode
    if 0 in image.size:
        raise ImageError(f"has no pixels: its size is {image.size[0]} x {image.size[1]}")
    if mode == "I" and format in ("PPM", "PNG"):
        # Pillow's mode for 16-bit gray of these files.
        import numpy as np

        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("has values that 16 bits cannot hold (Pillow's mode I): scale it to 0 to 65535 first")
        return Raster("gray", [values.astype(np.uint16)], None)
    converted: str | None = None
    if mode in ("P", "PA", "1"):
        clear = mode == "PA" or "transparency" in image.info
        converted = ("LA" if clear else "L") if mode == "1" else ("RGBA" if clear else "RGB")
        names = {"L": "gray", "LA": "gray and alpha"}
        notes.append(f"{'1-bit' if mode == '1' else 'palette'} pixels become 8-bit {names.get(converted, converted)}")
    elif mode in ("L", "RGB") and "transparency" in image.info:
        converted = {"L": "LA", "RGB": "RGBA"}[mode]
        notes.append("the transparent color becomes an alpha channel")
    elif mode in ("RGBX", "YCbCr", "RGBa", "La"):
        converted = {"RGBX": "RGB", "YCbCr": "RGB", "RGBa": "RGBA", "La": "LA"}[mode]
        notes.append(f"{mode} pixels become {converted}")
    elif mode not in ("L", "LA", "RGB", "RGBA", "CMYK", "I;16", "I;16L", "I;16B", "I;16N"):
        raise ImageError(f"has pixels of a kind that skipae does not restore (Pillow's mode {mode}): convert it first")
    elif "transparency" in image.info:
        notes.append("the transparent color is lost")
    if converted is not None:
        image = image.convert(converted)
        mode = converted
    alpha = image.getchannel("A") if mode in ("LA", "RGBA") else None
    if mode == "CMYK":
        return from_channels(to_array(image, 4), "cmyk", alpha=False)
    if mode in ("RGB", "RGBA"):
        return Raster("rgb", [to_array(image, 3)], alpha)
    return Raster("gray", [to_array(image, 1)], alpha)


def to_array(image: Image.Image, channels: int) -> NDArray[Any]:
    """Return the first ``channels`` channels, [H, W] where it is one."""
    # By strips: Pillow's way takes three times the memory.
    import numpy as np

    width, height = image.size
    sixteen = image.mode.startswith("I;16")
    shape = (height, width) if channels == 1 else (height, width, channels)
    array = np.empty(shape, np.uint16 if sixteen else np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        values = np.asarray(strip)
        if values.ndim == 3:
            values = values[..., 0] if channels == 1 else values[..., :channels]
        array[top:bottom] = values
    return array


def cmyk_to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert by the profile where there is one."""
    if profile is not None:
        from PIL import ImageCms

        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (OSError, ImageCms.PyCMSError):
            pass  # a damaged profile is as good as none
    return image.convert("RGB")


def to_8_bits(values: NDArray[Any]) -> NDArray[Any]:
    """Round values of 16 bits, of any number of dimensions from two on, to 8 bits."""
    import numpy as np

    result = np.empty(values.shape, np.uint8)
    rows = max(1, _STRIP_PIXELS // 4 // values.shape[1])
    for top in range(0, len(values), rows):
        result[top : top + rows] = np.rint(values[top : top + rows] / np.float32(257))
    return result


def _from_planes(kind: Kind, planes: list[NDArray[Any]]) -> Image.Image:
    import numpy as np
    from PIL import Image

    height, width = planes[0].shape[:2]
    sixteen = planes[0].dtype == np.uint16
    mode = "I;16" if sixteen else {"gray": "L", "rgb": "RGB", "cmyk": "CMYK"}[kind]
    rows = max(1, _STRIP_PIXELS // width)
    image = Image.new(mode, (width, height), None)
    for top in range(0, height, rows):
        strip = planes[0][top : top + rows]
        if kind == "cmyk":
            strip = np.dstack([strip ^ 255, planes[1][top : top + rows]])
        if sixteen:
            strip = strip.astype("<u2")
        piece = Image.frombuffer(mode, (width, len(strip)), np.ascontiguousarray(strip), "raw", mode, 0, 1)
        image.paste(piece, (0, top))
    planes.clear()
    return image
