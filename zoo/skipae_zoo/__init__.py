"""What a skipae checkpoint is: architectures, ``config.json`` and the named checkpoints.  Standard library only."""

from skipae_zoo.architecture import Architecture, ArchitectureError, Layer, network_1, network_2, network_3
from skipae_zoo.checkpoints import CHECKPOINTS, DEFAULTS, NamedCheckpoint, Published, find_checkpoint
from skipae_zoo.config import (
    CheckpointConfig,
    ConfigError,
    Head,
    HeadKind,
    Preprocessing,
    Scores,
    Task,
    read_config,
    sha256,
    verified_file,
    write_config,
)

__all__ = [
    "CHECKPOINTS",
    "DEFAULTS",
    "Architecture",
    "ArchitectureError",
    "CheckpointConfig",
    "ConfigError",
    "Head",
    "HeadKind",
    "Layer",
    "NamedCheckpoint",
    "Preprocessing",
    "Published",
    "Scores",
    "Task",
    "find_checkpoint",
    "network_1",
    "network_2",
    "network_3",
    "read_config",
    "sha256",
    "verified_file",
    "write_config",
]
