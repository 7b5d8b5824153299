"""ImageNet images under "conveyance, transport" alone (section 5.5.1): for table 5 and figures 5 and 6.

Command:   skipae-train pretrain imagenet-vehicle --data DATA --out runs/imagenet-vehicle
Hardware:  GPUs; at --budget cpu (half the width, Tiny-ImageNet), two cores
Hours:     not measured yet
Expected:  the paper tells no loss; what comes of it is in table 5
"""

from dataclasses import replace

from skipae_train.recipes import imagenet

PRETRAIN = replace(
    imagenet.PRETRAIN,
    name="imagenet-vehicle",
    epochs=replace(imagenet.EPOCHS, data="imagenet-vehicle", samples=93_000),
)
