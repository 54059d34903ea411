"""Send a finished run to MLflow.

    python -m ray_jobs.track runs/demo

A parent run for the run, a child run for each (task, solver). The Parquet files are the record and this is a
copy of their summary: sending again updates the same MLflow runs, and a server that is slow or down costs seconds.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import logging
import os
import re
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipsolve.config import EXTENT
from ipsolve.errors import RequestError
from ipsolve.results import RunFolder
from ray_jobs import cli
from ray_jobs.pipeline.isolation import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

MEMORY = "mlflow.json"  # in the run folder: which MLflow runs are this run's
TAG = "ipsolve.key"
DATABASE_ATTEMPTS = 2
ARTIFACTS = ("report.html", "report.md", "summary.csv", "comparisons.csv", "config.yaml", "provenance.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.track", description="Send a finished run to MLflow.")
    parser.add_argument("run", help="the folder of a run")
    options = parser.parse_args(arguments)

    def command() -> int:
        run = RunFolder(options.run)
        if not run.exists("config.yaml") or not run.exists("summary.csv"):
            raise RequestError(f"{options.run} is not a finished run: it has no config.yaml and summary.csv")
        place, sent = send(run)
        print(f"MLflow   {place}")
        return cli.COMPLETE if sent else cli.FAILED

    return cli.run_command(command)


def send(run: RunFolder) -> tuple[str, bool]:
    """Send a run; return where it is, or one line on why it is not there and how to send it later, and which it is."""
    try:
        return twice(lambda: _send(run)), True
    except Exception as error:  # tracking never costs a result, whatever a server or its client does
        later = f"python -m ray_jobs.track {shlex.quote(run.location)}"
        return f"not sent ({one_line(error)}); send it later with: {later}", False


def twice(action: Callable[[], str]) -> str:
    """Return ``action()``, done again if it fails once.

    MLflow's own client would repeat a single request, also one that makes a run and whose answer was lost: then there
    are two. Sending all again finds what has been made.
    """
    try:
        return action()
    except Exception as error:  # of whatever kind: those of a client of a server are many
        if isinstance(error, RequestError):
            raise
        time.sleep(1)
        return action()


def client_of(uri: str) -> MlflowClient:
    """Return a client that is quiet, and gives a server or a database that does not answer up within seconds."""
    # MLflow's own defaults let one call to a dead server take four minutes (ray.md 6)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # a database is waited for ten times, 100 s in all, and by libpq for as long as TCP does
    os.environ.setdefault("PGCONNECT_TIMEOUT", "10")
    from mlflow import MlflowClient
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = min(utils.MAX_RETRY_COUNT, DATABASE_ATTEMPTS)
    for name in ("alembic", "mlflow"):  # not earlier: mlflow sets its level when it is imported
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def _send(run: RunFolder) -> str:
    config = cli.read_config(run)
    provenance = run.read_json("provenance.json")
    uri, artifacts = store_of(run, config)
    client = client_of(uri)
    experiment_id = experiment_of(client, config["tracking"]["experiment"], artifacts)
    memory = Memory(run, f"{config['tracking']['uri'] or 'local'}#{experiment_id}", experiment_id)
    described = _describe(config, provenance)
    shared = described.parameters
    commit = {"mlflow.source.git.commit": str(provenance.get("git_commit"))}
    # a parameter cannot change in MLflow, so that another setting is another MLflow run
    key = f"{described.kind}/{digest([shared, config['baseline']])}"
    parent = memory.run_of(client, key, config["name"], described.extent | commit)
    rows = _summary(run)
    totals = {name: sum(float(row[name]) for row in rows) for name in ("n", "failed")}
    time = milliseconds(provenance.get("end") or provenance.get("start"))
    _log(client, parent, shared | {"baseline": config["baseline"]}, totals, time)
    client.log_inputs(parent, described.datasets())
    _log_artifacts(client, parent, run)
    for row in rows:
        # no solver of this name: the floor of a posterior run
        solver = config["solvers"].get(row["solver"], {})
        parameters = {**shared, **described.tasks[row["task"]], "task": row["task"], **solver}
        parameters |= {"solver_name": row["solver"]}
        key = f"{row['task']}/{row['solver']}/{digest([parameters, parent])}"
        tags = {"mlflow.parentRunId": parent, **described.extent}
        child = memory.run_of(client, key, f"{row['task']} / {row['solver']}", tags)
        _log(client, child, parameters, _numbers(row), time)
    return f"{uri}, experiment {config['tracking']['experiment']!r}, run {parent}"


@dataclass(frozen=True)
class _Described:
    """What MLflow is told of a run beside its numbers.

    ``extent`` is what a run may be extended by and stays the same MLflow run: images, problems, seeds.
    """

    kind: str
    parameters: dict[str, Any]
    extent: dict[str, str]
    tasks: dict[str, dict[str, Any]]
    sources: dict[str, tuple[Any, Any, Any]]  # name of a data set: its digest, what it is, what is known of it

    def datasets(self) -> list[DatasetInput]:
        from mlflow.entities import Dataset, DatasetInput

        return [
            DatasetInput(Dataset(name, str(digest)[:36], "ipsolve", json.dumps(source), profile=json.dumps(known)), [])
            for name, (digest, source, known) in self.sources.items()
        ]


def _describe(config: dict[str, Any], provenance: dict[str, Any]) -> _Described:
    precision, extent = {"precision": config["compute"]["precision"]}, {"seeds": str(config["seed"])}
    if "problems" in config:
        families = {
            name: {k: v for k, v in given.items() if k != "num_problems"} for name, given in config["problems"].items()
        }
        extent |= {f"num_problems.{name}": str(given["num_problems"]) for name, given in config["problems"].items()}
        shared = {key: config[key] for key in ("samples", "slices", "problem_seed")} | precision
        tasks = {name: flat("problems", family) for name, family in families.items()}
        sources = {name: (digest([family, config["problem_seed"]]), family, {}) for name, family in families.items()}
        return _Described("posterior", shared, extent, tasks, sources)
    data = {key: value for key, value in config["data"].items() if key not in EXTENT}
    extent |= {key: str(config["data"].get(key)) for key in EXTENT}
    networks = flat("weights", provenance.get("networks", {}))
    shared = {**flat("data", data), **flat("prior", config["prior"]), **precision, **networks}
    tasks = {name: flat("task", task) for name, task in config["tasks"].items()}
    known = provenance.get("data") or {}
    sources = {str(data.get("source")): (known.get("digest", digest(config["data"])), config["data"], known)}
    return _Described("evaluation", shared, extent, tasks, sources)


def _numbers(row: dict[str, str]) -> dict[str, float]:
    """Return the numbers of a line of ``summary.csv``."""
    words = ("task", "solver", "sampling")
    return {name: float(value) for name, value in row.items() if name not in words and value}


class Memory:
    """The ids of the MLflow runs that stand for this run, kept in its folder so that sending again updates them.

    Each of them has a tag that only this folder gives, by which it is found if its id never came here.
    """

    def __init__(self, run: RunFolder, store: str, experiment_id: str) -> None:
        self.run, self.experiment_id = run, experiment_id
        self.all: dict[str, Any] = run.read_json(MEMORY)
        self.ids: dict[str, str] = self.all.setdefault(store, {})
        if "folder" not in self.all:  # beside the stores and of their shape, for those who read this file
            self.all["folder"] = {"id": uuid.uuid4().hex}
            run.write_json(MEMORY, self.all, durable=True)

    def run_of(self, client: MlflowClient, key: str, name: str, tags: dict[str, str]) -> str:
        """Return the id of the MLflow run known as ``key``, made now if there is none, its tags up to date."""
        from mlflow.exceptions import MlflowException

        if key in self.ids:
            try:
                if client.get_run(self.ids[key]).info.lifecycle_stage == "active":
                    for tag, value in tags.items():
                        client.set_tag(self.ids[key], tag, value)
                    return self.ids[key]
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        mark = digest([self.all["folder"]["id"], key])
        found = client.search_runs([self.experiment_id], f"tags.`{TAG}` = '{mark}'", max_results=1)
        if found:
            self.ids[key] = str(found[0].info.run_id)
            for tag, value in tags.items():
                client.set_tag(self.ids[key], tag, value)
        else:
            made = client.create_run(self.experiment_id, tags=tags | {"mlflow.runName": name, TAG: mark})
            self.ids[key] = str(made.info.run_id)
        self.run.write_json(MEMORY, self.all, durable=True)
        return self.ids[key]


def store_of(run: RunFolder, config: dict[str, Any]) -> tuple[str, str | None]:
    uri = config["tracking"]["uri"]
    if uri is not None:
        return str(uri), None
    folder = os.path.dirname(run.root) if run.local else os.getcwd()
    # stated, because MLflow would put artifacts into the present working directory
    return f"sqlite:///{folder}/mlflow.db", Path(folder, "mlartifacts").as_uri()


def experiment_of(client: MlflowClient, name: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name, artifact_location=artifacts))


def _log(client: MlflowClient, run_id: str, parameters: dict[str, Any], metrics: dict[str, float], time: int) -> None:
    from mlflow.entities import Metric, Param

    # the same number at the same time is the same row in MLflow: sending twice leaves one
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, time, 0) for name, value in metrics.items()],
        params=[Param(name, str(value)) for name, value in parameters.items()],
    )
    client.set_terminated(run_id, "FINISHED", time)


def _log_artifacts(client: MlflowClient, run_id: str, run: RunFolder) -> None:
    # only names as we give them: an object in a store may be called "../x", and must not become a file elsewhere
    listed = [path.removeprefix(run.path("figures/")) for path in run.files("figures", suffix=".svg")]
    figures = [f"figures/{name}" for name in listed if re.fullmatch(r"[\w-]+\.svg", name)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "figures").mkdir()
        for name in [*filter(run.exists, ARTIFACTS), *figures]:
            Path(folder, name).write_bytes(run.read(run.path(name)))
        client.log_artifacts(run_id, folder)


def _summary(run: RunFolder) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(run.read(run.path("summary.csv")).decode())))


def flat(prefix: str, mapping: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in mapping.items()}


def digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def milliseconds(time: object) -> int:
    return int(datetime.fromisoformat(str(time)).timestamp() * 1000)


if __name__ == "__main__":
    sys.exit(main())
