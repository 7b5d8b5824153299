"""How the learning rate changes over a run."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine down to ``floor``."""

    warmup: int
    floor: float = 0.005

    def __call__(self, step: int, steps: int) -> float:
        """Return the factor on the learning rate at ``step`` of ``steps``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class Trapezoid:
    """Linear warm-up, constant, then linearly down to 0 over the last ``cooldown``, a share of the run.

    Up to there the steps do not depend on the run's length, which may therefore be chosen on the way.
    """

    warmup: int
    cooldown: float

    def __call__(self, step: int, steps: int) -> float:
        """Return the factor on the learning rate at ``step`` of ``steps``."""
        return min(1.0, (step + 1) / self.warmup, (steps - step) / (self.cooldown * steps))


@dataclass(frozen=True)
class Milestones:
    """Multiplied by ``factor`` at each share of the run (supplement B: 60 and 90 of 120 epochs)."""

    at: tuple[float, ...]
    factor: float = 0.1

    def __call__(self, step: int, steps: int) -> float:
        """Return the factor on the learning rate at ``step`` of ``steps``."""
        return self.factor ** sum(step >= share * steps for share in self.at)


Schedule = Cosine | Trapezoid | Milestones
