"""DDS: Krylov corrections by hand, and what they become when run to the end."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ipsolve.evaluation.sampling import draw
from ipsolve.priors import Prior
from ipsolve.solvers import Solver
from ipsolve.solvers.projection.ddnm import DDNM
from ipsolve.solvers.projection.dds import DDS

from .conftest import posed
from .dense_gaussian import SCHEDULES, DenseGaussian

D = 5
MEAN = torch.linspace(-1, 1, D, dtype=torch.float64)
A = torch.randn(2, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
Y = torch.tensor([[0.7, -0.4]], dtype=torch.float64)
IDENTITY = torch.eye(D, dtype=torch.float64)


def gaussian(schedule: str, noise_std: float) -> DenseGaussian:
    return DenseGaussian(A, Y, MEAN, 0.7, noise_std, SCHEDULES[schedule])


def run(solver: Solver, p: DenseGaussian) -> Tensor:
    return draw(solver, p.problem)[:, 0]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("noisy", [True, False])
def test_one_conjugate_gradient_step_by_hand(schedule: str, noisy: bool) -> None:
    """The first step is steepest descent: x_0 + (r.r / r.Mr) r."""
    gamma, eta, p = 0.7, 0.6, gaussian(schedule, 0.1 if noisy else 0.0)
    levels = p.schedule.levels(4)
    matrix = IDENTITY + gamma * A.T @ A if noisy else A.T @ A
    rng = p.rng()
    x = levels[0].sigma * p.normal(rng)[0]
    for t, s in pairwise(levels):
        x_0 = p.denoise(x, t)
        eps = (x - t.alpha * x_0) / t.sigma
        r = (gamma if noisy else 1.0) * A.T @ (Y[0] - A @ x_0)
        x_0 = x_0 + (r @ r) / (r @ matrix @ r) * r
        fresh = p.normal(rng)[0]
        x = s.alpha * x_0 + s.sigma * ((1 - eta**2) ** 0.5 * eps + eta * fresh)
    result = run(DDS(num_steps=4, cg_steps=1, gamma=gamma, eta=eta), p)
    torch.testing.assert_close(result[0], x_0, rtol=1e-10, atol=1e-10)


def test_run_to_the_end_it_is_the_proximal_point() -> None:
    """argmin ||A x - y||^2 + ||x - x_0||^2 / gamma, reached in as many steps as A has rows."""
    gamma, x_0, p = 0.7, MEAN[None] + 1, gaussian("vp", 0.1)
    solved = DDS(cg_steps=2, gamma=gamma)._consistent(p.operator, p.problem, x_0)
    expected = torch.linalg.solve(IDENTITY + gamma * A.T @ A, (x_0 + gamma * Y @ A)[0])
    torch.testing.assert_close(solved[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noiseless_and_run_to_the_end_it_is_ddnm(schedule: str) -> None:
    outputs = [run(solver, gaussian(schedule, 0.0)) for solver in (DDS(num_steps=10, cg_steps=2), DDNM(num_steps=10))]
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(outputs[0] @ A.T, Y, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_noiseless_inpainting_is_exact_also_behind_an_autoencoder(kind: str, request: pytest.FixtureRequest) -> None:
    """A^T A is a projection, so that a single step reaches the data."""
    prior: Prior = request.getfixturevalue(f"{kind}_prior")
    problem = posed({"operator": "random_inpainting"}, prior).problem
    assert problem.residual(DDS(num_steps=5, cg_steps=1).solve(problem)).abs().max() < 1e-9
