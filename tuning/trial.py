"""One trial at a time in one Ray Tune actor, which holds the prior for all the trials it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from ray import tune

from ipsolve.results import RunFolder
from ray_jobs.pipeline.evaluator import Evaluator
from ray_jobs.pipeline.isolation import one_line
from ray_jobs.pipeline.memory import keep_freed_memory
from ray_jobs.pipeline.workload import Workload
from tuning.problem import Fields, Problem, Report, Scores


class Bench:
    """The prior, the metrics and the images, in one process; solves trials image batch by image batch."""

    def __init__(self, problem: Problem, location: str, device: str, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        keep_freed_memory()
        self.device = device if torch.cuda.is_available() else "cpu"
        self.num_threads = num_threads
        self.problem = problem
        self.scores = Scores(problem, RunFolder(location))
        self.evaluator = Evaluator(self._workload(problem.reference))

    def measure(self, fields: Fields, n: int) -> Report:
        """Solve what is missing of the first ``n`` images of a trial; the report on them."""
        ids, images = self.problem.image_ids, self.problem.images
        trial = self.problem.trial(fields)
        self.evaluator.workload = self._workload(fields)
        for cell in trial.cells:
            known = set(self.scores.rows(cell).index)
            missing = [i for i in range(n) if ids[i] not in known]
            for start in range(0, len(missing), trial.batch_size):
                batch = missing[start : start + trial.batch_size]
                outcome = self.evaluator.evaluate(cell, [ids[i] for i in batch], images[batch])
                if len(outcome.rows):
                    self.scores.save(cell, outcome.rows)
                for failure in outcome.failures:
                    return Report(n, (), f"{cell.task}, image {failure.image_id}: {failure.error}")
        return Report.of(self.scores, fields, n)

    def _workload(self, fields: Fields) -> Workload:
        return Workload.of(self.problem.trial(fields), self.device, self.num_threads)


@dataclass(frozen=True)
class Place:
    """Where a trial runs and leaves its rows."""

    location: str
    device: str
    num_threads: int


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
        """Go on to the next rung."""
        n = self.problem.rungs[self.rung]
        self.rung += 1
        try:
            if self.bench is None:  # here and not in setup, where an error would have no words
                place = self.place
                self.bench = Bench(self.problem, place.location, place.device, place.num_threads)
            report = self.bench.measure(self.fields, n)
        except Exception as error:  # whatever it is costs this trial, not the sweep
            report = Report(n, (), one_line(error))
        done = report.error is not None or self.rung == len(self.problem.rungs)
        return {"images": n, "values": list(report.values), "error": report.error, "done": done}
