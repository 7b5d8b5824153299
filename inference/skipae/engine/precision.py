"""Choose the precision: float32, int8 on processors that are faster with it, float16 on some GPUs."""

from __future__ import annotations

import platform
import re
import sys
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from skipae.engine.providers import PROVIDERS
from skipae.errors import DeviceError, UsageError
from skipae_zoo import FEATURES, GRAPH, QUANTIZED, QUANTIZED_FEATURES, CheckpointConfig

Precision = Literal["fp32", "int8", "fp16"]
"""Precision of a computation."""

Choice = Literal["auto", "fp32", "int8", "fp16"]
"""Precision that a user may request."""

DOT_PRODUCTS = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "asimddp": "ARM dot product",
}
"""Flags of Linux for instructions that multiply and add bytes."""


INT8_DEVICES = ("cpu", "openvino")
"""Kinds of devices on which ``auto`` uses int8 if the processor is faster with it."""


class Chosen(NamedTuple):
    """A precision, and the reason for it."""

    precision: Precision
    why: str


def check_precision(asked: str) -> None:
    """Raise :class:`UsageError` for a value that is not a :data:`Choice`."""
    if asked not in get_args(Choice):
        raise UsageError(f"precision must be one of {', '.join(get_args(Choice))}, not {asked!r}")


def choose_precision(asked: str, kind: str, config: CheckpointConfig) -> Chosen:
    """Choose the precision.

    Args:
        asked: ``auto``, ``fp32``, ``int8`` or ``fp16``.
        kind: kind of the device.
        config: configuration of the checkpoint.

    Raises:
        DeviceError: the checkpoint has no int8 graph, or the device does not support float16.
    """
    has_int8 = QUANTIZED in config.files
    if asked == "int8" and not (has_int8 or QUANTIZED_FEATURES in config.files):
        raise _lacks_int8(config, "graph")
    if asked in ("fp32", "fp16") and has_int8 and GRAPH not in config.files:
        raise DeviceError(
            "{model!s} has no float32 graph here: use {precision}, or its folder in the repository of skipae",
            model=config.name,
            precision="int8",
        )
    if asked == "fp16" and not (kind in PROVIDERS and PROVIDERS[kind].half):
        able = ", ".join(row.kind for row in PROVIDERS.values() if row.half)
        raise DeviceError(
            "device {device!s} does not compute in fp16 here: use {precision}, or the device {able!s}",
            device=kind,
            precision="fp32",
            able=able,
        )
    if asked != "auto":
        return Chosen(cast(Precision, asked), "as requested")
    if has_int8 and GRAPH not in config.files:
        return Chosen("int8", f"{config.name} has no float32 graph")
    if kind not in INT8_DEVICES:
        return Chosen("fp32", f"int8 is for the devices {' and '.join(INT8_DEVICES)}, not {kind}")
    if not has_int8:
        return Chosen("fp32", f"{config.name} has no int8 graph")
    found = dot_product()
    if found is None:
        return Chosen("fp32", "the processor has no int8 dot product (AVX-512 VNNI, AVX-VNNI, ARM dot product)")
    return Chosen("int8", f"the processor has {found}")


def task_file(precision: Precision, config: CheckpointConfig) -> str:
    """Return the graph of the checkpoint's task in this precision.

    Raises:
        DeviceError: the checkpoint has int8 only for features.
    """
    if precision == "int8" and QUANTIZED not in config.files:
        raise _lacks_int8(config, "graph for its task")
    return QUANTIZED if precision == "int8" else GRAPH


def features_file(asked: str, config: CheckpointConfig) -> str:
    """Return the features graph: int8 only if requested, so that all machines give the same features by default.

    Args:
        asked: ``auto``, ``fp32``, ``int8`` or ``fp16``.
        config: configuration of the checkpoint.

    Raises:
        DeviceError: int8 was requested, and the checkpoint has no int8 features.
    """
    if asked == "int8" and QUANTIZED_FEATURES not in config.files:
        raise _lacks_int8(config, "features")
    return QUANTIZED_FEATURES if asked == "int8" else FEATURES


def _lacks_int8(config: CheckpointConfig, what: str) -> DeviceError:
    return DeviceError(
        "{model!s} has no int8 {what!s}: use {precision}, or add it with "
        "'skipae-train quantize CHECKPOINT --photos DIR'",
        model=config.name,
        what=what,
        precision="fp32",
    )


@cache
def dot_product(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """Return the instructions of this processor that make int8 fast; None if it has none or does not report them.

    Without them, on AVX2, int8 is hardly faster, and sums of two products saturate.
    """
    if sys.platform == "linux":
        try:
            flags = set(re.findall(r"^(?:flags|Features)\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE)[0].split())
        except (OSError, IndexError):
            flags = set()
        return next((name for flag, name in DOT_PRODUCTS.items() if flag in flags), None)
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return DOT_PRODUCTS["asimddp"]  # all of Apple's have it
    try:
        from numpy._core._multiarray_umath import __cpu_features__ as features  # type: ignore[import-not-found]
    except ImportError:
        return None
    if features.get("AVX512VNNI"):
        return DOT_PRODUCTS["avx512_vnni"]
    return DOT_PRODUCTS["asimddp"] if features.get("ASIMDDP") else None
