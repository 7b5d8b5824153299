"""Devices: never a silent CPU run.  The GPU's side is played by a fake runtime."""

from __future__ import annotations

import builtins
import importlib.machinery
import json
import logging
import math
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from conftest import tiny_graph
from skipae import DeviceError, UsageError, from_pretrained
from skipae.console import Console
from skipae.engine import device as runtime
from skipae.engine.device import Device, available_threads, choose_device
from skipae.engine.providers import PROVIDERS


def smoke_model() -> bytes:
    weights = [
        numpy_helper.from_array(np.ones((1, 3, 3, 3), np.float32), "w"),
        numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "v"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["h", "v"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "smoke",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 7, 7])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name="")
    return bytes(model.SerializeToString(deterministic=True))


def test_smoke_model_is_what_it_says_and_runs() -> None:
    import onnxruntime

    assert onnx.load_from_string(runtime.SMOKE_MODEL) == onnx.load_from_string(smoke_model())
    session = runtime.create_session(onnxruntime, runtime.SMOKE_MODEL, Device("cpu"))
    assert session.run(None, {"x": np.ones((1, 3, 8, 8), np.float32)})[0].shape == (1, 1, 7, 7)


class FakeSession:
    """What the fake runtime makes."""

    def __init__(self, owner: FakeRuntime, options: Any, providers: list[Any]) -> None:
        self.owner, self.options, self.providers = owner, options, providers
        owner.sessions.append(self)

    def get_providers(self) -> list[str]:
        names = [provider if isinstance(provider, str) else provider[0] for provider in self.providers]
        if not self.owner.loads:
            names = [name for name in names if name == "CPUExecutionProvider"] or ["CPUExecutionProvider"]
        return names

    def run(self, _: None, feed: dict[str, Any], options: Any = None) -> list[Any]:
        if self.owner.run_error is not None:
            raise self.owner.run_error
        ((name, value),) = feed.items()
        if name == "x":
            return [runtime.smoke_result(np.vectorize(self.owner.rounded)(value)) * self.owner.factor]
        largest = max(value.shape[-2:])
        if self.owner.most is not None and largest > self.owner.most:
            raise RuntimeError("CUDA failure 2: out of memory")
        self.owner.sizes.append(largest)
        return [value]

    def get_outputs(self) -> list[Any]:
        return [types.SimpleNamespace(name="reconstruction")]

    def io_binding(self) -> FakeBinding:
        self.owner.bindings.append(FakeBinding())
        return self.owner.bindings[-1]

    def run_with_iobinding(self, binding: FakeBinding, options: Any) -> None:
        binding.outputs = self.run(None, {"pixel_values": binding.image.value})


class FakeBinding:
    """Buffers on the fake GPU."""

    image: FakeValue
    outputs: list[Any]

    def bind_ortvalue_input(self, name: str, value: FakeValue) -> None:
        assert name == "pixel_values"
        self.image = value

    def bind_output(self, name: str, device: str, index: int) -> None:
        assert (name, device, index) == ("reconstruction", "cuda", self.image.index)

    def synchronize_inputs(self) -> None:
        pass

    synchronize_outputs = synchronize_inputs

    def copy_outputs_to_cpu(self) -> list[Any]:
        return [value.copy() for value in self.outputs]


class FakeValue:
    """An array on the fake GPU."""

    def __init__(self, shape: list[int], dtype: type, index: int) -> None:
        self.value: NDArray[Any] = np.empty(shape, dtype)
        self.index = index

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape: list[int], dtype: type, device: str, index: int) -> FakeValue:
        assert device == "cuda"
        return cls(shape, dtype, index)

    def update_inplace(self, array: Any) -> None:
        assert array.shape == self.value.shape and array.flags.c_contiguous
        self.value[...] = array


