"""The exact answer of a particle method on a Gaussian prior: a Kalman filter, by dense matrices, along the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ipsolve.operators.matrix import Matrix
from ipsolve.priors import Level
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedules import Edm, Schedule, linear
from ipsolve.problem import Problem, Solution
from ipsolve.randomness import ImageRng, image_rng
from ipsolve.solvers.steps.filtering import FilteringSolver, Observation

F64 = torch.float64
MEAN = torch.tensor([0.5, -1.0, 0.3], dtype=F64)
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.7, 0.0], [-0.3, 0.4, 0.5]], dtype=F64)
COVARIANCE = ROOT @ ROOT.T
A = torch.tensor([[1.0, 0.5, -0.2], [0.2, -0.3, 0.6]], dtype=F64)
Y = torch.tensor([0.9, 0.4], dtype=F64)
SCHEDULES: dict[str, Schedule] = {"vp": linear(), "ve": Edm(sigma_min=0.02, sigma_max=20.0)}


def gaussian() -> GaussianMixture:
    return GaussianMixture.full(torch.ones(1), MEAN[None], COVARIANCE[None])


def prior(schedule: Schedule) -> MixturePrior:
    return MixturePrior(gaussian(), (3,), schedule)


def operator() -> Matrix:
    return Matrix(A[None])


def runs(count: int) -> ImageRng:
    return image_rng(0, [f"run{i}" for i in range(count)], "solver")


def problem(count: int, noise_std: float, schedule: Schedule = SCHEDULES["vp"]) -> Problem:
    """Return the problem of this module, posed ``count`` times."""
    y = Y.expand(count, -1)
    return Problem(y, torch.full_like(y[:, 0], noise_std), operator(), prior(schedule), runs(count))


@dataclass(frozen=True)
class OnePath(FilteringSolver):
    """The filter of a solver with all runs on the path of the first, so that all particles have one law."""

    path: list[Observation]
    num_steps: int
    num_particles: int
    eta: float

    @classmethod
    def of(cls, solver: FilteringSolver, noise_std: float, levels: list[Level]) -> OnePath:
        path = list(solver.observations(problem(1, noise_std), levels, runs(1).child("path")))
        return cls(path, solver.num_steps, solver.num_particles, solver.eta)

    def observations(self, problem: Problem, levels: list[Level], rng: ImageRng) -> Iterator[Observation]:
        for observed in self.path:
            yield Observation(observed.value.expand(problem.batch_size, -1), observed.variance, observed.seen)


@dataclass(frozen=True)
class Belief:
    """N(mean, covariance) of the state."""

    mean: Tensor
    covariance: Tensor

    def step(self, t: Level, s: Level, eta: float) -> Belief:
        """Push forward by DDIM with the denoiser m + K (x - alpha m), K = alpha C (alpha^2 C + sigma^2)^-1."""
        eye = torch.eye(3, dtype=F64)
        gain = t.alpha * COVARIANCE @ torch.linalg.inv(t.alpha**2 * COVARIANCE + t.sigma**2 * eye)
        v = eta**2 * s.sigma**2 / t.sigma**2 * (t.sigma**2 - (t.alpha / s.alpha) ** 2 * s.sigma**2)
        kept = math.sqrt(s.sigma**2 - v) / t.sigma if s.sigma > 0 else 0.0
        matrix = kept * eye + (s.alpha - kept * t.alpha) * gain
        offset = (s.alpha - kept * t.alpha) * (MEAN - t.alpha * gain @ MEAN)
        return Belief(matrix @ self.mean + offset, matrix @ self.covariance @ matrix.T + v * eye)

    def observe(self, h: Tensor, z: Tensor, noise: Tensor) -> Belief:
        """Condition on z = h x + N(0, noise)."""
        gain = self.covariance @ h.T @ torch.linalg.inv(h @ self.covariance @ h.T + noise)
        return Belief(self.mean + gain @ (z - h @ self.mean), self.covariance - gain @ h @ self.covariance)


def exact(levels: list[Level], eta: float, observe: Callable[[int, Belief], Belief]) -> Belief:
    """Return the law of the last state when ``observe(k, belief)`` conditions the state at level k."""
    belief = observe(0, Belief(torch.zeros(3, dtype=F64), levels[0].sigma ** 2 * torch.eye(3, dtype=F64)))
    for k in range(1, len(levels)):
        belief = observe(k, belief.step(levels[k - 1], levels[k], eta))
    return belief


def weights(cloud: Solution) -> Tensor:
    """Return the weights of the particles of each run, (B, P), as a particle method states them: normalised."""
    assert cloud.log_weights is not None
    return cloud.log_weights.exp()


def moments(cloud: Solution) -> tuple[Tensor, Tensor]:
    """Return weighted mean and second moments of each run, (B, d) and (B, d, d)."""
    w, x = weights(cloud), cloud.x
    return torch.einsum("bp,bpi->bi", w, x), torch.einsum("bp,bpi,bpj->bij", w, x, x)


def z_scores(estimates: Tensor, truth: Tensor) -> Tensor:
    """Return how many standard errors the mean of independent runs, (B, ...), lies from the truth."""
    return (estimates.mean(0) - truth) / (estimates.std(0) / math.sqrt(len(estimates)))


def assert_samples(cloud: Solution, law: Belief, limit: float = 4.5) -> None:
    """Assert that runs of weighted particles have the law's mean and second moments, to Monte Carlo error."""
    first, second = moments(cloud)
    assert z_scores(first, law.mean).abs().max() < limit
    assert z_scores(second, law.covariance + torch.outer(law.mean, law.mean)).abs().max() < limit


def assert_posterior(cloud: Solution, law: Belief, mean: float, covariance: float) -> None:
    """Assert that all runs together have the law's mean and covariance, within the given distances."""
    torch.testing.assert_close(moments(cloud)[0].mean(0), law.mean, rtol=0, atol=mean)
    centred = cloud.x - law.mean
    spread = torch.einsum("bp,bpi,bpj->ij", weights(cloud), centred, centred) / len(centred)
    torch.testing.assert_close(spread, law.covariance, rtol=0, atol=covariance)


def posterior(noise_std: float) -> Belief:
    mixture = gaussian().posterior(A, Y, noise_std)
    return Belief(mixture.means[0], mixture.covariances()[0])
