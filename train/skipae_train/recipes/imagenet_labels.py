"""ImageNet 2012 with its labels: a supervised start for segmentation and classification, which the paper has not.

Command:   skipae-train finetune imagenet-labels --data DATA --start runs/imagenet --out runs/imagenet-labels
           (then skipae-train finetune voc12-seg --variant from-labels --start runs/imagenet-labels ...)
Hardware:  one GPU; at --budget day (half the width, public subsets of ImageNet), two cores
Hours:     0.55 at --budget day (7,280 steps of 64 crops, two threads, AVX-512 bf16); the others not measured
Expected:  not in the paper.  No row of its tables starts from here: their encoders have seen no labels
"""

from skipae_train.feed import DataConfig
from skipae_train.finetune import Finetune
from skipae_train.recipes import imagenet
from skipae_train.schedules import Cosine
from skipae_zoo import Head

FINETUNE = Finetune(
    name="imagenet-labels",
    start="imagenet",
    architecture=imagenet.NETWORK,
    head=Head("pool-fc"),
    # Crops of half to all of the short side, scaled to 225 pixels.
    epochs=DataConfig(data="imagenet", count=20, batch=64, crop=225, short_side=450, zoom=2.0, test_side=256),
    lr=1e-3,
    schedule=Cosine(warmup=500),
    validation=2000,
    mean=imagenet.PRETRAIN.mean,  # as the pre-trained weights expect it
    std=imagenet.PRETRAIN.std,
)
