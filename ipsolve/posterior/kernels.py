"""Kernel discrepancies between samples and a posterior, as unbiased estimates of their squares (U-statistics)."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_BANDWIDTHS = 4


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return ||x_i - y_j||^2, (N, d), (M, d) -> (N, M)."""
    centre = y.mean(0)
    x, y = x - centre, y - centre
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return squares.clamp(min=0)


def median_squared_distance(x: Tensor) -> float:
    """Return the median of ||x_i - x_j||^2 over pairs of samples (N, d)."""
    i, j = torch.triu_indices(len(x), len(x), 1)
    return float(squared_distances(x, x)[i, j].median())


def gaussian_kernel(squared: Tensor, scale: float) -> Tensor:
    """Return the mean of exp(-squared / (2 b scale)) over b = 4, 1, 1/4, 1/16, the shape of ``squared``.

    With the median squared distance as ``scale`` the wide ones see modes far apart, the narrow ones the inside of each.
    """
    kernel = (squared / (-8 * scale)).exp()
    total = kernel
    for _ in range(NUM_BANDWIDTHS - 1):
        kernel = kernel.square().square()
        total = total + kernel
    return total / NUM_BANDWIDTHS


def off_diagonal_mean(kernel: Tensor) -> float:
    """Return the mean of a square matrix (N, N) over pairs of different samples."""
    n = len(kernel)
    return float(kernel.sum() - kernel.trace()) / (n * (n - 1))


def stein_kernel(z: Tensor, s: Tensor) -> Tensor:
    """Return the Stein kernel of the inverse multiquadric k(z, z') = (1 + ||z - z'||^2 / d)^(-1/2).

    u(z, z') = s^T s' k + s^T grad_z' k + s'^T grad_z k + tr grad_z grad_z' k with s = grad log p (z) has mean 0 over
    p in each argument (Gorham & Mackey 2017, "Measuring Sample Quality with Kernels", arXiv 1703.01717; beta = -1/2).

    Args:
        z: samples, (N, d).
        s: their scores, (N, d).

    Returns:
        (N, N).
    """
    d = z.shape[1]
    squared = squared_distances(z, z) / d
    k = (1 + squared).rsqrt()
    along = (s * z).sum(1)
    cross = s @ z.T
    difference = along[:, None] + along - cross - cross.T  # (s - s')^T (z - z')
    return k * (s @ s.T) + k**3 * (difference / d + 1 - 3 * squared / d * k.square())
