"""Clouds of particles: resampling within each image, and what a particle method is.

A cloud of P particles for each of B images is a batch of B * P rows, the particles of one image side by side, and
log-weights (B, P). Resampling never mixes images.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ipsolve.problem import Problem, Solution, inverse_cdf
from ipsolve.randomness import ImageRng
from ipsolve.solvers.base import Solver


class ParticleSolver(Solver):
    """A sequential Monte Carlo method: a weighted cloud of particles for every image.

    ``solve`` returns all of them with their weights. Particles of one run share ancestors: they are not independent
    draws.
    """

    num_particles: int

    @abstractmethod
    def solve(self, problem: Problem) -> Solution:
        """Return the final particles, (B, P, *image_shape), and their normalised log-weights, (B, P)."""

    @property
    def num_samples(self) -> int:
        return self.num_particles

    def swarm(self, problem: Problem) -> Problem:
        """Return the problem with a row for each particle, (B * P, ...). Its streams are not to be drawn from."""
        rows = torch.arange(problem.batch_size, device=problem.y.device).repeat_interleave(self.num_particles)
        return problem.select(rows)

    def noise(self, problem: Problem) -> Tensor:
        """Draw N(0, I) for every particle from the stream of its image, (B * P, *latent_shape)."""
        shape = self.num_particles, *problem.prior.latent_shape
        return problem.rng.normal(*shape, dtype=problem.y.dtype).flatten(0, 1)

    def equally_weighted(self, x: Tensor) -> Solution:
        """Return the cloud (B, P, *image_shape) of the rows ``x`` with log-weights -log P."""
        x = clouds(x, self.num_particles)
        return Solution(x, x.new_zeros(x.shape[:2]).log_softmax(1))


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """Return 1 / sum w^2 of normalised weights, (B, P) -> (B,): P if equal, 1 if one particle has all."""
    return log_weights.softmax(1).square().sum(1).reciprocal()


def multinomial(log_weights: Tensor, rng: ImageRng) -> Tensor:
    """Draw P ancestors per image, independently by weight: (B, P) -> (B, P) int64. Weights need not be normalised."""
    return inverse_cdf(log_weights, rng.uniform(log_weights.shape[1], dtype=torch.float64))


def clouds(x: Tensor, num_particles: int) -> Tensor:
    """Return the rows (B * P, ...) as (B, P, ...)."""
    return x.reshape(-1, num_particles, *x.shape[1:])


def gather(x: Tensor, ancestors: Tensor) -> Tensor:
    """Return the rows (B * P, ...) of ``x`` that ``ancestors``, (B, P), name within each image."""
    batch, count = ancestors.shape
    first = count * torch.arange(batch, device=ancestors.device)[:, None]
    return x[(first + ancestors).flatten()]
