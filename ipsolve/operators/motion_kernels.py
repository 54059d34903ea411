"""Motion-blur kernels about their centroid: a camera that turns smoothly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ipsolve.randomness import ImageRng

NUM_POINTS = 1024  # of a trajectory; several per pixel for kernels of the usual sizes
MEAN_JERKS = 4.0  # expected number at intensity 1


def motion_kernels(size: int, intensity: float, rng: ImageRng, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw one motion-blur kernel per image, (B, size, size), each >= 0, of sum 1 and centred at its centroid.

    The camera moves at constant speed along a random path. Its heading has inertia: it turns slowly, at a rate
    that is itself a random walk, save for rare jerks that turn it anywhere. ``intensity`` scales the turning and
    the number of jerks, from a straight line at 0 to a tangle at 1. Points of the path are spread bilinearly on
    the four nearest pixels, which keeps the centroid exact.

    Args:
        size: side in pixels, odd.
        intensity: 0 to 1.
        rng: one stream per image.
    """
    n = NUM_POINTS
    float64 = torch.float64
    start = 2 * math.pi * rng.uniform(1, dtype=float64)
    turning = rng.normal(n, dtype=float64).cumsum(1) * (2 * math.pi * intensity / n**1.5)
    jerk = rng.uniform(n, dtype=float64) < intensity * MEAN_JERKS / n
    turn = (2 * rng.uniform(n, dtype=float64) - 1) * math.pi
    heading = start + (turning + jerk * turn).cumsum(1)
    path = torch.stack([heading.sin(), heading.cos()], dim=-1).cumsum(1)

    reach = (size - 1) / 2
    length = size * (0.5 + 0.5 * rng.uniform(1, dtype=float64))
    path = (path - path.mean(1, keepdim=True)) * (length / n)[..., None]
    overshoot = path.abs().amax((1, 2)) / max(reach, 1e-9)
    path = path / overshoot.clamp(min=1)[:, None, None] + reach  # shrunk, where it left the kernel
    return _splat(path.clamp(0, size - 1), size).to(dtype)


def _splat(points: Tensor, size: int) -> Tensor:
    """Return the histograms (B, size, size), of sum 1, of points (B, n, 2) in [0, size - 1], bilinearly weighted."""
    batch, n, _ = points.shape
    corner = points.floor().clamp(max=max(size - 2, 0))
    part = points - corner
    kernel = points.new_zeros(batch, size * size)
    for down in range(2):
        for right in range(2):
            weight = (part[..., 0] if down else 1 - part[..., 0]) * (part[..., 1] if right else 1 - part[..., 1])
            index = (corner[..., 0] + down).clamp(max=size - 1) * size + (corner[..., 1] + right).clamp(max=size - 1)
            kernel.scatter_add_(1, index.long(), weight / n)
    return kernel.reshape(batch, size, size)
