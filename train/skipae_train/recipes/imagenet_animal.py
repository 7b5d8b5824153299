"""ImageNet images under "mammal" or "bird" alone (section 5.5.1): for table 5 and figures 5 and 6.

Command:   skipae-train pretrain imagenet-animal --data DATA --out runs/imagenet-animal
Hardware:  GPUs; at --budget cpu (half the width, Tiny-ImageNet), two cores
Hours:     not measured yet
Expected:  the paper tells no loss; what comes of it is in table 5
"""

from dataclasses import replace

from skipae_train.recipes import imagenet

PRETRAIN = replace(
    imagenet.PRETRAIN,
    name="imagenet-animal",
    epochs=replace(imagenet.EPOCHS, data="imagenet-animal", samples=93_000),
)
