"""The MLflow runs that stand for a run: a parent, and a child for each (task, solver)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ipsolve.requests.errors import RequestError
from ipsolve.runs.curves import Point
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.tracking import overview
from ray_jobs.tracking.described import describe
from ray_jobs.tracking.store import Memory, client_of, digest, experiment_of, log, store_name, store_of
from ray_jobs.tracking.times import run_span

if TYPE_CHECKING:
    from mlflow.entities import Metric

RUNNING = "running/"  # before the name of a metric: its running mean, the step being the number of images
Pair = tuple[str, str]  # task, solver


class Copies:
    """The runs in MLflow of a run folder, found again or made when they are asked for."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.config = cli.read_config(run)
        self.provenance = run.read_json("provenance.json")
        self.start, self.end = run_span(self.provenance)
        if not self.end:
            raise RequestError("provenance.json has no times: it is absent, or cannot be read, as after a power cut")
        tracking = self.config["tracking"]
        self.uri, artifacts = store_of(run, self.config)
        self.client = client_of(self.uri)
        self.experiment_id = experiment_of(self.client, tracking["experiment"], artifacts)
        self._memory = Memory(run, store_name(self.config, self.experiment_id), self.experiment_id)
        self._described = describe(self.config, self.provenance)
        self._origin = overview.origin_tags(run, self.config, self.provenance)
        self._known: dict[Pair, str] = {}
        self.parent = ""

    @property
    def place(self) -> str:
        """Where the run is, in words."""
        return f"{self.uri}, experiment {self.config['tracking']['experiment']!r}, run {self.parent}"

    def open_parent(self, tags: Mapping[str, str]) -> str:
        """Return the id of the parent, with its parameters and tags."""
        shared = self._described.parameters | {"baseline": self.config["baseline"]}
        # a parameter cannot change in MLflow, so that another setting is another MLflow run
        key = f"{self._described.kind}/{digest([self._described.parameters, self.config['baseline']])}"
        tags = {**self._described.extent, **self._origin, **tags}
        self.parent = self._memory.run_of(self.client, key, self.config["name"], tags, self.start)
        self._memory.remember_parent(self.parent)
        log(self.client, self.parent, shared, [])
        return self.parent

    def log_data(self) -> None:
        """Send the data of the parent: once, at the end, because the digest is of all images as they were read."""
        self.client.log_inputs(self.parent, self._described.datasets())

    def open_child(self, pair: Pair, tags: Mapping[str, str], start: int) -> str:
        """Return the id of the child of a (task, solver), with its parameters and tags."""
        if pair in self._known:
            return self._known[pair]
        task, name = pair
        solver = self.config["solvers"].get(name, {})  # none of this name: the floor of a posterior run
        parameters = {**self._described.parameters, **self._described.tasks[task], "task": task, **solver}
        parameters |= {"solver_name": name}
        key = f"{task}/{name}/{digest([parameters, self.parent])}"
        tags = {"mlflow.parentRunId": self.parent, **self._described.extent, **self._origin, **tags}
        child = self._memory.run_of(self.client, key, f"{task} / {name}", tags, start)
        log(self.client, child, parameters, [])
        self._known[pair] = child
        return child

    def revive(self, run_id: str) -> None:
        """Say of a run that it is at work."""
        self.client.update_run(run_id, "RUNNING")

    def log(self, run_id: str, metrics: list[Metric]) -> None:
        """Send numbers of a run."""
        log(self.client, run_id, {}, metrics)

    def finish(self, run_id: str, status: str, end: int) -> None:
        """End a run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status, end)


def curve(points: Iterable[Point], after: int = -1) -> list[Metric]:
    """Return the points of a (task, solver) later than a time, the step being the number of images done."""
    from mlflow.entities import Metric

    found = []
    for point in points:
        if point.time > after:
            name = f"{RUNNING}{point.metric}"
            found.append(Metric(name, point.mean, point.time, point.images))
            if point.half_width is not None:
                found.append(Metric(f"{name}_ci95", point.half_width, point.time, point.images))
    return found


def numbers(values: Mapping[str, float], time: int) -> list[Metric]:
    """Return numbers that hold from a time on until a later one replaces them."""
    from mlflow.entities import Metric

    return [Metric(name, value, time, 0) for name, value in values.items()]


def pairs_of(provenance: Mapping[str, Any], points: Iterable[Point]) -> dict[Pair, list[Point]]:
    """Return the points of each (task, solver) of the present configuration."""
    names = {cell: tuple(str(name).split(" / ")) for cell, name in provenance.get("cells", {}).items()}
    found: dict[Pair, list[Point]] = {}
    for point in points:
        if len(parts := names.get(point.cell, ())) >= 2:
            found.setdefault((parts[0], parts[1]), []).append(point)
    return found
