"""The third run of the bundled denoiser ``skipae-natural``, begun with the weights that :mod:`natural_more` ended with.

Not an experiment of the paper.  The same network and loss; noise as cameras make it
(:class:`skipae_train.camera_noise.CameraNoise`, widened since the second run), pairs of real noisy photos and clean
partners in one sample of eight, and more photos.

Command:   skipae-train pretrain natural-real --start model_cards/skipae-natural --data PHOTOS --pairs PAIRS
           --out runs/natural-real
           (PHOTOS: the folder ``last`` that model_cards/skipae-natural/training/collect.py writes; PAIRS: real noisy
           photos, as ``skipae-train gather --pairs`` writes them without the cameras that are tested on)
Hardware:  2 cores with AMX or AVX-512 bf16
Hours:     1.6 on one core
Expected:  with the camera noise of commit 4d906c3, BSDS500 val, 8-bit, sigma 15 / 25 / 50: 33.27 / 30.62 / 27.30 dB;
           PolyU's Canon 80D, which it was not trained on: 39.45 dB, where :mod:`natural_more` has 38.81; SIDD's Galaxy
           S6: 33.88 dB (one run)
"""

from dataclasses import replace

from skipae_train.photo_damage import PhotoDamage
from skipae_train.pretrain import Phase
from skipae_train.recipes import natural, natural_more

PRETRAIN = replace(
    natural_more.PRETRAIN,
    name="natural-real",
    corruption=PhotoDamage(gaussian=0.62, camera=0.29, jpeg=0.1, masked=0.2, quiet=0.4, fill=natural.FILL),
    phases=(Phase(3_500, 96, 16, freeze_norm=True), Phase(3_500, 160, 6, freeze_norm=True)),
    paired=0.12,
)
