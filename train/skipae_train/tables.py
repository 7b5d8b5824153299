"""The paper's tables and figures as data: which runs they compare, and the numbers that the paper prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Measure = Literal["value", "animal", "vehicle", "complete", "psnr", "kernels"]
"""What is measured.  A fine-tuned network has ``value``, its metric on the test set in percent, or the mean over the
classes that are animals, vehicles, or complete in the public part of VOC 2012.  A pre-trained one has ``psnr``, in dB
on test images, and ``kernels``, the root mean square of its kernels x 1000."""


@dataclass(frozen=True)
class Column:
    """A measurement of one recipe's runs."""

    label: str
    recipe: str
    measure: Measure = "value"
    instead: str = ""
    """The recipe where VOC 2012 is not there, which the label then names; columns without one are left out then."""

    @property
    def pretrained(self) -> bool:
        """True if the pre-trained network is measured."""
        return self.measure in ("psnr", "kernels")


@dataclass(frozen=True)
class Row:
    """A variant of the columns' recipes."""

    label: str
    variant: str = ""
    paper: tuple[str, ...] = ()
    """The paper's numbers as it prints them, one a column, empty where it has none; () where it has none at all."""
    without: tuple[Measure, ...] = ()
    """What cannot be measured of it."""
    tuned: bool = False
    """True if its learning rates are the best of several, of fine-tuning and, by SGD, of pre-training; where the table
    says so, that of fine-tuning is for every row."""


@dataclass(frozen=True)
class Table:
    """Variants compared by columns."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    tuned: bool = False
    """True if fine-tuning takes, in every row, the best learning rate of equally many tries."""

    def paper(self, row: Row, column: int) -> str:
        """Return the paper's number in a cell, empty where it has none."""
        return row.paper[column] if row.paper else ""


@dataclass(frozen=True)
class Pretraining:
    """A pre-training that a figure shows."""

    recipe: str
    variant: str = ""


@dataclass(frozen=True)
class Result:
    """A table or figure of the paper."""

    title: str
    recipes: tuple[str, ...]
    table: Table | None = None
    pretrainings: tuple[Pretraining, ...] = ()
    """Pre-trainings that it needs besides those of its table."""


RANDOM, HE = "random, N(0, 0.01)", "random, He"
PLAIN, SKIP = "pre-trained without shortcuts", "pre-trained with shortcuts"


def _initializations(*papers: tuple[str, ...]) -> tuple[Row, ...]:
    """Return the rows of tables 1 to 3; the paper has no line for He's initialization."""
    random, plain, skip = papers
    return (Row(RANDOM, "random", random), Row(HE, "random-he"), Row(PLAIN, "no-shortcut", plain), Row(SKIP, "", skip))


