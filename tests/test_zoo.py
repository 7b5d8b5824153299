import json
import os
from dataclasses import replace

import pytest

from skipae_zoo import (
    CHECKPOINTS,
    DEFAULTS,
    Architecture,
    ArchitectureError,
    CheckpointConfig,
    ConfigError,
    Head,
    Preprocessing,
    network_1,
    network_2,
    network_3,
    read_config,
    sha256,
    verified_file,
    write_config,
)


def config(architecture: Architecture) -> CheckpointConfig:
    pixels = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), (0.5, 0.5, 0.5))
    return CheckpointConfig("tiny", "restoration", architecture, pixels, halo=12)


def test_cifar_network_has_fifteen_layers_and_the_papers_widths():
    layers = network_1((5, 5, 5, 0), 128).layers
    assert [layer.channels for layer in layers] == [128] * 5 + [256] * 5 + [512] * 5
    assert [layer.stride for layer in layers] == [1, 1, 1, 1, 2] * 3
    assert [layer.name for layer in layers][::14] == ["enc1", "enc15"]


def test_crop_29_halves_to_4():
    sizes = [layer.output_size(29, 29) for layer in network_1((5, 5, 5, 0), 128).layers if layer.stride == 2]
    assert sizes == [(15, 15), (8, 8), (4, 4)]


def test_network_2_is_all_cnn_c_without_pooling():
    table = [(layer.channels, layer.kernel, layer.stride) for layer in network_2().layers]
    assert table == [
        (96, 3, 1),
        (96, 3, 1),
        (96, 3, 2),
        (192, 3, 1),
        (192, 3, 1),
        (192, 3, 2),
        (192, 3, 1),
        (192, 1, 1),
    ]


def test_network_3_is_vgg_16_without_pooling():
    layers = network_3().layers
    assert [layer.channels for layer in layers] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert layers[-1].total_stride == 32
    assert layers[-1].output_size(225, 225) == (8, 8)


@pytest.mark.parametrize(
    ("architecture", "reach"),
    [
        (network_1((2, 2, 3, 3), 32), 84),
        (network_1((3, 3, 3, 3), 32), 90),
        (network_1((3, 3, 3, 3), 32, refine=1), 90 + 1 + 2 + 4 + 8),
        (network_3(), 180),
    ],
)
def test_reach(architecture, reach):
    assert architecture.reach == reach


def test_receptive_field_by_hand():
    # 3x3 sees 3; the strided 3x3 sees 5; then each step is 2 pixels: 9.
    assert [layer.receptive_field for layer in network_1((2, 1, 0, 0), 4).layers] == [3, 5, 9]


def test_residual_units_are_pairs_that_keep_size_and_channels():
    assert network_1((4, 3, 6, 2), 8).units == ()
    assert network_1((4, 3, 6, 2), 8, residual=True).units == ((2, 3), (9, 10), (11, 12))


def test_options_are_in_the_config_only_where_they_are_used():
    plain, changed = network_1((4, 3, 6, 2), 8), network_1((4, 3, 6, 2), 8, widths=(8, 9, 10, 11), norm="none")
    assert plain.to_dict().keys() == {"network", "n", "m", "shortcuts", "topology"}
    assert {*changed.to_dict()} - {*plain.to_dict()} == {"widths", "norm"}
    assert [Architecture.from_dict(shape.to_dict()) for shape in (plain, changed)] == [plain, changed]
    assert [layer.channels for layer in changed.layers] == [8] * 4 + [9] * 3 + [10] * 6 + [11] * 2


