"""A run in an S3-compatible store, against a real server: the same rows, nothing lost, nothing needless."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient

from ipsolve.runs.config import load_config
from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import RunFolder
from ray_jobs import cli, evaluate, merge, report, track
from ray_jobs import compact as compacting
from ray_jobs.pipeline.folder import provenance
from ray_jobs.pipeline.folder.batches import merge_files
from ray_jobs.pipeline.plan import Plan
from ray_jobs.pipeline.stages.reading import load
from ray_jobs.pipeline.stages.worker import Worker
from ray_jobs.pipeline.stages.workload import Workload
from tests.object_store import BUCKET, SECRET, ObjectStore, object_store, refusing
from tests.ray_jobs.small_runs import Rows, close, compact, do, experiment, index_of, mapping

pytestmark = pytest.mark.xdist_group("ray, too")

ROOT = Path(__file__).parents[2]
DDNM = {"ddnm": {"solver": "ddnm", "num_steps": 6}, "pinv": {"solver": "pseudo_inverse"}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


def run_of(trial: Experiment) -> RunFolder:
    return RunFolder(trial.config.run_location)


def rows(trial: Experiment) -> Rows:
    names = ["task", "solver", "seed", "image_id", "psnr"]
    found = run_of(trial).results(names).to_pylist()
    return {(row["task"], row["solver"], row["seed"], row["image_id"]): row["psnr"] for row in found}


def test_the_rows_are_those_of_a_local_run(store: ObjectStore, tmp_path: Path) -> None:
    here, there = experiment(tmp_path), experiment("s3://bucket/same")
    do(here)
    do(there)
    assert rows(there) == rows(here)
    assert len(rows(there)) == 10
    assert len(run_of(there).references()) == 5
    assert do(there).images_missing == 0


def test_objects_that_are_lost_are_done_again_and_no_others(store: ObjectStore) -> None:
    trial = experiment("s3://bucket/lost")
    do(trial)
    before = rows(trial)
    results = store.listed("lost/small/results")
    sizes = [pq.read_metadata(io.BytesIO(store.get(key))).num_rows for key in results]
    assert sum(sizes) == 10
    store.client.delete_object(Bucket=BUCKET, Key=results[0])
    store.put(results[1], store.get(results[1])[:200])  # as an upload never leaves one, but a hand may
    kept = {key: store.client.head_object(Bucket=BUCKET, Key=key)["LastModified"] for key in results[2:]}
    assert do(trial).images_missing == sum(sizes[:2])
    assert rows(trial) == close(before)
    assert kept == {key: store.client.head_object(Bucket=BUCKET, Key=key)["LastModified"] for key in kept}


def test_superseded_rows_come_back_and_compaction_keeps_them(store: ObjectStore) -> None:
    trial, changed = experiment("s3://bucket/changed"), experiment("s3://bucket/changed", solvers=DDNM)
    do(trial)
    before = rows(trial)
    assert do(changed).images_missing == 5
    assert len([key for key in store.listed("changed/small/superseded") if key.endswith(".parquet")]) == 3
    assert rows(changed) != before
    assert do(trial).images_missing == 0
    compact(run_of(trial))
    assert len([key for key in store.listed("changed/small/results") if key.endswith(".parquet")]) == 2
    assert rows(trial) == before
    fewer = experiment("s3://bucket/changed", data={"source": "portraits:test", "limit": 3})
    assert do(fewer).images_missing == 0
    assert len(rows(fewer)) == 6
    assert do(trial).images_missing == 0
    assert rows(trial) == before


def part(output: str | Path, **changes: Any) -> RunFolder:
    """Return a finished run as one of the clusters leaves it."""
    trial = experiment(output, **changes)
    do(trial)
    run = run_of(trial)
    run.write(run.path("config.yaml"), yaml.safe_dump(trial.resolved(), sort_keys=False).encode())
    run.write_json("provenance.json", provenance.describe(trial, "one process") | {"end": provenance.now()})
    return run


def row_counts(store: ObjectStore, prefix: str) -> list[int]:
    files = [key for key in store.listed(prefix) if key.endswith(".parquet")]
    return [pq.read_metadata(io.BytesIO(store.get(key))).num_rows for key in files]


def test_runs_are_joined_in_the_store_wherever_they_are(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = part(tmp_path / "here", seed=0), part("s3://bucket/apart", seed=1)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    query = f"?endpoint_override={store.endpoint.removeprefix('http://')}&scheme=http"
    into = f"s3://bucket/joined/whole{query}"
    line = [here.location, f"{there.location}{query}", "--into", into]
    assert merge.main(line) == cli.COMPLETE
    out = capsys.readouterr().out
    assert "20 results, 0 failures of 2 runs" in out
    place = f"s3://bucket/joined/whole/config.yaml{query}"
    assert f"python -m ray_jobs.evaluate '{place}'\n" in out  # quoted: the query means something to a shell
    keys = {key.removeprefix("joined/whole/") for key in store.listed("joined/whole/")}
    assert keys >= {"config.yaml", "provenance.json", "status.json", "summary.csv", "report.html"}
    both = Experiment.of(load_config(place))
    assert both.config.run_location == into
    assert Plan.of(both, index_of(both)).images_missing == 0
    alone = experiment(tmp_path / "alone", seed=[0, 1])
    do(alone)
    assert rows(both) == close(rows(alone))
    assert merge.main(line) == cli.COMPLETE  # again, as when the runs have grown
    assert rows(both) == close(rows(alone))
    assert sum(row_counts(store, "joined/whole/results")) == len(rows(both))


@pytest.mark.parametrize("into", ["s3://bucket", "s3://bucket/joined/.hidden", "s3://bucket/joined/a%20b?region=r"])
def test_a_place_that_cannot_hold_a_run_is_refused_before_anything_is_copied(
    store: ObjectStore, tmp_path: Path, into: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, before = part(tmp_path), store.listed()
    assert merge.main([run.root, "--into", into]) == cli.WRONG_REQUEST
    error = capsys.readouterr().err
    assert error.startswith("error: --into: ")
    assert error.count("\n") == 1
    assert store.listed() == before


# each file is asked for, written and deleted in vain as often as the client tries, which is three times
@pytest.mark.parametrize(("method", "times"), [("GET", 9), ("PUT", 3), ("DELETE", 9)])
def test_gathering_files_outlives_a_store_that_refuses_for_a_while(
    store: ObjectStore, method: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = experiment(f"s3://bucket/refusing-{method}")
    do(trial)
    before = rows(trial)
    run = run_of(trial)
    small = run.files("results", "task=sr4", "solver=ddnm")
    with refusing(store, method, times) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        merge_files(run_of(trial), small)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    assert len(run.files("results", "task=sr4", "solver=ddnm")) == 1
    assert rows(trial) == before


def test_files_that_cannot_be_deleted_are_twice_until_they_are_put_right(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipsolve.files.filesystems._PAUSES", ())
    run = part("s3://bucket/undeletable")
    trial = experiment("s3://bucket/undeletable")
    before = rows(trial)
    with refusing(store, "DELETE", times=1000) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        compact(run_of(trial))
        assert len(run.files("results")) == 6 + 2
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    assert rows(trial) == before
    assert compacting.main([run.location]) == cli.COMPLETE
    assert row_counts(store, "undeletable/small/results") == [5, 5]
    assert rows(trial) == before


def test_a_batch_costs_a_question_and_two_objects(store: ObjectStore) -> None:
    trial = experiment("s3://bucket/requests")
    plan, worker = Plan.of(trial, index_of(trial)), Worker(Workload.of(trial))
    for cell, indices in plan.dispatch().batches():
        before = len(store.requests())
        worker.process(load(trial.source, cell, indices, trial.image_size))
        asked = Counter(line.split()[0] for line in store.requests()[before:])
        assert asked == {"HEAD": 1, "PUT": 2}
    assert [key for key in store.listed("requests") if key.endswith("/")] == []  # a store has no folders to make
    run = run_of(trial)
    before = len(store.requests())
    assert len(run.sizes("results")) == 6
    assert len(store.requests()) == before + 1


def test_a_batch_that_comes_again_is_taken_over(store: ObjectStore) -> None:
    trial = experiment("s3://bucket/again")
    batch = load(trial.source, trial.cells[0], [0, 1, 2], trial.image_size)
    assert Worker(Workload.of(trial)).process(batch)["done"] == 3
    first = run_of(trial).results(["image_id", "seconds"])
    assert Worker(Workload.of(trial)).process(batch)["done"] == 3
    assert run_of(trial).results(["image_id", "seconds"]) == first


def test_the_command_line_and_what_comes_after_it(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(yaml.safe_dump(mapping(tmp_path, baseline="pinv")))
    query = f"?endpoint_override={store.endpoint.removeprefix('http://')}&scheme=http"
    location = f"s3://bucket/runs/small{query}"
    line = [sys.executable, "-m", "ray_jobs.evaluate", str(config), f"output=s3://bucket/runs{query}"]
    environment = {name: value for name, value in os.environ.items() if name != "AWS_ENDPOINT_URL"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"s3://bucket/runs/small/report.html{query}" in done.stdout
    here = experiment(tmp_path / "here")
    do(here)
    found = RunFolder(location).results(["solver", "image_id", "psnr"]).to_pylist()
    assert {("sr4", row["solver"], 0, row["image_id"]): row["psnr"] for row in found} == close(rows(here))
    keys = {key.removeprefix("runs/small/") for key in store.listed("runs/small/")}
    assert keys >= {"config.yaml", "provenance.json", "status.json", "summary.csv", "comparisons.csv", "report.md"}
    assert b"ddnm" in store.get("runs/small/report.html")
    assert RunFolder(location).read_json("status.json")["exit_code"] == 0

    monkeypatch.chdir(tmp_path)
    assert report.main([location]) == cli.COMPLETE
    assert track.main([location]) == cli.COMPLETE
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    tracked = client.search_runs([client.get_experiment_by_name("ipsolve").experiment_id])
    assert sorted(each.info.run_name for each in tracked) == ["small", "sr4 / ddnm", "sr4 / pinv"]
    texts = [done.stdout, *capsys.readouterr(), *(store.get(f"runs/small/{key}").decode("latin-1") for key in keys)]
    assert [text for text in texts if SECRET in text] == []


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("command", ["evaluate", "dry run", "report", "track"])
@pytest.mark.parametrize("trouble", ["no bucket", "dead endpoint", "wrong credentials"])
def test_a_store_that_refuses_is_one_line_within_seconds(
    store: ObjectStore,
    tmp_path: Path,
    command: str,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, bucket = tmp_path / "x.yaml", "no-bucket" if trouble == "no bucket" else BUCKET
    config.write_text(yaml.safe_dump(mapping(f"s3://{bucket}/runs")))
    if trouble == "dead endpoint":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store.wants_credentials(trouble == "wrong credentials")
    start = time.monotonic()
    try:
        if command in ("report", "track"):
            code = {"report": report, "track": track}[command].main([f"s3://{bucket}/runs/small"])
        else:
            code = evaluate.main([str(config), *(["--dry-run"] if command == "dry run" else [])])
    finally:
        store.wants_credentials(False)
    error = capsys.readouterr().err
    if (command, trouble) == ("dry run", "no bucket"):  # an empty place and none look alike to who may only list
        assert code == cli.COMPLETE
        return
    assert code == cli.WRONG_REQUEST
    assert (error[:7], error.count("\n")) == ("error: ", 1)
    assert time.monotonic() - start < 30
    expected = {
        "no bucket": "there is no bucket 'no-bucket'" if command == "evaluate" else "s3://no-bucket/runs/small",
        "dead endpoint": "the store does not answer",
        "wrong credentials": "access to bucket 'bucket' is denied",
    }
    assert expected[trouble] in error


def test_a_silent_store_is_given_up(
    store: ObjectStore, silent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent)
    monkeypatch.setattr("ipsolve.files.filesystems._S3_SILENCE_SECONDS", 1)
    assert report.main(["s3://bucket/runs/small"]) == cli.WRONG_REQUEST
    assert "the store does not answer" in capsys.readouterr().err
