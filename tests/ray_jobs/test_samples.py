"""Several samples of an image: rows of their own, the same however they are batched, and one image in every table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pydantic.dataclasses import dataclass
from torch import Tensor

from benchmarks.faults.solvers import Faulty
from ipsolve.report import open_run
from ipsolve.runs.results import RunFolder
from tests.ray_jobs.small_runs import compact, do, experiment, index_of

SOLVERS = {
    "ddnm": {"solver": "ddnm", "num_steps": 4},
    "tds": {"solver": "tds", "num_steps": 3, "num_particles": 3},
}
NUMBERS = ["psnr", "ssim", "consistency", "denoiser_calls"]


def table(tmp_path: Path, **changes: Any) -> pd.DataFrame:
    """Return the rows of a run in this process, by solver, image and sample."""
    trial = experiment(tmp_path, solvers=changes.pop("solvers", SOLVERS), **changes)
    do(trial)
    rows = RunFolder(trial.config.run_location).results(["solver", "image_id", "sample", *NUMBERS]).to_pandas()
    return rows.set_index(["solver", "image_id", "sample"]).sort_index()


def test_samples_do_not_depend_on_how_they_are_batched(tmp_path: Path) -> None:
    precise = {"precision": "float64", "num_actors": 1}
    one = table(tmp_path / "one", compute={**precise, "batch_size": 4})
    tables = [table(tmp_path / str(size), samples=3, compute={**precise, "batch_size": size}) for size in (1, 2, 7, 15)]
    assert len(tables[0]) == 2 * 5 * 3
    for other in tables[1:]:
        pd.testing.assert_frame_equal(other[NUMBERS], tables[0][NUMBERS], rtol=0, atol=1e-6)
    # the first is the one that there is without the others; no other is
    first = tables[0].xs(0, level="sample", drop_level=False)
    pd.testing.assert_frame_equal(first[NUMBERS], one[NUMBERS], rtol=0, atol=1e-6)
    assert (tables[0].groupby(["solver", "image_id"])["psnr"].nunique() == 3).all()


@dataclass(frozen=True)
class FailsOnce(Faulty):
    """Answers NaN for the rows whose stream begins with a large number: some samples of some images."""

    name: ClassVar[str] = "fails_once"

    def solve(self, problem: Any) -> Tensor:
        bad = problem.rng.child("luck").uniform(1)[:, 0] > 0.8
        return torch.where(bad[:, None, None, None], torch.nan, super().solve(problem))


def test_an_image_with_a_sample_that_fails_is_one_failure(tmp_path: Path) -> None:
    trial = experiment(tmp_path, {"unlucky": FailsOnce()}, samples=4, compute={"batch_size": 8})
    assert do(trial).images_missing == 4 * 5
    run = RunFolder(trial.config.run_location)
    failures = run.failures().to_pandas()
    rows = run.results(["image_id", "sample"], solver="unlucky").to_pandas()
    assert 0 < len(failures) < 5
    assert failures["image_id"].is_unique
    assert set(failures["image_id"]) | set(rows["image_id"]) == set(trial.image_ids)
    assert (rows.groupby("image_id")["sample"].apply(sorted).map(tuple) == (0, 1, 2, 3)).all()


def test_the_files_of_a_run_with_samples_are_kept_in_order(tmp_path: Path) -> None:
    trial = experiment(tmp_path, solvers=SOLVERS, samples=3)
    do(trial)
    run = RunFolder(trial.config.run_location)
    before = run.results(["solver", "image_id", "sample", "psnr"]).to_pandas()
    assert do(trial).images_missing == 0  # tidied, and nothing lost
    compact(run)
    assert do(trial).images_missing == 0
    after = run.results(["solver", "image_id", "sample", "psnr"]).to_pandas()
    keys = ["solver", "image_id", "sample"]
    pd.testing.assert_frame_equal(*(each.sort_values(keys, ignore_index=True) for each in (before, after)))
    # seconds of an image are those of all its samples
    seconds = run.results(["solver", "image_id", "seconds"]).to_pandas().groupby("solver")["seconds"].sum() / 5
    measured = index_of(trial).seconds(trial.cells)
    assert {cell.solver: measured[cell.hash] for cell in trial.cells} == pytest.approx(seconds.to_dict())


def test_tables_are_of_images_and_pictures_of_the_first_sample(tmp_path: Path) -> None:
    trial = experiment(tmp_path, solvers=SOLVERS, samples=3)
    do(trial)
    run = RunFolder(trial.config.run_location)
    run.write(run.path("config.yaml"), yaml.safe_dump(trial.resolved()).encode())
    view = open_run(run)
    assert set(view.summary["n"]) == {5}
    rows = run.results(["solver", "image_id", "sample", "psnr", "measurement"]).to_pandas()
    means = rows.groupby(["solver", "image_id"])["psnr"].mean().groupby("solver").mean()
    assert view.summary.set_index("solver")["psnr"].to_dict() == pytest.approx(means.to_dict())
    assert np.array_equal(rows["measurement"].notna(), rows["sample"] == 0)  # all of an image have the same


def test_one_sample_is_the_cell_that_it_always_was(tmp_path: Path) -> None:
    plain, one, more = (experiment(tmp_path, **words) for words in ({}, {"samples": 1}, {"samples": 2}))
    assert [cell.hash for cell in plain.cells] == [cell.hash for cell in one.cells]
    assert not {cell.hash for cell in one.cells} & {cell.hash for cell in more.cells}
