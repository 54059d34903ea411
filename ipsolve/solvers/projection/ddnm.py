"""DDNM and DDNM+: null-space projection of every estimate of x_0.

Wang, Yu & Zhang 2023, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model" (arXiv 2212.00490):

    x_0' = x_0 - Lambda_t A^+ (A x_0 - y)                                  (eq. 13, 17)
    x_s  = alpha_s x_0' + sigma_s (sqrt(1 - eta^2) eps + eta fresh noise)     (eq. 14, 18)

DDNM+ keeps the noise of y out: in each singular direction the correction carries noise of std
alpha_s lambda_i sigma_y / s_i, lambda_i is the largest value <= 1 for which this does not exceed the fresh noise
eta sigma_s of the step, and the fresh noise is reduced by what the correction already brought (eq. 19, sec. 3.3).
For latent priors x_0 = D(z_0) and the projected image is encoded again. There, and where no SVD is known, the
correction is damped by the same ratio of noise levels w in the Tikhonov form s_i^2 / (s_i^2 + w).

Time travel: each stretch of ``travel_length`` steps is walked ``travel_repeat`` times, going back up by
x_t ~ q(x_t | x_s) in between, as in RePaint (Lugmayr et al. 2022, arXiv 2201.09865).

Departures of the authors' code that are not followed: its simplified file uses ab_s where the paper has its root,
and doubles sigma_y internally (images in [0, 1]; here sigma_y is in units of [-1, 1]); its spectral file compares with
the whole sigma_s and drops eps in measured directions; it travels back by noising its last estimate of x_0 afresh.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import per_image
from ipsolve.operators.base import LinearOperator, SpectralOperator
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import diffuse, initial_state, noise_in, renoise
from ipsolve.solvers.steps.spectral import inverse_singular_values


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class DDNM(Solver):
    """DDNM (``noise_aware`` false) and DDNM+ (true).

    Args:
        eta: share of fresh noise in each step; 1 - eta^2 of its variance is the predicted noise.
        noise_aware: the DDNM+ rule. Without it A^+ is exact and measurement noise is amplified by 1 / s_i.
        noise_rule: ``spectral``, one lambda per singular direction (damped where no SVD is known), or ``scalar``, one
            lambda for all as in eq. 19, which takes A^+ n to have std sigma_y (orthonormal rows).
        travel_length: steps of a stretch that is walked again.
        travel_repeat: how often each stretch is walked; 1 is no time travel.
    """

    name: ClassVar[str] = "ddnm"
    citation: ClassVar[Citation] = Citation(
        key="wang2023ddnm",
        authors="Wang, Yinhuai and Yu, Jiwen and Zhang, Jian",
        title="Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model",
        year=2023,
        venue="ICLR",
        arxiv="2212.00490",
    )
    requires: ClassVar[Traits] = frozenset({"linear"})

    num_steps: Annotated[int, Field(ge=1)] = 100
    timestep_spacing: Spacing | None = None
    eta: Annotated[float, Field(ge=0, le=1)] = 0.85
    noise_aware: bool = True
    noise_rule: Literal["spectral", "scalar"] = "spectral"
    travel_length: Annotated[int, Field(ge=1)] = 1
    travel_repeat: Annotated[int, Field(ge=1)] = 1

    def cost(self, traits: Traits) -> Cost:
        calls = sum(i < j for i, j in time_travel(self.num_steps, self.travel_length, self.travel_repeat))
        return Cost(denoiser=calls, decoder=calls, encoder=calls) if "latent" in traits else Cost(denoiser=calls)

    def solve(self, problem: Problem) -> Tensor:
        operator, prior = problem.linear_operator, problem.prior
        # None: A^+ is exact
        y, sigma_y = problem.y, problem.noise_std if self.noise_aware and not problem.noiseless else None
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        z = initial_state(problem, levels[0])
        x_0 = y  # replaced in the first step
        for i, j in time_travel(self.num_steps, self.travel_length, self.travel_repeat):
            t, s = levels[i], levels[j]
            noise = problem.noise()
            if j < i:
                z = diffuse(z, t, s, noise)
                continue
            z_0 = prior.denoise(z, t)
            if isinstance(operator, SpectralOperator) and not prior.latent and self.noise_rule == "spectral":
                x_0, fresh = self._project(operator, y, z_0, noise, sigma_y, s)
            else:
                x_0, fresh = self._project_without_svd(operator, y, prior.decode(z_0), noise, sigma_y, s)
            z = renoise(prior.encode(x_0), noise_in(z, z_0, t), s, self.eta, fresh)
        return x_0

    def _project(
        self, operator: SpectralOperator, y: Tensor, x_0: Tensor, fresh: Tensor, sigma_y: Tensor | None, s: Level
    ) -> tuple[Tensor, Tensor]:
        """Return the corrected estimate and the reduced fresh noise, exactly in every singular direction."""
        inverse = inverse_singular_values(operator)
        correction = operator.measurement_to_spectral(y) - operator.singular_values() * operator.to_spectral(x_0)
        if sigma_y is None:
            return x_0 + operator.from_spectral(inverse * correction), fresh
        carried = s.alpha * per_image(sigma_y, correction) * inverse  # noise std that the full correction would bring
        budget = self.eta * s.sigma
        gain = torch.where(carried > budget, budget / carried.clamp_min(torch.finfo(carried.dtype).tiny), 1.0)
        x_0 = x_0 + operator.from_spectral(gain * inverse * correction)
        if budget == 0:
            return x_0, fresh
        remaining = (1 - (gain * carried / budget).square()).clamp_min(0).sqrt()
        # directions without a singular value (null space) keep their noise: carried is 0 there
        kept = operator.to_spectral(fresh)
        return x_0, fresh + operator.from_spectral((remaining - 1) * kept)

    def _project_without_svd(
        self, operator: LinearOperator, y: Tensor, x_0: Tensor, fresh: Tensor, sigma_y: Tensor | None, s: Level
    ) -> tuple[Tensor, Tensor]:
        """Return the corrected estimate and the fresh noise, reduced by the scalar rule only."""
        if sigma_y is None:
            return operator.prox(x_0, y), fresh
        carried, budget = s.alpha * sigma_y, self.eta * s.sigma
        if budget == 0:  # without a budget for its noise, y has no say
            return x_0, fresh
        if self.noise_rule == "spectral":
            return operator.prox(x_0, y, (carried / budget) ** 2), fresh
        brought = carried.clamp(max=budget)
        x_0 = x_0 + per_image(brought / carried, x_0) * operator.pinv(y - operator.forward(x_0))
        return x_0, per_image((1 - (brought / budget).square()).clamp_min(0).sqrt(), fresh) * fresh


def time_travel(num_steps: int, length: int, repeat: int) -> Iterator[tuple[int, int]]:
    """Yield the moves (i, j) between levels 0..num_steps: one step down, or ``length`` steps back up where j < i.

    A stretch ends wherever a multiple of ``length`` steps is left before the last one.
    """
    for i in range(num_steps):
        yield i, i + 1
        left = num_steps - 2 - i
        if left < 0 or left % length or i + 1 < length:
            continue
        for _ in range(repeat - 1):
            yield i + 1, i + 1 - length
            yield from ((k, k + 1) for k in range(i + 1 - length, i + 1))
