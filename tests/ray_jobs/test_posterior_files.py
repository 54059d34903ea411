"""Posterior runs in one process: samples that belong to their run alone, the floor, resuming and extending."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from ipsolve.posterior.experiment import EXACT, Entry, PosteriorExperiment, Sampling
from ipsolve.posterior.figures import sweeps
from ipsolve.posterior.report import console_table, markdown, open_run
from ipsolve.posterior.results import LEVELS, SAMPLE_METRICS
from ipsolve.posterior.sampling import run_solver
from ipsolve.runs.results import RunFolder
from ipsolve.runs.statistics import mean_interval
from tests.ray_jobs.small_posteriors import Counts, Diverges, Triples, do, experiment, mapping, rows

DETERMINED = [*SAMPLE_METRICS, "denoiser_calls", "num_samples", "num_runs", "noise_std"]


def write_config(trial: PosteriorExperiment) -> RunFolder:
    run = RunFolder(trial.config.run_location)
    run.write(run.path("config.yaml"), yaml.safe_dump(trial.resolved(), sort_keys=False).encode())
    return run


def test_every_problem_is_done_once_by_every_solver_that_is_for_it(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    assert do(trial).images_missing == 2 * 4 + 3 * 5
    found = rows(trial)
    assert set(found.index) == {
        (task, solver, 0, f"{task}/{index:03}")
        for task, count in (("d4_m1", 2), ("d4_m2", 3))
        for solver in (EXACT, "ddnm", "smc_4", "smc_8", *(["cloud"] if task == "d4_m2" else []))
        for index in range(count)
    }
    noise = found["noise_std"].unstack("solver")  # all solvers see the same problem, and each problem is another
    assert (noise.nunique(axis=1) == 1).all()
    assert noise[EXACT].nunique() == 5
    assert do(trial).images_missing == 0


def test_a_sample_does_not_depend_on_how_many_are_solved_together(tmp_path: Path) -> None:
    found = []
    for batch_size in (1000, 3):
        trial = experiment(tmp_path / str(batch_size), compute={"batch_size": batch_size})
        do(trial)
        found.append(rows(trial))
    together, apart = found
    pd.testing.assert_frame_equal(together[DETERMINED], apart[DETERMINED], rtol=1e-7, atol=1e-9)
    assert [list(a) for a in together["shown"]] == [pytest.approx(list(b), abs=1e-4) for b in apart["shown"]]


def test_the_floor_is_another_exact_sample_set(tmp_path: Path) -> None:
    trial = experiment(tmp_path, samples=2000, slices=100, solvers={"ddnm": {"solver": "ddnm", "num_steps": 4}})
    do(trial)
    floor, ddnm = (rows(trial).xs(name, level="solver") for name in (EXACT, "ddnm"))
    assert (floor["sliced_wasserstein_1"] > 0).all()  # not the reference itself
    assert (floor["sliced_wasserstein_1"] < 0.25 * ddnm["sliced_wasserstein_1"]).all()
    assert floor["ksd"].abs().max() < 0.05
    for name, level in LEVELS.items():
        assert floor[name].to_numpy() == pytest.approx(level, abs=0.04)
    few = experiment(tmp_path / "few", samples=50, slices=100, solvers={"ddnm": {"solver": "ddnm", "num_steps": 4}})
    do(few)
    coarse = rows(few).xs(EXACT, level="solver")["sliced_wasserstein_1"].mean()
    # n^-1/2 would be 6.3 times; where modes are far apart the weights of the modes decide
    assert 2 < coarse / floor["sliced_wasserstein_1"].mean() < 20


PROBLEMS = mapping(Path())["problems"]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"problems": {**PROBLEMS, "d4_m1": PROBLEMS["d4_m1"] | {"num_problems": 4}}}, 2 * 4),
        ({"solvers": {**mapping(Path())["solvers"], "more": {"solver": "ddnm", "num_steps": 5}}}, 5),
        ({"seed": [0, 1]}, 2 * 4 + 3 * 5),
        ({"compute": {"batch_size": 7}}, 0),
        ({"samples": 30}, 2 * 4 + 3 * 5),
        ({"problem_seed": 1}, 2 * 4 + 3 * 5),
    ],
    ids=["problems", "a solver", "seeds", "batch size", "samples", "other problems"],
)
def test_extending_a_run_does_the_new_part_only(tmp_path: Path, changes: dict[str, Any], missing: int) -> None:
    do(experiment(tmp_path))
    extended = experiment(tmp_path, **changes)
    assert do(extended).images_missing == missing
    alone = experiment(tmp_path / "alone", **changes)
    do(alone)
    pd.testing.assert_frame_equal(rows(extended)[DETERMINED], rows(alone)[DETERMINED], rtol=1e-7, atol=1e-9)


def test_a_run_that_diverges_is_a_failure_with_its_count(tmp_path: Path) -> None:
    trial = experiment(tmp_path, {"diverges": Diverges()}, solvers={"ddnm": {"solver": "ddnm", "num_steps": 4}})
    do(trial)
    failures = RunFolder(trial.config.run_location).failures().to_pylist()
    assert {row["image_id"] for row in failures} == set(trial.image_ids)
    assert {(row["solver"], row["stage"]) for row in failures} == {("diverges", "solve")}
    assert all("of 20 samples have values that are NaN or Inf" in row["error"] for row in failures)
    assert do(trial).images_missing == 0  # it would fail again


def test_all_particles_are_kept_as_their_weights_say(tmp_path: Path) -> None:
    problem = experiment(tmp_path).problems["d4_m1"].problem(0, 0)
    even = run_solver(problem, Entry(Counts(), Sampling(keep="all")), 10, seed=0, batch_size=8)
    assert even.num_runs == 3
    assert even.x[:8, 0].sort().values.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    uneven = run_solver(problem, Entry(Counts(weights=(2.0, 0.0, 0.0, 2.0)), Sampling(keep="all")), 8, 0, 8)
    assert sorted(uneven.x[:, 0].tolist()) == [0, 0, 0, 0, 3, 3, 3, 3]
    plain = run_solver(problem, Entry(Triples(), Sampling(keep="all")), 7, seed=0, batch_size=6)
    assert (plain.num_runs, plain.x[:, 0].tolist()) == (3, [0, 1, 2, 0, 1, 2, 0])  # no weights: as they are returned
    one = run_solver(problem, Entry(Counts(), Sampling()), 400, seed=0, batch_size=1000)
    assert one.num_runs == 400
    shares = torch.bincount(one.x[:, 0].long()) / 400
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.08)


def test_a_run_whose_rows_have_no_encoder_calls_yet_is_gone_on_with(tmp_path: Path) -> None:
    trial = experiment(tmp_path)
    do(trial)
    for path in RunFolder(trial.config.run_location).files("results"):
        table = pq.ParquetFile(path).read()
        pq.write_table(table.drop_columns(["encoder_calls"]), path)
    extended = experiment(tmp_path, solvers={**mapping(Path())["solvers"], "more": {"solver": "ddnm", "num_steps": 5}})
    assert do(extended).images_missing == 5
    summary = open_run(write_config(extended)).summary.set_index("solver")
    assert summary.loc[["ddnm", "cloud"], "encoder_calls_per_run"].isna().all()
    assert (summary.loc[["more"], "encoder_calls_per_run"] == 0).all()
    assert (summary.loc[["ddnm"], "denoiser_calls_per_run"] == 4).all()


def test_the_tables_say_what_the_rows_say(tmp_path: Path) -> None:
    trial = experiment(tmp_path, baseline="ddnm")
    do(trial)
    view = open_run(write_config(trial))
    own = rows(trial).loc[("d4_m2", "smc_4"), "sliced_wasserstein_1"]
    line = view.summary.set_index(["task", "solver"]).loc["d4_m2", "smc_4"]
    expected = mean_interval(own)
    assert (line["n"], line["sliced_wasserstein_1"], line["sliced_wasserstein_1_ci95"]) == (
        3,
        pytest.approx(expected.value),
        pytest.approx(expected.half_width),
    )
    assert line["denoiser_calls_per_run"] == 4 * 4
    assert (line["decoder_calls_per_run"], line["encoder_calls_per_run"]) == (0, 0)
    base = rows(trial).loc[("d4_m2", "ddnm"), "sliced_wasserstein_1"]
    told = view.comparisons.set_index(["task", "solver", "metric"]).loc["d4_m2", "smc_4", "sliced_wasserstein_1"]
    assert told["difference"] == pytest.approx((own - base).mean())
    assert EXACT not in set(view.comparisons["solver"])
    assert sweeps(view) == {"smc": ["smc_4", "smc_8"]}  # cloud keeps all particles: another estimate
    for text in (markdown(view), console_table(view)):
        assert "cloud (all particles)" in text
        assert "exact (floor)" in text
    floor = [line for line in markdown(view).splitlines() if line.startswith("| exact (floor)")]
    assert len(floor) == 3  # the overview and two sets
    assert not any("**" in line for line in floor)  # not a rival
