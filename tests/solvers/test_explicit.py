"""Score-ALD, Score-SDE, ILVR and DMPS on a Gaussian prior, where every step can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ipsolve.evaluation.sampling import draw
from ipsolve.priors import Level
from ipsolve.priors.schedules import Edm, FlowMatching, Schedule, linear
from ipsolve.randomness import ImageRng
from ipsolve.solvers import Solver
from ipsolve.solvers.explicit.dmps import DMPS
from ipsolve.solvers.explicit.score_ald import ScoreALD
from ipsolve.solvers.projection.ilvr import ILVR
from ipsolve.solvers.projection.score_sde import ScoreSDE

from .dense_gaussian import DenseGaussian

D = 5
VARIANCE = 0.5
MEAN = torch.linspace(-1, 1, D, dtype=torch.float64)
A = torch.randn(2, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 2
Y = torch.tensor([[0.7, -0.4]], dtype=torch.float64)
PROBLEM = DenseGaussian(A, Y, MEAN, VARIANCE**0.5, 0.1, linear())
SCHEDULES: dict[str, Schedule] = {"vp": linear(), "ve": Edm()}
STEPS = 4

schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def draws() -> ImageRng:
    return PROBLEM.rng()


def normal(rng: ImageRng) -> Tensor:
    return PROBLEM.normal(rng)


def run(solver: Solver, schedule: Schedule, sigma_y: float, batch: int = 1, variance: float = VARIANCE) -> Tensor:
    y = Y.expand(batch, -1)
    made = replace(PROBLEM, schedule=schedule, noise_std=sigma_y, y=y, std=variance**0.5)
    return draw(solver, made.problem)[:, 0]


def ancestral(x: Tensor, t: Level, s: Level, z: Tensor) -> Tensor:
    """x_s ~ q(x_s | x_t, x_0) with the prior's estimate of x_0: the product of two Gaussians, written out."""
    ratio = t.alpha / s.alpha
    step_variance = t.sigma**2 - ratio**2 * s.sigma**2
    mean = (ratio * s.sigma**2 * x + s.alpha * step_variance * PROBLEM.denoise(x, t)) / t.sigma**2
    return mean + s.sigma * step_variance**0.5 / t.sigma * z


def replaced(x: Tensor, s: Level, z: Tensor) -> Tensor:
    y_s = s.alpha * Y + s.sigma * z @ A.T
    return x + (y_s - x @ A.T) @ torch.linalg.pinv(A).T


@schedules
def test_ilvr_by_hand(schedule: Schedule) -> None:
    """x' + phi(reference_s) - phi(x') with phi = A^+ A and the reference A^+ y, save in the last ``range_t`` + 1."""
    rng, levels = draws(), schedule.levels(STEPS)
    phi = torch.linalg.pinv(A) @ A
    reference = Y @ torch.linalg.pinv(A).T
    x = levels[0].sigma * normal(rng)
    for step, (t, s) in enumerate(pairwise(levels)):
        x = ancestral(x, t, s, normal(rng))
        if step < 3:
            x = x + (s.alpha * reference + s.sigma * normal(rng) - x) @ phi.T
    torch.testing.assert_close(run(ILVR(num_steps=STEPS, range_t=0), schedule, 0.1), x, rtol=1e-10, atol=1e-10)


@schedules
def test_score_sde_by_hand(schedule: Schedule) -> None:
    rng, levels = draws(), schedule.levels(STEPS)
    x = levels[0].sigma * normal(rng)
    for t, s in pairwise(levels):
        for _ in range(2):
            z = normal(rng)
            score = -(x - t.alpha * MEAN) / (t.alpha**2 * VARIANCE + t.sigma**2)
            step = 2 * (t.alpha / s.alpha * 0.3 * z.norm() / score.norm()) ** 2
            x = x + step * score + (2 * step).sqrt() * z
            x = x + 0.6 * (replaced(x, t, normal(rng)) - x)
        x = ancestral(x, t, s, normal(rng))
        x = x + 0.6 * (replaced(x, s, normal(rng)) - x)
    solver = ScoreSDE(num_steps=STEPS, corrector_steps=2, snr=0.3, measurement_weight=0.6)
    torch.testing.assert_close(run(solver, schedule, 0.1), x, rtol=1e-10, atol=1e-10)


@schedules
def test_score_sde_without_corrector_is_ilvr(schedule: Schedule) -> None:
    outputs = [run(s, schedule, 0.1, 3) for s in (ScoreSDE(num_steps=STEPS, corrector_steps=0), ILVR(num_steps=STEPS))]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


@pytest.mark.parametrize("solver", [ILVR(num_steps=20), ScoreSDE(num_steps=20)], ids=lambda solver: solver.name)
@pytest.mark.parametrize("schedule", [linear(), Edm(), FlowMatching()], ids=["vp", "ve", "flow"])
def test_replacement_ends_on_the_measurement(solver: Solver, schedule: Schedule) -> None:
    """A x_hat = y: the noise of y is taken for signal."""
    x = run(solver, schedule, 0.1, 3)
    torch.testing.assert_close(x @ A.T, Y.expand(3, -1), rtol=0, atol=1e-9)


