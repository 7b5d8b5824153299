"""STL-10: pre-training on 100,000 unlabeled images, fine-tuning on each fold of 1,000 (table 3, section 5.3.2).

Command:   skipae-train pretrain stl10 --data DATA --out runs/ae
           skipae-train finetune stl10 --fold 0 --data DATA --start runs/ae --out runs/stl10
           (or all folds, with the comparisons: skipae-train reproduce table3 --data DATA)
Hardware:  one GPU
Hours:     not measured yet
Expected:  the paper: 75.8 +- 0.5 % over the folds (no pre-training 64.6 +- 0.7, without shortcuts 70.2 +- 0.6)
"""

from skipae_train.corruption import BlockMask
from skipae_train.feed import DataConfig
from skipae_train.finetune import Finetune
from skipae_train.pretrain import Pretrain
from skipae_train.schedules import Milestones
from skipae_zoo import Head, network_1

MEAN = (0.4467, 0.4398, 0.4066)  # it and std: as commonly published for the labeled images, not computed here

NETWORK = network_1((2, 2, 3, 3), 64)

PRETRAIN = Pretrain(
    name="stl10",
    architecture=NETWORK,
    corruption=BlockMask("small", MEAN),
    epochs=DataConfig(data="stl10", count=40, batch=64, crop=89),
    schedule=Milestones((30 / 40,), 0.1),
    mean=MEAN,
    std=(0.2603, 0.2566, 0.2713),
)

FINETUNE = Finetune(
    name="stl10",
    start="stl10",
    architecture=NETWORK,
    head=Head("pool-fc"),
    epochs=DataConfig(data="stl10", count=200, batch=50, crop=89),
    freeze=10,
    fold=0,
    validation=500,
    mean=PRETRAIN.mean,
    std=PRETRAIN.std,
)
