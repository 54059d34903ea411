"""RLSD: its repulsion by its formula, its particles by hand, and RED-diff where there is one."""

from __future__ import annotations

import math
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
from ipsolve.solvers.variational.rlsd import RLSD, repulsion

from .conftest import posed
from .dense_gaussian import DenseGaussian, dense_gaussian

F64 = torch.float64


def repulsion_by_hand(v: Tensor) -> Tensor:
    """R of the particles of one image, (P, d), particle by particle."""
    count, result = len(v), torch.zeros_like(v)
    for i in range(count):
        others = [j for j in range(count) if j != i]
        squared = torch.stack([(v[i] - v[j]).square().sum() for j in others])
        h = squared.sqrt().median() ** 2 / math.log(count + 1)
        k = (-squared / h).exp()
        result[i] = sum(2 / h * k[n] * (v[i] - v[j]) for n, j in enumerate(others)) / k.sum()
    return result


@pytest.mark.parametrize("count", [2, 3, 6])
def test_repulsion_is_that_of_each_cloud(count: int) -> None:
    v = torch.randn(3 * count, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    expected = torch.cat([repulsion_by_hand(cloud) for cloud in v.reshape(3, count, 5)])
    torch.testing.assert_close(repulsion(v, count), expected, rtol=1e-10, atol=1e-12)


def test_two_particles_do_repel() -> None:
    """Away from each other, at 2 log 3 / distance; with log(P - 1) in the kernel width they would not."""
    v = torch.tensor([[1.0, 2.0], [1.0, 5.0]], dtype=F64)
    away = repulsion(v, 2)
    torch.testing.assert_close(away[0], torch.tensor([0.0, -2 * math.log(3) / 3], dtype=F64))
    torch.testing.assert_close(away[1], -away[0])


def test_particles_at_one_place_and_a_single_one_do_not() -> None:
    assert (repulsion(torch.ones(8, 3, dtype=F64), 4) == 0).all()
    assert (repulsion(torch.tensor([[1.0], [1.0], [1.0], [9.0]], dtype=F64), 4)[:3].isfinite()).all()


def by_hand(p: DenseGaussian, solver: RLSD) -> Tensor:
    rng, count, (m, d) = p.rng(), solver.num_particles, p.a.shape

    def noise() -> Tensor:
        return rng.normal(count, d, dtype=F64)

    def adam(point: Tensor, slope: Tensor, moments: list[Tensor], k: int, lr: float) -> Tensor:
        moments[0] = 0.9 * moments[0] + 0.1 * slope
        moments[1] = 0.99 * moments[1] + 0.01 * slope**2
        return point - lr * (moments[0] / (1 - 0.9**k)) / ((moments[1] / (1 - 0.99**k)).sqrt() + 1e-8)

    z = noise()
    x = noise() if solver.augmented else z
    of_z, of_x, k = [torch.zeros_like(z)] * 2, [torch.zeros_like(z)] * 2, 0
    of_z, of_x = list(of_z), list(of_x)
    for t in p.schedule.levels(solver.num_steps)[:-1]:
        eps = noise()
        if t.alpha == 0:
            continue
        k += 1
        z_t, scale = t.alpha * z + t.sigma * eps, math.hypot(t.alpha, t.sigma)
        found = (z_t - t.alpha * p.denoise(z_t, t)) / t.sigma
        away = torch.stack([repulsion_by_hand(cloud / scale) for cloud in z_t])
        g = found - eps - solver.gamma * t.sigma / scale * away
        pull = solver.w_t * t.sigma / t.alpha * g / d
        if solver.augmented:
            z = adam(z, (z - x) / d + pull / solver.rho, of_z, k, solver.lr_z)
            fit = (x @ p.a.T - p.y[:, None]) @ p.a / m
            x = adam(x, fit + solver.rho * (x - z) / d, of_x, k, solver.lr_x)
        else:
            z = adam(z, (z @ p.a.T - p.y[:, None]) @ p.a / m + pull, of_z, k, solver.lr_z)
    return x if solver.augmented else z


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("schedule", ["vp", "ve", "flow"])
def test_particles_by_hand(schedule: str, gamma: float, augmented: bool) -> None:
    """At gamma = 0 nothing of the hand formula for a particle holds another one."""
    p = dense_gaussian(schedule)
    solver = RLSD(num_steps=5, num_particles=3, gamma=gamma, augmented=augmented, lr_z=0.05, lr_x=0.07)
    found = solver.solve(p.problem)
    torch.testing.assert_close(found.x, by_hand(p, solver), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found.log_weights, torch.full((3, 3), -math.log(3), dtype=F64))


def test_one_particle_is_red_diff() -> None:
    p = dense_gaussian()
    one = RLSD(num_steps=20, num_particles=1, augmented=False, start="pinv", w_t=0.25, lr_z=0.1)
    expected = REDDiff(num_steps=20, lambda_=0.25, lr=0.1).solve(p.problem)
    torch.testing.assert_close(one.solve(p.problem).x[:, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("augmented", [False, True])
def test_repulsion_keeps_particles_apart_where_nothing_is_measured(augmented: bool) -> None:
    p = dense_gaussian(noise_std=0.05)
    mask = torch.eye(5, dtype=F64)[None, :2]
    problem = replace(p.problem, y=torch.zeros(3, 2, dtype=F64), operator=Matrix(mask))
    settings = {"num_steps": 300, "num_particles": 4, "augmented": augmented, "lr_z": 0.02, "lr_x": 0.02}

    def spread(gamma: float) -> Tensor:
        solver = RLSD(gamma=gamma, **settings)  # type: ignore[arg-type]
        return solver.solve(replace(problem, rng=p.rng())).x[..., 2:].var(1).mean(1)

    assert (spread(2.0) > 1.5 * spread(0.0)).all()


def test_pixels_of_an_orthonormal_decoder_are_as_good_as_latents(latent_prior: Prior) -> None:
    """Distances are the same, and the way back turns the one repulsion into the other."""
    task = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}

    def answer(features: str) -> Tensor:
        solver = parse_solver({"solver": "rlsd", "num_steps": 5, "num_particles": 3, "features": features})
        assert isinstance(solver, RLSD)
        return solver.solve(posed(task, latent_prior).problem).x

    torch.testing.assert_close(answer("image"), answer("latent"), rtol=0, atol=1e-9)


def test_a_start_from_a_pseudo_inverse_is_refused_where_there_is_none() -> None:
    task = parse_task({"operator": "hdr", "noise_std": 0.05})
    with pytest.raises(RequestError, match="needs a linear operator, hdr is not; allowed: start=noise"):
        RLSD(start="pinv").check(task, frozenset({"pixel"}))
    RLSD().check(task, frozenset({"pixel"}))
