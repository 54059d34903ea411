"""Gauss-Newton DPS as it is reconstructed: exact on Gaussian priors, by matrices or by automatic differentiation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ipsolve.linalg import gmres
from ipsolve.priors import Prior
from ipsolve.randomness import image_rng
from ipsolve.solvers.guidance.gauss_newton_dps import GaussNewtonDPS
from ipsolve.solvers.guidance.mmps import MMPS

from .conftest import posed
from .dense_gaussian import Opaque
from .gaussian_problem import IDS, SCHEDULES, D, GaussianProblem, M, gaussian_problem, mv

EXACT = GaussNewtonDPS(num_steps=6, iterations=D, normal_damping=0.0)
F64 = torch.float64


def state(gauss: GaussianProblem, schedule: str, step: int) -> tuple[Tensor, object]:
    t = SCHEDULES[schedule].levels(20)[step]
    return t.alpha * gauss.mean + t.sigma * image_rng(0, IDS, "state").normal(D, dtype=F64), t


@pytest.mark.parametrize("opaque", [False, True], ids=["linear", "differentiated"])
@pytest.mark.parametrize("step", [0, 10, 19])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_estimate_is_the_exact_posterior_mean(schedule: str, step: int, opaque: bool) -> None:
    """E[x_0 | x_t, y] for a covariance that is no multiple of I, against the sum of precisions."""
    gauss = gaussian_problem(schedule, std=None)
    x_t, t = state(gauss, schedule, step)
    operator = Opaque(gauss.problem.operator) if opaque else gauss.problem.operator  # type: ignore[arg-type]
    x_0 = EXACT._corrected(replace(gauss.problem, operator=operator), x_t, t)  # type: ignore[arg-type]
    torch.testing.assert_close(x_0, gauss.posterior(x_t, t)[0], rtol=1e-7, atol=1e-7)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_is_mmps_on_a_gaussian(schedule: str) -> None:
    gauss = gaussian_problem(schedule, std=None)
    expected = gauss.solve(MMPS(num_steps=6, iterations=M))
    torch.testing.assert_close(gauss.solve(EXACT), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_damped_system_by_hand(schedule: str) -> None:
    """(damping / r^2 (I + kappa u u^T) + J^T A^T A / sigma_y^2) delta = J^T A^T (y - A x_0) / sigma_y^2."""
    gauss, damping, kappa = gaussian_problem(schedule, std=None), 2.5, 7.0
    x_t, t = state(gauss, schedule, 12)
    x_0, r = gauss.denoise(x_t, t), t.sigma / t.alpha  # type: ignore[arg-type,attr-defined]
    u = x_t / t.alpha - x_0  # type: ignore[attr-defined]
    u = u / u.norm(dim=1, keepdim=True)
    pulled = t.alpha * gauss.jacobian(t).T @ gauss.a.mT / gauss.noise_std**2  # type: ignore[arg-type,attr-defined]
    system = damping / r**2 * (torch.eye(D, dtype=F64) + kappa * u[:, :, None] * u[:, None]) + pulled @ gauss.a
    delta = torch.linalg.solve(system, mv(pulled, gauss.y - mv(gauss.a, x_0)))
    solver = GaussNewtonDPS(iterations=D, damping=damping, normal_damping=kappa)
    found = solver._corrected(gauss.problem, x_t, t)  # type: ignore[arg-type]
    torch.testing.assert_close(found, x_0 + delta, rtol=1e-7, atol=1e-7)


def test_without_noise_the_estimate_measures_as_y() -> None:
    gauss = gaussian_problem("vp", std=None, noise_std=0.0)
    x_hat = gauss.solve(EXACT)
    torch.testing.assert_close(mv(gauss.a, x_hat), gauss.y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", ["hdr", "phase_retrieval"])
def test_it_takes_any_differentiable_operator(task: str, pixel_prior: Prior) -> None:
    residuals = []
    for damping in (1e12, 1.0):
        problem = posed({"operator": task, "noise_std": 0.05}, pixel_prior).problem
        x = GaussNewtonDPS(num_steps=20, damping=damping).solve(problem)
        residuals.append(problem.distance(x).sum())
    assert residuals[1] < 0.8 * residuals[0]


def test_gmres_solves_systems_that_are_not_symmetric() -> None:
    generator = torch.Generator().manual_seed(0)
    m, b = torch.randn(4, 6, 6, generator=generator, dtype=F64), torch.randn(4, 6, generator=generator, dtype=F64)
    torch.testing.assert_close(gmres(lambda v: mv(m, v), b, 6), torch.linalg.solve(m, b), rtol=1e-8, atol=1e-8)
    # k steps: the least residual over the span of b, M b, ... M^(k-1) b
    krylov = torch.stack([b, mv(m, b), mv(m, mv(m, b))], 2)
    least = torch.linalg.lstsq(m @ krylov, b[..., None]).solution
    torch.testing.assert_close(gmres(lambda v: mv(m, v), b, 3), (krylov @ least)[..., 0], rtol=1e-8, atol=1e-8)
    # solved early, and nothing to solve
    plain = gmres(lambda v: 2 * v, b, 4)
    torch.testing.assert_close(plain, b / 2, rtol=1e-12, atol=1e-12)
    assert (gmres(lambda v: mv(m, v), torch.zeros_like(b), 3) == 0).all()