def test_damping_keeps_the_noise_of_weak_directions_out() -> None:
    """The damped A^+ of the last step is the Wiener filter A^T (A A^T + (sigma_y / signal_std)^2)^-1."""
    sigma_y, signal_std = 0.1, 0.4
    before = run(ILVR(num_steps=STEPS, range_t=0, signal_std=signal_std), SCHEDULES["vp"], sigma_y)
    after = run(ILVR(num_steps=STEPS, signal_std=signal_std), SCHEDULES["vp"], sigma_y)
    wiener = A.T @ torch.linalg.inv(A @ A.T + (sigma_y / signal_std) ** 2 * torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(after, before + (Y - before @ A.T) @ wiener.T, rtol=1e-10, atol=1e-10)


@schedules
def test_dmps_by_hand(schedule: Schedule) -> None:
    sigma_y = 0.2
    rng, levels = draws(), schedule.levels(STEPS)
    x = levels[0].sigma * normal(rng)
    for t, s in pairwise(levels):
        covariance = sigma_y**2 * torch.eye(2, dtype=torch.float64) + (t.sigma / t.alpha) ** 2 * A @ A.T
        g = (Y - x @ A.T / t.alpha) @ torch.linalg.inv(covariance) @ A / t.alpha
        a = (t.alpha / s.alpha) ** 2
        step_variance = t.sigma**2 - a * s.sigma**2  # 1 - a for variance preserving
        x = ancestral(x, t, s, normal(rng)) + 1.75 * step_variance / a**0.5 * g
    torch.testing.assert_close(run(DMPS(num_steps=STEPS), schedule, sigma_y), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", [linear(), Edm(sigma_min=0.02)], ids=["vp", "ve"])
def test_dmps_samples_the_posterior_of_a_flat_prior(schedule: Schedule) -> None:
    """Where its assumption holds and lambda = 1, A x_hat ~ N(y, sigma_y^2 I)."""
    batch, sigma_y = 4000, 0.3
    x = run(DMPS(num_steps=300, guidance_scale=1.0), schedule, sigma_y, batch, variance=1e5)
    error = x @ A.T - Y
    standard_error = sigma_y / batch**0.5
    assert (error.mean(0).abs() < 5 * standard_error).all()
    torch.testing.assert_close(error.std(0), torch.full((2,), sigma_y, dtype=torch.float64), rtol=0.06, atol=0)


@pytest.mark.parametrize("mse", [None, 0.7])
@schedules
def test_score_ald_by_hand(schedule: Schedule, mse: float | None) -> None:
    sigma_y, gamma, step_size = 0.2, 1.3, 0.15
    rng, levels = draws(), schedule.levels(STEPS)[:-1]
    z = levels[0].sigma / levels[0].alpha * normal(rng)
    for t in levels:
        r = t.sigma / t.alpha
        for _ in range(2):
            prior_score = (MEAN - z) / (VARIANCE + r**2)  # z ~ N(MEAN, (VARIANCE + r^2) I)
            data_score = (Y - z @ A.T) @ A
            if mse is None:
                data_score = data_score / (sigma_y**2 + (gamma * r) ** 2)
            else:
                data_score = mse * prior_score.norm() / data_score.norm() * data_score
            z = z + step_size * r**2 * (prior_score + data_score) + (2 * step_size) ** 0.5 * r * normal(rng)
    solver = ScoreALD(num_steps=STEPS, langevin_steps=2, step_size=step_size, gamma=gamma, mse=mse)
    expected = PROBLEM.denoise(levels[-1].alpha * z, levels[-1])
    torch.testing.assert_close(run(solver, schedule, sigma_y), expected, rtol=1e-10, atol=1e-10)


def test_score_ald_samples_the_posterior() -> None:
    """Annealed slowly enough, its stationary law passes into p(x_0 | y), which is Gaussian."""
    batch, sigma_y = 2000, 0.3
    schedule = Edm(sigma_min=0.02, sigma_max=2.0)  # dynamics of step r_t^2 freeze long before r_t = 0.02
    x = run(ScoreALD(num_steps=150, langevin_steps=20), schedule, sigma_y, batch)
    covariance = torch.linalg.inv(torch.eye(D, dtype=torch.float64) / VARIANCE + A.T @ A / sigma_y**2)
    mean = covariance @ (MEAN / VARIANCE + A.T @ Y[0] / sigma_y**2)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (x - mean).T, upper=False)
    assert (white.mean(1).abs() < 5 / batch**0.5).all()
    torch.testing.assert_close(white.cov(), torch.eye(D, dtype=torch.float64), rtol=0, atol=0.12)


@pytest.mark.parametrize(
    "solver",
    [
        ScoreALD(num_steps=5),
        ScoreALD(num_steps=5, mse=5.0),
        DMPS(num_steps=5),
        ILVR(num_steps=5),
        ScoreSDE(num_steps=5),
    ],
    ids=lambda solver: solver.name,
)
@pytest.mark.parametrize("sigma_y", [0.0, 0.1])
def test_pure_noise_and_clean_ends_are_finite(solver: Solver, sigma_y: float) -> None:
    assert run(solver, FlowMatching(), sigma_y, 3).isfinite().all()
