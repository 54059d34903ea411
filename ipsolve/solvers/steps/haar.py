"""The orthonormal Haar wavelet of images, in place: coarse coefficients in the upper left corner (Mallat 1989)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ipsolve.operators.base import require


def haar(x: Tensor, levels: int) -> Tensor:
    """Return the coefficients of (..., H, W), of the same shape; H and W must be multiples of 2^levels."""
    height, width = x.shape[-2:]
    require(
        height % 2**levels == 0 and width % 2**levels == 0,
        f"variances: {levels} levels of a wavelet need image sides that are multiples of {2**levels}",
    )
    if levels == 0:
        return x
    for axis in (-2, -1):
        first, second = torch.unflatten(x, axis, (-1, 2)).unbind(axis)
        x = torch.cat([first + second, first - second], axis) / math.sqrt(2)
    x = x.clone()
    x[..., : height // 2, : width // 2] = haar(x[..., : height // 2, : width // 2], levels - 1)
    return x


def inverse_haar(c: Tensor, levels: int) -> Tensor:
    """Return the image of coefficients, the inverse and the transpose of :func:`haar`."""
    if levels == 0:
        return c
    height, width = c.shape[-2:]
    c = c.clone()
    c[..., : height // 2, : width // 2] = inverse_haar(c[..., : height // 2, : width // 2], levels - 1)
    for axis in (-1, -2):
        mean, difference = c.chunk(2, axis)
        c = torch.stack([mean + difference, mean - difference], axis).flatten(axis - 1, axis)
        c = c / math.sqrt(2)
    return c


def haar_bands(height: int, width: int, levels: int) -> Tensor:
    """Return the band of every coefficient, (H, W) int64: 0 the means, then three for each level, coarse to fine."""
    band = torch.zeros(height, width, dtype=torch.int64)
    for level in range(1, levels + 1):
        h, w, first = height >> level, width >> level, 3 * (levels - level) + 1
        band[:h, w : 2 * w], band[h : 2 * h, :w], band[h : 2 * h, w : 2 * w] = first, first + 1, first + 2
    return band
