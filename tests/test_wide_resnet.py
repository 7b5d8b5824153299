"""The Wide-ResNet auto-encoder of supplement C."""

from typing import Any

import pytest
import torch

from skipae_train.wide_resnet import Block, WideResNet, WideResNetAutoEncoder


def test_the_encoder_is_a_wide_resnet():
    """WRN-16-4 has 2.7 million weights (arXiv:1605.07146, table 4: 2.7 M), all but its fc and last batch norm here."""
    assert [width for _, width, _ in WideResNet(16, 4).blocks] == [64, 64, 128, 128, 256, 256]
    assert [stride for _, _, stride in WideResNet(16, 4).blocks] == [1, 1, 2, 1, 2, 1]
    network = WideResNetAutoEncoder(WideResNet(16, 4))
    weights = sum(p.numel() for part in (network.first, network.encoder) for p in part.parameters())
    assert weights + 2 * 256 + 256 * 10 + 10 == 2_748_890
    for depth, widen in ((15, 4), (4, 4), (16, 0)):
        with pytest.raises(ValueError, match=r"must be"):
            WideResNet(depth, widen)


@pytest.mark.parametrize("size", [(1, 1), (29, 29), (33, 18)])
def test_it_restores_images_of_any_size(size):
    network = WideResNetAutoEncoder(WideResNet(10, 1)).eval()
    with torch.no_grad():
        assert network(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_every_weight_gets_a_gradient():
    torch.manual_seed(0)
    network = WideResNetAutoEncoder(WideResNet(16, 1))
    network(torch.rand(2, 3, 16, 17)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_shortcuts_carry_the_input_of_each_mirror():
    """With all deconvolutions 0, what reaches the output is the first convolution, carried by the first shortcut."""
    torch.manual_seed(0)
    network = WideResNetAutoEncoder(WideResNet(10, 1)).eval()
    torch.nn.init.normal_(network.last.weight)
    block: Any
    for block in network.decoder:
        for module in block.modules():
            if isinstance(module, torch.nn.ConvTranspose2d):
                torch.nn.init.zeros_(module.weight)
        block.project = torch.nn.ConvTranspose2d(1, 1, 1) if block.project is None else block.project
        block.project.forward = lambda x, output_size: torch.zeros(())
    image = torch.rand(1, 3, 12, 12)
    pixels = (image - network.mean) / network.std
    carried = network.last(torch.relu(network.norm(network.first(pixels)))) + pixels
    torch.testing.assert_close(network(image), carried * network.std + network.mean)


def test_it_learns():
    torch.manual_seed(0)
    network = WideResNetAutoEncoder(WideResNet(10, 1))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    clean = torch.nn.functional.interpolate(torch.rand(8, 3, 3, 3), size=(16, 16), mode="bilinear")
    noisy = clean + 0.2 * torch.randn_like(clean)
    before = float((noisy - clean).square().mean())
    for _ in range(40):
        loss = (network(noisy) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < before / 3


def test_a_mirrored_block_undoes_the_size_of_its_mirror():
    block, mirror = Block(4, 6, 2, mirrored=False), Block(4, 6, 2, mirrored=True)
    for height, width in ((7, 8), (8, 7), (1, 2)):
        x = torch.rand(2, 4, height, width)
        inner = block(x)
        assert inner.shape == (2, 6, -(-height // 2), -(-width // 2))
        assert mirror(inner, x.shape[-2:]).shape == x.shape
