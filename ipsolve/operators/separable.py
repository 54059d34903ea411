"""Operators that act on rows and columns apart: y = M_h x M_w^T for each channel."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import Annotated, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from ipsolve.conventions import per_image
from ipsolve.operators.base import Damping, OperatorSpec, Shape, SpectralOperator, Theta, damped_inverse, drop_null

Matrix = NDArray[np.float64]
_WELL_CONDITIONED = 1e-3  # above it float32 loses less than 1e-4 of a result
Truncation = Annotated[float, Field(ge=0, le=0.1)]


class Separable(SpectralOperator):
    """y = M_h x M_w^T per channel, a Kronecker product whose SVD is that of two small matrices.

    Directions whose singular value is below ``rank_tolerance`` of the largest are removed from A itself, so that A, A^T
    and A^+ agree on what is unseen; this changes A x by at most ``rank_tolerance`` ||A|| ||x||. Spectral coordinates
    are (B, C, K_h, K_w) with K = max(rows, columns) of M.

    Where A is ill-conditioned everything is computed in float64 and rounded to ``dtype`` at the end: A^+ of a blur
    multiplies what sums in float32 lose by up to 1 / ``rank_tolerance``: 2 to 3 dB for 61 pixels of std 3 at 256.
    y itself may well be float32.

    Args:
        rows, columns: M_h (m_h, H) and M_w (m_w, W).
        channels: C.
        dtype: of images, measurements and coordinates.
        truncation: singular values of M_h and of M_w below it count as 0.
    """

    def __init__(
        self,
        rows: Matrix,
        columns: Matrix,
        channels: int,
        dtype: torch.dtype,
        device: torch.device,
        truncation: float = 0.0,
    ) -> None:
        self.image_shape = (channels, rows.shape[1], columns.shape[1])
        self.measurement_shape = (channels, rows.shape[0], columns.shape[0])
        u_h, s_h, v_h = _padded_svd(rows)
        u_w, s_w, v_w = (u_h, s_h, v_h) if np.array_equal(rows, columns) else _padded_svd(columns)
        s_h, s_w = (np.where(each < truncation, 0.0, each) for each in (s_h, s_w))
        s = drop_null(torch.from_numpy(np.outer(s_h, s_w))[None, None], self.rank_tolerance)
        seen_h, seen_w = int(s[0, 0, :, 0].count_nonzero()), int(s[0, 0, 0].count_nonzero())

        seen = s[s > 0]
        ill = len(seen) > 0 and float(seen.min() / seen.max()) < _WELL_CONDITIONED

        def on_device(array: Matrix | Tensor) -> Tensor:
            return torch.as_tensor(array).to(device, torch.float64 if ill else dtype).contiguous()

        self._dtype = dtype
        self._s = on_device(s).to(dtype)
        self._u_h, self._v_h, self._u_w, self._v_w = map(on_device, (u_h, v_h, u_w, v_w))
        # what A, A^T and A^+ need: the singular vectors of nonzero singular values, sorted first
        self._seen_s = on_device(s[..., :seen_h, :seen_w])
        self._seen_u = on_device(u_h[:, :seen_h]), on_device(u_w[:, :seen_w])
        self._seen_v = on_device(v_h[:, :seen_h]), on_device(v_w[:, :seen_w])

    def select(self, rows: Tensor) -> Self:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return _synthesis(self._seen_u, self._seen_s * _analysis(self._seen_v, x)).to(self._dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        return _synthesis(self._seen_v, self._seen_s * _analysis(self._seen_u, y)).to(self._dtype)

    def pinv(self, y: Tensor, damping: Damping = 0.0) -> Tensor:
        c = _analysis(self._seen_u, y)
        return _synthesis(self._seen_v, damped_inverse(self._seen_s, per_image(damping, c)) * c).to(self._dtype)

    def singular_values(self) -> Tensor:
        return self._s

    def to_spectral(self, x: Tensor) -> Tensor:
        return _analysis((self._v_h, self._v_w), x).to(self._dtype)

    def from_spectral(self, c: Tensor) -> Tensor:
        return _synthesis((self._v_h, self._v_w), c).to(self._dtype)

    def measurement_to_spectral(self, y: Tensor) -> Tensor:
        return _analysis((self._u_h, self._u_w), y).to(self._dtype)

    def measurement_from_spectral(self, c: Tensor) -> Tensor:
        return _synthesis((self._u_h, self._u_w), c).to(self._dtype)


class SeparableSpec(OperatorSpec):
    """A spec whose operator is separable and the same for every image."""

    truncation: float = 0.0  # a field of those that are published with one

    @property
    def spectral(self) -> bool:
        return True

    @abstractmethod
    def matrix(self, side: int) -> Matrix:
        """Return M, (m, side) float64, acting along an image side of ``side`` pixels."""

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> Separable:
        return _separable(self, image_shape, dtype, device)


@lru_cache(maxsize=16)
def _separable(spec: SeparableSpec, image_shape: Shape, dtype: torch.dtype, device: torch.device) -> Separable:
    # nothing is random, so one SVD serves every batch of a run
    channels, height, width = image_shape
    return Separable(spec.matrix(height), spec.matrix(width), channels, dtype, device, spec.truncation)


def _padded_svd(matrix: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Return U (m, K), s (K,), V (n, K) with K = max(m, n): zero columns where a side has no more directions."""
    m, n = matrix.shape
    k = max(m, n)
    u, s, vt = np.linalg.svd(matrix, full_matrices=True)
    return (
        np.pad(u, ((0, 0), (0, k - m))),
        np.pad(s, (0, k - len(s))),
        np.pad(vt.T, ((0, 0), (0, k - n))),
    )


def _analysis(bases: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    return bases[0].mT @ x.to(bases[0].dtype) @ bases[1]


def _synthesis(bases: tuple[Tensor, Tensor], c: Tensor) -> Tensor:
    return bases[0] @ c.to(bases[0].dtype) @ bases[1].mT
