"""Device, precision and processes of a run."""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from torch import nn

from skipae.errors import DeviceError

TrainingPrecision = Literal["auto", "fp32", "bf16"]
NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out.

    Nothing here changes its result, except for rounding, and on photos for what is drawn for each of several parts of
    a batch (noise, flips, pairs).
    """

    precision: TrainingPrecision = "auto"
    device: str | None = None
    """``cpu``, ``cuda``, or None for what accelerate finds."""
    accumulate: int = 1
    """Parts that each process cuts its share of a batch into, for less memory.  Batch norm sees the parts."""
    threads: int | None = None
    """CPU threads of torch; None leaves them as they are."""
    save_minutes: float = 5.0
    validate_every: int | None = None
    """Steps between measurements; None leaves it to the task."""
    stop_at: int | None = None
    """Stop at this step, with the state saved."""
    quiet: bool = False
    title: str = ""
    """What the progress bar is called; the name of the recipe where it is empty."""

    def machine(self, precision: str | None = None) -> Machine:
        """Return the device or devices, with the precision of these options unless another is given.

        :class:`skipae.DeviceError` where ``cuda`` is not available.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise DeviceError(
                f"device cuda: torch {torch.__version__} finds no usable GPU; check that nvidia-smi lists "
                "one and that torch is built for CUDA, or use --device cpu"
            )
        if self.threads:
            torch.set_num_threads(self.threads)
        if self.precision != "auto" or precision is None:
            precision = choose_training_precision(self.precision, self.device)
        ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
        accelerator = Accelerator(cpu=self.device == "cpu", kwargs_handlers=[ddp])
        return Machine(accelerator, broadcast_object_list([precision])[0])  # for all what the first process found


@dataclass(frozen=True)
class Machine:
    """The device that a run computes on."""

    accelerator: Accelerator
    precision: str
    """``fp32`` or ``bf16``."""

    @property
    def device(self) -> torch.device:
        """This process's device."""
        device: torch.device = self.accelerator.device
        return device

    def autocast(self) -> torch.autocast:
        """Return the precision, for a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def channels_last(network: NetworkT, device: torch.device | None = None) -> NetworkT:
    """Store the weights as [out, H, W, in], faster for convolutions, and move them to ``device`` if it is given."""
    to: Callable[..., Any] = network.to  # not every version of torch declares memory_format
    to(device=device, memory_format=torch.channels_last)
    return network


@functools.cache
def choose_training_precision(precision: TrainingPrecision, device: str | None) -> Literal["fp32", "bf16"]:
    """Return the precision; ``auto`` is what the device does faster in one try, other work on the cores not counted."""
    if precision != "auto":
        return precision
    if device != "cpu" and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    conv = channels_last(nn.Conv2d(64, 64, 3, padding=1))
    image = torch.zeros(4, 64, 48, 48).to(memory_format=torch.channels_last)

    def seconds(bf16: bool) -> float:
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            conv(image).float().sum().backward()
        return time.process_time() - start

    fp32, bf16 = zip(*((seconds(False), seconds(True)) for _ in range(5)), strict=True)
    return "bf16" if min(bf16) < min(fp32) else "fp32"


def hardware(accelerator: Accelerator) -> str:
    """Return the processor or GPU, and how many of them."""
    if accelerator.device.type == "cuda":
        return f"{accelerator.num_processes} x {torch.cuda.get_device_name()}"
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    processes = f"{accelerator.num_processes} processes of " if accelerator.num_processes > 1 else ""
    return f"{name}, {processes}{torch.get_num_threads()} threads"
