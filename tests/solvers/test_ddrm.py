"""DDRM: its three kinds of direction by hand, and the marginals that its variances are chosen for."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ipsolve.evaluation.sampling import draw
from ipsolve.operators import SpectralOperator
from ipsolve.operators.circulant import Circulant
from ipsolve.priors import Level, Prior
from ipsolve.problem import Problem
from ipsolve.randomness import image_rng
from ipsolve.solvers import Solver
from ipsolve.solvers.projection.ddnm import DDNM
from ipsolve.solvers.projection.ddrm import DDRM

from .conftest import SHAPE, posed
from .dense_gaussian import SCHEDULES, DenseGaussian

D = 5
VARIANCE = 0.5
MEAN = torch.linspace(-1, 1, D, dtype=torch.float64)
# from measured well to drowned in noise; none just at the noise of a level, where rounding would decide
SINGULAR = (1.5, 0.22, 0.004)
NOISE_STD = 0.1


def orthogonal(d: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]


U, V = orthogonal(3, 0), orthogonal(D, 1)
A = U @ torch.diag(torch.tensor(SINGULAR, dtype=torch.float64)) @ V[:, :3].T
Y = torch.tensor([[0.7, -0.4, 0.2]], dtype=torch.float64)


def run(solver: Solver, schedule: str, noise_std: float) -> Tensor:
    p = DenseGaussian(A, Y, MEAN, VARIANCE**0.5, noise_std, SCHEDULES[schedule])
    return draw(solver, p.problem)[:, 0]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_direction_by_hand(schedule: str) -> None:
    eta, eta_b, eta_c = 0.8, 0.9, 0.6
    levels = SCHEDULES[schedule].levels(6)
    rng = image_rng(0, ["image0"], "solver")
    y_bar = (U.T @ Y[0]).tolist()
    visited = set()
    c = levels[0].sigma * (V.T @ rng.normal(D, dtype=torch.float64)[0])
    for i, s_i in enumerate(SINGULAR):
        noise = levels[0].alpha * NOISE_STD / s_i
        if levels[0].sigma * s_i >= levels[0].alpha * NOISE_STD:
            c[i] = levels[0].alpha * y_bar[i] / s_i + math.sqrt(1 - (noise / levels[0].sigma) ** 2) * c[i]
    for t, s in pairwise(levels):
        m = V.T @ MEAN
        x_0 = m + VARIANCE * t.alpha / (t.alpha**2 * VARIANCE + t.sigma**2) * (c - t.alpha * m)
        eps = (c - t.alpha * x_0) / t.sigma
        z = V.T @ rng.normal(D, dtype=torch.float64)[0]
        r = s.sigma / s.alpha
        bar = x_0 + math.sqrt(1 - eta_c**2) * r * eps + eta_c * r * z
        for i, s_i in enumerate(SINGULAR):
            if r * s_i < NOISE_STD:
                predicted = (y_bar[i] - s_i * x_0[i]) / NOISE_STD
                bar[i] = x_0[i] + math.sqrt(1 - eta**2) * r * predicted + eta * r * z[i]
            else:
                std = math.sqrt(r**2 - (eta_b * NOISE_STD / s_i) ** 2)
                bar[i] = (1 - eta_b) * x_0[i] + eta_b * y_bar[i] / s_i + std * z[i]
            visited.add((i, r * s_i < NOISE_STD))
        c = s.alpha * bar
    assert visited >= {(0, False), (0, True), (1, False), (1, True), (2, True)}
    solver = DDRM(num_steps=6, eta=eta, eta_b=eta_b, eta_c=eta_c)
    x = run(solver, schedule, NOISE_STD)
    torch.testing.assert_close(x[0], V @ c, rtol=1e-10, atol=1e-10)


Make = Callable[[int, Prior], tuple[Tensor, SpectralOperator]]


def fourier(batch: int, prior: Prior) -> tuple[Tensor, SpectralOperator]:
    generator = torch.Generator().manual_seed(5)
    x = 0.4 * torch.randn(batch, *SHAPE, generator=generator, dtype=torch.float64)
    kernel = torch.rand(1, 3, 3, generator=generator, dtype=torch.float64)
    return x, Circulant((kernel / kernel.sum()).expand(batch, 3, 3), SHAPE)


def separable(batch: int, prior: Prior) -> tuple[Tensor, SpectralOperator]:
    made = posed({"operator": "super_resolution", "factor": 2}, prior, batch)
    return made.x, made.problem.spectral_operator


@pytest.mark.parametrize("make", [fourier, separable])
@pytest.mark.parametrize("sigma_y", [0.0, 0.1, 1.0])
def test_steps_keep_the_marginals_of_the_schedule(make: Make, sigma_y: float, pixel_prior: Prior) -> None:
    """Given the true x_0 and eps, x_s - alpha_s x_0 is white with std sigma_s (Kawar et al. 2022, Prop. 3.1)."""
    batch, s = 1000, Level(300.0, math.sqrt(0.8), math.sqrt(0.2))
    x_0, operator = make(batch, pixel_prior)
    ids = [f"run{i}" for i in range(batch)]
    rng = image_rng(0, ids, "solver")
    clean = operator.forward(x_0)
    y = clean + sigma_y * rng.normal(*clean.shape[1:], dtype=torch.float64)
    eps, noise, first = (rng.normal(*SHAPE, dtype=torch.float64) for _ in range(3))
    problem = Problem(y, torch.full((batch,), sigma_y, dtype=torch.float64), operator, pixel_prior, rng)
    expected = torch.full(SHAPE, s.sigma, dtype=torch.float64)
    error = DDRM()._step(operator, problem, x_0, eps, noise, s) - s.alpha * x_0
    torch.testing.assert_close(error.square().mean(0).sqrt(), expected, rtol=0.12, atol=0)
    spectral = operator.to_spectral(error).abs().square().mean(0).sqrt()
    torch.testing.assert_close(spectral, torch.full_like(spectral, s.sigma), rtol=0.15, atol=0)
    # the start knows y and nothing else: where y is precise it has the same law
    precise = s.sigma * operator.singular_values() > s.alpha * sigma_y
    start = operator.to_spectral(DDRM()._start(operator, problem, s.sigma * first, s) - s.alpha * x_0)
    std = start.abs().square().mean(0, keepdim=True).sqrt()[:, precise[:1].expand(1, *start.shape[1:])[0]]
    torch.testing.assert_close(std, torch.full_like(std, s.sigma), rtol=0.15, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noiseless_result_measures_as_y(schedule: str) -> None:
    torch.testing.assert_close(run(DDRM(), schedule, 0.0) @ A.T, Y, rtol=0, atol=1e-10)


def test_noiseless_ddrm_with_fresh_noise_only_is_ddnm() -> None:
    """eta = eta_b = 1 on a schedule that starts at pure noise, so that both start alike."""
    outputs = [run(solver, "flow", 0.0) for solver in (DDRM(num_steps=8, eta=1.0), DDNM(num_steps=8, eta=1.0))]
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)
