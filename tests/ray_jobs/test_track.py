"""A run in MLflow: complete, sent twice without a double, and never in the way."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from ipsolve.experiment import Experiment
from ipsolve.results import RunFolder
from ipsolve.summary import write_summary
from ray_jobs import cli, track
from ray_jobs.pipeline import provenance
from tests.ray_jobs.small_runs import do, experiment


def finish(trial: Experiment) -> RunFolder:
    """Bring a run to the state in which it is sent."""
    do(trial)
    run = RunFolder(trial.config.run_location)
    run.write(run.path("config.yaml"), yaml.safe_dump(trial.resolved(), sort_keys=False).encode())
    run.write_json("provenance.json", provenance.describe(trial, "one process") | {"end": provenance.now()})
    write_summary(run, baseline="pinv")
    return run


def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def tables(store: MlflowClient) -> list[tuple[str, dict[str, float], dict[str, str], int]]:
    """Return name, metrics, parameters and number of metric records of every MLflow run."""
    experiment_id = store.get_experiment_by_name("ipsolve").experiment_id
    found = []
    for each in store.search_runs([experiment_id]):
        records = sum(len(store.get_metric_history(each.info.run_id, name)) for name in each.data.metrics)
        found.append((each.info.run_name, each.data.metrics, each.data.params, records))
    return sorted(found, key=lambda entry: entry[0])


def test_sending_again_changes_nothing_and_an_extension_updates(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    run = finish(trial)
    assert track.main([run.root]) == cli.COMPLETE
    first = tables(client(tmp_path))
    assert [entry[0] for entry in first] == ["small", "sr4 / ddnm", "sr4 / pinv"]
    assert track.main([run.root]) == cli.COMPLETE
    assert tables(client(tmp_path)) == first

    extended = experiment(tmp_path, data={"source": "portraits:test", "limit": 6})
    assert track.main([finish(extended).root]) == cli.COMPLETE
    now = tables(client(tmp_path))
    assert [entry[0] for entry in now] == ["small", "sr4 / ddnm", "sr4 / pinv"]
    assert now[1][1]["n"] == 6

    changed = experiment(tmp_path, solvers={"ddnm": {"solver": "ddnm", "num_steps": 3}})
    assert track.main([finish(changed).root]) == cli.COMPLETE
    steps = [entry[2]["num_steps"] for entry in tables(client(tmp_path)) if entry[0] == "sr4 / ddnm"]
    assert sorted(steps) == ["3", "4"]


@pytest.mark.parametrize("lost", range(3))
def test_a_server_whose_answer_is_lost_has_no_run_twice(
    tmp_path: Path, lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finish(experiment(tmp_path))
    create, made = MlflowClient.create_run, list[object]()

    def create_run(self: MlflowClient, *arguments: object, **more: object) -> object:
        made.append(create(self, *arguments, **more))
        if len(made) == lost + 1:
            raise ConnectionError("the answer is lost")
        return made[-1]

    monkeypatch.setattr(MlflowClient, "create_run", create_run)
    assert track.main([run.root]) == cli.COMPLETE
    assert [entry[0] for entry in tables(client(tmp_path))] == ["small", "sr4 / ddnm", "sr4 / pinv"]
    first = tables(client(tmp_path))
    assert track.main([run.root]) == cli.COMPLETE
    assert tables(client(tmp_path)) == first


def test_what_is_not_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert track.main([str(tmp_path)]) == cli.WRONG_REQUEST
    assert "is not a finished run" in capsys.readouterr().err


@pytest.fixture
def silent_server() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("server", ["dead", "silent"])
def test_a_server_that_does_not_answer_costs_seconds(
    tmp_path: Path, server: str, silent_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    port = silent_server if server == "silent" else 9
    run = finish(experiment(tmp_path, tracking={"uri": f"http://127.0.0.1:{port}"}))
    start = time.monotonic()
    place, sent = track.send(run)
    assert not sent
    assert time.monotonic() - start < 20
    assert place.count("\n") == 0
    assert place.endswith(f"send it later with: python -m ray_jobs.track {run.root}")
