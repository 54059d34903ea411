"""Score-SDE: predictor-corrector sampling with the measured part of the state replaced at every step.

Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations" (arXiv 2011.13456), and
Song, Shen, Xing & Ermon 2022, "Solving Inverse Problems in Medical Imaging with Score-Based Generative Models"
(arXiv 2111.08005). After every predictor and corrector step

    x_s <- x_s + lambda A^+ (y_s - A x_s),        y_s = alpha_s y + sigma_s A n,  n ~ N(0, I)

The predictor is the ancestral step. Its noise has the std of q(x_s | x_t, x_0); the authors' code has that for variance
exploding diffusions only and sqrt(beta), the std of q(x_t | x_s), for variance preserving ones (Ho et al. 2020,
arXiv 2006.11239, sec. 3.2, has both), with none in the last step (``predictor_noise``).

The corrector is one Langevin step on log p_t with step size 2 (alpha_t / alpha_s)^2 (snr ||noise|| / ||score||)^2. It
is 2011.13456's for variance exploding and, between neighbouring times, variance preserving diffusions; it comes before
the predictor of its level.

The method is made for noiseless measurements: the noise of y ends up in the image, amplified by 1 / s_i where A^+ is
exact. The authors' code gives the state at s a measurement with the noise of t (``measurement_level``). Departures of
it that are not followed: it starts with y itself in the measured part, replaces that once after all corrector steps of
a level, and where there are none too, hands back the mean of its last step, and averages norms over the batch, where
here each image has its own step size.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import norm
from ipsolve.priors.base import Prior
from ipsolve.priors.schedules import Level, Schedule, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import (
    ddim_step,
    initial_state,
    langevin_step,
    noise_in,
    replace_measured,
    transition_variance,
)


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class ScoreSDE(Solver):
    """Score-SDE projection. With ``corrector_steps`` 0 it is ILVR without its ``range_t``.

    Args:
        corrector_steps: Langevin steps per level.
        snr: r, the signal-to-noise ratio of a Langevin step.
        predictor_noise: the std of the predictor's noise, that of q(x_s | x_t, x_0), ``posterior``, or of q(x_t | x_s),
            ``forward``, which is the code's for variance preserving priors.
        measurement_level: the noise of y_s after a predictor step: that of the ``next`` level s, or of t, the
            ``current`` one, as in the authors' code.
        measurement_weight: lambda of 2111.08005, between 0 (unconditional) and 1 (exact consistency with y_s).
        signal_std: assumed std of image values; damps A^+ by (noise_std / signal_std)^2. Null is the exact A^+.
    """

    name: ClassVar[str] = "score_sde"
    citation: ClassVar[Citation] = Citation(
        key="song2021scoresde",
        authors="Song, Yang and Sohl-Dickstein, Jascha and Kingma, Diederik P. and Kumar, Abhishek and Ermon, "
        "Stefano and Poole, Ben",
        title="Score-Based Generative Modeling through Stochastic Differential Equations",
        year=2021,
        venue="ICLR",
        arxiv="2011.13456",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "pixel"})

    num_steps: Annotated[int, Field(ge=1)] = 1000
    timestep_spacing: Spacing | None = None
    corrector_steps: Annotated[int, Field(ge=0)] = 1
    snr: Annotated[float, Field(gt=0)] = 0.16
    predictor_noise: Literal["posterior", "forward"] = "posterior"
    measurement_level: Literal["next", "current"] = "next"
    measurement_weight: Annotated[float, Field(ge=0, le=1)] = 1.0
    signal_std: Annotated[float, Field(gt=0)] | None = None

    def cost(self, traits: Traits) -> Cost:
        return Cost(denoiser=self.num_steps * (1 + self.corrector_steps))

    def solve(self, problem: Problem) -> Tensor:
        operator, prior = problem.linear_operator, problem.prior

        def replaced(x: Tensor, level: Level) -> Tensor:
            weight, signal_std = self.measurement_weight, self.signal_std
            return replace_measured(operator, problem, x, level, problem.noise(), weight, signal_std)

        levels = self._levels(prior.schedule)
        x = self._first_state(problem, levels[0])
        for t, s in pairwise(levels):
            for _ in range(self.corrector_steps):
                x = replaced(self._corrected(prior, x, t, s, problem.noise()), t)
            x = self._predicted(prior, x, t, s, problem.noise(), last=s is levels[-1])
            x = replaced(x, s if self.measurement_level == "next" else t)
        return x

    def _levels(self, schedule: Schedule) -> list[Level]:
        return schedule.levels(self.num_steps, self.timestep_spacing)

    def _first_state(self, problem: Problem, t: Level) -> Tensor:
        return initial_state(problem, t)

    def _predicted(self, prior: Prior, x: Tensor, t: Level, s: Level, noise: Tensor, last: bool) -> Tensor:
        x_0 = prior.denoise(x, t)
        eps = noise_in(x, x_0, t)
        if self.predictor_noise == "posterior":
            return ddim_step(x_0, eps, t, s, eta=1.0, noise=noise)
        mean = ddim_step(x_0, eps, t, s, eta=1.0)
        return mean if last else mean + math.sqrt(transition_variance(t, s)) * noise

    def _corrected(self, prior: Prior, x: Tensor, t: Level, s: Level, noise: Tensor) -> Tensor:
        score = -noise_in(x, prior.denoise(x, t), t) / t.sigma
        step = 2 * (t.alpha / s.alpha * self.snr * norm(noise) / norm(score)) ** 2
        return langevin_step(x, score, step, noise)
