"""TDS: a particle filter twisted by the likelihood of the denoised state.

Wu, Trippe, Naesseth, Blei & Cunningham 2023, "Practical and Asymptotically Exact Conditional Sampling in Diffusion
Models" (arXiv 2306.17775), Algorithm 1. The twisting function and the step, with DDIM's p(x_s | x_t) = N(mean, v I):

    log p~(y | x_t) = -||y - A(x_0(x_t))||^2 / 2 (sigma_y^2 + var_t),
    x_s ~ p~(x_s | x_t) = N(mean + v grad_{x_t} log p~(y | x_t), v I),
    w   = p(x_s | x_t) p~(y | x_s) / (p~(y | x_t) p~(x_s | x_t)),

var_t = r^2, or r^2 tau^2 / (r^2 + tau^2) with data of std tau, for r = sigma_t / alpha_t. At the end p~ is the
likelihood itself, so that the weights are exact for any p~ and any number of steps; without noise, where the
likelihood has no density, the last twisting function stands for it. x_0 = D(z_0) for latent priors.

Departures of the authors' code: sigma_y^2 is part of the variance (its tasks are noiseless); images are not clipped;
the inpainting form, which writes y into the last state, is left out. It shifts x_0, which moves the mean of x_s by the
gradient times alpha_s / alpha_t and the variance of q(x_t | x_s), where Algorithm 1 has v, the smaller variance of the
step; weights account for the proposal, and are exact with either.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.conventions import squared_norm
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem, Solution, systematic
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost
from ipsolve.solvers.steps.diffusion import ddim_step, noise_in, posterior_std
from ipsolve.solvers.steps.particles import ParticleSolver, clouds, effective_sample_size, gather


@SOLVERS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class TDS(ParticleSolver):
    """TDS, for any differentiable operator and for latent priors too.

    Args:
        num_particles: K, for each image.
        eta: of the model's DDIM step; 1 is DDPM.
        tau: std of the data, in units of the prior's state; null leaves var_t at (sigma_t / alpha_t)^2.
        ess_threshold: an image is resampled when its effective sample size is below this share of K; 1 is always.
    """

    name: ClassVar[str] = "tds"
    citation: ClassVar[Citation] = Citation(
        key="wu2023tds",
        authors="Wu, Luhuan and Trippe, Brian L. and Naesseth, Christian A. and Blei, David M. and Cunningham, John P.",
        title="Practical and Asymptotically Exact Conditional Sampling in Diffusion Models",
        year=2023,
        venue="NeurIPS",
        arxiv="2306.17775",
    )

    num_steps: Annotated[int, Field(ge=1)] = 100
    timestep_spacing: Spacing | None = None
    num_particles: Annotated[int, Field(ge=1)] = 16
    eta: Annotated[float, Field(gt=0, le=1)] = 1.0
    tau: Annotated[float, Field(gt=0)] | None = None
    ess_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5

    def cost(self, traits: Traits) -> Cost:
        calls = self.num_steps * self.num_particles
        if "latent" not in traits:
            return Cost(denoiser=calls, denoiser_backward=calls)
        decoder = calls + self.num_particles  # every particle is decoded at the end
        return Cost(denoiser=calls, denoiser_backward=calls, decoder=decoder, decoder_backward=calls)

    def solve(self, problem: Problem) -> Solution:
        swarm, cloud = self.swarm(problem), (problem.batch_size, self.num_particles)
        levels = problem.prior.schedule.levels(self.num_steps, self.timestep_spacing)
        x = levels[0].sigma * self.noise(problem)
        log_weights = x.new_zeros(cloud)
        themselves = torch.arange(self.num_particles, device=x.device)
        for t, s in pairwise(levels):
            x_0, twist, guidance = self._twist(swarm, x, t)
            log_weights = log_weights + twist.reshape(cloud)
            uneven = (effective_sample_size(log_weights) < self.ess_threshold * self.num_particles)[:, None]
            ancestors = torch.where(uneven, systematic(log_weights, self.num_particles, problem.rng), themselves)
            log_weights = torch.where(uneven, 0.0, log_weights)
            x, x_0, guidance, twist = (gather(values, ancestors) for values in (x, x_0, guidance, twist))
            v = (self.eta * posterior_std(t, s)) ** 2
            noise = v**0.5 * self.noise(problem)
            x = ddim_step(x_0, noise_in(x, x_0, t), t, s, self.eta) + v * guidance + noise
            # log p~(x_s | x_t) / p(x_s | x_t), written without dividing by v, which is 0 in a step to the clean image
            proposal = 0.5 * v * squared_norm(guidance) + (guidance * noise).flatten(1).sum(1)
            log_weights = log_weights - (twist + proposal).reshape(cloud)
        images = swarm.prior.decode(x)
        if not problem.noiseless:
            twist = -0.5 * squared_norm(swarm.residual(images)) / swarm.noise_std**2
        return Solution(clouds(images, self.num_particles), (log_weights + twist.reshape(cloud)).log_softmax(1))

    def _twist(self, swarm: Problem, x_t: Tensor, t: Level) -> tuple[Tensor, Tensor, Tensor]:
        """Return x_0(x_t), log p~(y | x_t), (rows,), and its gradient with respect to x_t."""
        variance = t.ratio**2  # infinite for pure noise, which says nothing of y
        if self.tau is not None:
            variance = 1 / (1 / variance + 1 / self.tau**2)
        with torch.enable_grad():
            point = x_t.detach().requires_grad_()
            x_0 = swarm.prior.denoise(point, t)
            distance = squared_norm(swarm.residual(swarm.prior.decode(x_0)))
            twist = -0.5 * distance / (swarm.noise_std**2 + variance)
            guidance = torch.autograd.grad(twist.sum(), point)[0]
        return x_0.detach(), twist.detach(), guidance
