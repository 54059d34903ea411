"""FK steering: potentials by hand, their product, and the exact law of a Gaussian prior whatever the potential."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ipsolve.operators.matrix import Matrix
from ipsolve.priors import MeteredPrior, Prior
from ipsolve.priors.schedules import linear
from ipsolve.problem import Solution
from ipsolve.randomness import image_rng
from ipsolve.solvers.monte_carlo.fk_steering import FKSteering

from .conftest import posed
from .gaussian_chain import (
    COVARIANCE,
    F64,
    MEAN,
    SCHEDULES,
    A,
    Y,
    assert_samples,
    exact,
    problem,
    weights,
)

NOISE_STD = 0.8
EVERY_STEP: dict[str, Any] = {"resample_frequency": 1, "resampling_t_start": 0, "resampling_t_end": 99}
POTENTIALS = ["diff", "max", "add"]

each_potential = pytest.mark.parametrize("potential", POTENTIALS)


def log_likelihood(x: Tensor) -> Tensor:
    return -((Y - x @ A.T) ** 2).sum(-1) / (2 * NOISE_STD**2)


def one_run(solver: FKSteering, schedule: str = "vp") -> Solution:
    return solver.solve(replace(problem(1, NOISE_STD, SCHEDULES[schedule]), rng=image_rng(0, ["run"], "solver")))


@pytest.mark.parametrize("name", list(SCHEDULES))
@each_potential
def test_particles_and_weights_by_hand(name: str, potential: str) -> None:
    """Resampled at steps 3 and 5 of 7, weights as products of potentials, lambda 6."""
    settings: dict[str, Any] = {"resample_frequency": 2, "resampling_t_start": 3, "resampling_t_end": 5}
    solver = FKSteering(
        num_steps=7, num_particles=4, eta=0.7, lambda_=6.0, potential=potential, ess_threshold=1.0, **settings
    )
    cloud = one_run(solver, name)

    levels, rng, eye = SCHEDULES[name].levels(7), image_rng(0, ["run"], "solver"), torch.eye(3, dtype=F64)
    state = levels[0].sigma * rng.normal(4, 3, dtype=F64)[0]
    rewards: list[list[float]] = [[] for _ in range(4)]
    product = torch.ones(4, dtype=F64)
    for step, (t, s) in enumerate(pairwise(levels)):
        gain = t.alpha * COVARIANCE @ torch.linalg.inv(t.alpha**2 * COVARIANCE + t.sigma**2 * eye)
        x_0 = MEAN + (state - t.alpha * MEAN) @ gain.T
        if step in (3, 5):
            for i, r in enumerate(log_likelihood(x_0).tolist()):
                rewards[i].append(r)
            powers = {
                "diff": [r[-1] - (r[-2] if len(r) > 1 else 0.0) for r in rewards],
                "max": [max(r) for r in rewards],
                "add": [sum(r) for r in rewards],
            }
            g = (6 * torch.tensor(powers[potential], dtype=F64)).exp()
            u, cumulative = float(rng.uniform(1, dtype=F64)), (g / g.sum()).cumsum(0).tolist()
            ancestors = [next(j for j in range(4) if cumulative[j] > (i + u) / 4) for i in range(4)]
            assert step == 5 or ancestors != [0, 1, 2, 3]  # or nothing of the first rewards would be seen to move
            product = (product * g)[ancestors]
            state, x_0, rewards = state[ancestors], x_0[ancestors], [list(rewards[j]) for j in ancestors]
        v = 0.49 * s.sigma**2 / t.sigma**2 * (t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2)
        mean = s.alpha * x_0 + (s.sigma**2 - v) ** 0.5 * (state - t.alpha * x_0) / t.sigma
        state = mean + v**0.5 * rng.normal(4, 3, dtype=F64)[0]
    last = (6 * log_likelihood(state)).exp() / product
    torch.testing.assert_close(cloud.x[0], state, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weights(cloud)[0], last / last.sum(), rtol=1e-8, atol=1e-12)


@each_potential
def test_potentials_multiply_to_the_likelihood_of_the_image(potential: str) -> None:
    """Never resampled, weights are kept and telescope: what is left is importance sampling from the prior."""
    solver = FKSteering(num_steps=8, num_particles=6, potential=potential, ess_threshold=0.0, **EVERY_STEP)
    cloud = one_run(solver)
    assert cloud.log_weights is not None
    expected = log_likelihood(cloud.x[0]).log_softmax(0)
    torch.testing.assert_close(cloud.log_weights[0], expected, rtol=1e-9, atol=1e-9)
    # and the potential plays no part in the particles themselves
    plain = one_run(FKSteering(num_steps=8, num_particles=6, lambda_=0.0, ess_threshold=0.0, **EVERY_STEP))
    torch.testing.assert_close(cloud.x, plain.x, rtol=0, atol=0)


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize(
    ("potential", "ess_threshold"), [("diff", 1.0), ("diff", 0.5), ("max", 1.0), ("max", 0.5), ("add", 1.0)]
)
def test_exact_for_the_model_at_any_number_of_steps(name: str, potential: str, ess_threshold: float) -> None:
    """The law of the model's last state given y, by whatever potential and however often it is resampled."""
    levels, count = SCHEDULES[name].levels(6), 60
    law = exact(levels, 1.0, lambda k, b: b.observe(A, Y, NOISE_STD**2 * torch.eye(2, dtype=F64)) if k == 6 else b)
    solver = FKSteering(
        num_steps=6, num_particles=1500, potential=potential, ess_threshold=ess_threshold,
        resample_frequency=2, resampling_t_start=1, resampling_t_end=5,
    )  # fmt: skip
    assert_samples(solver.solve(problem(count, NOISE_STD, SCHEDULES[name])), law)


