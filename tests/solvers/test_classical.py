"""The baselines without a prior: pseudo-inverse and total variation."""

from __future__ import annotations

import torch

from ipsolve.priors import Prior
from ipsolve.solvers import parse_solver
from ipsolve.solvers.classical.tv import differences, differences_adjoint, total_variation, tv_prox

from .conftest import posed


def test_exact_pseudo_inverse_fits_the_measurement(pixel_prior: Prior) -> None:
    problem = posed({"operator": "super_resolution", "factor": 2, "noise_std": 0.05}, pixel_prior).problem
    solver = parse_solver({"solver": "pseudo_inverse", "signal_std": None})
    x_hat = solver.solve(problem)
    assert problem.residual(x_hat).abs().max() < 1e-7


def test_damped_pseudo_inverse_shrinks_a_denoising_problem_by_the_wiener_gain(pixel_prior: Prior) -> None:
    problem = posed({"operator": "denoising", "noise_std": 0.2}, pixel_prior).problem
    solver = parse_solver({"solver": "pseudo_inverse", "signal_std": 0.5})
    x_hat = solver.solve(problem)
    torch.testing.assert_close(x_hat, problem.y * 0.25 / (0.25 + 0.04))


def test_differences_and_their_adjoint() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    p = torch.randn(2, 2, 3, 5, 7, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((differences(x) * p).sum(), (x * differences_adjoint(p)).sum())


def test_tv_of_a_step_is_its_height_times_its_length() -> None:
    x = torch.zeros(1, 3, 6, 8)
    x[:, :, 3:] = 0.5
    torch.testing.assert_close(total_variation(x), torch.tensor([3**0.5 * 0.5 * 8]))


def test_tv_prox_has_no_duality_gap() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    weight = 0.2
    v, dual = tv_prox(x, weight, torch.zeros(2, *x.shape, dtype=x.dtype), 2000)
    primal = 0.5 * (v - x).square().flatten(1).sum(1) + weight * total_variation(v)
    lower = 0.5 * x.square().flatten(1).sum(1) - 0.5 * v.square().flatten(1).sum(1)  # the dual objective at ``dual``
    assert dual.square().sum((0, 2)).max() <= 1 + 1e-12
    torch.testing.assert_close(primal, lower, rtol=1e-5, atol=0)


def test_admm_reaches_the_minimum_of_its_objective(pixel_prior: Prior) -> None:
    """No small move lowers ||A x - y||^2 / 2 + lambda TV(x), and the answer does not depend on the penalty."""
    problem = posed({"operator": "super_resolution", "factor": 2, "noise_std": 0.05}, pixel_prior, batch=1).problem
    weight = 0.02

    def solve(penalty: float) -> torch.Tensor:
        solver = parse_solver(
            {"solver": "tv", "tv_weight": weight, "penalty": penalty, "num_steps": 300, "inner_steps": 10}
        )
        return solver.solve(problem)

    def objective(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * problem.residual(x).square().flatten(1).sum(1) + weight * total_variation(x)

    x_hat = solve(0.1)
    torch.testing.assert_close(objective(solve(0.3)), objective(x_hat), rtol=1e-4, atol=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        move = 1e-2 * torch.randn(x_hat.shape, generator=generator, dtype=x_hat.dtype)
        assert objective(x_hat + move) > objective(x_hat)


def test_a_heavy_weight_leaves_the_mean_colour(pixel_prior: Prior) -> None:
    problem = posed({"operator": "denoising", "noise_std": 0.1}, pixel_prior, batch=1).problem
    solver = parse_solver({"solver": "tv", "tv_weight": 50.0, "penalty": 1.0, "num_steps": 100, "inner_steps": 20})
    x_hat = solver.solve(problem)
    mean = problem.y.mean((2, 3), keepdim=True)
    torch.testing.assert_close(x_hat, mean.expand_as(x_hat), rtol=0, atol=1e-3)
