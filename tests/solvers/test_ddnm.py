"""DDNM: range-null-space decomposition without noise, and the noise budget of DDNM+."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from ipsolve.priors import Level, MeteredPrior, Prior
from ipsolve.solvers.base import Cost
from ipsolve.solvers.projection.ddnm import DDNM, time_travel

from .conftest import posed
from .dense_gaussian import SCHEDULES, dense_gaussian

SR = {"operator": "super_resolution", "factor": 2}
S = Level(100.0, math.sqrt(0.9), math.sqrt(0.1))


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_noiseless_result_measures_as_y(kind: str, request: pytest.FixtureRequest) -> None:
    """A x_hat = y (Wang et al. 2023, eq. 13), in pixels and behind an autoencoder."""
    prior: Prior = request.getfixturevalue(f"{kind}_prior")
    problem = posed(SR, prior).problem
    assert problem.residual(DDNM(num_steps=10).solve(problem)).abs().max() < 1e-9


def test_noise_aware_is_plain_ddnm_without_noise(pixel_prior: Prior) -> None:
    outputs = [DDNM(num_steps=10, noise_aware=aware).solve(posed(SR, pixel_prior).problem) for aware in (True, False)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma_y", [0.02, 0.3, 3.0])
def test_step_noise_has_the_variance_of_the_schedule(sigma_y: float, pixel_prior: Prior) -> None:
    """From the true x_0, alpha_s x_0' + fresh noise has variance (eta sigma_s)^2 in every direction."""
    made = posed({**SR, "noise_std": sigma_y}, pixel_prior, batch=4000)
    problem, operator = made.problem, made.problem.spectral_operator
    fresh = 0.7 * S.sigma * problem.noise()
    x_0, reduced = DDNM(eta=0.7)._project(operator, problem.y, made.x, fresh, problem.noise_std, S)
    error = operator.to_spectral(S.alpha * (x_0 - made.x) + reduced)
    std = error.square().mean(0).sqrt()
    torch.testing.assert_close(std, torch.full_like(std, 0.7 * S.sigma), rtol=0.06, atol=0)


def test_a_large_noise_budget_leaves_the_correction_whole(pixel_prior: Prior) -> None:
    made = posed({**SR, "noise_std": 1e-4}, pixel_prior)
    p, x = made.problem, made.x
    x_0, _ = DDNM()._project(p.spectral_operator, p.y, x + 0.2, torch.zeros_like(x), p.noise_std, S)
    assert p.residual(x_0).abs().max() < 1e-10


def test_without_budget_the_measurement_noise_is_kept_out(pixel_prior: Prior) -> None:
    """At the last step, where sigma_s = 0, the estimate of the prior stands."""
    made = posed({**SR, "noise_std": 0.1}, pixel_prior)
    p, x, end = made.problem, made.x, Level(0.0, 1.0, 0.0)
    x_0, fresh = DDNM()._project(p.spectral_operator, p.y, x, torch.zeros_like(x), p.noise_std, end)
    torch.testing.assert_close(x_0, x, rtol=0, atol=1e-12)
    assert not fresh.any()


def test_moves_of_time_travel() -> None:
    """Six steps, each stretch of two walked twice: as RePaint's jump schedule does with length 2 and 2 samples."""
    assert list(time_travel(6, 1, 1)) == list(pairwise(range(7)))
    visited = [0, *(j for _, j in time_travel(6, 2, 2))]
    assert visited == [0, 1, 2, 3, 1, 2, 3, 4, 5, 3, 4, 5, 6]
    moves = list(time_travel(20, 3, 4))
    assert all(j == i + 1 or j == i - 3 for i, j in moves)
    assert all(before[1] == after[0] for before, after in pairwise(moves))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_travel_by_hand(schedule: str) -> None:
    """Noiseless DDNM that goes back up by x_t ~ q(x_t | x_s)."""
    eta, p = 0.7, dense_gaussian(schedule, noise_std=0.0)
    levels, pinv, rng = p.schedule.levels(4), torch.linalg.pinv(p.a), p.rng()
    x = levels[0].sigma * p.normal(rng)
    for i, j in pairwise([0, 1, 2, 3, 1, 2, 3, 4]):  # one step is left at 3, none comes after 4
        t, s = levels[i], levels[j]
        fresh = p.normal(rng)
        if j < i:
            ratio = s.alpha / t.alpha
            x = ratio * x + (s.sigma**2 - ratio**2 * t.sigma**2) ** 0.5 * fresh
            continue
        estimate = p.denoise(x, t)
        x_0 = estimate - p.residual(estimate) @ pinv.T
        eps = (x - t.alpha * estimate) / t.sigma
        x = s.alpha * x_0 + s.sigma * ((1 - eta**2) ** 0.5 * eps + eta * fresh)
    solver = DDNM(num_steps=4, eta=eta, travel_length=2, travel_repeat=2)
    torch.testing.assert_close(solver.solve(p.problem), x_0, rtol=1e-10, atol=1e-10)


def test_cost_counts_the_calls_of_time_travel(pixel_prior: Prior) -> None:
    metered = MeteredPrior(pixel_prior, 3)
    solver = DDNM(num_steps=7, travel_length=2, travel_repeat=3)
    solver.solve(posed(SR, metered).problem)
    assert metered.counts["denoiser"].tolist() == [19] * 3
    assert solver.cost(pixel_prior.traits) == Cost(denoiser=19)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_scalar_rule_is_the_spectral_one_for_orthogonal_operators(schedule: str) -> None:
    """With all singular values 1 there is one lambda_t (eq. 19), smaller than 1 in the last steps."""
    p = dense_gaussian(schedule, m=5, d=5, noise_std=0.3)
    p = replace(p, a=torch.linalg.qr(p.a)[0])
    outputs = [DDNM(num_steps=20, noise_rule=rule).solve(p.problem) for rule in ("scalar", "spectral")]
    # where lambda < 1 no fresh noise is left; the spectral rule finds that 0 as the root of a rounding error
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-8)
    assert p.residual(outputs[0]).abs().max() > 1e-2
