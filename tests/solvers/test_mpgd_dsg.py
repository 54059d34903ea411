"""MPGD and DSG on a Gaussian prior, in pixels and behind an orthonormal autoencoder."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ipsolve.conventions import norm
from ipsolve.operators import parse_task
from ipsolve.operators.matrix import Matrix
from ipsolve.priors import MeteredPrior, Prior
from ipsolve.randomness import image_rng
from ipsolve.requests.errors import RequestError
from ipsolve.solvers import parse_solver
from ipsolve.solvers.base import Cost
from ipsolve.solvers.guidance.dps import DPS
from ipsolve.solvers.guidance.dsg import DSG
from ipsolve.solvers.guidance.mpgd import AE_SCALE, MPGD
from ipsolve.solvers.steps.diffusion import posterior_std

from .conftest import ShuffledPrior, mixture, posed
from .gaussian_problem import IDS, SCHEDULES, D, GaussianProblem, Step, gaussian_problem, mv, steps

TASK = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}


def descent(gauss: GaussianProblem, x_0: Tensor) -> Tensor:
    """grad_{x_0} ||A x_0 - y|| = A^T r / ||r||."""
    r = mv(gauss.a, x_0) - gauss.y
    return mv(gauss.a.mT, r / r.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_mpgd_by_hand(schedule: str) -> None:
    """x^VP_s moves by c grad_{x_0} ||r||, with eps that of the estimate before guidance and no Jacobian."""
    gauss = gaussian_problem(schedule, std=None)
    rng = image_rng(0, IDS, "solver")
    x = SCHEDULES[schedule].levels(4)[0].sigma * rng.normal(D, dtype=torch.float64)
    for step in steps(schedule, 4, 0.5):
        x_0 = gauss.denoise(x, step.t)
        eps = (x - step.t.alpha * x_0) / step.t.sigma
        z = rng.normal(D, dtype=torch.float64)
        x = step.s.alpha * x_0 + step.c_2 * eps + step.std * z - 0.7 * step.k_s * descent(gauss, x_0)
    x_hat = gauss.solve(MPGD(num_steps=4, guidance_scale=0.7))
    torch.testing.assert_close(x_hat, x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("manifold", ["z", "ae"])
def test_mpgd_with_an_orthonormal_autoencoder_by_hand(manifold: str) -> None:
    """Both latent forms are the pixel form there, but for the smaller scale in the middle of the ae form."""
    prior = ShuffledPrior(mixture(1, 0.3))
    problem, num_steps = posed(TASK, prior).problem, 10
    levels = prior.schedule.levels(num_steps)
    z = levels[0].sigma * problem.noise()
    for step, (t, s) in enumerate(pairwise(levels)):
        z_0 = prior.denoise(z, t)
        eps = (z - t.alpha * z_0) / t.sigma
        r = problem.residual(prior.decode(z_0))
        scale = 0.7 * (AE_SCALE if manifold == "ae" and num_steps - 1 - step == 4 else 1)  # 0.3 < 4 / 10 < 0.5
        std = 0.5 * posterior_std(t, s)
        z = s.alpha * z_0 + math.sqrt(s.sigma**2 - std**2) * eps
        z = z - scale * prior.encode(problem.linear_operator.adjoint(r) / norm(r).reshape(-1, 1, 1, 1))
        z = z + std * problem.noise()
    solver = MPGD(num_steps=num_steps, guidance_scale=0.7, manifold=manifold)  # type: ignore[arg-type]
    torch.testing.assert_close(solver.solve(posed(TASK, prior).problem), prior.decode(z), rtol=0, atol=1e-9)


def test_mpgd_never_differentiates_the_denoiser(latent_prior: Prior) -> None:
    metered = MeteredPrior(latent_prior, 3)
    MPGD(num_steps=5).solve(posed(TASK, metered).problem)
    counts = {name: count.tolist() for name, count in metered.counts.items()}
    assert counts == {
        "denoiser": [5] * 3,
        "denoiser_backward": [0] * 3,
        "decoder": [6] * 3,
        "decoder_backward": [5] * 3,
        "encoder": [0] * 3,
    }


def test_mpgd_guidance_lowers_the_residual(latent_prior: Prior) -> None:
    residuals = []
    for c in (0.0, 0.5):
        problem = posed(TASK, latent_prior).problem
        residuals.append(norm(problem.residual(MPGD(num_steps=50, guidance_scale=c).solve(problem))))
    assert (residuals[1] < 0.5 * residuals[0]).all()


def test_the_ae_form_is_for_latent_priors() -> None:
    MPGD(manifold="ae").check(parse_task(TASK), frozenset({"latent"}))
    with pytest.raises(RequestError, match="solver mpgd with manifold 'ae' needs a latent prior; allowed: manifold=z"):
        MPGD(manifold="ae").check(parse_task(TASK), frozenset({"pixel"}))
    MPGD().check(parse_task(TASK), frozenset({"pixel"}))


def test_mpgd_presets_name_every_field() -> None:
    for preset in MPGD.PRESETS:
        assert MPGD.PRESETS[preset].keys() == {field.name for field in fields(MPGD)}
    published = MPGD(timestep_spacing="leading", clip_denoised=True)
    assert parse_solver({"solver": "mpgd", "preset": "sr4_100"}) == published


def dsg_step(gauss: GaussianProblem, x: Tensor, step: Step, z: Tensor, rate: float) -> Tensor:
    """One guided step, in the order of the paper: d*, d, and the projection onto the sphere."""
    x_0 = gauss.denoise(x, step.t)
    mean = step.s.alpha * x_0 + step.c_2 * (x - step.t.alpha * x_0) / step.t.sigma
    radius = math.sqrt(D) * step.std
    g = mv(gauss.jacobian(step.t).T, descent(gauss, x_0))
    best = -radius * g / g.norm(dim=1, keepdim=True)
    d = step.std * z + rate * (best - step.std * z)
    return mean + (radius * d / d.norm(dim=1, keepdim=True) if step.std > 0 else 0)


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dsg_by_hand(schedule: str, interval: int) -> None:
    gauss = gaussian_problem(schedule, std=None)
    rng = image_rng(0, IDS, "solver")
    x = SCHEDULES[schedule].levels(5)[0].sigma * rng.normal(D, dtype=torch.float64)
    for remaining, step in zip(reversed(range(5)), steps(schedule, 5, 0.8), strict=True):
        z = rng.normal(D, dtype=torch.float64)
        if remaining % interval == 0:
            x = dsg_step(gauss, x, step, z, 0.4)
        else:
            x_0 = gauss.denoise(x, step.t)
            eps = (x - step.t.alpha * x_0) / step.t.sigma
            x = step.s.alpha * x_0 + step.c_2 * eps + step.std * z
    x_hat = gauss.solve(DSG(num_steps=5, eta=0.8, guidance_rate=0.4, interval=interval))
    torch.testing.assert_close(x_hat, x, rtol=1e-10, atol=1e-10)


def test_dsg_does_not_feel_the_scale_of_the_loss() -> None:
    """The measurement in other units, A and y times 100, leaves every step as it was."""
    gauss = gaussian_problem("vp")
    y, noise_std, operator = 100 * gauss.y, 100 * gauss.problem.noise_std, Matrix(100 * gauss.a)
    other = replace(gauss, a=100 * gauss.a, problem=replace(gauss.problem, y=y, noise_std=noise_std, operator=operator))
    solver = DSG(num_steps=20)
    torch.testing.assert_close(gauss.solve(solver), other.solve(solver), rtol=1e-8, atol=1e-8)


def test_dsg_that_never_guides_is_unguided_ddpm() -> None:
    """The one guided step of a long interval is the last, which ends at the clean image and has no noise to turn."""
    gauss = gaussian_problem("ve")
    plain = gauss.solve(DPS(num_steps=6, zeta=0.0))
    torch.testing.assert_close(gauss.solve(DSG(num_steps=6, interval=6)), plain, rtol=1e-12, atol=1e-12)


def test_steepest_descent_fits_better_than_a_random_direction() -> None:
    gauss = gaussian_problem("vp")
    residuals = [
        (mv(gauss.a, gauss.solve(DSG(num_steps=100, guidance_rate=rate))) - gauss.y).norm(dim=1) for rate in (0.0, 0.5)
    ]
    assert (residuals[1] < 0.5 * residuals[0]).all()


def test_dsg_guides_latents_through_the_decoder(latent_prior: Prior) -> None:
    metered = MeteredPrior(latent_prior, 3)
    solver = DSG(num_steps=7, interval=3)
    assert solver.solve(posed(TASK, metered).problem).isfinite().all()
    assert metered.counts["denoiser"].tolist() == [7] * 3
    assert metered.counts["denoiser_backward"].tolist() == metered.counts["decoder_backward"].tolist() == [3] * 3
    assert solver.cost(latent_prior.traits) == Cost(denoiser=7, denoiser_backward=3, decoder=4, decoder_backward=3)
    assert solver.cost(frozenset({"pixel"})) == Cost(denoiser=7, denoiser_backward=3)
