"""Muon: momentum whose steps are made orthogonal (Jordan et al., 2024), for the kernels of convolutions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized by five Newton-Schulz steps.

    A kernel [A, B, k, k] counts as a matrix [A, B k²].  Steps are scaled to a root mean square of ``0.2 lr``, so
    that learning rates of ADAM's order fit ("Muon is Scalable for LLM Training", section 2.2).  ``torch.optim.Muon``
    takes matrices alone.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all kernels that have a gradient."""
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["momentum"] = torch.zeros_like(kernel)
                average = state["momentum"].lerp_(kernel.grad, 1 - group["momentum"])
                matrix = kernel.grad.lerp(average, group["momentum"]).flatten(1)
                update = orthogonal(matrix).view(kernel.shape)
                kernel.sub_(update, alpha=0.2 * max(matrix.shape) ** 0.5 * group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about the nearest matrix with singular values of 1 (in fact 0.7 to 1.2), float32 [A, B]."""
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return (x.T if tall else x).float()
