"""A prior N(mean, std^2 I) and one dense operator of norm 1 for a batch of any size, on any schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ipsolve.operators.base import Operator
from ipsolve.operators.matrix import Matrix
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedules import Edm, FlowMatching, Level, Schedule, linear
from ipsolve.problem import Problem
from ipsolve.randomness import ImageRng, image_rng

SCHEDULES: dict[str, Schedule] = {"vp": linear(), "ve": Edm(), "flow": FlowMatching()}


class Opaque(Operator):
    """A matrix behind the interface of a non-linear operator: only ``forward`` is known."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self.image_shape, self.measurement_shape = matrix.image_shape, matrix.measurement_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix.forward(x)

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.matrix.select(rows))


@dataclass(frozen=True)
class DenseGaussian:
    """y = A x_0 + noise for a batch of x_0 ~ N(mean, std^2 I)."""

    a: Tensor  # (m, d)
    y: Tensor  # (B, m)
    mean: Tensor  # (d,)
    std: float
    noise_std: float
    schedule: Schedule

    @property
    def prior(self) -> MixturePrior:
        mixture = GaussianMixture.isotropic(torch.ones(1), self.mean[None], self.std)
        return MixturePrior(mixture, (len(self.mean),), self.schedule)

    @property
    def operator(self) -> Matrix:
        return Matrix(self.a[None])

    @property
    def problem(self) -> Problem:
        """What a solver is given, at the start of its streams."""
        return Problem(self.y, torch.full_like(self.y[:, 0], self.noise_std), self.operator, self.prior, self.rng())

    def rng(self) -> ImageRng:
        return image_rng(0, [f"image{i}" for i in range(len(self.y))], "solver")

    def normal(self, rng: ImageRng) -> Tensor:
        return rng.normal(len(self.mean), dtype=torch.float64)

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        return self.mean + self.gain(t) * (x_t - t.alpha * self.mean)

    def gain(self, t: Level) -> float:
        """d E[x_0 | x_t] / d x_t."""
        return t.alpha * self.std**2 / (t.alpha**2 * self.std**2 + t.sigma**2)

    def residual(self, x: Tensor) -> Tensor:
        return x @ self.a.T - self.y


def dense_gaussian(
    schedule: str = "vp", m: int = 2, d: int = 5, batch: int = 3, std: float = 0.6, noise_std: float = 0.1
) -> DenseGaussian:
    """Return a problem whose operator has singular values from 1 down to 0.5."""
    generator = torch.Generator().manual_seed(3)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    u, _, vt = torch.linalg.svd(randn(m, d), full_matrices=False)
    a = u @ torch.diag(torch.linspace(1.0, 0.5, m, dtype=torch.float64)) @ vt
    mean = randn(d)
    x = mean + std * randn(batch, d)
    return DenseGaussian(a, x @ a.T + noise_std * randn(batch, m), mean, std, noise_std, SCHEDULES[schedule])
