"""P2L without its prompt: latent DPS whose estimate is brought back, at times, into the range of the encoder.

Chung, Ye, Milanfar & Delbracio 2024, "Prompt-tuning Latent Diffusion Models for Inverse Problems" (arXiv 2310.01110;
eq. 97-98 of the survey by Chung, Kim & Ye 2025):

    z_0' = E(argmin_x ||A x - y||^2 + lambda ||x - D(z_0)||^2)    every ``interval`` steps, else z_0
    z_s  = DDIM(z_0', eps) - guidance_scale grad_{z_t} ||y - A(D(z_0(z_t)))||

The other half of the method, a text embedding that is tuned along the way, has no meaning for a prior that takes no
text and is left out for those that do. (The co-authors' code, in the repository of TReg, has that half alone, and
detaches the embedding after the first step, so that it is tuned once.) The minimum is the exact proximal point, not
one by a few steps of a solver.

The order of the lines, eps that of the estimate before, is from memory; interval 8 and lambda 1 are what the code of
LATINO takes for Table 6 of the paper. Neither could be read in the paper itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.priors.schedules import Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.guidance import guided_sampling
from ipsolve.solvers.steps.hard_consistency import is_hit


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class P2L(Solver):
    """P2L without text.

    Args:
        guidance_scale: rho, of the gradient of the unsquared norm.
        interval: steps between two projections, counted from the end, where there is none; null is latent DPS.
        lambda_: weight of the estimate against the data in the projection.
        eta: 0 for DDIM, 1 for DDPM steps.
        max_update_rms: limit on the root mean square of one guidance update; null is the published method.
    """

    name: ClassVar[str] = "p2l"
    citation: ClassVar[Citation] = Citation(
        key="chung2024p2l",
        authors="Chung, Hyungjin and Ye, Jong Chul and Milanfar, Peyman and Delbracio, Mauricio",
        title="Prompt-tuning Latent Diffusion Models for Inverse Problems",
        year=2024,
        venue="ICML",
        arxiv="2310.01110",
    )
    requires: ClassVar[Traits] = frozenset({"linear"})

    num_steps: Annotated[int, Field(ge=1)] = 1000
    timestep_spacing: Spacing | None = None
    guidance_scale: Annotated[float, Field(ge=0)] = 1.0
    interval: Annotated[int, Field(ge=1)] | None = 8
    lambda_: Annotated[float, Field(gt=0)] = 1.0
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_update_rms: Annotated[float, Field(gt=0)] | None = None

    def cost(self, traits: Traits) -> Cost:
        n = self.num_steps
        calls = Cost(denoiser=n, denoiser_backward=n)
        if "latent" not in traits:
            return calls
        hits = sum(self._is_hit(step) for step in range(n))
        return replace(calls, decoder=n + hits + 1, decoder_backward=n, encoder=hits)

    def solve(self, problem: Problem) -> Tensor:
        operator, prior = problem.linear_operator, problem.prior

        def in_range(step: int, z_0: Tensor) -> Tensor:
            if not self._is_hit(step):
                return z_0
            return prior.encode(operator.prox(prior.decode(z_0), problem.y, self.lambda_))

        z = guided_sampling(
            problem,
            lambda z_0: self.guidance_scale * problem.distance(z_0),
            num_steps=self.num_steps,
            timestep_spacing=self.timestep_spacing,
            eta=self.eta,
            max_update_rms=self.max_update_rms,
            correct=in_range,
        )
        return prior.decode(z)

    def _is_hit(self, step: int) -> bool:
        return self.interval is not None and is_hit(step, self.num_steps, self.interval)
