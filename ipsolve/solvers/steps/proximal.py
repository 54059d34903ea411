"""The proximal step on the data, for any operator."""

from __future__ import annotations

from torch import Tensor

from ipsolve.conventions import per_image, squared_norm
from ipsolve.operators.base import LinearOperator
from ipsolve.problem import Problem
from ipsolve.solvers.steps.diffusion import gradient


def data_prox(problem: Problem, x: Tensor, weight: Tensor | float, *, iterations: int, lr: float) -> Tensor:
    """Return argmin_z ||A(z) - y||^2 + weight ||z - x||^2 for images x, (B, *image_shape).

    In closed form (or by conjugate gradients) where A is linear; elsewhere by gradient steps from x on, each of length
    lr / (1 + weight), which is stable up to lr = 1 where the Jacobian of A has norm 1.

    Args:
        weight: one for all images, or one each, (B,).
        iterations, lr: of the gradient steps; linear operators need none.
    """
    if isinstance(operator := problem.known_operator, LinearOperator):
        return operator.prox(x, problem.y, weight)
    pull, length = per_image(weight, x), per_image(lr / (1 + weight), x)
    z = x
    for _ in range(iterations):
        half_gradient = gradient(lambda point: squared_norm(problem.residual(point)) / 2, z) + pull * (z - x)
        z = z - length * half_gradient
    return z
