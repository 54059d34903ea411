"""What every actor of a run is told once, when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ipsolve.evaluation.batch import Batch, Outcome
from ipsolve.evaluation.evaluator import Evaluator
from ipsolve.metrics import FeatureExtractor, Metric
from ipsolve.operators.tasks import Task
from ipsolve.priors import PriorSpec
from ipsolve.priors.networks.unet import Precision
from ipsolve.runs.experiment import Experiment, image_dtype
from ipsolve.solvers import Solver


@dataclass(frozen=True)
class Workload:
    """The checked parts of an experiment, without its images: small, and the same for all actors."""

    location: str
    tasks: Mapping[str, Task]
    solvers: Mapping[str, Solver]
    prior: PriorSpec
    precision: Precision
    metrics: tuple[Metric, ...]
    features: tuple[FeatureExtractor, ...]
    samples: int
    batch_size: int
    device: str = "cpu"
    num_threads: int = 1

    @classmethod
    def of(cls, experiment: Experiment, device: str = "cpu", num_threads: int = 1) -> Workload:
        """Return the workload of a whole experiment."""
        config, asked = experiment.config, experiment.asked.here
        return cls(
            location=config.run_location,
            tasks=experiment.tasks,
            solvers=experiment.solvers,
            prior=experiment.prior,
            precision=config.compute.precision,
            metrics=tuple(asked.images.values()),
            features=tuple(asked.features.values()),
            samples=config.samples,
            batch_size=config.compute.batch_size,
            device=device,
            num_threads=num_threads,
        )

    def evaluator(self, device: str) -> Evaluator:
        """Return the evaluator of one process, with the prior in its memory."""
        return Evaluator(
            prior=self.prior.load(device, self.precision),
            metrics=self.metrics,
            features=self.features,
            device=torch.device(device),
            dtype=image_dtype(self.precision),
            samples=self.samples,
            batch_size=self.batch_size,
        )

    def start(self, device: str) -> Started:
        """Return what does the work of one process."""
        return Started(self, self.evaluator(device))


@dataclass(frozen=True)
class Started:
    """The tasks and solvers of a run beside the evaluator of this process."""

    workload: Workload
    evaluator: Evaluator

    def evaluate(self, batch: Batch) -> Outcome:
        """Do a batch of any cell of the run."""
        cell = batch.cell
        if cell.is_reference:
            return self.evaluator.reference(batch)
        return self.evaluator.evaluate(batch, self.workload.tasks[cell.task], self.workload.solvers[cell.solver])
