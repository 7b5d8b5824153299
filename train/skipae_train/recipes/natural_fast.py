"""The small denoiser ``skipae-natural-fast``, for a fraction of the time of ``skipae-natural``.

Not an experiment of the paper.  The same damage, loss and data as :mod:`natural_real`; a narrower and shallower
Network-1, whose last stages are not twice as wide as the ones before, trained from random weights.

Command:   skipae-train pretrain natural-fast --data PHOTOS --pairs PAIRS --out runs/natural-fast
           (PHOTOS: the folder ``last`` that model_cards/skipae-natural/training/collect.py writes; PAIRS: real noisy
           photos, as ``skipae-train gather --pairs`` writes them without the cameras that are tested on)
Hardware:  1 core with AMX or AVX-512 bf16
Hours:     not measured yet
Expected:  not measured yet
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
    phases=(Phase(7_000, 96, 8), Phase(7_000, 128, 6, freeze_norm=True)),
    lr=6e-3,  # narrow layers need larger steps than those of skipae-natural
    muon_lr=2e-2,
    schedule=Trapezoid(warmup=150, cooldown=0.5),
)
