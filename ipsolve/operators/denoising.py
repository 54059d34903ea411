"""Denoising: A is the identity."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from ipsolve.operators.base import OPERATORS, OperatorSpec, Shape, Theta
from ipsolve.operators.mask import Mask
from ipsolve.signal import EVERY, Kind


@OPERATORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Denoising(OperatorSpec):
    """y = x + noise."""

    name: ClassVar[str] = "denoising"
    signals: ClassVar[frozenset[Kind]] = EVERY

    @property
    def spectral(self) -> bool:
        return True

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> Mask:
        return Mask(torch.ones([1] * (1 + len(image_shape)), dtype=dtype, device=device), image_shape)
