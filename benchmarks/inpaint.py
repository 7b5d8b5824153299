"""Quality of ``skipae inpaint`` compared with OpenCV's Telea and Navier-Stokes (radius 3) and biharmonic inpainting.

    python benchmarks/inpaint.py BSDS500/val [--images 12] [--model NAME|DIR] [--seed 0] [--method NAME ...]

Needs ``pip install -e ".[cpu,test]"``, and ``pip install scikit-image`` for the row ``biharmonic``.  A tenth of each
photo is masked, once by blocks with sides of 4 to 24 pixels, once by scratches 2 to 24 pixels wide, once by text in
sizes of 12 to 24 pixels, all seeded.  Printed are means over the photos of the PSNR over masked pixels of 8-bit
results, in dB; ``plate`` is the smooth guess alone and ``net`` one pass of the network alone, the two that skipae
weighs: they show where its gain comes from.
"""

from __future__ import annotations

import argparse
import string
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from skipae import from_pretrained
from skipae.tasks import inpaint

COVERAGE = 0.1
METHODS = ["Telea", "Navier-Stokes", "biharmonic", "plate", "net", "skipae"]
LETTERS = list(string.ascii_letters + string.digits + "     ")

Draw = Callable[[ImageDraw.ImageDraw, np.random.Generator, int, int], None]


def block(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    """A square with a side of 4 to 24 pixels."""
    side = int(rng.integers(4, 25))
    x, y = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    draw.rectangle((x, y, x + side - 1, y + side - 1), fill=255)


def scratch(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    """A straight line, 2 to 24 pixels wide."""
    ends = rng.uniform(-0.1, 1.1, (2, 2)) * (width, height)
    draw.line([tuple(end) for end in ends], fill=255, width=int(rng.integers(2, 25)))


def text(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    """A line of random letters of 12 to 24 pixels, some of them bold."""
    size = int(rng.integers(12, 25))
    place = int(rng.integers(-20, width // 2)), int(rng.integers(0, height - size))
    line = "".join(rng.choice(LETTERS, 40))
    draw.text(place, line, 255, ImageFont.load_default(size), stroke_width=int(rng.integers(0, 2)))


KINDS: dict[str, Draw] = {"blocks": block, "scratches": scratch, "text": text}


def random_mask(kind: str, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Bool [H, W], of which at least :data:`COVERAGE` is true."""
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    while (np.asarray(image) > 127).mean() < COVERAGE:
        KINDS[kind](draw, rng, width, height)
    return np.asarray(image) > 127


def psnr(result: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """PSNR over masked pixels of 8-bit images, in dB."""
    error = result[mask].astype(np.float64) - truth[mask]
    return float(10 * np.log10(255**2 / np.mean(error**2)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, help="only so many, evenly spread over the folder")
    parser.add_argument("--model", default="skipae-natural")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", action="append", choices=METHODS, help="only this row (repeatable)")
    arguments = parser.parse_args()
    chosen = arguments.method or METHODS
    if "biharmonic" in chosen:
        try:
            from skimage.restoration import inpaint_biharmonic
        except ImportError:
            missing = "scikit-image is not installed, which the row biharmonic needs: pip install scikit-image"
            if arguments.method:
                raise SystemExit(missing) from None
            print(missing, file=sys.stderr)
            chosen = [name for name in chosen if name != "biharmonic"]
    model = from_pretrained(arguments.model, device="cpu", precision="fp32")

    def alone(guess: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
        def fill(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
            filled = guess(photo.astype(np.float32) / 255, mask)
            return np.where(mask[..., None], np.rint(255 * filled.clip(0, 1)), photo)

        return fill

    methods: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "Telea": lambda photo, mask: cv2.inpaint(photo, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA),
        "Navier-Stokes": lambda photo, mask: cv2.inpaint(photo, mask.astype(np.uint8), 3, cv2.INPAINT_NS),
        "biharmonic": lambda photo, mask: np.rint(255 * inpaint_biharmonic(photo, mask, channel_axis=-1).clip(0, 1)),
        "plate": alone(inpaint._plate),
        "net": alone(lambda values, mask: inpaint._guess(model.net, values, mask)),
        "skipae": model.inpaint,
    }
    methods = {name: methods[name] for name in chosen}
    files = sorted(path for path in arguments.photos.iterdir() if path.suffix.lower() in (".jpg", ".png"))
    if not files:
        raise SystemExit(f"{arguments.photos} holds no photos")
    if arguments.images is not None:
        files = files[:: max(1, len(files) // arguments.images)][: arguments.images]
    found: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in KINDS} for name in methods}
    for number, file in enumerate(files):
        photo = np.asarray(Image.open(file).convert("RGB"))
        for place, kind in enumerate(KINDS):
            rng = np.random.default_rng([arguments.seed, number, place])
            mask = random_mask(kind, photo.shape[1], photo.shape[0], rng)
            for name, method in methods.items():
                found[name][kind].append(psnr(method(photo, mask), photo, mask))
    print(f"{len(files)} photos, seed {arguments.seed}, {arguments.model}; dB over masked pixels")
    print("| method |", " | ".join(KINDS), "| all |\n| --- |", "--- | " * (len(KINDS) + 1))
    means = {name: [float(np.mean(values)) for values in kinds.values()] for name, kinds in found.items()}
    for name, values in means.items():
        print(f"| {name} |", " | ".join(f"{value:.2f}" for value in (*values, np.mean(values))), "|")
    if {"Telea", "Navier-Stokes", "skipae"} <= {*means}:
        rival = max(np.mean(means["Telea"]), np.mean(means["Navier-Stokes"]))
        print(f"skipae is {np.mean(means['skipae']) - rival:+.2f} dB above the better of Telea and Navier-Stokes")


if __name__ == "__main__":
    main()
