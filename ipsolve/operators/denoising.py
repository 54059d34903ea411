"""Denoising: A is the identity."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from ipsolve.operators.base import OPERATORS, OperatorSpec, Shape
from ipsolve.operators.mask import Mask
from ipsolve.randomness import ImageRng


@OPERATORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Denoising(OperatorSpec):
    """y = x + noise."""

    name: ClassVar[str] = "denoising"

    @property
    def spectral(self) -> bool:
        return True

    def draw(self, image_shape: Shape, rng: ImageRng, dtype: torch.dtype = torch.float32) -> Mask:
        return Mask(torch.ones(rng.batch_size, 1, 1, 1, dtype=dtype, device=rng.device), image_shape)
