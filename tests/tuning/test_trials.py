"""Trials in one process, without Ray: objectives, early stopping, divergence, going on where a driver died."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from optuna.trial import TrialState

from ipsolve.config import load_config
from ipsolve.errors import RequestError
from ipsolve.experiment import Experiment
from ray_jobs import cli
from ray_jobs.pipeline import worker
from tests.tuning.small_sweeps import STD, drive, mapping, sweep
from tuning.ledger import grid_of, state_of
from tuning.objective import Objective
from tuning.outcome import best_trials, trial_table, write_outcome
from tuning.problem import Report
from tuning.request import Sweep
from tuning.sweep import main
from tuning.trial import Bench, Place

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
        solver={"solver": "latent_dps", "num_steps": 3},
        space={"guidance_scale": {"choice": [0.5, 1e300]}},
        search={"num_trials": 6, "rungs": [2, 4], "num_startup": 3, "algorithm": "random"},
    )
    driven = drive(trial)
    table = write_outcome(driven.run, trial, driven.ledger, driven.scores)
    assert len(table) == 6
    bad = table[table["guidance_scale"] == 1e300]
    assert len(bad) > 0
    assert set(bad["state"]) == {"diverged"}
    assert bad["objective"].isna().all()
    assert bad["error"].str.startswith("denoise, image ").all()
    assert bad["error"].str.contains("NaN or Inf").all()
    assert table.loc[table["state"] == "complete", "objective"].notna().all()
    for each in driven.ledger.trials():
        assert bool(each.constraints) == (each.params["guidance_scale"] == 1e300)  # infeasible: behind all others
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


def test_a_grid_is_searched_once_and_whole(tmp_path: Path) -> None:
    search = {"algorithm": "grid", "grid_size": 4, "num_trials": 99, "rungs": [4], "scheduler": "none"}
    driven = drive(sweep(tmp_path, search=search))
    assert drive(sweep(tmp_path, search=search)).said == []
    found = [trial.params["signal_std"] for trial in driven.ledger.trials()]
    assert found == pytest.approx(
        [0.3, 0.02, 0.02 * 100 ** (1 / 3), 0.02 * 100 ** (2 / 3), 2.0]
    )  # the reference, then the grid


def test_too_large_a_grid_is_one_line_before_any_point_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {
        "tv_weight": {"log": [1e-3, 1]},
        "num_steps": {"int": [2, 50]},
    }
    search = {"algorithm": "grid", "grid_size": 4, "rungs": [4]}
    config = tmp_path / "x.yaml"
    content = mapping(tmp_path, solver={"solver": "tv"}, space=space, search=search)
    config.write_text(yaml.safe_dump(content))
    assert main([str(config), "--dry-run", "search.grid_size=40"]) == cli.COMPLETE  # 1,600 points
    capsys.readouterr()
    assert main([str(config), "--dry-run", "search.grid_size=1000000"]) == cli.WRONG_REQUEST
    assert capsys.readouterr().err == (
        "error: search.algorithm: the grid has more than 10000 points; "
        "allowed: a smaller search.grid_size, fewer fields in space, or random\n"
    )


def test_a_grid_is_counted_without_fields_that_are_inactive(tmp_path: Path) -> None:
    entry = {"float": [0, 1], "when": {"noise_rule": "scalar"}}
    search = {"algorithm": "grid", "grid_size": 9_999, "num_trials": 20_000, "rungs": [4]}
    space = {"noise_rule": {"choice": ["spectral", "scalar"]}, "eta": entry}
    trial = sweep(tmp_path, solver={"solver": "ddnm"}, space=space, search=search)
    assert len(grid_of(trial) or []) == 9_999 + 1
    with pytest.raises(RequestError, match=r"^search\.algorithm: the grid has more than 10000 points"):
        grid_of(sweep(tmp_path, solver={"solver": "ddnm"}, space=space, search={**search, "grid_size": 10_000}))


def test_nsga2_gives_the_front_of_two_objectives(tmp_path: Path) -> None:
    trial = sweep(
        tmp_path,
        solver={"solver": "ddnm"},
        space={"num_steps": {"log_int": [1, 30]}},
        objective=[{"metric": "psnr"}, {"metric": "denoiser_calls"}],
        search={"algorithm": "nsga2", "num_trials": 10, "rungs": [2]},  # populations of four: it breeds
    )
    driven = drive(trial)
    trials = driven.ledger.trials()
    assert {state_of(each) for each in trials} == {"complete"}
    front = best_trials(trial, driven.ledger)
    for one in front:
        beaten = [t for t in trials if t.values[0] > one.values[0] and t.values[1] < one.values[1]]
        assert beaten == []
    assert trials[9].system_attrs["NSGAIISampler:generation"] == 2


def test_a_trial_that_lost_an_image_to_nan_has_no_mean_of_the_others(tmp_path: Path) -> None:
    driven = drive(sweep(tmp_path, search=SEARCH), rungs=1)
    fields = {"signal_std": 0.3}
    (cell,) = driven.scores.problem.trial(fields).cells
    (path,) = driven.run.files("images", cell.hash)
    rows = pq.read_table(path)
    spoiled = rows.set_column(rows.column_names.index("psnr"), "psnr", pa.array([None, 20.0]))
    driven.run.write_table(path, spoiled)
    report = Report.of(driven.scores, fields, 2)
    assert report.values == ()
    assert report.error == f"psnr of image {rows['image_id'][0]} is nan"


def test_what_trials_share_is_counted_once_and_what_a_diverged_trial_solved_is_counted(tmp_path: Path) -> None:
    trial = sweep(
        tmp_path,
        solver={"solver": "latent_dps", "num_steps": 3},
        space={"guidance_scale": {"choice": [0.5, 1e300]}},
        search={"num_trials": 6, "rungs": [2, 4], "algorithm": "random"},
    )
    driven = drive(trial)
    table = trial_table(trial, driven.ledger, driven.scores)
    rows = pd.read_parquet(driven.run.path("images"))
    assert table["solved"].sum() == len(rows) == 4  # six trials at two points, one of which fails at once
    assert table["seconds"].sum() == pytest.approx(rows["seconds"].sum())
    good, bad = table[table["guidance_scale"] == 0.5], table[table["guidance_scale"] == 1e300]
    assert good["solved"].tolist() == [4] + [0] * (len(good) - 1)
    assert (good["images"] == 4).all()
    assert (bad[["images", "solved", "seconds"]] == 0).all(axis=None)


def test_a_lost_trial_has_the_images_it_solved(tmp_path: Path) -> None:
    driven = drive(sweep(tmp_path, search=SEARCH), rungs=2)  # the reference has done four images
    for _ in range(3):
        driven.ledger.failed(0, "killed", died=True)
    driven.ledger.give_up(0)
    row = trial_table(driven.sweep, driven.ledger, driven.scores).iloc[0]
    assert row[["state", "images", "solved"]].tolist() == ["diverged", 4, 4]
    assert row["seconds"] > 0
    assert row["error"] == "its process died 3 times: killed"


def test_a_trial_works_on_the_device_it_is_given(tmp_path: Path) -> None:
    problem = sweep(tmp_path).problem()
    bench = Bench(problem, Place(str(tmp_path), "meta", 1))
    assert bench.evaluator.device == torch.device("meta")
    assert bench.note == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(tmp_path: Path) -> None:
    driven = drive(sweep(tmp_path), rungs=0)
    bench = Bench(driven.scores.problem, Place(driven.run.root, "cuda", 1))
    assert bench.evaluator.device == torch.device("cpu")
    driven.ledger.finish(0, bench.measure({"signal_std": 0.3}, 8))
    words = "it was given a GPU that torch cannot use, and worked on the CPU"
    assert driven.ledger.trials()[0].user_attrs["note"] == words
    assert driven.said[0].endswith(f"over 8 images; {words}")


def test_a_process_that_does_not_see_the_folder_of_the_sweep_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PAUSES", (0.0,))
    problem = sweep(tmp_path).problem()
    (tmp_path / "config.yaml").write_bytes(b"another")
    with pytest.raises(
        RuntimeError, match=r"^output: node \S+ does not see what the driver writes to .*all nodes share$"
    ):
        Bench(problem, Place(str(tmp_path), "cpu", 1, b"this"))
    (tmp_path / "config.yaml").write_bytes(b"this")
    Bench(problem, Place(str(tmp_path), "cpu", 1, b"this"))


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
