"""Ranks of solvers over tasks: what is told apart, how sure, and corrected for how many were compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ipsolve.report import build_report
from ipsolve.runs.ranks import ranking
from ipsolve.runs.statistics import holm
from tests.synthetic_run import write_run


def rows_of(values: np.ndarray) -> pd.DataFrame:
    """Return rows of ``values``, (images, tasks, solvers), as a run has them."""
    index = pd.MultiIndex.from_product([range(n) for n in values.shape], names=["image_id", "task", "solver"])
    rows = pd.DataFrame({"psnr": values.ravel(), "lpips": -values.ravel()}, index=index).reset_index()
    return rows.assign(seed=0, sample=0, task="t" + rows["task"].astype(str), solver="s" + rows["solver"].astype(str))


def draws(images: int, means: list[float], spread: float = 1.0, seed: int = 0) -> pd.DataFrame:
    noise = np.random.default_rng(seed).standard_normal((images, 2, len(means)))
    return rows_of(np.asarray(means) + spread * noise)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([np.nan, 0.02]) == pytest.approx([np.nan, 0.02], nan_ok=True)
    assert holm([]).shape == (0,)


def test_holm_keeps_the_chance_of_any_false_difference_at_a_twentieth() -> None:
    values = np.random.default_rng(0).standard_normal((2000, 5, 12)) + np.random.default_rng(1).standard_normal(
        (2000, 1, 12)
    )
    p_values = stats.ttest_1samp(values, 0, axis=2).pvalue  # dependent, as differences to one baseline are
    assert np.mean([(p < 0.05).any() for p in p_values]) > 0.1
    assert np.mean([(holm(p) < 0.05).any() for p in p_values]) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_a_solver_that_is_always_better_ranks_first_whatever_the_direction() -> None:
    rows = draws(8, [0.0, 5.0, 10.0], spread=0.1)
    for metric in ("psnr", "lpips"):  # lpips is minus psnr here, and the lower is better
        found = ranking(rows, metric)
        assert found is not None
        assert [each.solver for each in found.ranks] == ["s2", "s1", "s0"]
        assert [(each.mean, each.low, each.high) for each in found.ranks] == [(r, r, r) for r in (1, 2, 3)]
        assert [each.best for each in found.ranks] == [1, 0, 0]
        assert found.groups == []


def test_equal_solvers_share_their_rank_and_their_bar() -> None:
    values = np.random.default_rng(0).standard_normal((6, 2, 1)) + np.array([0.0, 0.0, -9.0])
    found = ranking(rows_of(values), "psnr")
    assert found is not None
    assert [each.mean for each in found.ranks] == [1.5, 1.5, 3]
    assert [each.best for each in found.ranks] == [0.5, 0.5, 0]
    assert found.groups == [(0, 1)]
    assert (found.tasks, found.images) == (2, 6)


def test_bars_are_the_longest_runs_of_what_is_not_told_apart() -> None:
    found = ranking(draws(30, [3.0, 2.7, 0.5, 0.4, -4.0]), "psnr")
    assert found is not None
    assert found.groups == [(0, 1), (2, 3)]


def test_intervals_hold_the_expected_rank_nineteen_times_in_twenty() -> None:
    held = []
    for seed in range(120):
        found = ranking(draws(10, [0.0, 0.0, 0.0], seed=seed), "psnr", seed)
        assert found is not None
        held += [each.low <= 2 <= each.high for each in found.ranks]
    assert 0.92 < np.mean(held) < 0.98


def test_only_whole_blocks_are_ranked_and_seeds_of_an_image_are_no_images() -> None:
    rows = draws(6, [2.0, 1.0, 0.0, -1.0])
    rows = rows[~((rows["solver"] == "s3") & (rows["task"] == "t1"))]  # not asked for on the other task
    rows = rows[~((rows["solver"] == "s0") & (rows["image_id"] == 5))]  # failed
    twice = pd.concat([rows, rows.assign(seed=1)])
    found, again = ranking(rows, "psnr"), ranking(twice, "psnr")
    assert found is not None
    assert (found.images, found.left_out) == (5, ["s3"])
    assert again == found


def test_where_there_is_nothing_to_rank() -> None:
    assert ranking(draws(6, [1.0, 0.0]), "psnr") is None
    assert ranking(draws(1, [1.0, 0.0, 2.0]), "psnr") is None
    assert ranking(draws(4, [1.0, 0.0, 2.0]).iloc[:0], "psnr") is None


def test_every_rendering_of_a_run_shows_ranks_and_corrected_values(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    build_report(str(run))
    for name in ("report.md", "report.html"):
        text = (run / name).read_text()
        assert "Ranks over the tasks" in text
        assert "Holm" in text
    assert (run / "figures" / "ranks.svg").is_file()
