"""Inverse problems whose posterior is known in closed form, and how a configuration describes a family of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ipsolve.operators.base import Operator, OperatorSpec
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.problem import Measurement
from ipsolve.requests.errors import RequestError
from ipsolve.requests.registry import Registry
from ipsolve.requests.validation import build


@dataclass(frozen=True)
class PosteriorProblem:
    """One problem y = A x + noise_std n with a Gaussian mixture as prior. Everything is float64.

    Attributes:
        id: unique within its family.
        prior: what a solver knows of x.
        operator: A, of batch 1.
        measurement: y, (1, *measurement_shape).
        truth: the x behind y, (1, *image_shape).
        posterior: p(x | y) on flattened x, (B, d).
    """

    id: str
    prior: MixturePrior
    operator: Operator
    measurement: Measurement
    truth: Tensor
    posterior: GaussianMixture

    def runs(self, count: int) -> tuple[Operator, Measurement]:
        """Return operator and measurement of a batch that poses this problem ``count`` times."""
        rows = torch.zeros(count, dtype=torch.int64)
        return self.operator.select(rows), self.measurement.select(rows)


class ProblemSpec(ABC):
    """A family of problems with its parameters, as a configuration writes it. Subclasses are frozen dataclasses.

    Problem ``index`` is a pure function of (spec, index, seed), and every solver sees the same.
    """

    name: ClassVar[str]
    num_problems: int

    @property
    @abstractmethod
    def label(self) -> str:
        """What the ids of the problems start with; problems of different size differ in it."""

    @property
    @abstractmethod
    def noise_std_bound(self) -> float:
        """A bound on noise_std over the family, above 0: what :meth:`Solver.check` is told before any draw."""

    @abstractmethod
    def operator_spec(self) -> OperatorSpec:
        """Return the description of A, for :meth:`Solver.check`."""

    @abstractmethod
    def problem(self, index: int, seed: int) -> PosteriorProblem:
        """Return problem ``index`` of 0 .. num_problems - 1."""

    def problem_ids(self) -> list[str]:
        return [f"{self.label}-{index:03d}" for index in range(self.num_problems)]


PROBLEMS: Registry[ProblemSpec] = Registry("problem generator")


def parse_problems(mapping: object, where: str = "problems") -> ProblemSpec:
    """Return the family that ``{generator: NAME, ...}`` describes.

    Args:
        where: dotted path of ``mapping`` in the request; it starts the message of an error.

    Raises:
        RequestError: unknown generator or key, or a value out of its range.
    """
    if not isinstance(mapping, Mapping):
        raise RequestError(f"{where}: must be a mapping of keys to values (got {mapping!r})")
    if "generator" not in mapping:
        raise RequestError(f"{where}.generator: is required; allowed: {', '.join(PROBLEMS)}")
    try:
        cls: type[Any] = PROBLEMS[str(mapping["generator"])]
    except RequestError as error:
        raise RequestError(f"{where}.generator: {error}") from None
    spec: ProblemSpec = build(cls, {key: value for key, value in mapping.items() if key != "generator"}, where)
    return spec
