"""Score-ALD: annealed Langevin dynamics with a measurement score that is annealed alongside.

Jalal et al. 2021, "Robust Compressed Sensing MRI with Deep Generative Priors" (arXiv 2108.01368). In variance-exploding
terms z = x_t / alpha_t = x_0 + r_t eps, r_t = sigma_t / alpha_t, several times at every level:

    z <- z + eta_t [ (E[x_0 | x_t] - z) / r_t^2  +  A^T (y - A z) / (sigma_y^2 + gamma_t^2) ] + sqrt(2 eta_t) n

The first term is the score of z by Tweedie's formula. eta_t = step_size r_t^2 is the rule of annealed Langevin
dynamics, eps (sigma_i / sigma_L)^2 in the notation of Song & Ermon 2019 (arXiv 1907.05600, Algorithm 1). The paper
leaves gamma_t free; here gamma_t = gamma r_t, because y - A z has the covariance sigma_y^2 I + r_t^2 A A^T. The
dynamics are stable for step_size (1 + ||A||^2 / gamma^2) < 2. A last Tweedie step removes the noise that is left
(Song & Ermon 2020, arXiv 2006.09011).

The surveys (Chung et al. 2024; Khungurn 2025) print the measurement term with a minus sign; ascent is with a plus.

The authors' code has no gamma_t: it gives the measurement term ``mse`` = 5 times the norm of the prior's. It runs the
last 1155 of 2311 levels, geometric from 232 to 0.0066, and steps by 5e-5 (r_t / 0.0066)^2 = 1.148 r_t^2. Data are thus
overshot in every step by a multiple of the level's noise. That does no harm while the prior's term is of the length
sqrt(d) / r_t, as the score of d entries is at this level and their network's stays. An exact score grows with the
overshoot, the next step with the score, and both overflow: ``score_limit`` keeps the length there. Their first state is
U(0, 1), here it is N(0, r_t^2 I); the last Tweedie step is not in their code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import norm, per_image
from ipsolve.priors.schedules import Level, Schedule, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.annealing import RatioRange, annealing_levels, require_one_grid
from ipsolve.solvers.steps.diffusion import langevin_step


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class ScoreALD(Solver):
    """Score-ALD. The preset ``official`` is the setting of the authors' code, for their MRI.

    Args:
        num_steps: noise levels, those of the prior's schedule unless there is a ``ratio_range``.
        ratio_range: r_t of the first level and of the last, geometric between them, clipped to what the prior knows.
        langevin_steps: steps per level.
        step_size: eta_t / r_t^2.
        gamma: gamma_t / r_t, of the order of ||A||. It does not enter where ``mse`` is set.
        mse: ratio of the norms of the two terms; null is the published 1 / (sigma_y^2 + gamma_t^2).
        score_limit: with ``mse``, the most that the norm of the prior's term counts for, in sqrt(d) / r_t; null is all.
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
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "official": {
            "num_steps": 1155,
            "ratio_range": (1.2318, 0.0066),
            "langevin_steps": 3,
            "step_size": 1.148,
            "mse": 5.0,
            "score_limit": 1.0,
        }
    }

    num_steps: Annotated[int, Field(ge=2)] = 300
    timestep_spacing: Spacing | None = None
    ratio_range: RatioRange | None = None
    langevin_steps: Annotated[int, Field(ge=1)] = 3
    step_size: Annotated[float, Field(gt=0)] = 0.2
    gamma: Annotated[float, Field(gt=0)] = 1.0
    mse: Annotated[float, Field(gt=0)] | None = None
    score_limit: Annotated[float, Field(gt=0)] | None = None

    def __post_init__(self) -> None:
        require_one_grid(self.ratio_range, self.timestep_spacing)

    def cost(self, traits: Traits) -> Cost:
        # a level of pure noise, of which a schedule has at most one, is left out
        return Cost(denoiser=self.num_steps * self.langevin_steps + 1, up_to=frozenset({"denoiser"}))

    def solve(self, problem: Problem) -> Tensor:
        operator, prior = problem.linear_operator, problem.prior
        levels = self._levels(prior.schedule)
        z = levels[0].ratio * problem.noise()
        for t in levels:
            for _ in range(self.langevin_steps):
                prior_score = (prior.denoise(t.alpha * z, t) - z) / t.ratio**2
                data_score = operator.adjoint(problem.y - operator.forward(z))
                data_score = self._weight(data_score, prior_score, problem.noise_std, t.ratio) * data_score
                noise = problem.noise()
                z = langevin_step(z, prior_score + data_score, self.step_size * t.ratio**2, noise)
        return prior.denoise(levels[-1].alpha * z, levels[-1])

    def _levels(self, schedule: Schedule) -> list[Level]:
        return annealing_levels(schedule, self.num_steps, self.timestep_spacing, self.ratio_range)

    def _weight(self, data_score: Tensor, prior_score: Tensor, sigma_y: Tensor, ratio: float) -> Tensor | float:
        if self.mse is None:
            return per_image(1 / (sigma_y**2 + (self.gamma * ratio) ** 2), data_score)
        length, prior_length = norm(data_score), norm(prior_score)
        if self.score_limit is not None:
            prior_length = prior_length.clamp_max(self.score_limit * math.sqrt(prior_score[0].numel()) / ratio)
        smallest = torch.finfo(length.dtype).tiny  # y may be met exactly
        return per_image(self.mse * prior_length / length.clamp_min(smallest), data_score)
