"""Optimisers, learning-rate schedule and weight averaging."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MatrixMuon(torch.optim.Muon):
    """torch's Muon for weights of any rank: each is updated through its (outputs, everything else) matrix.

    The update has the root mean square of AdamW's, 0.2 sqrt(max(rows, columns)) (Liu et al. 2025,
    arXiv 2502.16982), so that AdamW's learning rates fit.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        self._weights = list(weights)
        matrices = [weight.detach().flatten(1) for weight in self._weights]
        for weight, matrix in zip(self._weights, matrices, strict=True):
            if weight.data_ptr() != matrix.data_ptr():
                raise ValueError("Muon needs contiguous weights, or it would update copies")
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        for weight, matrix in zip(self._weights, self.param_groups[0]["params"], strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for weight in self._weights:
            weight.grad = None


def is_hidden_matrix(name: str, weight: Tensor) -> bool:
    """Tell whether Muon suits a UNet's weight: the inner convolutions and linear maps, not the ends or embeddings."""
    return weight.ndim >= 2 and not name.startswith(("conv_in", "conv_out", "time_embedding"))


def learning_rate_factor(step: int, total: int, warmup: int, constant_share: float, floor: float = 0.01) -> float:
    """Return the factor of the learning rate: a linear warm-up, a constant share of the run, a cosine to ``floor``."""
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    progress = step / max(total, 1)
    if progress <= constant_share or constant_share >= 1:
        return rise
    phase = (progress - constant_share) / (1 - constant_share)
    return rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(phase, 1.0))))


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return the exponential moving average of ``model``; its decay grows as (1 + n) / (10 + n) at first."""

    @torch.no_grad()
    def blend(averages: list[Tensor], weights: list[Tensor], count: Tensor | int) -> None:
        n = int(count)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        for average, current in zip(averages, weights, strict=True):
            average.lerp_(current, weight)

    average = AveragedModel(model, multi_avg_fn=blend)
    average.module.requires_grad_(False)
    return average
