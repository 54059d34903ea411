"""Compressed sensing: random rows of an orthonormal transform."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, ClassVar, Self

import numpy as np
import scipy.fft
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.operators.base import OPERATORS, OperatorSpec, Shape, SpectralOperator, Theta, require
from ipsolve.randomness import ImageRng


class SubsampledTransform(SpectralOperator):
    """y = R D diag(signs) x: m coefficients R of the 2-D cosine transform D of an image with random signs.

    A structurally random matrix (Do, Gan, Nguyen & Tran 2012, IEEE Trans. Signal Processing 60(1)). Its rows are
    orthonormal, so that A^+ = A^T. Channels share rows and signs. Spectral coordinates are (B, C, H, W).

    Args:
        signs: (B, 1, H, W), 1 or -1.
        rows: (B, m) int64, which of the H W coefficients of each image are measured.
        image_shape: (C, H, W).
    """

    def __init__(self, signs: Tensor, rows: Tensor, image_shape: Shape) -> None:
        channels, height, width = image_shape
        self.image_shape, self.measurement_shape = image_shape, (channels, rows.shape[1])
        self.signs, self.rows = signs, rows
        self._dct_h, self._dct_w = (_dct_matrix(side, signs.dtype, signs.device) for side in (height, width))
        self._s = signs.new_zeros(len(rows), 1, height * width).scatter_(2, rows[:, None], 1.0)
        self._s = self._s.reshape(-1, 1, height, width)

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.signs[rows], self.rows[rows], self.image_shape)

    def singular_values(self) -> Tensor:
        return self._s

    def to_spectral(self, x: Tensor) -> Tensor:
        return self._dct_h @ (self.signs * x) @ self._dct_w.mT

    def from_spectral(self, c: Tensor) -> Tensor:
        return self.signs * (self._dct_h.mT @ c @ self._dct_w)

    def measurement_to_spectral(self, y: Tensor) -> Tensor:
        c = y.new_zeros(len(y), self.image_shape[0], self.image_shape[1] * self.image_shape[2])
        return c.scatter(2, self._index(len(y)), y).reshape(-1, *self.image_shape)

    def measurement_from_spectral(self, c: Tensor) -> Tensor:
        return c.flatten(2).gather(2, self._index(len(c)))

    def as_image(self, y: Tensor) -> Tensor | None:
        return self.adjoint(y)

    def _index(self, batch_size: int) -> Tensor:
        return self.rows[:, None].expand(batch_size, self.image_shape[0], -1)


@lru_cache(maxsize=16)
def _dct_matrix(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(scipy.fft.dct(np.eye(side), axis=0, norm="ortho")).to(device, dtype)


@OPERATORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class CompressedSensing(OperatorSpec):
    """y holds a random ``ratio`` of the coefficients of an image in a random orthonormal basis, drawn per image.

    Args:
        ratio: measurements per pixel, m = round(ratio H W) in each channel.
    """

    name: ClassVar[str] = "compressed_sensing"
    citation: ClassVar[Citation] = Citation(
        key="do2012structurally",
        authors="Do, Thong T. and Gan, Lu and Nguyen, Nam H. and Tran, Trac D.",
        title="Fast and Efficient Compressive Sensing Using Structurally Random Matrices",
        year=2012,
        venue="IEEE Transactions on Signal Processing",
    )
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.5

    @property
    def spectral(self) -> bool:
        return True

    def _count(self, image_shape: Shape) -> int:
        return round(self.ratio * image_shape[1] * image_shape[2])

    def check(self, image_shape: Shape) -> None:
        height, width = image_shape[1:]
        require(
            self._count(image_shape) >= 1,
            f"ratio: {self.ratio} of {height}x{width} pixels is less than one measurement",
        )

    def parameters(self, image_shape: Shape, rng: ImageRng, dtype: torch.dtype) -> Theta:
        height, width = image_shape[1:]
        signs = torch.where(rng.uniform(1, height, width) < 0.5, -1.0, 1.0).to(dtype)
        rows = rng.permutation(height * width)[:, : self._count(image_shape)]
        return {"signs": signs, "rows": rows}

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> SubsampledTransform:
        return SubsampledTransform(theta["signs"], theta["rows"], image_shape)
