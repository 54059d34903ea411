"""Gaussian filtering of particles in the singular directions of A = U diag(s) V^T.

Given a step N(x_s; mean, v I) of the model and an observation N(z; c, r) of a coordinate c of V^T x_s, the state is
N((r mean + v z) / (v + r), v r / (v + r)) in that coordinate, and the observation has evidence N(z; mean, v + r)
(Bishop 2006, eq. 2.113-2.117). Directions that are not observed follow the step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ipsolve.operators.base import SpectralOperator
from ipsolve.priors.schedules import Level, Spacing
from ipsolve.problem import Problem, Solution, systematic
from ipsolve.randomness import ImageRng
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import Cost
from ipsolve.solvers.steps.diffusion import ddim_step, noise_in, posterior_std
from ipsolve.solvers.steps.particles import ParticleSolver, clouds, gather


@dataclass(frozen=True)
class GaussianStep:
    """N(mean, v I) for every particle: a step of the model before any measurement.

    Attributes:
        operator: A of all rows, as :meth:`Operator.select` expands it.
        mean: (B * P, *image_shape).
        coordinates: V^T mean.
        v: the variance.
    """

    operator: SpectralOperator
    mean: Tensor
    coordinates: Tensor
    v: float

    @classmethod
    def around(cls, operator: SpectralOperator, mean: Tensor, v: float) -> GaussianStep:
        """Return N(mean, v I)."""
        return cls(operator, mean, operator.to_spectral(mean), v)

    @classmethod
    def predict(cls, swarm: Problem, x_t: Tensor, t: Level, s: Level, eta: float) -> GaussianStep:
        """Return the model's p(x_s | x_t), DDIM's with ``eta`` (1: DDPM's)."""
        x_0 = swarm.prior.denoise(x_t, t)
        mean = ddim_step(x_0, noise_in(x_t, x_0, t), t, s, eta)
        return cls.around(swarm.spectral_operator, mean, (eta * posterior_std(t, s)) ** 2)

    def resampled(self, ancestors: Tensor) -> GaussianStep:
        """Return the steps of the particles' ``ancestors``, (B, P)."""
        return replace(self, mean=gather(self.mean, ancestors), coordinates=gather(self.coordinates, ancestors))


@dataclass(frozen=True)
class Observation:
    """z = c + N(0, ``variance``) of those coordinates c = V^T x of the states at one level that are ``seen``.

    All three broadcast to (B, ...), the coordinates of the operator, and are shared by the particles of an image;
    ``value`` has that shape.
    """

    value: Tensor
    variance: Tensor
    seen: Tensor

    def log_evidence(self, step: GaussianStep) -> Tensor:
        """Return log N(z; V^T mean, v + variance) up to a constant of the image, (B, P).

        Coordinates without any variance are left out: there z and c are both certain, and no density exists.
        """
        total = (self.variance + step.v)[:, None]
        used = self.seen[:, None] & (total > 0)
        total = torch.where(used, total, 1.0)
        # |error|^2 over all coordinates is the squared norm also where they are complex (A real, Fourier basis)
        terms = torch.where(used, self._error(step).abs().square() / total, 0.0)
        return -0.5 * terms.flatten(2).sum(2)

    def sample(self, step: GaussianStep, noise: Tensor) -> Tensor:
        """Draw x ~ N(mean, v I) given this observation, from noise ~ N(0, I): both (B * P, *image_shape)."""
        noise = step.v**0.5 * noise
        total = torch.where(self.variance > 0, self.variance + step.v, 1.0)
        # a measurement without variance is kept to the letter, also by a step without variance
        gain = torch.where(self.variance > 0, step.v / total, 1.0).where(self.seen, 0.0)[:, None]
        error = self._error(step)
        n = step.operator.to_spectral(noise).reshape(error.shape)
        change = gain * error + ((1 - gain).sqrt() - 1) * n
        return step.mean + noise + step.operator.from_spectral(change.flatten(0, 1))

    def first_states(self, operator: SpectralOperator, t: Level, noise: Tensor) -> Tensor:
        """Draw x_t ~ N(0, sigma_t^2 I), the state that sampling starts from, given this observation."""
        return self.sample(GaussianStep.around(operator, torch.zeros_like(noise), t.sigma**2), noise)

    def _error(self, step: GaussianStep) -> Tensor:
        c = clouds(step.coordinates, len(step.coordinates) // len(self.value))
        return self.value[:, None] - c


class FilteringSolver(ParticleSolver):
    """The fully adapted particle filter of states x_T .. x_0 that are observed at every level.

    From level t to s: resample by p(z_s | x_t), then draw x_s ~ p(x_s | x_t, z_s).
    """

    num_steps: int
    timestep_spacing: Spacing | None = None
    eta: float

    @abstractmethod
    def observations(self, problem: Problem, levels: list[Level], rng: ImageRng) -> Iterator[Observation]:
        """Yield what is seen of the state at each level, noisiest first; every image has one path, drawn from rng."""

    def solve(self, problem: Problem) -> Solution:
        swarm = self.swarm(problem)
        levels = problem.prior.schedule.levels(self.num_steps, self.timestep_spacing)
        path = self.observations(problem, levels, problem.rng.child("path"))
        x = next(path).first_states(swarm.spectral_operator, levels[0], self.noise(problem))
        for (t, s), observed in zip(pairwise(levels), path, strict=True):
            step = GaussianStep.predict(swarm, x, t, s, self.eta)
            ancestors = systematic(observed.log_evidence(step), self.num_particles, problem.rng)
            x = observed.sample(step.resampled(ancestors), self.noise(problem))
        return self.equally_weighted(x)

    def cost(self, traits: Traits) -> Cost:
        return Cost(denoiser=self.num_steps * self.num_particles)


def diffused_measurement(
    z_0: Tensor, z_t: Tensor, t: Level, s: Level, *, std_t: Tensor, std_s: Tensor, share: Tensor, noise: Tensor
) -> Tensor:
    """Return z_s = alpha_s z_0 + std_s n_s, where n_s keeps the share 1 - ``share`` of the noise n_t of z_t.

    This is DDIM's path when it is told z_0. The ``share`` eta^2 T / std_t^2, with T the variance of q(x_t | x_s), is
    that of DDIM with eta; at eta = 1 it is the Markov path of the forward diffusion, drawn from its noisy end.
    """
    kept = (1 - share).sqrt() * (z_t - t.alpha * z_0) / std_t
    return s.alpha * z_0 + std_s * (kept + share.sqrt() * noise)
