"""DCDP and SITCOM: two methods that fit the data by iteration, against the same iterations by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.priors import MeteredPrior, Prior
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.base import parse_solver
from ipsolve.solvers.decoupled.dcdp import DCDP
from ipsolve.solvers.decoupled.sitcom import SITCOM
from ipsolve.solvers.steps.optimise import Objective, adamw

from .conftest import posed
from .dense_gaussian import DenseGaussian, dense_gaussian

SR = {"operator": "super_resolution", "factor": 2}


def dcdp_by_hand(p: DenseGaussian, lr: float, purifications: list[list[int]]) -> Tensor:
    """Three SGD steps, then DDIM over the given entries of the 1000-step grid, in turns."""
    rng = p.rng()
    grid = p.schedule.levels(1000)
    x = torch.zeros(len(p.y), len(p.mean), dtype=torch.float64)
    for entries in purifications:
        velocity = torch.zeros_like(x)
        for _ in range(3):
            velocity = 0.9 * velocity + 2 * p.residual(x) @ p.a
            x = x - lr * velocity
        levels = [grid[i] for i in entries]
        if not levels:
            continue
        state = levels[0].alpha * x + levels[0].sigma * p.normal(rng)
        for t, s in pairwise(levels):
            x_0 = p.denoise(state, t)
            state = s.alpha * x_0 + s.sigma * (state - t.alpha * x_0) / t.sigma
        x = p.denoise(state, levels[-1])
    return x


@pytest.mark.parametrize("schedule", ["vp", "ve", "flow"])
@pytest.mark.parametrize(
    ("settings", "purifications"),
    [
        ({"start_time": 400, "ddim_steps": 2}, [[600, 800], [800, 900], []]),
        ({"start_time": 400, "ddim_steps": 1}, [[600], [800], []]),
        ({"start_time": 1000, "end_time": 2, "ddim_steps": 4}, [[0, 250, 500, 750], [499, 624, 749, 874], [998, 999]]),
    ],
)
def test_dcdp_by_hand(schedule: str, settings: dict[str, int], purifications: list[list[int]]) -> None:
    p = dense_gaussian(schedule)
    solver = parse_solver({"solver": "dcdp", "num_steps": 3, "iterations": 3, "lr": 0.2, **settings})
    x_hat = solver.solve(p.problem)
    torch.testing.assert_close(x_hat, dcdp_by_hand(p, 0.2, purifications), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kind", "space"), [("pixel", "pixel"), ("latent", "pixel"), ("latent", "latent")])
def test_dcdp_ends_on_the_data(kind: str, space: str, request: pytest.FixtureRequest) -> None:
    """The last phase fits and does not purify: A x_hat = y without noise."""
    prior: Prior = request.getfixturevalue(f"{kind}_prior")
    solver = parse_solver({"solver": "dcdp", "num_steps": 2, "iterations": 200, "space": space, "ddim_steps": 3})
    metered = MeteredPrior(prior, 3)
    problem = posed(SR, metered).problem
    assert problem.residual(solver.solve(problem)).abs().max() < 1e-3
    assert metered.counts["denoiser"].tolist() == [3] * 3
    assert metered.counts["decoder_backward"].tolist() == [400 if space == "latent" else 0] * 3


def test_dcdp_presets_are_the_published_step_on_the_mean_square_at_256() -> None:
    assert DCDP.PRESETS["blur"]["lr"] * 3 * 256**2 == pytest.approx(1e5)
    assert DCDP.PRESETS["super_resolution"]["lr"] * 3 * 64**2 == pytest.approx(1e3)
    for preset in DCDP.PRESETS:
        assert parse_solver({"solver": "dcdp", "preset": preset}).cost(frozenset({"latent"})).denoiser > 0


def test_dcdp_in_latent_space_is_refused_without_latents() -> None:
    with pytest.raises(RequestError, match="solver dcdp with space=latent needs a latent prior; allowed: space=pixel"):
        DCDP(space="latent").check(parse_task(SR), frozenset({"pixel"}))


def sitcom_by_hand(p: DenseGaussian, lambda_: float, lr: float, levels: int, iterations: int) -> Tensor:
    rng = p.rng()
    grid = p.schedule.levels(levels)
    x_t = grid[0].sigma * p.normal(rng)
    x_0 = x_t
    for t, s in pairwise(grid):
        scale = math.sqrt(t.alpha**2 + t.sigma**2)  # 1 for variance-preserving schedules
        v, first, second = x_t, torch.zeros_like(x_t), torch.zeros_like(x_t)
        for k in range(1, iterations + 1):
            slope = 2 * p.gain(t) * p.residual(p.denoise(v, t)) @ p.a + 2 * lambda_ * (v - x_t)
            first = 0.9 * first + 0.1 * scale * slope
            second = 0.999 * second + 0.001 * (scale * slope) ** 2
            v = v - scale * lr * (first / (1 - 0.9**k)) / ((second / (1 - 0.999**k)).sqrt() + 1e-8)
        x_0 = p.denoise(v, t)
        x_t = s.alpha * x_0 + s.sigma * p.normal(rng)
    return x_0


@pytest.mark.parametrize("lambda_", [0.0, 0.8])
@pytest.mark.parametrize("schedule", ["vp", "ve", "flow"])
def test_sitcom_by_hand(schedule: str, lambda_: float) -> None:
    p = dense_gaussian(schedule)
    solver = parse_solver(
        {"solver": "sitcom", "num_steps": 3, "iterations": 4, "lr": 0.05, "lambda_": lambda_, "stop_margin": 0}
    )
    x_hat = solver.solve(replace(p, noise_std=0.0).problem)  # nothing stops
    torch.testing.assert_close(x_hat, sitcom_by_hand(p, lambda_, 0.05, 3, 4), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_sitcom_stops_each_image_at_the_noise_level(kind: str, request: pytest.FixtureRequest) -> None:
    """The discrepancy principle: the residual ends below noise_std, but the noise itself is not fitted."""
    prior: Prior = request.getfixturevalue(f"{kind}_prior")
    metered = MeteredPrior(prior, 3)
    problem = posed({**SR, "noise_std": 0.2}, metered).problem
    x_hat = SITCOM(num_steps=5, iterations=100, lr=0.05).solve(problem)
    rms = problem.image_mean_square(x_hat).sqrt()
    assert (rms < 0.201).all()
    assert (rms > 0.1).all()
    steps = metered.counts["denoiser_backward"]
    assert (steps < 500).all()
    assert len(set(steps.tolist())) == 3, "images stop by themselves"
    assert (metered.counts["denoiser"] == steps + 5).all()


def test_sitcom_clips_what_it_compares_and_returns() -> None:
    p = dense_gaussian(std=3.0)
    assert p.mean.abs().max() > 1
    x_hat = SITCOM(num_steps=3, iterations=3, clip=True).solve(p.problem)
    assert x_hat.abs().max() <= 1


def test_a_proximity_term_pulls_back_to_the_start_and_leaves_the_stop_alone() -> None:
    """min ||x - a||^2 + w ||x - s||^2 is (a + w s) / (1 + w); each image has its own threshold on the first term."""
    target = torch.tensor([[2.0, -1.0], [2.0, -1.0]], dtype=torch.float64)
    start = torch.tensor([[1.0, 0.5], [1.0, 0.5]], dtype=torch.float64)
    calls = [0, 0]

    def objective_of(rows: Tensor) -> Objective:
        def objective(x: Tensor) -> Tensor:
            for row in rows.tolist():
                calls[row] += 1
            return (x - target[rows]).square().sum(1)

        return objective

    # the misfit at the optimum is (w / (1 + w))^2 ||a - s||^2 = 1.17: below the first threshold, above the second
    out = adamw(
        objective_of,
        start,
        lr=0.05,
        max_iterations=400,
        threshold=torch.tensor([1.5, 1e-9], dtype=torch.float64),
        weight_decay=0.0,
        proximity=1.5,
    )
    assert calls[0] < 50
    assert 1.17 < float((out[0] - target[0]).square().sum()) < 1.5
    torch.testing.assert_close(out[1], (target[1] + 1.5 * start[1]) / 2.5, rtol=0, atol=1e-6)
    assert calls[1] == 400
