"""Training: networks, corruption, recipes, export, evaluation and cards of skipae checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skipae_train.networks import Network

__all__ = ["load"]


def load(name: str | os.PathLike[str]) -> Network:
    """Load the torch network of a checkpoint: an AutoEncoder, a Classifier or a Segmenter, in eval mode.

    Args:
        name: a checkpoint's name or folder.

    Raises:
        skipae.ModelError: the checkpoint is unavailable or damaged.
    """
    from skipae import ModelError
    from skipae.checkpoints.resolve import find_folder
    from skipae_train.networks import Network
    from skipae_zoo import ConfigError

    try:
        return Network.from_checkpoint(
            find_folder(name if isinstance(name, str) else Path(name), files="model.safetensors")
        )
    except ConfigError as error:
        raise ModelError(str(error)) from error
