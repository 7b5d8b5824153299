"""The named checkpoints of the zoo: the purpose of each, and the recipe that trains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skipae_zoo.config import Task

OWNER = "skipae"
"""Organization on the Hub that holds the named checkpoints."""


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint's repository on the Hub, as pinned by this release; ``skipae-train publish`` prints it."""

    revision: str
    """Commit sha."""
    config: str
    """sha256 of its ``config.json``, which in turn lists the sha256 of each weight file."""
    size: int
    """Bytes of the ONNX files."""
    license: str
    """License of the weights, as the card states it."""


@dataclass(frozen=True, slots=True)
class NamedCheckpoint:
    """An entry of the zoo."""

    name: str
    task: Task
    summary: str
    recipe: str
    """Name of the ``skipae-train`` recipe that trains it."""
    base_model: str | None = None
    """The auto-encoder it was fine-tuned from."""
    published: Published | None = None
    """None until weights are on the Hub."""

    @property
    def repo(self) -> str:
        """Its repository on the Hub."""
        return f"{OWNER}/{self.name}"

    @property
    def command(self) -> str:
        """The command that trains it."""
        return f"skipae-train {'pretrain' if self.task == 'restoration' else 'finetune'} {self.recipe}"


CHECKPOINTS: tuple[NamedCheckpoint, ...] = (
    NamedCheckpoint("skipae-natural", "restoration", "removes noise from photos and fills holes", "natural-deep"),
    NamedCheckpoint(
        "skipae-imagenet", "restoration", "auto-encoder (Network-3) for features of natural images", "imagenet"
    ),
    NamedCheckpoint(
        "skipae-imagenet-animal", "restoration", "auto-encoder trained on mammals and birds", "imagenet-animal"
    ),
    NamedCheckpoint(
        "skipae-imagenet-vehicle", "restoration", "auto-encoder trained on conveyances", "imagenet-vehicle"
    ),
    NamedCheckpoint("skipae-cifar10", "classification", "CIFAR-10 classifier (Network-1)", "cifar10"),
    NamedCheckpoint("skipae-cifar100", "classification", "CIFAR-100 classifier (Network-1)", "cifar100"),
    NamedCheckpoint(
        "skipae-cifar10-4k", "classification", "CIFAR-10 classifier (Network-2) from 4,000 labels", "cifar10-4k"
    ),
    NamedCheckpoint("skipae-stl10", "classification", "STL-10 classifier (Network-1)", "stl10"),
    NamedCheckpoint(
        "skipae-voc07-cls",
        "classification",
        "bus, car, cat, person, train in photos, VOC 2007 (Network-3)",
        "voc07-cls",
        "skipae-imagenet",
    ),
    NamedCheckpoint(
        "skipae-voc12-seg",
        "segmentation",
        "animals and people in photos, VOC 2012 classes (Network-3)",
        "voc12-seg",
        "skipae-imagenet",
    ),
    NamedCheckpoint(
        "skipae-camvid-seg", "segmentation", "CamVid segmentation (Network-3)", "camvid-seg", "skipae-imagenet"
    ),
)


DEFAULTS: dict[Task | Literal["features"], str] = {
    "features": "skipae-imagenet",
    "restoration": "skipae-natural",
    "classification": "skipae-voc07-cls",
    "segmentation": "skipae-voc12-seg",
}
"""Default checkpoint of each task and of features; its weights are bundled with skipae."""


def find_checkpoint(name: str) -> NamedCheckpoint | None:
    """Return the entry with this name, or None."""
    return next((entry for entry in CHECKPOINTS if entry.name == name), None)
