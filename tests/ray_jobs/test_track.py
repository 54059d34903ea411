"""A run in MLflow: complete, sent twice without a double, and never in the way."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import RunFolder
from ipsolve.runs.summary import write_summary
from ray_jobs import cli, track
from ray_jobs.pipeline.folder import provenance
from ray_jobs.tracking import overview
from ray_jobs.tracking.times import milliseconds, solver_spans
from tests.ray_jobs.small_runs import do, experiment
from tests.ray_jobs.stores import make_store


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> None:
    make_store(tmp_path)


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


def runs(store: MlflowClient) -> dict[str, Run]:
    experiment_id = store.get_experiment_by_name("ipsolve").experiment_id
    return {str(run.info.run_name): run for run in store.search_runs([experiment_id])}


def test_a_stretch_that_was_killed_stands_for_its_cells_where_no_other_knows_them() -> None:
    def stretch(minute: int, **more: object) -> dict[str, object]:
        times = {"start": f"2026-01-01T00:{minute:02}:00+00:00", "end": None}
        return {**times, "cells": {"a": "t / s / seed 0", "b": "t / r / seed 0"}, **more}

    a = ["2026-01-01T00:11:00+00:00", "2026-01-01T00:12:00+00:00"]
    end = "2026-01-01T00:20:00+00:00"
    spans = solver_spans(stretch(10, end=end, times={"a": a}, earlier=[stretch(5)]))
    assert spans["t", "s"] == (milliseconds(a[0]), milliseconds(a[1]))
    assert spans["t", "r"] == (milliseconds("2026-01-01T00:05:00+00:00"), milliseconds(end))


def test_a_run_whose_provenance_is_lost_is_not_sent_with_wrong_times(tmp_path: Path) -> None:
    run = finish(experiment(tmp_path))
    run.write(run.path("provenance.json"), b"")
    place, sent = track.send(run)
    assert not sent
    assert "provenance.json has no times" in place


def test_a_parent_has_what_a_table_needs(tmp_path: Path) -> None:
    trial = experiment(tmp_path, tracking={"experiment": "ipsolve"}, baseline="pinv")
    run = finish(trial)
    assert track.main([run.root]) == cli.COMPLETE
    sent = runs(client(tmp_path))
    parent, children = sent.pop("small"), sent
    rows = {row.solver: row for row in pd.read_csv(run.path("summary.csv")).itertuples()}
    best = max(rows.values(), key=lambda row: row.psnr)
    assert parent.data.metrics["sr4/psnr_baseline"] == pytest.approx(rows["pinv"].psnr)
    assert parent.data.metrics["sr4/psnr_best"] == pytest.approx(best.psnr)
    assert parent.data.tags["best.sr4"] == best.solver
    assert parent.data.metrics["seconds"] == pytest.approx(sum(row.n * row.seconds_per_image for row in rows.values()))
    note = parent.data.tags["mlflow.note.content"]
    assert f"python -m ray_jobs.evaluate {run.root}/config.yaml" in note
    assert all(f"| sr4 | {solver} | 5 | 0 | {row.psnr:.4g}\u00a0±" in note for solver, row in rows.items())
    for each in (parent, *children.values()):
        assert each.data.tags["mlflow.source.name"] == "python -m ray_jobs.evaluate"
        assert each.data.tags["mlflow.user"]
        assert each.data.tags["prior"] == "mixture"
    tags = children["sr4 / ddnm"].data.tags
    assert (tags["task"], tags["solver"], tags["preset"]) == ("sr4", "ddnm", "custom")
    assert children["sr4 / pinv"].data.tags["preset"] == "default"


def test_a_value_too_long_for_a_parameter_is_whole_in_an_artifact(tmp_path: Path) -> None:
    run = finish(experiment(tmp_path))
    config = yaml.safe_load(run.read(run.path("config.yaml")))
    config["prior"]["means"] = [[0.5] * 3000]
    run.write(run.path("config.yaml"), yaml.safe_dump(config).encode())
    for _ in range(2):
        assert track.main([run.root]) == cli.COMPLETE
    for sent in runs(client(tmp_path)).values():
        value = sent.data.params["prior.means"]
        assert len(value) == 6000
        assert value.endswith("... (whole in parameters.json)")
        path = client(tmp_path).download_artifacts(sent.info.run_id, "parameters.json")
        assert json.loads(Path(path).read_text())["prior.means"] == str(config["prior"]["means"])


def test_a_description_is_shortened_to_what_a_store_takes(tmp_path: Path) -> None:
    config = {"baseline": "s0", "metrics": ["psnr"], "solvers": {}}
    rows = [
        {"task": f"task{t}", "solver": f"s{s}", "n": "64", "failed": "0", "psnr": str(20 + s), "psnr_ci95": "0.5"}
        for t in range(12)
        for s in range(40)
    ]
    text = overview.description(RunFolder(tmp_path), config, rows)
    assert len(text) <= 8000
    lines = [line.split(" | ")[:2] for line in text.splitlines() if line.startswith("| task")][1:]
    assert lines == [[f"| task{t}", solver] for t in range(12) for solver in ("s0", "s39")]
    many = overview.description(RunFolder(tmp_path), config, [row | {"task": row["task"] * 20} for row in rows])
    assert len(many) <= 8000


def test_an_infinite_number_is_a_tag_and_no_metric() -> None:
    row = {"task": "t", "solver": "s", "n": "2", "failed": "0", "psnr": "inf", "ssim": "1.0", "lpips": ""}
    assert overview.numbers(row) == {"n": 2, "failed": 0, "ssim": 1}
    assert overview.infinite(row) == {"infinite": "psnr"}
