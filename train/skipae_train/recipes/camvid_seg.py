"""CamVid segmentation: figure 4 on a set that anyone can have, with 11 classes of street scenes.

Command:   skipae-train finetune camvid-seg --data DATA --start runs/imagenet --out runs/camvid-seg
           (with the three initializations: skipae-train reproduce fig4 --data DATA, where DATA has no VOC 2012)
Hardware:  one GPU; at --budget cpu, two cores
Hours:     0.2 at --budget cpu, on two cores with AVX-512 bf16, 1.4 on one core without; on a GPU not measured yet
Expected:  58.91 % mean IoU at --budget cpu, 49.27 with --variant encoder-only, 47.65 with random, 53.13 with
           random-he (one run each).  Not in the paper, but the order of its figure 4
"""

from dataclasses import replace

from skipae_train.recipes import voc12_seg

FINETUNE = replace(
    voc12_seg.FINETUNE,
    name="camvid-seg",
    epochs=replace(voc12_seg.FINETUNE.epochs, data="camvid"),
    validation=20,
)
