"""ImageNet 2012 without its labels, for VOC (sections 5.4 and 5.5): Network-3.

Command:   skipae-train pretrain imagenet --data DATA --out runs/imagenet
           (many GPUs: accelerate launch -m skipae_train pretrain imagenet ..., see docs/training.md)
Hardware:  GPUs; at --budget cpu (half the width, Tiny-ImageNet), two cores
Hours:     1.25 at --budget cpu, on two cores with AVX-512 bf16; on GPUs not measured yet
Expected:  at --budget cpu 23.63 dB on 2,000 validation images, masked as in training.  The paper tells no loss; what
           comes of it is in voc07-cls (table 4) and voc12-seg (figure 4)
"""

from skipae_train.corruption import BlockMask
from skipae_train.feed import DataConfig
from skipae_train.pretrain import Pretrain
from skipae_train.schedules import Milestones
from skipae_zoo import network_3

MEAN = (0.485, 0.456, 0.406)  # as commonly published

EPOCHS = DataConfig(data="imagenet", count=6, batch=64, crop=225, short_side=256)

NETWORK = network_3(64)

PRETRAIN = Pretrain(
    name="imagenet",
    architecture=NETWORK,
    corruption=BlockMask("small", MEAN),
    epochs=EPOCHS,
    schedule=Milestones((4 / 6,), 0.1),
    mean=MEAN,
    # Of 795 of its images, at most one per class, in center crops of 225: mean 0.489, 0.457, 0.406.  The commonly
    # published (0.229, 0.224, 0.225) is less than the pixels' deviation.
    std=(0.270, 0.263, 0.275),
)
