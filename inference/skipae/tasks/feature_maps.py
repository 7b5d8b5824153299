"""Draw the strongest feature maps of a layer, for an image and the same image corrupted (figures 5 and 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipae import images
from skipae.engine.net import Net
from skipae.engine.tiling import to_net
from skipae.errors import ImageError
from skipae.options import DrawOptions, FeatureSpec
from skipae.tasks.features import Extractor

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = 4
"""Number of maps in a row of each half."""

CELL = 160
"""Width of a map in the figure, in pixels."""

LARGEST = 768
"""Short side to which a larger image is scaled, in pixels: the figure shows no more, and all maps are in memory."""

GAP = 6
LINE = 26
"""Height of a line of text, in pixels."""

COLORS = np.array(
    [
        (68, 1, 84),
        (71, 45, 123),
        (59, 82, 139),
        (44, 114, 142),
        (33, 145, 140),
        (40, 174, 128),
        (94, 201, 98),
        (173, 220, 48),
        (253, 231, 37),
    ]
)
"""Nine colors from 0 to a map's maximum: matplotlib's viridis."""


def figure(
    net: Net,
    pixels: NDArray[Any],
    layer: str,
    options: DrawOptions,
) -> Image.Image:
    """Draw the maps of a layer with the most energy on the clean image; both maps of a pair have the same scale.

    Args:
        net: a checkpoint with features.
        pixels: [H, W] or [H, W, 3] of uint8, uint16, or float in [0, 1].
        layer: its name.
        options: how many maps, the corruption, and the size of the image.

    Raises:
        UsageError: an argument has the wrong type or is out of range.
        ImageError: the image is too narrow for a figure, or memory runs out.
    """
    from PIL import Image, ImageDraw, ImageFont

    resize, crop = options.resize, options.crop
    if resize is None and not net.config.preprocessing.resize and min(pixels.shape[:2]) > LARGEST:
        resize = LARGEST
    extractor = Extractor(net, FeatureSpec(layer, "none", resize=resize, crop=crop))
    clean = to_net(extractor.prepare(pixels))[0].transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    corrupted = corrupt(clean, net.config.preprocessing.fill, options)
    pair = [extractor.run([pixels])[0][layer] for pixels in (clean, corrupted)]
    strongest = np.argsort(-np.square(pair[0]).mean((1, 2)), kind="stable")[: options.maps]

    height, width = clean.shape[:2]
    cell = CELL, max(1, round(CELL * height / width))
    rows = -(-len(strongest) // COLUMNS)
    half = COLUMNS * CELL + (COLUMNS - 1) * GAP
    top = max(1, half * height // width)
    size = 2 * half + 3 * GAP, LINE + top + rows * (cell[1] + LINE) + 3 * GAP
    if size[0] * size[1] > images.MAX_PIXELS:
        raise ImageError(f"is {width} x {height} pixels, too narrow for a figure: cut out the part that matters first")
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    shares = [f"{options.blocks:.0%} of the pixels in blocks"] if options.blocks else []
    shares += [f"noise of sigma {options.sigma:g}"] if options.sigma else []
    titles = [
        f"{net.config.name}, {layer}: the {len(strongest)} strongest of {len(pair[0])} maps",
        f"{' and '.join(shares) or 'not corrupted'}: cosine similarity of the layer {_cosine(*pair):.3f}",
    ]
    for side, (pixels, layer_maps, title) in enumerate(zip((clean, corrupted), pair, titles, strict=True)):
        left = GAP + side * (half + GAP)
        draw.text((left, GAP), title, "black", font)
        picture = Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
        sheet.paste(picture.resize((half, top), Image.Resampling.BICUBIC), (left, LINE + GAP))
        for place, channel in enumerate(strongest):
            row, column = divmod(place, COLUMNS)
            x, y = left + column * (CELL + GAP), 2 * GAP + LINE + top + row * (cell[1] + LINE)
            largest = max(float(values[channel].max()) for values in pair)
            sheet.paste(_colored(layer_maps[channel], largest).resize(cell, Image.Resampling.BICUBIC), (x, y))
            draw.text((x, y + cell[1] + 2), f"map {channel}", "black", font)
    return sheet


def corrupt(clean: NDArray[np.float32], fill: tuple[float, float, float], options: DrawOptions) -> NDArray[np.float32]:
    """Corrupt as in training (section 3.2): small square blocks, then Gaussian noise, clipped to [0, 1].

    Args:
        clean: [H, W, 3] in [0, 1].
        fill: color of the blocks, whose sides are from 1/8 to 1/4 of the image's.
        options: how much of it is covered, the noise, and the seed.
    """
    random = np.random.default_rng(options.seed)
    height, width = clean.shape[:2]
    side = min(height, width)
    covered = np.zeros((height, width), bool)
    while covered.mean() < options.blocks:
        size = int(random.integers(max(1, side // 8), max(1, side // 4) + 1))
        y, x = random.integers(height - size + 1), random.integers(width - size + 1)
        covered[y : y + size, x : x + size] = True
    result = np.where(covered[..., None], np.array(fill, np.float32), clean)
    noise = random.normal(0, options.sigma / 255, clean.shape) if options.sigma else 0
    return (result + noise).clip(0, 1).astype(np.float32)


def _colored(values: NDArray[np.float32], largest: float) -> Image.Image:
    from PIL import Image

    place = values / (largest or 1) * (len(COLORS) - 1)
    channels = [np.interp(place, np.arange(len(COLORS)), COLORS[:, k]) for k in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    product = float(np.vdot(one, other))
    return product / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12)
