import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from skipae import ModelError, from_pretrained
from skipae.engine.export import write_fixed_size
from skipae_train import load
from skipae_train.export import (
    PARITY_SIZES,
    TOLERANCE,
    ExportError,
    Parity,
    build_features,
    build_model,
    export,
    measure_halo,
    measure_parity,
    session,
)
from skipae_train.networks import AutoEncoder
from skipae_zoo import (
    CheckpointConfig,
    ConfigError,
    Preprocessing,
    network_1,
    network_2,
    network_3,
    read_config,
    sha256,
    verified_file,
    write_config,
)
from test_networks import SMALL, trained_a_little


def config_of(network, halo=0):
    pixels = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), (0.4, 0.5, 0.6))
    return CheckpointConfig("tiny", "restoration", network.architecture, pixels, halo)


@pytest.mark.parametrize("architecture", [*SMALL, network_1((1, 1, 0, 2), 3), network_3(2, topology="post")], ids=str)
def test_onnx_runtime_agrees_with_torch_at_odd_sizes_and_several_batches(architecture):
    network = trained_a_little(architecture)
    assert any(h % 2 and w % 2 for _, h, w in PARITY_SIZES)
    parity = measure_parity(network, config_of(network), "float32")
    parity.check()
    assert parity.output < 2e-5
    assert parity.features < 1e-4


def test_half_precision_weights_stay_within_their_tolerance():
    network = trained_a_little(network_1((2, 2, 1, 0), 8, topology="post"))
    measure_parity(network, config_of(network), "float16").check()
    assert measure_parity(network, config_of(network), "float16").output > 0


def test_a_graph_beyond_the_tolerance_is_refused():
    with pytest.raises(ExportError, match=r"differ by 0\.01 with weights stored as float16.*--storage float32"):
        Parity("float16", 0.01, 0.0).check()
    with pytest.raises(ExportError):
        Parity("float32", float("nan"), 0.0).check()


@pytest.mark.parametrize("build", [build_model, build_features])
def test_the_graph_keeps_the_contract(build):
    network = trained_a_little(network_1((2, 2, 1, 0), 4))
    model = build(network, config_of(network))
    assert model.ir_version <= 10
    assert [18 <= s.version <= 20 for s in model.opset_import] == [True]
    (image,) = model.graph.input
    assert image.name == "pixel_values"
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["n", 3, "height", "width"]
    (prop,) = model.metadata_props
    assert json.loads(prop.value) == config_of(network).to_dict(with_files=False)
    assert not any(node.op_type in ("BatchNormalization", "Pad", "Resize") for node in model.graph.node)
    names = [output.name for output in model.graph.output]
    assert names == (["reconstruction"] if build is build_model else ["enc1", "enc2", "enc3", "enc4", "enc5"])


def test_batch_norm_folds_away_where_a_convolution_has_one_consumer():
    post = trained_a_little(network_1((2, 2, 1, 0), 4, topology="post"))
    assert "Mul" not in {node.op_type for node in build_model(post, config_of(post)).graph.node}
    pre = trained_a_little(network_1((2, 2, 1, 0), 4, topology="pre"))
    # Shortcuts 2 and 4: one multiply-add where each starts and one where it joins.
    assert [node.op_type for node in build_model(pre, config_of(pre)).graph.node].count("Mul") == 4


