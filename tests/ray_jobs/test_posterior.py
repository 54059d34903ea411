"""The posterior job on a real local Ray, and what it leaves behind."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from ipsolve.posterior.config import load_posterior_config
from ipsolve.posterior.experiment import EXACT, PosteriorExperiment
from ipsolve.runs.results import RunFolder
from ray_jobs import cli, report, track
from ray_jobs.posterior import measure
from tests.ray_jobs.small_posteriors import Diverges, do, experiment, rows
from tests.ray_jobs.test_posterior_files import DETERMINED

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("local_ray")]


def test_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = experiment(tmp_path, baseline="ddnm", compute={"num_actors": 2})
    assert measure(trial) == cli.COMPLETE
    printed = capsys.readouterr().out
    for line in ("23/23 problems", "SW1", "exact (floor)", "complete: 23 problems", "MLflow   sqlite:///"):
        assert line in printed
    run = RunFolder(trial.config.run_location)
    for name in ("config.yaml", "provenance.json", "summary.csv", "comparisons.csv", "status.json", "report.md"):
        assert run.exists(name)
    assert run.read_json("status.json")["exit_code"] == cli.COMPLETE
    assert run.read_json("provenance.json")["problems"]["d4_m1"]["dimension"] == 4
    assert run.files("attempts", suffix="") == []
    resolved = PosteriorExperiment.of(load_posterior_config(run.path("config.yaml")))
    assert resolved.all_cells == trial.all_cells

    alone = experiment(tmp_path / "alone")  # one process, without Ray
    do(alone)
    pd.testing.assert_frame_equal(rows(trial)[DETERMINED], rows(alone)[DETERMINED], rtol=1e-7, atol=1e-9)

    written = {path: os.stat(path).st_mtime_ns for path in run.files("results")}
    assert measure(trial) == cli.COMPLETE
    assert {path: os.stat(path).st_mtime_ns for path in run.files("results")} == written

    page = Path(run.path("report.html")).read_text()
    assert "exact (floor)" in page
    assert page.count("<svg") == 4  # particles, forest, samples, calibration
    store = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    found = {
        each.info.run_name: each for each in store.search_runs([store.get_experiment_by_name("ipsolve").experiment_id])
    }
    assert found.keys() == {"small", *(f"{cell.task} / {cell.solver}" for cell in trial.all_cells)}
    child, parent = found["d4_m2 / smc_4"], found["small"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.data.params["num_particles"], child.data.params["problems.dimension"]) == ("4", "4")
    mean = rows(trial).loc[("d4_m2", "smc_4"), "sliced_wasserstein_1"].mean()
    assert child.data.metrics["sliced_wasserstein_1"] == pytest.approx(mean)
    assert {item.dataset.name for item in parent.inputs.dataset_inputs} == {"d4_m1", "d4_m2"}
    assert {item.path for item in store.list_artifacts(parent.info.run_id)} > {"report.html", "summary.csv"}

    assert track.main([run.root]) == cli.COMPLETE  # sending again adds nothing
    assert len(store.search_runs([parent.info.experiment_id])) == len(found)


def test_the_report_command_rebuilds_it_and_fills_a_document(tmp_path: Path) -> None:
    trial = experiment(tmp_path, solvers={"ddnm": {"solver": "ddnm", "num_steps": 4}})
    assert measure(trial) == cli.COMPLETE
    run = RunFolder(trial.config.run_location)
    Path(run.path("report.html")).unlink()
    document = tmp_path / "posterior.md"
    document.write_text("before\n<!-- tables of small -->\nold\n<!-- end of small -->\nafter\n")
    assert report.main([run.root, "--into", str(document)]) == cli.COMPLETE
    assert run.exists("report.html")
    text = document.read_text()
    assert text.startswith("before\n<!-- tables of small -->\n")
    assert text.endswith("<!-- end of small -->\nafter\n")
    assert "| exact (floor) |" in text
    assert "old" not in text
    assert report.main([run.root, "--into", str(document)]) == cli.COMPLETE
    assert document.read_text() == text
    document.write_text("no marks")
    assert report.main([run.root, "--into", str(document)]) == cli.WRONG_REQUEST


def test_a_solver_that_diverges_is_seen_in_the_exit_code_and_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = experiment(tmp_path, {"diverges": Diverges()}, solvers={"ddnm": {"solver": "ddnm", "num_steps": 4}})
    assert measure(trial) == cli.SOME_IMAGES_FAILED
    printed = capsys.readouterr().out
    assert "5 of 15 problems failed" in printed
    (line,) = {line for line in printed.splitlines() if line.startswith("diverges") and "2" in line.split()[-2:]}
    assert line.split()[-2:] == ["0", "2"]  # none of the set has a result
    assert set(rows(trial).index.get_level_values("solver")) == {EXACT, "ddnm"}
