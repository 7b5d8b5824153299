"""A small denoiser, for a fraction of the time of ``skipae-natural``; no checkpoint of it is published.

Not an experiment of the paper.  The same loss and data as :mod:`natural_real` and nearly the same damage; a narrower
and shallower Network-1, whose stages are not each twice as wide as the one before, trained from random weights.

Command:   skipae-train pretrain natural-fast --data PHOTOS --pairs PAIRS --out runs/natural-fast
           (PHOTOS: the folder ``last`` that model_cards/skipae-natural/training/collect.py writes; PAIRS: real noisy
           photos, as ``skipae-train gather --pairs`` writes them without the cameras that are tested on)
Hardware:  1 core with AMX or AVX-512 bf16
Hours:     0.88
Expected:  BSDS500 val, 8-bit, sigma 15 / 25 / 50: 32.07 / 29.58 / 26.23 dB, where :mod:`natural_real` has 33.27 /
           30.62 / 27.30 (one run, which was planned at 14,000 steps, lengthened to 20,000 at step 3,448 and shortened
           to 16,000 at step 8,430, before the rate fell); docs/speed.md has its time
"""

from dataclasses import replace

from skipae_train.photo_damage import PhotoDamage
from skipae_train.pretrain import Phase
from skipae_train.recipes import natural, natural_real
from skipae_train.schedules import Trapezoid
from skipae_zoo import network_1

PRETRAIN = replace(
    natural_real.PRETRAIN,
    name="natural-fast",
    architecture=network_1((2, 2, 3, 3), 24, widths=(24, 36, 56, 80), topology="post"),
    corruption=PhotoDamage(gaussian=0.62, camera=0.29, jpeg=0.1, masked=0.1, quiet=0.4, fill=natural.FILL),
    phases=(Phase(9_500, 96, 8), Phase(6_500, 128, 6, freeze_norm=True)),
    lr=6e-3,  # narrow layers need larger steps than those of skipae-natural
    muon_lr=2e-2,
    schedule=Trapezoid(warmup=150, cooldown=0.42),
)
