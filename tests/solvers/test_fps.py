"""FPS: the exact filter of a Gaussian prior on the path of y, the posterior without noise, its bias with noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ipsolve.operators import parse_task
from ipsolve.priors.schedules import linear
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.monte_carlo.fps import FPS

from .gaussian_chain import (
    F64,
    SCHEDULES,
    A,
    Belief,
    OnePath,
    Y,
    assert_posterior,
    assert_samples,
    exact,
    moments,
    operator,
    posterior,
    problem,
    runs,
    z_scores,
)

EYE = torch.eye(2, dtype=F64)
PINV = torch.linalg.pinv(A)


@pytest.mark.parametrize(
    ("name", "num_steps", "c_rate", "eta", "noise_std"),
    [
        ("vp", 6, 0.95, 1.0, 0.4),
        ("vp", 6, None, 0.6, 0.4),
        ("vp", 6, None, 0.6, 0.0),
        ("ve", 6, 0.95, 1.0, 0.4),
        ("ve", 6, None, 0.6, 0.4),
        ("ve", 30, None, 1.0, 0.0),  # coarse noiseless paths leave hardly a particle with weight
    ],
)
def test_the_filter_is_exact_for_its_path(
    name: str, num_steps: int, c_rate: float | None, eta: float, noise_std: float
) -> None:
    """Particles follow the Kalman filter of y_t = A x_t + N(0, alpha_t^2 sigma_y^2) along the model's steps."""
    count, levels = 60, SCHEDULES[name].levels(num_steps)
    solver = FPS(num_steps=num_steps, num_particles=400, c_rate=c_rate, eta=eta)
    filtered = OnePath.of(solver, noise_std, levels)

    def observe(k: int, belief: Belief) -> Belief:
        y_t = operator().measurement_from_spectral(operator().singular_values() * filtered.path[k].value)[0]
        if k == num_steps and noise_std == 0:  # the last step is certain too: y replaces what A sees of it
            kept = torch.eye(3, dtype=F64) - PINV @ A
            return Belief(kept @ belief.mean + PINV @ Y, kept @ belief.covariance @ kept)
        return belief.observe(A, y_t, (levels[k].alpha * noise_std) ** 2 * EYE)

    law = exact(levels, eta, observe)
    cloud = filtered.solve(problem(count, noise_std, SCHEDULES[name]))
    if noise_std == 0:
        torch.testing.assert_close(cloud.x @ A.T, Y.expand(count, 400, -1), rtol=0, atol=1e-10)
        null = torch.linalg.svd(A)[2][2:].T  # only there the particles differ
        cloud, law = replace(cloud, x=cloud.x @ null), Belief(null.T @ law.mean, null.T @ law.covariance @ null)
    assert_samples(cloud, law)


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("c_rate", [0.95, 0.2, None])
def test_the_path_of_y(name: str, c_rate: float | None) -> None:
    """z_t = V^T x_t given V^T x_0 = S^-1 U^T y at every level, fresh noise being the share c_rate of each variance."""
    count, levels = 4000, SCHEDULES[name].levels(5)
    solver = FPS(num_steps=5, c_rate=c_rate)
    path = list(solver.observations(problem(count, 0.1), levels, runs(count)))
    z_0 = path[-1].value
    torch.testing.assert_close(
        operator().singular_values() * z_0, operator().measurement_to_spectral(Y.expand(count, -1))
    )
    noise = [(path[k].value - levels[k].alpha * z_0) / levels[k].sigma for k in range(5)]
    for k in range(4):
        t, s = levels[k], levels[k + 1]
        assert z_scores(noise[k].square(), torch.tensor(1.0, dtype=F64)).abs().max() < 4.5
        share = 1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2 if c_rate is None else c_rate
        kept = torch.tensor(1 - share, dtype=F64).sqrt()
        assert z_scores(noise[k] * noise[k + 1], kept).abs().max() < 4.5


def test_without_noise_runs_together_are_the_posterior() -> None:
    """Averaged over the path of y, with c_rate null, many steps and an exact denoiser."""
    law, count = posterior(1e-6), 200
    solver = FPS(num_steps=200, num_particles=32, c_rate=None)
    cloud = solver.solve(problem(count, 0.0, linear()))
    torch.testing.assert_close(cloud.x @ A.T, Y.expand(count, 32, -1), rtol=0, atol=1e-10)
    assert_posterior(cloud, law, mean=0.06, covariance=0.06)


def test_the_error_falls_with_the_number_of_particles() -> None:
    """On one path, against the Kalman filter's mean."""
    levels = linear().levels(10)
    errors = []
    for particles in (4, 64):
        solver = FPS(num_steps=10, num_particles=particles)
        filtered = OnePath.of(solver, 0.4, levels)

        def observe(k: int, belief: Belief, filtered: OnePath = filtered) -> Belief:
            y_t = operator().measurement_from_spectral(operator().singular_values() * filtered.path[k].value)[0]
            return belief.observe(A, y_t, (levels[k].alpha * 0.4) ** 2 * EYE)

        cloud = filtered.solve(problem(40, 0.4, linear()))
        errors.append((moments(cloud)[0] - exact(levels, 1.0, observe).mean).square().sum(1).mean().sqrt())
    assert errors[1] < 0.4 * errors[0]


def test_noise_is_counted_more_than_once() -> None:
    """The known bias: what A sees of the particles is closer to y, and narrower, than in the posterior."""
    law, count = posterior(0.4), 100
    solver = FPS(num_steps=100, num_particles=32, c_rate=None)
    cloud = solver.solve(problem(count, 0.4, linear()))
    first, second = moments(replace(cloud, x=cloud.x @ A.T))
    within = (second - torch.einsum("bi,bj->bij", first, first)).diagonal(dim1=1, dim2=2).mean(0)
    exact_variance = (A @ law.covariance @ A.T).diagonal()
    assert (within < 0.8 * exact_variance).all()
    assert torch.linalg.vector_norm(first.mean(0) - Y) < 0.7 * torch.linalg.vector_norm(A @ law.mean - Y)


def test_tasks_it_cannot_do_are_refused() -> None:
    with pytest.raises(RequestError, match="solver fps needs a linear operator"):
        FPS().check(parse_task({"operator": "hdr", "noise_std": 0.1}), frozenset({"pixel"}))
    with pytest.raises(RequestError, match="solver fps needs an operator with a known SVD"):
        FPS().check(parse_task({"operator": "motion_blur", "noise_std": 0.1}), frozenset({"pixel"}))
    with pytest.raises(RequestError, match="solver fps needs a pixel prior"):
        FPS().check(parse_task({"operator": "super_resolution", "factor": 2, "noise_std": 0.1}), frozenset({"latent"}))
