"""RED-diff: Adam on its objective by hand, the pull of its prior, and its known lack of spread."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.operators.matrix import Matrix
from ipsolve.priors import Prior
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.base import parse_solver
from ipsolve.solvers.variational.red_diff import REDDiff

from .conftest import posed
from .dense_gaussian import DenseGaussian, dense_gaussian


def by_hand(p: DenseGaussian, lambda_: float, lr: float, num_steps: int, pinv: bool) -> Tensor:
    rng = p.rng()
    m, d = p.a.shape
    gram = p.a @ p.a.T + p.noise_std**2 * torch.eye(m, dtype=torch.float64)
    mu = torch.linalg.solve(gram, p.y.T).T @ p.a if pinv else torch.zeros(len(p.y), d, dtype=torch.float64)
    first, second = torch.zeros_like(mu), torch.zeros_like(mu)
    for k, t in enumerate(p.schedule.levels(num_steps)[:-1], start=1):
        eps = p.normal(rng)
        x_t = t.alpha * mu + t.sigma * eps
        found = (x_t - t.alpha * p.denoise(x_t, t)) / t.sigma
        slope = p.residual(mu) @ p.a / m + lambda_ * t.sigma / t.alpha * (found - eps) / d
        first = 0.9 * first + 0.1 * slope
        second = 0.99 * second + 0.01 * slope**2
        mu = mu - lr * (first / (1 - 0.9**k)) / ((second / (1 - 0.99**k)).sqrt() + 1e-8)
    return mu


@pytest.mark.parametrize("start", ["pinv", "zeros"])
@pytest.mark.parametrize("schedule", ["vp", "ve"])
def test_adam_on_the_objective_by_hand(schedule: str, start: str) -> None:
    p = dense_gaussian(schedule)
    solver = parse_solver({"solver": "red_diff", "num_steps": 6, "lambda_": 0.4, "lr": 0.05, "start": start})
    mu = solver.solve(p.problem)
    torch.testing.assert_close(mu, by_hand(p, 0.4, 0.05, 6, start == "pinv"), rtol=1e-9, atol=1e-10)


def test_without_a_prior_it_fits_the_data() -> None:
    p = dense_gaussian()
    mu = REDDiff(num_steps=500, lambda_=0.0, start="zeros").solve(p.problem)
    torch.testing.assert_close(p.residual(mu), torch.zeros_like(p.y), rtol=0, atol=0.02)  # Adam never rests


def test_what_is_not_measured_goes_to_the_mode_of_the_prior_without_spread() -> None:
    """The point mass seeks the mode: independent runs agree far better than draws of the posterior would."""
    p = dense_gaussian(batch=20, noise_std=0.05)
    mask = torch.eye(5, dtype=torch.float64)[None, :2]
    y = torch.tensor([1.5, -1.0], dtype=torch.float64).expand(20, 2)
    mu = REDDiff(num_steps=1000, lr=0.02).solve(replace(p.problem, y=y, operator=Matrix(mask)))
    torch.testing.assert_close(mu[:, 2:].mean(0), p.mean[2:], rtol=0, atol=0.1 * p.std)
    assert (mu.std(0) < 0.3 * p.std).all()


def test_pure_noise_without_signal_is_no_obstacle() -> None:
    p = dense_gaussian("flow")
    assert REDDiff(num_steps=5).solve(p.problem).isfinite().all()


def test_a_latent_is_fitted_through_the_decoder(latent_prior: Prior) -> None:
    problem = posed({"operator": "super_resolution", "factor": 2}, latent_prior).problem
    solver = REDDiff(num_steps=300, lambda_=0.0, start="zeros")
    assert problem.residual(solver.solve(problem)).abs().max() < 0.02


def test_a_start_from_a_pseudo_inverse_is_refused_where_there_is_none() -> None:
    with pytest.raises(RequestError, match="needs a linear operator, hdr is not; allowed: start=zeros"):
        REDDiff().check(parse_task({"operator": "hdr", "noise_std": 0.05}), frozenset({"pixel"}))
    REDDiff(start="zeros").check(parse_task({"operator": "hdr", "noise_std": 0.05}), frozenset({"pixel"}))
