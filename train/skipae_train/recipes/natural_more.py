"""The second run of the bundled denoiser ``skipae-natural``, begun with the weights that :mod:`natural` ended with.

Not an experiment of the paper.  The same network and loss; more white Gaussian noise and more holes, batch
norm frozen throughout, half the learning rate, cooled to 0 again.

Command:   skipae-train pretrain natural-more --start CHECKPOINT --data PHOTOS --out runs/natural-more
           (CHECKPOINT: the export of runs/natural; PHOTOS: the folder ``last`` that
           model_cards/skipae-natural/training/collect.py writes)
Hardware:  2 cores with AMX or AVX-512 bf16
Hours:     1.96 on cores that did other work besides
Expected:  with the camera noise of commit 86ff175, BSDS500 val, 8-bit, sigma 15 / 25 / 50: 33.27 / 30.62 / 27.28 dB
           (one run)
"""

from dataclasses import replace

from skipae_train.photo_damage import PhotoDamage
from skipae_train.pretrain import Phase
from skipae_train.recipes import natural
from skipae_train.schedules import Trapezoid

PRETRAIN = replace(
    natural.PRETRAIN,
    name="natural-more",
    corruption=PhotoDamage(gaussian=0.75, camera=0.18, jpeg=0.1, masked=0.25, quiet=0.4, fill=natural.FILL),
    phases=(Phase(7_000, 96, 16, freeze_norm=True), Phase(7_000, 160, 6, freeze_norm=True)),
    lr=1e-3,
    muon_lr=2e-3,
    schedule=Trapezoid(warmup=200, cooldown=0.55),
)
