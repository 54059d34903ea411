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


def gmres(matvec: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Return the x of the Krylov space of b, of dimension ``iterations``, with the least ||b - M x||, of each image.

    M need not be symmetric. No image stops early: its basis is complete where ||b - M x|| is 0, and is padded with 0.

    Args:
        matvec: x -> M x, (B, ...) -> (B, ...), no coupling between images.
        b: right-hand side (B, ...).

    Returns:
        (B, ...), the shape of ``b``.

    Source: Saad & Schultz 1986, SIAM J. Sci. Stat. Comput. 7(3).
    """
    tiny = torch.finfo(b.dtype).tiny
    length = b.flatten(1).norm(dim=1, keepdim=True)
    basis = [b.flatten(1) / length.clamp_min(tiny)]
    hessenberg = b.new_zeros(len(b), iterations + 1, iterations)
    for k in range(iterations):
        image = matvec(basis[k].reshape(b.shape)).flatten(1)
        scale = image.norm(dim=1, keepdim=True)
        for _ in range(2):  # twice: once leaves rounding of the size of what cancels
            for j, q in enumerate(basis):
                share = (q * image).sum(1)
                hessenberg[:, j, k] += share
                image = image - share[:, None] * q
        rest = image.norm(dim=1, keepdim=True)
        rest = torch.where(rest > 10 * torch.finfo(b.dtype).eps * scale, rest, 0.0)
        hessenberg[:, k + 1, k] = rest[:, 0]
        basis.append(torch.where(rest > 0, image / rest.clamp_min(tiny), 0.0))
    first = torch.zeros_like(hessenberg[:, :, :1])
    first[:, 0] = length
    weights = torch.linalg.pinv(hessenberg) @ first
    x: Tensor = torch.stack(basis[:-1], 2) @ weights
    return x.reshape(b.shape)
