"""MCGDiff: guidance and weights by hand, the exact law of a Gaussian prior, the weights of a mixture."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal

from ipsolve.operators import parse_task
from ipsolve.operators.matrix import Matrix
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedules import Level, linear
from ipsolve.problem import Problem
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.monte_carlo.mcgdiff import MCGDiff

from .gaussian_chain import (
    COVARIANCE,
    F64,
    MEAN,
    SCHEDULES,
    A,
    Belief,
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
U, S, VT = torch.linalg.svd(A, full_matrices=True)
Z = (U.T @ Y) / S


def taus(levels: list[Level], noise_std: float = NOISE_STD) -> list[int]:
    """The level of each coordinate by the definition: sigma_y^2 alpha^2 nearest to s^2 sigma^2."""
    return [
        min(
            range(len(levels)),
            key=lambda k: abs((levels[k].alpha * noise_std) ** 2 - (levels[k].sigma * float(s)) ** 2),
        )
        for s in S
    ]


def observing(levels: list[Level], kappa: float, noise_std: float = NOISE_STD):  # type: ignore[no-untyped-def]
    """Condition coordinate i at its own level on N(alpha z_i, kappa): what the particles are meant to follow."""

    def observe(k: int, belief: Belief) -> Belief:
        for i, tau in enumerate(taus(levels, noise_std)):
            if k == tau:
                belief = belief.observe(
                    VT[i : i + 1], levels[k].alpha * Z[i : i + 1], torch.tensor([[kappa]], dtype=F64)
                )
        return belief

    return observe


def test_guidance_of_a_variance_preserving_schedule() -> None:
    """Mean sqrt(ab_t) y_i / s_i and variance 1 - (1 - kappa) ab_t / ab_tau, from the start down to tau_i."""
    levels = linear().levels(20)
    guides = MCGDiff(num_steps=20, kappa=1e-3)._guides(problem(1, NOISE_STD), levels)
    tau = taus(levels)
    assert 0 < tau[1] < tau[0] < 20  # the stronger direction is guided further down
    for k, t in enumerate(levels):
        for i in range(2):
            assert bool(guides[k].seen[0, i]) == (k <= tau[i])
            if k <= tau[i]:
                expected = 1 - (1 - 1e-3) * t.alpha**2 / levels[tau[i]].alpha ** 2
                assert float(guides[k].variance[0, i]) == pytest.approx(expected, rel=1e-9)
    assert not guides[-1].seen.any()
    noiseless = MCGDiff(num_steps=20)._guides(problem(1, 0.0), levels)
    assert noiseless[-1].seen.all()
    half_blind = Matrix(torch.tensor([[[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]], dtype=F64))
    guided = MCGDiff(num_steps=20)._guides(replace(problem(1, 0.0), operator=half_blind), levels)[-1]
    assert (guided.seen == (half_blind.singular_values() > 0)).all()


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_one_step_by_hand(name: str) -> None:
    """Two particles, one step: the weights, and the first two moments of the step in every direction."""
    schedule, eta, kappa, count = SCHEDULES[name], 0.8, 0.05, 40000
    levels = schedule.levels(12)
    k = taus(levels)[1]  # from here on only the stronger direction is guided
    t, s, tau = levels[k], levels[k + 1], levels[taus(levels)[0]]
    v = eta**2 * s.sigma**2 / t.sigma**2 * (t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2)
    cloud = torch.tensor([[0.3, -0.4, 0.9], [1.1, 0.2, -0.5]], dtype=F64) * t.sigma
    gain = t.alpha * COVARIANCE @ torch.linalg.inv(t.alpha**2 * COVARIANCE + t.sigma**2 * torch.eye(3, dtype=F64))
    x_0 = MEAN + (cloud - t.alpha * MEAN) @ gain.T
    mean = s.alpha * x_0 + math.sqrt(s.sigma**2 - v) * (cloud - t.alpha * x_0) / t.sigma

    def q_variance(level: Level) -> float:
        bridge = level.sigma**2 - (level.alpha / tau.alpha * tau.sigma) ** 2
        return bridge + kappa * (level.alpha / tau.alpha) ** 2

    evidence = Normal(mean @ VT[0], math.sqrt(v + q_variance(s))).log_prob(s.alpha * Z[0])
    spent = Normal(t.alpha * Z[0], math.sqrt(q_variance(t))).log_prob(cloud @ VT[0])
    chances = (evidence - spent).softmax(0)
    precision = 1 / v + 1 / q_variance(s)
    guided = (mean @ VT[0] / v + s.alpha * Z[0] / q_variance(s)) / precision
    coordinates = torch.stack([guided, mean @ VT[1], mean @ VT[2]], 1)  # (2, 3), means of both particles
    variances = torch.tensor([1 / precision, v, v], dtype=F64)

    solver = MCGDiff(num_steps=12, num_particles=2, eta=eta, kappa=kappa)
    posed = problem(count, NOISE_STD, schedule)
    guides = solver._guides(posed, levels)
    x = solver._step(posed, solver.swarm(posed), cloud.repeat(count, 1), (t, s), (guides[k], guides[k + 1]))
    c = x @ VT.T
    first = chances @ coordinates
    second = chances @ coordinates.square() + variances
    pairs = c.reshape(count, 2, 3)
    assert z_scores(pairs.mean(1), first).abs().max() < 4.5
    assert z_scores(pairs.square().mean(1), second).abs().max() < 4.5


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize(("eta", "noise_std"), [(1.0, NOISE_STD), (0.6, NOISE_STD), (1.0, 0.0)])
def test_exact_for_the_model_at_any_number_of_steps(name: str, eta: float, noise_std: float) -> None:
    """The particles follow the model's chain, conditioned at tau_i on coordinate i, by a Kalman filter."""
    levels, count, kappa = SCHEDULES[name].levels(8), 60, 0.05
    law = exact(levels, eta, observing(levels, kappa, noise_std))
    if noise_std == 0.0:
        # the guidance of the last, certain step is a weight of every particle
        assert taus(levels, 0.0) == [8, 8]
    solver = MCGDiff(num_steps=8, num_particles=600, eta=eta, kappa=kappa)
    assert_samples(solver.solve(problem(count, noise_std, SCHEDULES[name])), law)


