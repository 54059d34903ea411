"""Inverse problems whose posterior is known in closed form, and how a configuration describes a family of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from ipsolve.operators.tasks import Task
from ipsolve.priors.base import Shape, prior_traits
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.schedule_spec import ScheduleMapping
from ipsolve.problem import Posed, Problem
from ipsolve.randomness import ImageRng
from ipsolve.requests.registry import Registry
from ipsolve.requests.traits import Traits


@dataclass(frozen=True)
class PosteriorProblem:
    """One problem y = A x + noise_std n with a Gaussian mixture as prior. Everything is float64.

    Attributes:
        id: unique within its family.
        posed: the problem, of batch 1.
        posterior: p(x | y) on flattened x, (B, d).
    """

    id: str
    posed: Posed
    posterior: GaussianMixture

    def runs(self, rng: ImageRng) -> Problem:
        """Return a batch that poses this problem once for each stream of ``rng``."""
        # not Problem.repeat: a run's stream is named after the seed of the solvers, which a problem does not depend on
        problem = self.posed.problem.select(torch.zeros(rng.batch_size, dtype=torch.int64))
        return replace(problem, rng=rng)


class ProblemSpec(ABC):
    """A family of problems with its parameters, as a configuration writes it. Subclasses are frozen dataclasses.

    Problem ``index`` is a pure function of (spec, index, seed), and every solver sees the same.
    """

    name: ClassVar[str]
    num_problems: int
    schedule: ScheduleMapping

    @property
    @abstractmethod
    def label(self) -> str:
        """What the ids of the problems start with; problems of different size differ in it."""

    @property
    @abstractmethod
    def task(self) -> Task:
        """What :meth:`Solver.check` is told before any draw; the noise is the strongest of the family, above 0."""

    @property
    @abstractmethod
    def image_shape(self) -> Shape:
        """The shape of x."""

    @property
    def prior_traits(self) -> Traits:
        """What :meth:`Solver.check` is told of the prior, a mixture."""
        return prior_traits(self.image_shape, latent=False)

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
    return PROBLEMS.parse(mapping, where, "generator")
