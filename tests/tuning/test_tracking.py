"""A sweep in MLflow, whatever state the sweep and the store are in."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from benchmarks.faults.scene import wait_until
from tests.ray_jobs.stores import make_store
from tests.tuning.small_sweeps import STD, Driven, drive, sweep
from tuning.live import Live
from tuning.outcome import trial_table
from tuning.tracking import Copies, send

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


def curves_in(folder: Path) -> dict[str, list[tuple[int, int, float]]]:
    """Return every value of the objective of each run: step, time and value."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return {
        name: sorted((m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, "objective"))
        for name, run in runs_in(folder).items()
        if name.startswith("trial")
    }


def runs_in(folder: Path) -> dict[str, Run]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("sweeps")
    if experiment is None:
        return {}
    return {str(run.info.run_name): run for run in client.search_runs([experiment.experiment_id])}


def test_a_sweep_that_broke_off_is_there_as_far_as_it_is_and_goes_on_in_the_same_runs(tmp_path: Path) -> None:
    broken = drive(sweep(tmp_path, search=SEARCH), rungs=5)
    finished = [trial.number for trial in broken.ledger.trials() if trial.state.is_finished()]
    assert 0 < len(finished) < 4
    assert "not sent" not in send_all(broken)
    before = runs_in(tmp_path)
    left = len(finished)  # at work when it broke off
    assert before.keys() == {"small", *(f"trial {number}" for number in [*finished, left])}
    assert before["small"].info.status == before[f"trial {left}"].info.status == "KILLED"
    assert before["small"].info.end_time >= before[f"trial {left}"].info.end_time >= before["small"].info.start_time
    assert "not sent" not in send_all(drive(sweep(tmp_path, search=SEARCH)))
    after = runs_in(tmp_path)
    assert after.keys() == {"small", *(f"trial {number}" for number in range(4))}
    assert after["small"].info.status == "FINISHED"
    assert {name: after[name].info.run_id for name in before} == {n: run.info.run_id for n, run in before.items()}


def test_a_sweep_of_which_no_trial_is_finished_is_sent(tmp_path: Path) -> None:
    assert "not sent" not in send_all(drive(sweep(tmp_path, search=SEARCH), rungs=0))
    sent = runs_in(tmp_path)
    assert {name: run.info.status for name, run in sent.items()} == {"small": "KILLED", "trial 0": "KILLED"}
    assert "objective" not in sent["trial 0"].data.metrics


@pytest.mark.parametrize("changes", [{}, {"tasks": TWO_TASKS}], ids=["one task", "two, in units of the reference"])
def test_trials_are_there_while_the_sweep_searches(tmp_path: Path, changes: dict[str, Any]) -> None:
    """At work, then finished, each rung of each once: what is sent at the end is what was sent before."""
    half = drive(sweep(tmp_path, search=SEARCH, **changes), rungs=5)
    left = sum(trial.state.is_finished() for trial in half.ledger.trials())
    with Live(lambda: Copies(half.run, half.sweep, half.ledger, half.scores), seconds=0.1):
        wait_until(lambda: f"trial {left}" in runs_in(tmp_path), 30, "the trial at work")
        at_work = runs_in(tmp_path)
        assert at_work["small"].info.status == at_work[f"trial {left}"].info.status == "RUNNING"
        assert at_work[f"trial {left}"].data.tags["state"] == "unfinished"
        for number in range(left):
            assert at_work[f"trial {number}"].info.status == "FINISHED"
            assert "objective" in at_work[f"trial {number}"].data.metrics
        whole = drive(sweep(tmp_path, search=SEARCH, **changes))
        wait_until(
            lambda: sum(run.info.status == "FINISHED" for run in runs_in(tmp_path).values()) == 4, 30, "four trials"
        )
    live = curves_in(tmp_path)
    assert all(live[f"trial {number}"] for number in range(4))
    assert "not sent" not in send_all(whole)
    assert curves_in(tmp_path) == live
    assert {name: run.info.run_id for name, run in runs_in(tmp_path).items() if name in at_work} == {
        name: run.info.run_id for name, run in at_work.items()
    }
    for number in range(4):
        trial = whole.ledger.trials()[number]
        assert [step for step, _, _ in live[f"trial {number}"]] == sorted(trial.intermediate_values)


def test_a_store_that_does_not_answer_delays_nothing(tmp_path: Path) -> None:
    def connect() -> Copies:
        raise ConnectionError("nobody is there")

    begun = time.monotonic()
    with Live(connect, seconds=0.1):
        time.sleep(0.3)
    assert time.monotonic() - begun < 2


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
