"""DDS: a few conjugate-gradient steps on every estimate of x_0.

Chung, Lee & Ye 2024, "Decomposed Diffusion Sampler for Accelerating Large-Scale Inverse Problems" (arXiv 2303.05754):

    x_0' = CG_M( (I + gamma A^T A) x = x_0 + gamma A^T y ),  started at x_0      noisy y
    x_0' = CG_M( A^T A x = A^T y ),                          started at x_0      noiseless y
    x_s  = alpha_s x_0' + sigma_s (sqrt(1 - eta^2) eps + eta n)

M steps from x_0 stay in x_0 + Krylov space of A^T A, near the prior's estimate; run to the end, the first form is the
proximal point of ||A x - y||^2 with weight 1 / gamma and the second the null-space projection of DDNM. Only forward and
adjoint are needed. For latent priors x_0 = D(z_0) and the corrected image is encoded again. The total-variation term
for 3-D volumes is left out.

The authors' code hands the cleanest level, whose noise is next to none, x_0' itself instead of x_s (``renoise_last``).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.linalg import conjugate_gradient
from ipsolve.operators.base import LinearOperator
from ipsolve.priors.schedules import Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import initial_state, noise_in, renoise


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class DDS(Solver):
    """DDS. A measurement with noise_std 0 takes the noiseless form, which has no gamma.

    Args:
        cg_steps: M.
        gamma: weight of the data against the estimate of the prior.
        eta: share of fresh noise in each step.
        renoise_last: bring x_0' to the cleanest level as to any other; false is the authors' code.
    """

    name: ClassVar[str] = "dds"
    citation: ClassVar[Citation] = Citation(
        key="chung2024dds",
        authors="Chung, Hyungjin and Lee, Suhyeon and Ye, Jong Chul",
        title="Decomposed Diffusion Sampler for Accelerating Large-Scale Inverse Problems",
        year=2024,
        venue="ICLR",
        arxiv="2303.05754",
    )
    requires: ClassVar[Traits] = frozenset({"linear"})

    num_steps: Annotated[int, Field(ge=1)] = 50
    timestep_spacing: Spacing | None = None
    cg_steps: Annotated[int, Field(ge=1)] = 5
    gamma: Annotated[float, Field(gt=0)] = 1.0
    eta: Annotated[float, Field(ge=0, le=1)] = 0.85
    renoise_last: bool = True

    def cost(self, traits: Traits) -> Cost:
        n = self.num_steps
        return Cost(denoiser=n, decoder=n, encoder=n) if "latent" in traits else Cost(denoiser=n)

    def solve(self, problem: Problem) -> Tensor:
        operator, prior = problem.linear_operator, problem.prior
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        z = initial_state(problem, levels[0])
        for t, s in pairwise(levels):
            z_0 = prior.denoise(z, t)
            x_0 = self._consistent(operator, problem, prior.decode(z_0))
            noise = problem.noise()
            encoded = prior.encode(x_0)
            bare = s is levels[-2] and not self.renoise_last
            z = encoded if bare else renoise(encoded, noise_in(z, z_0, t), s, self.eta, noise)
        return x_0

    def _consistent(self, operator: LinearOperator, problem: Problem, x_0: Tensor) -> Tensor:
        """Return the estimate after M steps of conjugate gradients, (B, *image_shape)."""
        data = operator.adjoint(problem.y)
        if problem.noiseless:
            return conjugate_gradient(lambda x: operator.adjoint(operator.forward(x)), data, self.cg_steps, x=x_0)

        def normal(x: Tensor) -> Tensor:
            return x + self.gamma * operator.adjoint(operator.forward(x))

        return conjugate_gradient(normal, x_0 + self.gamma * data, self.cg_steps, x=x_0)
