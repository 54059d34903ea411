"""Convolutions with reflected boundaries, whose kernels do not separate."""

from __future__ import annotations

from typing import Self

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from ipsolve.operators.base import LinearOperator, Shape


class Convolution(LinearOperator):
    """y = k * reflect(x), one kernel per image, the same for all its channels; reflection leaves the edge out.

    Computed by FFT on the padded image, where it costs the same for every kernel size. A is square but not
    diagonal in any fast basis, so A^+ and prox use conjugate gradients.

    Args:
        kernel: (B, k, k) with k odd and k // 2 smaller than the image side; its middle is the origin.
        image_shape: (C, H, W).
    """

    def __init__(self, kernel: Tensor, image_shape: Shape) -> None:
        self.image_shape = self.measurement_shape = image_shape
        self.radius = kernel.shape[-1] // 2
        self._grid = tuple(next_fast_len(side + 2 * self.radius, real=True) for side in image_shape[1:])
        self._transfer = torch.fft.rfft2(kernel, s=self._grid)[:, None]

    def select(self, rows: Tensor) -> Self:
        chosen = type(self).__new__(type(self))
        chosen.__dict__.update(self.__dict__)
        chosen._transfer = self._transfer[rows]
        return chosen

    def forward(self, x: Tensor) -> Tensor:
        r = self.radius
        height, width = self.image_shape[1:]
        padded = torch.nn.functional.pad(x, (r, r, r, r), mode="reflect")
        full = self._filter(padded, self._transfer)
        return full[..., 2 * r : 2 * r + height, 2 * r : 2 * r + width]

    def adjoint(self, y: Tensor) -> Tensor:
        r = self.radius
        height, width = self.image_shape[1:]
        room = torch.nn.functional.pad(y, (2 * r, 0, 2 * r, 0))
        full = self._filter(room, self._transfer.conj())
        rows = _fold(full[..., : height + 2 * r, : width + 2 * r], r, dim=-2)
        return _fold(rows, r, dim=-1)

    def _filter(self, x: Tensor, transfer: Tensor) -> Tensor:
        full: Tensor = torch.fft.irfft2(transfer * torch.fft.rfft2(x, s=self._grid), s=self._grid)
        return full


def _fold(x: Tensor, r: int, dim: int) -> Tensor:
    """Return the transpose of reflection padding by ``r`` along ``dim``: the borders are added where they came from."""
    if r == 0:
        return x
    side = x.shape[dim] - 2 * r
    folded = x.narrow(dim, r, side).clone()
    folded.narrow(dim, 1, r).add_(x.narrow(dim, 0, r).flip(dim))
    folded.narrow(dim, side - 1 - r, r).add_(x.narrow(dim, r + side, r).flip(dim))
    return folded
