"""Gauss-Newton DPS: a damped Gauss-Newton step per noise level in place of a guidance weight.

"Geometry-Correct Diffusion Posterior Sampling with Denoiser-Pullback Curvature Guidance and Manifold-Aligned Damping"
(May 2026). Only the abstract was read. It says: a correction at every noise level in the coordinates of the state; the
gradient of the likelihood pulled back through the denoiser; curvature of one side, without the forward Jacobian of the
denoiser; damping of rank one along the residual of the denoiser, calibrated by the diffusion; GMRES by automatic
differentiation; and a Langevin transition that preserves variance.

What follows is a RECONSTRUCTION from that, not the published algorithm. In variance-exploding terms z = x_t / alpha_t,
r = sigma_t / alpha_t, with x_0 the estimate, J = d x_0 / d z and A' the Jacobian of A at x_0,

    (damping / r^2 (I + normal_damping u u^T) + J^T A'^T A' / sigma_y^2) delta = J^T A'^T (y - A(x_0)) / sigma_y^2,

u = (z - x_0) / ||z - x_0||. It is the Gauss-Newton step of ||y - A(x_0(z + delta))||^2 / 2 sigma_y^2 with J for the
gradient and the identity for the other J (hence no forward Jacobian, a matrix that is not symmetric, and GMRES).
DDIM_eta then runs with x_0 + delta in place of x_0.

The choice has a reason: with damping 1 and normal_damping 0, x_0 + delta is E[x_0 | x_t, y] exactly for every Gaussian
prior and linear A, because J = Cov[x_0 | x_t] / r^2 there: what MMPS (arXiv 2405.13712) computes in the space of
measurements. Unlike that it takes non-linear A, and no symmetry of J. The size of ``normal_damping`` and the transition
are ours: |z - x_0|^2 is about n r^2, so that 1 is the outer product of the residual over n r^4.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import norm, per_image
from ipsolve.linalg import gmres
from ipsolve.operators.base import LinearOperator
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import ddim_step, denoise_with_pullback, initial_state, noise_in


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class GaussNewtonDPS(Solver):
    """Gauss-Newton DPS with a pixel prior and any differentiable operator.

    Args:
        iterations: of GMRES, each with a backward call.
        damping: times 1 / r^2, the precision of x_0 given x_t under a flat prior.
        normal_damping: more of it along z - x_0, out of the manifold of images; 0 for none.
        eta: 1 for DDPM steps, 0 for DDIM.
    """

    name: ClassVar[str] = "gauss_newton_dps"
    citation: ClassVar[Citation] = Citation(
        key="geometrycorrect2026",
        authors="{Authors not seen}",
        title="Geometry-Correct Diffusion Posterior Sampling with Denoiser-Pullback Curvature Guidance and "
        "Manifold-Aligned Damping",
        year=2026,
        url="https://www.newx.sg/paper/detail/4ac684ba-5a59-11f1-b84c-00163e10baa7",
    )
    requires: ClassVar[Traits] = frozenset({"pixel"})

    num_steps: Annotated[int, Field(ge=1)] = 100
    timestep_spacing: Spacing | None = None
    iterations: Annotated[int, Field(ge=1)] = 5
    damping: Annotated[float, Field(gt=0)] = 1.0
    normal_damping: Annotated[float, Field(ge=0)] = 1.0
    eta: Annotated[float, Field(ge=0, le=1)] = 1.0

    def cost(self, traits: Traits) -> Cost:
        backward = self.num_steps * (self.iterations + 1)  # none at pure noise, of which a schedule has one level
        return Cost(denoiser=self.num_steps, denoiser_backward=backward, up_to=frozenset({"denoiser_backward"}))

    def solve(self, problem: Problem) -> Tensor:
        prior = problem.prior
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        x = initial_state(problem, levels[0])
        for t, s in pairwise(levels):
            x_0 = self._corrected(problem, x, t)
            x = ddim_step(x_0, noise_in(x, x_0, t), t, s, self.eta, problem.noise())
        return x

    def _corrected(self, problem: Problem, x_t: Tensor, t: Level) -> Tensor:
        """Return x_0 + delta. The system is multiplied by sigma_y^2 r^2, so that it exists without noise too."""
        if t.alpha == 0:  # pure noise says nothing of x_0
            return problem.prior.denoise(x_t, t)
        x_0, pullback = denoise_with_pullback(problem.prior, x_t, t)
        z = x_t / t.alpha
        u = (z - x_0) / per_image(norm(z - x_0).clamp_min(torch.finfo(z.dtype).tiny), z)
        weight = per_image(self.damping * problem.noise_std**2, z)

        def pulled(residual: Tensor) -> Tensor:
            return t.sigma**2 / t.alpha * pullback(_adjoint(problem, x_0, residual))

        def matrix(delta: Tensor) -> Tensor:
            along = per_image((u * delta).flatten(1).sum(1), u) * u
            return weight * (delta + self.normal_damping * along) + pulled(_forward(problem, x_0, delta))

        return x_0 + gmres(matrix, pulled(-problem.residual(x_0)), self.iterations)


def _forward(problem: Problem, x_0: Tensor, delta: Tensor) -> Tensor:
    """Return A' delta at x_0, 0 where nothing was measured."""
    operator = problem.known_operator
    if isinstance(operator, LinearOperator):
        image = operator.forward(delta)
    else:
        image = torch.autograd.functional.jvp(operator.forward, x_0, delta)[1]  # type: ignore[no-untyped-call]
    support = operator.support()
    return image if support is None else image * support


def _adjoint(problem: Problem, x_0: Tensor, residual: Tensor) -> Tensor:
    """Return A'^T of a residual at x_0, (B, *image_shape)."""
    operator = problem.known_operator
    if isinstance(operator, LinearOperator):
        return operator.adjoint(residual)
    with torch.enable_grad():
        point = x_0.detach().requires_grad_()
        return torch.autograd.grad(operator.forward(point), point, residual)[0]
