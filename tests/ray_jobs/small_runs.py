"""Small evaluations without a network, and solvers that misbehave on purpose."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.config import Config
from ipsolve.experiment import Experiment
from ipsolve.measurement import Measurement
from ipsolve.operators.base import Operator
from ipsolve.priors import Prior
from ipsolve.randomness import ImageRng
from ipsolve.results import RunFolder
from ipsolve.solvers import Solver
from ipsolve.solvers.pseudo_inverse import PseudoInverse
from ipsolve.validation import build
from ray_jobs.pipeline.plan import Plan
from ray_jobs.pipeline.reading import load
from ray_jobs.pipeline.upkeep import tidy
from ray_jobs.pipeline.worker import Worker
from ray_jobs.pipeline.workload import Workload

SIZE = 16
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


def do(trial: Experiment, batches: int | None = None) -> Plan:
    """Do the missing work of an experiment (or some batches of it) in this process; return what was planned."""
    run = RunFolder(trial.config.run_location)
    tidy(run, [trial.reference_cell, *trial.cells], set(trial.image_ids))
    plan = Plan.of(trial)
    if plan.batches:
        worker = Worker(Workload.of(trial))
        for cell, indices in plan.batches[:batches]:
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


class Faulty(Solver):
    """Answers as ``pseudo_inverse`` does, after a fault."""

    paper: ClassVar[str] = "none"
    family: ClassVar[str] = "test"

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        return x_hat

    def solve(self, measurement: Measurement, operator: Operator, prior: Prior, rng: ImageRng) -> Tensor:
        return self.fault(measurement.y, PseudoInverse().solve(measurement, operator, prior, rng))


def brightest(y: Tensor) -> Tensor:
    """Return which image of a batch has a mean above -0.2: some of the portraits, whatever the batch."""
    return y.flatten(1).mean(1) > -0.2


@dataclass(frozen=True)
class NotANumber(Faulty):
    name: ClassVar[str] = "not_a_number"

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        return torch.where(brightest(y)[:, None, None, None], torch.nan, x_hat)


@dataclass(frozen=True)
class OutOfMemory(Faulty):
    """Has room for ``room`` images."""

    name: ClassVar[str] = "out_of_memory"
    room: int = 1

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        if len(y) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return x_hat


@dataclass(frozen=True)
class Raises(Faulty):
    name: ClassVar[str] = "raises"

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        if bool(brightest(y).any()):
            raise ZeroDivisionError("this image\nis too bright")
        return x_hat


@dataclass(frozen=True)
class Poison(Faulty):
    """Kills its process, as a fault in native code does."""

    name: ClassVar[str] = "poison"

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        if bool(brightest(y).any()):
            os._exit(1)
        return x_hat


@dataclass(frozen=True)
class Slow(Faulty):
    """Sleeps, and leaves the number of its process behind."""

    name: ClassVar[str] = "slow"
    seconds: float = 1.0
    pid_folder: str = ""

    def fault(self, y: Tensor, x_hat: Tensor) -> Tensor:
        if self.pid_folder:
            Path(self.pid_folder, f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(self.seconds)
        return x_hat
