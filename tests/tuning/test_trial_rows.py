"""Grids, fronts, and what a trial's rows, device and folder say of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from ipsolve.requests.errors import RequestError
from ray_jobs import cli
from ray_jobs.pipeline.stages import worker
from tests.tuning.small_sweeps import drive, mapping, sweep
from tuning.ledger import grid_of, state_of
from tuning.outcome import best_trials, trial_table
from tuning.problem import Report
from tuning.sweep import main
from tuning.trial import Bench, Place

SEARCH = {"num_trials": 10, "rungs": [2, 4, 8], "num_startup": 5}


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
        solver={"solver": "dmps", "num_steps": 4},
        space={"guidance_scale": {"choice": [0.5, 1e30]}},
        search={"num_trials": 6, "rungs": [2, 4], "algorithm": "random"},
    )
    driven = drive(trial)
    table = trial_table(trial, driven.ledger, driven.scores)
    rows = pd.read_parquet(driven.run.path("images"))
    assert table["solved"].sum() == len(rows) == 4  # six trials at two points, one of which fails at once
    assert table["seconds"].sum() == pytest.approx(rows["seconds"].sum())
    good, bad = table[table["guidance_scale"] == 0.5], table[table["guidance_scale"] == 1e30]
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
