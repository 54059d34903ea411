"""The configuration of a sweep: its keys, their types and defaults.

What the names in it mean (solver, fields of its space, objective columns) is checked by :mod:`tuning.request`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.metrics import USUAL, Entry, Weights
from ipsolve.priors.networks.unet import Precision
from ipsolve.runs.config import Name, RunName, Seed, Tracking


@dataclass(frozen=True, config={"extra": "forbid"})
class Search:
    """How the space is searched.

    Args:
        algorithm: ``tpe`` (of several objectives, too), ``nsga2``, ``random``, or ``grid`` over the whole space.
        num_trials: in all; more of them go on with a finished sweep. A grid has at most its own number of points.
        scheduler: what stops bad trials early: ``asha``, ``median`` or ``none``; null is asha for one objective and
            none for two, which have no single order to stop by.
        rungs: numbers of images after which a trial reports; a trial that is never stopped does the last.
        reduction_factor: asha goes on with the best 1 / reduction_factor of the trials that reached a rung.
        num_startup: random trials before tpe begins to learn.
        grid_size: points of a grid along a range.
    """

    algorithm: Literal["tpe", "nsga2", "random", "grid"] = "tpe"
    num_trials: Annotated[int, Field(ge=1)] = 40
    scheduler: Literal["asha", "median", "none"] | None = None
    rungs: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = dataclasses.field(
        default_factory=lambda: [4, 8, 16, 32]
    )
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    num_startup: Annotated[int, Field(ge=1)] = 10
    grid_size: Annotated[int, Field(ge=2)] = 4


@dataclass(frozen=True, config={"extra": "forbid"})
class TrialCompute:
    """Where trials run; of these only ``precision`` belongs to the numbers.

    Args:
        gpus_per_trial: may be a fraction, so that trials share a GPU; where there are no GPUs trials use cores.
        cpus_per_trial: cores of a trial, and its torch threads.
        concurrent_trials: ``auto``: as many as the GPUs, or without them the cores, have room for.
        batch_size: images solved together.
    """

    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    cpus_per_trial: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    concurrent_trials: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    batch_size: Annotated[int, Field(ge=1)] = 8
    precision: Precision = "float32"


@dataclass(frozen=True, config={"extra": "forbid"})
class Evaluation:
    """What ``best.yaml`` evaluates.

    Args:
        data: the images, which must not be those of the sweep.
        baseline: the solver that the tuned one is compared with; null: its preset ``published``, or its defaults.
        metrics, headline: as in an evaluation.
    """

    data: dict[str, Any]
    baseline: dict[str, Any] | None = None
    metrics: list[Entry] = dataclasses.field(default_factory=lambda: [*USUAL])
    headline: str | None = None


@dataclass(frozen=True, config={"extra": "forbid"})
class SweepConfig:
    """One sweep: a search over the fields of a solver.

    Args:
        name: of the sweep, its folder under ``output``.
        data, prior, tasks, weights: as in an evaluation; the images are those of the validation split.
        solver: ``solver`` and those of its fields that are not searched.
        space: by field of the solver, ``{float | log | int | log_int | choice | ordered: ...}``, see
            :mod:`tuning.dimensions`, and ``when: {field: value}``.
        objective: ``{metric, mode}`` or ``{weights}``, or a list of two for a Pareto front, see
            :mod:`tuning.objective`.
        seed: of the search, of the order of the images, and of the solver.
    """

    name: RunName
    data: dict[str, Any]
    prior: dict[str, Any]
    tasks: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    solver: dict[str, Any]
    space: Annotated[dict[str, Any], Field(min_length=1)]
    objective: dict[str, Any] | Annotated[list[dict[str, Any]], Field(min_length=2, max_length=2)]
    evaluate: Evaluation
    search: Search = dataclasses.field(default_factory=Search)
    compute: TrialCompute = dataclasses.field(default_factory=TrialCompute)
    seed: Seed = 0
    weights: Weights = dataclasses.field(default_factory=Weights)
    output: str = "runs"
    tracking: Tracking = dataclasses.field(default_factory=lambda: Tracking(experiment="sweeps"))

    @property
    def run_location(self) -> str:
        """The folder of this sweep."""
        return f"{self.output.rstrip('/')}/{self.name}"
