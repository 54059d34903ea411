"""Muon on the weights of convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


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
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        for weight, matrix in zip(self._weights, self.param_groups[0]["params"], strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        return super().step(closure)  # type: ignore[no-untyped-call]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for weight in self._weights:
            weight.grad = None