def test_a_tempered_likelihood_is_that_of_more_noise() -> None:
    """lambda = 1/4 with sigma_y is lambda = 1 with 2 sigma_y, particle by particle."""
    settings: dict[str, Any] = {"num_steps": 6, "num_particles": 8, **EVERY_STEP}
    tempered = FKSteering(lambda_=0.25, **settings).solve(problem(3, NOISE_STD))
    plain = FKSteering(**settings).solve(problem(3, 2 * NOISE_STD))
    torch.testing.assert_close(tempered.x, plain.x, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights(tempered), weights(plain), rtol=1e-9, atol=1e-12)


@each_potential
def test_without_a_choice_it_is_the_plain_sampler(potential: str) -> None:
    """A reward that is the same for all, A = 0, changes no particle and no weight."""
    blind = replace(problem(2, NOISE_STD, linear()), operator=Matrix(torch.zeros(1, 2, 3, dtype=F64)))
    solver = FKSteering(num_steps=6, num_particles=5, potential=potential, **EVERY_STEP)
    plain = FKSteering(num_steps=6, num_particles=5, potential=potential, lambda_=0.0, **EVERY_STEP)
    found, expected = solver.solve(blind), plain.solve(problem(2, NOISE_STD, linear()))
    torch.testing.assert_close(found.x, expected.x, rtol=0, atol=0)
    torch.testing.assert_close(weights(found), torch.full((2, 5), 0.2, dtype=F64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["pixel", "latent"])
@pytest.mark.parametrize("operator", ["jpeg", "hdr"])
def test_no_gradient_is_taken(kind: str, operator: str, request: pytest.FixtureRequest) -> None:
    model: Prior = request.getfixturevalue(f"{kind}_prior")
    metered = MeteredPrior(model, 2)
    solver = FKSteering(num_steps=6, num_particles=3, **EVERY_STEP)
    with torch.inference_mode():
        cloud = solver.solve(posed({"operator": operator, "noise_std": 0.05}, metered, batch=2).problem)
    assert cloud.x.isfinite().all()
    counts = {name: count.tolist() for name, count in metered.counts.items()}
    assert counts["denoiser"] == [18, 18]
    assert counts["decoder"] == ([18, 18] if kind == "latent" else [0, 0])  # at steps 0 to 4 and at the end
    assert counts["denoiser_backward"] == counts["decoder_backward"] == [0, 0]
