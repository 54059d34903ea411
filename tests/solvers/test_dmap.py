"""DMAP on a Gaussian prior: its step by hand, its sphere, and that it seeks modes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ipsolve.priors import MeteredPrior, Prior
from ipsolve.priors.schedules import scaled_linear
from ipsolve.randomness import image_rng
from ipsolve.solvers.guidance.dmap import DMAP
from ipsolve.solvers.steps.diffusion import posterior_std

from .conftest import ShuffledPrior, mixture, posed
from .gaussian_problem import IDS, SCHEDULES, D, GaussianProblem, Step, gaussian_problem, mv, steps

TASK: dict[str, object] = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}


def by_hand(gauss: GaussianProblem, x: Tensor, step: Step, z: Tensor, ascents: int, zeta: float) -> Tensor:
    """Ascent in the variance preserving state x^VP_s = x_s / k_s, by the gradient at x_s, then the projection."""
    x_0 = gauss.denoise(x, step.t)
    mean = step.s.alpha * x_0 + step.c_2 * (x - step.t.alpha * x_0) / step.t.sigma
    if step.std == 0:
        return mean
    x = mean + step.std * z
    for _ in range(ascents):
        r = mv(gauss.a, gauss.denoise(x, step.s)) - gauss.y
        g = mv(gauss.jacobian(step.s).T, mv(gauss.a.mT, r / r.norm(dim=1, keepdim=True)))
        x = step.k_s * (x / step.k_s - zeta * step.k_s * g)
    d = x - mean
    return mean + math.sqrt(D) * step.std * d / d.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("ascents", [0, 1, 3])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dmap_by_hand(schedule: str, ascents: int) -> None:
    gauss = gaussian_problem(schedule, std=None)
    rng = image_rng(0, IDS, "solver")
    x = SCHEDULES[schedule].levels(5)[0].sigma * rng.normal(D, dtype=torch.float64)
    for step in steps(schedule, 5, 0.8):
        x = by_hand(gauss, x, step, rng.normal(D, dtype=torch.float64), ascents, 0.6)
    x_hat = gauss.solve(DMAP(num_steps=5, ascent_steps=ascents, zeta=0.6, eta=0.8))
    torch.testing.assert_close(x_hat, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ascents", [0, 4])
def test_every_state_lies_on_the_sphere_of_its_noise(ascents: int, pixel_prior: Prior) -> None:
    problem = posed(TASK, pixel_prior).problem
    t, s = pixel_prior.schedule.levels(10)[4:6]
    sigma, mean = posterior_std(t, s), problem.noise()
    x = DMAP(ascent_steps=ascents, zeta=5.0)._step(problem, mean, sigma, s, problem.noise())
    radius = math.sqrt(mean[0].numel()) * sigma
    torch.testing.assert_close((x - mean).flatten(1).norm(dim=1), torch.full((3,), radius, dtype=torch.float64))


def test_it_is_no_sampler_of_the_posterior() -> None:
    """What A sees of its samples is spread far less than in the posterior, as soon as it climbs at all."""
    gauss, count = gaussian_problem("vp", std=0.7, noise_std=0.5), 400
    rng = image_rng(0, [f"draw{i}" for i in range(count)], "solver")
    repeated = replace(gauss.problem.select(torch.zeros(count, dtype=torch.int64)), rng=rng)
    covariance = gauss.posterior()[1][0]
    exact = torch.trace(gauss.a[0] @ covariance @ gauss.a[0].T)
    spread = [
        (DMAP(num_steps=100, ascent_steps=k).solve(repeated) @ gauss.a[0].T).var(0).sum() / exact for k in (0, 1, 3)
    ]
    assert spread[0] > 1
    assert max(spread[1:]) < 0.2


def test_ascent_fits_better(latent_prior: Prior) -> None:
    residuals = []
    for zeta in (0.0, 1.0):
        problem = posed(TASK, latent_prior).problem
        x = DMAP(num_steps=30, zeta=zeta).solve(problem)
        residuals.append(problem.residual(x).flatten(1).square().mean(1))
    assert (residuals[1] < 0.7 * residuals[0]).all()


@pytest.mark.parametrize("end_clean", [False, True])
def test_calls_are_those_of_the_cost_but_for_a_step_without_noise(end_clean: bool) -> None:
    prior = ShuffledPrior(mixture())
    prior.schedule = scaled_linear(0.0015, 0.0195, end_clean=end_clean)
    metered, solver = MeteredPrior(prior, 3), DMAP(num_steps=4, ascent_steps=2)
    assert solver.solve(posed(TASK, metered).problem).isfinite().all()
    bound, missing = solver.cost(prior.traits), 2 if end_clean else 0
    for name, calls in metered.counts.items():
        expected = getattr(bound, name) - (missing if getattr(bound, name) else 0)
        assert calls.tolist() == [expected] * 3, name
