import pytest
import torch

from skipae_train.deepen import deepened
from skipae_train.errors import RefusedError
from skipae_train.networks import AutoEncoder
from skipae_zoo import network_1, network_2, network_3

SMALL = [
    network_1((2, 2, 3, 3), 2),
    network_1((1, 3, 3, 3), 2, topology="post"),
    network_1((5, 5, 5, 0), 2),
    network_1((2, 2, 1, 0), 3, shortcuts="input-output"),
    network_1((2, 2, 1, 0), 3, shortcuts="none"),
    network_2(3),
    network_2(3, topology="post"),
    network_3(2),
    network_1((4, 2, 5, 0), 2, widths=(2, 3, 4, 5), residual=True, refine=2, norm="none"),
    network_1((2, 4, 1, 0), 3, topology="post", residual=True, refine=1),
]


def trained_a_little(architecture, seed=0):
    """A network whose batch norms have statistics and whose weights are not tiny."""
    torch.manual_seed(seed)
    network = AutoEncoder(architecture, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), init="he")
    for _ in range(2):
        network(torch.rand(4, 3, 48, 48))
    return network.eval()


@pytest.mark.parametrize("architecture", SMALL, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (29, 29), (33, 18), (64, 1)])
def test_the_result_has_exactly_the_size_of_the_image(architecture, size):
    network = trained_a_little(architecture)
    with torch.no_grad():
        assert network(torch.rand(2, 3, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize("architecture", SMALL, ids=str)
def test_features_have_the_sizes_of_the_layer_table(architecture):
    found = trained_a_little(architecture).features(torch.rand(2, 3, 37, 30))
    expected = {layer.name: (2, layer.channels, *layer.output_size(37, 30)) for layer in architecture.layers}
    assert {name: tuple(value.shape) for name, value in found.items()} == expected
    assert all(value.min() >= 0 for value in found.values())


@pytest.mark.parametrize("architecture", SMALL, ids=str)
def test_every_weight_gets_a_gradient(architecture):
    network = AutoEncoder(architecture, init="he")
    network(torch.rand(2, 3, 48, 48)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("topology", ["pre", "post"])
def test_a_shortcut_carries_what_its_topology_says(topology):
    """With all convolution weights 0, what is left of dec3's sum is the shortcut of enc2 (plus batch norm's shift)."""
    network = trained_a_little(network_1((2, 2, 0, 0), 4, topology=topology))
    image = torch.rand(1, 3, 16, 16)
    pixels = (image - network.mean) / network.std
    _, skips = network.encode(pixels)
    raw = network.encoder["enc2"].conv(torch.relu(network.encoder["enc1"].norm(network.encoder["enc1"].conv(pixels))))
    expected = raw if topology == "pre" else torch.relu(network.encoder["enc2"].norm(raw))
    torch.testing.assert_close(skips[1], expected)


def test_a_residual_unit_adds_what_goes_in_to_what_comes_out():
    network = trained_a_little(network_1((4, 1, 0, 0), 3, topology="post", residual=True))
    assert network.architecture.units == ((2, 3),)
    image = torch.rand(1, 3, 16, 16)
    found, x = network.features(image), network.normalize(image)
    for name in ("enc1", "enc2", "enc3"):
        unit = network.unit(name)
        x = torch.relu(unit.norm(unit.conv(x)))
    torch.testing.assert_close(found["enc3"], x + found["enc1"])
    for name in ("dec3", "dec2"):  # nothing is left of the mirror but what goes in
        torch.nn.init.zeros_(network.unit(name).norm.weight)
    deep, skips = network.encode(network.normalize(image))
    entering = torch.nn.functional.relu(network.unit("dec5").norm(network.unit("dec5").conv(deep, output_size=(8, 8))))
    unit = network.unit("dec4")
    entering = torch.relu(unit.norm(unit.conv(entering + skips[3], output_size=(16, 16))))
    torch.testing.assert_close(network.decode(deep, skips), entering)


def test_the_input_shortcut_alone_makes_the_identity():
    network = trained_a_little(network_1((2, 2, 1, 0), 3, shortcuts="input-output"))
    torch.nn.init.zeros_(network.decoder["dec1"].conv.weight)
    torch.nn.init.zeros_(network.decoder["dec1"].conv.bias)
    image = torch.rand(1, 3, 20, 20)
    torch.testing.assert_close(network(image), image)


def test_paper_initialization():
    weights = torch.cat(
        [p.detach().flatten() for n, p in AutoEncoder(network_2(32)).named_parameters() if "conv.weight" in n]
    )
    assert abs(float(weights.std()) - 0.01) < 3e-4
    assert abs(float(weights.mean())) < 1e-4


def test_he_initialization_keeps_the_variance():
    torch.manual_seed(0)
    network = AutoEncoder(network_1((3, 3, 0, 0), 32), init="he")
    x = torch.randn(1, 64, 12, 12).relu()
    for name in ("dec6", "dec5"):
        with torch.no_grad():
            y = network.unit(name).conv(x, output_size=(24, 24))
        ratio = float(y.square().mean() / (2 * x.square().mean()))
        assert 0.7 < ratio < 1.3
        x = y.relu()


def test_unknown_initialization_is_refused():
    with pytest.raises(ValueError, match="init must be 'normal'"):
        AutoEncoder(network_2(2), init="xavier")  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("m", [(5, 3, 3, 2), (3, 5, 3, 2), (5, 5, 5, 2)])
def test_a_deeper_network_begins_as_the_one_it_is_made_of(m, norm, monkeypatch):
    network = trained_a_little(network_1((3, 3, 3, 2), 4, topology="post", norm=norm))
    architecture = network_1(m, 4, topology="post", norm=norm, residual=True)
    image = torch.rand(2, 3, 45, 38)
    deeper = deepened(network, architecture)
    assert deeper.architecture == architecture
    deeper(image).square().mean().backward()
    assert [name for name, p in deeper.named_parameters() if p.grad is None or not p.grad.any()] == []
    monkeypatch.setattr("skipae_train.deepen.GAIN", 0.0)
    with torch.no_grad():
        torch.testing.assert_close(deepened(network, architecture)(image), network(image), atol=1e-5, rtol=1e-5)
        assert 0 < (deeper(image) - network(image)).abs().max() < 0.05


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (network_1((3, 3, 0, 0), 4, topology="post"), network_1((4, 3, 0, 0), 4, topology="post", residual=True)),
        (network_1((3, 3, 0, 0), 4, topology="post"), network_1((5, 3, 0, 0), 8, topology="post", residual=True)),
        (network_1((3, 3, 0, 0), 4, topology="post"), network_1((5, 3, 0, 0), 4, topology="post")),
        (network_1((3, 3, 0, 0), 4, topology="post"), network_1((7, 3, 0, 0), 4, topology="post", residual=True)),
        (network_1((5, 3, 0, 0), 4, topology="post"), network_1((5, 5, 0, 0), 4, topology="post", residual=True)),
        (network_1((3, 3, 0, 0), 4), network_1((5, 3, 0, 0), 4, residual=True)),
        (network_2(4), network_1((5, 3, 0, 0), 4, topology="post", residual=True)),
    ],
    ids=["odd", "wider", "no units", "two units", "units before", "pre", "network-2"],
)
def test_a_network_that_cannot_become_the_deeper_one_is_refused(found, wanted):
    with pytest.raises(RefusedError, match="and nothing else may differ"):
        deepened(trained_a_little(found), wanted)
