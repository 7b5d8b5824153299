"""The checkpoints in model_cards, as in the repository."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from skipae import from_pretrained
from skipae.checkpoints import resolve
from skipae_train.card import make_card
from skipae_train.export import PARITY_SIZES, TOLERANCE, session
from skipae_train.networks import Network
from skipae_train.publish import FEATURE_TOLERANCE
from skipae_zoo import find_checkpoint, read_config

ROOT = Path(__file__).parent.parent
STAGED = ROOT / "model_cards"
NAMES = sorted(path.name for path in STAGED.iterdir())
PHOTO = ROOT / "docs" / "images" / "chelsea.png"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_whole_known_and_described(name):
    folder = STAGED / name
    config = read_config(folder)
    assert config.name == name and (entry := find_checkpoint(name)) is not None and entry.task == config.task
    assert resolve.problems(folder, "") == []
    inside = {path.relative_to(folder).as_posix() for path in [*folder.glob("*.safetensors"), *folder.glob("onnx/*")]}
    assert inside == set(config.files)
    assert (folder / "README.md").read_text(encoding="utf-8") == make_card(folder)
    data = ModelCard.load(folder / "README.md").data
    assert (data["license_name"], data["license_link"]) == ("skipae-weights", "LICENSE.md")
    assert (folder / "LICENSE.md").read_text(encoding="utf-8").startswith("# License of these weights")
    parity = json.loads((folder / "training" / "parity.json").read_text())
    assert parity["output"] <= TOLERANCE[parity["storage"]] and parity["features"] <= FEATURE_TOLERANCE


@pytest.mark.parametrize("name", [name for name in NAMES if "model.safetensors" in read_config(STAGED / name).files])
def test_onnx_and_safetensors_hold_one_network(name):
    network, files = Network.from_checkpoint(STAGED / name), read_config(STAGED / name).files
    generator = torch.Generator().manual_seed(0)
    for n, height, width in PARITY_SIZES:
        image = torch.rand(n, 3, *(network.size or (height, width)), generator=generator)
        with torch.no_grad():
            wanted, output = network.features(image), network(image).numpy()
        found = session(STAGED / name / "onnx" / "features.onnx").run(list(wanted), {"pixel_values": image.numpy()})
        for got, want in zip(found, wanted.values(), strict=True):
            assert np.abs(got - want.numpy()).max() <= FEATURE_TOLERANCE * want.max()
        if "onnx/model.onnx" in files:
            got = session(STAGED / name / "onnx" / "model.onnx").run(None, {"pixel_values": image.numpy()})[0]
            assert np.abs(got - output).max() <= TOLERANCE["float16"] * max(1.0, np.abs(output).max())


def test_all_weights_together_stay_small():
    files = {path.resolve() for end in ("onnx", "safetensors") for path in STAGED.glob(f"**/*.{end}")}
    files |= {path.resolve() for path in (STAGED / "skipae-natural" / "onnx").iterdir()}
    assert len(files) > 3 and sum(file.stat().st_size for file in files) < 120_000_000


def test_a_mirror_of_them_gives_features_of_every_layer_and_classes(monkeypatch):
    monkeypatch.setenv("SKIPAE_MIRROR", str(STAGED))
    model = from_pretrained("skipae-imagenet", device="cpu")
    found = model.features(PHOTO, layers=[layer.name for layer in model.layers])
    assert [values.shape for values in found.values()] == [(1, layer.channels) for layer in model.layers]
    assert len(found) == 13 and all(values.std() > 0.01 for values in found.values())
    labels = from_pretrained("skipae-voc12-seg", device="cpu").segment(PHOTO)
    with Image.open(PHOTO) as photo:
        assert labels.size == photo.size
    scores = from_pretrained("skipae-cifar10-4k", device="cpu").classify(PHOTO, top=10)
    assert len(dict(scores)) == 10 and sum(score for _, score in scores) == pytest.approx(1)
