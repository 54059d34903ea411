"""Small evaluations without a network, and solvers that misbehave on purpose."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ipsolve.requests.validation import build
from ipsolve.runs.cells import Grid
from ipsolve.runs.config import Config
from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import RunFolder
from ipsolve.solvers import Solver
from ray_jobs.pipeline.folder.index import RunIndex
from ray_jobs.pipeline.folder.tidy import COMPACT_BYTES, tidy
from ray_jobs.pipeline.plan import Plan
from ray_jobs.pipeline.stages.reading import load
from ray_jobs.pipeline.stages.worker import Worker
from ray_jobs.pipeline.stages.workload import Workload

SIZE = 16
ROOT = Path(__file__).parents[2]
Rows = dict[tuple[str, str, int, str], float]


def mapping(output: Path | str, **changes: Any) -> dict[str, Any]:
    """Return a configuration of a few seconds on one core."""
    return {
        "name": "small",
        "data": {"source": "portraits:test", "limit": 5},
        "prior": {"prior": "mixture", "image_shape": [3, SIZE, SIZE]},
        "tasks": {"sr4": {"operator": "super_resolution", "factor": 4, "noise_std": 0.05}},
        "solvers": {"pinv": {"solver": "pseudo_inverse"}, "ddnm": {"solver": "ddnm", "num_steps": 4}},
        "metrics": ["psnr", "ssim"],
        "compute": {"batch_size": 2, "num_actors": 1},
        "output": str(output),
        **changes,
    }


def experiment(output: Path | str, faulty: dict[str, Solver] | None = None, **changes: Any) -> Experiment:
    """Return a small experiment; ``faulty`` solvers, which are not registered, are added to it."""
    checked = Experiment.of(build(Config, mapping(output, **changes), "config"))
    return dataclasses.replace(checked, solvers={**checked.solvers, **(faulty or {})})


def index_of(trial: Grid) -> RunIndex:
    """Return the index of the files of an experiment as they are now."""
    return RunIndex(RunFolder(trial.config.run_location), trial.all_cells).refresh()


def compact(run: RunFolder) -> None:
    """Gather the small files of a run into few."""
    RunIndex(run).refresh().compact(COMPACT_BYTES)


def do(trial: Experiment, batches: int | None = None) -> Plan:
    """Do the missing work of an experiment (or some batches of it) in this process; return what was planned."""
    index = index_of(trial)
    tidy(index, trial.all_cells, set(trial.image_ids))
    plan = Plan.of(trial, index)
    if plan.num_batches:
        worker = Worker(Workload.of(trial))
        for cell, indices in plan.dispatch().batches(0, batches):
            worker.process(load(trial.source, cell, indices, trial.image_size))
    return plan


def rows(trial: Experiment) -> Rows:
    """Return psnr by (task, solver, seed, image) as any other tool sees it, and that each is there once."""
    table = pd.read_parquet(RunFolder(trial.config.run_location).path("results"))
    keys = table.astype({"task": str, "solver": str})[["task", "solver", "seed", "image_id"]]
    found = dict(zip(keys.itertuples(index=False, name=None), table["psnr"], strict=True))
    assert len(found) == len(table)
    return found


def close(expected: Rows) -> object:
    """Equal to the tolerance within which an image does not depend on its batch in float32."""
    return pytest.approx(expected, abs=1e-3)