def test_a_checkpoint_folder_is_whole(tmp_path):
    network = trained_a_little(network_1((1, 2, 1, 0), 4, topology="post"))
    photos = [np.random.default_rng(0).random((90, 80, 3))]
    config, _ = export(network, tmp_path, name="tiny", fill=(0.4, 0.5, 0.6), halo_images=photos)
    assert read_config(tmp_path) == config
    assert set(config.files) == {"model.safetensors", "onnx/model.onnx", "onnx/features.onnx"}
    for file in config.files:
        verified_file(tmp_path, config, file)
    tensors = load_file(tmp_path / "model.safetensors")
    original = network.state_dict()
    assert {k for k in original if "num_batches" not in k} == set(tensors)
    assert tensors["encoder.enc2.conv.weight"].dtype == torch.float16
    assert torch.equal(tensors["encoder.enc2.norm.running_var"], original["encoder.enc2.norm.running_var"])
    onnx.checker.check_model(onnx.load(tmp_path / "onnx/model.onnx"), full_check=True)
    image = np.random.default_rng(1).random((1, 3, 21, 34), np.float32)
    restored = session(tmp_path / "onnx/model.onnx").run(["reconstruction"], {"pixel_values": image})[0]
    np.testing.assert_allclose(restored, network(torch.from_numpy(image)).detach().numpy(), atol=2e-3)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_without_the_task_graph_still_gives_features(tmp_path):
    network = trained_a_little(network_1((1, 2, 0, 0), 4))
    config, _ = export(
        network,
        tmp_path,
        name="tiny",
        fill=(0.4, 0.5, 0.6),
        default_layer="enc2",
        without=["model.safetensors", "onnx/model.onnx"],
    )
    assert set(config.files) == {"onnx/features.onnx"} == {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*x")}
    model = from_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert {layer: values.shape for layer, values in model.features(pixels).items()} == {"enc2": (1, 8)}
    with pytest.raises(ModelError, match=r"has no onnx/model\.onnx: use another checkpoint"):
        model.denoise(pixels)


def test_an_exported_network_can_be_loaded_and_trained_on(tmp_path):
    network = trained_a_little(network_1((1, 2, 1, 0), 4, topology="post"))
    export(network, tmp_path, name="tiny", fill=(0.4, 0.5, 0.6), storage="float32")
    loaded = AutoEncoder.from_checkpoint(tmp_path)
    image = torch.rand(1, 3, 19, 23)
    torch.testing.assert_close(loaded(image), network(image))

    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.enc2.conv.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    config = replace(read_config(tmp_path), files={"model.safetensors": sha256(tmp_path / "model.safetensors")})
    write_config(tmp_path, config)
    with pytest.raises(ConfigError, match=r"check encoder\.enc2\.conv\.weight"):
        AutoEncoder.from_checkpoint(tmp_path)


@pytest.mark.parametrize("architecture", [network_1((2, 2, 1, 0), 4, topology="post"), network_2(4)], ids=str)
def test_the_measured_halo_keeps_what_lies_beyond_it(architecture):
    network = trained_a_little(architecture)
    config = config_of(network)
    model = session(build_model(network, config))
    halo = measure_halo(model, config, [np.random.default_rng(0).random((120, 110, 3))])
    assert 4 <= halo <= architecture.reach
    stride = architecture.total_stride
    image = np.random.default_rng(5).random((1, 3, 16 * stride + 5, 90)).astype(np.float32)
    whole, part = (model.run(None, {"pixel_values": x})[0] for x in (image, image[:, :, 4 * stride :]))
    assert np.abs(part[:, :, halo:] - whole[:, :, 4 * stride + halo :]).max() < 1e-4


@pytest.mark.parametrize("options", [{}, {"refine": 2, "norm": "none"}], ids=str)
def test_reach_is_exact(options):
    """Beyond ``reach`` a cut changes nothing at all; just inside it something does."""
    network = trained_a_little(network_1((2, 1, 1, 0), 6, shortcuts="input-output", **options))
    with torch.no_grad():
        for p in network.parameters():
            p.abs_()  # positive weights keep every ReLU open, so that no path is dead
        for unit in [*network.encoder.values(), *network.decoder.values()]:
            if hasattr(unit.norm, "running_mean"):
                unit.norm.running_mean.zero_()
    reach, stride = network.architecture.reach, network.architecture.total_stride
    image = torch.rand(1, 3, 12 * stride, 24).double()
    network.double()
    network.mean.zero_()
    whole = network(image)[:, :, 4 * stride :]
    part = network(image[:, :, 4 * stride :])
    changed = (whole - part).abs().amax((0, 1, 3)) > 1e-12
    assert int(changed.nonzero().max()) < reach
    assert int(changed.nonzero().max()) >= reach - stride


def test_a_file_for_one_size(tmp_path):
    for architecture in (network_1((2, 1, 1, 0), 4, topology="post"), network_2(3)):
        network = trained_a_little(architecture)
        folder = tmp_path / architecture.network
        config, _ = export(network, folder, name="tiny", fill=(0.5, 0.5, 0.5), storage="float16")
        for height, width in ((16, 24), (13, 21)):
            target = tmp_path / "static.onnx"
            assert write_fixed_size(folder, config, target, height, width) < 1e-6
            model = onnx.load(target)
            assert [one.domain for one in model.opset_import] == [""]
            assert not {node.op_type for node in model.graph.node} & {"Shape", "Cast"}
            for value in (*model.graph.input, *model.graph.output):
                assert [d.dim_value for d in value.type.tensor_type.shape.dim] == [1, 3, height, width]
            image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
            found = session(target).run(None, {"pixel_values": image.numpy()})[0]
            assert np.abs(found - network(image).detach().numpy()).max() < TOLERANCE["float16"]


def forged(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    told = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return len(told).to_bytes(8, "little") + told + data


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    network = trained_a_little(network_1((1, 2, 0, 0), 4))
    export(network, folder, name="tiny", fill=(0.4, 0.5, 0.6), without=["onnx/model.onnx", "onnx/features.onnx"])
    return folder


def put(folder, content):
    """Weights that the config vouches for."""
    (folder / "model.safetensors").write_bytes(content)
    write_config(
        folder, replace(read_config(folder), files={"model.safetensors": sha256(folder / "model.safetensors")})
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cannot be read"),
        (b"\xff" * 100, "cannot be read"),
        (forged(b"{"), "cannot be read"),
        (forged([]), "cannot be read"),
        (forged(b"[" * 5000), "cannot be read"),
        (forged({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"), "cannot be read"),
        (forged({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}), "cannot be read"),
        (forged({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}, b"1234"), "cannot be read"),
        (forged({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, b"1234"), "cannot be read"),
        (forged({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"1234"), "does not contain the"),
        (forged({}), "does not contain the"),
    ],
)
def test_weights_that_are_not_what_their_file_says_are_refused(weights, content, told):
    put(weights, content)
    with pytest.raises(ModelError, match=rf"model\.safetensors {told}") as error:
        load(weights)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinite_weights_are_neither_loaded_nor_exported(tmp_path, value):
    network = trained_a_little(network_1((1, 2, 0, 0), 4))
    without = ["onnx/model.onnx", "onnx/features.onnx"]
    export(network, tmp_path, name="tiny", fill=(0.4, 0.5, 0.6), without=without)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["encoder.enc2.conv.weight"][0, 0, 0, 0] = value
    save_file(tensors, tmp_path / "wrong")
    put(tmp_path, (tmp_path / "wrong").read_bytes())
    told = r"holds weights that are NaN or infinite, in encoder\.enc2\.conv\.weight"
    with pytest.raises(ModelError, match=rf"model\.safetensors {told}"):
        load(tmp_path)
    with torch.no_grad():
        network.unit("enc2").conv.weight[0, 0, 0, 0] = value
    with pytest.raises(ExportError, match=f"tiny {told}"):
        export(network, tmp_path / "out", name="tiny", fill=(0.4, 0.5, 0.6), without=without)
    assert not (tmp_path / "out").exists()
