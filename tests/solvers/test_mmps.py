"""MMPS is exact for Gaussian priors: its estimate, and the posterior that it samples."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ipsolve.priors import MeteredPrior, Prior
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedules import FlowMatching
from ipsolve.randomness import image_rng
from ipsolve.solvers.base import Cost
from ipsolve.solvers.guidance.mmps import MMPS

from .conftest import posed
from .gaussian_problem import IDS, SCHEDULES, D, M, gaussian_problem, mv, steps


@pytest.mark.parametrize("step", [0, 10, 19])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_estimate_is_the_exact_posterior_mean(schedule: str, step: int) -> None:
    """E[x_0 | x_t, y] for a covariance that is no multiple of I, against the sum of precisions."""
    gauss = gaussian_problem(schedule, std=None)
    t = SCHEDULES[schedule].levels(20)[step]
    x_t = t.alpha * gauss.mean + t.sigma * image_rng(0, IDS, "state").normal(D, dtype=torch.float64)
    x_0 = MMPS(iterations=M)._posterior_mean(gauss.problem, gauss.problem.linear_operator, x_t, t)
    torch.testing.assert_close(x_0, gauss.posterior(x_t, t)[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_mmps_by_hand(schedule: str, eta: float) -> None:
    """DDIM in which both x_0 and eps are those of the corrected estimate."""
    gauss = gaussian_problem(schedule, std=None)
    rng = image_rng(0, IDS, "solver")
    x = SCHEDULES[schedule].levels(4)[0].sigma * rng.normal(D, dtype=torch.float64)
    for step in steps(schedule, 4, eta):
        x_0 = gauss.posterior(x, step.t)[0]
        eps = (x - step.t.alpha * x_0) / step.t.sigma
        x = step.s.alpha * x_0 + step.c_2 * eps + step.std * rng.normal(D, dtype=torch.float64)
    x_hat = gauss.solve(MMPS(num_steps=4, iterations=M, eta=eta))
    torch.testing.assert_close(x_hat, x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_samples_the_posterior_of_any_gaussian(schedule: str) -> None:
    """The deterministic sampler converges at first order to the exact probability flow of p(x_0 | y)."""
    gauss = gaussian_problem(schedule, std=None, noise_std=0.3)
    errors = []
    for num_steps in (100, 400):
        x_hat = gauss.solve(MMPS(num_steps=num_steps, iterations=M, eta=0.0))
        errors.append((x_hat - gauss.flow_map(SCHEDULES[schedule].levels(num_steps))).abs().max())
    assert errors[1] < 0.35 * errors[0]
    assert errors[1] < 0.02


def test_ddpm_steps_draw_from_the_posterior() -> None:
    """Mean and covariance of many draws for one y, in units of the posterior's."""
    gauss = gaussian_problem("ve", std=None, noise_std=0.3)
    count = 2000
    rng = image_rng(0, [f"draw{i}" for i in range(count)], "solver")
    repeated = replace(gauss.problem.select(torch.zeros(count, dtype=torch.int64)), rng=rng)
    with torch.no_grad():
        draws = MMPS(num_steps=200, iterations=M).solve(repeated)
    mean, covariance = (moment[0] for moment in gauss.posterior())
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (draws - mean).T, upper=False)
    torch.testing.assert_close(white.mean(1), torch.zeros(D, dtype=torch.float64), rtol=0, atol=0.08)
    torch.testing.assert_close(white @ white.T / count, torch.eye(D, dtype=torch.float64), rtol=0, atol=0.12)


def test_without_noise_the_estimate_measures_as_y() -> None:
    gauss = gaussian_problem("vp", std=None, noise_std=0.0)
    x_hat = gauss.solve(MMPS(num_steps=5, iterations=M))
    torch.testing.assert_close(mv(gauss.a, x_hat), gauss.y, rtol=0, atol=1e-6)


def test_more_iterations_come_nearer_to_the_exact_estimate() -> None:
    gauss = gaussian_problem("vp", std=None)
    t = SCHEDULES["vp"].levels(20)[12]
    x_t = t.alpha * gauss.mean + t.sigma * image_rng(0, IDS, "state").normal(D, dtype=torch.float64)
    problem, operator = gauss.problem, gauss.problem.linear_operator
    exact = gauss.posterior(x_t, t)[0]
    errors: list[Tensor] = [
        (MMPS(iterations=k)._posterior_mean(problem, operator, x_t, t) - exact).norm(dim=1) for k in (1, 2)
    ]
    assert (errors[1] < 1e-6 * errors[0]).all()


def test_calls_are_counted_as_the_cost_says(pixel_prior: Prior) -> None:
    metered = MeteredPrior(pixel_prior, 3)
    solver = MMPS(num_steps=4, iterations=3)
    problem = posed({"operator": "super_resolution", "factor": 2, "noise_std": 0.05}, metered).problem
    assert solver.solve(problem).isfinite().all()
    assert metered.counts["denoiser"].tolist() == [4] * 3
    assert metered.counts["denoiser_backward"].tolist() == [16] * 3
    bound = Cost(denoiser=4, denoiser_backward=16, up_to=frozenset({"denoiser_backward"}))
    assert solver.cost(pixel_prior.traits) == bound


def test_pure_noise_is_a_level_like_any_other() -> None:
    """Flow matching starts at alpha = 0, where Tweedie's covariance is 0 / 0."""
    gauss = gaussian_problem("vp", noise_std=0.0)
    flow = MixturePrior(gauss.problem.prior.mixture, (D,), FlowMatching())
    x_hat = gauss.solve(MMPS(num_steps=5, iterations=M), flow)
    torch.testing.assert_close(mv(gauss.a, x_hat), gauss.y, rtol=0, atol=1e-6)
