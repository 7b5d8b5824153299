"""The model of camera noise: reproducible, and with the statistics of real noise."""

import pytest
import torch
from PIL import Image

from skipae_train.camera_noise import CameraNoise, _bayer, _bilinear, _hamilton_adams, _malvar, _toned, _untoned
from skipae_train.data import DataError
from skipae_train.pairs import find_pairs


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise_on(level, corruption, n=96, side=48):
    """Noise in gray levels on flat pictures with a tint, its mean taken out."""
    clean = torch.tensor([1.0, 0.98, 0.96]).view(1, 3, 1, 1).expand(n, 3, side, side) * level
    noise = (corruption(clean, generator()) - clean) * 255
    return noise - noise.mean((2, 3), keepdim=True)


def neighbors(noise):
    """Correlation with the next pixel, per sample."""
    return (noise[..., 1:] * noise[..., :-1]).mean((1, 2, 3)) / noise.square().mean((1, 2, 3))


def between(noise, first, second):
    """Correlation of two channels, per sample."""
    product = (noise[:, first] * noise[:, second]).mean((1, 2))
    return product / (noise[:, first].square().mean((1, 2)) * noise[:, second].square().mean((1, 2))).sqrt()


STRONG = CameraNoise(gain=(2e-3, 2e-2), jpeg=0.0)


def test_a_seed_gives_the_same_noise_again():
    clean = torch.rand(6, 3, 33, 40, generator=generator(1))
    first = CameraNoise()(clean, generator(3))
    assert torch.equal(first, CameraNoise()(clean, generator(3)))
    assert not torch.equal(first, CameraNoise()(clean, generator(4)))
    assert first.shape == clean.shape
    torch.testing.assert_close(first * 255, (first * 255).round().clamp(0, 255), atol=1e-4, rtol=0)


def test_weak_and_strong_noise_are_equally_frequent():
    deviation = noise_on(0.5, CameraNoise(), n=256).flatten(1).std(1)
    assert 0.35 < float(((deviation > 0.5) & (deviation < 5)).float().mean()) < 0.7
    assert float((deviation > 10).float().mean()) > 0.1


def test_neighboring_pixels_are_correlated_as_in_real_photos():
    found = neighbors(noise_on(0.5, STRONG))
    assert 0.4 < float(found.median()) < 0.7
    assert float((found < 0.2).float().mean()) > 0.03  # per-pixel noise of photos shrunk a lot
    assert float(((found > 0.3) & (found < 0.8)).float().mean()) > 0.6


def test_noise_reduction_ties_channels_and_neighbors_together():
    plain = noise_on(0.5, CameraNoise((2e-3, 2e-2), reduced=0, resized=0, jpeg=0))
    reduced = noise_on(0.5, CameraNoise((2e-3, 2e-2), reduced=1, resized=0, jpeg=0))
    assert between(plain, 0, 1).median() < 0.4 < 0.55 < between(reduced, 0, 1).median()
    assert neighbors(reduced).median() > neighbors(plain).median() + 0.05


def test_noise_depends_on_the_signal():
    # The tone curve lifts dark levels; white is clipped.
    dark, middle, white = (float(noise_on(v, STRONG).flatten(1).std(1).median()) for v in (0.15, 0.4, 1.0))
    assert middle > 1.5 * white and dark > 1.5 * white
    # In linear light the variance at a photosite grows with the signal.
    plain = CameraNoise((5e-3, 5e-3), per_pixel=1, reduced=0, resized=0, jpeg=0)
    linear = [(plain(torch.full((96, 3, 32, 32), v), generator()) ** 2.2).std((2, 3)).median() for v in (0.25, 0.6)]
    assert linear[1] > 1.5 * linear[0]


def test_noise_neither_brightens_nor_darkens_shadows():
    for level in 2, 5, 10, 20:
        clean = torch.full((256, 3, 48, 48), level / 255)
        noise = (CameraNoise()(clean, generator()) - clean) * 255
        assert abs(float(noise.mean())) < 0.6, level  # 1.3 to 4 gray levels at 2 to 10 without `symmetric` and `toe`
        assert float(noise.std()) > 1


def test_without_a_signal_to_disturb_nothing_changes():
    clean = (torch.rand(8, 3, 32, 32, generator=generator(1)) * 255).round() / 255
    torch.testing.assert_close(CameraNoise(gain=(1e-12, 1e-12), jpeg=0)(clean, generator()), clean, atol=1e-3, rtol=0)


def test_gray_pictures_get_gray_noise_for_the_most_part():
    clean = torch.rand(64, 1, 32, 32, generator=generator(1)).expand(-1, 3, -1, -1)
    noisy = CameraNoise()(clean, generator())
    gray = ((noisy == noisy[:, :1]).flatten(1).all(1)).float().mean()
    assert 0.5 < float(gray) < 0.9


@pytest.mark.parametrize("contrast", [1.0, 1.5])
def test_tone_curve_and_its_inverse(contrast):
    levels = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
    found = _toned(_untoned(levels, torch.tensor(contrast)), torch.tensor(contrast))
    torch.testing.assert_close(found, levels, atol=2e-3, rtol=0)


@pytest.mark.parametrize("demosaic", [_bilinear, _malvar, _hamilton_adams])
def test_demosaicing_restores_smooth_gray_pictures_and_keeps_what_was_sampled(demosaic):
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(20.0), indexing="ij")
    image = (0.01 * x + 0.02 * y).expand(8, 3, -1, -1).contiguous()
    masks = _bayer(image, generator())
    found = demosaic(image, masks)
    torch.testing.assert_close(found[..., 3:-3, 3:-3], image[..., 3:-3, 3:-3], atol=1e-5, rtol=0)
    noise = torch.randn(8, 3, 24, 20, generator=generator())
    torch.testing.assert_close(demosaic(noise, masks)[masks], noise[masks], atol=1e-5, rtol=0)


def test_pairs_are_found_by_camera_in_both_layouts(tmp_path):
    sidd = tmp_path / "0005_001_S6_00100_00060_4400_N"
    sidd.mkdir()
    names = ["A1_desk_real.png", "A1_desk_mean.png", "B2_desk_real.png", "B2_desk_mean.png"]
    for file in [*(tmp_path / name for name in names), sidd / "NOISY_SRGB_010.PNG", sidd / "GT_SRGB_010.PNG"]:
        Image.new("RGB", (8, 8)).save(file)
    assert [(pair.camera, pair.scene) for pair in find_pairs(tmp_path)] == [
        ("S6", "001"),
        ("A1", "desk"),
        ("B2", "desk"),
    ]
    (only,) = find_pairs(tmp_path, cameras=("S6",))
    assert (only.clean.name, only.noisy.name) == ("GT_SRGB_010.PNG", "NOISY_SRGB_010.PNG")
    assert [pair.clean.name for pair in find_pairs(tmp_path, without=("S6", "B2"))] == ["A1_desk_mean.png"]
    with pytest.raises(DataError, match="has no pairs of the camera C3: choose from A1, B2, S6"):
        find_pairs(tmp_path, without=("C3",))
    with pytest.raises(DataError, match=r"no camera of .* is left"):
        find_pairs(tmp_path, without=("S6", "A1", "B2"))
    (tmp_path / "A1_desk_mean.png").unlink()
    with pytest.raises(DataError, match=r"has no partner A1_desk_mean\.png"):
        find_pairs(tmp_path)
