"""What every actor of a run is told once, when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ipsolve.evaluation.evaluator import Evaluator
from ipsolve.metrics import Weights
from ipsolve.operators.base import OperatorSpec
from ipsolve.operators.noise import Noise
from ipsolve.priors import PriorSpec
from ipsolve.priors.networks.unet import Precision
from ipsolve.runs.cells import Cell
from ipsolve.runs.experiment import Experiment
from ipsolve.solvers import Solver


@dataclass(frozen=True)
class Workload:
    """The checked parts of an experiment, without its images: small, and the same for all actors."""

    location: str
    cells: Mapping[str, Cell]  # by hash, the reference cell among them
    tasks: Mapping[str, tuple[OperatorSpec, Noise]]
    solvers: Mapping[str, Solver]
    prior: PriorSpec
    precision: Precision
    metrics: tuple[str, ...]
    features: tuple[str, ...]
    weights: Weights
    device: str = "cpu"
    num_threads: int = 1

    @classmethod
    def of(cls, experiment: Experiment, device: str = "cpu", num_threads: int = 1) -> Workload:
        """Return the workload of a whole experiment."""
        config = experiment.config
        return cls(
            location=config.run_location,
            cells={cell.hash: cell for cell in [experiment.reference_cell, *experiment.cells]},
            tasks=experiment.tasks,
            solvers=experiment.solvers,
            prior=experiment.prior,
            precision=config.compute.precision,
            metrics=tuple(experiment.metrics),
            features=tuple(experiment.features),
            weights=config.weights,
            device=device,
            num_threads=num_threads,
        )

    def start(self, device: str) -> Evaluator:
        """Return what does the work of one process."""
        return Evaluator(self, device)
