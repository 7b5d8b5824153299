"""Random numbers without a state: hashes (SplitMix64; Steele et al., OOPSLA 2014) of what they are for.

A sample is cropped, flipped and corrupted in the same way in whatever batch and process it falls, because its numbers
depend on the seed, the epoch and its place in the set alone.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor


class Draw(IntEnum):
    """What random numbers are for: mixed into a run's seed, so that no two choices follow the same permutation."""

    CORRUPTION = 1
    TEST_CROPS = 2
    HELD_OUT = 3
    LABELED = 4
    SAMPLES = 5
    PRETRAINING = 6
    """Mixed into the seed of what pre-training holds out, so that fine-tuning holds out other images."""
    PHOTOS = 7
    """Which photo a sample is of."""


class SampleRandom:
    """A stream of random numbers for each of some samples, at ``indices`` int64 [N], on their device."""

    def __init__(self, seed: int, epoch: int, indices: Tensor) -> None:
        self.seed, self.epoch, self.indices, self.drawn = seed, epoch, indices, 0

    def rand(self, *shape: int) -> Tensor:
        """Return uniform numbers in [0, 1), float32 [N, *shape]; the next call gives new ones."""
        count = math.prod(shape)
        self.drawn += count
        return uniforms(self.seed, self.epoch, self.indices, count, first=self.drawn - count).view(-1, *shape)

    def randn(self, *shape: int) -> Tensor:
        """Return standard normal numbers, float32 [N, *shape], by Box and Muller."""
        radius = (-2 * torch.log1p(-self.rand(*shape))).sqrt_()
        return radius * (2 * math.pi * self.rand(*shape)).cos_()


def derive_seed(*numbers: int) -> int:
    """Return a seed in [0, 2**63) out of several numbers, unrelated to those of neighboring numbers (SplitMix64)."""
    state = 0
    for number in numbers:
        state = ((state ^ number) + _GAMMA) % 2**64
        for shift, factor in _ROUNDS:
            state = (state ^ (state >> shift)) * factor % 2**64
        state ^= state >> 31
    return state >> 1


def permutation(count: int, seed: int, purpose: Draw) -> Tensor:
    """Return positions 0 to ``count`` - 1 in random order, int64 [count], another for every purpose."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed(seed, purpose)))


def uniforms(seed: int, epoch: int, indices: Tensor, count: int, *, first: int = 0) -> Tensor:
    """Return random numbers of each sample: float32 [B, count], uniform in [0, 1), on the device
    of ``indices``, int64 [B].

    A sample's numbers are a hash of ``seed``, ``epoch``, its index and the column, counted from ``first``; they are the
    same on every device.
    """
    columns = torch.arange(first, first + count, device=indices.device)
    bits = _hash(_hash(indices[:, None] ^ derive_seed(seed, epoch)) ^ columns)
    return _shifted(bits, 40).float() / 2**24


_GAMMA = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def _signed(number: int) -> int:
    """Return the int64 that has the bits of an unsigned number."""
    return number - 2**64 if number >= 2**63 else number


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift int64 right, filling with zeros."""
    return torch.bitwise_and(bits >> by, 2 ** (64 - by) - 1)


def _hash(state: Tensor) -> Tensor:
    """Return the SplitMix64 hash of int64 of any shape; products wrap around."""
    state = state + _signed(_GAMMA)
    for shift, factor in _ROUNDS:
        state = (state ^ _shifted(state, shift)) * _signed(factor)
    return state ^ _shifted(state, 31)
