"""Shared by all tasks: accept images of every kind and return images of the same kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipae import images
from skipae.engine.tiling import to_net
from skipae.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

Progress = Callable[[float], None]
"""Called with the finished share of an image, in (0, 1]."""

Restore = Callable[[NDArray[Any], "Progress | None"], NDArray[Any]]
"""Changes one plane, [H, W] or [H, W, 3] of uint8, uint16 or float, into another of the same shape and dtype."""


def restored(
    image: NDArray[Any] | Image | images.Picture | images.Source,
    restore: Restore,
    *,
    max_pixels: int,
    progress: Progress | None = None,
) -> NDArray[Any] | Image | images.Picture:
    """Return an image with changed planes, of the same kind as ``image``; a ``Picture`` for a file.

    Raises:
        UsageError: ``image`` is not an image.
        ImageError: the file cannot be decoded.
    """
    if isinstance(image, np.ndarray):
        return on_array(image, lambda plane: restore(plane, progress))
    picture = images.to_picture(image, max_pixels=max_pixels)
    on_planes(picture, restore, progress)
    return picture.to_pil() if images.is_pil(image) else picture


def on_planes(picture: images.Picture, restore: Restore, progress: Progress | None = None) -> None:
    """Replace each plane of a picture; ``progress`` covers all of them."""
    planes = len(picture.planes)
    before = 0

    def one(plane: NDArray[Any]) -> NDArray[Any]:
        nonlocal before
        share = None if progress is None else lambda done: progress((before + done) / planes)
        result = restore(plane, share)
        before += 1
        return result

    picture.restore(one)


def on_array(array: NDArray[Any], restore: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Return a new array with changed colors and the same alpha.

    Raises:
        UsageError: the array is not [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8, uint16 or float.
    """
    images.check_array(array)
    if array.ndim == 2 or array.shape[2] == 3:
        return restore(array)
    if array.shape[2] == 1:
        return restore(array[..., 0])[..., None]
    result = np.empty_like(array, order="C")
    result[..., :3] = restore(array[..., :3])
    result[..., 3] = array[..., 3]
    return result


def load(
    image: NDArray[Any] | Image | images.Picture | images.Source, max_pixels: int = images.MAX_PIXELS
) -> NDArray[Any]:
    """Return the pixels of an image of any kind without alpha: [H, W] or [H, W, 3] (RGB), uint8, uint16 or float.

    Raises:
        ImageError: the file cannot be decoded.
        UsageError: it is not an image.
    """
    if isinstance(image, np.ndarray):
        images.check_array(image)
        if image.ndim == 2:
            return image
        return image[..., 0] if image.shape[2] == 1 else image[..., :3]
    return images.to_picture(image, max_pixels=max_pixels).rgb()


def prepare(pixels: NDArray[Any], resize: int | None, crop: int | None) -> NDArray[Any]:
    """Scale the short side to ``resize`` pixels (bicubic, antialiased), then cut out the middle ``crop`` x ``crop``.

    Args:
        pixels: [H, W] or [H, W, 3] of uint8, uint16, or float in [0, 1].
        resize: None or 0 keeps the size.
        crop: None or 0 takes the whole image.

    Returns:
        uint8 pixels for uint8; else, where they were scaled, float32 in [0, 1].

    Raises:
        ImageError: the image is smaller than the crop, or so narrow that it would be scaled to too many pixels.
    """
    height, width = pixels.shape[:2]
    if resize and min(height, width) != resize:
        scale = resize / min(height, width)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        if height * width > images.MAX_PIXELS:  # a strip, of which only the middle may be needed
            raise ImageError(
                f"is {pixels.shape[1]} x {pixels.shape[0]} pixels, and {width} x {height} with its short side scaled "
                f"to {resize}, more than {images.MAX_PIXELS} pixels: cut out the part that matters first"
            )
        pixels = _scaled(pixels, height, width)
    if crop:
        if min(height, width) < crop:
            raise ImageError(f"is {width} x {height} pixels, less than the crop of {crop}; use a larger resize")
        top, left = (height - crop) // 2, (width - crop) // 2
        pixels = pixels[top : top + crop, left : left + crop]
    return pixels


def _scaled(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    from PIL import Image

    if pixels.dtype == np.uint8:
        return np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BICUBIC)
        )
    channels: NDArray[np.float32] = to_net(pixels)[0]  # Pillow scales floats one channel at a time
    scaled = [Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC) for channel in channels]
    return np.stack([np.asarray(channel) for channel in scaled], axis=-1).clip(0, 1)
