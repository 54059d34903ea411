"""Score-ALD: annealed Langevin dynamics with a measurement score that is annealed alongside.

Jalal et al. 2021, "Robust Compressed Sensing MRI with Deep Generative Priors" (arXiv 2108.01368). In variance-exploding
terms z = x_t / alpha_t = x_0 + r_t eps, r_t = sigma_t / alpha_t, several times at every level:

    z <- z + eta_t [ (E[x_0 | x_t] - z) / r_t^2  +  A^T (y - A z) / (sigma_y^2 + gamma_t^2) ] + sqrt(2 eta_t) n

The first term is the score of z by Tweedie's formula. eta_t = step_size r_t^2 is the rule of annealed Langevin
dynamics, eps (sigma_i / sigma_L)^2 in the notation of Song & Ermon 2019 (arXiv 1907.05600, Algorithm 1). The paper
leaves gamma_t free; here gamma_t = gamma r_t, because y - A z has the covariance sigma_y^2 I + r_t^2 A A^T. The
dynamics are stable for step_size (1 + ||A||^2 / gamma^2) < 2. A last Tweedie step removes the noise that is left
(Song & Ermon 2020, arXiv 2006.09011).

The surveys (Chung et al. 2024; Khungurn 2025) print the measurement term with a minus sign; ascent is with a plus. The
authors' code has no gamma_t: it gives the measurement term ``mse`` times the norm of the prior's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import norm, per_image
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import langevin_step


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class ScoreALD(Solver):
    """Score-ALD. The preset ``official`` is the rule of the authors' code.

    Args:
        num_steps: noise levels.
        langevin_steps: steps per level.
        step_size: eta_t / r_t^2.
        gamma: gamma_t / r_t, of the order of ||A||. It does not enter where ``mse`` is set.
        mse: ratio of the norms of the two terms; null is the published 1 / (sigma_y^2 + gamma_t^2).
    """

    name: ClassVar[str] = "score_ald"
    citation: ClassVar[Citation] = Citation(
        key="jalal2021scoreald",
        authors="Jalal, Ajil and Arvinte, Marius and Daras, Giannis and Price, Eric and Dimakis, Alexandros G. "
        "and Tamir, Jonathan I.",
        title="Robust Compressed Sensing MRI with Deep Generative Priors",
        year=2021,
        venue="NeurIPS",
        arxiv="2108.01368",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "pixel"})
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"official": {"mse": 5.0}}

    num_steps: Annotated[int, Field(ge=2)] = 300
    langevin_steps: Annotated[int, Field(ge=1)] = 3
    step_size: Annotated[float, Field(gt=0)] = 0.2
    gamma: Annotated[float, Field(gt=0)] = 1.0
    mse: Annotated[float, Field(gt=0)] | None = None

    def cost(self, traits: Traits) -> Cost:
        # a level of pure noise, of which a schedule has at most one, is left out
        return Cost(denoiser=self.num_steps * self.langevin_steps + 1, up_to=frozenset({"denoiser"}))

    def solve(self, problem: Problem) -> Tensor:
        operator, prior = problem.linear_operator, problem.prior
        # the end may be clean and the start pure noise, where z = x_t / alpha_t does not exist
        levels = [t for t in prior.schedule.levels(self.num_steps)[:-1] if t.alpha > 0]
        z = levels[0].ratio * problem.noise()
        for t in levels:
            for _ in range(self.langevin_steps):
                prior_score = (prior.denoise(t.alpha * z, t) - z) / t.ratio**2
                data_score = operator.adjoint(problem.y - operator.forward(z))
                data_score = self._weight(data_score, prior_score, problem.noise_std, t.ratio) * data_score
                noise = problem.noise()
                z = langevin_step(z, prior_score + data_score, self.step_size * t.ratio**2, noise)
        return prior.denoise(levels[-1].alpha * z, levels[-1])

    def _weight(self, data_score: Tensor, prior_score: Tensor, sigma_y: Tensor, ratio: float) -> Tensor | float:
        if self.mse is None:
            return per_image(1 / (sigma_y**2 + (self.gamma * ratio) ** 2), data_score)
        length = norm(data_score)
        smallest = torch.finfo(length.dtype).tiny  # y may be met exactly
        return per_image(self.mse * norm(prior_score) / length.clamp_min(smallest), data_score)
