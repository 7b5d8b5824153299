"""CIFAR-10, all labels: pre-training as initialization (table 1, section 5.2).

Command:   skipae-train pretrain cifar10 --data DATA --out runs/ae
           skipae-train finetune cifar10 --data DATA --start runs/ae --out runs/cifar10
           (or both, with the comparisons: skipae-train reproduce table1 --data DATA)
Hardware:  one GPU; at --budget cpu, two cores
Hours:     not measured yet
Expected:  the paper: 95.15 % (random initialization 93.95, pre-training without shortcuts 92.07)
"""

from skipae_train.corruption import GaussianNoise
from skipae_train.feed import DataConfig
from skipae_train.finetune import Finetune
from skipae_train.pretrain import Pretrain
from skipae_zoo import Head, network_1

NETWORK = network_1((5, 5, 5, 0), 128)

PRETRAIN = Pretrain(
    name="cifar10",
    architecture=NETWORK,
    corruption=GaussianNoise((30.0, 30.0)),
    epochs=DataConfig(data="cifar10", count=120, batch=64, crop=29),
    mean=(0.4914, 0.4822, 0.4465),  # both of the training set, computed
    std=(0.2470, 0.2435, 0.2616),
)

FINETUNE = Finetune(
    name="cifar10",
    start="cifar10",
    architecture=NETWORK,
    head=Head("pool-fc"),
    epochs=DataConfig(data="cifar10", count=200, batch=64, crop=29),
    validation=1000,
    mean=PRETRAIN.mean,
    std=PRETRAIN.std,
)
