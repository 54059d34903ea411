"""Dense operators on vectors, for priors whose posterior has a closed form."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from ipsolve.operators.base import SpectralOperator, drop_null


class Matrix(SpectralOperator):
    """y = A x for vectors x (B, d) and y (B, m). Spectral coordinates are (B, max(m, d)).

    Args:
        matrix: (1, m, d) shared by the batch, or (B, m, d) with one matrix per problem.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        m, d = matrix.shape[1:]
        self.image_shape, self.measurement_shape = (d,), (m,)
        k = max(m, d)
        u, s, vt = torch.linalg.svd(matrix, full_matrices=True)
        self._u = torch.nn.functional.pad(u, (0, k - m))
        self._v = torch.nn.functional.pad(vt.mT, (0, k - d))
        self._s = drop_null(torch.nn.functional.pad(s, (0, k - s.shape[1])), self.rank_tolerance)

    def select(self, rows: Tensor) -> Self:
        return self if len(self.matrix) == 1 else type(self)(self.matrix[rows])

    def singular_values(self) -> Tensor:
        return self._s

    def to_spectral(self, x: Tensor) -> Tensor:
        return _apply(self._v.mT, x)

    def from_spectral(self, c: Tensor) -> Tensor:
        return _apply(self._v, c)

    def measurement_to_spectral(self, y: Tensor) -> Tensor:
        return _apply(self._u.mT, y)

    def measurement_from_spectral(self, c: Tensor) -> Tensor:
        return _apply(self._u, c)


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors[..., None])[..., 0]
