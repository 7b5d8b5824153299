"""PASCAL VOC 2012 segmentation with encoder and decoder of an ImageNet auto-encoder (figure 4, section 5.4.2).

Command:   skipae-train finetune voc12-seg --data DATA --start runs/imagenet --out runs/voc12-seg
           (with the three initializations: skipae-train reproduce fig4 --data DATA)
Hardware:  one GPU; at --budget cpu, two cores
Hours:     0.85 at --budget day --variant modern, with or without from-labels (3,104 steps, one thread, AVX-512 bf16);
           half of it without modern, by its number of steps; the others not measured
Expected:  the paper gives a bar chart: mean IoU on val, encoder and decoder pre-trained > encoder alone > random
"""

from skipae_train.feed import DataConfig
from skipae_train.finetune import Finetune
from skipae_train.recipes import imagenet
from skipae_train.schedules import Milestones
from skipae_zoo import Head

FINETUNE = Finetune(
    name="voc12-seg",
    start="imagenet",
    transfer=("encoder", "decoder"),
    architecture=imagenet.NETWORK,
    head=Head("decoder"),
    epochs=DataConfig(data="voc12", count=400, batch=16, crop=225, short_side=256),
    schedule=Milestones((200 / 400, 300 / 400), 0.1),
    validation=50,
    mean=imagenet.PRETRAIN.mean,  # as the pre-trained weights expect it, and for comparison without them
    std=imagenet.PRETRAIN.std,
)
