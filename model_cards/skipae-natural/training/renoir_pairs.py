"""Make pairs for ``skipae-train evaluate --pairs`` of RENOIR's crops: ``python renoir_pairs.py DATASET OUT``.

DATASET is the folder ``dataset`` of the repository ``lbasek/image-denoising-benchmark``: a noisy and two clean
exposures per scene.  Of the clean ones the one is taken that is nearer to the noisy one when both are blurred
(Gaussian, sigma 4 pixels).  Scenes are left out where even that one is below 40 dB, since light or camera then
moved between the exposures.  Needs numpy and opencv-python-headless.
"""

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np

LEAST = 40.0


def blurred(path: Path) -> np.ndarray:
    """The picture without its noise and its detail, float64 [H, W, 3]."""
    pixels = cv2.imread(str(path))
    if pixels is None:
        raise ValueError(f"{path} cannot be decoded")
    return cv2.GaussianBlur(pixels.astype(np.float64), (0, 0), 4)


def main() -> None:
    """Copy the pairs that align as NAME_real.bmp and NAME_mean.bmp."""
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    scenes = sorted(folder for folder in data.iterdir() if folder.is_dir())
    kept = 0
    for scene in scenes:
        noisy = blurred(scene / "noisy.bmp")
        psnr = {}
        for name in ("clean", "reference"):
            error = ((noisy - blurred(scene / f"{name}.bmp")) ** 2).mean()
            psnr[name] = 10 * np.log10(255**2 / error)
        best = max(psnr, key=psnr.__getitem__)
        if psnr[best] >= LEAST:
            shutil.copyfile(scene / "noisy.bmp", out / f"{scene.name}_real.bmp")
            shutil.copyfile(scene / f"{best}.bmp", out / f"{scene.name}_mean.bmp")
            kept += 1
    sys.stdout.write(f"{kept} of {len(scenes)} scenes are in {out}\n")


if __name__ == "__main__":
    main()
