"""Scores of the paper's tables: accuracy, PSNR, SSIM, VOC's average precision, mean IoU.

torchmetrics counts where it has the same definition; the definition of VOC 2007's average precision it has not.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipae_train.datasets.sets import VOID
from skipae_train.errors import TrainingError

try:
    from torchmetrics.functional.classification import multiclass_confusion_matrix
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
except (RuntimeError, OSError) as error:  # it loads torchvision where there is one
    from skipae_train.doctor import torchvision_problem

    found = torchvision_problem()
    if found is None:
        raise
    raise TrainingError(f"{found.text}: {found.repair}") from error


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return the share of samples whose highest score, float [N, K], is at their label, int64 [N]."""
    return float((scores.argmax(1) == labels).double().mean())


def psnr(clean: Tensor | NDArray[np.number], other: Tensor | NDArray[np.number], peak: float = 1.0) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of each image, over its pixels and channels.

    Takes [N, C, H, W] (or [N, H, W, C]), tensors or arrays, in units where the largest value is ``peak``; returns
    float64 [N], infinite for equal images.
    """
    clean, other = (torch.tensor(x) if isinstance(x, np.ndarray) else x for x in (clean, other))
    return peak_signal_noise_ratio(
        other.double(), clean.double(), data_range=peak, reduction="none", dim=tuple(range(1, clean.ndim))
    )


def decibels(error: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB, at most 100, of mean squared errors of values in [0, 1]."""
    return -10 * error.clamp(min=1e-10).log10()


def ssim(clean: Tensor, other: Tensor, peak: float = 1.0) -> Tensor:
    """Return the structural similarity of each image (Wang et al. 2004: Gaussian window of 11 x 11,
    sigma 1.5), float64 [N].

    Takes [N, C, H, W], H and W at least 11, in units where the largest value is ``peak``; averaged over channels.
    """
    value = structural_similarity_index_measure(
        other.double(), clean.double(), data_range=peak, reduction="none", sigma=1.5, k1=0.01, k2=0.03
    )
    if isinstance(value, tuple):
        raise TypeError("torchmetrics returned more than the similarity")
    return value.reshape(len(clean))


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Return VOC 2007's 11-point interpolated average precision of one class, as ``VOCevalcls.m`` of
    the devkit counts it.

    The mean, over recalls 0, 0.1, ..., 1, of the highest precision at that recall or more (0 where it is not
    reached).  ``scores`` are float [N]; ``labels`` int8 [N]: 1 present, 0 absent, -1 difficult, which counts neither
    way.  Equal scores keep the order of the samples.  Recalls are compared as fractions, where the devkit's
    0:0.1:1 rounds.  NaN if the class occurs nowhere.
    """
    counted = labels >= 0
    scores, found = scores[counted], labels[counted] > 0
    found = found[torch.sort(scores, descending=True, stable=True).indices]
    hits = found.long().cumsum(0)
    total = int(found.sum())
    if not total:
        return float("nan")
    precision = hits.double() / torch.arange(1, len(hits) + 1, device=hits.device)
    best = [precision[10 * hits >= tenth * total].max() for tenth in range(11)]
    return float(torch.stack(best).mean())


def mean_average_precision(scores: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Return the mean of :func:`average_precision` over the classes that occur, and that of each class, float64 [K].

    Takes float [N, K] and int8 [N, K].
    """
    each = torch.tensor([average_precision(s, t) for s, t in zip(scores.T, labels.T, strict=True)], dtype=torch.float64)
    return float(each.nanmean()), each


def confusion(predicted: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Return pixels of true class i that were called j, int64 [classes, classes]; :data:`VOID` pixels do not count.

    Takes classes as integers of one shape.  Matrices of batches and processes add up to that of the set.
    """
    matrix = multiclass_confusion_matrix(
        predicted.long().flatten(), masks.long().flatten(), classes, ignore_index=VOID, validate_args=False
    )
    return matrix.long()


def mean_iou(matrix: Tensor) -> tuple[float, Tensor]:
    """Return the intersection over union, from one confusion matrix of the whole set, [K, K]: the mean,
    and each class's, [K].

    A class that the masks do not have is NaN and left out of the mean: pixels called it are wrong in others already.
    """
    matrix = matrix.double()
    both, there = matrix.diagonal(), matrix.sum(1)
    each = (both / (matrix.sum(0) + there - both)).where(there > 0, torch.nan)
    return float(each.nanmean()), each
