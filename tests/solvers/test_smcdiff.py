"""SMCDiff: the exact filter of a Gaussian prior, the posterior with and without noise, and FPS without noise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from ipsolve.operators import parse_task
from ipsolve.priors import Level, Prior
from ipsolve.priors.schedules import linear
from ipsolve.randomness import image_rng
from ipsolve.requests.errors import RequestError
from ipsolve.solvers.monte_carlo.fps import FPS
from ipsolve.solvers.monte_carlo.smcdiff import SMCDiff

from .conftest import posed
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
    operator,
    posterior,
    problem,
    runs,
    z_scores,
)

S, VT = torch.linalg.svd(A, full_matrices=False)[1:]
NOISE_STD = 0.4


def replaced(levels: list[Level], noise_std: float) -> list[list[int]]:
    """The coordinates that are replaced at each level: those whose noise sigma_y / s_i is at most the level's."""
    return [[i for i in range(2) if noise_std / float(S[i]) <= t.ratio] for t in levels]


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("eta", [1.0, 0.6])
def test_the_filter_is_exact_for_its_path(name: str, eta: float) -> None:
    """Particles follow the model's chain conditioned on V_i^T x_t = z_t,i at the levels noisier than y_i."""
    count, levels = 60, SCHEDULES[name].levels(7)
    filtered = OnePath.of(SMCDiff(num_steps=7, num_particles=400, eta=eta), NOISE_STD, levels)
    seen = replaced(levels, NOISE_STD)
    assert seen[0] == [0, 1]
    assert seen[-1] == []
    assert [0] in seen  # each coordinate is let go at its own level

    def observe(k: int, belief: Belief) -> Belief:
        for i in seen[k]:
            z = filtered.path[k].value[0, i : i + 1] * _sign(i)
            belief = belief.observe(VT[i : i + 1], z, torch.zeros(1, 1, dtype=F64))
        return belief

    assert_samples(filtered.solve(problem(count, NOISE_STD, SCHEDULES[name])), exact(levels, eta, observe))


def _sign(i: int) -> float:
    """Singular vectors are unique up to their sign: that of the operator's relative to the test's."""
    return float(operator().to_spectral(VT[i : i + 1])[0, i].sign())


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_the_path_carries_the_noise_of_its_level(name: str) -> None:
    """With the noise of y itself, z_t is alpha_t V^T x_0 + sigma_t n in law, with the covariance of x_t and x_s."""
    count, levels = 4000, SCHEDULES[name].levels(6)
    rng = image_rng(1, [f"run{i}" for i in range(count)], "measurement")
    y = Y + NOISE_STD * rng.normal(2, dtype=F64)
    noisy = replace(problem(count, NOISE_STD), y=y)
    path = list(SMCDiff(num_steps=6).observations(noisy, levels, runs(count)))
    x_0 = operator().measurement_to_spectral(Y[None]) / operator().singular_values()
    pairs = 0
    for k, (t, s) in enumerate(pairwise(levels)):
        both = path[k + 1].seen[0]
        pairs += int(both.sum())
        error_t, error_s = path[k].value - t.alpha * x_0, path[k + 1].value - s.alpha * x_0
        if both.any():
            variance = torch.tensor(s.sigma**2, dtype=F64)
            assert z_scores(error_s[:, both].square(), variance).abs().max() < 4.5
            covariance = torch.tensor(t.alpha / s.alpha * s.sigma**2, dtype=F64)
            assert z_scores((error_t * error_s)[:, both], covariance).abs().max() < 4.5
    assert pairs > 4


@pytest.mark.parametrize("noise_std", [0.0, NOISE_STD])
def test_runs_together_are_the_posterior(noise_std: float) -> None:
    """Averaged over the path of y, with many steps and an exact denoiser."""
    law, count = posterior(max(noise_std, 1e-6)), 200
    solver = SMCDiff(num_steps=200, num_particles=32)
    assert_posterior(solver.solve(problem(count, noise_std, linear())), law, mean=0.06, covariance=0.06)


@pytest.mark.parametrize(
    "task",
    [
        {"operator": "super_resolution", "factor": 2},
        {"operator": "random_inpainting"},
        {"operator": "gaussian_blur", "boundary": "circular", "kernel_size": 3},
    ],
    ids=lambda task: task["operator"],
)
def test_without_noise_it_is_fps_on_the_path_of_the_model(task: dict[str, object], pixel_prior: Prior) -> None:
    """And A x_hat = y."""
    settings = {"num_steps": 8, "num_particles": 3, "eta": 0.8}
    solvers = SMCDiff(**settings), FPS(c_rate=None, **settings)  # type: ignore[arg-type]
    clouds = [solver.solve(posed(task, pixel_prior).problem) for solver in solvers]
    torch.testing.assert_close(clouds[0].x, clouds[1].x, rtol=0, atol=1e-9)
    problems = posed(task, pixel_prior).problem.repeat(3)  # one of each particle
    assert problems.residual(clouds[0].x.flatten(0, 1)).abs().max() < 1e-8


def test_tasks_it_cannot_do_are_refused() -> None:
    with pytest.raises(RequestError, match="solver smcdiff needs a linear operator"):
        SMCDiff().check(parse_task({"operator": "hdr"}), frozenset({"pixel"}))
    with pytest.raises(RequestError, match="solver smcdiff needs a pixel prior"):
        SMCDiff().check(parse_task({"operator": "super_resolution", "factor": 2}), frozenset({"latent"}))
