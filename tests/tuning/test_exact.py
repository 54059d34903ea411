"""A trial that reproduces images exactly is not one that diverged."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from ipsolve.metrics import METRICS
from tests.tuning.small_sweeps import drive, sweep
from tuning.ledger import state_of
from tuning.objective import Objective
from tuning.outcome import write_outcome


def test_exact_images_are_kept_as_infinite_and_the_trial_completes(tmp_path: Path) -> None:
    tasks = {"copy": {"operator": "denoising", "noise_std": 0.0}}  # its pseudo-inverse is the image itself
    trial = sweep(tmp_path, tasks=tasks, search={"num_trials": 4, "rungs": [2, 4], "num_startup": 2})
    driven = drive(trial)
    assert np.isposinf(pd.read_parquet(driven.run.path("images"))["psnr"]).all()
    trials = driven.ledger.trials()
    assert {state_of(each) for each in trials} == {"complete"}
    assert all(each.values == [METRICS["psnr"].exact] for each in trials)
    table = write_outcome(driven.run, trial, driven.ledger, driven.scores)
    assert (table["objective"] == METRICS["psnr"].exact).all()
    assert (table["copy.psnr"] == math.inf).all()


def test_an_exact_image_never_ranks_below_another() -> None:
    objective = Objective({"psnr": 1.0}, "max")
    images = [objective.per_image({"sr4": pd.DataFrame({"psnr": [value, 20.0]})}) for value in (30.0, 90.0, math.inf)]
    means = [series.mean() for series in images]
    assert means == sorted(means)
    assert math.isfinite(means[-1])
