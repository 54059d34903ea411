"""Sample the posterior of a problem and measure the samples. The counterpart of the evaluator; knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import torch

from ipsolve.evaluation.batch import Batch, Failure, Outcome
from ipsolve.evaluation.isolation import Fault, isolate
from ipsolve.posterior.distances import PosteriorReference
from ipsolve.posterior.experiment import EXACT, Entry, PosteriorExperiment
from ipsolve.posterior.problems import PosteriorProblem, ProblemSpec
from ipsolve.posterior.results import NUM_SHOWN, SAMPLE_SCHEMA
from ipsolve.posterior.sampling import exact_samples, run_solver
from ipsolve.runs.cells import Cell
from ray_jobs.pipeline.stages.worker import Loader


def loader(experiment: PosteriorExperiment) -> Loader:
    """Return what makes a batch: the ids of its problems and nothing else, an actor makes the rest."""
    return partial(_load, {cell.task: experiment.ids_of(cell) for cell in experiment.all_cells})


def _load(ids: Mapping[str, Sequence[str]], cell: Cell, indices: list[int], watch: object = None) -> Batch:
    return Batch(cell, tuple(ids[cell.task][index] for index in indices))


@dataclass(frozen=True)
class SamplingWork:
    """What every actor of a posterior run is told once, when it starts."""

    location: str
    problems: Mapping[str, ProblemSpec]
    entries: Mapping[str, Entry]
    samples: int
    slices: int
    problem_seed: int
    batch_size: int
    device: str = "cpu"
    num_threads: int = 1

    @classmethod
    def of(cls, experiment: PosteriorExperiment, device: str = "cpu", num_threads: int = 1) -> SamplingWork:
        """Return the work of a whole experiment."""
        config = experiment.config
        return cls(
            location=config.run_location,
            problems=experiment.problems,
            entries=experiment.entries,
            samples=config.samples,
            slices=config.slices,
            problem_seed=config.problem_seed,
            batch_size=config.compute.batch_size,
            device=device,
            num_threads=num_threads,
        )

    def start(self, device: str) -> Sampler:
        """Return what does the work of one process."""
        return Sampler(self)


class Sampler:
    """The problems and the solvers of a run, in one process."""

    def __init__(self, work: SamplingWork) -> None:
        self.work = work
        self._posed: tuple[str, PosteriorProblem, PosteriorReference] | None = None

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Outcome:
        """Sample and measure some problems; a problem with a sample that is not finite is a failure.

        Distances of the other samples would flatter a solver that diverges, and those of all do not exist.
        """
        cell, image_ids, notes = batch.cell, batch.image_ids, list[str]()
        everything = list(range(len(image_ids)))

        def measure(rows: list[int]) -> list[dict[str, Any] | Fault]:
            return [self._measure(cell, image_ids[i]) for i in rows]

        rows, failures = [], []
        for name, found in zip(image_ids, isolate(measure, everything, notes), strict=True):
            if isinstance(found, Fault):
                failures.append(Failure.of(cell, name, "solve", found.reason))
            else:
                rows.append(found)
        return Outcome(pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA), failures, notes)

    def _measure(self, cell: Cell, name: str) -> dict[str, Any] | Fault:
        work = self.work
        problem, reference = self._pose(cell.task, name)
        if cell.solver == EXACT:
            samples = exact_samples(problem, work.samples, cell.seed, "floor", work.batch_size)
        else:
            samples = run_solver(problem, work.entries[cell.solver], work.samples, cell.seed, work.batch_size)
        bad = int((~samples.x.isfinite()).any(1).sum())
        if bad:
            return Fault(f"{bad} of {work.samples} samples have values that are NaN or Inf")
        return {
            "image_id": name,
            "seed": cell.seed,
            **reference.compare(samples.x),
            **{f"{kind}_calls": calls for kind, calls in samples.calls.items()},
            "seconds": samples.seconds,
            "num_samples": len(samples.x),
            "num_runs": samples.num_runs,
            "noise_std": float(problem.posed.problem.noise_std[0]),
            "shown": samples.x[:NUM_SHOWN, :2].flatten().tolist(),
        }

    def _pose(self, task: str, name: str) -> tuple[PosteriorProblem, PosteriorReference]:
        """Return a problem and what samples of it are compared with; all solvers of one problem come in a row."""
        if self._posed is None or self._posed[0] != name:
            work = self.work
            problem = work.problems[task].problem(int(name.rpartition("/")[2]), work.problem_seed)
            exact = exact_samples(problem, work.samples, work.problem_seed, "reference", work.batch_size)
            self._posed = name, problem, PosteriorReference(problem.posterior, exact.x, work.slices, work.problem_seed)
        return self._posed[1:]
