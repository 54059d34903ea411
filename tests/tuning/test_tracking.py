"""A sweep in MLflow, whatever state the sweep and the store are in."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.ray_jobs.stores import make_store
from tests.tuning.small_sweeps import STD, Driven, drive, sweep
from tuning.outcome import trial_table
from tuning.tracking import send

SEARCH = {"num_trials": 4, "rungs": [2, 4]}
TWO_TASKS = {
    "denoise": {"operator": "denoising", "noise_std": STD},
    "sr4": {"operator": "super_resolution", "factor": 4, "noise_std": 0.1},
}


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> None:
    make_store(tmp_path)


def send_all(driven: Driven) -> str:
    table = trial_table(driven.sweep, driven.ledger, driven.scores)
    return send(driven.run, driven.sweep, driven.ledger, driven.scores, table)


def runs_in(folder: Path) -> dict[str, Run]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("sweeps")
    return {str(run.info.run_name): run for run in client.search_runs([experiment.experiment_id])}


def test_a_sweep_that_broke_off_is_there_as_far_as_it_is_and_goes_on_in_the_same_runs(tmp_path: Path) -> None:
    broken = drive(sweep(tmp_path, search=SEARCH), rungs=5)
    finished = [trial.number for trial in broken.ledger.trials() if trial.state.is_finished()]
    assert 0 < len(finished) < 4
    assert "not sent" not in send_all(broken)
    before = runs_in(tmp_path)
    assert before.keys() == {"small", *(f"trial {number}" for number in finished)}
    assert before["small"].info.status == "KILLED"
    assert "not sent" not in send_all(drive(sweep(tmp_path, search=SEARCH)))
    after = runs_in(tmp_path)
    assert after.keys() == {"small", *(f"trial {number}" for number in range(4))}
    assert after["small"].info.status == "FINISHED"
    assert {name: after[name].info.run_id for name in before} == {n: run.info.run_id for n, run in before.items()}


def test_a_sweep_of_which_no_trial_is_finished_is_sent(tmp_path: Path) -> None:
    assert "not sent" not in send_all(drive(sweep(tmp_path, search=SEARCH), rungs=0))
    assert runs_in(tmp_path).keys() == {"small"}


def test_objectives_per_task_are_metrics_of_each_trial(tmp_path: Path) -> None:
    driven = drive(sweep(tmp_path, search={"num_trials": 2, "rungs": [2, 4]}, tasks=TWO_TASKS))
    send_all(driven)
    own = driven.scores.rows_by_task(driven.sweep.reference, 4)
    metrics = runs_in(tmp_path)["trial 0"].data.metrics
    for task in TWO_TASKS:
        assert metrics[f"{task}.psnr"] == pytest.approx(own[task]["psnr"].mean())


def test_times_are_those_of_the_trials_and_lie_in_the_sweep(tmp_path: Path) -> None:
    begun = int(time.time() * 1000)
    driven = drive(sweep(tmp_path, search=SEARCH))
    over = int(time.time() * 1000)
    assert "not sent" not in send_all(driven)
    sent = runs_in(tmp_path)
    parent = sent.pop("small")
    assert len(sent) == 4
    for trial in sent.values():
        assert begun <= parent.info.start_time <= trial.info.start_time
        assert trial.info.start_time <= trial.info.end_time <= parent.info.end_time <= over


def test_a_database_that_cannot_be_opened_costs_seconds_and_a_note(tmp_path: Path) -> None:
    folder = tmp_path / "a folder, not a database"
    folder.mkdir()
    driven = drive(sweep(tmp_path, search=SEARCH, tracking={"uri": f"sqlite:///{folder}"}), rungs=3)
    start = time.monotonic()
    said = send_all(driven)
    assert time.monotonic() - start < 30  # MLflow's own patience is 100 s
    assert said.startswith("not sent (")
    assert "\n" not in said
