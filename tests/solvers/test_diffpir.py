"""DiffPIR: its update by hand, its limits, and its proximal step where A has no closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.priors import Prior
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.base import parse_solver
from ipsolve.solvers.decoupled.diffpir import DiffPIR

from .conftest import posed
from .dense_gaussian import SCHEDULES, DenseGaussian, Opaque, dense_gaussian


def by_hand(p: DenseGaussian, lambda_: float, zeta: float, sigma_n: float, pinv: bool, num_steps: int = 4) -> Tensor:
    rng = p.rng()
    levels = p.schedule.levels(num_steps)
    x = levels[0].sigma * p.normal(rng)
    if pinv:
        start = (
            torch.linalg.solve(p.a @ p.a.T + p.noise_std**2 * torch.eye(len(p.a), dtype=torch.float64), p.y.T).T @ p.a
        )
        x = x + levels[0].alpha * start
    x_0 = x
    for t, s in pairwise(levels):
        rho = lambda_ * sigma_n**2 * t.alpha**2 / t.sigma**2
        normal_matrix = p.a.T @ p.a + rho * torch.eye(p.a.shape[1], dtype=torch.float64)
        x_0 = torch.linalg.solve(normal_matrix, (p.y @ p.a + rho * p.denoise(x, t)).T).T
        eps = (x - t.alpha * x_0) / t.sigma
        x = s.alpha * x_0 + s.sigma * ((1 - zeta) ** 0.5 * eps + zeta**0.5 * p.normal(rng))
    return x_0


@pytest.mark.parametrize("start", ["noise", "pinv"])
@pytest.mark.parametrize("schedule", ["vp", "ve"])
def test_algorithm_1_by_hand(schedule: str, start: str) -> None:
    p = dense_gaussian(schedule)
    solver = parse_solver({"solver": "diffpir", "num_steps": 4, "lambda_": 0.7, "zeta": 0.4, "start": start})
    x_hat = solver.solve(p.problem)
    # the linear system of the hand formula is conditioned like 1 / rho, up to 1e6
    torch.testing.assert_close(x_hat, by_hand(p, 0.7, 0.4, p.noise_std, start == "pinv"), rtol=1e-9, atol=1e-9)


def test_the_noise_level_has_a_floor() -> None:
    p = dense_gaussian(noise_std=0.01)
    x_hat = DiffPIR(num_steps=4, min_noise_std=0.3).solve(p.problem)
    torch.testing.assert_close(x_hat, by_hand(p, 1.0, 0.1, 0.3, False), rtol=1e-9, atol=1e-9)


def test_an_overwhelming_prior_weight_leaves_unconditional_ddim() -> None:
    p = dense_gaussian()
    levels = p.schedule.levels(6)
    x = levels[0].sigma * p.normal(p.rng())
    for t, s in pairwise(levels):
        x_0 = p.denoise(x, t)
        x = s.alpha * x_0 + s.sigma * (x - t.alpha * x_0) / t.sigma
    x_hat = DiffPIR(num_steps=6, lambda_=1e14, zeta=0.0).solve(p.problem)
    torch.testing.assert_close(x_hat, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_noiseless_result_measures_as_y(kind: str, request: pytest.FixtureRequest) -> None:
    prior: Prior = request.getfixturevalue(f"{kind}_prior")
    problem = posed({"operator": "super_resolution", "factor": 2}, prior).problem
    assert problem.residual(DiffPIR(num_steps=5, min_noise_std=0).solve(problem)).abs().max() < 1e-9


@pytest.mark.parametrize("schedule", ["vp", "ve"])
def test_gradient_steps_reach_the_proximal_point_of_an_operator_without_closed_form(schedule: str) -> None:
    p = dense_gaussian(schedule)
    solver = DiffPIR(num_steps=4, prox_iterations=200)
    exact = solver.solve(p.problem)
    iterated = solver.solve(replace(p.problem, operator=Opaque(p.operator)))
    torch.testing.assert_close(iterated, exact, rtol=0, atol=1e-8)


def test_pure_noise_without_signal_is_no_obstacle() -> None:
    """Flow matching starts at alpha = 0, where sigma / alpha is infinite."""
    p = dense_gaussian("flow")
    for skip in ("uniform", "quadratic"):
        x_hat = DiffPIR(num_steps=4, skip=skip).solve(p.problem)
        assert x_hat.isfinite().all()


@pytest.mark.parametrize("name", ["vp", "ve", "flow"])
def test_the_quadratic_grid_spans_the_schedule_and_is_dense_at_low_noise(name: str) -> None:
    grid = SCHEDULES[name].levels(1000)
    levels = DiffPIR(num_steps=5, skip="quadratic")._levels(SCHEDULES[name])
    expected = [0, int(1000 * math.sqrt(0.25)), int(1000 * math.sqrt(0.5)), int(1000 * math.sqrt(0.75)), 999]
    assert levels == [*(grid[i] for i in expected), grid[1000]]


def test_a_start_from_a_pseudo_inverse_is_refused_where_there_is_none() -> None:
    with pytest.raises(RequestError, match="solver diffpir with start=pinv needs a linear operator, hdr is not"):
        DiffPIR(start="pinv").check(parse_task({"operator": "hdr", "noise_std": 0.05}), frozenset({"pixel"}))
    DiffPIR().check(parse_task({"operator": "hdr", "noise_std": 0.05}), frozenset({"pixel"}))