RESULTS: dict[str, Result] = {
    "fig2": Result(
        "reconstructions of held-out images under three corruptions",
        ("imagenet",),
        Table(
            (Column("PSNR, dB", "imagenet", "psnr"),),
            (Row("Gaussian", "gaussian"), Row("one big block", "big-block"), Row("small blocks")),
        ),
    ),
    "fig3": Result("what each layer's features can classify and reconstruct", ("cifar10", "cifar10-4k")),
    "table1": Result(
        "CIFAR-10 and CIFAR-100, test accuracy in %",
        ("cifar10", "cifar100"),
        Table(
            (Column("CIFAR-10", "cifar10"), Column("CIFAR-100", "cifar100")),
            _initializations(("93.95", "74.11"), ("92.07", "70.21"), ("95.15", "75.41")),
            tuned=True,
        ),
    ),
    "table2": Result(
        "CIFAR-10 with 4,000 labels, test accuracy in %",
        ("cifar10-4k",),
        Table(
            (Column("accuracy", "cifar10-4k"),),
            _initializations(("70.89 ± 0.30",), ("74.07 ± 0.43",), ("80.22 ± 0.37",)),
            tuned=True,
        ),
    ),
    "table3": Result(
        "STL-10, test accuracy in % over the folds",
        ("stl10",),
        Table(
            (Column("accuracy", "stl10"),),
            _initializations(("64.6 ± 0.7",), ("70.2 ± 0.6",), ("75.8 ± 0.5",)),
            tuned=True,
        ),
    ),
    "table4": Result(
        "VOC 2007 classification, mean average precision in %",
        ("imagenet", "voc07-cls"),
        Table(
            (Column("mAP", "voc07-cls"),),
            (
                Row(RANDOM, "random", ("67.11",)),
                Row(HE, "random-he"),
                Row("Context Encoder", "context-encoder", ("70.24",)),
                Row(PLAIN, "no-shortcut", ("69.38",)),
                Row(SKIP, "", ("71.25",)),
            ),
            tuned=True,
        ),
    ),
    "table5": Result(
        "VOC 2007 after pre-training on animals or on vehicles, mean average precision in %",
        ("imagenet-animal", "imagenet-vehicle", "voc07-cls"),
        Table(
            (
                Column("animal", "voc07-cls", "animal"),
                Column("vehicle", "voc07-cls", "vehicle"),
                Column("all", "voc07-cls"),
            ),
            (
                Row(RANDOM, "random", ("67.02", "76.87", "67.11")),
                Row(HE, "random-he"),
                Row("pre-trained on animals", "from-animal", ("73.04", "79.04", "70.77")),
                Row("pre-trained on vehicles", "from-vehicle", ("72.17", "80.00", "70.93")),
            ),
            tuned=True,
        ),
    ),
    "fig4": Result(
        "segmentation by what is pre-trained, mean intersection over union in %",
        ("imagenet", "voc12-seg", "camvid-seg"),
        Table(
            (
                Column("mean IoU", "voc12-seg", instead="camvid-seg"),
                Column("mean IoU of the 7 complete classes", "voc12-seg", "complete"),
            ),
            (
                Row(RANDOM, "random"),
                Row(HE, "random-he"),
                Row(
                    "encoder pre-trained, rest He", "encoder-only+new-he"
                ),  # as the row above, but for what is taken over
                Row("encoder and decoder, rest He", "new-he"),
            ),
            tuned=True,
        ),
    ),
    "fig5": Result(
        "feature maps of the 12th layer: images, then mean and strongest channel of the animal and the vehicle net",
        ("imagenet-animal", "imagenet-vehicle"),
        pretrainings=(Pretraining("imagenet-animal"), Pretraining("imagenet-vehicle")),
    ),
    "fig6": Result(
        "feature maps of the animal net on clean and corrupted images",
        ("imagenet-animal",),
        pretrainings=(Pretraining("imagenet-animal"),),
    ),
    "suppC": Result(
        "optimizers, weight decay and a Wide-ResNet on CIFAR-100",
        ("cifar100",),
        Table(
            (
                Column("PSNR at sigma 30, dB", "cifar100", "psnr"),
                Column("root mean square of the kernels x 1000", "cifar100", "kernels"),
                Column("accuracy, %", "cifar100"),
            ),
            (
                Row("ADAM"),
                Row("SGD with momentum", "sgd", tuned=True),  # whose rate has no default that is as good as ADAM's
                Row("ADAM, then SGD in fine-tuning", "sgd-finetune", tuned=True),
                Row("ADAM, weight decay in both phases", "decay"),
                Row("ADAM, weight decay in fine-tuning only", "decay-finetune"),
                Row(RANDOM, "random", without=("psnr", "kernels")),
                Row(f"{RANDOM}, weight decay", "random+decay", without=("psnr", "kernels")),
                Row(HE, "random-he", without=("psnr", "kernels")),
                Row(f"{HE}, weight decay", "random-he+decay", without=("psnr", "kernels")),
                Row("Wide-ResNet encoder, ADAM", "wide-resnet", without=("value",)),
                Row("Wide-ResNet encoder, SGD with momentum", "wide-resnet+sgd", without=("value",), tuned=True),
                Row("Wide-ResNet encoder, ADAM, weight decay", "wide-resnet+decay", without=("value",)),
            ),
        ),
    ),
    "suppD": Result(
        "better reconstruction, better accuracy? And the supplement's reconstructions",
        ("cifar10-4k", "imagenet", "stl10"),
        Table(
            (Column("PSNR, dB", "cifar10-4k", "psnr"), Column("accuracy, %", "cifar10-4k")),
            (
                Row(SKIP),
                Row("half as long", "half"),
                Row("a quarter", "quarter"),
                Row("an eighth", "eighth"),
                Row(PLAIN, "no-shortcut"),
            ),
        ),
        pretrainings=(Pretraining("imagenet"), Pretraining("stl10")),
    ),
}
