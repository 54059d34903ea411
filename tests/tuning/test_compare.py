"""What early stopping saved, on sweeps written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from ipsolve.requests.errors import RequestError
from ray_jobs import cli
from tests.tuning.small_sweeps import mapping
from tuning.compare import Finished, compare, main


def write(folder: Path, objective: dict[str, str], trials: list[tuple[str, float, float]], **changes: Any) -> str:
    """Write a sweep of trials (state, objective, seconds) in the order in which they ended."""
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(mapping(folder.parent, objective=objective, **changes)))
    table = pd.DataFrame(trials, columns=["state", "objective", "seconds"])
    table["end"] = [f"2026-01-01T00:00:{i:02}" for i in range(len(table))]
    table["images"] = [8 if state == "complete" else 2 for state in table["state"]]
    table.sample(frac=1, random_state=0).to_parquet(folder / "trials.parquet")
    return str(folder)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_seconds_until_the_best_that_both_reached(tmp_path: Path, mode: str) -> None:
    sign = 1 if mode == "max" else -1
    objective = {"metric": "psnr", "mode": mode}
    # a stopped trial may look better, over fewer images, but never is the best; its seconds count
    first = write(
        tmp_path / "a",
        objective,
        [("complete", sign * 20.0, 8.0), ("stopped", sign * 99.0, 2.0), ("complete", sign * 23.0, 8.0)],
    )
    second = write(
        tmp_path / "b",
        objective,
        [("complete", sign * 20.0, 8.0), ("complete", sign * 21.0, 8.0), ("complete", sign * 22.0, 8.0)],
    )
    a, b = Finished.open(first), Finished.open(second)
    assert (a.seconds_until(22.0), b.seconds_until(22.0)) == (18.0, 24.0)
    assert f"psnr {sign * 22}, the best that both reached; {first} saved 6.0 s of solving (25%)" in compare(a, b)


def test_what_is_no_sweep_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path)]) == cli.WRONG_REQUEST
    assert capsys.readouterr().err == f"error: {tmp_path} is not a finished sweep: it has no trials.parquet\n"


def test_a_sweep_without_a_complete_trial_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "a", {"metric": "psnr"}, [("complete", 20.0, 8.0)])
    bad = write(tmp_path / "b", {"metric": "psnr"}, [("diverged", float("nan"), 8.0), ("stopped", 9.0, 2.0)])
    assert main([good, bad]) == cli.WRONG_REQUEST
    assert capsys.readouterr().err == f"error: {bad} has no best: none of its 2 trials did all images\n"


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("data", {"data": {"source": "portraits:val", "limit": 8}}),
        ("prior", {"prior": {"prior": "latent", "path": "builtin:portraits-64"}}),
        ("tasks", {"tasks": {"denoise": {"operator": "denoising", "noise_std": 0.1}}}),
        ("solver, space", {"solver": {"solver": "tv"}, "space": {"tv_weight": {"log": [0.1, 1]}}}),
        ("seed", {"seed": 1}),
        ("search.rungs", {"search": {"rungs": [4, 8]}}),
    ],
)
def test_sweeps_of_different_things_are_not_compared(tmp_path: Path, key: str, changes: dict[str, Any]) -> None:
    trials = [("complete", 20.0, 8.0)]
    first = write(tmp_path / "a", {"metric": "psnr"}, trials)
    second = write(tmp_path / "b", {"metric": "psnr"}, trials, **changes)
    with pytest.raises(RequestError, match=f"differ in {key}; allowed: two sweeps that differ in what stops trials"):
        compare(Finished.open(first), Finished.open(second))


def test_sweeps_that_differ_in_what_stops_trials_are_compared(tmp_path: Path) -> None:
    search = {"rungs": [2, 4, 8], "scheduler": "none", "num_trials": 9}
    trials = [("complete", 20.0, 8.0)]
    first = write(tmp_path / "a", {"metric": "psnr"}, trials)
    second = write(tmp_path / "b", {"metric": "psnr"}, trials, name="other", search=search)
    assert "psnr 20, the best that both reached" in compare(Finished.open(first), Finished.open(second))
