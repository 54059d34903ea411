"""DPPS on a Gaussian prior: the choice by hand, and what it comes to with one candidate and with very many."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.operators.matrix import Matrix
from ipsolve.priors import Level, Prior
from ipsolve.randomness import image_rng
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.guidance.dpps import DPPS
from ipsolve.solvers.guidance.dps import DPS
from ipsolve.solvers.steps.starts import measurement_as_image

from .conftest import posed
from .gaussian_problem import BATCH, IDS, SCHEDULES, D, gaussian_problem, mv, steps

SR = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}


def count(t: Level, most: int) -> int:
    return min(most, math.floor(max(most * (1 - math.exp(-(t.alpha**2) / t.sigma**2)), 2)))


@pytest.mark.parametrize("start", ["measurement", "noise"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dpps_by_hand(schedule: str, start: str) -> None:
    gauss, most = gaussian_problem(schedule, std=None), 9
    rng = image_rng(0, IDS, "solver")
    first = SCHEDULES[schedule].levels(5)[0]
    x = first.sigma * rng.normal(D, dtype=torch.float64)
    if start == "measurement":  # a vector is no image: A^+ y
        x = x + first.alpha * mv(torch.linalg.pinv(gauss.a), gauss.y)
    counts = set()
    for step in steps(schedule, 5, 0.8):
        t, s = step.t, step.s
        x_0 = gauss.denoise(x, t)
        eps = (x - t.alpha * x_0) / t.sigma
        r = mv(gauss.a, x_0) - gauss.y
        g = mv(gauss.jacobian(t).T, mv(gauss.a.mT, r / r.norm(dim=1, keepdim=True)))
        mean = s.alpha * x_0 + step.c_2 * eps - 0.7 * step.k_s * step.k_t * g
        number = count(t, most) if step.std > 0 else 1
        counts.add(number)
        candidates = torch.stack([rng.normal(D, dtype=torch.float64) for _ in range(number)], 1)
        for row in range(BATCH):
            states = mean[row] + step.std * candidates[row]
            misfit = (s.alpha * gauss.y[row] - (states - s.sigma * eps[row]) @ gauss.a[row].T).norm(dim=1)
            x[row] = states[misfit.argmin()]
    assert {1, 2} < counts  # the last step, the noisy ones, and some with more
    x_hat = gauss.solve(DPPS(num_steps=5, zeta=0.7, num_candidates=most, eta=0.8, start=start))  # type: ignore[arg-type]
    torch.testing.assert_close(x_hat, x, rtol=1e-10, atol=1e-10)


def test_one_candidate_from_noise_is_dps(pixel_prior: Prior) -> None:
    dpps = DPPS(num_steps=6, zeta=0.4, num_candidates=1, start="noise")
    outputs = [solver.solve(posed(SR, pixel_prior).problem) for solver in (dpps, DPS(num_steps=6, zeta=0.4))]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


def test_where_nothing_is_measured_it_is_ddpm_in_law() -> None:
    """A = 0: no candidate is better than another, and noise that is chosen blindly is white."""
    gauss, runs = gaussian_problem("vp"), 4000
    problem = replace(
        gauss.problem.select(torch.zeros(runs, dtype=torch.int64)),
        operator=Matrix(torch.zeros(1, 2, D, dtype=torch.float64)),
        rng=image_rng(0, [f"run{i}" for i in range(runs)], "solver"),
    )
    step = list(steps("vp", 6, 1.0))[3]
    zero = torch.zeros(runs, D, dtype=torch.float64)
    noise = DPPS()._chosen(problem, zero, zero, step.t, step.s)
    assert (noise.mean(0).abs() < 5 / runs**0.5).all()
    torch.testing.assert_close(noise.T.cov(), torch.eye(D, dtype=torch.float64), rtol=0, atol=0.12)


def misfits(numbers: list[int]) -> list[Tensor]:
    """Return how far the chosen states of one step are from the noised measurement, one number observed."""
    gauss = gaussian_problem("vp")
    a = gauss.a[:, :1]
    step = list(steps("vp", 6, 1.0))[4]
    x_t = torch.linspace(-1, 1, D, dtype=torch.float64).expand(BATCH, -1)
    x_0 = gauss.denoise(x_t, step.t)
    eps = (x_t - step.t.alpha * x_0) / step.t.sigma
    mean = step.s.alpha * x_0 + step.c_2 * eps
    # within reach of the noise of the step
    y = mv(a, mean - step.s.sigma * eps + 0.8 * step.std * a[:, 0]) / step.s.alpha
    one = replace(gauss.problem, y=y, operator=Matrix(a))
    found = []
    for number in numbers:
        problem = replace(one, rng=image_rng(0, IDS, "solver"))
        most = number if number < 3 else math.ceil((number + 1) / (1 - math.exp(-((step.t.alpha / step.t.sigma) ** 2))))
        noise = DPPS(num_candidates=most)._chosen(problem, mean, eps, step.t, step.s)
        aim = step.s.alpha * one.y + step.s.sigma * mv(a, eps)
        found.append((mv(a, mean + step.std * noise) - aim).abs()[:, 0])
    return found


def test_more_candidates_fit_no_worse_and_very_many_fit_exactly() -> None:
    """A x_s -> alpha_s y + sigma_s A eps: the projection of Score-SDE, with predicted noise for drawn."""
    residuals = misfits([1, 2, 20, 4000])
    for fewer, more in pairwise(residuals):
        assert (more <= fewer).all()
    assert (residuals[-1] < 0.02 * residuals[0]).all()


def test_a_measurement_is_enlarged_by_repeating_its_pixels(pixel_prior: Prior) -> None:
    problem = posed(SR, pixel_prior).problem
    large = measurement_as_image(problem, problem.linear_operator)
    expected = problem.y.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(large, expected, rtol=0, atol=0)


def test_presets_and_what_is_refused() -> None:
    for preset in DPPS.PRESETS:
        assert DPPS.PRESETS[preset].keys() <= {field.name for field in fields(DPPS)}
    with pytest.raises(RequestError, match="solver dpps needs a linear operator"):
        DPPS().check(parse_task({"operator": "phase_retrieval"}), frozenset({"pixel"}))
