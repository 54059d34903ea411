"""Images that are reproduced exactly, with an infinite PSNR, are results that no mean, figure or page breaks on."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from ipsolve.report import RunView, build_report, console_table, markdown, open_run
from ipsolve.report.strips import strips
from ipsolve.report.tables import headline
from tests.synthetic_run import write_run

NOTE = "images reproduced exactly, left out of mean PSNR and its differences: 6 by tv on inpaint_box, 2 by ddnm on sr4"


def exact(row: dict[str, object]) -> dict[str, object]:
    some = (row["task"], row["solver"]) == ("sr4", "ddnm") and str(row["image_id"])[-1] in "01"
    every = (row["task"], row["solver"]) == ("inpaint_box", "tv")
    return {**row, "psnr": math.inf, "ssim": 1.0} if some or every else row


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo", size=32, edit=exact, seeds=(0, 1))


@pytest.fixture(scope="module")
def view(run: Path) -> RunView:
    return open_run(str(run))


def test_the_mean_is_of_the_other_images_and_infinite_where_there_is_none(view: RunView) -> None:
    lines = view.summary.set_index(["task", "solver"])
    own = view.rows[(view.rows["task"] == "sr4") & (view.rows["solver"] == "ddnm")]
    others = own[~own["image_id"].str.endswith(("0", "1"))]
    assert lines.loc[("sr4", "ddnm"), "psnr"] == pytest.approx(others["psnr"].mean())
    assert lines.loc[("sr4", "ddnm"), "n"] == 6
    assert lines.loc[("inpaint_box", "tv"), "psnr"] == math.inf
    assert math.isnan(lines.loc[("inpaint_box", "tv"), "psnr_ci95"])


def test_differences_are_of_pairs_that_are_finite(view: RunView) -> None:
    psnr = view.comparisons[view.comparisons["metric"] == "psnr"].set_index(["task", "solver"])
    assert psnr.loc[("sr4", "ddnm"), "n"] == 4
    assert ("inpaint_box", "tv") not in psnr.index
    assert not psnr[["difference", "ci95_low", "ci95_high", "p_value"]].isna().any(axis=None)


def test_a_solver_that_is_exact_is_best_and_ties_with_no_other(view: RunView) -> None:
    found = headline(view, "inpaint_box")
    assert found is not None
    assert (found.best, found.figure, found.ties) == ("tv", "inf dB over 6 images", [])
    assert strips(view, "inpaint_box")[0].pictures[-1].figure != "no result"


@pytest.mark.filterwarnings("error")
def test_every_rendering_says_what_was_left_out(run: Path, view: RunView) -> None:
    page = Path(build_report(str(run))).read_text()
    for text in (page, markdown(view), console_table(view)):
        assert NOTE in text
        assert "nan" not in text.lower().split()
    assert "figures" in {path.name for path in run.iterdir()}
    assert pd.read_csv(run / "summary.csv")["psnr"].map(math.isinf).sum() == 1


@pytest.mark.filterwarnings("error")
def test_a_run_that_is_exact_throughout_has_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "demo", images=2, size=32, edit=lambda row: {**row, "psnr": math.inf, "ssim": 1.0})
    assert Path(build_report(str(folder))).is_file()
    assert not list((folder / "figures").glob("cost_*"))
