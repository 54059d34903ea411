"""DAPS: its three steps by hand, the law of its Langevin step, and exactness where its heuristic is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.priors import Prior
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.base import parse_solver
from ipsolve.solvers.decoupled.daps import DAPS

from .conftest import posed
from .dense_gaussian import DenseGaussian, Opaque, dense_gaussian


def nodes(top: float, bottom: float, count: int) -> list[float]:
    """Noise stds evenly spaced in their seventh root."""
    root = 1 / 7
    return [(top**root + i / (count - 1) * (bottom**root - top**root)) ** 7 for i in range(count)]


def by_hand(p: DenseGaussian, annealing: Sequence[float], momentum: float, lr: float, largest: float) -> Tensor:
    """Three ODE steps and four Langevin steps per level, in u = x_t / alpha_t, where the schedule drops out."""
    rng = p.rng()
    tau, lr_min_ratio = 0.3, 0.2
    u = annealing[0] * p.normal(rng)
    x_0 = u
    for step, s_t in enumerate(annealing):
        mean = u
        for now, after in zip(ode := nodes(s_t, 0.02, 3), [*ode[1:], 0.0], strict=True):
            estimate = p.mean + p.std**2 / (p.std**2 + now**2) * (mean - p.mean)
            mean = mean + (after - now) * (mean - estimate) / now
        h = min(lr * (1 + step / len(annealing) * (lr_min_ratio - 1)), 1 / (2 * largest**2 / tau**2 + 1 / s_t**2))
        velocity = p.normal(rng) if momentum > 0 else 0.0
        x_0 = mean
        for _ in range(4):
            score = -2 * p.residual(x_0) @ p.a / tau**2 + (mean - x_0) / s_t**2
            velocity = momentum * velocity + math.sqrt(h) * score + math.sqrt(2 - 2 * momentum) * p.normal(rng)
            x_0 = x_0 + math.sqrt(h) * velocity
        if step + 1 < len(annealing):
            u = x_0 + annealing[step + 1] * p.normal(rng)
    return x_0


@pytest.mark.parametrize(("momentum", "lr"), [(0.0, 0.003), (0.6, 0.003), (0.0, 1.0)])
@pytest.mark.parametrize("schedule", ["vp", "ve"])
def test_one_run_by_hand(schedule: str, momentum: float, lr: float) -> None:
    """The official likelihood; lr = 1 is far beyond what is stable and gets cut to the inverse curvature."""
    p = dense_gaussian(schedule)
    grids = {"num_steps": 3, "sigma_max": 10.0, "ode_steps": 3, "ode_sigma_min": 0.02}
    chain = {"langevin_steps": 4, "tau": 0.3, "momentum": momentum, "lr": lr, "lr_min_ratio": 0.2}
    solver = parse_solver({"solver": "daps", **grids, **chain})
    x_hat = solver.solve(p.problem)
    expected = by_hand(p, nodes(10.0, 0.1, 3), momentum, lr, largest=1.0)
    torch.testing.assert_close(x_hat, expected, rtol=1e-9, atol=1e-9)


def test_the_two_readings_of_tau_differ_by_the_root_of_two() -> None:
    p = dense_gaussian()
    official = DAPS(num_steps=3, langevin_steps=5, tau=0.3 * math.sqrt(2), likelihood="official")
    gaussian = DAPS(num_steps=3, langevin_steps=5, tau=0.3, likelihood="gaussian")
    outputs = [s.solve(p.problem) for s in (official, gaussian)]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_langevin_has_the_gaussian_product_as_its_stationary_law(momentum: float) -> None:
    """N(mean, width^2 I) N(y; A x, noise_std^2 I): precision I / width^2 + A^T A / noise_std^2."""
    batch, width = 4000, 0.5
    p = dense_gaussian(batch=batch, noise_std=0.3, d=3)
    p = replace(p, y=p.y[:1].expand(batch, -1))
    mean = torch.tensor([0.5, -0.3, 1.0], dtype=torch.float64).expand(batch, 3)
    precision = torch.eye(3, dtype=torch.float64) / width**2 + p.a.T @ p.a / 0.3**2
    lr = 0.1 / float(torch.linalg.eigvalsh(precision)[-1]) * (1 - momentum)
    solver = DAPS(likelihood="gaussian", tau=None, langevin_steps=300, momentum=momentum)
    x = solver._posterior_sample(p.problem, mean, width, lr)
    covariance = torch.linalg.inv(precision)
    expected = covariance @ (mean[0] / width**2 + p.a.T @ p.y[0] / 0.3**2)
    standard_error = (covariance.diagonal() / batch).sqrt()
    assert ((x.mean(0) - expected).abs() < 4 * standard_error).all()
    # 5% from the finite step (lr L / 2) and 4 standard errors of a variance, sqrt(2 / batch) each
    assert (torch.cov(x.T) - covariance).abs().max() < 0.14 * covariance.diagonal().max()


def test_a_flat_prior_is_sampled_exactly() -> None:
    """Then p(x_0 | x_t) is N(x_t, s_t^2 I), as step 2 assumes, and the answer is N(A^-1 y, noise_std^2 (A^T A)^-1)."""
    batch = 2000
    p = dense_gaussian("ve", m=2, d=2, batch=batch, std=50.0, noise_std=0.3)
    p = replace(p, y=torch.tensor([[1.0, -0.5]], dtype=torch.float64).expand(batch, 2))
    solver = DAPS(
        num_steps=10, sigma_max=5.0, langevin_steps=150, ode_steps=2, lr=4e-3, lr_min_ratio=1, tau=None,
        likelihood="gaussian",
    )  # fmt: skip
    x = solver.solve(p.problem)
    covariance = 0.3**2 * torch.linalg.inv(p.a.T @ p.a)
    error = x.mean(0) - torch.linalg.solve(p.a, p.y[0])
    assert (error.abs() < 5 * (covariance.diagonal() / batch).sqrt()).all()
    assert (torch.cov(x.T) - covariance).abs().max() < 0.15 * covariance.diagonal().max()


def test_default_steps_are_stable_on_an_operator_of_norm_one_whose_norm_is_unknown() -> None:
    p = dense_gaussian()
    solver = DAPS(num_steps=5, ode_steps=1, langevin_steps=200)
    x_hat = solver.solve(replace(p.problem, operator=Opaque(p.operator)))
    assert (p.residual(x_hat).abs() < 0.1).all()


@pytest.mark.parametrize("preset", [name for name in DAPS.PRESETS if name.startswith("latent")])
def test_latents_are_moved_through_the_decoder(latent_prior: Prior, preset: str) -> None:
    """Hardly any prior is left at the noise std 10 of a single level, so that the data are fitted."""
    solver = parse_solver({"solver": "daps", "preset": preset, "num_steps": 1, "sigma_min": 10.0})
    assert isinstance(solver, DAPS)
    assert solver.gradient_clip == 1.0
    problem = posed({"operator": "super_resolution", "factor": 2}, latent_prior).problem
    assert solver.solve(problem).isfinite().all()


def test_an_elementwise_clip_bounds_the_pull_of_the_data() -> None:
    """With one step the data can move an entry by lr * clip / tau^2 and no more."""
    p = dense_gaussian()
    free = DAPS(num_steps=1, langevin_steps=1, lr=1e-4, tau=0.1)
    clipped = replace(free, gradient_clip=1e-3)
    held = replace(free, gradient_clip=1e-12)
    x, y, z = (s.solve(p.problem) for s in (clipped, held, free))
    torch.testing.assert_close((x - y).abs(), torch.full_like(x, 1e-4 * 1e-3 / 0.1**2), rtol=1e-6, atol=0)
    assert ((z - y).abs() > 1e-4).any()


def test_pure_noise_without_signal_is_no_obstacle() -> None:
    p = dense_gaussian("flow")
    solver = DAPS(num_steps=3, ode_steps=2, langevin_steps=3)
    assert solver.solve(p.problem).isfinite().all()


def test_the_true_noise_level_cannot_be_used_where_there_is_none() -> None:
    with pytest.raises(RequestError, match="solver daps with tau=null needs noisy measurements; allowed: tau above 0"):
        DAPS(tau=None).check(parse_task({"operator": "super_resolution"}), frozenset({"pixel"}))
    DAPS(tau=None).check(parse_task({"operator": "super_resolution", "noise_std": 0.05}), frozenset({"pixel"}))
