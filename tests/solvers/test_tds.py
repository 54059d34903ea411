"""TDS: weights by hand, the exact law of a Gaussian prior at any number of steps, and the weights of a mixture."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.distributions import MultivariateNormal

from ipsolve.operators.matrix import Matrix
from ipsolve.priors import MeteredPrior, Prior
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedules import linear
from ipsolve.problem import Problem
from ipsolve.randomness import image_rng
from ipsolve.solvers.monte_carlo.tds import TDS

from .conftest import posed
from .gaussian_chain import (
    COVARIANCE,
    F64,
    MEAN,
    SCHEDULES,
    A,
    Y,
    assert_posterior,
    assert_samples,
    exact,
    moments,
    posterior,
    problem,
    runs,
    weights,
    z_scores,
)

NOISE_STD = 0.4
EYE = torch.eye(3, dtype=F64)


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize(("tau", "ess_threshold"), [(None, 0.0), (0.8, 0.0), (0.8, 1.0)])
def test_particles_and_weights_by_hand(name: str, tau: float | None, ess_threshold: float) -> None:
    """Wu et al. 2023, Algorithm 1, written out for a linear denoiser, resampled never or at every step."""
    solver = TDS(num_steps=3, num_particles=5, eta=0.7, tau=tau, ess_threshold=ess_threshold)
    levels = SCHEDULES[name].levels(3)
    cloud = solver.solve(replace(problem(1, NOISE_STD, SCHEDULES[name]), rng=image_rng(0, ["run"], "solver")))

    rng = image_rng(0, ["run"], "solver")
    state = levels[0].sigma * rng.normal(5, 3, dtype=F64)[0]
    total = torch.zeros(5, dtype=F64)
    before = torch.zeros(5, dtype=F64)
    for t, s in pairwise(levels):
        gain = t.alpha * COVARIANCE @ torch.linalg.inv(t.alpha**2 * COVARIANCE + t.sigma**2 * EYE)
        x_0 = MEAN + (state - t.alpha * MEAN) @ gain.T
        ratio = (t.sigma / t.alpha) ** 2
        variance = NOISE_STD**2 + (ratio if tau is None else ratio * tau**2 / (ratio + tau**2))
        likelihood = MultivariateNormal(x_0 @ A.T, variance * torch.eye(2, dtype=F64))
        log_twist = likelihood.log_prob(Y) + math.log(2 * math.pi * variance)  # densities of y up to their constants
        total += log_twist - before
        u = float(rng.uniform(1, dtype=F64))
        if ess_threshold == 1.0:
            cumulative = total.softmax(0).cumsum(0).tolist()
            ancestors = [next(j for j in range(5) if cumulative[j] > (i + u) / 5) for i in range(5)]
            state, x_0, log_twist, total = (
                state[ancestors],
                x_0[ancestors],
                log_twist[ancestors],
                torch.zeros(5, dtype=F64),
            )
        v = 0.49 * s.sigma**2 / t.sigma**2 * (t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2)
        mean = s.alpha * x_0 + math.sqrt(s.sigma**2 - v) * (state - t.alpha * x_0) / t.sigma
        twisted = mean + v * ((Y - x_0 @ A.T) / variance) @ A @ gain
        state = twisted + math.sqrt(v) * rng.normal(5, 3, dtype=F64)[0]
        if v > 0:
            total += MultivariateNormal(mean, v * EYE).log_prob(state)
            total -= MultivariateNormal(twisted, v * EYE).log_prob(state)
        before = log_twist
    total += -0.5 * ((Y - state @ A.T) ** 2).sum(1) / NOISE_STD**2 - before
    assert cloud.log_weights is not None
    torch.testing.assert_close(cloud.x[0], state, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(cloud.log_weights[0], total.log_softmax(0), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize(("eta", "ess_threshold"), [(1.0, 1.0), (0.6, 0.5), (1.0, 0.0)])
def test_exact_for_the_model_at_any_number_of_steps(name: str, eta: float, ess_threshold: float) -> None:
    """The particles have the law of the model's last state given y, though six steps are far from the diffusion."""
    levels, count = SCHEDULES[name].levels(6), 60
    law = exact(levels, eta, lambda k, b: b.observe(A, Y, NOISE_STD**2 * torch.eye(2, dtype=F64)) if k == 6 else b)
    solver = TDS(num_steps=6, num_particles=400, eta=eta, ess_threshold=ess_threshold)
    assert_samples(solver.solve(problem(count, NOISE_STD, SCHEDULES[name])), law)


def test_the_posterior_and_a_falling_error() -> None:
    """With many steps the law is the posterior; the spread of runs falls with the number of particles."""
    law, count = posterior(NOISE_STD), 40
    errors = []
    for particles in (4, 64):
        solver = TDS(num_steps=60, num_particles=particles)
        cloud = solver.solve(problem(count, NOISE_STD, linear()))
        errors.append((moments(cloud)[0] - law.mean).square().sum(1).mean().sqrt())
    assert errors[1] < 0.4 * errors[0]
    assert_posterior(cloud, law, mean=0.05, covariance=0.06)


def test_mixture_weights_along_a_direction_that_y_does_not_see() -> None:
    """Two components that differ only where A is blind keep their prior weights."""
    mixture = GaussianMixture.isotropic(torch.tensor([0.7, 0.3]), torch.tensor([[0.0, 2.0], [0.0, -2.0]]), 0.4)
    blind = Matrix(torch.tensor([[[1.0, 0.0]]], dtype=F64))
    count = 40
    solver = TDS(num_steps=40, num_particles=50)
    y, noise_std = torch.full((count, 1), 0.3, dtype=F64), torch.full((count,), 0.2, dtype=F64)
    cloud = solver.solve(Problem(y, noise_std, blind, MixturePrior(mixture, (2,)), runs(count)))
    share = (weights(cloud) * (cloud.x[..., 1] > 0)).sum(1)
    assert z_scores(share, torch.tensor(0.7, dtype=F64)).abs() < 4
    assert share.std() < 0.35


def test_without_noise_the_last_twist_stands_for_the_likelihood() -> None:
    levels = linear().levels(40)
    variance = (levels[-2].sigma / levels[-2].alpha) ** 2
    count = 40
    law = exact(levels, 1.0, lambda k, b: b.observe(A, Y, variance * torch.eye(2, dtype=F64)) if k == 40 else b)
    solver = TDS(num_steps=40, num_particles=100)
    assert_samples(solver.solve(problem(count, 0.0, linear())), law)


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_non_linear_operators_and_what_is_counted(kind: str, request: pytest.FixtureRequest) -> None:
    model: Prior = request.getfixturevalue(f"{kind}_prior")
    metered = MeteredPrior(model, 3)
    hdr = posed({"operator": "hdr", "noise_std": 0.05}, metered)
    solver = TDS(num_steps=4, num_particles=3)
    cloud = solver.solve(hdr.problem)
    assert cloud.x.shape == (3, 3, *hdr.x.shape[1:])
    torch.testing.assert_close(weights(cloud).sum(1), torch.ones(3, dtype=F64), rtol=0, atol=1e-12)
    assert cloud.x.isfinite().all()
    assert metered.counts["denoiser"].tolist() == metered.counts["denoiser_backward"].tolist() == [12] * 3
