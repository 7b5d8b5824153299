"""What a skipae checkpoint is: architectures, ``config.json`` and the named checkpoints.  Standard library only."""

from skipae_zoo.architecture import MAX_LAYERS, Architecture, ArchitectureError, Layer, network_1, network_2, network_3
from skipae_zoo.checkpoints import CHECKPOINTS, DEFAULTS, NamedCheckpoint, Published, find_checkpoint
from skipae_zoo.config import (
    INPUT,
    OUTPUT,
    QUANTIZED,
    CheckpointConfig,
    ConfigError,
    Head,
    HeadKind,
    Preprocessing,
    Scores,
    Task,
    read_config,
    verified_file,
    write_config,
)
from skipae_zoo.files import MAX_TEXT, open_regular, read_text_file, sha256
from skipae_zoo.text import UNSAFE, flaw_of_name, shown

__all__ = [
    "CHECKPOINTS",
    "DEFAULTS",
    "INPUT",
    "MAX_LAYERS",
    "MAX_TEXT",
    "OUTPUT",
    "QUANTIZED",
    "UNSAFE",
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
    "flaw_of_name",
    "network_1",
    "network_2",
    "network_3",
    "open_regular",
    "read_config",
    "read_text_file",
    "sha256",
    "shown",
    "verified_file",
    "write_config",
]
