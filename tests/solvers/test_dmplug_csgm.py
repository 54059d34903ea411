"""DMPlug and CSGM: with a Gaussian prior the plugged-in map is affine, and so are the answers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ipsolve.conventions import squared_norm
from ipsolve.operators import parse_task
from ipsolve.priors import MeteredPrior, Prior
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.classical.csgm import CSGM
from ipsolve.solvers.plug_in.dmplug import DMPlug

from .conftest import posed
from .dense_gaussian import DenseGaussian, dense_gaussian

SR = {"operator": "super_resolution", "factor": 2, "noise_std": 0.2}


def generated(p: DenseGaussian, z: Tensor, num_steps: int) -> Tensor:
    """DDIM by hand from x_T = sqrt(alpha_T^2 + sigma_T^2) z, the estimate of the last level."""
    levels = p.schedule.levels(num_steps)[:-1]
    x = (levels[0].alpha ** 2 + levels[0].sigma ** 2) ** 0.5 * z
    for t, s in pairwise(levels):
        x_0 = p.denoise(x, t)
        x = s.alpha * x_0 + s.sigma * (x - t.alpha * x_0) / t.sigma
    return p.denoise(x, levels[-1])


def gain(p: DenseGaussian, num_steps: int) -> float:
    """R(z) = R(0) + gain z for an isotropic prior."""
    zero = torch.zeros(1, len(p.mean), dtype=torch.float64)
    return float((generated(p, zero + 1, num_steps) - generated(p, zero, num_steps))[0, 0])


def offset(p: DenseGaussian, num_steps: int) -> Tensor:
    return generated(p, torch.zeros(1, len(p.mean), dtype=torch.float64), num_steps)


@pytest.mark.parametrize("schedule", ["vp", "ve", "flow"])
def test_dmplug_is_adam_on_the_seed_by_hand(schedule: str) -> None:
    p, lr = dense_gaussian(schedule), 0.05
    slope_of_r, z = gain(p, 3), p.normal(p.rng())
    first, second = torch.zeros_like(z), torch.zeros_like(z)
    for k in range(1, 5):
        slope = 2 * slope_of_r * p.residual(generated(p, z, 3)) @ p.a / len(p.a)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        z = z - lr * (first / (1 - 0.9**k)) / ((second / (1 - 0.999**k)).sqrt() + 1e-8)
    x_hat = DMPlug(iterations=4, lr=lr, patience=None).solve(p.problem)
    torch.testing.assert_close(x_hat, generated(p, z, 3), rtol=1e-9, atol=1e-9)


def test_dmplug_without_a_stop_fits_the_data_to_the_end() -> None:
    p = dense_gaussian()
    x_hat = DMPlug(iterations=1500, lr=0.05, patience=None).solve(p.problem)
    assert p.residual(x_hat).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_dmplug_stops_each_image_by_itself(kind: str, request: pytest.FixtureRequest) -> None:
    metered = MeteredPrior(request.getfixturevalue(f"{kind}_prior"), 3)
    problem = posed(SR, metered).problem
    x_hat = DMPlug(iterations=400, lr=0.1, window=10, patience=5).solve(problem)
    calls = metered.counts["denoiser"]
    assert x_hat.isfinite().all()
    assert (calls < 1200).all()
    assert len(set(calls.tolist())) > 1
    assert (metered.counts["denoiser_backward"] == calls).all()


def test_clipped_seeds_make_images_in_range_and_no_latents() -> None:
    p = dense_gaussian(std=3.0)
    assert p.mean.abs().max() > 1
    assert DMPlug(iterations=3, patience=None, clip_denoised=True).solve(p.problem).abs().max() <= 1
    with pytest.raises(RequestError, match=r"^solver dmplug needs a pixel prior"):
        DMPlug(clip_denoised=True).check(parse_task(SR), frozenset({"latent"}))


@pytest.mark.parametrize("schedule", ["vp", "ve", "flow"])
def test_csgm_of_a_linear_generator_is_ridge_regression(schedule: str) -> None:
    """z = (g^2 A^T A + lambda I)^-1 g A^T (y - A G(0))."""
    p, lambda_ = dense_gaussian(schedule), 0.3
    g, centre = gain(p, 3), offset(p, 3)
    normal = g**2 * p.a.T @ p.a + lambda_ * torch.eye(5, dtype=torch.float64)
    z = torch.linalg.solve(normal, (-g * p.residual(centre) @ p.a).T).T
    x_hat = CSGM(lambda_=lambda_, iterations=3000, lr=0.02).solve(p.problem)
    torch.testing.assert_close(x_hat, centre + g * z, rtol=0, atol=1e-5)


def test_csgm_is_the_posterior_mean_if_the_generator_makes_the_prior() -> None:
    """Many steps carry N(0, I) to N(mean, std^2 I), and lambda = noise_std^2 is the law of z."""
    p = dense_gaussian()
    precision = torch.eye(5, dtype=torch.float64) / p.std**2 + p.a.T @ p.a / p.noise_std**2
    mean = torch.linalg.solve(precision, (p.mean / p.std**2 + p.y @ p.a / p.noise_std**2).T).T
    x_hat = CSGM(num_steps=50, lambda_=p.noise_std**2, iterations=250, lr=0.1, restarts=1).solve(p.problem)
    # DDIM's own error at 50 steps, a gain of a few parts in a hundred, and what Adam leaves
    torch.testing.assert_close(x_hat, mean, rtol=0, atol=0.03)


def test_more_restarts_never_end_higher(pixel_prior: Prior) -> None:
    """The first starts are the same, and the lowest objective is taken."""

    def energies(restarts: int) -> Tensor:
        problem = posed(SR, pixel_prior).problem
        solver = CSGM(lambda_=0.0, restarts=restarts, iterations=10)
        return squared_norm(problem.residual(solver.solve(problem)))

    found = torch.stack([energies(restarts) for restarts in (1, 2, 4)])
    assert (found.diff(dim=0) <= 1e-12).all()
    assert (found[2] < found[0]).any()