def test_the_posterior_and_a_falling_error() -> None:
    """With many steps and a small kappa the law is the posterior; the spread of runs falls with the particles."""
    law, count = posterior(NOISE_STD), 40
    errors = []
    for particles in (4, 256):
        solver = MCGDiff(num_steps=60, num_particles=particles, kappa=1e-3)
        cloud = solver.solve(problem(count, NOISE_STD, linear()))
        errors.append((moments(cloud)[0] - law.mean).square().sum(1).mean().sqrt())
    assert errors[1] < 0.4 * errors[0]
    assert_posterior(cloud, law, mean=0.05, covariance=0.08)


def test_mixture_weights_along_a_direction_that_y_does_not_see() -> None:
    """Two components that differ only where A is blind keep their prior weights."""
    mixture = GaussianMixture.isotropic(torch.tensor([0.7, 0.3]), torch.tensor([[0.0, 2.0], [0.0, -2.0]]), 0.4)
    blind = Matrix(torch.tensor([[[1.0, 0.0]]], dtype=F64))
    count = 40
    solver = MCGDiff(num_steps=40, num_particles=50, kappa=1e-2)
    y, noise_std = torch.full((count, 1), 0.3, dtype=F64), torch.full((count,), 0.2, dtype=F64)
    cloud = solver.solve(Problem(y, noise_std, blind, MixturePrior(mixture, (2,)), runs(count)))
    share = (weights(cloud) * (cloud.x[..., 1] > 0)).sum(1)
    assert z_scores(share, torch.tensor(0.7, dtype=F64)).abs() < 4
    assert share.std() < 0.35


def test_images_that_are_no_longer_guided_keep_all_their_particles() -> None:
    """A direction that noise hides completely is never guided: nothing is ever resampled, and runs are the prior."""
    solver = MCGDiff(num_steps=10, num_particles=30)
    cloud = solver.solve(problem(4, 1e6, linear()))
    assert all(len(run.unique(dim=0)) == 30 for run in cloud.x)


def test_operators_without_a_known_svd_are_refused() -> None:
    with pytest.raises(RequestError, match="solver mcgdiff needs a linear operator"):
        MCGDiff().check(parse_task({"operator": "hdr", "noise_std": 0.1}), frozenset({"pixel"}))
    with pytest.raises(RequestError, match="solver mcgdiff needs a pixel prior"):
        MCGDiff().check(
            parse_task({"operator": "super_resolution", "factor": 2, "noise_std": 0.1}), frozenset({"latent"})
        )
