"""The page of a sweep and its figures: what they say of trials, and that they are there whatever became of them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from optuna.distributions import FloatDistribution

from tests.tuning.small_sweeps import STD, Driven, drive, sweep
from tuning.figures import MOST_SLICES, by_importance, comparable, draw_figures, targets
from tuning.objective import parse_objectives
from tuning.outcome import best_trials, write_outcome
from tuning.report import console, write_report


def page_of(driven: Driven) -> tuple[str, list[str]]:
    """Return the page of a sweep that was driven here, and its notes."""
    config = yaml.safe_dump(dataclasses.asdict(driven.sweep.config))
    driven.run.write(driven.run.path("config.yaml"), config.encode())
    driven.run.write_json("provenance.json", {"git_commit": "0"})
    table = write_outcome(driven.run, driven.sweep, driven.ledger, driven.scores)
    notes = write_report(driven.run, driven.sweep, driven.ledger, driven.scores, table)
    return Path(driven.run.path("report.html")).read_text(), notes


def rows_of(page: str) -> dict[str, list[str]]:
    """Return the rows of the table of trials by the number of the trial, in words."""
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in body.split("<tr>")[1:]]
    return {row[0]: [re.sub("<[^>]*>", " ", entry).strip() for entry in row] for row in rows}


@pytest.mark.parametrize("modes", [("max", "min"), ("min", "max")])
def test_the_importance_of_one_of_two_objectives_is_that_of_reaching_its_good_end(modes: tuple[str, str]) -> None:
    """The good end of the first objective takes one value of a and any b; its bad end one value of b and any a."""
    objectives = parse_objectives(
        [{"metric": "psnr", "mode": modes[0]}, {"metric": "seconds_per_image", "mode": modes[1]}]
    )
    study = optuna.create_study(directions=["maximize" if mode == "max" else "minimize" for mode in modes])
    rng = np.random.default_rng(0)
    ranges: dict[str, Any] = dict.fromkeys("ab", FloatDistribution(0, 1))
    for i in range(200):
        a, b = rng.uniform(size=2)
        good = 0.0
        if i % 10 == 0:
            a, good = 0.5, 1.0
        elif i % 10 == 1:
            b, good = 0.5, -1.0
        params, values = {"a": float(a), "b": float(b)}, [good * objective.sign for objective in objectives]
        study.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, values=values))
    for i in range(2):
        _, cost = targets(objectives, i)
        assert by_importance(study, cost)[0] == "a"


def test_a_trial_keeps_its_number_in_the_figures_where_others_diverged(tmp_path: Path) -> None:
    trial = sweep(
        tmp_path,
        solver={"solver": "dmps", "num_steps": 4},
        space={"guidance_scale": {"choice": [0.5, 1e30]}},
        search={"num_trials": 6, "rungs": [2], "algorithm": "random"},
    )
    driven = drive(trial)
    known, shown = driven.ledger.trials(), comparable(trial, driven.ledger, driven.scores).trials
    assert any("error" in each.user_attrs for each in known[:-1])
    assert [each.number for each in shown] == list(range(6))
    for own, drawn in zip(known, shown, strict=True):
        assert ("error" in own.user_attrs) == (not drawn.values)
        assert not drawn.values or (drawn.params, drawn.values) == (own.params, own.values)


def test_every_parameter_has_its_slice(tmp_path: Path) -> None:
    space = {
        "num_steps": {"int": [2, 4]},
        "phase_boundaries": {"ordered": [0.1, 0.9]},
        "projection_interval": {"int": [1, 3]},
        "gamma": {"log": [1, 9]},
        "guidance_scale": {"float": [0, 1]},
        "estimate_std": {"log": [0.1, 1]},
    }
    search = {"num_trials": 4, "rungs": [2], "algorithm": "random"}
    driven = drive(sweep(tmp_path, solver={"solver": "nullspace_resample"}, space=space, search=search))
    figures, notes = draw_figures(driven.sweep, driven.ledger, driven.scores)
    assert notes == []
    pages = "".join(svg for name, svg in figures.items() if name.startswith("slices"))
    names = {name for trial in driven.ledger.trials() for name in trial.params}
    assert len(names) > MOST_SLICES
    for name in names:
        assert f">{name}<" in pages


def test_objectives_per_task_are_on_the_page(tmp_path: Path) -> None:
    tasks = {
        "denoise": {"operator": "denoising", "noise_std": STD},
        "sr4": {"operator": "super_resolution", "factor": 4, "noise_std": 0.1},
    }
    driven = drive(sweep(tmp_path, tasks=tasks, search={"num_trials": 3, "rungs": [4]}))
    page, _ = page_of(driven)
    assert ">denoise.psnr</th>" in page
    assert ">sr4.psnr</th>" in page
    own = driven.scores.rows_by_task(driven.sweep.reference, 4)
    row = rows_of(page)["0"]
    assert row[3:5] == [f"{own[task]['psnr'].mean():.2f}" for task in tasks]


def test_one_task_and_one_column_are_not_shown_twice(tmp_path: Path) -> None:
    page, _ = page_of(drive(sweep(tmp_path, search={"num_trials": 2, "rungs": [2]})))
    assert "denoise.psnr" not in page


def test_a_chosen_null_is_told_from_a_field_that_was_not_searched(tmp_path: Path) -> None:
    trial = sweep(
        tmp_path,
        solver={"solver": "nullspace_resample", "num_steps": 2},
        space={
            "discrepancy": {"choice": [1.0, None]},
            "stop_threshold": {"log": [1e-6, 1e-2], "when": {"discrepancy": None}},
        },
        search={"num_trials": 3, "rungs": [1], "algorithm": "grid", "grid_size": 2},
    )
    driven = drive(trial)
    page, _ = page_of(driven)
    rows = rows_of(page)
    assert [rows[str(i)][3:5] for i in range(3)] == [["1", "–"], ["1", "–"], ["null", "1e-06"]]
    table = write_outcome(driven.run, trial, driven.ledger, driven.scores)
    lines = console(trial, table, [driven.ledger.trials()[2]])
    assert "discrepancy=null stop_threshold=1e-06" in lines
    assert "discrepancy=1 stop_threshold=–" in lines


def test_a_sweep_in_which_every_trial_diverged_has_a_page_with_the_reasons(tmp_path: Path) -> None:
    trial = sweep(
        tmp_path,
        solver={"solver": "dmps", "num_steps": 4},
        space={"guidance_scale": {"choice": [1e30, 1e29]}},
        search={"num_trials": 3, "rungs": [2], "algorithm": "random"},
    )
    driven = drive(trial)
    assert best_trials(trial, driven.ledger) == []
    page, notes = page_of(driven)
    assert notes == ["no figures: no trial has an objective"]
    assert "No trial did all images" in page
    assert "ray_jobs.evaluate" not in page
    rows = rows_of(page)
    assert sorted(rows) == ["0", "1", "2"]
    for row in rows.values():
        assert row[1].startswith("diverged")
        assert "NaN or Inf" in row[-1]