class FakeOptions:
    """Session options."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


class FakeRuntime(types.ModuleType):
    """An onnxruntime whose GPU does what a test wants."""

    SessionOptions = FakeOptions
    RunOptions = FakeOptions
    OrtValue = FakeValue

    def __init__(self, providers: list[str], folder: Path) -> None:
        super().__init__("onnxruntime")
        self.__version__ = "9.9"
        self.__file__ = str(folder / "onnxruntime" / "__init__.py")
        self.names = providers
        self.loads = True
        self.run_error: Exception | None = None
        self.sessions: list[FakeSession] = []
        self.bindings: list[FakeBinding] = []
        self.rounded: Callable[[float], float] = float
        self.factor: Any = 1.0
        self.missing = ""
        self.most: int | None = None
        self.sizes: list[int] = []

    def get_available_providers(self) -> list[str]:
        return self.names

    def set_default_logger_severity(self, level: int) -> None:
        pass

    def preload_dlls(self) -> None:
        sys.stdout.write("noise of the libraries\n" + self.missing)

    def InferenceSession(self, model: Any, options: Any, providers: list[Any], **_: Any) -> FakeSession:
        return FakeSession(self, options, providers)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRuntime:
    fake = FakeRuntime(["CUDAExecutionProvider", "CPUExecutionProvider"], tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return fake


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRuntime:
    fake = FakeRuntime(["CPUExecutionProvider"], tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return fake


def test_a_gpu_that_works(
    gpu: FakeRuntime, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "skipae")
    assert choose_device("cuda:1") == Device("cuda", 1, available_threads())
    (check,) = gpu.sessions
    assert check.options.entries["session.disable_cpu_ep_fallback"] == "1"
    name, settings = check.providers[0]
    assert name == "CUDAExecutionProvider" and len(check.providers) == 1
    assert settings["device_id"] == "1" and settings["cudnn_conv_algo_search"] == "HEURISTIC"
    lines: list[str] = []
    assert choose_device("auto", 2, lines.append).kind == "cuda"
    assert lines == []  # as expected
    assert caplog.messages == ["device: cuda:1", "device: cuda:0: it runs the check"]
    assert capsys.readouterr() == ("", "")


def test_a_gpu_whose_libraries_do_not_load(gpu: FakeRuntime) -> None:
    gpu.loads = False
    with pytest.raises(DeviceError, match=r"cuda:0 cannot run .*: its libraries .* or use the device cpu"):
        choose_device("cuda")
    lines: list[str] = []
    assert choose_device("auto", 2, lines.append) == Device("cpu", 0, 2)
    assert len(lines) == 1 and lines[0].startswith("device: cpu (2 threads): cuda:0 cannot run a convolution")
    gpu.missing = "Failed to load /a/libcublas.so.13: no such file\nFailed to load libcurand.so.10: none\n"
    with pytest.raises(DeviceError, match=r": libcublas\.so\.13, libcurand\.so\.10 cannot be loaded; check nvidia-smi"):
        choose_device("cuda")


def test_a_gpu_that_does_not_compute_in_float32(gpu: FakeRuntime) -> None:
    gpu.rounded = lambda value: float(np.float16(value))
    with pytest.raises(DeviceError, match=r"the result is off by 0\.0004, so it does not compute in float32"):
        choose_device("cuda")


def test_smoke_value_shows_short_formats() -> None:
    for bits in (7, 10):  # after the point: bfloat16; float16 and TF32
        assert math.floor(runtime.SMOKE_VALUE * 2**bits + 0.5) == 2**bits
    assert np.float32(runtime.SMOKE_VALUE) == runtime.SMOKE_VALUE


def test_a_gpu_that_fails_to_run(gpu: FakeRuntime) -> None:
    gpu.run_error = RuntimeError("CUDA failure 35: CUDA driver version is insufficient\nmore lines")
    with pytest.raises(DeviceError, match="the NVIDIA driver is too old") as caught:
        choose_device("cuda")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3


def test_auto_in_a_library_warns_by_the_log(gpu: FakeRuntime, caplog: pytest.LogCaptureFixture) -> None:
    gpu.loads = False
    choose_device("auto")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_no_cuda_in_the_runtime(
    cpu: FakeRuntime, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeviceError, match=r"device cuda is not in the installed onnxruntime 9\.9: .*\[gpu\]"):
        choose_device("cuda")
    with pytest.raises(DeviceError, match="device openvino is not in"):
        choose_device("openvino")
    with monkeypatch.context() as patch, pytest.raises(DeviceError, match=r"device gpu is not in .*, which has cpu"):
        patch.setattr(runtime, "installed_runtimes", lambda _: ["onnxruntime", "onnxruntime-gpu"])
        choose_device("gpu")
    lines: list[str] = []
    caplog.set_level(logging.INFO, "skipae")
    assert choose_device("auto", 1, lines.append) == Device("cpu", 0, 1)
    assert lines == []  # as expected
    assert caplog.messages == ["device: cpu (1 thread): this onnxruntime has neither CUDA nor OpenVINO"]


def test_two_runtimes(cpu: FakeRuntime, tmp_path: Path) -> None:
    for name in ("onnxruntime-1.30.0", "onnxruntime_gpu-1.30.0", "onnxruntime_genai-0.9"):
        (tmp_path / f"{name}.dist-info").mkdir()
        module = "onnxruntime_genai" if "genai" in name else "onnxruntime"
        (tmp_path / f"{name}.dist-info" / "RECORD").write_text(f"{module}/__init__.py,sha256=x,1\n")
    with pytest.raises(DeviceError, match=r"onnxruntime and onnxruntime-gpu are installed together .*uninstall -y"):
        choose_device("cuda")
    lines: list[str] = []
    choose_device("auto", 1, lines.append)
    assert len(lines) == 1 and "onnxruntime and onnxruntime-gpu are installed together" in lines[0]


def test_no_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for device in ("auto", "cuda"):
        with pytest.raises(DeviceError, match=r'pip install ".*\[cpu\]"'):
            choose_device(device)
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(DeviceError, match="broken: pip uninstall"):
        choose_device("auto")


def test_openvino(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path) -> None:
    fake = FakeRuntime(["OpenVINOExecutionProvider", "CPUExecutionProvider"], tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    model = from_pretrained(checkpoint, device="openvino", threads=3)
    assert model.device == Device("openvino", 0, 3)
    name, settings = fake.sessions[0].providers[0]
    assert name == "OpenVINOExecutionProvider" and settings["num_of_threads"] == "3"
    assert json.loads(settings["load_config"]) == {"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}
    lines: list[str] = []
    assert choose_device("auto", 3, lines.append) == Device("openvino", 0, 3)
    assert lines == []  # as expected
    fake.loads = False
    with pytest.raises(DeviceError, match=r"openvino .* cannot run .*\[openvino\]"):
        from_pretrained(checkpoint, device="openvino")
    assert choose_device("auto", 3, lines.append) == Device("cpu", 0, 3)
    monkeypatch.setattr(runtime, "check_device", lambda device: None)
    with pytest.raises(DeviceError, match="cannot run"):
        from_pretrained(checkpoint, device="openvino")


@pytest.mark.parametrize(("spinning", "entry"), [(True, "1"), (False, "0")])
def test_spinning_reaches_the_sessions(
    spinning: bool, entry: str, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    monkeypatch.setattr(runtime, "SPINNING", spinning)
    model = from_pretrained(checkpoint, device="cpu")
    for session in (model.net.graph, model.net.encoder((model.layers[0].name,))):
        options = session.open().get_session_options()
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == entry


@pytest.mark.parametrize("kind", ["openvino", "cuda"])
def test_a_real_device_gives_the_results_of_the_cpu(kind: str) -> None:
    import onnxruntime

    if PROVIDERS[kind].name not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {kind}")
    try:
        device = from_pretrained(device=kind, precision="fp32")
    except DeviceError as error:
        pytest.skip(str(error))
    cpu, random = from_pretrained(device="cpu", precision="fp32"), np.random.default_rng(0)
    for shape in ((61, 75), (64, 64, 3), (301, 333, 3)):
        image = np.clip(0.5 + random.normal(0, 0.1, shape), 0, 1).astype(np.float32)
        expected = cpu.denoise(image)
        for tile in (None, 256):
            assert np.abs(device.denoise(image, tile=tile) - expected).max() <= 1e-5
    device.trim()
    assert np.abs(device.denoise(image) - expected).max() <= 1e-5


def test_a_real_device_loses_no_more_by_int8_than_the_cpu() -> None:
    import onnxruntime

    if PROVIDERS["openvino"].name not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no openvino")
    device, cpu, exact = (
        from_pretrained(device=kind, precision=precision)
        for kind, precision in (("openvino", "int8"), ("cpu", "int8"), ("openvino", "fp32"))
    )
    y, x = np.mgrid[0:301, 0:333] / 100
    smooth = np.stack([128 + 90 * np.sin(3 * x * (1 + k) + y) for k in range(3)], -1)
    noise = np.random.default_rng(0).normal(0, 25, smooth.shape)
    noisy = np.clip(np.rint(smooth + noise), 0, 255).astype(np.uint8)
    expected = cpu.denoise(noisy)
    for tile in (None, 256):
        found = device.denoise(noisy, tile=tile)
        assert not np.array_equal(found, exact.denoise(noisy))  # it is not float32 under another name
        assert np.abs(found.astype(int) - expected).max() <= 3
        lost = np.log10(np.mean((found - smooth) ** 2) / np.mean((expected - smooth) ** 2)) * 10
        assert abs(lost) <= 0.01  # dB
    found, expected = (
        from_pretrained("skipae-voc12-seg", device=kind, precision="int8").segment(noisy)
        for kind in ("openvino", "cpu")
    )
    assert (found == expected).mean() >= 0.99
    vector, other = (
        from_pretrained("skipae-imagenet", device=kind, precision="int8").features(noisy)["enc8"][0]
        for kind in ("openvino", "cpu")
    )
    assert vector @ other / np.sqrt(vector @ vector * (other @ other)) >= 0.9999


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRuntime:
    names = ["TensorrtExecutionProvider", "DmlExecutionProvider", "DnnlExecutionProvider", "CPUExecutionProvider"]
    fake = FakeRuntime(names, tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    return fake


def test_any_provider_of_the_runtime_by_its_name(many: FakeRuntime, checkpoint: Path) -> None:
    assert choose_device("directml:1", 2) == Device("directml", 1, 2)
    assert many.sessions[-1].providers == [("DmlExecutionProvider", {"device_id": "1"})]  # nothing on the CPU instead
    model = from_pretrained(checkpoint, device="dnnl", threads=1)  # has no row
    assert many.sessions[-1].providers == [("DnnlExecutionProvider", {}), "CPUExecutionProvider"]
    assert str(model.device) == "dnnl" and str(Device("tensorrt", 1)) == "tensorrt:1"
    assert model.denoise(np.zeros((8, 8), np.uint8)).shape == (8, 8)
    model.net.trim()
    assert choose_device("auto", 1) == Device("cpu", 0, 1)  # takes none of them by itself


@pytest.mark.parametrize("device", ["directml", "dnnl"])
def test_a_provider_that_computes_wrong_values_is_refused(many: FakeRuntime, device: str) -> None:
    many.factor = np.where(np.arange(49).reshape(7, 7) == 48, 1.01, 1)  # in a corner alone
    with pytest.raises(DeviceError, match=rf"^{device}\b.* off by 0\.01, .*use the device cpu$") as caught:
        choose_device(device)
    assert caught.value.exit_code == 3


def test_a_provider_that_the_runtime_does_not_have(many: FakeRuntime) -> None:
    with pytest.raises(DeviceError, match=r"device npu is not in .* which has tensorrt, directml, dnnl, cpu; use one"):
        choose_device("npu")
    with pytest.raises(DeviceError, match=r"device migraphx is not in .*uninstall.* pip install onnxruntime-migraphx"):
        choose_device("migraphx")
    with pytest.raises(DeviceError, match=r"device webgpu is not in .*: pip install \"[^\"]*\[webgpu\]\", or use"):
        choose_device("webgpu")


def test_a_plugin(cpu: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    registered, chosen = [], []
    plugin = types.ModuleType("onnxruntime_ep_webgpu")
    plugin.__spec__ = importlib.machinery.ModuleSpec("onnxruntime_ep_webgpu", None)
    plugin.get_library_path = lambda: "/lib/webgpu.so"  # type: ignore[attr-defined]
    plugin.get_ep_name = lambda: "WebGpuExecutionProvider"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", plugin)
    monkeypatch.setattr("skipae.engine.providers._registered", set())
    first, second = (types.SimpleNamespace(ep_name="WebGpuExecutionProvider") for _ in range(2))
    cpu.register_execution_provider_library = lambda *words: registered.append(words)  # type: ignore[attr-defined]
    cpu.get_ep_devices = lambda: [types.SimpleNamespace(ep_name="CPU"), first, second]  # type: ignore[attr-defined]

    def add(self: FakeOptions, devices: list[Any], settings: dict[str, str]) -> None:
        chosen.append((devices, settings))

    monkeypatch.setattr(FakeOptions, "add_provider_for_devices", add, raising=False)
    cpu.InferenceSession = lambda model, options, **_: FakeSession(  # type: ignore[method-assign]
        cpu, options, ["WebGpuExecutionProvider", "CPUExecutionProvider"]
    )
    for _ in range(2):
        assert choose_device("webgpu", 1) == Device("webgpu", 0, 1)
    assert registered == [("webgpu", "/lib/webgpu.so")]  # a second time is an error
    assert chosen == [([first], {})] * 2


def test_half_precision_is_checked_against_the_cpu(
    many: FakeRuntime, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = from_pretrained(checkpoint, device="tensorrt", precision="fp16")
    assert model.device.precision == "fp16"
    gpu, exact = many.sessions[-2:]
    assert gpu.providers[0][1]["trt_fp16_enable"] == "1" and exact.providers == ["CPUExecutionProvider"]
    run = FakeSession.run

    def wrong(self: FakeSession, *words: Any) -> list[Any]:
        return [value + 0.1 * (self.providers[0] != "CPUExecutionProvider") for value in run(self, *words)]

    monkeypatch.setattr(FakeSession, "run", wrong)
    monkeypatch.setattr(runtime, "check_device", lambda device: None)
    with pytest.raises(DeviceError, match=r"tensorrt:0 computes tiny in fp16 with an error of 0\.1, more than 0\.01"):
        from_pretrained(checkpoint, device="tensorrt", precision="fp16")
    with pytest.raises(DeviceError, match=r"device cpu does not compute in fp16 here: .* the device tensorrt"):
        from_pretrained(checkpoint, device="cpu", precision="fp16")


def test_windows_of_one_shape_keep_their_place_on_the_gpu(gpu: FakeRuntime, checkpoint: Path) -> None:
    model = from_pretrained(checkpoint, device="cuda:2")
    image = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
    assert np.array_equal(model.denoise(image, tile=32), image)
    assert len(gpu.sizes) > 4 and len(gpu.bindings) == 1
    model.denoise(image[:40], tile=32)
    assert len(gpu.bindings) == 2


def test_io_binding_of_the_real_runtime(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    import onnxruntime

    class Value:
        def ortvalue_from_shape_and_type(self, shape: list[int], dtype: type, device: str, index: int) -> Any:
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cpu", index)

    session = from_pretrained(checkpoint, device="cpu").net.graph
    made = session.open().io_binding()
    monkeypatch.setattr(
        type(made),
        "bind_output",
        lambda self, name, device, index, real=made.__class__.bind_output: real(self, name, "cpu", index),
    )
    stand_in = types.SimpleNamespace(OrtValue=Value(), RunOptions=onnxruntime.RunOptions)
    monkeypatch.setattr("skipae.engine.session.load_runtime", lambda: stand_in)
    images = np.random.default_rng(0).random((3, 1, 3, 9, 7), np.float32)
    expected = [session.run(image) for image in images]
    session.device = Device("cuda")  # the same calls, on the CPU's memory
    for image, result in zip(images, expected, strict=True):
        assert np.array_equal(session.run(image), result)
    assert session.run(images[0][..., :5]).shape == (1, 3, 9, 5)


def test_out_of_memory_continues_with_smaller_tiles(
    gpu: FakeRuntime, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = from_pretrained(checkpoint, device="cuda")
    gpu.most = 70
    image = np.random.default_rng(0).integers(0, 256, (100, 90), np.uint8)
    for _ in range(2):  # the second image starts with the smaller windows
        assert np.array_equal(model.denoise(image), image)
    assert max(gpu.sizes) <= 70
    assert 1 <= len(caplog.records) <= 3
    assert "cuda:0 is out of memory: continuing with tiles of" in caplog.text


def test_a_model_that_the_gpu_refuses(gpu: FakeRuntime, checkpoint: Path) -> None:
    model = from_pretrained(checkpoint, device="cuda")
    image = np.zeros((4, 4), np.uint8)
    gpu.run_error = RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")
    with pytest.raises(DeviceError, match="cuda:0 failed to run tiny"):
        model.denoise(image)
    gpu.run_error = RuntimeError("Failed to allocate memory for requested buffer of size 1")
    with pytest.raises(Exception, match="not enough memory for a tile"):
        model.denoise(image)


@pytest.mark.parametrize("device", ["cuda:", "cuda:x", "cpu:1", "CUDA", "", "coreml:1", "cuda:12345"])
def test_devices_that_do_not_exist(device: str) -> None:
    with pytest.raises(UsageError, match="device must be"):
        choose_device(device)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_out_of_range(threads: int) -> None:
    with pytest.raises(UsageError, match="threads must be at least 1"):
        choose_device("cpu", threads)


def test_telemetry_is_off_unless_asked_for(cpu: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr("builtins.__import__", _only_once(cpu, __import__))
    runtime.load_runtime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    runtime.load_runtime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


def _only_once(fake: FakeRuntime, real: Any) -> Any:
    return lambda name, *rest: fake if name == "onnxruntime" else real(name, *rest)


def test_threads_follow_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "cgroup_cores", lambda *_: math.inf)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert available_threads() == 3
    for quota, threads in ((2.5, 3), (1.5, 2), (0.2, 1)):
        monkeypatch.setattr(runtime, "cgroup_cores", lambda *_, quota=quota: quota)
        assert available_threads() == threads


def test_cgroup_quota(tmp_path: Path) -> None:
    membership, root = tmp_path / "cgroup", tmp_path / "sys"
    assert runtime.cgroup_cores(root, membership) == math.inf
    # Version 2: the least of the group and those above it.
    membership.write_text("0::/a/b\n")
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert runtime.cgroup_cores(root, membership) == math.inf
    (root / "a" / "cpu.max").write_text("150000 100000\n")
    assert runtime.cgroup_cores(root, membership) == 1.5
    # In a container, the group's name is the host's and the files are at the root.
    membership.write_text("0::/nowhere/here\n")
    (root / "cpu.max").write_text("300000 100000\n")
    assert runtime.cgroup_cores(root, membership) == 3
    # Version 1.
    membership.write_text("4:cpu,cpuacct:/x\n3:memory:/x\n")
    (root / "cpu,cpuacct" / "x").mkdir(parents=True)
    (root / "cpu,cpuacct" / "x" / "cpu.cfs_quota_us").write_text("50000\n")
    (root / "cpu,cpuacct" / "x" / "cpu.cfs_period_us").write_text("100000\n")
    assert runtime.cgroup_cores(root, membership) == 0.5


def test_commands_say_what_the_log_warns_of(capsys: pytest.CaptureFixture[str]) -> None:
    Console(quiet=True)
    Console(quiet=True)
    logging.getLogger("skipae").warning("cuda:%d is out of memory", 0)
    assert capsys.readouterr().err == "skipae: cuda:0 is out of memory\n"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_signal_while_the_runtime_is_loaded_is_one(
    stop: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, *rest: Any, **more: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("initialization failed") from stop()  # as its module says it
        return find(name, *rest, **more)

    find = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", load)
    with pytest.raises(stop):
        runtime.load_runtime()


def test_onnx_runtime_prints_nothing_of_a_graph_that_it_cannot_load(capfd: pytest.CaptureFixture[str]) -> None:
    # Its own fallback would, and standard output may be an image.
    graph = tiny_graph()
    graph.graph.node[0].name = "conv"
    data = graph.SerializeToString().replace(b"conv", b"\xff\xffnv").replace(b"Conv", b"Conx")
    with pytest.raises(ValueError):
        runtime.create_session(runtime.load_runtime(), data, Device("cpu"))
    assert capfd.readouterr().out == ""
