"""TReg without its text: conjugate gradients in image space, mixed into the latent by the noise that is left.

Kim, Park, Chung & Ye 2025, "Regularization by Texts for Latent Diffusion Inverse Solvers" (arXiv 2311.15658). At every
``interval``-th step, up to the share ``until`` of all, with ab_s = alpha_s^2 of the variance preserving state at s:

    x*   = CG_M( (A^T A + lambda I) x = A^T y + lambda D(z_0) ),    started at D(z_0)
    z_0' = ab_s E(x*) + (1 - ab_s) z_0
    z_s  = alpha_s z_0' + sigma_s (sqrt(1 - ab_s) eps + sqrt(ab_s) n)

and deterministic DDIM at the others: the data and fresh noise come in as the image gets clean. The answer is the last
estimate, D(z_0'). With E = D = id and ab_s = 1 in the second line it is DDS, whose gamma is 1 / lambda.

What a text adds is left out: guidance by it is the prior's affair (``stable_diffusion``), and the null text is not
tuned against the image (adaptive negation). So is the code's option of DPS steps between. The authors' code (read at
4ee6d96) has a 1 before its table of ab, so that its estimates are read one entry too clean; here they are not.
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
from ipsolve.solvers.steps.diffusion import ddim_step, initial_state, noise_in, renoise, vp_scale


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class TReg(Solver):
    """TReg without text.

    Args:
        interval: steps from one data step to the next; the first step is one.
        until: share of the steps after which there are none (170 of 200 in the authors' code).
        cg_steps: M.
        lambda_: weight of the estimate against the data. It does not know the noise: 1e-4 fits all but exact data.
    """

    name: ClassVar[str] = "treg"
    citation: ClassVar[Citation] = Citation(
        key="kim2025treg",
        authors="Kim, Jeongsol and Park, Geon Yeong and Chung, Hyungjin and Ye, Jong Chul",
        title="Regularization by Texts for Latent Diffusion Inverse Solvers",
        year=2025,
        venue="ICLR",
        arxiv="2311.15658",
    )
    requires: ClassVar[Traits] = frozenset({"linear"})

    num_steps: Annotated[int, Field(ge=1)] = 200
    timestep_spacing: Spacing | None = None
    interval: Annotated[int, Field(ge=1)] = 3
    until: Annotated[float, Field(ge=0, le=1)] = 0.85
    cg_steps: Annotated[int, Field(ge=1)] = 5
    lambda_: Annotated[float, Field(gt=0)] = 1e-4

    def cost(self, traits: Traits) -> Cost:
        if "latent" not in traits:
            return Cost(denoiser=self.num_steps)
        hits = sum(self._is_hit(step) for step in range(self.num_steps))
        return Cost(denoiser=self.num_steps, decoder=hits + 1, encoder=hits)

    def solve(self, problem: Problem) -> Tensor:
        prior = problem.prior
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        z = initial_state(problem, levels[0])
        z_0 = z  # replaced in the first step
        for step, (t, s) in enumerate(pairwise(levels)):
            z_0 = prior.denoise(z, t)
            eps = noise_in(z, z_0, t)
            if not self._is_hit(step):
                z = ddim_step(z_0, eps, t, s)
                continue
            share = (s.alpha / vp_scale(s)) ** 2
            x = self._consistent(problem.linear_operator, problem.y, prior.decode(z_0))
            z_0 = share * prior.encode(x) + (1 - share) * z_0
            z = renoise(z_0, eps, s, share**0.5, problem.noise())
        return prior.decode(z_0)

    def _is_hit(self, step: int) -> bool:
        return step % self.interval == 0 and step < self.until * self.num_steps

    def _consistent(self, operator: LinearOperator, y: Tensor, x_0: Tensor) -> Tensor:
        """Return the estimate after M steps of conjugate gradients, (B, *image_shape)."""

        def normal(x: Tensor) -> Tensor:
            return operator.adjoint(operator.forward(x)) + self.lambda_ * x

        return conjugate_gradient(normal, operator.adjoint(y) + self.lambda_ * x_0, self.cg_steps, x=x_0)
