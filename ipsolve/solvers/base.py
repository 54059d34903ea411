"""What a solver is: a frozen dataclass of hyper-parameters with one method, ``solve``."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ipsolve.citation import Citation
from ipsolve.operators.tasks import Task
from ipsolve.priors.schedules import Schedule
from ipsolve.problem import Problem, Solution
from ipsolve.requests.errors import RequestError
from ipsolve.requests.registry import Registry
from ipsolve.requests.traits import Traits, refusal


@dataclass(frozen=True)
class Cost:
    """Network calls for one image, by kind. ``up_to``: the kinds that are bounds, as where a fit may stop early."""

    denoiser: int = 0
    denoiser_backward: int = 0
    decoder: int = 0
    decoder_backward: int = 0
    encoder: int = 0
    up_to: frozenset[str] = frozenset()

    def __str__(self) -> str:
        counts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "up_to"}
        words = [
            f"{'up to ' * (name in self.up_to)}{count} {name.replace('_', ' ')}"
            for name, count in counts.items()
            if count
        ]
        return ", ".join(words) or "no network calls"


class Solver(ABC):
    """A published method. Its fields are its hyper-parameters, with the names, defaults and ranges of the paper.

    ``num_steps`` and ``timestep_spacing`` mean the same in every method that walks down the levels of the prior's
    schedule: how many, and which, :meth:`ipsolve.priors.schedules.Schedule.levels`.

    ``solve`` treats every image of a batch on its own: norms, step sizes and stops are per image, and random
    numbers come from the image's own stream. It runs with autograd off, except where it takes a gradient.

    Attributes:
        family: the folder that its file is in.
        citation: where it was published.
        requires: the traits that the task and the prior must have, see :data:`ipsolve.requests.traits.NEEDS`. A method
            that does not say ``blind`` is told the operator.
        PRESETS: named settings: a paper's, its code's.
    """

    name: ClassVar[str]
    citation: ClassVar[Citation]
    requires: ClassVar[Traits] = frozenset()
    family: ClassVar[str] = "own"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        package = cls.__module__.split(".")
        if package[:2] == ["ipsolve", "solvers"] and len(package) == 4:
            cls.family = package[2].replace("_", " ")

    @abstractmethod
    def solve(self, problem: Problem) -> Tensor | Solution:
        """Return the reconstructions, (B, *image_shape) in [-1, 1] up to overshoot, or several samples of each."""

    @property
    def num_samples(self) -> int:
        """How many samples of an image one call returns."""
        return 1

    def cost(self, traits: Traits) -> Cost:
        """Return the network calls for one image.

        Args:
            traits: of the task and the prior; a latent prior has a decoder and an encoder to be called.
        """
        return Cost()

    def needs(self) -> Traits:
        """Return ``requires`` and what the settings require beyond it."""
        return self.requires | (frozenset() if "blind" in self.requires else {"known"})

    def check(self, task: Task, prior: Traits) -> None:
        """Raise RequestError, in one line, if this method cannot do this task with a prior of these traits."""
        words = {"operator": task.operator.name, "noise_std": task.noise.std}
        if reason := refusal(self.needs(), task.traits | prior, **words):
            raise RequestError(f"solver {self.name} {reason}")

    def check_schedule(self, schedule: Schedule) -> None:
        """Raise RequestError, in one line, if the steps that are asked for do not exist on the schedule of a prior."""
        if hasattr(self, "num_steps") and hasattr(self, "timestep_spacing"):
            schedule.levels(self.num_steps, self.timestep_spacing)


SOLVERS: Registry[Solver] = Registry("solver")


def parse_solver(mapping: Mapping[str, Any], where: str = "solver") -> Solver:
    """Return the solver that a configuration describes: ``solver`` (its name), ``preset`` and its fields.

    A preset sets fields, which fields written beside it override; what is recorded later is the fields alone.

    Args:
        where: dotted path of ``mapping`` in the request; it starts the message of an error.

    Raises:
        RequestError: unknown solver, preset or field, or a value out of its range.
    """
    return SOLVERS.parse(mapping, where, "solver")
