"""Make the pictures of the README: ``python docs/make_pictures.py``.

``chelsea.png`` is a photo by Stéfan van der Walt, released as CC0, taken from scikit-image's sample data.
``chelsea-noisy.png`` is that photo with seeded Gaussian noise of sigma 25 grey levels, rounded and clipped;
``before-after.png`` shows it beside what ``skipae denoise`` makes of it.
"""

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
    denoised = from_pretrained("skipae-natural", device="cpu").denoise(noisy)

    panels = [("noisy, sigma 25", noisy), ("skipae denoise", denoised)]
    width, height = CROP[2] - CROP[0], CROP[3] - CROP[1]
    figure = Image.new("RGB", (len(panels) * width + 8, height), "white")
    draw = ImageDraw.Draw(figure)
    font = ImageFont.load_default(18)
    for place, (label, picture) in enumerate(panels):
        left = place * (width + 8)
        figure.paste(picture.crop(CROP), (left, 0))
        draw.text((left + 10, height - 30), label, "white", font, stroke_width=2, stroke_fill="black")
    figure.save(IMAGES / "before-after.png", optimize=True)


if __name__ == "__main__":
    main()
