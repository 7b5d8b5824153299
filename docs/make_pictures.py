"""Make the pictures of the README: ``python docs/make_pictures.py``.

``chelsea.png`` is a photo by Stéfan van der Walt, released as CC0, taken from scikit-image's sample data.
``chelsea-noisy.png`` is that photo with seeded Gaussian noise of sigma 25 gray levels, rounded and clipped;
``before-after.png`` shows it beside what ``skipae denoise`` makes of it.  ``inpaint.png`` shows the photo with text
and scratches, and what ``skipae inpaint`` makes of it when it is given where they are.  ``segment-cat.jpg`` is what
``skipae segment --overlay`` makes of it.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from skipae import from_pretrained

IMAGES = Path(__file__).parent / "images"
SIGMA = 25
CROP = (0, 0, 440, 300)


def main() -> None:
    """Write the pictures."""
    clean = np.asarray(Image.open(IMAGES / "chelsea.png").convert("RGB"))
    noise = np.random.default_rng(0).normal(0, SIGMA, clean.shape)
    noisy = Image.fromarray(np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8))
    noisy.save(IMAGES / "chelsea-noisy.png", optimize=True)
    model = from_pretrained("skipae-natural", device="cpu", precision="fp32")
    denoised = model.denoise(noisy)
    _side_by_side("before-after.png", [("noisy, sigma 25", noisy), ("skipae denoise", denoised)])

    mask = _text_and_scratches(clean.shape[1], clean.shape[0])
    damaged = Image.fromarray(clean)
    damaged.paste("white", mask=mask)
    inpainted = model.inpaint(damaged, mask)
    _side_by_side("inpaint.png", [("text and scratches", damaged), ("skipae inpaint", inpainted)])

    overlay = [sys.executable, "-m", "skipae", "segment", "--overlay", "--overwrite", "--precision", "fp32", "-o"]
    subprocess.run([*overlay, str(IMAGES / "segment-cat.jpg"), str(IMAGES / "chelsea.png")], check=True)


def _text_and_scratches(width: int, height: int) -> Image.Image:
    """Lines of text and seeded scratches, white on black."""
    mask = Image.new("1", (width, height))
    draw = ImageDraw.Draw(mask)
    for y in range(12, height, 62):
        draw.text((8, y), "skip connections pass details on " * 3, "white", ImageFont.load_default(22))
    rng = np.random.default_rng(0)
    for _ in range(14):
        ends = rng.uniform(0, 1, (2, 2)) * (width, height)
        draw.line([tuple(end) for end in ends], "white", int(rng.integers(2, 6)))
    return mask


def _side_by_side(name: str, panels: list[tuple[str, Image.Image]]) -> None:
    """Write a figure of labeled pictures."""
    width, height = CROP[2] - CROP[0], CROP[3] - CROP[1]
    figure = Image.new("RGB", (len(panels) * width + 8, height), "white")
    draw = ImageDraw.Draw(figure)
    font = ImageFont.load_default(18)
    for place, (label, picture) in enumerate(panels):
        left = place * (width + 8)
        figure.paste(picture.crop(CROP), (left, 0))
        draw.text((left + 10, height - 30), label, "white", font, stroke_width=2, stroke_fill="black")
    figure.save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    main()
