"""From a checked experiment to a finished run, whatever its kind: plan, work, tables, report, MLflow, status."""

from __future__ import annotations

import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
import yaml

from ipsolve.evaluation.isolation import one_line
from ipsolve.files.filesystems import is_uri, join
from ipsolve.requests.errors import RequestError
from ipsolve.runs.cells import Grid
from ipsolve.runs.config import RunConfig
from ipsolve.runs.curves import Curves
from ipsolve.runs.results import RunFolder
from ray_jobs import cli, track
from ray_jobs.pipeline.cluster.allocation import allocate
from ray_jobs.pipeline.folder import provenance
from ray_jobs.pipeline.folder.finish import put_in_order, where_things_are
from ray_jobs.pipeline.folder.index import RunIndex
from ray_jobs.pipeline.folder.status import Status, run_to_end
from ray_jobs.pipeline.folder.tidy import tidy
from ray_jobs.pipeline.listing import describe_plan
from ray_jobs.pipeline.plan import Plan, outcome_counts
from ray_jobs.pipeline.progress import Progress
from ray_jobs.pipeline.stages.execute import execute
from ray_jobs.pipeline.stages.worker import Loader, Work
from ray_jobs.tracking.live import Live


class Job(ABC):
    """A kind of run. All kinds share their files, their actors and their fate; this is what they differ in.

    Args:
        experiment: what is asked for.
    """

    unit: str  # what a row is of, in the plural

    def __init__(self, experiment: Grid) -> None:
        self.experiment = experiment

    @abstractmethod
    def facts(self) -> list[str]:
        """Return the lines of the plan that say what the numbers will be of."""

    @abstractmethod
    def loader(self) -> Loader:
        """Return how a reader gets the input of a batch; it is pickled once."""

    @abstractmethod
    def work(self, device: str, num_threads: int) -> Work:
        """Return what every actor is told once, when it starts."""

    def seconds(self, index: RunIndex) -> Mapping[str, float]:
        """Return what has been measured of the cost of one image, in seconds by cell hash; cells may be absent."""
        return {}

    def images_read(self, run: RunFolder) -> dict[str, Any]:
        """Return what provenance keeps of the images that were read, see :mod:`ray_jobs.pipeline.folder.content`."""
        return {}

    @abstractmethod
    def scores(self, run: RunFolder) -> pa.Table:
        """Return ``image_id, task, solver, seed`` and the scores of the results there are, of this job's images."""

    def gaps(self, index: RunIndex) -> list[str]:
        """Return a line for each number that only some rows of a cell have."""
        return []

    @abstractmethod
    def tabulate(self, run: RunFolder) -> tuple[str, Callable[[], Any]]:
        """Write the tables of a run; return the one for a terminal, and what writes the report."""


def dry_run(job: Job) -> int:
    """Print the plan of a job; return the exit code."""
    run = RunFolder(job.experiment.config.run_location)
    if run.local:
        _require_writable(run.root)
    index = RunIndex(run, job.experiment.all_cells).refresh()
    plan = Plan.of(job.experiment, index, job.seconds(index))
    allocation = allocate(job.experiment.config.compute, plan.num_batches)
    print(describe_plan(plan, allocation, job.facts(), job.unit))
    return cli.COMPLETE


