"""FAST-DIPS: its step against the exact line search, its end against the projection onto the ellipsoid."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Self

import pytest
import torch
from torch import Tensor

from ipsolve.conventions import norm, squared_norm
from ipsolve.operators.base import Operator
from ipsolve.priors import MeteredPrior, Prior
from ipsolve.solvers.base import parse_solver
from ipsolve.solvers.decoupled.fast_dips import FastDIPS
from ipsolve.solvers.steps.annealing import levels_between

from .conftest import posed
from .dense_gaussian import Opaque, dense_gaussian

A_START = torch.tensor([[1.0, -0.5, 0.3, 2.0, -1.0]], dtype=torch.float64).expand(3, 5)
SR = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}


def projection(a: Tensor, matrix: Tensor, y: Tensor, radius: float) -> Tensor:
    """argmin ||x - a|| with ||A x - y|| <= radius for one image outside, by bisection for its multiplier."""
    gram, error = matrix @ matrix.T, matrix @ a - y
    eye = torch.eye(len(y), dtype=torch.float64)
    low, high = 1e-12, 1e12
    for _ in range(200):
        w = (low * high) ** 0.5
        low, high = (w, high) if w * torch.linalg.solve(gram + w * eye, error).norm() < radius else (low, w)
    return a - matrix.T @ torch.linalg.solve(gram + low * eye, error)


@pytest.mark.parametrize("opaque", [False, True])
def test_many_iterations_project_onto_the_ellipsoid(opaque: bool) -> None:
    p = dense_gaussian()
    problem = replace(p.problem, operator=Opaque(p.operator)) if opaque else p.problem
    solver = FastDIPS(iterations=2000, descent_steps=3, rho=2.0, epsilon=0.4)
    x = solver._project(problem, A_START, 1.5, latent=False)
    expected = torch.stack([projection(a, p.a, y, 0.4) for a, y in zip(A_START, p.y, strict=True)])
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(norm(p.residual(x)), torch.full((3,), 0.4, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("opaque", [False, True])
def test_an_estimate_in_the_ball_is_not_moved(opaque: bool) -> None:
    p = dense_gaussian()
    problem = replace(p.problem, operator=Opaque(p.operator)) if opaque else p.problem
    inside = float(norm(p.residual(A_START)).max()) * 1.001
    x = FastDIPS(epsilon=inside)._project(problem, A_START, 0.3, latent=False)
    assert torch.equal(x, A_START)


@pytest.mark.parametrize("opaque", [False, True])
def test_a_step_has_the_length_of_the_exact_line_search(opaque: bool) -> None:
    p, variance, rho = dense_gaussian(), 0.7, 3.0
    problem = replace(p.problem, operator=Opaque(p.operator)) if opaque else p.problem
    x, target = A_START + 0.4, torch.tensor([[0.2, -0.3]], dtype=torch.float64).expand(3, 2)
    solver = FastDIPS(rho=rho, alpha_max=1e9)
    moved, reached = solver._descend(problem, x, A_START, target, variance, False)
    hessian = torch.eye(5, dtype=torch.float64) / variance + rho * p.a.T @ p.a
    g = (x - A_START) / variance + rho * (p.residual(x) - target) @ p.a
    length = squared_norm(g) / ((g @ hessian) * g).sum(1)
    # a forward difference of a linear map is exact up to rounding over the size of the probe
    torch.testing.assert_close(moved, x - length[:, None] * g, rtol=0, atol=1e-9)
    torch.testing.assert_close(reached, p.residual(moved), rtol=0, atol=1e-12)


class Cubed(Operator):
    """y = x^3, on which the best step of the linear model may lead up."""

    image_shape = measurement_shape = (5,)

    def forward(self, x: Tensor) -> Tensor:
        return x**3

    def select(self, rows: Tensor) -> Self:
        return self


def test_a_step_never_leads_up() -> None:
    p, solver, variance = dense_gaussian(batch=200), FastDIPS(rho=4.0, alpha_max=1e9), 5.0
    x = 0.3 * torch.randn(200, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, problem = torch.zeros_like(x), replace(p.problem, y=torch.ones_like(x), operator=Cubed())
    measured = problem.residual(x)
    moved, reached = solver._descend(problem, x, a, torch.zeros_like(x), variance, False)
    torch.testing.assert_close(reached, problem.residual(moved))
    before, after = solver._energy(x - a, measured, variance), solver._energy(moved - a, reached, variance)
    assert (after < before).all()
    # the step of the linear model alone would, for some
    g = x / variance + 4.0 * 3 * x**2 * measured
    length = squared_norm(g) / (squared_norm(g) / variance + 4.0 * squared_norm(3 * x**2 * g))
    full = x - length[:, None] * g
    assert (solver._energy(full - a, problem.residual(full), variance) > before).any()


@pytest.mark.parametrize("schedule", ["vp", "ve", "flow"])
def test_a_ball_without_bound_leaves_the_prior_alone(schedule: str) -> None:
    """Then every level is entered with fresh noise from its estimate."""
    p = dense_gaussian(schedule)
    rng, levels = p.rng(), levels_between(p.schedule, 4, 100.0, 0.1)
    x = levels[0].sigma * p.normal(rng)
    for t, s in pairwise(levels):
        x = s.alpha * p.denoise(x, t) + s.sigma * p.normal(rng)
    x_hat = FastDIPS(num_steps=4, epsilon=1e6).solve(p.problem)
    torch.testing.assert_close(x_hat, p.denoise(x, levels[-1]), rtol=1e-9, atol=1e-9)


def test_the_last_estimate_may_be_left_as_it_is() -> None:
    p = dense_gaussian()
    corrected, left = (
        FastDIPS(num_steps=5, epsilon=1e-3, correct_last=last).solve(p.problem) for last in (True, False)
    )
    assert (norm(p.residual(corrected)) < norm(p.residual(left))).all()


def test_the_ball_of_the_noise_is_that_of_each_image() -> None:
    p = dense_gaussian()
    problem = replace(p.problem, noise_std=torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64))
    radius = FastDIPS(epsilon=None)._radius(problem)
    torch.testing.assert_close(radius, problem.noise_std * 2**0.5)


@pytest.mark.parametrize("switch", [0.0, 1.0, 1e9])
def test_latents_are_corrected_in_pixels_above_the_switch_and_through_the_decoder_below(
    latent_prior: Prior, switch: float
) -> None:
    solver = FastDIPS(num_steps=6, sigma_max=10.0, iterations=30, descent_steps=3, sigma_switch=switch)
    metered = MeteredPrior(latent_prior, 3)
    problem = posed(SR, metered).problem
    levels = levels_between(latent_prior.schedule, 6, 10.0, 0.1)
    in_pixels = sum(level.ratio > switch for level in levels)
    x_hat = solver.solve(problem)
    assert metered.counts["encoder"].tolist() == [in_pixels] * 3
    assert metered.counts["decoder_backward"].tolist() == [(6 - in_pixels) * 90] * 3
    if switch > 0:  # the last fit is of the latent; an encoded image was clipped
        assert (norm(problem.residual(x_hat)) < 0.051).all()


def test_presets_are_table_2() -> None:
    for name, preset in FastDIPS.PRESETS.items():
        solver = parse_solver({"solver": "fast_dips", "preset": name})
        assert isinstance(solver, FastDIPS)
        assert solver.rho == (5.0 if name == "hdr" else 200.0)
        assert solver.sigma_max == (10.0 if name.startswith("latent") else 100.0)
        assert solver.num_steps == preset["num_steps"]
