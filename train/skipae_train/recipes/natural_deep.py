"""The fourth run of the bundled denoiser ``skipae-natural``: :mod:`natural_real`'s weights in a deeper network.

Not an experiment of the paper.  The stages at full and at half size have a residual unit each, two more layers on
either side, whose output begins near 0 (:mod:`skipae_train.deepen`); loss, data and damage are those of
:mod:`natural_real`.

Command:   skipae-train pretrain natural-deep --start CHECKPOINT --data PHOTOS --pairs PAIRS --out runs/natural-deep
           (CHECKPOINT: the export of runs/natural-real; PHOTOS: the folder ``last`` that
           model_cards/skipae-natural/training/collect.py writes; PAIRS: real noisy photos, as ``skipae-train gather
           --pairs`` writes them without the cameras that are tested on)
Hardware:  2 cores with AMX or AVX-512 bf16
Hours:     1.23
Expected:  with the camera noise of commit 4d906c3, BSDS500 val, 8-bit, sigma 15 / 25 / 50: 33.37 / 30.72 / 27.39 dB,
           where :mod:`natural_real` has 33.27 / 30.62 / 27.30; PolyU's Canon 80D: 39.51 dB (39.45); SIDD's Galaxy S6:
           34.26 dB (33.88); RENOIR, whose darkest photos become darker: 37.75 dB (38.18; one run)
"""

from dataclasses import replace

from skipae_train.pretrain import Phase
from skipae_train.recipes import natural_real
from skipae_train.schedules import Trapezoid
from skipae_zoo import network_1

PRETRAIN = replace(
    natural_real.PRETRAIN,
    name="natural-deep",
    architecture=network_1((5, 5, 3, 3), 32, topology="post", residual=True),
    phases=(Phase(3_000, 96, 16, freeze_norm=True), Phase(3_000, 160, 6, freeze_norm=True)),
    lr=7e-4,
    muon_lr=1.4e-3,
    schedule=Trapezoid(warmup=200, cooldown=0.6),
)
