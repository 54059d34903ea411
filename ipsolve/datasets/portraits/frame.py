"""Coordinates of the picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """Pixel centres of a square picture in [-1, 1]: ``x`` (1, 1, size) to the right, ``y`` (1, size, 1) down."""

    x: Tensor
    y: Tensor
    pixel: float

    @classmethod
    def of_size(cls, size: int) -> Frame:
        pixel = 2.0 / size
        centres = (torch.arange(size, dtype=torch.float32) + 0.5) * pixel - 1
        return cls(centres.view(1, 1, size), centres.view(1, size, 1), pixel)
