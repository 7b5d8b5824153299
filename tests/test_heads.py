"""Classifiers and segmenters: what is new in them, what is taken over, and their export."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import skipae_train
from skipae import ModelError, UsageError, from_pretrained
from skipae.engine.export import write_fixed_size
from skipae_train.export import ExportError, build_model, export, measure_halo, session
from skipae_train.networks import AutoEncoder, Classifier, Network, NetworkPart, Segmenter, TransferError, transfer
from skipae_zoo import ConfigError, Head, network_1, network_2, network_3, read_config, verified_file
from test_export import config_of
from test_networks import trained_a_little

PIXELS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
LABELS = ("cat", "dog", "tree", "sky", "sea")
NET_1, NET_2, NET_3 = network_1((2, 2, 1, 0), 4), network_2(3, topology="post"), network_3(2)

HEADS: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "pool-fc": (lambda init="he": Classifier(NET_1, 5, Head("pool-fc"), init=init), ["head.fc"]),
    "conv-pool": (lambda init="he": Classifier(NET_2, 5, Head("conv-pool"), init=init), ["head.conv"]),
    "fc": (
        lambda init="he": Classifier(NET_3, 5, Head("fc", 24, "sigmoid"), crop=33, init=init),
        ["head.fc1", "head.fc2", "head.fc3"],
    ),
    "decoder": (lambda init="he": Segmenter(NET_3, 5, init=init), ["head.conv"]),
    "decoder-post": (lambda init="he": Segmenter(NET_2, 5, init=init), ["head.conv"]),
}


def seasoned(kind, seed=0):
    """A network of this kind, in use, whose batch norms have statistics and whose logits are not tiny."""
    torch.manual_seed(seed)
    network = HEADS[kind][0]()
    network.mean.copy_(torch.tensor(PIXELS["mean"]).view(1, 3, 1, 1))
    network.std.copy_(torch.tensor(PIXELS["std"]).view(1, 3, 1, 1))
    torch.nn.init.normal_(network.last.weight, std=0.3)
    torch.nn.init.normal_(network.last.bias)
    for _ in range(2):
        network(torch.rand(4, 3, *(network.size or (48, 48))))
    return network.eval()


def exported(kind, folder, **options):
    network = seasoned(kind)
    config, parity = export(network, folder, name=kind, fill=PIXELS["mean"], labels=LABELS, **options)
    return network, config, parity


@pytest.mark.parametrize("kind", HEADS)
def test_every_weight_gets_a_gradient(kind):
    torch.manual_seed(0)
    network = HEADS[kind][0]().train()
    if kind == "fc":  # dropout may close too many units
        network.eval()
    image = torch.rand(2, 3, *(network.size or (29, 31)))
    network(image).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("size", [(1, 1), (29, 29), (33, 18)])
def test_the_shape_of_the_logits(size):
    for kind in HEADS:
        network = seasoned(kind)
        if network.size and network.size != size:
            with pytest.raises(ValueError, match=r"must be 33 x 33 pixels"):
                network(torch.rand(2, 3, *size))
        else:
            shape = (2, 5, *size) if isinstance(network, Segmenter) else (2, 5)
            assert network(torch.rand(2, 3, *size)).shape == shape


def test_the_fully_connected_head_is_the_papers():
    """At crop 225 the encoder of Network-3 gives 8 x 8 pixels of 8n channels."""
    head = Classifier(network_3(2), 20, Head("fc", 8), crop=225).head
    assert {n: tuple(p.shape) for n, p in head.named_parameters() if p.ndim == 2} == {
        "fc1.weight": (8, 16 * 8 * 8),
        "fc2.weight": (8, 8),
        "fc3.weight": (20, 8),
    }
    assert [m.p for m in head if isinstance(m, torch.nn.Dropout)] == [0.5, 0.5]


def both(layers):
    return [f"{layer}.{value}" for layer in layers for value in ("weight", "bias")]


@pytest.mark.parametrize("kind", ["pool-fc", "conv-pool", "fc", "decoder"])
@pytest.mark.parametrize("from_folder", [False, True])
def test_exactly_the_head_is_new(kind, from_folder, tmp_path):
    build, head = HEADS[kind]
    target = build()
    source = trained_a_little(target.architecture, seed=7)
    if from_folder:
        export(source, tmp_path, name="source", fill=(0.5,) * 3, storage="float32")
    before = {name: value.clone() for name, value in target.state_dict().items()}
    parts: list[NetworkPart] = ["encoder", "decoder"] if kind == "decoder" else ["encoder"]
    assert transfer(target, tmp_path if from_folder else source, parts) == both(head)
    for name, value in target.state_dict().items():
        if name.endswith("num_batches_tracked") and from_folder:
            continue  # of no effect, and not in checkpoints
        assert torch.equal(value, before[name] if name.startswith("head.") else source.state_dict()[name]), name
    image = torch.rand(1, 3, *(target.size or (29, 29)))
    target.eval()
    for name, value in source.features(image).items():
        torch.testing.assert_close(target.features(image)[name], value)


def test_the_three_initializations_of_figure_4():
    source = trained_a_little(NET_3, seed=7)
    decoder = [name for name, _ in Segmenter(NET_3, 5).named_parameters() if name.startswith("decoder.")]
    assert len(decoder) == 3 * 12  # dec2 to dec13: a kernel and batch norm's scale and shift each
    random, encoder, whole = (Segmenter(NET_3, 5, init="he") for _ in range(3))
    assert transfer(encoder, source, ("encoder",)) == decoder + both(["head.conv"])
    assert transfer(whole, source, ("encoder", "decoder")) == both(["head.conv"])
    for network, parts in ((random, []), (encoder, ["encoder"]), (whole, ["encoder", "decoder"])):
        for part, unit in (("encoder", "enc3"), ("decoder", "dec3")):
            same = torch.equal(network.unit(unit).conv.weight, source.unit(unit).conv.weight)
            assert same == (part in parts)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (network_1((2, 2, 1, 0), 6), r"n is 6 and must be 4"),
        (network_1((2, 2, 2, 0), 4), r"m is \(2, 2, 2, 0\) and must be \(2, 2, 1, 0\)"),
        (network_2(4), r"network is 'network-2' and must be 'network-1'"),
    ],
)
def test_the_weights_of_another_architecture_are_refused(architecture, message):
    target = HEADS["pool-fc"][0]()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(TransferError, match=message):
        transfer(target, AutoEncoder(architecture))
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_parts_that_do_not_fit_are_refused():
    unlike = AutoEncoder(replace(NET_3, shortcuts="none"))
    transfer(Segmenter(NET_3, 5), unlike)  # the encoder is the same
    with pytest.raises(TransferError, match=r"shortcuts is 'none' and must be 'symmetric'"):
        transfer(Segmenter(NET_3, 5), unlike, ("encoder", "decoder"))
    with pytest.raises(TransferError, match=r"the Classifier has no decoder"):
        transfer(HEADS["fc"][0](), AutoEncoder(NET_3), ("encoder", "decoder"))
    with pytest.raises(TransferError, match=r"the pre-trained Classifier lacks decoder\.dec2"):
        transfer(Segmenter(NET_3, 5), HEADS["fc"][0](), ("encoder", "decoder"))
    with pytest.raises(ValueError, match=r"first layer must have stride 1"):
        Segmenter(network_1((1, 1, 0, 0), 2), 5)
    with pytest.raises(ValueError, match=r"needs crop and hidden, not crop=None and hidden=6"):
        Classifier(NET_3, 5, Head("fc", 6))


def test_initializations():
    torch.manual_seed(0)
    for kind in ("pool-fc", "conv-pool", "fc", "decoder"):
        normal = HEADS[kind][0]("normal")
        weights = torch.cat([p.detach().flatten() for p in normal.parameters() if p.ndim > 1])
        assert abs(float(weights.std()) - 0.01) < 5e-4
        assert all(not p.any() for n, p in normal.named_parameters() if n.startswith("head.") and n.endswith("bias"))
    wide = Classifier(network_1((1, 1, 0, 0), 64), 100, Head("fc", 256), crop=8, init="he").state_dict()
    assert abs(float(wide["head.fc1.weight"].std()) * (128 * 4 / 2) ** 0.5 - 1) < 0.05
    assert abs(float(wide["head.fc3.weight"].std()) - 0.01) < 5e-4


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_a_checkpoint_comes_back_as_it_was_and_runs_in_onnx_runtime(kind, storage, tmp_path):
    network, config, parity = exported(kind, tmp_path, storage=storage, resize=40)
    assert read_config(tmp_path) == config
    assert (config.task, config.labels, config.head) == (network.task, LABELS, network.head_config)
    assert (config.preprocessing.resize, config.preprocessing.crop) == (40, 33 if kind == "fc" else None)
    for file in config.files:
        verified_file(tmp_path, config, file)
    assert parity.output < {"float32": 2e-5, "float16": 2e-3}[storage]
    assert parity.features < {"float32": 1e-4, "float16": 1e-2}[storage]

    loaded = skipae_train.load(tmp_path)
    assert type(loaded) is type(network) and not loaded.training
    assert (loaded.architecture, loaded.classes, loaded.head_config) == (network.architecture, 5, network.head_config)
    image = torch.rand(2, 3, *(network.size or (21, 34)))
    want = network(image).detach()
    tolerance = {"float32": 1e-6, "float16": 5e-3}[storage] * float(want.abs().max())
    torch.testing.assert_close(loaded(image).detach(), want, atol=tolerance, rtol=0)
    found = session(tmp_path / "onnx/model.onnx").run(["logits"], {"pixel_values": image.numpy()})[0]
    np.testing.assert_allclose(found, want.numpy(), atol=max(tolerance, 1e-4))


@pytest.mark.parametrize("kind", HEADS)
def test_the_graph_keeps_the_contract(kind, tmp_path):
    _, config, _ = exported(kind, tmp_path)
    model = onnx.load(tmp_path / "onnx/model.onnx")
    (image,), (logits,) = model.graph.input, model.graph.output
    sides = [33, 33] if kind == "fc" else ["height", "width"]
    shape = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (image, logits)]
    assert shape == [["n", 3, *sides], ["n", 5, *(sides if config.task == "segmentation" else [])]]
    assert (image.name, logits.name, model.ir_version, model.opset_import[0].version) == (
        "pixel_values",
        "logits",
        10,
        18,
    )
    (prop,) = model.metadata_props
    assert json.loads(prop.value) == config.to_dict(with_files=False)
    operators = [node.op_type for node in model.graph.node]
    # Batch norm stays apart at the shortcuts of a `pre` segmenter alone: where each starts and where it joins.
    assert operators.count("Mul") == (2 * len(NET_3.shortcut_layers) if kind == "decoder" else 0)
    features = onnx.load(tmp_path / "onnx/features.onnx").graph
    assert [d.dim_param for d in features.input[0].type.tensor_type.shape.dim][2:] == ["height", "width"]
    assert "Mul" not in {node.op_type for node in features.node}


@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("architecture", [NET_1, NET_2, NET_3, replace(NET_2, shortcuts="none")], ids=str)
def test_an_auto_encoder_comes_back_as_it_was(architecture, storage, tmp_path):
    network = trained_a_little(architecture)
    export(network, tmp_path, name="tiny", fill=(0.5,) * 3, storage=storage)
    loaded = skipae_train.load(str(tmp_path))
    image = torch.rand(1, 3, 19, 23)
    torch.testing.assert_close(loaded(image), network(image), atol={"float32": 1e-6, "float16": 2e-3}[storage], rtol=0)


def test_a_checkpoint_of_another_kind_or_none_is_refused(tmp_path):
    exported("pool-fc", tmp_path / "a")
    with pytest.raises(ConfigError, match=r"is for classification: it holds a Classifier, not a AutoEncoder"):
        AutoEncoder.from_checkpoint(tmp_path / "a")
    assert isinstance(Network.from_checkpoint(tmp_path / "a"), Classifier)
    (tmp_path / "a/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"does not match its config\.json"):
        skipae_train.load(tmp_path / "a")
    with pytest.raises(ModelError, match=r"unknown model 'skipae-nature' \(did you mean skipae-natural\?\)"):
        skipae_train.load("skipae-nature")


def test_what_cannot_be_exported_is_refused_and_nothing_written(tmp_path):
    def refused(message, kind, labels=LABELS, **options):
        with pytest.raises(ExportError, match=message):
            export(seasoned(kind), tmp_path, name="x", fill=(0.5,) * 3, labels=labels, **options)
        assert not list(tmp_path.iterdir())

    refused("x has 5 classes, but 4 labels are given", "pool-fc", LABELS[:4])
    refused(r"takes images of \(33, 33\) pixels only: crop cannot be 29", "fc", crop=29)
    refused("resize must be null or at least 1 pixel", "pool-fc", resize=0)
    with pytest.raises(ExportError, match="label maps hold at most 255 classes, not 256"):
        export(Segmenter(NET_2, 256), tmp_path, name="x", fill=(0.5,) * 3, labels=list(map(str, range(256))))


def test_a_segmenters_halo_keeps_what_lies_beyond_it():
    network = seasoned("decoder-post")
    network.head.conv.weight.data *= 50  # logits have no scale: what is felt is a share of the largest
    config = replace(config_of(network), labels=LABELS, task="segmentation", head=network.head_config)
    model = session(build_model(network, config))
    halo = measure_halo(model, config, [np.random.default_rng(0).random((120, 110, 3))])
    stride = network.architecture.total_stride
    assert 4 <= halo <= network.architecture.reach
    image = np.random.default_rng(5).random((1, 3, 16 * stride + 5, 90)).astype(np.float32)
    whole, part = (model.run(None, {"pixel_values": x})[0] for x in (image, image[:, :, 4 * stride :]))
    assert np.abs(part[:, :, halo:] - whole[:, :, 4 * stride + halo :]).max() < 1e-4 * np.abs(whole).max()


def test_an_exported_classifier_classifies_as_torch_does(tmp_path):
    network, _, _ = exported("fc", tmp_path, storage="float32", resize=40)
    image = np.random.default_rng(3).integers(0, 256, (40, 57, 3), np.uint8)
    middle = torch.from_numpy(image[3:36, 12:45] / np.float32(255)).permute(2, 0, 1)[None]  # (H, W, C) -> (N, C, H, W)
    wanted = dict(zip(LABELS, network(middle).sigmoid()[0].tolist(), strict=True))
    assert dict(from_pretrained(tmp_path, device="cpu").classify(image)) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("tile", [None, 150])
def test_an_exported_segmenter_segments_as_torch_does(tile, tmp_path):
    network, config, _ = exported("decoder-post", tmp_path, storage="float32")
    image = np.random.default_rng(3).integers(0, 256, (173, 190, 3), np.uint8)
    logits = network(torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None])[
        0
    ].detach()  # (H, W, C) -> (N, C, H, W)
    assert config.halo < 60
    found = torch.from_numpy(from_pretrained(tmp_path, device="cpu").segment(image, tile=tile)).long()
    assert len(found.unique()) > 2
    chosen = logits.gather(0, found[None])[0]
    assert float((logits.amax(0) - chosen).max()) < 1e-4 * float(logits.abs().max())  # nothing else but ties


def test_a_segmenter_with_a_scale_segments_as_it_is_measured(tmp_path):
    network, _, _ = exported("decoder-post", tmp_path, storage="float32", resize=40)
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (12, 15, 3), np.uint8)).resize((150, 120))
    small = np.asarray(image.resize((50, 40), Image.Resampling.BICUBIC)) / np.float32(255)
    logits = network(torch.from_numpy(small).permute(2, 0, 1)[None])  # (H, W, C) -> (N, C, H, W)
    logits = torch.nn.functional.interpolate(logits, (120, 150), mode="bilinear")[0].detach()
    found = torch.from_numpy(np.array(from_pretrained(tmp_path, device="cpu").segment(image))).long()
    assert len(found.unique()) > 2
    chosen = logits.gather(0, found[None])[0]
    assert float((logits.amax(0) - chosen).max()) < 1e-4 * float(logits.abs().max())  # nothing else but ties


def test_a_file_for_one_size(tmp_path):
    for kind, size in (("pool-fc", (13, 21)), ("fc", (33, 33)), ("decoder", (13, 21))):
        _, config, _ = exported(kind, tmp_path / kind, storage="float32")
        assert write_fixed_size(tmp_path / kind, config, tmp_path / "one.onnx", *size) < 1e-4
        graph = onnx.load(tmp_path / "one.onnx").graph
        sides = list(size) if config.task == "segmentation" else []
        assert [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim] == [1, 5, *sides]
    with pytest.raises(UsageError, match=r"requires images of 33 x 33 pixels, not 16 x 16"):
        write_fixed_size(tmp_path / "fc", read_config(tmp_path / "fc"), tmp_path / "one.onnx", 16, 16)
