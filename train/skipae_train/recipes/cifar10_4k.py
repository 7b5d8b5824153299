"""CIFAR-10 with 4,000 labels: pre-training on all images as semi-supervised learning (table 2, section 5.3.1).

Command:   skipae-train pretrain cifar10-4k --data DATA --out runs/ae
           skipae-train finetune cifar10-4k --data DATA --start runs/ae --out runs/cifar10-4k
           (or both, with the comparisons: skipae-train reproduce table2 --data DATA)
Hardware:  one GPU; at --budget cpu, two cores
Hours:     0.34 (pre-training) and 0.13 at --budget cpu, each on one core of the two
Expected:  the paper: 80.22 +- 0.37 % (no pre-training 70.89 +- 0.30, without shortcuts 74.07 +- 0.43);
           at --budget cpu 68.8 (RESULTS.md), and 73.0 with --variant modern, twice the fine-tuning
"""

from skipae_train.corruption import BlockMask
from skipae_train.feed import DataConfig
from skipae_train.finetune import Finetune
from skipae_train.pretrain import Pretrain
from skipae_zoo import Head, network_2

MEAN = (0.4914, 0.4822, 0.4465)  # it and std: of the training set, computed

NETWORK = network_2(96)

PRETRAIN = Pretrain(
    name="cifar10-4k",
    architecture=NETWORK,
    corruption=BlockMask("small", MEAN),
    epochs=DataConfig(data="cifar10", count=120, batch=64, crop=29, flip=False),
    lr=2e-3,
    mean=MEAN,
    std=(0.2470, 0.2435, 0.2616),
)

FINETUNE = Finetune(
    name="cifar10-4k",
    start="cifar10-4k",
    architecture=NETWORK,
    head=Head("conv-pool"),
    epochs=DataConfig(data="cifar10", count=200, batch=64, crop=29, flip=False),
    lr=2e-3,
    freeze=10,
    corruption=BlockMask("small", MEAN),
    labeled=4000,
    validation=1000,
    mean=PRETRAIN.mean,
    std=PRETRAIN.std,
)
