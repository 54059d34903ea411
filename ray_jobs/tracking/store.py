"""The store of MLflow: a client that gives up within seconds, and runs that are found again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipsolve.requests.errors import RequestError
from ipsolve.requests.secrets import redact
from ipsolve.runs.results import RunFolder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

MEMORY = "mlflow.json"  # in the run folder: which MLflow runs are this run's
TAG = "ipsolve.key"
DATABASE_ATTEMPTS = 2
MAX_LENGTH = 6000  # of a parameter, which MLflow would cut with a warning that nobody sees
PARAMETERS = "parameters.json"
MOST_AT_ONCE = 100  # parameters of a request; metrics may be 1,000


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


class Memory:
    """The ids of the MLflow runs that stand for this run, kept in its folder so that sending again updates them.

    Each of them has a tag that only this folder gives, by which it is found if its id never came here.
    """

    def __init__(self, run: RunFolder, store: str, experiment_id: str) -> None:
        self.run, self.store, self.experiment_id = run, store, experiment_id
        self.all: dict[str, Any] = run.read_json(MEMORY)
        self.ids: dict[str, str] = self.all.setdefault(store, {})
        if "folder" not in self.all:  # beside the stores and of their shape, for those who read this file
            self.all["folder"] = {"id": uuid.uuid4().hex}
            run.write_json(MEMORY, self.all, durable=True)

    def remember_parent(self, run_id: str) -> None:
        """Keep which of the runs is the parent of the present configuration."""
        parents = self.all.setdefault("parents", {})
        if parents.get(self.store) != run_id:
            parents[self.store] = run_id
            self.run.write_json(MEMORY, self.all, durable=True)

    def run_of(
        self, client: MlflowClient, key: str, name: str, tags: Mapping[str, str], start: int | None = None
    ) -> str:
        """Return the id of the MLflow run known as ``key``, made now if there is none, its tags up to date.

        ``start``, in milliseconds: when its work began, which is long over where a run is made at its end. It cannot
        change later, so that a run that goes on keeps its first start.
        """
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
            made = client.create_run(self.experiment_id, start, {**tags, "mlflow.runName": name, TAG: mark})
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


def store_name(config: Mapping[str, Any], experiment_id: str) -> str:
    """Return what a store is called in the memory of a run."""
    return f"{redact(config['tracking']['uri'] or 'local')}#{experiment_id}"  # a key of a file, which nothing redacts


def experiment_of(client: MlflowClient, name: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name, artifact_location=artifacts))


def log(client: MlflowClient, run_id: str, parameters: Mapping[str, Any], metrics: Sequence[Metric]) -> None:
    """Log parameters and numbers; a value too long for a parameter goes to ``parameters.json``, an artifact."""
    from mlflow.entities import Param

    words = {name: str(value) for name, value in parameters.items()}
    long = {name: value for name, value in words.items() if len(value) > MAX_LENGTH}
    where = f"... (whole in {PARAMETERS})"
    # a parameter cannot change in MLflow: what is cut is cut alike each time
    short = {name: value[: MAX_LENGTH - len(where)] + where if name in long else value for name, value in words.items()}
    params = [Param(name, value) for name, value in short.items()]
    # the same number at the same time is the same row in MLflow: sending twice leaves one
    for start in range(0, max(len(metrics), len(params), 1), MOST_AT_ONCE):
        end = start + MOST_AT_ONCE
        client.log_batch(run_id, metrics=metrics[start:end], params=params[start:end])
    if long:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, PARAMETERS).write_text(json.dumps(long, indent=1))
            client.log_artifact(run_id, str(Path(folder, PARAMETERS)))


def flat(prefix: str, mapping: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in mapping.items()}


def digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
