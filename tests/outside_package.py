"""A package as somebody else writes it: one of each kind of part, registered by being imported.

Import it in a process of its own: registering is for good, and other tests go over all that is registered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.metrics.base import FEATURES, METRICS, SET_METRICS, FeatureExtractor, Metric, Rows, SetMetric
from ipsolve.operators.base import OPERATORS, LinearOperator, OperatorSpec, Shape, Theta
from ipsolve.operators.noise import NOISES, Noise
from ipsolve.priors.base import Prior
from ipsolve.priors.networks.unet import Precision
from ipsolve.priors.schedules import Level, linear
from ipsolve.priors.spec import PRIORS, PriorSpec, PriorSummary
from ipsolve.problem import Problem
from ipsolve.randomness import ImageRng
from ipsolve.requests.traits import Traits
from ipsolve.solvers.base import SOLVERS, Cost, Solver


class Columns(LinearOperator):
    """y is every second column of x."""

    def __init__(self, image_shape: Shape) -> None:
        self.image_shape = image_shape
        self.measurement_shape = (*image_shape[:2], -(-image_shape[2] // 2))

    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2]

    def adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(len(y), *self.image_shape)
        x[..., ::2] = y
        return x

    def select(self, rows: Tensor) -> Self:
        return self


@OPERATORS.register
@dataclass(frozen=True)
class ColumnsSpec(OperatorSpec):
    name: ClassVar[str] = "outside_columns"

    def at(self, image_shape: Shape, theta: Theta, dtype: torch.dtype, device: torch.device) -> Columns:
        return Columns(image_shape)


@NOISES.register
@dataclass(frozen=True)
class Uniform(Noise):
    name: ClassVar[str] = "outside_uniform"
    width: Annotated[float, Field(gt=0)] = 0.1

    @property
    def std(self) -> float:
        return self.width / 12**0.5

    def apply(self, clean: Tensor, rng: ImageRng) -> Tensor:
        return clean + self.width * (rng.uniform(*clean.shape[1:], dtype=clean.dtype) - 0.5)


class White(Prior):
    name = "outside_white"

    def __init__(self, size: int) -> None:
        self.image_shape = self.latent_shape = (3, size, size)
        self.schedule = linear()

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        return x_t * t.alpha / (t.alpha**2 + t.sigma**2)


@PRIORS.register
@dataclass(frozen=True)
class WhiteSpec(PriorSpec):
    name: ClassVar[str] = "outside_white"
    size: int = 16

    def summary(self) -> PriorSummary:
        return PriorSummary((3, self.size, self.size), latent=False)

    def fingerprint(self) -> str:
        return f"outside-white-{self.size}"

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> White:
        return White(self.size)


@SOLVERS.register
@dataclass(frozen=True)
class Shrink(Solver):
    """A+ y, shrunk, with noise where nothing was measured: so that samples of an image differ."""

    name: ClassVar[str] = "outside_shrink"
    citation: ClassVar[Citation] = Citation(key="outside", authors="Nobody", title="A package outside", year=2026)
    requires: ClassVar[Traits] = frozenset({"linear", "pixel"})
    factor: float = 1.0

    def solve(self, problem: Problem) -> Tensor:
        operator = problem.linear_operator
        noise = 0.1 * problem.noise()
        level = problem.prior.schedule.levels(1)[0]
        x = problem.prior.denoise(operator.pinv(problem.y) + noise - operator.pinv(operator.forward(noise)), level)
        return self.factor * x / x.abs().amax((1, 2, 3), keepdim=True)

    def cost(self, traits: Traits) -> Cost:
        return Cost(denoiser=1)


@METRICS.register
@dataclass(frozen=True)
class Power(Metric):
    """The mean of |x_hat - x|^power."""

    name: ClassVar[str] = "outside_power"
    higher_is_better: ClassVar[bool] = False
    unit: ClassVar[str] = "u"
    decimals: ClassVar[int] = 3
    power: Annotated[float, Field(gt=0)] = 1.0

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        return (x_hat.double() - x.double()).abs().pow(self.power).flatten(1).mean(1)


@FEATURES.register
@dataclass(frozen=True)
class Thumbnail(FeatureExtractor):
    name: ClassVar[str] = "outside_thumbnail"
    column: ClassVar[str] = "outside_thumbnails"

    def extract(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images.float(), 2).flatten(1)


@SET_METRICS.register
@dataclass(frozen=True)
class Gap(SetMetric):
    """The distance of the mean thumbnails, scaled."""

    name: ClassVar[str] = "outside_gap"
    features: ClassVar[str] = "outside_thumbnail"
    heading: ClassVar[str] = "thumbnail gap"
    scale: float = 1.0

    def reduce(self, chunks: Iterable[Rows]) -> Any:
        rows = [chunk.astype(np.float64) for chunk in chunks]
        return np.concatenate(rows).mean(0) if rows else None

    def distance(self, estimates: Any, references: Any) -> float:
        return self.scale * float(np.linalg.norm(estimates - references))
