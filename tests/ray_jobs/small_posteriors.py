"""Small posterior runs of a second, and solvers that behave in a known way."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.posterior.config import PosteriorConfig
from ipsolve.posterior.experiment import Entry, PosteriorExperiment, Sampling
from ipsolve.problem import Problem, Solution
from ipsolve.requests.validation import build
from ipsolve.runs.results import RunFolder
from ipsolve.solvers import Solver
from ipsolve.solvers.steps.particles import ParticleSolver
from ray_jobs.pipeline.folder.tidy import tidy
from ray_jobs.pipeline.plan import Plan
from ray_jobs.pipeline.posterior_evaluator import SamplingWork, loader
from ray_jobs.pipeline.stages.worker import Worker
from tests.ray_jobs.small_runs import index_of


def mapping(output: Path, **changes: Any) -> dict[str, Any]:
    """Return a configuration of a second on one core."""
    return {
        "name": "small",
        "problems": {
            "d4_m1": {"generator": "mcgdiff", "dimension": 4, "num_measurements": 1, "num_problems": 2},
            "d4_m2": {"generator": "mcgdiff", "dimension": 4, "num_measurements": 2, "num_problems": 3},
        },
        "solvers": {
            "ddnm": {"solver": "ddnm", "num_steps": 4},
            "smc_4": {"solver": "mcgdiff", "num_steps": 4, "num_particles": 4},
            "smc_8": {"solver": "mcgdiff", "num_steps": 4, "num_particles": 8},
            "cloud": {"solver": "mcgdiff", "num_steps": 4, "num_particles": 8, "keep": "all", "problems": ["d4_m2"]},
        },
        "samples": 20,
        "slices": 30,
        "compute": {"num_actors": 1},
        "output": str(output),
        **changes,
    }


def experiment(output: Path, own: dict[str, Solver] | None = None, **changes: Any) -> PosteriorExperiment:
    """Return a small experiment; solvers of one's ``own``, which are not registered, are added to it."""
    checked = PosteriorExperiment.of(build(PosteriorConfig, mapping(output, **changes), "config"))
    added = {name: Entry(solver, Sampling()) for name, solver in (own or {}).items()}
    return dataclasses.replace(checked, entries={**checked.entries, **added})


def do(trial: PosteriorExperiment) -> Plan:
    """Do the missing work of an experiment in this process; return what was planned."""
    index = index_of(trial)
    tidy(index, trial.all_cells, set(trial.image_ids))
    plan = Plan.of(trial, index)
    worker, load = Worker(SamplingWork.of(trial)), loader(trial)
    for cell, indices in plan.dispatch().batches():
        worker.process(load(cell, indices))
    return plan


def rows(trial: PosteriorExperiment) -> pd.DataFrame:
    """Return the rows as any other tool sees them, by (task, solver, seed, problem), and that each is there once."""
    table = pd.read_parquet(RunFolder(trial.config.run_location).path("results"))
    table = table.astype({"task": str, "solver": str}).set_index(["task", "solver", "seed", "image_id"]).sort_index()
    assert table.index.is_unique
    return table


@dataclass(frozen=True)
class Diverges(Solver):
    """Answers with noise, and with NaN in about one run of three."""

    name: ClassVar[str] = "diverges"

    def solve(self, problem: Problem) -> Tensor:
        x = problem.noise()
        return torch.where(x[:, :1] < -0.4, torch.nan, x)


@dataclass(frozen=True)
class Counts(ParticleSolver):
    """Particle p of any run is p everywhere, with the weights that are given."""

    name: ClassVar[str] = "counts"
    num_particles: int = 4
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)

    def solve(self, problem: Problem) -> Solution:
        numbers = torch.arange(self.num_particles, dtype=torch.float64)
        x = numbers[:, None].expand(problem.batch_size, -1, problem.prior.image_shape[0])
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return Solution(x, (weights / weights.sum()).log().expand(problem.batch_size, -1))


@dataclass(frozen=True)
class Triples(Solver):
    """Sample s of any run is s everywhere; not a particle method, and without weights."""

    name: ClassVar[str] = "triples"

    @property
    def num_samples(self) -> int:
        return 3

    def solve(self, problem: Problem) -> Solution:
        numbers = torch.arange(self.num_samples, dtype=torch.float64)
        return Solution(numbers[:, None].expand(problem.batch_size, -1, problem.prior.image_shape[0]))
