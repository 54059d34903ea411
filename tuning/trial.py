"""One trial at a time in one Ray Tune actor, which holds the prior for all the trials it is given."""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from ray import tune

from ipsolve.evaluation.batch import Batch
from ipsolve.runs.results import RunFolder
from ray_jobs.pipeline.stages.malloc import keep_freed_memory
from ray_jobs.pipeline.stages.worker import sees
from ray_jobs.pipeline.stages.workload import Workload
from tuning.problem import Fields, Problem, Report, Scores


@dataclass(frozen=True)
class Place:
    """Where a trial runs and leaves its rows.

    Args:
        written: what the driver has left in ``config.yaml`` there, to see that this process sees the same folder.
    """

    location: str
    device: str
    num_threads: int
    written: bytes | None = None


class Bench:
    """The prior, the metrics and the images, in one process; solves trials image batch by image batch.

    Raises:
        RuntimeError: this process does not see the folder of the sweep: its rows would stay on the disk of a node.
    """

    def __init__(self, problem: Problem, place: Place) -> None:
        run = RunFolder(place.location)
        if place.written is not None and not sees(run, place.written):
            raise RuntimeError(
                f"output: node {socket.gethostname()} does not see what the driver writes to {place.location}; "
                "it must be a folder that all nodes share"
            )
        torch.set_num_threads(place.num_threads)
        keep_freed_memory()
        lost = place.device == "cuda" and not torch.cuda.is_available()
        self.note = "it was given a GPU that torch cannot use, and worked on the CPU" if lost else ""
        self.device = "cpu" if lost else place.device
        self.problem = problem
        self.scores = Scores(problem, run)
        self.evaluator = Workload.of(problem.experiment, self.device, place.num_threads).evaluator(self.device)

    def measure(self, fields: Fields, n: int) -> Report:
        """Solve what is missing of the first ``n`` images of a trial; return the report on them.

        Only a fault of the solver is the trial's. What else may fail (the disk, the device) is raised.
        """
        error = self._solve(fields, n)
        report = Report.of(self.scores, fields, n) if error is None else Report(n, (), error)
        return replace(report, note=self.note)

    def _solve(self, fields: Fields, n: int) -> str | None:
        """Solve what is missing; return why that stopped short, if it did."""
        ids = self.problem.image_ids
        trial = self.problem.trial(fields)
        for cell in trial.cells:
            known = set(self.scores.rows(cell).index)
            missing = [i for i in range(n) if ids[i] not in known]
            for start in range(0, len(missing), trial.batch_size):
                chosen = missing[start : start + trial.batch_size]
                words = {"captions": self.problem.captions, "negative_captions": self.problem.negative_captions}
                batch = Batch(cell, tuple(ids[i] for i in chosen), self.problem.images[chosen].numpy(), **words)
                outcome = self.evaluator.evaluate(batch, trial.tasks[cell.task], trial.solvers[cell.solver])
                if len(outcome.rows):
                    self.scores.save(cell, outcome.rows)
                for failure in outcome.failures:
                    return f"{cell.task}, image {failure.image_id}: {failure.error}"
        return None


class Runner(tune.Trainable):
    """A trial as Ray Tune sees it: every step is a rung. Tune hands its actor from trial to trial."""

    def setup(self, config: dict[str, Any], problem: Problem, place: Place) -> None:  # type: ignore[override]
        self.problem, self.place = problem, place
        self.bench: Bench | None = None
        self.reset_config(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        """Take on the next trial; the prior stays where it is."""
        self.fields = config["fields"]
        self.rung = 0
        return True

    def step(self) -> dict[str, Any]:
        """Go on to the next rung.

        Tune ends the process of a step that raises, and begins the trial again in another.
        """
        n = self.problem.rungs[self.rung]
        self.rung += 1
        if self.bench is None:  # here and not in setup, where an error would have no words
            self.bench = Bench(self.problem, self.place)
        report = self.bench.measure(self.fields, n)
        done = report.error is not None or self.rung == len(self.problem.rungs)
        return {**asdict(report), "done": done}
