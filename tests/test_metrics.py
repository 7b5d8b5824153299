"""Scores, by hand."""

import numpy as np
import pytest
import torch

from skipae_train.metrics import accuracy, average_precision, confusion, mean_average_precision, mean_iou, psnr, ssim


def test_accuracy():
    assert accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]]), torch.tensor([1, 1, 1])) == pytest.approx(2 / 3)


def test_psnr_is_per_image():
    clean = torch.full((2, 3, 8, 8), 0.5)
    other = clean + torch.tensor([0.1, 0.0]).view(2, 1, 1, 1)
    assert psnr(clean, other).tolist() == pytest.approx([20, float("inf")])
    # Arrays of 8-bit images too: 20 log10(255 / 5).
    gray = np.full((1, 4, 4, 3), 100, np.uint8)
    assert psnr(gray, gray + np.uint8(5), 255).item() == pytest.approx(20 * np.log10(255 / 5))


def test_ssim():
    """Of flat images: only the luminance term differs from 1, (2 a b + c1) / (a^2 + b^2 + c1)."""
    clean = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert ssim(clean, clean).tolist() == pytest.approx([1, 1])
    assert ssim(clean, clean.flip(0))[0] < 0.5
    a, b, c1 = 0.4, 0.8, 0.01**2
    flat = ssim(torch.full((1, 3, 16, 16), a), torch.full((1, 3, 16, 16), b))
    assert flat.item() == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-5)
    assert ssim(255 * clean, 255 * clean.flip(0), 255).tolist() == pytest.approx(ssim(clean, clean.flip(0)).tolist())


def devkit_ap(scores, labels):
    """``VOCevalcls.m`` line by line; labels as the devkit's 1, -1, 0 (difficult)."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    truth = np.asarray(labels)[order]
    true, false = np.cumsum(truth > 0), np.cumsum(truth < 0)
    recall = true / (truth > 0).sum()
    with np.errstate(invalid="ignore"):
        precision = true / (true + false)
    total = 0.0
    for tenth in range(11):
        reached = precision[10 * true >= tenth * (truth > 0).sum()]
        total += (np.nanmax(reached) if len(reached) else 0) / 11
    assert recall[-1] == 1
    return total


def test_average_precision_worked_examples():
    def ap(*labels):
        return average_precision(torch.arange(len(labels), 0, -1.0), torch.tensor(labels, dtype=torch.int8))

    assert ap(1, 1, 0, 0) == 1
    # Precision 1 up to recall 1/2 (recalls 0 to 0.5: six points), then 2/3 (five points).
    assert ap(1, 0, 1, 0) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    # The interpolated precision at recall 0 is the best at any recall: 2/3 everywhere.
    assert ap(0, 1, 1) == pytest.approx(2 / 3)
    # Recall 1/3 reaches 0, 0.1, 0.2, 0.3 (precision 1); 2/3 reaches 0.4, 0.5, 0.6 (1/2); 1 the rest (1/2).
    assert ap(1, 0, 0, 1, 0, 1) == pytest.approx((4 + 3 / 2 + 4 / 2) / 11)
    # Ten objects: a recall of 3/10 is a recall of 0.3.
    assert ap(1, 1, 1, *[0] * 7, *[1] * 7) == pytest.approx((4 + 7 * 10 / 17) / 11)
    # Difficult ones neither help nor harm.
    assert ap(-1, 1, -1, 0, 1, 0) == ap(1, 0, 1, 0)
    assert np.isnan(ap(0, -1, 0))


def test_average_precision_is_the_devkits():
    rng = np.random.default_rng(1)
    for size in (5, 40, 300):
        scores = rng.normal(size=size).round(1).astype(np.float32)  # with ties
        labels = rng.choice([1, 0, -1], size, p=[0.3, 0.6, 0.1]).astype(np.int8)
        labels[0] = 1
        devkit = np.where(labels == 1, 1, np.where(labels == 0, -1, 0))
        ours = average_precision(torch.from_numpy(scores), torch.from_numpy(labels))
        assert ours == pytest.approx(devkit_ap(scores, devkit))


def test_mean_average_precision_leaves_absent_classes_out():
    scores = torch.tensor([[3.0, 0.0, 1.0], [2.0, 1.0, 1.0], [1.0, 2.0, 1.0]])
    labels = torch.tensor([[1, 1, 0], [0, 0, -1], [0, 0, 0]], dtype=torch.int8)
    mean, each = mean_average_precision(scores, labels)
    assert each.tolist()[:2] == pytest.approx([1, 1 / 3]) and each[2].isnan() and mean == pytest.approx(2 / 3)


def test_mean_iou_is_of_the_whole_set():
    """Two images; averaging their own scores would give another number."""
    masks = torch.tensor([[[0, 0], [1, 255]], [[1, 1], [1, 1]]], dtype=torch.uint8)
    predicted = torch.tensor([[[0, 1], [1, 2]], [[1, 1], [1, 0]]])
    matrix = confusion(predicted[:1], masks[:1], 4) + confusion(predicted[1:], masks[1:], 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [1, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    mean, each = mean_iou(matrix)
    # Class 0: 1 of 3; class 1: 4 of 6; classes 2 and 3 occur nowhere, pixels called 2 are under 255.
    assert each[:2].tolist() == pytest.approx([1 / 3, 2 / 3]) and each[2:].isnan().all()
    assert mean == pytest.approx(0.5)
    # A class that is predicted but never there is wrong in the others, and has no share of its own.
    matrix = confusion(torch.tensor([0, 2]), torch.tensor([0, 0]), 3)
    mean, each = mean_iou(matrix)
    assert mean == pytest.approx(1 / 2) and each[1:].isnan().all()
