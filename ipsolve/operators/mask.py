"""Operators that keep some pixels and drop the others."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from ipsolve.operators.base import Shape, SpectralOperator


class Mask(SpectralOperator):
    """y = mask * x, of the shape of the image, 0 where nothing is observed.

    Args:
        mask: 0 or 1, broadcastable to (B, C, H, W); of batch size 1 where it is the same for all.
        image_shape: (C, H, W).
        observed_only: whether a measurement carries data (and noise) on observed pixels only. Otherwise every
            pixel of y is a measurement, of pure noise where the mask is 0.
    """

    def __init__(self, mask: Tensor, image_shape: Shape, observed_only: bool = True) -> None:
        self.mask = mask
        self.image_shape = self.measurement_shape = image_shape
        self.observed_only = observed_only

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.mask if len(self.mask) == 1 else self.mask[rows], self.image_shape, self.observed_only)

    def support(self) -> Tensor | None:
        return self.mask if self.observed_only else None

    def singular_values(self) -> Tensor:
        return self.mask

    def to_spectral(self, x: Tensor) -> Tensor:
        return x

    def from_spectral(self, c: Tensor) -> Tensor:
        return c

    def measurement_to_spectral(self, y: Tensor) -> Tensor:
        return self.mask * y

    def measurement_from_spectral(self, c: Tensor) -> Tensor:
        return self.mask * c
