"""PiGDM on a Gaussian prior: its update by hand, its limits, and what it converges to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ipsolve.priors import Level, MeteredPrior, Prior
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedules import FlowMatching
from ipsolve.randomness import image_rng
from ipsolve.solvers.base import Cost
from ipsolve.solvers.guidance.mmps import MMPS
from ipsolve.solvers.guidance.pigdm import PiGDM

from .conftest import posed
from .gaussian_problem import BATCH, IDS, SCHEDULES, D, GaussianProblem, M, Step, gaussian_problem, mv, steps

NUM_STEPS = 4
STD = 0.7


def score(gauss: GaussianProblem, x_0: Tensor, t: Level, r_2: float) -> Tensor:
    """g = J^T A^T (r^2 A A^T + sigma_y^2 I)^-1 (y - A x_0)."""
    evidence = r_2 * gauss.a @ gauss.a.mT + gauss.noise_std**2 * torch.eye(M, dtype=torch.float64)
    h = mv(gauss.a.mT, mv(torch.linalg.inv(evidence), gauss.y - mv(gauss.a, x_0)))
    return mv(gauss.jacobian(t).T, h)


def by_hand(gauss: GaussianProblem, x: Tensor, step: Step, z: Tensor, prior_std: float, adaptive: bool) -> Tensor:
    t, s = step.t, step.s
    vp_like = (t.sigma / t.alpha) ** 2
    r_2 = vp_like * prior_std**2 / (prior_std**2 + vp_like)
    x_0 = gauss.denoise(x, t)
    eps = (x - t.alpha * x_0) / t.sigma
    g = score(gauss, x_0, t, r_2)
    if adaptive:
        return s.alpha * x_0 + step.c_2 * eps + step.std * z + s.alpha * t.alpha * r_2 * g
    # the guided score in both places where the score enters DDIM
    x_0, eps = x_0 + t.sigma**2 / t.alpha * g, eps - t.sigma * g
    return s.alpha * x_0 + step.c_2 * eps + step.std * z


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("prior_std", [1.0, STD])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_pigdm_by_hand(schedule: str, prior_std: float, adaptive: bool) -> None:
    gauss = gaussian_problem(schedule, std=None)
    rng = image_rng(0, IDS, "solver")
    x = SCHEDULES[schedule].levels(NUM_STEPS)[0].sigma * rng.normal(D, dtype=torch.float64)
    for step in steps(schedule, NUM_STEPS, 0.6):
        x = by_hand(gauss, x, step, rng.normal(D, dtype=torch.float64), prior_std, adaptive)
    x_hat = gauss.solve(PiGDM(num_steps=NUM_STEPS, eta=0.6, prior_std=prior_std, adaptive_weight=adaptive))
    torch.testing.assert_close(x_hat, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_noise_it_is_the_pseudo_inverse_form(schedule: str) -> None:
    """sigma_y = 0: J^T (A^+ y - A^+ A x_0), and the smallest sigma_y has no other limit."""
    gauss = gaussian_problem(schedule, noise_std=0.0)
    pinv = torch.linalg.pinv(gauss.a)
    step = next(steps(schedule, 1, 1.0))
    x = step.t.sigma * image_rng(0, IDS, "solver").normal(D, dtype=torch.float64)
    x_0 = gauss.denoise(x, step.t)
    p = mv(pinv, gauss.y) - mv(pinv @ gauss.a, x_0)
    expected = step.s.alpha * (x_0 + step.t.alpha * mv(gauss.jacobian(step.t).T, p))
    torch.testing.assert_close(gauss.solve(PiGDM(num_steps=1)), expected, rtol=1e-9, atol=1e-9)
    nearly = gaussian_problem(schedule, noise_std=1e-7)
    torch.testing.assert_close(nearly.solve(PiGDM(num_steps=1)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_with_the_guided_score_it_samples_the_posterior_of_a_gaussian(schedule: str) -> None:
    """The deterministic sampler converges at first order to the exact probability flow of p(x_0 | y)."""
    gauss = gaussian_problem(schedule, std=STD, noise_std=0.3)
    errors = []
    for num_steps in (100, 400):
        x_hat = gauss.solve(PiGDM(num_steps=num_steps, eta=0.0, adaptive_weight=False, prior_std=STD))
        errors.append((x_hat - gauss.flow_map(SCHEDULES[schedule].levels(num_steps))).abs().max())
    assert errors[1] < 0.35 * errors[0]
    assert errors[1] < 0.02


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_with_the_guided_score_it_is_mmps_on_an_isotropic_gaussian(schedule: str) -> None:
    """Where Cov[x_0 | x_t] is r_t^2 I the two methods are one."""
    gauss = gaussian_problem(schedule, std=STD)
    pigdm = gauss.solve(PiGDM(num_steps=6, adaptive_weight=False, prior_std=STD))
    torch.testing.assert_close(pigdm, gauss.solve(MMPS(num_steps=6, iterations=M + 1)), rtol=1e-8, atol=1e-8)


def test_the_published_weight_overshoots_with_many_steps() -> None:
    """Its guidance is not tied to the length of a step: at 400 steps samples hug the noise of y."""
    gauss = gaussian_problem("vp", std=STD, noise_std=0.3)
    residuals = []
    for adaptive in (True, False):
        x_hat = gauss.solve(PiGDM(num_steps=400, adaptive_weight=adaptive))
        residuals.append((mv(gauss.a, x_hat) - gauss.y).norm(dim=1).mean())
    assert residuals[0] < 0.5 * residuals[1]


@pytest.mark.parametrize("noise_std", [0.0, 0.2])
def test_a_late_start_is_noised_pseudo_inverse(noise_std: float) -> None:
    """The last three of ten steps, from alpha_t A^T (A A^T + sigma_y^2 / r_t^2)^-1 y + sigma_t z, r_t^2 = 1 - ab_t."""
    gauss = gaussian_problem("vp", noise_std=noise_std)
    last = list(steps("vp", 10, 1.0))[-3:]
    t, rng = last[0].t, image_rng(0, IDS, "solver")
    evidence = gauss.a @ gauss.a.mT + (noise_std / t.sigma) ** 2 * torch.eye(M, dtype=torch.float64)
    x = t.sigma * rng.normal(D, dtype=torch.float64) + t.alpha * mv(gauss.a.mT @ torch.linalg.inv(evidence), gauss.y)
    for step in last:
        x = by_hand(gauss, x, step, rng.normal(D, dtype=torch.float64), 1.0, True)
    solver, metered = PiGDM(num_steps=10, start=0.3), MeteredPrior(gauss.problem.prior, BATCH)
    torch.testing.assert_close(gauss.solve(solver, metered), x, rtol=1e-9, atol=1e-9)
    assert metered.counts["denoiser"].tolist() == metered.counts["denoiser_backward"].tolist() == [3] * BATCH
    assert solver.cost(gauss.problem.prior.traits) == Cost(denoiser=3, denoiser_backward=3)


@pytest.mark.parametrize("adaptive", [True, False])
def test_pure_noise_is_a_level_like_any_other(adaptive: bool) -> None:
    """Flow matching starts at alpha = 0, where s_t is infinite."""
    gauss = gaussian_problem("vp")
    flow = MixturePrior(gauss.problem.prior.mixture, (D,), FlowMatching())
    x_hat = gauss.solve(PiGDM(num_steps=50, adaptive_weight=adaptive), flow)
    assert x_hat.isfinite().all()
    assert (mv(gauss.a, x_hat) - gauss.y).norm(dim=1).max() < 1.0


def test_operators_without_a_decomposition_are_solved_by_conjugate_gradients(pixel_prior: Prior) -> None:
    residuals = []
    for weight in (1.0, 0.0):
        problem = posed({"operator": "motion_blur", "kernel_size": 3, "noise_std": 0.05}, pixel_prior).problem
        x_hat = PiGDM(num_steps=30, guidance_weight=weight).solve(problem)
        residuals.append(problem.residual(x_hat).square().mean().sqrt())
    assert residuals[0] < 0.5 * residuals[1]
