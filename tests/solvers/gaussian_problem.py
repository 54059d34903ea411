"""A Gaussian prior on vectors and a dense matrix: every quantity of a guided step can be written down by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ipsolve.evaluation.sampling import draw
from ipsolve.operators.matrix import Matrix
from ipsolve.priors import Level, Prior, linear
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedules import Edm, Schedule, Spacing
from ipsolve.problem import Problem
from ipsolve.randomness import image_rng
from ipsolve.solvers import Solver

SCHEDULES: dict[str, Schedule] = {"vp": linear(), "ve": Edm()}
BATCH, D, M = 3, 5, 2
IDS = [f"image{i}" for i in range(BATCH)]


@dataclass(frozen=True)
class GaussianProblem:
    """x_0 ~ N(mean, covariance), y = A x_0 + noise_std n, with one A (M, D) for each of the BATCH problems."""

    problem: Problem
    mean: Tensor
    covariance: Tensor
    a: Tensor

    @property
    def y(self) -> Tensor:
        return self.problem.y

    @property
    def noise_std(self) -> float:
        return float(self.problem.noise_std[0])

    def solve(self, solver: Solver, prior: Prior | None = None) -> Tensor:
        """Return x_hat, (BATCH, D); ``prior`` None is the one of the problem."""
        problem = replace(self.problem, prior=prior or self.problem.prior, rng=image_rng(0, IDS, "solver"))
        with torch.no_grad():
            return draw(solver, problem)[:, 0]

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        """E[x_0 | x_t] by the regression formula."""
        return self.mean + mv(self.jacobian(t), x_t - t.alpha * self.mean)

    def jacobian(self, t: Level) -> Tensor:
        """d E[x_0 | x_t] / d x_t, (D, D)."""
        total = t.alpha**2 * self.covariance + t.sigma**2 * torch.eye(D, dtype=torch.float64)
        return t.alpha * self.covariance @ torch.linalg.inv(total)

    def posterior(self, x_t: Tensor | None = None, t: Level | None = None) -> tuple[Tensor, Tensor]:
        """Mean and covariance of x_0 given y, and given x_t too, by adding precisions."""
        precision = torch.linalg.inv(self.covariance) + self.a.mT @ self.a / self.noise_std**2
        shift = torch.linalg.solve(self.covariance, self.mean) + mv(self.a.mT, self.y) / self.noise_std**2
        if x_t is not None and t is not None:
            precision = precision + (t.alpha / t.sigma) ** 2 * torch.eye(D, dtype=torch.float64)
            shift = shift + t.alpha / t.sigma**2 * x_t
        covariance = torch.linalg.inv(precision)
        return mv(covariance, shift), covariance

    def flow_map(self, levels: list[Level]) -> Tensor:
        """Where the exact probability flow of the posterior carries the starting noise of the solver.

        In x_t / alpha_t the state is N(m, C + s^2 I) with one eigenbasis for all s = sigma_t / alpha_t, so that every
        eigencoordinate only changes its scale.
        """
        start = levels[0]
        x = start.sigma * image_rng(0, IDS, "solver").normal(D, dtype=torch.float64) / start.alpha
        mean, covariance = self.posterior()
        variances, basis = torch.linalg.eigh(covariance)
        shrink = (variances / (variances + start.ratio**2)).sqrt()
        return mean + mv(basis, shrink * mv(basis.mT, x - mean))


def mv(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix @ x[..., None])[..., 0]


def gaussian_problem(schedule: str, *, std: float | None = 0.7, noise_std: float = 0.1) -> GaussianProblem:
    """``std`` None gives a covariance that is not a multiple of I."""
    generator = torch.Generator().manual_seed(1)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    mean, root, a = 3 * normal(D), normal(D, D), normal(BATCH, M, D)
    covariance = std**2 * torch.eye(D, dtype=torch.float64) if std is not None else root @ root.T / D
    mixture = GaussianMixture.full(torch.ones(1), mean[None], covariance[None])
    x = mixture.sample(image_rng(0, IDS, "truth"))
    y = mv(a, x) + noise_std * normal(BATCH, M)
    prior = MixturePrior(mixture, (D,), SCHEDULES[schedule])
    problem = Problem(y, torch.full_like(y[:, 0], noise_std), Matrix(a), prior, image_rng(0, IDS, "solver"))
    return GaussianProblem(problem, mean, covariance, a)


@dataclass(frozen=True)
class Reparametrised(Schedule):
    """The levels of a schedule as variance exploding ones: other (alpha, sigma), the same sigma / alpha."""

    schedule: Schedule

    def level(self, time: float) -> Level:
        return Level(time, 1.0, self.schedule.level(time).ratio)

    def levels(self, num_steps: int, spacing: Spacing | None = None) -> list[Level]:
        return [self.level(t.time) for t in self.schedule.levels(num_steps, spacing)]

    def at_ratio(self, ratio: float) -> Level:
        return self.level(self.schedule.at_ratio(ratio).time)


@dataclass(frozen=True)
class Step:
    """Levels and DDIM's constants of one step: x_s = alpha_s x_0 + c_2 eps + std z.

    ``k_t`` and ``k_s`` are x / x^VP, the state over the variance preserving one with the same sigma / alpha.
    """

    t: Level
    s: Level
    c_2: float
    std: float

    @property
    def k_t(self) -> float:
        return math.sqrt(self.t.alpha**2 + self.t.sigma**2)

    @property
    def k_s(self) -> float:
        return math.sqrt(self.s.alpha**2 + self.s.sigma**2)


def steps(schedule: str, num_steps: int, eta: float) -> Iterator[Step]:
    for t, s in pairwise(SCHEDULES[schedule].levels(num_steps)):
        leap = t.sigma**2 - (t.alpha * s.sigma / s.alpha) ** 2
        std = eta * s.sigma * math.sqrt(leap) / t.sigma
        yield Step(t, s, math.sqrt(s.sigma**2 - std**2), std)
