"""Execution providers of ONNX Runtime, one row each, with the options that skipae needs.

A provider without a row also works, by its own name in lower case (``dnnl`` for ``DnnlExecutionProvider``) and with
its default options: the check of :func:`skipae.engine.device.check_device` decides, not this table.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

Settings = Mapping[str, str]


def _nothing(_index: int, _threads: int) -> Settings:
    return {}


def _numbered(index: int, _threads: int) -> Settings:
    return {"device_id": str(index)}


def _cuda(index: int, _threads: int) -> Settings:
    return {
        "device_id": str(index),
        "cudnn_conv_algo_search": "HEURISTIC",  # the default searches for seconds at every new shape
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",  # agreement with the CPU, and between tiled and whole images, to 1e-4
    }


def _tensorrt(index: int, _threads: int) -> Settings:
    # One engine for tiles of all sizes; without a profile, each new size rebuilds it, which takes a minute.
    return {
        "device_id": str(index),
        "trt_profile_min_shapes": "pixel_values:1x3x1x1",
        "trt_profile_opt_shapes": "pixel_values:1x3x768x768",
        "trt_profile_max_shapes": "pixel_values:16x3x2048x2048",
    }


def _openvino(_index: int, threads: int) -> Settings:
    # By default OpenVINO computes in bfloat16 if the processor supports it, with errors of 1e-2.
    precision = json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": "f32"}})
    return {"device_type": "CPU", "load_config": precision, "num_of_threads": str(threads)}


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider."""

    kind: str
    """Its name as a device."""
    name: str
    """Its name in ONNX Runtime."""
    extra: str = ""
    """The extra of skipae that installs it."""
    package: str = ""
    """The build of ONNX Runtime that includes it, if no extra does."""
    settings: Callable[[int, int], Settings] = _nothing
    """Options by the number of the device and the threads."""
    half: Settings = field(default_factory=dict)
    """Further options for float16; empty if it is not supported."""
    numbered: bool = False
    """True if ``kind:1`` is a second device."""
    plugin: str = ""
    """Module of the package that adds it to ONNX Runtime as a plugin."""


PROVIDERS = {
    provider.kind: provider
    for provider in (
        Provider("cpu", "CPUExecutionProvider", "cpu"),
        Provider("cuda", "CUDAExecutionProvider", "gpu", settings=_cuda, numbered=True),
        Provider("openvino", "OpenVINOExecutionProvider", "openvino", settings=_openvino),
        Provider(
            "tensorrt",
            "TensorrtExecutionProvider",
            "gpu",
            settings=_tensorrt,
            half={"trt_fp16_enable": "1"},
            numbered=True,
        ),
        Provider(
            "migraphx",
            "MIGraphXExecutionProvider",
            package="onnxruntime-migraphx",
            settings=_numbered,
            half={"migraphx_fp16_enable": "1"},
            numbered=True,
        ),
        Provider("directml", "DmlExecutionProvider", "directml", settings=_numbered, numbered=True),
        Provider("coreml", "CoreMLExecutionProvider", "cpu", settings=lambda *_: {"ModelFormat": "MLProgram"}),
        Provider("qnn", "QNNExecutionProvider", package="onnxruntime-qnn", settings=lambda *_: {"backend_type": "gpu"}),
        Provider("webgpu", "WebGpuExecutionProvider", "webgpu", plugin="onnxruntime_ep_webgpu"),
    )
}
"""The providers by kind."""

ELSEWHERE = ("azure",)
"""Kinds of providers that send images to another machine."""

_registered: set[str] = set()


def available_kinds(runtime: Any) -> list[str]:
    """Return the kinds of the providers that the installed ONNX Runtime lists, and of the installed plugins."""
    listed = [kind for name in runtime.get_available_providers() if (kind := short_name(name)) not in ELSEWHERE]
    plugins = [row.kind for row in PROVIDERS.values() if row.plugin and find_spec(row.plugin)]
    return [*listed, *(kind for kind in plugins if kind not in listed)]


def find_provider(kind: str, listed: Iterable[str]) -> Provider:
    """Return the provider of a kind: its row, or one that ONNX Runtime ``listed``, with default options."""
    if kind in PROVIDERS:
        return PROVIDERS[kind]
    return Provider(kind, next((name for name in listed if short_name(name) == kind), kind))


def short_name(name: str) -> str:
    """Return the kind of a provider of ONNX Runtime: that of its row, or its name in lower case."""
    return next((row.kind for row in PROVIDERS.values() if row.name == name), name.removesuffix(_SUFFIX).lower())


_SUFFIX = "ExecutionProvider"


def add_plugin(runtime: Any, provider: Provider) -> list[Any]:
    """Load the library of a plugin once, and return its devices.

    Raises:
        ImportError: the plugin's package is not installed, or ONNX Runtime does not support plugins.
    """
    module = importlib.import_module(provider.plugin)
    if not hasattr(runtime, "register_execution_provider_library"):
        raise ImportError(
            f"onnxruntime {runtime.__version__} does not support plugins; update it", name=provider.plugin
        )
    if provider.kind not in _registered:
        runtime.register_execution_provider_library(provider.kind, module.get_library_path())
        _registered.add(provider.kind)
    return [device for device in runtime.get_ep_devices() if device.ep_name == module.get_ep_name()][:1]
