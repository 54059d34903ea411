"""Clouds of particles: resampling within each image, and what a particle method is.

A cloud of P particles for each of B images is a batch of B * P rows, the particles of one image side by side, and
log-weights (B, P). Resampling never mixes images.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ipsolve.operators.base import Operator
from ipsolve.priors.base import Prior
from ipsolve.problem import Measurement
from ipsolve.randomness import ImageRng
from ipsolve.solvers.base import Solver


class ParticleSolver(Solver):
    """A sequential Monte Carlo method: a weighted cloud of particles for every image.

    ``solve`` returns one particle per image, drawn by its weight: particles of one run share ancestors and are not
    independent draws.
    """

    num_particles: int

    @abstractmethod
    def particles(
        self, measurement: Measurement, operator: Operator, prior: Prior, rng: ImageRng
    ) -> tuple[Tensor, Tensor]:
        """Return the final particles, (B, P, *image_shape), and their normalised log-weights, (B, P).

        The arguments are those of :meth:`solve`.
        """

    def solve(self, measurement: Measurement, operator: Operator, prior: Prior, rng: ImageRng) -> Tensor:
        x, log_weights = self.particles(measurement, operator, prior, rng)
        drawn = _inverse_cdf(log_weights, rng.child("draw").uniform(1, dtype=torch.float64))[:, 0]
        return x[torch.arange(len(x), device=x.device), drawn]

    def rows(self, rng: ImageRng) -> Tensor:
        """Return the image that each particle belongs to, (B * P,) int64: 0, ..., 0, 1, ..., 1, ..."""
        return torch.arange(rng.batch_size, device=rng.device).repeat_interleave(self.num_particles)

    def noise(self, prior: Prior, rng: ImageRng, dtype: torch.dtype) -> Tensor:
        """Draw N(0, I) for every particle, (B * P, *latent_shape)."""
        return rng.normal(self.num_particles, *prior.latent_shape, dtype=dtype).flatten(0, 1)

    def equally_weighted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cloud (B, P, *image_shape) of the rows ``x`` with log-weights -log P."""
        x = clouds(x, self.num_particles)
        return x, x.new_zeros(x.shape[:2]).log_softmax(1)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """Return 1 / sum w^2 of normalised weights, (B, P) -> (B,): P if equal, 1 if one particle has all."""
    return log_weights.softmax(1).square().sum(1).reciprocal()


def multinomial(log_weights: Tensor, rng: ImageRng) -> Tensor:
    """Draw P ancestors per image, independently by weight: (B, P) -> (B, P) int64. Weights need not be normalised."""
    return _inverse_cdf(log_weights, rng.uniform(log_weights.shape[1], dtype=torch.float64))


def systematic(log_weights: Tensor, rng: ImageRng) -> Tensor:
    """Draw P ancestors per image from one uniform number: particle i is taken floor or ceil(P w_i) times.

    Source: Kitagawa 1996, J. Comput. Graph. Stat. 5(1).
    """
    count = log_weights.shape[1]
    comb = torch.arange(count, device=log_weights.device)
    return _inverse_cdf(log_weights, (comb + rng.uniform(1, dtype=torch.float64)) / count)


def _inverse_cdf(log_weights: Tensor, positions: Tensor) -> Tensor:
    """Return the particle in whose share of [0, 1) each position lies, (B, P), (B, n) -> (B, n)."""
    cumulative = log_weights.double().softmax(1).cumsum(1)
    # divided by its own end, or rounding could leave the last position to a particle of weight 0
    found = torch.searchsorted(cumulative / cumulative[:, -1:], positions, right=True)
    return found.clamp(max=log_weights.shape[1] - 1)


def clouds(x: Tensor, num_particles: int) -> Tensor:
    """Return the rows (B * P, ...) as (B, P, ...)."""
    return x.reshape(-1, num_particles, *x.shape[1:])


def gather(x: Tensor, ancestors: Tensor) -> Tensor:
    """Return the rows (B * P, ...) of ``x`` that ``ancestors``, (B, P), name within each image."""
    batch, count = ancestors.shape
    first = count * torch.arange(batch, device=ancestors.device)[:, None]
    return x[(first + ancestors).flatten()]
