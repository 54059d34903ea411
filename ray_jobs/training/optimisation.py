"""Optimisers, learning-rate schedule and weight averaging."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


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


Tensors = tuple[Tensor, ...] | list[Tensor]


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return the exponential moving average of ``model``; its decay grows as (1 + n) / (10 + n) at first."""

    @torch.no_grad()
    def blend(averages: Tensors, weights: Tensors, count: Tensor | int) -> None:
        n = int(count)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        for average, current in zip(averages, weights, strict=True):
            average.lerp_(current, weight)

    average = AveragedModel(model, multi_avg_fn=blend)
    average.module.requires_grad_(False)
    return average
