"""Masks: which pixels of an image to fill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipae import images
from skipae.errors import ImageError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

Mask = NDArray[np.bool_]


def load_mask(
    mask: NDArray[Any] | Image | images.Picture | images.Source, *, max_pixels: int = images.MAX_PIXELS
) -> tuple[Mask, str | None]:
    """Return where a mask is not zero, bool [H, W], and a remark about values between black and white, or None.

    Args:
        mask: an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of any type of number; a ``PIL.Image``; or the path
            or the bytes of an image file, whose EXIF orientation is applied.  In color, pixels count if they are not
            black; with alpha, if they are also not fully transparent.
        max_pixels: the largest file to decode, in pixels.

    Raises:
        UsageError: ``mask`` has another type or shape.
        ImageError: the file cannot be decoded.
    """
    if isinstance(mask, np.ndarray):
        if mask.dtype.kind not in "buif" or not (mask.ndim == 2 or (mask.ndim == 3 and mask.shape[2] in (1, 3, 4))):
            raise UsageError(
                f"mask: an array must be numbers [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], not {mask.dtype} "
                f"{list(mask.shape)}"
            )
        light = mask if mask.ndim == 2 else mask[..., :3]
        clear = mask[..., 3] == 0 if mask.ndim == 3 and mask.shape[2] == 4 else None
    else:
        picture = images.to_picture(mask, "mask", max_pixels=max_pixels)
        light = picture.planes[0]
        clear = None if picture.alpha is None else np.asarray(picture.alpha) == 0
        if picture.kind == "cmyk":  # full black ink
            black = picture.planes[1] == np.iinfo(picture.planes[1].dtype).max
            clear = black if clear is None else black | clear
    if light.ndim == 3:
        light = np.abs(light).max(axis=2) if light.dtype.kind in "if" else light.max(axis=2)
    if clear is not None:
        light = np.where(clear, light.dtype.type(0), light)
    holes: Mask = light != 0
    return holes, _describe_faint(light, holes)


def _describe_faint(light: NDArray[Any], holes: Mask) -> str | None:
    """Return a remark about nearly black pixels of a mask, which a lossy format or a scanner may leave."""
    if light.dtype.kind == "b" or not holes.any():
        return None
    white = light.max()
    faint = light[holes & (light < white / 2)]
    if not faint.size:
        return None
    low, high = (value.item() for value in (faint.min(), faint.max()))
    return (
        f"{faint.size} of {int(holes.sum())} masked pixels are nearly black ({low:g} to {high:g} of {white:g}) and are "
        "filled too; make them black to keep them"
    )


def transparent(alpha: NDArray[Any] | Image | None, size: tuple[int, int]) -> Mask:
    """Return the pixels to fill without a mask: those that are not opaque, or, if none is opaque, the clear ones.

    Args:
        alpha: uint8, uint16, or float in [0, 1]; None if there is none.
        size: width and height of the image.
    """
    if alpha is None:
        return np.zeros(size[::-1], bool)
    alpha = np.asarray(alpha)
    holes: Mask = alpha < opaque(alpha)
    return holes if not holes.all() else alpha <= 0


def check_mask(mask: Mask, size: tuple[int, int], said: str | None = None) -> int:
    """Return the number of masked pixels in an image of ``size`` (width, height).

    Args:
        mask: bool [H, W].
        size: size of the image.
        said: remark about the mask, for the message.

    Raises:
        UsageError: the mask has another size.
        ImageError: every pixel is masked.
    """
    if mask.shape != size[::-1]:
        raise UsageError(
            f"mask: it has {mask.shape[1]} x {mask.shape[0]} pixels, but the image {size[0]} x {size[1]} (upright): "
            "use one of the image's size"
        )
    count = int(mask.sum())
    if count == mask.size:
        why = "" if said is None else f" ({said})"
        raise ImageError(f"every pixel is masked: nothing is left to fill them from{why}")
    return count


def opaque(alpha: NDArray[Any]) -> int:
    """Return the value of a fully opaque pixel."""
    return int(np.iinfo(alpha.dtype).max) if alpha.dtype.kind == "u" else 1
