import io

import numpy as np
import pytest
import torch
from PIL import Image

from skipae_train.corruption import BlockMask, GaussianNoise, as_file, jpeg
from skipae_train.photo_damage import PhotoDamage


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def photos(n=4, side=64):
    """Smooth colorful pictures with some texture."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    planes = [0.5 + 0.4 * torch.sin(9 * x + i) * torch.cos(7 * y + 2 * c) for i in range(n) for c in range(3)]
    return torch.stack(planes).view(n, 3, side, side)


@pytest.mark.parametrize("sigma", [15.0, 30.0, 50.0])
def test_gaussian_noise_has_the_stated_deviation_in_grey_levels(sigma):
    clean = torch.full((4, 3, 64, 64), 0.5)
    noise = (GaussianNoise((sigma, sigma))(clean, generator()) - clean) * 255
    assert abs(float(noise.std()) / sigma - 1) < 0.02
    assert abs(float(noise.mean())) < 0.02 * sigma


def test_every_sample_draws_its_own_level():
    noise = GaussianNoise((0.0, 55.0))(photos(8), generator()) - photos(8)
    levels = noise.flatten(1).std(1) * 255
    assert len({round(float(v), 1) for v in levels}) == 8
    assert levels.max() < 57


def test_noise_as_a_file_is_clipped_and_rounded():
    noisy = GaussianNoise((50.0, 50.0), as_file=1.0)(photos(), generator()) * 255
    assert noisy.min() >= 0
    assert noisy.max() <= 255
    torch.testing.assert_close(noisy, noisy.round(), atol=1e-4, rtol=0)


def test_paper_noise_is_never_clipped():
    assert GaussianNoise()(torch.ones(1, 3, 32, 32), generator()).max() > 1


@pytest.mark.parametrize(
    "corruption", [GaussianNoise((0, 55), 0.5), BlockMask("big"), BlockMask(), PhotoDamage(masked=0.5)]
)
def test_a_seed_gives_the_same_corruption_again(corruption):
    first, again = corruption(photos(), generator(3)), corruption(photos(), generator(3))
    assert torch.equal(first, again)
    assert not torch.equal(first, corruption(photos(), generator(4)))
    assert first.shape == photos().shape
    assert bool(first.isfinite().all())


def test_big_mask_is_one_square_of_half_the_side():
    mask = BlockMask("big").mask(photos(), generator())[:, 0]
    assert mask.float().mean((1, 2)).tolist() == [0.25] * 4
    for picture in mask:
        rows, columns = picture.any(1).nonzero().flatten(), picture.any(0).nonzero().flatten()
        assert len(rows) == len(columns) == 32
        assert bool(picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all())


def test_small_mask_covers_a_quarter_and_leaves_the_rest():
    clean = photos()
    corruption = BlockMask("small", fill=(0.1, 0.2, 0.3))
    mask = corruption.mask(clean, generator())
    share = mask.float().mean((1, 2, 3))
    assert float(share.min()) >= 0.25
    assert float(share.max()) < 0.25 + 1 / 16 + 0.01
    damaged = corruption(clean, generator())
    assert torch.equal(damaged[~mask.expand_as(clean)], clean[~mask.expand_as(clean)])
    filled = damaged.permute(0, 2, 3, 1)[mask[:, 0]]
    torch.testing.assert_close(filled, torch.tensor([0.1, 0.2, 0.3]).expand_as(filled))


def test_small_masks_of_a_range_differ_from_sample_to_sample():
    clean = photos().repeat(16, 1, 1, 1)
    share = BlockMask("small", coverage=(0.1, 0.6)).mask(clean, generator()).float().mean((1, 2, 3))
    assert 0.1 <= float(share.min()) < 0.2 and 0.5 < float(share.max()) < 0.6 + 1 / 16 + 0.01
    assert abs(float(share.mean()) - 0.37) < 0.06


@pytest.mark.parametrize(("quality", "subsample"), [(70, True), (90, False), (95, True)])
def test_jpeg_is_libjpegs(quality, subsample):
    clean = as_file(photos() + 0.1 * torch.rand(4, 3, 64, 64, generator=generator()))
    ours = jpeg(clean, torch.full((4, 1, 1, 1), float(quality)), torch.full((4, 1, 1, 1), subsample))
    for picture, got in zip(clean, ours, strict=True):
        buffer = io.BytesIO()
        pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2 if subsample else 0)
        theirs = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1) / 255
        damage = float((theirs - picture).square().mean())
        assert float((got - theirs).square().mean()) < 0.15 * damage
        assert abs(float((got - picture).square().mean()) / damage - 1) < 0.1


def test_photo_damage_draws_all_its_kinds():
    clean = photos(64, 48)
    fill = (0.45, 0.44, 0.4)
    damaged = PhotoDamage(masked=0.5, fill=fill)(clean, generator())
    eight_bit = ((damaged * 255).round() - damaged * 255).abs().amax((1, 2, 3)) < 1e-3
    filled = (damaged == torch.tensor(fill).view(1, 3, 1, 1)).all(1).flatten(1).any(1)
    assert 0 < int((~eight_bit & ~filled).sum()) < 30
    assert 20 < int(filled.sum()) < 45
    assert float((damaged - clean).abs().mean()) > 0.02


def test_photo_damage_of_gray_photos_is_gray_for_the_most_part():
    clean = photos(64, 32)[:, :1].expand(-1, 3, -1, -1)
    damaged = PhotoDamage(masked=0)(clean, generator())
    gray = (damaged == damaged[:, :1]).flatten(1).all(1).float().mean()
    assert 0.5 < float(gray) < 0.9
