"""The configuration of a posterior run: its keys, their types and defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ipsolve.requests.validation import build
from ipsolve.runs.config import Compute, Name, RunConfig, RunName, Seed, Tracking, read_mapping


@dataclass(frozen=True, config={"extra": "forbid"})
class PosteriorCompute(Compute):
    """Where and how the work is done, with the defaults for vectors in place of images.

    Args:
        gpus_per_actor: 0, the closed forms are small and computed on CPUs.
        batch_size: states solved together; a run of a solver that returns several samples has as many.
        precision: float64, as the closed forms are.
    """

    gpus_per_actor: Annotated[float, Field(ge=0, le=0)] = 0.0
    batch_size: Annotated[int, Field(ge=1)] = 500
    precision: Literal["float64"] = "float64"


@dataclass(frozen=True, config={"extra": "forbid"})
class PosteriorConfig(RunConfig):
    """Every solver on every set of problems, against exact posterior samples.

    Args:
        name: of the run, its folder under ``output``.
        problems: a name of your choice: ``generator`` and the generator's own keys.
        solvers: a name of your choice: ``solver``, the solver's hyper-parameters, and if wanted ``keep`` (``one`` draw
            of each run, or ``all`` samples of a solver that returns several, such as particles) and ``problems`` (the
            names of the sets it is for).
        seed: of the solvers; several for repeated measurements.
        problem_seed: of the problems.
        samples: N, per problem and solver, and as many exact ones.
        slices: directions of the sliced Wasserstein distances.
        baseline: the solver that the others are compared with.
        output: the folder of runs: a local path, or a URI as :mod:`ipsolve.files.filesystems` opens it.
    """

    name: RunName
    problems: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    solvers: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    seed: Seed | Annotated[list[Seed], Field(min_length=1)] = 0
    problem_seed: Seed = 0
    samples: Annotated[int, Field(ge=2)] = 2000
    slices: Annotated[int, Field(ge=1)] = 10_000
    baseline: str | None = None
    compute: PosteriorCompute = dataclasses.field(default_factory=PosteriorCompute)
    output: str = "runs"
    tracking: Tracking = dataclasses.field(default_factory=Tracking)


def load_posterior_config(path: str | Path, overrides: Iterable[str] = ()) -> PosteriorConfig:
    """Return the configuration in a YAML file, with ``overrides`` such as ``samples=500`` applied.

    Raises:
        RequestError: the file is missing or not YAML, or a key or value in it is wrong.
    """
    return build(PosteriorConfig, read_mapping(path, overrides), "")
