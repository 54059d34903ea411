"""LATINO and PnP-CM: a few steps by hand with an exact one-call map, and their limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.priors import MeteredPrior, Prior
from ipsolve.priors.schedules import linear
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.base import parse_solver
from ipsolve.solvers.few_step.latino import LATINO
from ipsolve.solvers.few_step.pnp_cm import PnPCM

from .conftest import posed
from .dense_gaussian import SCHEDULES, DenseGaussian, Opaque, dense_gaussian

SR = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}
EYE = torch.eye(5, dtype=torch.float64)


def prox(p: DenseGaussian, x: Tensor, weight: Tensor) -> Tensor:
    """argmin ||A z - y||^2 + weight ||z - x||^2, a weight for each image."""
    normal = p.a.T @ p.a + weight[:, None, None] * EYE
    return torch.linalg.solve(normal, p.y @ p.a + weight[:, None] * x)


def latino_by_hand(p: DenseGaussian, entries: list[int], delta: float, residual: bool) -> Tensor:
    rng, grid = p.rng(), p.schedule.levels(1000)
    gram = p.a @ p.a.T + p.noise_std**2 * torch.eye(len(p.a), dtype=torch.float64)
    x = torch.linalg.solve(gram, p.y.T).T @ p.a
    for t in (grid[i] for i in entries):
        image = p.denoise(t.alpha * x + t.sigma * p.normal(rng), t)
        length = p.residual(image).norm(dim=1) if residual else torch.ones(3, dtype=torch.float64)
        x = prox(p, image, p.noise_std**2 * (t.alpha**2 + t.sigma**2) / (delta * length * t.sigma**2))
    return x


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("schedule", ["vp", "ve", "flow"])
def test_latino_by_hand(schedule: str, residual: bool) -> None:
    p = dense_gaussian(schedule)
    solver = LATINO(num_steps=4, delta=0.3, residual_delta=residual)
    expected = latino_by_hand(p, [0, 250, 500, 750], 0.3, residual)
    torch.testing.assert_close(solver.solve(p.problem), expected, rtol=1e-9, atol=1e-9)


def test_the_times_of_latino_are_those_of_its_code() -> None:
    assert [t.time for t in LATINO()._levels(linear())] == [999, 874, 749, 624, 499, 374, 249, 124]


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_latino_without_noise_measures_as_y(kind: str, request: pytest.FixtureRequest) -> None:
    prior = MeteredPrior(request.getfixturevalue(f"{kind}_prior"), 3)
    problem = posed(SR | {"noise_std": 0.0}, prior).problem
    assert problem.residual(LATINO().solve(problem)).abs().max() < 1e-7
    assert prior.counts["denoiser_backward"].tolist() == [0] * 3


def test_latino_without_a_step_is_a_chain_of_the_prior_alone() -> None:
    p = dense_gaussian("ve")
    solver = LATINO(num_steps=2, delta=1e-14, start="zeros")
    rng, grid = p.rng(), SCHEDULES["ve"].levels(1000)
    x = torch.zeros(3, 5, dtype=torch.float64)
    for t in (grid[0], grid[500]):
        x = p.denoise(t.alpha * x + t.sigma * p.normal(rng), t)
    torch.testing.assert_close(solver.solve(p.problem), x, rtol=0, atol=1e-8)


def pnp_cm_by_hand(p: DenseGaussian, solver: PnPCM) -> Tensor:
    rng, zero = p.rng(), torch.zeros(3, 5, dtype=torch.float64)
    x, u, x_ahead, u_ahead, signal = zero, zero, zero, zero, 1 - solver.start_std**2
    count = len(solver.deltas)
    for k, delta in enumerate(solver.deltas):
        std = math.sqrt(1 - signal)
        penalty = math.log1p(math.exp(solver.rhos[0] + k / (count - 1) * (solver.rhos[1] - solver.rhos[0])))
        z = prox(p, x_ahead - u_ahead, torch.full((3,), penalty, dtype=torch.float64))
        v, told = z + u_ahead + std * p.normal(rng), (1 + delta) * std
        x_new = p.mean + p.std**2 / (p.std**2 + told**2) * (v - p.mean)
        u_new = u_ahead + z - x_new
        x_ahead = x_new + solver.mu_0 / (k + 1) * (x_new - x)
        u_ahead = u_new + solver.mu_0 / (k + 1) * (u_new - u)
        x, u = x_new, u_new
        signal = min((1 + solver.gamma) * signal, 0.9999)
    return x


@pytest.mark.parametrize("schedule", ["vp", "ve", "flow"])
def test_pnp_cm_by_hand(schedule: str) -> None:
    p = dense_gaussian(schedule)
    solver = PnPCM(deltas=(0.5, 0.3, 0.2), start_std=0.6, gamma=0.15, rhos=(-2.0, 3.0), mu_0=0.4)
    torch.testing.assert_close(solver.solve(p.problem), pnp_cm_by_hand(p, solver), rtol=1e-9, atol=1e-9)


def test_the_noise_of_pnp_cm_falls_as_in_its_code_and_ends_above_zero() -> None:
    """iN = 100 and 150 of DDPM's table, of which the code takes the entry after, counted from a leading 1."""
    table = linear()
    for name, index in {"deblurring": 100, "super_resolution": 150}.items():
        solver = parse_solver({"solver": "pnp_cm", "preset": name})
        assert isinstance(solver, PnPCM)
        stds = solver._stds()
        assert stds[0] == pytest.approx(math.sqrt(1 - table.alphas_cumprod[index + 1]), abs=1e-3)
        assert stds[1] == pytest.approx(math.sqrt(1 - (1 + solver.gamma) * (1 - stds[0] ** 2)), abs=1e-9)
        assert stds[-1] == pytest.approx(0.01)


def test_pnp_cm_clips_what_it_returns() -> None:
    p = dense_gaussian(std=3.0)
    assert p.mean.abs().max() > 1
    assert PnPCM(clip_denoised=True).solve(p.problem).abs().max() <= 1


@pytest.mark.parametrize(
    "solver", [LATINO(num_steps=3, start="zeros", prox_iterations=400), PnPCM(prox_iterations=400)]
)
def test_gradient_steps_stand_for_the_proximal_map(solver: LATINO | PnPCM) -> None:
    p = dense_gaussian()
    iterated = solver.solve(replace(p.problem, operator=Opaque(p.operator)))
    torch.testing.assert_close(iterated, solver.solve(p.problem), rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver", [LATINO(), PnPCM()])
def test_latents_go_through_the_coder_once_a_step(latent_prior: Prior, solver: LATINO | PnPCM) -> None:
    metered = MeteredPrior(latent_prior, 3)
    x_hat = solver.solve(posed(SR, metered).problem)
    calls = metered.counts["denoiser"].tolist()
    assert x_hat.isfinite().all()
    assert metered.counts["encoder"].tolist() == metered.counts["decoder"].tolist() == calls


def test_a_start_from_a_pseudo_inverse_is_refused_where_there_is_none() -> None:
    task = parse_task({"operator": "hdr", "noise_std": 0.05})
    with pytest.raises(RequestError, match="needs a linear operator, hdr is not; allowed: start=zeros"):
        LATINO().check(task, frozenset({"pixel"}))
    LATINO(start="zeros").check(task, frozenset({"pixel"}))
