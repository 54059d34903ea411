"""Runs beside each other: means and paired intervals on the images that they share, and what else differs is said."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ipsolve.report import open_run
from ipsolve.report.comparison import compare_runs, comparison_table, render_comparison
from ipsolve.report.tables import overview
from ipsolve.runs.statistics import paired_difference
from ray_jobs import report as command
from tests.synthetic_run import write_run

SOLVERS = ("tv", "ddnm", "resample")


def better(row: dict[str, object]) -> dict[str, object] | None:
    if row["image_id"] == "portraits/00000":
        return None  # the second run lacks an image
    return {**row, "psnr": float(str(row["psnr"])) + 0.5 + 0.01 * int(str(row["image_id"])[-1])}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    first = write_run(folder / "first", size=32, solvers=SOLVERS)
    prior = {"prior": "mixture", "image_shape": [3, 32, 32]}
    second = write_run(
        folder / "second", size=32, solvers=(*SOLVERS, "pseudo_inverse"), tasks=("sr4",), edit=better, prior=prior
    )
    return first, second


def test_differences_are_paired_over_the_shared_images(runs: tuple[Path, Path]) -> None:
    views = [open_run(str(run)) for run in runs]
    view = compare_runs(views)
    assert view.images == 5
    assert view.tasks == [f"sr4 / {name}" for name in SOLVERS]  # what only one of them has is left out
    shared = [own.rows[own.rows["image_id"] != "portraits/00000"] for own in views]
    for name in SOLVERS:
        a, b = (
            rows[(rows["task"] == "sr4") & (rows["solver"] == name)].set_index("image_id")["psnr"] for rows in shared
        )
        found = view.comparisons[(view.comparisons["task"] == f"sr4 / {name}") & (view.comparisons["metric"] == "psnr")]
        expected = paired_difference(b.sort_index(), a.sort_index())
        assert found[["difference", "ci95_low", "ci95_high"]].to_numpy()[0] == pytest.approx(expected[:3])
        line = view.summary[view.summary["task"] == f"sr4 / {name}"].set_index("solver")
        assert line.loc["second", "psnr"] - line.loc["first", "psnr"] == pytest.approx(expected.difference)


def test_what_else_differs_is_said(runs: tuple[Path, Path]) -> None:
    page = render_comparison(compare_runs([open_run(str(run)) for run in runs]))
    assert "prior differs: " in page
    assert "second minus first" in comparison_table(compare_runs([open_run(str(run)) for run in runs]))
    assert page.count("<svg") == 2


def test_the_command_writes_a_page_and_touches_no_run(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in runs:
        open_run(str(run))
    before = {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")}
    assert command.main([*map(str, runs), "--into", str(tmp_path / "page.html")]) == 0
    assert {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")} == before
    assert "sr4 / ddnm: PSNR of second minus first +0.5" in capsys.readouterr().out
    assert "Paired differences to first" in (tmp_path / "page.html").read_text()


def test_runs_that_share_nothing_are_refused(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_run(tmp_path / "other", images=2, size=32, solvers=("tv",), tasks=("inpaint_box",))
    assert command.main([str(runs[1]), str(other), "--into", str(tmp_path / "page.html")]) == 2
    assert "no task and solver of the same name" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_the_overview_is_darkest_at_the_best_and_one_failure_bleaches_no_other(tmp_path: Path) -> None:
    def diverge(row: dict[str, object]) -> dict[str, object]:
        return {**row, "psnr": -40.0 - int(str(row["image_id"])[-1])} if row["solver"] == "tv" else row

    view = open_run(str(write_run(tmp_path / "run", images=4, size=32, edit=diverge)))
    lines = {name: {entry.task: entry for entry in entries} for name, entries in overview(view)}
    own = view.summary.set_index(["task", "solver"])["psnr"]
    for task in view.tasks:
        shades = pd.Series({name: entries[task].shade for name, entries in lines.items()}, dtype=float)
        assert shades.idxmax() == own[task].idxmax()
        assert shades.max() == 1
        assert shades["tv"] == 0
        assert shades.drop("tv").max() - shades.drop("tv").min() > 0.3
        assert list(shades.sort_values().index[-2:]) == list(own[task].sort_values().index[-2:])
