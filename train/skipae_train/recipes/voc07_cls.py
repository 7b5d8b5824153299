"""PASCAL VOC 2007 classification from an ImageNet auto-encoder (tables 4 and 5, section 5.4.1).

Command:   skipae-train finetune voc07-cls --data DATA --start runs/imagenet --out runs/voc07-cls
           (with the pre-trainings and comparisons: skipae-train reproduce table4 --data DATA)
Hardware:  one GPU; at --budget cpu, two cores
Hours:     0.36 at --budget day --variant from-labels+modern (4,160 steps, one thread, AVX-512 bf16)
Expected:  the paper: mAP 71.25 % (random 67.11, Context Encoder 70.24, without shortcuts 69.38)
"""

from skipae_train.feed import DataConfig
from skipae_train.finetune import Finetune
from skipae_train.recipes import imagenet
from skipae_train.schedules import Milestones
from skipae_zoo import Head

FINETUNE = Finetune(
    name="voc07-cls",
    start="imagenet",
    architecture=imagenet.NETWORK,
    head=Head("fc", 4096, "sigmoid"),
    epochs=DataConfig(data="voc07", count=400, batch=32, crop=225, short_side=256),
    schedule=Milestones((200 / 400, 300 / 400), 0.1),
    validation=250,
    crops=10,
    mean=imagenet.PRETRAIN.mean,  # as the pre-trained weights expect it, and for comparison without them
    std=imagenet.PRETRAIN.std,
)
