"""The bundled denoiser ``skipae-natural``: blind, for photos as users have them.

Not an experiment of the paper; its network and training idea are (sections 3.1 to 3.3), with noise as files
have it, a loss that weighs all noise levels alike, and photos from several sources.

Command:   skipae-train pretrain natural --budget day --data PHOTOS --pairs PAIRS --out runs/natural
           (PHOTOS: clean photos, PAIRS: real noisy ones with clean partners, both as ``skipae-train gather`` writes
           them without pictures of the test sets; model_cards/skipae-natural/training has the list of the first
           run's photos, sources.tsv, and collect.py, which gathers them.  Given again, the command continues)
Hardware:  2 cores with AMX or AVX-512 bf16
Hours:     2.1 without ``--budget day`` on cores that did other work besides; ten times the steps with it
Expected:  with the simpler camera noise of commit 86ff175, BSDS500 val, 8-bit, sigma 15 / 25 / 50: 33.00 / 30.34 /
           26.93 dB; PolyU, every fourth pair: 37.34 dB (one run, changed on the way with a look at BSDS500 val: see
           the card); :mod:`natural_more` goes on.  With :class:`CameraNoise` as it is now: not measured yet
"""

from skipae_train.photo_damage import PhotoDamage
from skipae_train.pretrain import Phase, Pretrain
from skipae_train.schedules import Trapezoid
from skipae_zoo import network_1

MEAN = (0.43, 0.42, 0.39)  # of our photos
FILL = (1.0, 0.0, 1.0)  # no photo has it, so the network can see the mask; the mean color would hide it

PRETRAIN = Pretrain(
    name="natural",
    architecture=network_1((3, 3, 3, 3), 32, topology="post"),
    corruption=PhotoDamage(sigma=(0.0, 50.0), gaussian=0.5, camera=0.42, masked=0.15, quiet=0.7, fill=FILL),
    phases=(Phase(6_800, 96, 16), Phase(1_300, 128, 9), Phase(3_200, 160, 6, freeze_norm=True)),
    lr=2e-3,
    muon_lr=4e-3,
    schedule=Trapezoid(warmup=150, cooldown=0.525),
    loss="rmse",
    init="he",
    mean=MEAN,
    std=(0.26, 0.26, 0.26),
    ema_decay=0.999,
    max_grad_norm=1.0,
)
