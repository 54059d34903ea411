"""MCGDiff: a particle filter whose observations are the noisy measurement seen at the level of its own noise.

Cardoso, Janati El Idrissi, Le Corff & Moulines 2024, "Monte Carlo guided Denoising Diffusion models for Bayesian linear
inverse problems" (arXiv 2308.07983). With A = U diag(s) V^T, z_i = (U^T y)_i / s_i is distributed as x_tau / alpha_tau
in coordinate i of V^T x, where tau_i is the level with sigma_tau / alpha_tau = sigma_y / s_i. Until then, at levels t
not cleaner than tau_i, the coordinate is guided by

    q_t(x_t) = N(alpha_t z_i, sigma_t^2 - (alpha_t / alpha_tau)^2 (sigma_tau^2 - kappa)),

z_i diffused on from tau_i, which for variance preserving schedules is 1 - (1 - kappa) ab_t / ab_tau; afterwards it is
free. A step from t to s, p(x_s | x_t) = N(mean, v I) being DDIM's:

    w   = prod_i N(alpha_s z_i; mean_i, v + var q_s) / q_t(x_t)    over the coordinates guided at s,
    x_t is resampled by w (multinomial),
    x_s ~ p(x_s | x_t) q_s(x_s), normalised, in the guided coordinates and ~ p(x_s | x_t) in the others.

The particles approach the posterior as P and the number of steps grow, kappa falls and eta = 1; eta < 1 has the right
marginals but not the right law of x_0 given x_tau.

Departures of the authors' code: it goes on resampling when no coordinate is guided any more and all weights are
equal, which only costs diversity; here an image is left alone from then on, as in the paper. tau_i is the level of
the grid, among num_steps + 1, that is nearest to alpha^2 sigma_y^2 = sigma^2 s_i^2, as in the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import per_image
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem, Solution
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost
from ipsolve.solvers.steps.filtering import GaussianStep, Observation
from ipsolve.solvers.steps.particles import ParticleSolver, multinomial
from ipsolve.solvers.steps.spectral import inverse_singular_values


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class MCGDiff(ParticleSolver):
    """MCGDiff.

    Args:
        num_particles: P, for each image.
        eta: of DDIM's step; 1 is DDPM.
        kappa: the variance of the guidance at tau_i, above 0. A smaller one is closer to the posterior and makes
            weights more uneven. The authors' library has 1e-4, their Gaussian mixture experiment 1e-2.
    """

    name: ClassVar[str] = "mcgdiff"
    citation: ClassVar[Citation] = Citation(
        key="cardoso2024mcgdiff",
        authors="Cardoso, Gabriel and Janati El Idrissi, Yazid and Le Corff, Sylvain and Moulines, Eric",
        title="Monte Carlo guided Denoising Diffusion models for Bayesian linear inverse problems",
        year=2024,
        venue="ICLR",
        arxiv="2308.07983",
    )
    requires: ClassVar[Traits] = frozenset({"linear", "spectral", "pixel"})
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mixture-20": {"num_steps": 20, "eta": 0.6, "kappa": 1e-2, "num_particles": 1000},
        "mixture-100": {"num_steps": 100, "eta": 0.85, "kappa": 1e-2, "num_particles": 1000},
    }

    num_steps: Annotated[int, Field(ge=1)] = 100
    timestep_spacing: Spacing | None = None
    num_particles: Annotated[int, Field(ge=1)] = 64
    eta: Annotated[float, Field(gt=0, le=1)] = 1.0
    kappa: Annotated[float, Field(gt=0)] = 1e-4

    def cost(self, traits: Traits) -> Cost:
        return Cost(denoiser=self.num_steps * self.num_particles)

    def solve(self, problem: Problem) -> Solution:
        swarm, levels = self.swarm(problem), problem.prior.schedule.levels(self.num_steps, self.timestep_spacing)
        guides = self._guides(problem, levels)
        x = guides[0].first_states(swarm.spectral_operator, levels[0], self.noise(problem))
        for along, guiding in zip(pairwise(levels), pairwise(guides), strict=True):
            x = self._step(problem, swarm, x, along, guiding)
        return self.equally_weighted(x)

    def _step(
        self,
        problem: Problem,
        swarm: Problem,
        x_t: Tensor,
        levels: tuple[Level, Level],
        guides: tuple[Observation, Observation],
    ) -> Tensor:
        """Return the particles x_s of particles x_t, resampled and moved."""
        q_t, q_s = guides
        step = GaussianStep.predict(swarm, x_t, *levels, self.eta)
        spent = replace(q_t, seen=q_s.seen).log_evidence(GaussianStep.around(step.operator, x_t, 0.0))
        ancestors = multinomial(q_s.log_evidence(step) - spent, problem.rng)
        guided = q_s.seen.flatten(1).any(1)[:, None]
        ancestors = torch.where(guided, ancestors, torch.arange(self.num_particles, device=x_t.device))
        return q_s.sample(step.resampled(ancestors), self.noise(problem))

    def _guides(self, problem: Problem, levels: list[Level]) -> list[Observation]:
        """Return q_t at every level."""
        operator = problem.spectral_operator
        inverse = inverse_singular_values(operator)
        z = inverse * operator.measurement_to_spectral(problem.y)
        singular = operator.singular_values()
        noise_std = torch.as_tensor(per_image(problem.noise_std, singular))
        alpha = torch.tensor([t.alpha for t in levels], dtype=singular.dtype, device=singular.device)
        sigma = torch.tensor([t.sigma for t in levels], dtype=singular.dtype, device=singular.device)
        distance = (alpha * noise_std[..., None]).square() - (sigma * singular[..., None]).square()
        # pure noise (alpha 0) holds no image to measure
        tau = distance.abs().where(alpha > 0, torch.inf).argmin(-1)
        alpha_tau, sigma_tau = alpha[tau], sigma[tau]
        return [
            Observation(
                t.alpha * z,
                t.sigma**2 - (t.alpha / alpha_tau) ** 2 * (sigma_tau**2 - self.kappa),
                (inverse > 0) & (tau >= k),
            )
            for k, t in enumerate(levels)
        ]
