"""Dense operators on vectors, for priors whose posterior has a closed form."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from ipsolve.operators.base import OperatorSpec, Shape, SpectralOperator, Theta, drop_null
from ipsolve.signal import EVERY, Kind


class Matrix(SpectralOperator):
    """y = A x for vectors x (B, d) and y (B, m).

    Spectral coordinates are the (B, min(m, d)) of the singular directions: V spans the row space of A alone.

    Args:
        matrix: (1, m, d) shared by the batch, or (B, m, d) with one matrix per problem.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.image_shape, self.measurement_shape = (matrix.shape[2],), (matrix.shape[1],)
        self._u, s, self._vt = torch.linalg.svd(matrix, full_matrices=False)
        self._s = drop_null(s, self.rank_tolerance)

    def select(self, rows: Tensor) -> Self:
        return self if len(self.matrix) == 1 else type(self)(self.matrix[rows])

    def singular_values(self) -> Tensor:
        return self._s

    def to_spectral(self, x: Tensor) -> Tensor:
        return _apply(self._vt, x)

    def from_spectral(self, c: Tensor) -> Tensor:
        return _apply(self._vt.mT, c)

    def measurement_to_spectral(self, y: Tensor) -> Tensor:
        return _apply(self._u.mT, y)

    def measurement_from_spectral(self, c: Tensor) -> Tensor:
        return _apply(self._u, c)


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Return M x of each row x, (1 or B, n, k), (B, k) -> (B, n); a shared matrix is one product for the batch."""
    if len(matrices) == 1:
        return vectors @ matrices[0].T
    return (matrices @ vectors[..., None])[..., 0]


class MatrixSpec(OperatorSpec):
    """What draws a :class:`Matrix`. Not in the registry: a matrix belongs to the problem that it is part of."""

    name: ClassVar[str] = "matrix"
    signals: ClassVar[frozenset[Kind]] = EVERY

    @property
    def spectral(self) -> bool:
        return True

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> Matrix:
        return Matrix(theta["matrix"])
