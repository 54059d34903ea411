"""Circular convolutions, diagonal in the Fourier basis."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from ipsolve.operators.base import Shape, SpectralOperator, drop_null


class Circulant(SpectralOperator):
    """y = k * x with periodic boundaries, one kernel per image, the same for all its channels.

    With the unitary Fourier transform F, A = (F^H diag(phase)) diag(|k^|) F. Spectral coordinates are complex,
    (B, C, H, W). Frequencies below ``rank_tolerance`` of the largest are removed from A. Transforms are in float64,
    as in :class:`ipsolve.operators.separable.Separable`.

    Args:
        kernel: (B, k, k) with k odd and at most the image side; its middle is the origin.
        image_shape: (C, H, W).
    """

    def __init__(self, kernel: Tensor, image_shape: Shape) -> None:
        self.image_shape = self.measurement_shape = image_shape
        height, width = image_shape[1:]
        k = kernel.shape[-1]
        padded = torch.nn.functional.pad(kernel, (0, width - k, 0, height - k))
        transfer = torch.fft.fft2(padded.roll((-(k // 2), -(k // 2)), dims=(-2, -1)).double())[:, None]
        self._dtype = kernel.dtype
        self._s = drop_null(transfer.abs(), self.rank_tolerance)
        self._phase = torch.exp(1j * transfer.angle())

    def select(self, rows: Tensor) -> Self:
        chosen = type(self).__new__(type(self))
        chosen.image_shape = chosen.measurement_shape = self.image_shape
        chosen._s, chosen._phase, chosen._dtype = self._s[rows], self._phase[rows], self._dtype
        return chosen

    def singular_values(self) -> Tensor:
        return self._s.to(self._dtype)

    def to_spectral(self, x: Tensor) -> Tensor:
        return _fourier(x).to(self._dtype.to_complex())

    def from_spectral(self, c: Tensor) -> Tensor:
        return _inverse_fourier(c).to(self._dtype)

    def measurement_to_spectral(self, y: Tensor) -> Tensor:
        return (self._phase.conj() * _fourier(y)).to(self._dtype.to_complex())

    def measurement_from_spectral(self, c: Tensor) -> Tensor:
        return _inverse_fourier(self._phase * c).to(self._dtype)


def _fourier(x: Tensor) -> Tensor:
    c: Tensor = torch.fft.fft2(x.double(), norm="ortho")
    return c


def _inverse_fourier(c: Tensor) -> Tensor:
    x: Tensor = torch.fft.ifft2(c.to(torch.complex128), norm="ortho").real
    return x
