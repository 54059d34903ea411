"""The 25-component Gaussian mixture on which MCGDiff was measured.

Cardoso, Janati El Idrissi, Le Corff & Moulines 2024, "Monte Carlo guided Diffusion for Bayesian linear inverse
problems" (arXiv 2308.07983), the Gaussian mixture experiment, with the details of the authors' script:

    p(x) = sum_k w_k N(x; m_k, I_d), m_k = (-8 i, -8 j, -8 i, -8 j, ...) for i, j in -2..2, w_k = chi^2_1, normalised,
    A = U diag(s) V^T with the singular vectors of a standard normal matrix and s ~ U[0, 1],
    y = A x + sigma_y n, sigma_y = u max(s), u ~ U[0, 1].

The script draws the weights once for each d, before any seed; so they are here, as a function of (seed, d) shared by
all problems of that d. Problems never share random numbers, which the seeds of the script make neighbouring cells do.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.operators.base import Shape, Theta
from ipsolve.operators.matrix import Matrix, MatrixSpec
from ipsolve.operators.noise import Gaussian
from ipsolve.operators.tasks import Task
from ipsolve.posterior.problems import PROBLEMS, PosteriorProblem, ProblemSpec
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedule_spec import ScheduleMapping, load_schedule
from ipsolve.problem import Posed, Problem
from ipsolve.randomness import ImageRng, image_rng
from ipsolve.requests.errors import RequestError


@dataclass(frozen=True, config={"extra": "forbid"})
class UniformSpectrum(MatrixSpec):
    """A = U diag(s) V^T: singular vectors of a standard normal m x d matrix, s ~ U[0, 1] in descending order.

    Draws: the normal matrix row by row, then s.
    """

    num_measurements: int

    def parameters(self, image_shape: Shape, rng: ImageRng, dtype: torch.dtype) -> Theta:
        gaussian = rng.normal(self.num_measurements, *image_shape, dtype=torch.float64)
        u, _, vt = torch.linalg.svd(gaussian, full_matrices=False)
        s = rng.uniform(self.num_measurements, dtype=torch.float64).sort(descending=True).values
        return {"matrix": ((u * s[:, None]) @ vt).to(dtype)}


@PROBLEMS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class MCGDiffProblems(ProblemSpec):
    """The experiment's problems of one size.

    The streams of a problem: ``operator``, ``truth`` (component, then x) and ``measurement`` (u, then n).

    Args:
        dimension: d, even; 8, 80 and 800 in the paper.
        num_measurements: m <= d; 1, 2 and 4 in the paper.
        schedule: of the prior.
    """

    name: ClassVar[str] = "mcgdiff"

    dimension: Annotated[int, Field(ge=2, multiple_of=2)]
    num_measurements: Annotated[int, Field(ge=1)]
    num_problems: Annotated[int, Field(ge=1)] = 20
    schedule: ScheduleMapping = dataclasses.field(default_factory=lambda: {"schedule": "mcgdiff"})

    def __post_init__(self) -> None:
        if self.num_measurements > self.dimension:
            raise RequestError("num_measurements", f"must be at most dimension (got {self.num_measurements})")

    @property
    def label(self) -> str:
        return f"mcgdiff-d{self.dimension}-m{self.num_measurements}"

    @property
    def image_shape(self) -> Shape:
        return (self.dimension,)

    @property
    def task(self) -> Task:
        return Task(UniformSpectrum(self.num_measurements), Gaussian(1.0))

    def mixture(self, seed: int) -> GaussianMixture:
        """Return the prior density, the same for all problems of this dimension."""
        grid = -8.0 * torch.arange(-2, 3, dtype=torch.float64)
        means = torch.cartesian_prod(grid, grid).repeat(1, self.dimension // 2)
        rng = image_rng(seed, [f"mcgdiff-d{self.dimension}"], "weights")
        return GaussianMixture.isotropic(rng.normal(len(means), dtype=torch.float64)[0].square(), means, 1.0)

    def problem(self, index: int, seed: int) -> PosteriorProblem:
        ids = [self.problem_ids()[index]]
        mixture = self.mixture(seed)
        family = self.task.operator.family((self.dimension,), torch.float64)
        theta = family.parameters(image_rng(seed, ids, "operator"))
        operator = family.at(theta)
        assert isinstance(operator, Matrix)
        truth = mixture.sample(image_rng(seed, ids, "truth"))
        # not by pose: how strong the noise is depends on what was drawn of A
        rng = image_rng(seed, ids, "measurement")
        noise_std = rng.uniform(1, dtype=torch.float64) * operator.largest_singular_value()
        y = operator.forward(truth) + noise_std * rng.normal(self.num_measurements, dtype=torch.float64)
        prior = MixturePrior(mixture, (self.dimension,), load_schedule(self.schedule))
        problem = Problem(y, noise_std[:, 0], operator, prior, image_rng(seed, ids, "solver"))
        posterior = mixture.posterior(operator.matrix[0], y[0], float(noise_std))
        return PosteriorProblem(ids[0], Posed(problem, truth, operator, theta), posterior)
