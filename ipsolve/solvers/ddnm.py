"""DDNM and DDNM+: null-space projection of every estimate of x_0.

Wang, Yu & Zhang 2023, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model" (arXiv 2212.00490):

    x_0' = x_0 - Lambda_t A^+ (A x_0 - y)                                  (eq. 13, 17)
    x_s  = alpha_s x_0' + sigma_s (sqrt(1 - eta^2) eps + eta fresh noise)     (eq. 14, 18)

DDNM+ keeps the noise of y out: in each singular direction the correction carries noise of std
alpha_s lambda_i sigma_y / s_i, lambda_i is the largest value <= 1 for which this does not exceed the fresh noise
eta sigma_s of the step, and the fresh noise is reduced by what the correction already brought (eq. 19, sec. 3.3).
For latent priors x_0 = D(z_0) and the projected image is encoded again. There, and where no SVD is known, the
correction is damped by the same ratio of noise levels w in the Tikhonov form s_i^2 / (s_i^2 + w).

Departures of the authors' code that are not followed: its simplified file uses ab_s where the paper has its root,
and doubles sigma_y internally (images in [0, 1]; here sigma_y is in units of [-1, 1]).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.measurement import Measurement
from ipsolve.operators.base import LinearOperator, Operator, SpectralOperator
from ipsolve.priors.base import Prior
from ipsolve.priors.schedules import Level
from ipsolve.randomness import ImageRng
from ipsolve.solvers.base import SOLVERS, Requirements, Solver
from ipsolve.solvers.steps import noise_in


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class DDNM(Solver):
    """DDNM (``noise_aware`` false) and DDNM+ (true).

    Args:
        eta: share of fresh noise in each step; 1 - eta^2 of its variance is the predicted noise.
        noise_aware: the DDNM+ rule. Without it A^+ is exact and measurement noise is amplified by 1 / s_i.
    """

    name: ClassVar[str] = "ddnm"
    paper: ClassVar[str] = "Wang, Yu & Zhang 2023 (2212.00490)"
    family: ClassVar[str] = "projection"
    requires: ClassVar[Requirements] = Requirements(linear=True)

    num_steps: Annotated[int, Field(ge=1)] = 100
    eta: Annotated[float, Field(ge=0, le=1)] = 0.85
    noise_aware: bool = True

    def cost(self) -> str:
        return f"{self.num_steps} denoiser calls (and decoder and encoder calls for latent priors)"

    def solve(self, measurement: Measurement, operator: Operator, prior: Prior, rng: ImageRng) -> Tensor:
        assert isinstance(operator, LinearOperator)
        y, sigma_y = measurement.y, measurement.noise_std if self.noise_aware else 0.0
        levels = prior.schedule.levels(self.num_steps)
        z = levels[0].sigma * rng.normal(*prior.latent_shape, dtype=y.dtype)
        x_0 = y  # replaced in the first step
        for t, s in pairwise(levels):
            z_0 = prior.denoise(z, t)
            eps = noise_in(z, z_0, t)
            budget = self.eta * s.sigma
            fresh = budget * rng.normal(*prior.latent_shape, dtype=y.dtype)
            if isinstance(operator, SpectralOperator) and not prior.latent:
                x_0, fresh = self._project(operator, y, z_0, fresh, sigma_y, s)
            else:
                x_0 = prior.decode(z_0)
                if sigma_y == 0:
                    x_0 = operator.prox(x_0, y)
                elif budget > 0:  # without a budget for its noise, y has no say
                    x_0 = operator.prox(x_0, y, (s.alpha * sigma_y / budget) ** 2)
            z = s.alpha * prior.encode(x_0) + fresh + s.sigma * math.sqrt(1 - self.eta**2) * eps
        return x_0

    def _project(
        self, operator: SpectralOperator, y: Tensor, x_0: Tensor, fresh: Tensor, sigma_y: float, s: Level
    ) -> tuple[Tensor, Tensor]:
        """Return the corrected estimate and the reduced fresh noise, exactly in every singular direction."""
        singular = operator.singular_values()
        seen = singular > operator.rank_tolerance * operator.largest_singular_value()
        inverse = torch.where(seen, 1 / torch.where(seen, singular, 1.0), 0.0)
        carried = s.alpha * sigma_y * inverse  # noise std that the full correction would bring
        budget = self.eta * s.sigma
        gain = torch.where(carried > budget, budget / carried.clamp_min(torch.finfo(carried.dtype).tiny), 1.0)
        correction = operator.measurement_to_spectral(y) - singular * operator.to_spectral(x_0)
        x_0 = x_0 + operator.from_spectral(gain * inverse * correction)
        if budget == 0 or sigma_y == 0:
            return x_0, fresh
        remaining = (1 - (gain * carried / budget).square()).clamp_min(0).sqrt()
        # directions without a singular value (null space) keep their noise: carried is 0 there
        kept = operator.to_spectral(fresh)
        return x_0, fresh + operator.from_spectral((remaining - 1) * kept)
