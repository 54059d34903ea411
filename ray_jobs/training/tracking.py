"""Curves and sample sheets in MLflow; MLflow never costs the run anything but a warning."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipsolve.requests.secrets import redact
from ray_jobs.training.config import TrainingConfig

_RUN_FILE = "mlflow_run_id"


@dataclass(frozen=True)
class TrackerAddress:
    """Where a run is tracked: what a worker needs to write to it. ``run_id`` None: not at all."""

    uri: str
    run_id: str | None


class Tracker:
    """Writes to one MLflow run; after the first failure it warns once and stays silent."""

    def __init__(self, address: TrackerAddress) -> None:
        self.address = address
        self._client: Any = None
        self._works = address.run_id is not None

    @classmethod
    def start(cls, config: TrainingConfig) -> Tracker:
        """Return the tracker of the run in ``config.folder``, a new run or the one that a former attempt began."""
        uri = config.tracking.uri or f"sqlite:///{config.folder / 'mlflow.db'}"
        tracker = cls(TrackerAddress(uri, "pending"))
        remembered = config.folder / _RUN_FILE

        def begin(client: Any) -> str:
            if remembered.exists():
                return str(client.get_run(remembered.read_text().strip()).info.run_id)
            experiment = client.get_experiment_by_name(config.tracking.experiment)
            artifacts = None if config.tracking.uri else (config.folder / "mlartifacts").as_uri()
            number = (
                experiment.experiment_id
                if experiment
                else client.create_experiment(config.tracking.experiment, artifact_location=artifacts)
            )
            run_id = str(client.create_run(number, run_name=config.name).info.run_id)
            remembered.write_text(run_id)
            for key, value in _flatten(config.identity()).items():
                client.log_param(run_id, key, value)
            return run_id

        run_id = tracker._try(begin)
        return cls(TrackerAddress(uri, run_id))

    @classmethod
    def join(cls, address: TrackerAddress, writes: bool) -> Tracker:
        """Return a worker's tracker; that of a worker that does not write does nothing."""
        return cls(address if writes else TrackerAddress(address.uri, None))

    def metrics(self, stage: str, figures: Mapping[str, float], step: int) -> None:
        def log(client: Any) -> None:
            for key, value in figures.items():
                client.log_metric(self.address.run_id, f"{stage}/{key}", value, step=step)

        self._try(log)

    def artifact(self, path: Path, folder: str) -> None:
        self._try(lambda client: client.log_artifact(self.address.run_id, str(path), folder))

    def finish(self) -> None:
        self._try(lambda client: client.set_terminated(self.address.run_id))

    def _try(self, action: Callable[[Any], Any]) -> Any:
        if not self._works:
            return None
        try:
            if self._client is None:
                self._client = _client(self.address.uri)
            return action(self._client)
        except Exception as error:  # a server, a database or a disk can fail in any way, and training must go on
            self._works = False
            reason = redact(" ".join(str(error).split()))[:200]
            print(f"warning: MLflow at {self.address.uri} is not used from here on ({reason})", flush=True)
            return None


def _client(uri: str) -> Any:
    # a server that is down would otherwise hold the training for minutes at every call
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
