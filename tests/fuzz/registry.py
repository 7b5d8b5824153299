"""All readers that are given changed files."""

from __future__ import annotations

import command_targets
import targets
import training_targets

TARGETS = targets.TARGETS | command_targets.TARGETS | training_targets.TARGETS

NEEDS = {"safetensors": "torch", "HEIC": "pillow_heif", **dict.fromkeys(training_targets.TARGETS, "torch")}
"""Modules that readers need and that may not be installed."""
