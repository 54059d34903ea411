"""A server of MLflow on PostgreSQL with artifacts in an object store: many at once, and a restart in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from ipsolve.runs.results import RunFolder
from ray_jobs import track
from ray_jobs.tracking.serving import answers, server
from tests.object_store import BUCKET, ObjectStore, object_store
from tests.postgres import PASSWORD, Postgres, missing, postgres
from tests.ray_jobs.small_runs import experiment
from tests.ray_jobs.stores import make_store
from tests.ray_jobs.test_track import finish as finished
from tests.ray_jobs.test_track_live import curve_of, finish, work
from tests.tuning.small_sweeps import drive, sweep
from tests.tuning.test_tracking import send_all

pytestmark = pytest.mark.slow
NUM_TRIALS = 50
ROOT = Path(__file__).parents[2]
with_postgres = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", running.endpoint)
        yield running


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        yield running


@with_postgres
def test_two_drivers_and_a_sweep_log_at_once_through_a_restart(
    tmp_path: Path, store: ObjectStore, database: Postgres
) -> None:
    said: list[str] = []
    with server(database.uri, artifacts=f"s3://{BUCKET}/mlflow") as (address, _):
        port = int(address.rpartition(":")[2])
        tracking = {"uri": address}
        trials = {name: experiment(tmp_path, name=name, tracking=tracking) for name in ("first", "second")}
        swept = sweep(
            tmp_path,
            name="swept",
            search={"num_trials": NUM_TRIALS, "rungs": [2]},
            tracking={"uri": address, "experiment": "sweeps"},
        )
        driven = drive(swept)
        sends = [lambda: send_all(driven)]
        for trial in trials.values():
            live = work(trial)
            sends.append(partial(send_run, finish(trial), live.sent))
        threads = [threading.Thread(target=lambda send=send: said.append(send())) for send in sends]
        for thread in threads:
            thread.start()
        client, end = MlflowClient(address), time.monotonic() + 120
        while time.monotonic() < end and not count(client, "sweeps"):  # into the middle of it
            time.sleep(0.1)
    assert not answers(address)
    with server(database.uri, port, artifacts=f"s3://{BUCKET}/mlflow"):
        for thread in threads:
            thread.join()
        again = [send_all(driven), *(track.send(RunFolder(trial.config.run_location))[0] for trial in trials.values())]
        assert not [line for line in again if "not sent" in line]
        names = Counter(names_of(client, "ipsolve"))
        assert names == {"first": 1, "second": 1, "sr4 / ddnm": 2, "sr4 / pinv": 2}
        assert Counter(names_of(client, "sweeps")) == {"swept": 1, **{f"trial {i}": 1 for i in range(NUM_TRIALS)}}
        for run in client.search_runs([client.get_experiment_by_name("ipsolve").experiment_id]):
            assert run.info.status == "FINISHED"
            if run.info.run_name == "sr4 / ddnm":
                steps = [point.step for point in client.get_metric_history(run.info.run_id, "running/psnr")]
                assert sorted(steps) == [2, 4, 5]
    kept = store.listed("mlflow/")
    assert any(key.endswith("/artifacts/summary.json") for key in kept)
    assert any("/artifacts/images/sr4~worst" in key for key in kept)
    assert PASSWORD not in "".join([*said, *again])


def send_run(run: RunFolder, sent: dict[tuple[str, str], int]) -> str:
    return track.send(run, sent)[0]


def names_of(client: MlflowClient, experiment_name: str) -> list[str]:
    found = client.get_experiment_by_name(experiment_name)
    runs = client.search_runs([found.experiment_id], max_results=1000) if found else []
    return [str(run.info.run_name) for run in runs]


def count(client: MlflowClient, experiment_name: str) -> int:
    try:
        return len(names_of(client, experiment_name))
    except Exception:  # it is being started
        return 0


@with_postgres
@pytest.mark.parametrize("right", [True, False])
def test_the_password_of_a_database_is_never_printed(
    tmp_path: Path, database: Postgres, right: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD")
    given = PASSWORD if right else PASSWORD[::-1]
    run = finished(experiment(tmp_path, name=f"with-{right}".lower()))
    config = yaml.safe_load(run.read(run.path("config.yaml")))
    # a request with it is refused: somebody has written it into the folder of a run
    config["tracking"]["experiment"] = "passwords"  # one of its own: whose artifacts no server keeps
    config["tracking"]["uri"] = database.uri.replace("mlflow@", f"mlflow:{given}@")
    run.write(run.path("config.yaml"), yaml.safe_dump(config).encode())
    place, sent = track.send(run)
    assert sent == right
    written = run.read(run.path("mlflow.json")).decode() if right else ""
    shown = "".join([place, *capfd.readouterr(), written])
    assert given not in shown


def test_two_drivers_on_one_file_lose_no_run(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    found = [finished(experiment(tmp_path, name=name)) for name in ("first", "second")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "ray_jobs.track"]
    drivers = [subprocess.Popen([*line, run.root], env=environment, cwd=tmp_path) for run in found]
    try:
        assert [driver.wait(250) for driver in drivers] == [0, 0]
    finally:
        for driver in drivers:
            driver.kill()
    assert Counter(names_of(store, "ipsolve")) == {"first": 1, "second": 1, "sr4 / ddnm": 2, "sr4 / pinv": 2}


def test_a_file_that_another_driver_holds_is_waited_for(tmp_path: Path) -> None:
    import sqlite3

    store, trial = make_store(tmp_path), experiment(tmp_path)
    run = finished(trial)
    with sqlite3.connect(tmp_path / "mlflow.db", check_same_thread=False, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(4, lambda: other.execute("COMMIT"))
        release.start()
        place, sent = track.send(run)
        release.join()
    assert sent, place
    assert Counter(names_of(store, "ipsolve")) == {"small": 1, "sr4 / ddnm": 1, "sr4 / pinv": 1}
    assert curve_of(store, "sr4 / ddnm") == []