def _require_writable(folder: str) -> None:
    """Raise RequestError unless a folder can be made here, or written into if it is there; nothing is made."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError("output", f"cannot write to {folder!r}; allowed: a folder that can be made or written into")


def run_job(job: Job, retry_failed: bool = False) -> int:
    """Do what is missing of a job, write its tables and report, and send it to MLflow; return the exit code."""
    run = RunFolder(job.experiment.config.run_location)
    return run_to_end(run, "run", lambda status: _run(job, run, status, retry_failed))


def _run(job: Job, run: RunFolder, status: Status, retry_failed: bool) -> tuple[int, str]:
    experiment, location = job.experiment, job.experiment.config.run_location
    before = provenance.read(run, status.note)
    index = RunIndex(run, experiment.all_cells)
    status.note(tidy(index, experiment.all_cells, set(experiment.image_ids), retry_failed))
    status.note([*provenance.changed_images(experiment, before), *lost_with_the_cluster(experiment.config)])
    plan = Plan.of(experiment, index, job.seconds(index))
    allocation = allocate(experiment.config.compute, plan.num_batches)
    lines = describe_plan(plan, allocation, job.facts(), job.unit)
    print(*(f"note: {note}" for note in status.notes), lines, sep="\n", flush=True)
    origin = provenance.describe(experiment, str(allocation), before, plan.num_batches > 0)
    config = yaml.safe_dump(experiment.resolved(), sort_keys=False, allow_unicode=True).encode()
    run.write(run.path("config.yaml"), config, durable=True)
    run.write_json("provenance.json", origin, durable=True)
    live = None
    if plan.num_batches:
        curves = Curves(run, experiment.all_cells, experiment.config.seeds[0])
        if any(plan.done.values()):
            curves.begin(job.scores(run))
        with Progress(plan, job.unit) as progress, Live(run, curves, plan) as live:
            work = job.work(allocation.device, allocation.cpus)
            try:
                for report in execute(plan, allocation, job.loader(), work, config, status.note):
                    progress.update(report)
                    live.update(report)
                    status.note(report["notes"])
                    status.progress(**progress.facts())
            finally:  # also of a stretch that is interrupted: what was done in it is kept, and so is when
                origin |= {"times": progress.times()}
                with suppress(OSError):  # a full disk ends the run by its own error, not by this one
                    run.write_json("provenance.json", origin, durable=True)
    done, failed, missing = outcome_counts(experiment, index.refresh())
    if missing:
        raise RuntimeError(f"{missing} {job.unit} have neither a result nor a failure")
    origin |= job.images_read(run)
    run.write_json("provenance.json", origin | {"end": origin["end"] or provenance.now()}, durable=True)
    notes = [*put_in_order(index, experiment), *job.gaps(index)]
    table, write_report = job.tabulate(run)
    try:
        write_report()
    except Exception as error:  # the numbers are on disk, and a figure must not fail the run
        notes.append(f"no report: {one_line(error)}")
    tracking, sent = track.send(run, live.sent if live else None)
    status.note([*notes, *([] if sent else [f"MLflow: {tracking}"])])
    places = where_things_are(run, location, tracking)
    print(*(f"note: {note}" for note in notes), f"\n{table}\n", places, sep="\n")
    if failed:
        message = f"complete, but {failed} of {done + failed} {job.unit} failed: see {join(location, 'failures')}"
        return cli.SOME_IMAGES_FAILED, message
    return cli.COMPLETE, f"complete: {done} {job.unit}"


def lost_with_the_cluster(config: RunConfig) -> list[str]:
    """Return a line if a Ray job leaves something in its own directory on the head, where nobody keeps it."""
    if provenance.ray_job() is None:
        return []
    lost = f"lies in the job's own directory on the head, {os.getcwd()}, and goes with the cluster"
    local = RunFolder(config.run_location).local
    if local and not is_uri(config.output) and not os.path.isabs(config.output):
        allowed = "output=s3://BUCKET/runs, or the absolute path of a folder that all nodes share"
        return [f"output: {config.output!r} {lost}; set {allowed}"]
    if config.tracking.uri is None and not local:
        later = f"python -m ray_jobs.track {shlex.quote(config.run_location)}"
        return [f"tracking.uri: null, the store of MLflow {lost}; set tracking.uri, or send the run later: {later}"]
    if _in_own_directory(config.tracking.uri):
        return [f"tracking.uri: the store of MLflow {lost}; set the URI of a server, or an absolute path"]
    return []


def _in_own_directory(uri: str | None) -> bool:
    """Return whether a store of MLflow is a file named from the current directory: sqlite:///mlflow.db, or mlruns."""
    if uri is None or uri.startswith("databricks"):  # a word that is no path
        return False
    scheme, mark, path = uri.partition(":///")
    return not path.startswith("/") if mark and scheme.startswith("sqlite") else "://" not in uri and uri[:1] != "/"
