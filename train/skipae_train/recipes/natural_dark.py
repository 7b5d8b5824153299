"""The fifth run of the bundled denoiser ``skipae-natural``, begun with the weights that :mod:`natural_deep` ended with.

Not an experiment of the paper.  The same network, loss and data; camera noise that does not brighten dark areas
(``symmetric`` and ``toe`` of :class:`skipae_train.camera_noise.CameraNoise`), because :mod:`natural_deep`, trained on
noise that does, darkens them.

Command:   skipae-train pretrain natural-dark --start model_cards/skipae-natural --data PHOTOS --pairs PAIRS
           --out runs/natural-dark
           (PHOTOS: the folder ``last`` that model_cards/skipae-natural/training/collect.py writes; PAIRS: real noisy
           photos, as ``skipae-train gather --pairs`` writes them without the cameras that are tested on)
Hardware:  2 cores with AMX or AVX-512 bf16
Hours:     1.3
Expected:  the held-out photos, sigma 15 / 25 / 50: 33.65 / 31.11 / 27.90 dB, pairs 36.90 dB, where :mod:`natural_deep`
           ends with 33.61 / 31.06 / 27.85 and 36.76 (one run).  It is not the published checkpoint yet; its weights are
           kept as differences in model_cards/skipae-natural/training/fifth
"""

from dataclasses import replace

from skipae_train.pretrain import Phase
from skipae_train.recipes import natural_deep

PRETRAIN = replace(
    natural_deep.PRETRAIN,
    name="natural-dark",
    phases=(Phase(2_800, 96, 16, freeze_norm=True), Phase(5_800, 160, 6, freeze_norm=True)),
)