def test_shortcuts_join_every_second_layer_but_not_the_last():
    assert network_1((2, 2, 3, 3), 8).shortcut_layers == (2, 4, 6, 8)
    assert network_1((5, 5, 5, 0), 8).shortcut_layers == (2, 4, 6, 8, 10, 12, 14)
    assert network_1((2, 2, 3, 3), 8, shortcuts="input-output").shortcut_layers == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network_1((1, 2), 8), "four whole numbers"),  # type: ignore[arg-type]
        (lambda: network_1((1, 0, 0, 0), 8), "at least 2 in all"),
        (lambda: network_1((2, 2, 3, 3), 0), "n must be a whole number of channels"),
        (lambda: network_1((2, 2, 3, 3), 8, topology="middle"), "topology must be one of pre, post"),
        (lambda: Architecture("network-2", 96, (1, 2, 3, 4)), "m is fixed for network-2"),
        (lambda: network_1((2, 2, 3, 3), 8, widths=(8, 8, 8)), "widths must be empty or four numbers .* the first of"),
        (lambda: network_1((2, 2, 3, 3), 8, widths=(4, 8, 8, 8)), "the first of them n = 8, not"),
        (lambda: network_1((2, 2, 3, 3), 8, refine=9), "refine must be a whole number from 0 to 8, not 9"),
        (lambda: network_1((2, 2, 3, 3), 8, residual=1), "residual must be true or false, not 1"),
        (lambda: network_1((2, 2, 3, 3), 8, norm="layer"), "norm must be one of batch, none, not"),
        (lambda: network_2(8, norm="none"), "are for network-1: leave them out of network-2"),
        (lambda: Architecture("resnet", 96), "network must be one of network-1"),  # type: ignore[arg-type]
        (lambda: Architecture.from_dict({"network": "network-2"}), "check m, n, shortcuts, topology"),
    ],
)
def test_errors_say_what_is_allowed(make, message):
    with pytest.raises(ArchitectureError, match=message):
        make()


@pytest.mark.parametrize("architecture", [network_1((1, 3, 3, 3), 32, topology="post"), network_2(12), network_3(8)])
def test_config_survives_a_round_trip(tmp_path, architecture):
    original = replace(config(architecture), files={"onnx/model.onnx": "0" * 64})
    write_config(tmp_path, original)
    assert read_config(tmp_path) == original
    classifier = replace(
        original,
        task="classification",
        labels=("cat", "dog"),
        head=Head("fc", 4096, "sigmoid"),
        preprocessing=replace(original.preprocessing, resize=256, crop=225),
        default_layer="enc2",
    )
    write_config(tmp_path, classifier)
    assert read_config(tmp_path) == classifier
    segmenter = replace(classifier, task="segmentation", head=Head("decoder"), colors=((0, 0, 0), (128, 64, 255)))
    write_config(tmp_path, segmenter)
    assert read_config(tmp_path) == segmenter


def named(labels):
    return {str(number): label for number, label in enumerate(labels)}


def test_other_runtimes_find_what_they_read(tmp_path):
    original = config(network_1((1, 1, 0, 0), 4))
    write_config(tmp_path, original)
    data, pixels = (json.loads((tmp_path / f"{name}config.json").read_text()) for name in ("", "preprocessor_"))
    assert (data["id2label"], data["num_labels"], data["transformers.js_config"]) == ({}, 0, {"dtype": "fp32"})
    assert pixels["do_rescale"] and pixels["rescale_factor"] == pytest.approx(1 / 255)
    assert not (pixels["do_normalize"] or pixels["do_resize"] or pixels["do_center_crop"] or pixels["do_pad"])
    head, scaled = Head("conv-pool"), replace(original.preprocessing, resize=32, crop=29)
    classifier = replace(original, task="classification", labels=("cat", "dog"), head=head, preprocessing=scaled)
    write_config(tmp_path, classifier)
    data, pixels = (json.loads((tmp_path / f"{name}config.json").read_text()) for name in ("", "preprocessor_"))
    assert (data["id2label"], data["num_labels"]) == ({"0": "cat", "1": "dog"}, 2)
    assert (pixels["do_resize"], pixels["size"], pixels["resample"]) == (True, {"shortest_edge": 32}, 3)
    assert (pixels["do_center_crop"], pixels["crop_size"]) == (True, {"height": 29, "width": 29})
    segmenter = replace(classifier, task="segmentation", head=Head("decoder"))
    assert segmenter.to_preprocessor()["do_center_crop"] is False  # it takes whole images


