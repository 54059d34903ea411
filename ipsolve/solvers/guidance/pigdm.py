"""PiGDM: pseudoinverse-guided diffusion models.

Song, Vahdat, Mardani & Kautz 2023, "Pseudoinverse-Guided Diffusion Models for Inverse Problems" (ICLR), Algorithm 1.
With p(x_0 | x_t) taken as N(x_0(x_t), r_t^2 I) the likelihood of x_t is Gaussian, and its score is

    g_t = J^T A^T (r_t^2 A A^T + sigma_y^2 I)^-1 (y - A x_0(x_t)),     J = d x_0 / d x_t
        = J^T p_t / r_t^2,     p_t = A^T (A A^T + sigma_y^2 / r_t^2 I)^-1 (y - A x_0(x_t)),

where p_t = A^+ y - A^+ A x_0 without noise. r_t^2 = prior_std^2 s_t^2 / (prior_std^2 + s_t^2), s_t = sigma_t / alpha_t,
is exact for a Gaussian prior of that std; the paper has 1, and so 1 - ab_t on a variance preserving schedule. Each
step adds a multiple of g_t to DDIM_eta(x_t):

    adaptive weight     x_s = DDIM_eta(x_t) + w alpha_s alpha_t J^T p_t
    else                x_s = DDIM_eta(x_t) + w (alpha_s sigma_t^2 / alpha_t - c_2 sigma_t) g_t,   c_2 that of eps

The first is the published sampler: r_t^2 is absorbed and eps keeps its value, so that guidance of a whole trajectory
grows with the number of steps (it is tuned for about 100 and known to be unstable at 1000). The second is DDIM with
the guided score, which samples the posterior of a Gaussian prior exactly as steps grow.

Departures of the authors' code that are not followed: it has the noiseless p_t only, starts from noised A^+ y at any
level (here if ``start`` is below 1), has special cases for inpainting and HDR, and without the adaptive weight its
coefficient is ab_t times the one above.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import (
    ddim_step,
    denoise_with_pullback,
    initial_state,
    noise_in,
    posterior_std,
    steps_run,
)


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class PiGDM(Solver):
    """PiGDM with a pixel prior.

    Args:
        num_steps: of the whole trajectory.
        eta: 1 for DDPM steps, 0 for DDIM.
        guidance_weight: w.
        adaptive_weight: the coefficient of the published sampler; false is that of the guided score.
        prior_std: std of an entry of x_0 in the model of p(x_0 | x_t).
        start: share of the trajectory that is run; below 1 it starts from noised A^+ y (the authors' code runs 0.5
            for super-resolution).
    """

    name: ClassVar[str] = "pigdm"
    citation: ClassVar[Citation] = Citation(
        key="song2023pigdm",
        authors="Song, Jiaming and Vahdat, Arash and Mardani, Morteza and Kautz, Jan",
        title="Pseudoinverse-Guided Diffusion Models for Inverse Problems",
        year=2023,
        venue="ICLR",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "pixel"})

    num_steps: Annotated[int, Field(ge=1)] = 100
    timestep_spacing: Spacing | None = None
    eta: Annotated[float, Field(ge=0, le=1)] = 1.0
    guidance_weight: Annotated[float, Field(ge=0)] = 1.0
    adaptive_weight: bool = True
    prior_std: Annotated[float, Field(gt=0)] = 1.0
    start: Annotated[float, Field(gt=0, le=1)] = 1.0

    def cost(self, traits: Traits) -> Cost:
        return Cost(denoiser=self._steps_run(), denoiser_backward=self._steps_run())

    def solve(self, problem: Problem) -> Tensor:
        operator, prior = problem.linear_operator, problem.prior
        y, sigma_y = problem.y, problem.noise_std
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)[-self._steps_run() - 1 :]
        x_t = initial_state(problem, levels[0])
        if self.start < 1:
            x_t = x_t + levels[0].alpha * operator.pinv(y, sigma_y**2 / self._variance(levels[0]))
        for t, s in pairwise(levels):
            x_0, pullback = denoise_with_pullback(prior, x_t, t)
            p = operator.pinv(-problem.residual(x_0), sigma_y**2 / self._variance(t))
            noise = problem.noise()
            step = ddim_step(x_0, noise_in(x_t, x_0, t), t, s, self.eta, noise)
            x_t = step + self._coefficient(t, s) * pullback(p)
        return x_t

    def _steps_run(self) -> int:
        return steps_run(self.num_steps, self.start)

    def _variance(self, t: Level) -> float:
        """Return r_t^2; written so that pure noise, where s_t is infinite, gives prior_std^2."""
        return self.prior_std**2 / (1 + (self.prior_std / t.ratio) ** 2)

    def _coefficient(self, t: Level, s: Level) -> float:
        """Return what multiplies J^T p_t."""
        if self.adaptive_weight:
            return self.guidance_weight * s.alpha * t.alpha
        if t.alpha == 0:  # x_t says nothing of x_0: J is 0
            return 0.0
        c_2 = math.sqrt(max(s.sigma**2 - (self.eta * posterior_std(t, s)) ** 2, 0.0))
        return self.guidance_weight * (s.alpha * t.sigma**2 / t.alpha - c_2 * t.sigma) / self._variance(t)
