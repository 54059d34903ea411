"""Problems written out in a configuration: any mixture, any linear operator.

generator: explicit
prior: {weights: [1, 2], means: [[0, 0], [3, 1]], std: 0.5}       # or {prior: mixture, image_shape: [3, 8, 8]}
operator: {matrix: [[1, 0.5]]}                                    # or {operator: super_resolution, factor: 4}
noise_std: 0.1
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.operators import OPERATORS
from ipsolve.operators.base import LinearOperator, OperatorSpec, Shape, Theta, require
from ipsolve.operators.matrix import Matrix, MatrixSpec
from ipsolve.operators.noise import Gaussian
from ipsolve.operators.tasks import Task
from ipsolve.posterior.problems import PROBLEMS, PosteriorProblem, ProblemSpec
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedule_spec import ScheduleMapping, load_schedule
from ipsolve.priors.spec import prior_spec
from ipsolve.problem import pose
from ipsolve.randomness import image_rng
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build

Positive = Annotated[float, Field(gt=0)]
Vector = Annotated[list[float], Field(min_length=1)]
Rows = Annotated[list[Vector], Field(min_length=1)]
MAX_MEASUREMENTS = 4096  # the closed form factorises a dense A


@dataclass(frozen=True, config={"extra": "forbid"})
class LiteralMixture:
    """A mixture in numbers.

    Args:
        means: (K, d).
        weights: (K,), normalised here; null for equal ones.
        std: of isotropic components, one or (K,).
        covariances: (K, d, d), instead of ``std``.
        image_shape: of x; null for vectors.
        schedule: ``schedule`` (its name) and the schedule's own keys.
    """

    means: Rows
    weights: list[Positive] | None = None
    std: Positive | list[Positive] | None = None
    covariances: list[Rows] | None = None
    image_shape: list[Annotated[int, Field(ge=1)]] | None = None
    schedule: ScheduleMapping = dataclasses.field(default_factory=lambda: {"schedule": "linear"})

    def __post_init__(self) -> None:
        k, d = len(self.means), len(self.means[0])
        require(all(len(row) == d for row in self.means), "means: all rows must have the same length")
        require(self.weights is None or len(self.weights) == k, f"weights: must be {k}, one for each of the means")
        require((self.std is None) != (self.covariances is None), "give std or covariances, one of them")
        require(not isinstance(self.std, list) or len(self.std) == k, f"std: must be one or {k}, as many as means")
        require(self.image_shape is None or math.prod(self.image_shape) == d, f"image_shape: must have {d} entries")
        if self.covariances is not None:
            sizes = [(len(rows), *map(len, rows)) for rows in self.covariances]
            require(sizes == [(d,) * (d + 1)] * k, f"covariances: must be {k} matrices of {d} x {d}")
            values = torch.tensor(self.covariances, dtype=torch.float64)
            definite = torch.equal(values, values.mT) and bool((torch.linalg.eigvalsh(values) > 0).all())
            require(definite, "covariances: must be symmetric and positive definite")

    def prior(self) -> MixturePrior:
        means = torch.tensor(self.means, dtype=torch.float64)
        weights = torch.tensor(self.weights or [1.0] * len(means), dtype=torch.float64)
        if self.covariances is None:
            mixture = GaussianMixture.isotropic(weights, means, torch.tensor(self.std, dtype=torch.float64))
        else:
            mixture = GaussianMixture.full(weights, means, torch.tensor(self.covariances, dtype=torch.float64))
        shape = tuple(self.image_shape or means.shape[1:])
        return MixturePrior(mixture, shape, load_schedule(self.schedule))


@dataclass(frozen=True, config={"extra": "forbid"})
class LiteralMatrix(MatrixSpec):
    """A in numbers, (m, d)."""

    matrix: Rows

    def check(self, image_shape: Shape) -> None:
        fits = all(len(row) == math.prod(image_shape) for row in self.matrix) and len(image_shape) == 1
        require(fits, f"matrix: its rows must have the {math.prod(image_shape)} entries of a vector x")

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> Matrix:
        return Matrix(torch.tensor([self.matrix], dtype=dtype, device=device))


@PROBLEMS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class ExplicitProblems(ProblemSpec):
    """Problems with a prior and an operator of one's own; truth, noise and random parts of A differ between them.

    Args:
        prior: the keys of :class:`LiteralMixture`, or ``prior`` (a registered mixture prior) and its keys.
        operator: ``matrix``, or ``operator`` (a registered linear one) and its keys.
        noise_std: of y.
        truth: x, flattened; null to draw one from the prior for each problem.
    """

    name: ClassVar[str] = "explicit"

    prior: dict[str, Any]
    operator: dict[str, Any]
    noise_std: Positive
    truth: Vector | None = None
    num_problems: Annotated[int, Field(ge=1)] = 1

    def __post_init__(self) -> None:
        shape = self.image_shape
        spec = self.task.operator
        require(spec.linear, f"operator: the posterior is known for linear operators, {spec.name} is not")
        require(
            isinstance(spec, MatrixSpec) or len(shape) == 3, f"operator: {spec.name} takes images, prior gives {shape}"
        )
        spec.check_signal(shape)
        d = math.prod(shape)
        require(self.truth is None or len(self.truth) == d, f"truth: must have the {d} entries of x")

    @property
    def label(self) -> str:
        return "explicit"

    @property
    def image_shape(self) -> Shape:
        if "prior" not in self.prior:
            return self._prior().image_shape
        spec = prior_spec(self.prior)
        require(spec.name.endswith("mixture"), f"prior.prior: must be a mixture, {spec.name} has no known posterior")
        return spec.summary().image_shape

    @property
    def task(self) -> Task:
        return Task(self._operator(), Gaussian(self.noise_std))

    def problem(self, index: int, seed: int) -> PosteriorProblem:
        ids = [self.problem_ids()[index]]
        prior = self._prior()
        if self.truth is None:
            truth = prior.sample(image_rng(seed, ids, "truth"))
        else:
            truth = torch.tensor(self.truth, dtype=torch.float64).reshape(1, *prior.image_shape)
        posed = pose(self.task, truth, prior, seed, ids)
        operator, y = posed.problem.linear_operator, posed.problem.y[0]
        seen = torch.ones(operator.measurement_shape, dtype=torch.bool)
        support = operator.support()
        if support is not None:
            seen = (support[0] > 0).expand_as(seen)
        posterior = prior.mixture.posterior(_rows(operator, seen), y[seen], self.noise_std)
        return PosteriorProblem(ids[0], posed, posterior)

    def _operator(self) -> OperatorSpec:
        if "matrix" in self.operator:
            return build(LiteralMatrix, self.operator, "operator")
        if "operator" not in self.operator:
            raise RequestError("operator", f"needs matrix or operator; operator may be: {', '.join(OPERATORS)}")
        return OPERATORS.parse(self.operator, "operator", "operator")

    def _prior(self) -> MixturePrior:
        if "prior" not in self.prior:
            return build(LiteralMixture, self.prior, "prior").prior()
        prior = prior_spec(self.prior).load()
        assert isinstance(prior, MixturePrior)
        return prior


def _rows(operator: LinearOperator, seen: Tensor) -> Tensor:
    """Return the rows of A that measure something, (m, d): A^T of unit measurements."""
    m = int(seen.sum())
    if m > MAX_MEASUREMENTS:
        raise RequestError("operator", f"{m} measurements are too many for a closed form; at most {MAX_MEASUREMENTS}")
    units = torch.zeros(m, *seen.shape, dtype=torch.float64)
    units[:, seen] = torch.eye(m, dtype=torch.float64)
    return operator.select(torch.zeros(m, dtype=torch.int64)).adjoint(units).flatten(1)
