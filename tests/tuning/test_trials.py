"""Trials in one process, without Ray: objectives, early stopping, divergence, going on where a driver died."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState

from ipsolve.requests.errors import RequestError
from ipsolve.runs.config import load_config
from ipsolve.runs.experiment import Experiment
from tests.tuning.small_sweeps import STD, drive, sweep
from tuning.ledger import state_of
from tuning.objective import Objective
from tuning.outcome import best_trials, trial_table, write_outcome
from tuning.problem import Report
from tuning.request import Sweep

SEARCH = {"num_trials": 10, "rungs": [2, 4, 8], "num_startup": 5}
TWO_TASKS = {
    "denoise": {"operator": "denoising", "noise_std": STD},
    "sr4": {"operator": "super_resolution", "factor": 4, "noise_std": 0.1},
}


def columns(**values: list[float]) -> pd.DataFrame:
    return pd.DataFrame(values, index=["a", "b", "c"])


def test_an_objective_is_a_weighted_sum_per_image() -> None:
    rows = {"task": columns(psnr=[20.0, 22.0, 27.0], seconds=[1.0, 2.0, 3.0])}
    objective = Objective({"psnr": 1.0, "seconds_per_image": -0.5}, "max")
    assert objective.name == "psnr - 0.5 seconds_per_image"
    assert objective.per_image(rows).tolist() == [19.5, 21.0, 25.5]


def test_several_tasks_are_standardised_by_the_reference_on_the_same_images() -> None:
    reference = {"a": columns(psnr=[20.0, 22.0, 24.0]), "b": columns(psnr=[30.0, 34.0, 38.0])}  # std 2 and 4
    rows = {"a": columns(psnr=[21.0, 22.0, 24.0]).iloc[:2], "b": columns(psnr=[30.0, 36.0, 0.0]).iloc[:2]}
    objective = Objective({"psnr": 1.0}, "max")
    assert objective.per_image(rows, reference).tolist() == [(1 / 2 + 0) / 2, (0 + 2 / 4) / 2]
    assert objective.per_image(reference, reference).tolist() == [0.0, 0.0, 0.0]


def test_all_images_of_all_trials_are_the_same_and_in_a_seeded_order(tmp_path: Path) -> None:
    ids = sweep(tmp_path).problem().image_ids
    assert ids == sweep(tmp_path).problem().image_ids
    assert ids != tuple(sorted(ids))
    assert set(ids) == {f"{i}.png" for i in range(8)}
    assert sweep(tmp_path, seed=1).problem().image_ids != ids


def test_bad_trials_stop_after_fewer_images_and_the_best_is_no_worse(tmp_path: Path) -> None:
    done = {}
    for scheduler in ("none", "asha", "median"):
        search = {**SEARCH, "scheduler": scheduler, "algorithm": "random"}
        done[scheduler] = drive(sweep(tmp_path / scheduler, search=search))
    assert done["none"].images == 10 * 8
    assert {state_of(trial) for trial in done["none"].ledger.trials()} == {"complete"}
    for scheduler in ("asha", "median"):
        driven = done[scheduler]
        assert driven.images < done["none"].images
        trials = driven.ledger.trials()
        stopped = [trial for trial in trials if state_of(trial) == "stopped"]
        assert {trial.user_attrs["images"] for trial in stopped} <= {2, 4}
        # both drew the same points: the same is best, because a good trial is not stopped
        assert [t.params for t in trials] == [t.params for t in done["none"].ledger.trials()]
        assert best_trials(driven.sweep, driven.ledger)[0].value == pytest.approx(
            best_trials(done["none"].sweep, done["none"].ledger)[0].value
        )


def test_the_reference_is_trial_0_and_never_stopped(tmp_path: Path) -> None:
    ledger = drive(sweep(tmp_path), rungs=0).ledger
    assert ledger.trials()[0].params == {"signal_std": 0.3}  # the default
    better, worse = ledger.ask(), ledger.ask()
    assert better is not None
    assert worse is not None
    assert not ledger.report(better[0], Report(2, (30.0,)))
    assert not ledger.report(0, Report(2, (10.0,)))
    assert ledger.report(worse[0], Report(2, (20.0,)))


def test_a_trial_that_diverges_is_worst_has_a_reason_and_does_not_stop_the_sweep(tmp_path: Path) -> None:
    trial = sweep(
        tmp_path,
        solver={"solver": "dmps", "num_steps": 4},
        space={"guidance_scale": {"choice": [0.5, 1e30]}},
        search={"num_trials": 6, "rungs": [2, 4], "num_startup": 3, "algorithm": "random"},
    )
    driven = drive(trial)
    table = write_outcome(driven.run, trial, driven.ledger, driven.scores)
    assert len(table) == 6
    bad = table[table["guidance_scale"] == 1e30]
    assert len(bad) > 0
    assert set(bad["state"]) == {"diverged"}
    assert bad["objective"].isna().all()
    assert bad["error"].str.startswith("denoise, image ").all()
    assert bad["error"].str.contains("NaN or Inf").all()
    assert table.loc[table["state"] == "complete", "objective"].notna().all()
    for each in driven.ledger.trials():
        assert bool(each.constraints) == (each.params["guidance_scale"] == 1e30)  # infeasible: behind all others
    assert best_trials(trial, driven.ledger)[0].params["guidance_scale"] == 0.5


def test_two_objectives_give_the_front_and_no_early_stop(tmp_path: Path) -> None:
    trial = sweep(
        tmp_path,
        solver={"solver": "ddnm"},
        space={"num_steps": {"log_int": [1, 30]}},
        objective=[{"metric": "psnr"}, {"metric": "denoiser_calls"}],
        search={"num_trials": 8, "rungs": [2, 4], "num_startup": 4},
    )
    driven = drive(trial)
    assert driven.images == 8 * 4
    front = best_trials(trial, driven.ledger)
    values = np.array([each.values for each in front])
    assert (np.diff(values[:, 0]) >= 0).all()
    assert (np.diff(values[:, 1]) >= 0).all()  # more quality costs more calls
    table = write_outcome(driven.run, trial, driven.ledger, driven.scores)
    assert (table["objective_2"] == table["num_steps"]).all()
    best = load_config(driven.run.path("best.yaml"))
    assert set(best.solvers) >= {f"tuned_{front[0].number}", f"tuned_{front[-1].number}", "published"}


def test_several_tasks_wait_for_the_reference_and_are_in_its_units(tmp_path: Path) -> None:
    trial = sweep(tmp_path, tasks=TWO_TASKS, search={"num_trials": 5, "rungs": [4, 8], "scheduler": "none"})
    ledger = drive(trial, rungs=0).ledger  # the reference has been handed out
    assert ledger.waits
    driven = drive(trial)
    assert not driven.ledger.waits
    table = trial_table(trial, driven.ledger, driven.scores)
    assert table.loc[0, ["objective", "objective_ci95"]].tolist() == [0.0, 0.0]
    row = table[~table["reference"] & (table["state"] == "complete")].iloc[0]
    fields = {"signal_std": row["signal_std"]}
    own, known = (driven.scores.rows_by_task(each, 8) for each in (fields, trial.reference))
    gains = [((own[t]["psnr"] - known[t]["psnr"]) / known[t]["psnr"].std()).mean() for t in TWO_TASKS]
    assert row["objective"] == pytest.approx(np.mean(gains), rel=1e-9)
    assert row["sr4.psnr"] == pytest.approx(own["sr4"]["psnr"].mean())


def files(driven_run: object) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path(driven_run.path("images")).rglob("*.parquet")}  # type: ignore[attr-defined]


@pytest.mark.parametrize("rungs", [0, 2, 7])
def test_a_driver_that_died_anywhere_is_followed_by_one_that_goes_on(tmp_path: Path, rungs: int) -> None:
    before = drive(sweep(tmp_path, search=SEARCH), rungs=rungs)
    kept = [trial for trial in before.ledger.trials() if trial.state.is_finished()]
    begun = [trial for trial in before.ledger.trials() if trial.state == TrialState.RUNNING]
    assert len(begun) == 1
    solved = files(before.run)
    after = drive(sweep(tmp_path, search=SEARCH))
    trials = after.ledger.trials()
    assert len(trials) == 10
    assert all(trial.state.is_finished() for trial in trials)
    for trial in kept:
        again = trials[trial.number]
        assert (again.params, again.value, again.datetime_complete) == (
            trial.params,
            trial.value,
            trial.datetime_complete,
        )
    assert trials[begun[0].number].params == begun[0].params
    now = files(after.run)
    assert now == now | solved  # no image was solved twice
    assert len(after.said) == 10 - len(kept)


def test_trials_are_added_to_a_finished_sweep_and_another_sweep_is_refused(tmp_path: Path) -> None:
    ended = [trial.datetime_complete for trial in drive(sweep(tmp_path, search=SEARCH)).ledger.trials()]
    more = drive(sweep(tmp_path, search={**SEARCH, "num_trials": 12}))
    trials = more.ledger.trials()
    assert [trial.number for trial in trials] == list(range(12))
    assert len(more.said) == 2
    assert [trial.datetime_complete for trial in trials[:10]] == ended
    points = [trial.params["signal_std"] for trial in trials]
    assert len(set(points)) == 12  # a sampler that is begun again does not draw its first points again
    with pytest.raises(RequestError, match=r"^name: .* holds another sweep \(space differ\); allowed: another name$"):
        drive(sweep(tmp_path, search=SEARCH, space={"signal_std": {"log": [0.1, 1]}}))


def test_the_outcome(tmp_path: Path) -> None:
    trial: Sweep = sweep(tmp_path, search=SEARCH)
    driven = drive(trial)
    table = write_outcome(driven.run, trial, driven.ledger, driven.scores)
    parquet, csv = (
        pd.read_parquet(driven.run.path("trials.parquet")),
        pd.read_csv(driven.run.path("trials.csv")),
    )
    assert list(parquet.columns) == list(csv.columns) == list(table.columns)
    assert (table["solved"] == table["images"]).all()
    for name in ("signal_std", "objective", "objective_ci95", "images", "seconds", "state", "error", "denoise.psnr"):
        assert name in table
    row = table.iloc[0]
    values = driven.scores.rows_by_task({"signal_std": row["signal_std"]}, 8)["denoise"]["psnr"]
    assert row["objective"] == pytest.approx(values.mean())
    assert row["objective_ci95"] == pytest.approx(2.364624 * values.std() / np.sqrt(8), rel=1e-5)  # t, 7 degrees
    best = Experiment.of(load_config(driven.run.path("best.yaml")))
    assert best.config.data == {"source": "portraits:test", "limit": 4}
    assert best.config.baseline == "published"
    chosen = table[table["state"] == "complete"].sort_values("objective").iloc[-1]
    assert best.solvers["tuned"].signal_std == chosen["signal_std"]  # type: ignore[attr-defined]
    assert best.solvers["published"].signal_std == 0.3  # type: ignore[attr-defined]
    assert (
        yaml.safe_load(Path(driven.run.path("best.yaml")).read_text())["solvers"]["tuned"]["solver"] == "pseudo_inverse"
    )
