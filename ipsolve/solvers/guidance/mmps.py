"""MMPS: moment matching posterior sampling.

Rozet et al. 2024, "Learning Diffusion Priors from Observations by Expectation Maximization" (arXiv 2405.13712),
section 4. p(x_0 | x_t) is taken as the Gaussian with its own mean and covariance, which are the denoiser and, by
Tweedie's formula, its Jacobian J = d x_0 / d x_t: Cov[x_0 | x_t] = sigma_t^2 / alpha_t J. Then

    E[x_0 | x_t, y] = x_0 + Cov A^T v,      (sigma_y^2 I + A Cov A^T) v = y - A x_0,

and DDIM_eta runs with this estimate in place of x_0. It is exact for a Gaussian prior, whatever its covariance.

v comes from a few conjugate gradient steps, each a backward call. They need a symmetric positive J. That of an exact
denoiser is; that of a network is nearly so at best, and the authors' later code therefore prefers GMRES. Where CG
meets a direction of negative curvature it stops for that image and keeps what it has.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import per_image
from ipsolve.linalg import conjugate_gradient
from ipsolve.operators.base import LinearOperator
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import ddim_step, denoise_with_pullback, initial_state, noise_in


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class MMPS(Solver):
    """MMPS with a pixel prior.

    Args:
        iterations: conjugate gradient steps for v, 1 to 5 in the paper.
        eta: 1 for DDPM steps, 0 for DDIM.
    """

    name: ClassVar[str] = "mmps"
    citation: ClassVar[Citation] = Citation(
        key="rozet2024mmps",
        authors="Rozet, François and Andry, Gérôme and Lanusse, François and Louppe, Gilles",
        title="Learning Diffusion Priors from Observations by Expectation Maximization",
        year=2024,
        venue="NeurIPS",
        arxiv="2405.13712",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "pixel"})

    num_steps: Annotated[int, Field(ge=1)] = 100
    timestep_spacing: Spacing | None = None
    iterations: Annotated[int, Field(ge=1)] = 5
    eta: Annotated[float, Field(ge=0, le=1)] = 1.0

    def cost(self, traits: Traits) -> Cost:
        backward = self.num_steps * (self.iterations + 1)
        return Cost(denoiser=self.num_steps, denoiser_backward=backward, up_to=frozenset({"denoiser_backward"}))

    def solve(self, problem: Problem) -> Tensor:
        operator, prior = problem.linear_operator, problem.prior
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        x_t = initial_state(problem, levels[0])
        for t, s in pairwise(levels):
            x_0 = self._posterior_mean(problem, operator, x_t, t)
            noise = problem.noise()
            x_t = ddim_step(x_0, noise_in(x_t, x_0, t), t, s, self.eta, noise)
        return x_t

    def _posterior_mean(self, problem: Problem, operator: LinearOperator, x_t: Tensor, t: Level) -> Tensor:
        """Return the estimate of E[x_0 | x_t, y]."""
        if t.alpha == 0:  # Tweedie's covariance is 0 / 0 at pure noise
            return problem.prior.denoise(x_t, t)
        x_0, pullback = denoise_with_pullback(problem.prior, x_t, t)

        def covariance_adjoint(v: Tensor) -> Tensor:
            return t.sigma**2 / t.alpha * pullback(operator.adjoint(v))

        def evidence(v: Tensor) -> Tensor:
            return per_image(problem.noise_std**2, v) * v + operator.forward(covariance_adjoint(v))

        # tolerance 0: a stop per image would save nothing, since a backward call is paid for by the whole batch
        v = conjugate_gradient(evidence, -problem.residual(x_0), self.iterations, tolerance=0.0)
        return x_0 + covariance_adjoint(v)