def break_config(tmp_path, change):
    write_config(tmp_path, config(network_1((1, 1, 0, 0), 4)))
    path = tmp_path / "config.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(version=99), "version 99, this skipae reads up to 1: upgrade"),
        (lambda d: d.update(version="1"), "no whole-number 'version'"),
        (lambda d: d.pop("architecture"), "lacks the key 'architecture'"),
        (lambda d: d["architecture"].update(n="many"), "n must be a whole number of channels"),
        (lambda d: d["architecture"].update(m=3), "m must be a list"),
        (lambda d: d.update(task="upscale"), "task must be one of restoration"),
        (lambda d: d["preprocessing"].update(mean=[1, 2]), "preprocessing.mean must be three numbers"),
        (lambda d: d.update(preprocessing=3), "value of the wrong type"),
        (lambda d: d["layers"].pop(), "'layers' does not agree with 'architecture'"),
        (lambda d: d.update(default_layer="enc9"), "default_layer must be one of enc1, enc2, not 'enc9'"),
        (lambda d: d.update(files=[]), "files must be an object"),
        (lambda d: d.update(files={"a/../../b": "0"}), r"files, 'a/\.\./\.\./b', does not name a file inside"),
        (lambda d: d.update(files={"/etc/passwd": "0"}), "does not name a file inside the folder"),
        (lambda d: d.update(files={"onnx/\0": "0"}), r"files, 'onnx/\\x00', has characters that cannot be printed"),
        (lambda d: d.update(files={"onnx/\ud800": "0"}), r"files, 'onnx/\\ud800', has characters that cannot"),
        (lambda d: d.update(files={"a" * 5000: "0"}), r"a\.\.\., has 5000 characters; at most 200"),
        (lambda d: d["architecture"].update(m=[10**9, 1, 0, 0]), r"at most 64, .* not \(1000000000, 1, 0, 0\)"),
        (lambda d: d["architecture"].update(m=[64, 1, 0, 0]), "at most 64, for"),
        (lambda d: d["architecture"].update(n=4097), "n must be a whole number of channels from 1 to 4096, not 4097"),
        (lambda d: d["architecture"].update(n=10**300), r"from 1 to 4096, not 10{70,80}\.\.\.$"),
        (lambda d: d.update(halo=10**400), r"halo must be a whole number from 0 to 8192, not 10{70,80}\.\.\.$"),
        (lambda d: d["preprocessing"].update(crop=10**9), "preprocessing.crop must be a whole number from 0 to 8192"),
        (lambda d: d["preprocessing"].update(resize=8193), "preprocessing.resize must be a whole number from 0 to"),
        (lambda d: d["preprocessing"].update(mean=[float("nan")] * 3), r"mean must be three numbers .* not \[nan,"),
        (lambda d: d["preprocessing"].update(mean=[10**400, 0, 0]), "mean must be three numbers"),
        (
            lambda d: d["preprocessing"].update(std=[1, 1, 0]),
            r"std must be three numbers \(R, G, B\) from 1e-06 to 1000",
        ),
        (lambda d: d["preprocessing"].update(fill=[float("inf")] * 3), "fill must be three numbers"),
        (lambda d: d.update(id2label=named(["a"] * 65537)), "id2label must be at most 65536 class names, not 65537"),
        (lambda d: d.update(files={str(k): "0" for k in range(65)}), "files must name at most 64 files, not 65"),
        (
            lambda d: d.update(head={"kind": "fc", "hidden": 10**9, "scores": "softmax"}),
            "hidden must be a whole number",
        ),
        (lambda d: d.update(version=0), "has version 0: it is not a skipae checkpoint"),
        (lambda d: d.update(files={"a.onnx": "0" * 63 + "\x1b"}), r"files\['a\.onnx'\] must be a sha256, not '0000"),
        (lambda d: d.update(name="a/b"), "name, 'a/b', is a path"),
        (lambda d: d.update(name="..", id2label=named(["a"])), r"name, '\.\.', is a path"),
        (lambda d: d.update(name="a\x9b31mb"), r"name, 'a\\x9b31mb', has characters that cannot be printed"),
        (lambda d: d.update(name=["a"]), "name must be text"),
        (lambda d: d.update(id2label=named(["cat\nskipae: error"])), r"a label, 'cat\\nskipae: error', has characters"),
        (lambda d: d.update(id2label=named(["cat\u202e"])), r"a label, 'cat\\u202e', has characters"),
        (lambda d: d.update(id2label=named(["cat", " "])), "a label, ' ', is empty"),
        (lambda d: d.update(id2label=["cat"]), "id2label must be an object, not"),
        (
            lambda d: d.update(id2label={"1": "cat"}),
            "the keys of id2label must be the numbers of the classes, in order",
        ),
        (lambda d: d.update(colors=[[1, 2, 256]]), "a color must be a whole number from 0 to 255, not 256"),
        (lambda d: d.update(colors=[[1, 2]]), r"a color must be three numbers \(R, G, B\), not \[1, 2\]"),
        (lambda d: d.update(colors="red"), "colors must be a list"),
        (lambda d: d.update(colors=[[1, 2, 3]]), "colors must be one of each of a segmenter's 0 labels, not 1"),
        (lambda d: d.update(halo=-1), "halo must be a whole number from 0 to 8192, not -1"),
        (lambda d: d["preprocessing"].update(crop=0), "preprocessing.crop must be null or at least 1 pixel"),
        (lambda d: d.update(head={"kind": "mlp", "hidden": 0, "scores": "softmax"}), "head.kind must be one of"),
        (lambda d: d.update(head={"kind": "decoder", "hidden": 0, "scores": "softmax"}), "cannot have the head"),
        (lambda d: d.update(task="segmentation"), "a segmentation checkpoint cannot have the head None"),
        (lambda d: d.update(id2label=named(["cat"])), "a restoration checkpoint cannot have 1 labels"),
        (
            lambda d: d.update(
                task="classification", id2label=named(["cat"]), head={"kind": "fc", "hidden": 9, "scores": "softmax"}
            ),
            "preprocessing.crop must give the image size",
        ),
    ],
)
def test_broken_configs_are_refused_with_the_key(tmp_path, change, message):
    break_config(tmp_path, change)
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "is nested too deeply"),
        ('{"version": ' + "9" * 5000 + "}", "is not JSON: Exceeds the limit"),
        ("{" + " " * (4 << 20), "cannot be read: larger than 4 MiB"),
    ],
)
def test_files_that_are_not_a_config(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "zero", "folder"])
def test_only_regular_files_are_read(tmp_path, kind):
    path = tmp_path / "config.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(ConfigError, match=r"config\.json cannot be read: not a regular file"):
        read_config(tmp_path)
    checked = replace(config(network_2(4)), files={"config.json": "0" * 64})
    with pytest.raises(ConfigError, match=r"cannot be read \(not a regular file\): fetch the checkpoint again"):
        verified_file(tmp_path, checked, "config.json")


