"""Total variation by ADMM: the honest classical baseline.

Rudin, Osher & Fatemi 1992, "Nonlinear total variation based noise removal algorithms" (the model);
Boyd et al. 2011, "Distributed optimization and statistical learning via ADMM", sec. 3 (the splitting x = v);
Beck & Teboulle 2009, "Fast gradient-based algorithms for constrained total variation image denoising"
(the proximal map of TV through its dual).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Solver


def differences(x: Tensor) -> Tensor:
    """Return forward differences, (B, C, H, W) -> (2, B, C, H, W), 0 at the far border."""
    rows = torch.diff(x, dim=-2, append=x[..., -1:, :])
    columns = torch.diff(x, dim=-1, append=x[..., :, -1:])
    return torch.stack([rows, columns])


def differences_adjoint(p: Tensor) -> Tensor:
    """Return the adjoint of :func:`differences` (minus the divergence), (2, B, C, H, W) -> (B, C, H, W)."""
    rows, columns = p[0].clone(), p[1].clone()
    rows[..., -1, :] = 0
    columns[..., :, -1] = 0
    return -torch.diff(rows, dim=-2, prepend=torch.zeros_like(rows[..., :1, :])) - torch.diff(
        columns, dim=-1, prepend=torch.zeros_like(columns[..., :, :1])
    )


def total_variation(x: Tensor) -> Tensor:
    """Return the isotropic vectorial TV of each image, (B, C, H, W) -> (B,): colours share their edges."""
    return differences(x).square().sum((0, 2)).sqrt().sum((1, 2))


def tv_prox(x: Tensor, weight: float, dual: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Return argmin_v ||v - x||^2 / 2 + weight TV(v) and the dual variable, by accelerated projected gradient.

    Args:
        x: (B, C, H, W).
        dual: (2, B, C, H, W), a warm start (zeros at first).
    """
    point, momentum = dual, 1.0
    for _ in range(iterations):
        # 8 bounds the squared norm of the difference operator
        ascent = point + differences(x / weight - differences_adjoint(point)) / 8
        length = ascent.square().sum((0, 2), keepdim=True).sqrt().clamp_min(1.0)
        renewed = ascent / length
        next_momentum = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        point = renewed + (momentum - 1) / next_momentum * (renewed - dual)
        dual, momentum = renewed, next_momentum
    return x - weight * differences_adjoint(dual), dual


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class TotalVariation(Solver):
    """x_hat = argmin_x ||A x - y||^2 / 2 + tv_weight TV(x), isotropic over space and colour.

    Args:
        tv_weight: lambda, in units of [-1, 1] images.
        penalty: rho of ADMM; it changes the speed, not the limit.
        num_steps: ADMM iterations.
        inner_steps: dual iterations of each TV proximal map (warm started).
    """

    name: ClassVar[str] = "tv"
    citation: ClassVar[Citation] = Citation(
        key="rudin1992tv",
        authors="Rudin, Leonid I. and Osher, Stanley and Fatemi, Emad",
        title="Nonlinear Total Variation Based Noise Removal Algorithms",
        year=1992,
        venue="Physica D: Nonlinear Phenomena",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "image"})

    tv_weight: Annotated[float, Field(gt=0)] = 2e-3
    penalty: Annotated[float, Field(gt=0)] = 0.05
    num_steps: Annotated[int, Field(ge=1)] = 100
    inner_steps: Annotated[int, Field(ge=1)] = 10

    def solve(self, problem: Problem) -> Tensor:
        operator = problem.linear_operator
        y = problem.y
        v = operator.pinv(y, self.penalty)
        u = torch.zeros_like(v)
        dual = torch.zeros(2, *v.shape, dtype=v.dtype, device=v.device)
        for _ in range(self.num_steps):
            x = operator.prox(v - u, y, self.penalty)
            v, dual = tv_prox(x + u, self.tv_weight / self.penalty, dual, self.inner_steps)
            u = u + x - v
        return v
