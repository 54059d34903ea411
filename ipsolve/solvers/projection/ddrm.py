"""DDRM: diffusion in the singular directions of A, each with the noise that it measures.

Kawar, Elad, Ermon & Song 2022, "Denoising Diffusion Restoration Models" (arXiv 2201.11793), eq. 4 and 7-8. In the
coordinates V^T x_s / alpha_s, with y_i = (U^T y)_i, r = sigma_s / alpha_s, x_0 and eps estimated from x_t:

    s_i = 0:                N( x_0 + sqrt(1 - eta_c^2) r eps,                    (eta_c r)^2 )
    0 < r s_i < sigma_y:    N( x_0 + sqrt(1 - eta^2) r (y - s_i x_0) / sigma_y,  (eta r)^2 )
    r s_i >= sigma_y:       N( (1 - eta_b) x_0 + eta_b y / s_i,                  r^2 - (eta_b sigma_y / s_i)^2 )

Sampling starts from N(y / s_i, r^2 - (sigma_y / s_i)^2) where r s_i >= sigma_y and from N(0, r^2) elsewhere. All of it
is computed times alpha_s, so that levels of pure noise (alpha = 0) are included. Coordinates may be complex; directions
below the operator's ``rank_tolerance`` count as s_i = 0. (The authors' code drops those below 0.03 of each axis of a
blur, ``truncation`` of that operator, and below 1e-3 of dense matrices.)

The authors' code has > for >= : where r s_i = sigma_y it treats a direction as one with s_i = 0. That happens in one
place, the step to the clean image, r = 0, without noise: the paper's answer is then y / s_i where A sees, the code's is
x_0, which does not meet the measurement (``strict``). It also starts from the first state over sigma_T: on a schedule
whose noisiest level is not pure noise, of more noise than that level has (``unit_start``).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import per_image
from ipsolve.operators.base import SpectralOperator
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver
from ipsolve.solvers.steps.diffusion import initial_state, noise_in, renoise
from ipsolve.solvers.steps.spectral import inverse_singular_values, set_coordinates

Share = Annotated[float, Field(ge=0, le=1)]


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class DDRM(Solver):
    """DDRM.

    Args:
        eta: share of fresh noise in directions that y measures worse than the level's noise (eta_A in the code).
        eta_b: weight of y in directions that it measures better.
        eta_c: share of fresh noise in directions that A does not see; null is ``eta``.
        strict: > instead of >=, as in the authors' code (above); it changes noiseless results alone.
        unit_start: divide the first state by sigma_T, as in the authors' code (above).
    """

    name: ClassVar[str] = "ddrm"
    citation: ClassVar[Citation] = Citation(
        key="kawar2022ddrm",
        authors="Kawar, Bahjat and Elad, Michael and Ermon, Stefano and Song, Jiaming",
        title="Denoising Diffusion Restoration Models",
        year=2022,
        venue="NeurIPS",
        arxiv="2201.11793",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "spectral", "pixel"})

    num_steps: Annotated[int, Field(ge=1)] = 20
    timestep_spacing: Spacing | None = None
    eta: Share = 0.85
    eta_b: Share = 1.0
    eta_c: Share | None = None
    strict: bool = False
    unit_start: bool = False

    def cost(self, traits: Traits) -> Cost:
        return Cost(denoiser=self.num_steps)

    def solve(self, problem: Problem) -> Tensor:
        operator, prior = problem.spectral_operator, problem.prior
        levels = prior.schedule.levels(self.num_steps, self.timestep_spacing)
        x = self._start(operator, problem, initial_state(problem, levels[0]), levels[0])
        x = x / levels[0].sigma if self.unit_start else x
        for t, s in pairwise(levels):
            x_0 = prior.denoise(x, t)
            noise = problem.noise()
            x = self._step(operator, problem, x_0, noise_in(x, x_0, t), noise, s)
        return x

    def _start(self, operator: SpectralOperator, problem: Problem, x: Tensor, t: Level) -> Tensor:
        """Return the first state from x ~ N(0, sigma_t^2 I)."""
        y, inverse = operator.measurement_to_spectral(problem.y), inverse_singular_values(operator)
        carried = t.alpha * per_image(problem.noise_std, y) * inverse  # noise std that y / s_i brings
        share = (1 - (carried / t.sigma).square()).clamp_min(0).sqrt()
        c = operator.to_spectral(x)
        known = (inverse > 0) & self._better(carried, t)
        return set_coordinates(operator, x, torch.where(known, t.alpha * inverse * y + share * c, c))

    def _step(
        self, operator: SpectralOperator, problem: Problem, x_0: Tensor, eps: Tensor, noise: Tensor, s: Level
    ) -> Tensor:
        """Return x_s from the estimates of x_0 and eps and from ``noise`` ~ N(0, I)."""
        y = operator.measurement_to_spectral(problem.y)
        sigma_y = per_image(problem.noise_std, y)
        singular, inverse = operator.singular_values(), inverse_singular_values(operator)
        c_0, fresh = operator.to_spectral(x_0), operator.to_spectral(noise)
        unseen = renoise(x_0, eps, s, self.eta if self.eta_c is None else self.eta_c, noise)
        carried = s.alpha * sigma_y * inverse
        rest = (s.sigma**2 - (self.eta_b * carried).square()).clamp_min(0).sqrt()
        c = s.alpha * ((1 - self.eta_b) * c_0 + self.eta_b * inverse * y) + rest * fresh
        if not problem.noiseless:
            weak = renoise(c_0, (y - singular * c_0) / sigma_y, s, self.eta, fresh)
            c = torch.where(carried <= s.sigma, c, weak)
        seen = (inverse > 0) & (self._better(carried, s) | (carried > s.sigma))
        return set_coordinates(operator, unseen, torch.where(seen, c, operator.to_spectral(unseen)))

    def _better(self, carried: Tensor, s: Level) -> Tensor:
        """Return where y measures better than the level's noise."""
        return carried < s.sigma if self.strict else carried <= s.sigma
