"""The command on a real local Ray: a search that must find what theory says, and one whose driver is killed."""

from __future__ import annotations

import dataclasses
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from ipsolve.runs.config import load_config
from ipsolve.runs.results import RunFolder
from ray_jobs import cli
from ray_jobs.evaluate import main as evaluate
from tests.tuning.small_sweeps import STD, CountedPrior, mapping, sweep
from tuning.sweep import main, run_sweep

pytestmark = [pytest.mark.xdist_group("ray, too"), pytest.mark.usefixtures("local_ray")]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Path]:
    """A sweep of 24 trials, done, and the folder where its actors counted how often they loaded the prior."""
    folder, loads = tmp_path_factory.mktemp("sweep"), tmp_path_factory.mktemp("loads")
    trial = sweep(folder)
    counted = dataclasses.replace(trial.experiment, prior=CountedPrior(str(loads)))
    assert run_sweep(dataclasses.replace(trial, experiment=counted)) == cli.COMPLETE
    return RunFolder(trial.config.run_location), loads


def test_the_search_finds_the_optimum_of_theory(finished: tuple[RunFolder, Path]) -> None:
    run, _ = finished
    tuned: Any = load_config(run.path("best.yaml")).solvers["tuned"]
    table = pd.read_parquet(run.path("trials.parquet"))
    assert tuned["signal_std"] == pytest.approx(STD, rel=0.15)
    assert set(table["state"]) == {"complete", "stopped"}
    assert table["images"].sum() < 24 * 8


def test_the_prior_is_loaded_once_per_worker_process(finished: tuple[RunFolder, Path]) -> None:
    processes = [path.name.split("-")[0] for path in finished[1].iterdir()]
    assert len(processes) == len(set(processes))
    assert len(processes) < 24 / 2  # actors go from trial to trial


def test_everything_a_sweep_leaves_behind(finished: tuple[RunFolder, Path]) -> None:
    run, _ = finished
    for name in (
        "trials.parquet",
        "trials.csv",
        "best.yaml",
        "report.html",
        "study.db",
        "config.yaml",
        "provenance.json",
    ):
        assert run.exists(name)
    assert run.read_json("status.json")["state"] == "complete"
    page = Path(run.path("report.html")).read_text()
    for words in ("history", "importance", "slices", "rungs", "signal_std", "trial 0"):
        assert words in page
    assert page.count("<svg") == 4  # one field has no contour
    assert "no figure" not in page
    for outside in ("<link", 'src="http', "@import", "url(http"):
        assert outside not in page


def test_mlflow_has_the_sweep_its_trials_and_every_rung(finished: tuple[RunFolder, Path]) -> None:
    run, _ = finished
    client = MlflowClient(f"sqlite:///{Path(run.root).parent}/mlflow.db")
    experiment = client.get_experiment_by_name("sweeps")
    runs = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"small", *(f"trial {i}" for i in range(24))}
    parent = runs["small"]
    best = parent.data.tags["best_trial"]
    assert parent.data.tags["best_run"] == runs[f"trial {best}"].info.run_id
    assert runs[f"trial {best}"].data.tags["best"] == "true"
    table = pd.read_parquet(run.path("trials.parquet")).set_index("number")
    for number, row in table.iterrows():
        child = runs[f"trial {number}"]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["state"] == row["state"]
        assert float(child.data.params["signal_std"]) == row["signal_std"]
        history = client.get_metric_history(child.info.run_id, "objective")
        assert [each.step for each in history] == [n for n in (2, 4, 8) if n <= row["images"]]
        assert history[-1].value == pytest.approx(row["objective"])
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} >= {
        "report.html",
        "trials.csv",
        "best.yaml",
    }


def test_the_same_command_does_nothing_more_and_best_yaml_is_evaluated_as_it_is(
    finished: tuple[RunFolder, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, loads = finished
    before = len(list(loads.iterdir()))
    assert main([run.path("config.yaml")]) == cli.COMPLETE
    assert "0 of 24 trials missing" in capsys.readouterr().out
    assert len(list(loads.iterdir())) == before
    client = MlflowClient(f"sqlite:///{Path(run.root).parent}/mlflow.db")
    experiment = client.get_experiment_by_name("sweeps")
    assert len(client.search_runs([experiment.experiment_id])) == 25  # the same MLflow runs again
    assert evaluate([run.path("best.yaml")]) == cli.COMPLETE
    compared = pd.read_csv(Path(run.root).parent / "small-best" / "comparisons.csv")
    row = compared[(compared["solver"] == "tuned") & (compared["baseline"] == "published")].iloc[0]
    assert row["n"] == 4
    assert row["ci95_low"] <= row["difference"] <= row["ci95_high"]


def finished_trials(study: Path) -> dict[int, str]:
    """Return when each finished trial was finished, as the file of the study has it."""
    if not study.exists():
        return {}
    with sqlite3.connect(f"file:{study}?mode=ro", uri=True) as database:
        try:
            rows = database.execute("select number, datetime_complete from trials where datetime_complete is not null")
            return dict(rows.fetchall())
        except sqlite3.OperationalError:  # being made
            return {}


@pytest.mark.timeout(900)  # a start of Ray, which a busy machine makes slow
def test_a_killed_driver_leaves_a_sweep_that_the_same_command_completes(tmp_path: Path) -> None:
    changes = {
        "solver": {"solver": "tv", "num_steps": 60},
        "space": {"tv_weight": {"log": [1e-3, 1]}},
        "search": {"num_trials": 8, "rungs": [4, 8], "scheduler": "none"},
        "tracking": {"uri": "http://127.0.0.1:9"},  # a dead server costs nothing
    }
    config = tmp_path / "x.yaml"
    config.write_text(yaml.safe_dump(mapping(tmp_path, **changes)))
    run = RunFolder(tmp_path / "small")
    study = Path(run.path("study.db"))
    driver = subprocess.Popen(
        [sys.executable, "-m", "tuning.sweep", str(config)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 400
    try:
        while len(finished_trials(study)) < 2:
            assert driver.poll() is None, "the sweep ended by itself"
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.02)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    kept = finished_trials(study)
    assert run.read_json("status.json")["state"] == "running"
    assert 2 <= len(kept) < 8

    assert main([str(config)]) == cli.COMPLETE
    now = finished_trials(study)
    assert sorted(now) == list(range(8))
    assert now == now | kept  # a finished trial is not run again
    table = pd.read_parquet(run.path("trials.parquet"))
    assert set(table["state"]) == {"complete"}
    images = pd.read_parquet(run.path("images"))
    assert len(images) == 8 * 8  # every image of every trial, each once
    assert run.read_json("status.json")["state"] == "complete"
