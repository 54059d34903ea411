"""Plug-and-play ADMM: with a Gaussian prior its denoiser is a proximal map, and its end the posterior mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.base import parse_solver
from ipsolve.solvers.classical.admm_pnp import ADMMPnP

from .dense_gaussian import DenseGaussian, Opaque, dense_gaussian
from .gaussian_problem import D, GaussianProblem, gaussian_problem, mv

EYE = torch.eye(D, dtype=torch.float64)


def mode(p: GaussianProblem, weight: float = 1.0) -> Tensor:
    """argmin -log p(y | x) - weight log p(x); at weight 1 the posterior mean."""
    precision = weight * torch.linalg.inv(p.covariance) + p.a.mT @ p.a / p.noise_std**2
    shift = weight * torch.linalg.solve(p.covariance, p.mean) + mv(p.a.mT, p.y) / p.noise_std**2
    return torch.linalg.solve(precision, shift)


@pytest.mark.parametrize("s", [0.2, 1.0])
@pytest.mark.parametrize("schedule", ["vp", "ve"])
def test_it_ends_on_the_posterior_mean_whatever_the_level(schedule: str, s: float) -> None:
    p = gaussian_problem(schedule, std=None)
    x_hat = p.solve(ADMMPnP(num_steps=4000, denoiser_std=s))
    torch.testing.assert_close(x_hat, p.posterior()[0], rtol=0, atol=1e-6)


def test_lambda_is_the_weight_of_the_prior() -> None:
    p = gaussian_problem("vp", std=None)
    x_hat = p.solve(ADMMPnP(num_steps=4000, denoiser_std=0.5, lambda_=3.0))
    torch.testing.assert_close(x_hat, mode(p, 3.0), rtol=0, atol=1e-6)


def test_falling_levels_carry_their_duals_over() -> None:
    """The penalty changes in every iteration, and with it what the scaled duals mean; the end is the same."""
    p = gaussian_problem("vp", std=None)
    x_hat = p.solve(ADMMPnP(num_steps=4000, start_std=2.0, denoiser_std=0.3))
    torch.testing.assert_close(x_hat, p.posterior()[0], rtol=0, atol=1e-6)


def test_without_duals_it_ends_on_the_biased_point_of_half_quadratic_splitting() -> None:
    p, s = gaussian_problem("vp", std=None), 0.5
    weight = (p.noise_std / s) ** 2
    gain = p.covariance @ torch.linalg.inv(p.covariance + s**2 * EYE)
    fit = torch.linalg.inv(p.a.mT @ p.a + weight * EYE)
    # z = m + gain (x - m), x = fit (A^T y + weight z)
    right = p.mean - mv(gain, p.mean) + mv(gain @ fit @ p.a.mT, p.y)
    fixed = torch.linalg.solve(EYE - weight * gain @ fit, right)
    x_hat = p.solve(ADMMPnP(num_steps=4000, denoiser_std=s, dual=False))
    torch.testing.assert_close(x_hat, fixed, rtol=0, atol=1e-6)
    assert ((fixed - p.posterior()[0]).abs().amax(1) > 0.01).all()


def by_hand(p: DenseGaussian, levels: list[float], lambda_: float, renoise: float, start: Tensor) -> Tensor:
    rng, z, u, before = p.rng(), start, torch.zeros_like(start), levels[0]
    eye = torch.eye(p.a.shape[1], dtype=torch.float64)
    for s in levels:
        u = u * (s / before) ** 2
        weight = lambda_ * (p.noise_std / s) ** 2
        x = torch.linalg.solve(p.a.T @ p.a + weight * eye, (p.y @ p.a + weight * (z - u)).T).T
        v = x + u + renoise * s * p.normal(rng)
        z = p.mean + p.std**2 / (p.std**2 + s**2) * (v - p.mean)
        u, before = u + x - z, s
    return z


@pytest.mark.parametrize("schedule", ["vp", "ve", "flow"])
def test_noise_goes_in_before_the_denoiser(schedule: str) -> None:
    p = dense_gaussian(schedule)
    solver = ADMMPnP(num_steps=4, start_std=1.5, denoiser_std=0.2, lambda_=0.7, renoise=0.6, start="zeros")
    start = torch.zeros(3, 5, dtype=torch.float64)
    expected = by_hand(p, np.geomspace(1.5, 0.2, 4).tolist(), 0.7, 0.6, start)
    torch.testing.assert_close(solver.solve(p.problem), expected, rtol=1e-9, atol=1e-9)


def test_gradient_steps_stand_for_the_proximal_map_of_an_operator_without_one() -> None:
    p = dense_gaussian()
    solver = ADMMPnP(num_steps=3, start="zeros", prox_iterations=400)
    iterated = solver.solve(replace(p.problem, operator=Opaque(p.operator)))
    torch.testing.assert_close(iterated, solver.solve(p.problem), rtol=0, atol=1e-8)


def test_dpir_is_a_preset() -> None:
    solver = parse_solver({"solver": "admm_pnp", "preset": "dpir"})
    assert isinstance(solver, ADMMPnP)
    assert not solver.dual
    assert solver.start_std == pytest.approx(0.384, abs=1e-3)  # 49 of 255, on [-1, 1]


def test_a_start_from_a_pseudo_inverse_is_refused_where_there_is_none() -> None:
    task = parse_task({"operator": "hdr", "noise_std": 0.05})
    with pytest.raises(RequestError, match="needs a linear operator, hdr is not; allowed: start=zeros"):
        ADMMPnP().check(task, frozenset({"pixel"}))
    ADMMPnP(start="zeros").check(task, frozenset({"pixel"}))
