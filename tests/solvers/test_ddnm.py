"""DDNM: range-null-space decomposition without noise, and the noise budget of DDNM+."""

from __future__ import annotations

import math

import pytest
import torch

from ipsolve.operators import SpectralOperator
from ipsolve.priors import Level, Prior
from ipsolve.randomness import image_rng
from ipsolve.solvers import parse_solver
from ipsolve.solvers.ddnm import DDNM

from .conftest import SHAPE, problem

SR = {"operator": "super_resolution", "factor": 2}
S = Level(100.0, math.sqrt(0.9), math.sqrt(0.1))


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_noiseless_result_measures_as_y(kind: str, request: pytest.FixtureRequest) -> None:
    """A x_hat = y (Wang et al. 2023, eq. 13), in pixels and behind an autoencoder."""
    prior: Prior = request.getfixturevalue(f"{kind}_prior")
    _, operator, measurement, ids = problem(SR)
    solver = parse_solver({"solver": "ddnm", "num_steps": 10})
    x_hat = solver.solve(measurement, operator, prior, image_rng(0, ids, "solver"))
    torch.testing.assert_close(operator.forward(x_hat), measurement.y, rtol=0, atol=1e-9)


def test_noise_aware_is_plain_ddnm_without_noise(pixel_prior: Prior) -> None:
    _, operator, measurement, ids = problem(SR)
    outputs = [
        parse_solver({"solver": "ddnm", "num_steps": 10, "noise_aware": aware}).solve(
            measurement, operator, pixel_prior, image_rng(0, ids, "solver")
        )
        for aware in (True, False)
    ]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma_y", [0.02, 0.3, 3.0])
def test_step_noise_has_the_variance_of_the_schedule(sigma_y: float) -> None:
    """From the true x_0, alpha_s x_0' + fresh noise has variance (eta sigma_s)^2 in every direction."""
    batch = 4000
    x, operator, clean, ids = problem(SR, batch=batch)
    assert isinstance(operator, SpectralOperator)
    y = clean.y + sigma_y * image_rng(0, ids, "measurement").normal(*clean.y.shape[1:], dtype=torch.float64)
    solver = DDNM(eta=0.7)
    fresh = 0.7 * S.sigma * image_rng(0, ids, "solver").normal(*SHAPE, dtype=torch.float64)
    x_0, reduced = solver._project(operator, y, x, fresh, sigma_y, S)
    error = operator.to_spectral(S.alpha * (x_0 - x) + reduced)
    std = error.square().mean(0).sqrt()
    torch.testing.assert_close(std, torch.full_like(std, 0.7 * S.sigma), rtol=0.06, atol=0)


def test_a_large_noise_budget_leaves_the_correction_whole() -> None:
    x, operator, measurement, _ = problem({**SR, "noise_std": 1e-4})
    assert isinstance(operator, SpectralOperator)
    x_0, _ = DDNM()._project(operator, measurement.y, x + 0.2, torch.zeros_like(x), 1e-4, S)
    torch.testing.assert_close(operator.forward(x_0), measurement.y, rtol=0, atol=1e-10)


def test_without_budget_the_measurement_noise_is_kept_out() -> None:
    """At the last step, where sigma_s = 0, the estimate of the prior stands."""
    x, operator, measurement, _ = problem({**SR, "noise_std": 0.1})
    assert isinstance(operator, SpectralOperator)
    end = Level(0.0, 1.0, 0.0)
    x_0, fresh = DDNM()._project(operator, measurement.y, x, torch.zeros_like(x), 0.1, end)
    torch.testing.assert_close(x_0, x, rtol=0, atol=1e-12)
    assert not fresh.any()
