"""Linear algebra on batches, each image on its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ipsolve.conventions import per_image


def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float = 1e-6, x: Tensor | None = None
) -> Tensor:
    """Solve M x = b for a symmetric positive semi-definite M, independently for every image of the batch.

    An image stops (its iterate is frozen) once ||b - M x|| <= tolerance ||b||, so that its answer does not depend
    on the others; the loop ends when all have stopped or after ``iterations``.

    Args:
        matvec: x -> M x, (B, ...) -> (B, ...), no coupling between images.
        b: right-hand side (B, ...).
        x: start (default 0).

    Returns:
        (B, ...), the shape of ``b``.

    Source: Hestenes & Stiefel 1952.
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(1)

    residual = b if x is None else b - matvec(x)  # a matvec may be a backward call: none is spent on 0
    x = torch.zeros_like(b) if x is None else x
    direction = residual
    energy = dot(residual, residual)
    threshold = tolerance**2 * dot(b, b)
    active = torch.ones_like(energy, dtype=torch.bool)
    for _ in range(iterations):
        active = active & (energy > threshold)
        if not bool(active.any()):
            break
        image = matvec(direction)
        curvature = dot(direction, image)
        active = active & (curvature > 0)  # also for good: a retry would depend on how long the others run
        step = torch.where(active, energy / torch.where(active, curvature, 1.0), 0.0)
        x = x + per_image(step, x) * direction
        residual = residual - per_image(step, x) * image
        renewed = torch.where(active, dot(residual, residual), energy)
        momentum = torch.where(active, renewed / torch.where(active, energy, 1.0), 0.0)
        direction = residual + per_image(momentum, x) * direction
        energy = renewed
    return x
