"""The schedules of score-based models in continuous time, and the files that name them."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import ScoreSdeVeScheduler

from ipsolve.priors import Schedule
from ipsolve.priors.networks.prediction import UnitRangeScore
from ipsolve.priors.networks.schedule_files import read_schedule
from ipsolve.priors.networks.schedulers import load_schedule
from ipsolve.priors.sde_schedules import GeometricVe, VpSde
from ipsolve.requests.errors import RequestError

SCHEDULES = [GeometricVe(0.02, 100.0), VpSde()]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 7, 1000])
def test_levels_go_down_in_noise_to_the_clean_image(schedule: Schedule, num_steps: int) -> None:
    levels = schedule.levels(num_steps)
    assert len(levels) == num_steps + 1
    assert all(a.ratio > b.ratio and a.alpha <= b.alpha for a, b in pairwise(levels))
    assert (levels[-1].alpha, levels[-1].sigma) == (1.0, 0.0)
    with pytest.raises(RequestError, match="num_steps=0 is not possible"):
        schedule.levels(0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_at_ratio_inverts_ratio_and_is_clipped(schedule: Schedule) -> None:
    *levels, _ = schedule.levels(50)
    for level in levels:
        found = schedule.at_ratio(level.ratio)
        assert found.time == pytest.approx(level.time, rel=1e-9)
        assert found.ratio == pytest.approx(level.ratio, rel=1e-9)
    assert schedule.at_ratio(math.inf).time == pytest.approx(levels[0].time)
    assert schedule.at_ratio(0.0).time == pytest.approx(levels[-1].time)


def test_variance_is_preserved_as_the_sde_says() -> None:
    """d alpha / dt = - beta(t) alpha / 2 with beta rising from 0.1 to 20 (Song et al. 2021, eq. 11)."""
    schedule = VpSde()
    for t in (0.01, 0.3, 0.9):
        before, here, after = (schedule.level(999 * s) for s in (t - 1e-5, t, t + 1e-5))
        slope = (after.alpha - before.alpha) / 2e-5
        assert slope == pytest.approx(-0.5 * (0.1 + 19.9 * t) * here.alpha, rel=1e-6)
        assert here.alpha**2 + here.sigma**2 == pytest.approx(1, abs=1e-14)


def test_sigmas_are_those_of_diffusers_for_images_of_twice_the_range(tmp_path: Path) -> None:
    scheduler = ScoreSdeVeScheduler(sigma_max=348.0)
    scheduler.save_pretrained(tmp_path / "scheduler")
    schedule, kind = load_schedule(tmp_path)
    assert isinstance(kind, UnitRangeScore)
    scheduler.set_sigmas(2000)
    theirs = scheduler.discrete_sigmas.double().flip(0).numpy()
    assert np.allclose([level.sigma for level in schedule.levels(2000)[:-1]], 2 * theirs, rtol=1e-5)  # theirs: float32
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "ScoreSdeVeScheduler"}))
    assert load_schedule(tmp_path)[0] == GeometricVe(0.02, 2696.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0}, "sigma_min must be above 0 and below sigma_max"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_max": "large"}, "must be numbers"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_max": math.inf}, "sigma_min must be above 0"),
        ({"schedule": "edm"}, "prediction_type None; allowed: epsilon"),
        ({"schedule": "edn", "prediction_type": "sample"}, "did you mean 'edm'"),
        ({"schedule": "edm", "sigma": 1, "prediction_type": "sample"}, r"edm\.sigma: unknown key"),
        ({"schedule": "geometric_ve", "sigma_min": 200, "prediction_type": "sample"}, "sigma_min must be below"),
        ({"schedule": "vp_sde", "beta_max": 1e9, "prediction_type": "epsilon"}, "beta_min must be below beta_max"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=f"^here: .*{message}") as caught:
        read_schedule(config, "here")
    assert "\n" not in str(caught.value)


def test_other_schedulers_are_left_to_others() -> None:
    assert read_schedule({"_class_name": "DDIMScheduler"}, "here") is None