def test_a_folder_without_config_is_not_a_checkpoint(tmp_path):
    with pytest.raises(ConfigError, match=r"it has no config\.json"):
        read_config(tmp_path)


def test_a_changed_file_is_noticed(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"weights")
    checked = replace(config(network_2(4)), files={"a.onnx": sha256(tmp_path / "a.onnx")})
    assert verified_file(tmp_path, checked, "a.onnx") == tmp_path / "a.onnx"
    (tmp_path / "a.onnx").write_bytes(b"weighTs")
    with pytest.raises(ConfigError, match="does not match its config"):
        verified_file(tmp_path, checked, "a.onnx")
    with pytest.raises(ConfigError, match=r"has no b\.onnx"):
        verified_file(tmp_path, checked, "b.onnx")


def test_checkpoint_names_are_unique_and_the_defaults_are_among_them():
    names = [entry.name for entry in CHECKPOINTS]
    assert len(set(names)) == len(names)
    tasks = {entry.name: entry.task for entry in CHECKPOINTS}
    expected = {
        task: "restoration" if task == "features" else task for task in DEFAULTS
    }  # of an auto-encoder's encoder
    assert {task: tasks[name] for task, name in DEFAULTS.items()} == expected
    assert all(entry.base_model in (None, *names) for entry in CHECKPOINTS)
