"""One Gaussian as prior and a random matrix: the test in which every Gaussian approximation is exact.

The sizes by default, d = 100, A a 50 x 100 standard normal matrix and noise_std 0.1, are those of the Gaussian test of
MGPS (Moufad et al. 2025, "Variational Diffusion Posterior Sampling with Midpoint Guidance"; arXiv 2410.09945).
The covariance here is Q diag(v) Q^T with Q from the QR of a standard normal matrix and v evenly spaced in logarithm
from 1 down to 1 / condition; the mean is standard normal. Mean and covariance are shared by all problems of a size.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.operators.base import Shape, Theta
from ipsolve.operators.matrix import MatrixSpec
from ipsolve.operators.noise import Gaussian
from ipsolve.operators.tasks import Task
from ipsolve.posterior.problems import PROBLEMS, PosteriorProblem, ProblemSpec
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedule_spec import ScheduleMapping, load_schedule
from ipsolve.problem import pose
from ipsolve.randomness import ImageRng, image_rng


@dataclass(frozen=True, config={"extra": "forbid"})
class GaussianMatrix(MatrixSpec):
    """A with entries N(0, 1), drawn row by row."""

    num_measurements: int

    def parameters(self, image_shape: Shape, rng: ImageRng, dtype: torch.dtype) -> Theta:
        return {"matrix": rng.normal(self.num_measurements, *image_shape, dtype=torch.float64).to(dtype)}


@PROBLEMS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class RandomGaussianProblems(ProblemSpec):
    """Problems of one size, each with its own matrix, truth and noise.

    Args:
        dimension: d.
        num_measurements: m.
        noise_std: of y.
        condition: largest over smallest variance of the prior.
        schedule: of the prior.
    """

    name: ClassVar[str] = "random_gaussian"

    dimension: Annotated[int, Field(ge=1)] = 100
    num_measurements: Annotated[int, Field(ge=1)] = 50
    noise_std: Annotated[float, Field(gt=0)] = 0.1
    condition: Annotated[float, Field(ge=1)] = 10.0
    num_problems: Annotated[int, Field(ge=1)] = 20
    schedule: ScheduleMapping = dataclasses.field(default_factory=lambda: {"schedule": "linear"})

    @property
    def label(self) -> str:
        return f"gaussian-d{self.dimension}-m{self.num_measurements}"

    @property
    def image_shape(self) -> Shape:
        return (self.dimension,)

    @property
    def task(self) -> Task:
        return Task(GaussianMatrix(self.num_measurements), Gaussian(self.noise_std))

    def problem(self, index: int, seed: int) -> PosteriorProblem:
        ids = [self.problem_ids()[index]]
        rng = image_rng(seed, [f"gaussian-d{self.dimension}"], "prior")
        mean = rng.normal(self.dimension, dtype=torch.float64)
        basis = torch.linalg.qr(rng.normal(self.dimension, self.dimension, dtype=torch.float64)).Q
        variances = self.condition ** -torch.linspace(0, 1, self.dimension, dtype=torch.float64)
        mixture = GaussianMixture(torch.zeros(1, dtype=torch.float64), mean, variances[None], basis)
        truth = mixture.sample(image_rng(seed, ids, "truth"))
        prior = MixturePrior(mixture, (self.dimension,), load_schedule(self.schedule))
        posed = pose(self.task, truth, prior, seed, ids)
        posterior = mixture.posterior(posed.theta["matrix"][0], posed.problem.y[0], self.noise_std)
        return PosteriorProblem(ids[0], posed, posterior)
