"""FK steering: particles of the unconditional sampler, weighted by the rewards of their estimates on the way.

Singhal et al. 2025, "A General Framework for Inference-time Scaling and Steering of Diffusion Models"
(arXiv 2501.06848). The reward of an inverse problem is the log-likelihood, r(x) = -||y - A(D(x))||^2 / 2 sigma_y^2. At
every resampling step k, with r_k = r(x_0(x_t)), particles are weighted by the potential

    diff:  G_k = exp(lambda (r_k - r_{k-1})),   r_0 = 0
    max:   G_k = exp(lambda max_{j <= k} r_j)
    add:   G_k = exp(lambda sum_{j <= k} r_j)

and resampled; a DDIM step with eta follows. At the end G = exp(lambda r(x)) / prod G_k, so that all potentials of a
particle and its ancestors multiply to exp(lambda r(x)): the weighted particles approach p(x) exp(lambda r(x)), which
for lambda = 1 is the posterior of the model, whatever the potential. No gradient is taken.

Faults of the authors' code that are not followed: where the effective sample size is large enough not to resample, it
drops the weights (here they are kept, as log-weights); the last potential of ``max`` and ``add`` has the accumulated
reward in place of r(x), so that nothing telescopes; the maximum starts at a reward of 0, which no likelihood exceeds
(here at none); weights are clamped at 1e10. Departures that do not change what is sampled: resampling comes before the
step instead of after it, is systematic, not multinomial, and is left out at the end, where the weights are returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import squared_norm
from ipsolve.priors.schedules import Spacing
from ipsolve.problem import Problem, Solution, systematic
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost
from ipsolve.solvers.steps.diffusion import ddim_step, noise_in
from ipsolve.solvers.steps.particles import ParticleSolver, clouds, effective_sample_size, gather


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class FKSteering(ParticleSolver):
    """FK steering, for any operator, differentiable or not, and for latent priors too.

    Steps are counted from the noise, 0, to the image, as in the authors' code. The preset ``official`` resamples at
    every resampling step, as that code does unless told otherwise.

    Args:
        num_particles: K, for each image; the paper has 2 to 8.
        eta: of the model's DDIM step; without noise there would be nothing to choose from.
        potential: see above.
        lambda_: what the log-likelihood is multiplied by; 1 is the posterior.
        resample_frequency, resampling_t_start, resampling_t_end: resampling steps are every so many from the first to
            the last of the range; the end of sampling is always one.
        ess_threshold: an image is resampled when its effective sample size is below this share of K; 1 is always.
    """

    name: ClassVar[str] = "fk_steering"
    citation: ClassVar[Citation] = Citation(
        key="singhal2025fk",
        authors="Singhal, Raghav and Horvitz, Zachary and others",
        title="A General Framework for Inference-time Scaling and Steering of Diffusion Models",
        year=2025,
        arxiv="2501.06848",
    )
    requires: ClassVar[Traits] = frozenset({"noisy"})
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"official": {"ess_threshold": 1.0}}

    num_steps: Annotated[int, Field(ge=1)] = 100
    timestep_spacing: Spacing | None = None
    num_particles: Annotated[int, Field(ge=1)] = 4
    eta: Annotated[float, Field(gt=0, le=1)] = 1.0
    potential: Literal["diff", "max", "add"] = "diff"
    lambda_: Annotated[float, Field(ge=0)] = 1.0
    resample_frequency: Annotated[int, Field(ge=1)] = 20
    resampling_t_start: Annotated[int, Field(ge=0)] = 20
    resampling_t_end: Annotated[int, Field(ge=0)] = 80
    ess_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5

    def cost(self, traits: Traits) -> Cost:
        calls = Cost(denoiser=self.num_steps * self.num_particles)
        if "latent" not in traits:
            return calls
        decoded = len(self._resampling_steps()) + 1  # and every particle at the end
        return Cost(denoiser=calls.denoiser, decoder=decoded * self.num_particles)

    def solve(self, problem: Problem) -> Solution:
        swarm, cloud = self.swarm(problem), (problem.batch_size, self.num_particles)
        levels = problem.prior.schedule.levels(self.num_steps, self.timestep_spacing)
        resampling, themselves = self._resampling_steps(), torch.arange(self.num_particles, device=problem.y.device)
        x = levels[0].sigma * self.noise(problem)
        log_weights = x.new_zeros(cloud)
        spent = x.new_zeros(cloud)  # log of all potentials of a particle and its ancestors
        record: Tensor | None = None  # lambda max or sum of their rewards
        for step, (t, s) in enumerate(pairwise(levels)):
            x_0 = swarm.prior.denoise(x, t)
            if step in resampling:
                reward = self._reward(swarm, swarm.prior.decode(x_0)).reshape(cloud)
                record = self._accumulated(record, reward)
                potential = record - spent if self.potential == "diff" else record
                log_weights, spent = log_weights + potential, spent + potential
                uneven = (effective_sample_size(log_weights) < self.ess_threshold * self.num_particles)[:, None]
                ancestors = torch.where(uneven, systematic(log_weights, self.num_particles, problem.rng), themselves)
                log_weights = torch.where(uneven, 0.0, log_weights)
                spent, record = spent.gather(1, ancestors), record.gather(1, ancestors)
                x, x_0 = gather(x, ancestors), gather(x_0, ancestors)
            x = ddim_step(x_0, noise_in(x, x_0, t), t, s, self.eta, self.noise(problem))
        images = swarm.prior.decode(x)
        log_weights = log_weights + self._reward(swarm, images).reshape(cloud) - spent
        return Solution(clouds(images, self.num_particles), log_weights.log_softmax(1))

    def _resampling_steps(self) -> range:
        """Return the steps at which particles are weighted, but for the end."""
        # the estimate of the last step is the image, where the last potential is
        end = min(self.resampling_t_end + 1, self.num_steps - 1)
        return range(self.resampling_t_start, end, self.resample_frequency)

    def _reward(self, swarm: Problem, images: Tensor) -> Tensor:
        """Return lambda r of images, (rows,)."""
        reward = -0.5 * self.lambda_ * squared_norm(swarm.residual(images)).double() / swarm.noise_std**2
        return reward.to(images.dtype)

    def _accumulated(self, before: Tensor | None, reward: Tensor) -> Tensor:
        """Return the log of the product of potentials to reach (``diff``), or of the next potential."""
        if before is None or self.potential == "diff":
            return reward
        return torch.maximum(before, reward) if self.potential == "max" else before + reward
