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
from skipae_zoo import QUANTIZED, CheckpointConfig

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
    if asked == "int8" and not has_int8:
        raise DeviceError(
            "{model!s} has no int8 graph: use {precision}, or add one with "
            "'skipae-train quantize CHECKPOINT --photos DIR'",
            model=config.name,
            precision="fp32",
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
    if kind != "cpu":
        return Chosen("fp32", f"int8 is for the device cpu, not {kind}")
    if not has_int8:
        return Chosen("fp32", f"{config.name} has no int8 graph")
    found = dot_product()
    if found is None:
        return Chosen("fp32", "the processor has no int8 dot product (AVX-512 VNNI, AVX-VNNI, ARM dot product)")
    return Chosen("int8", f"the processor has {found}")


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
