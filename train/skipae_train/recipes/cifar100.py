"""CIFAR-100: pre-training as initialization (table 1), and the ablations of supplement C.

Command:   skipae-train pretrain cifar100 --data DATA --out runs/ae
           skipae-train finetune cifar100 --data DATA --start runs/ae --out runs/cifar100
           (or both, with the comparisons: skipae-train reproduce table1 --data DATA)
Hardware:  one GPU; at --budget cpu, two cores
Hours:     not measured yet
Expected:  the paper: 75.41 % (random initialization 74.11, pre-training without shortcuts 70.21); after pre-training by
           ADAM about 1.0 dB more than by SGD (--variant sgd), and more still with the encoder of a Wide-ResNet
           (--variant wide-resnet)
"""

from dataclasses import replace

from skipae_train.feed import DataConfig
from skipae_train.recipes import cifar10

PRETRAIN = replace(
    cifar10.PRETRAIN,
    name="cifar100",
    epochs=DataConfig(data="cifar100", count=120, batch=64, crop=29),
    mean=(0.5071, 0.4865, 0.4409),  # both as commonly published for the training set, not computed here
    std=(0.2673, 0.2564, 0.2762),
)

FINETUNE = replace(
    cifar10.FINETUNE,
    name="cifar100",
    start="cifar100",
    epochs=DataConfig(data="cifar100", count=200, batch=64, crop=29),
    mean=PRETRAIN.mean,
    std=PRETRAIN.std,
)
