"""DPS and MCG on a Gaussian prior, where every update can be worked out by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.priors import Level, MeteredPrior, Prior
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.randomness import image_rng
from ipsolve.requests.errors import RequestError
from ipsolve.solvers import parse_solver
from ipsolve.solvers.guidance.dps import DPS
from ipsolve.solvers.guidance.mcg import MCG

from .conftest import posed
from .gaussian_problem import IDS, SCHEDULES, D, GaussianProblem, gaussian_problem, mv, steps

NUM_STEPS = 4
Projection = Callable[[Tensor, Level, Tensor], Tensor]


def by_hand(
    gauss: GaussianProblem, schedule: str, scale: float, eta: float, project: Projection | None = None
) -> Tensor:
    """x_s = alpha_s x_0 + c_2 eps + std z - scale k_s k_t J^T A^T r / ||r||, r = A x_0 - y, then the projection.

    k_t J is the Jacobian with respect to the variance preserving state, and k_s x^VP_s = x_s.
    """
    rng = image_rng(0, IDS, "solver")
    x = SCHEDULES[schedule].levels(NUM_STEPS)[0].sigma * rng.normal(D, dtype=torch.float64)
    for step in steps(schedule, NUM_STEPS, eta):
        x_0 = gauss.denoise(x, step.t)
        eps = (x - step.t.alpha * x_0) / step.t.sigma
        r = mv(gauss.a, x_0) - gauss.y
        direction = step.k_s * step.k_t * mv(gauss.jacobian(step.t).T, mv(gauss.a.mT, r / r.norm(dim=1, keepdim=True)))
        noise = step.std * rng.normal(D, dtype=torch.float64) if eta > 0 else 0
        x = step.s.alpha * x_0 + step.c_2 * eps + noise - scale * direction
        if project is not None:
            x = project(x, step.s, rng.normal(D, dtype=torch.float64))
    return x


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dps_by_hand(schedule: str, eta: float) -> None:
    gauss = gaussian_problem(schedule, std=None)
    x_hat = gauss.solve(DPS(num_steps=NUM_STEPS, zeta=0.7, eta=eta))
    torch.testing.assert_close(x_hat, by_hand(gauss, schedule, 0.7, eta), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_step_of_the_paper_is_twice_that_of_the_code(schedule: str) -> None:
    """grad ||r||^2 / ||r|| = 2 grad ||r|| (Algorithm 1 with zeta_t = zeta / ||r||)."""
    gauss = gaussian_problem(schedule)
    x_hat = gauss.solve(DPS(num_steps=NUM_STEPS, zeta=0.35, norm="squared"))
    torch.testing.assert_close(x_hat, by_hand(gauss, schedule, 0.7, 1.0), rtol=1e-10, atol=1e-10)


def test_dps_in_pixels_is_latent_dps_with_ddpm_steps(pixel_prior: Prior) -> None:
    task = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}
    latent = parse_solver({"solver": "latent_dps", "num_steps": 6, "guidance_scale": 0.4, "eta": 1.0})
    outputs = [solver.solve(posed(task, pixel_prior).problem) for solver in (DPS(num_steps=6, zeta=0.4), latent)]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


def test_clipping_bounds_the_estimate_and_silences_what_is_clipped() -> None:
    """With the prior far above 1 every x_0 is clipped to 1: no gradient is left, and sampling ends at 1."""
    far = MixturePrior(GaussianMixture.isotropic(torch.ones(1), torch.full((1, D), 5.0), 0.1), (D,))
    x_hat = gaussian_problem("vp").solve(DPS(num_steps=NUM_STEPS, zeta=100.0, clip_denoised=True), far)
    torch.testing.assert_close(x_hat, torch.ones_like(x_hat), rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", ["hdr", "phase_retrieval"])
def test_dps_takes_any_differentiable_operator(task: str, pixel_prior: Prior) -> None:
    residuals = []
    for zeta in (0.0, 0.5):
        problem = posed({"operator": task, "noise_std": 0.05}, pixel_prior).problem
        residuals.append(problem.distance(DPS(num_steps=40, zeta=zeta).solve(problem)).sum())
    assert residuals[1] < residuals[0]


def test_presets_name_every_field() -> None:
    for preset in DPS.PRESETS:
        assert DPS.PRESETS[preset].keys() == {field.name for field in dataclasses.fields(DPS)}
    chosen = parse_solver({"solver": "dps", "preset": "random_inpainting", "num_steps": 10})
    assert chosen == DPS(num_steps=10, timestep_spacing="linspace", zeta=0.5, clip_denoised=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_mcg_by_hand(schedule: str) -> None:
    gauss = gaussian_problem(schedule, std=None)
    pinv = torch.linalg.pinv(gauss.a)

    def project(x: Tensor, s: Level, z: Tensor) -> Tensor:
        y_s = s.alpha * gauss.y + s.sigma * mv(gauss.a, z)
        return mv(torch.eye(D, dtype=torch.float64) - pinv @ gauss.a, x) + mv(pinv, y_s)

    x_hat = gauss.solve(MCG(num_steps=NUM_STEPS, zeta=0.7))
    torch.testing.assert_close(x_hat, by_hand(gauss, schedule, 0.7, 1.0, project), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("noise_std", [0.0, 0.3])
def test_mcg_ends_on_the_measurement_noise_and_all(noise_std: float, pixel_prior: Prior) -> None:
    """A x_hat = y whatever the noise of y: right without noise, and the known fault with it."""
    problem = posed({"operator": "random_inpainting", "noise_std": noise_std}, pixel_prior).problem
    assert problem.residual(MCG(num_steps=5).solve(problem)).abs().max() < 1e-12


@pytest.mark.parametrize("solver", [DPS(num_steps=5), MCG(num_steps=5)], ids=["dps", "mcg"])
def test_one_backward_call_per_step(solver: Any, pixel_prior: Prior) -> None:
    metered = MeteredPrior(pixel_prior, 3)
    solver.solve(posed({"operator": "super_resolution", "factor": 2}, metered).problem)
    assert [metered.counts[k].tolist() for k in ("denoiser", "denoiser_backward")] == [[5] * 3] * 2


@pytest.mark.parametrize("solver", [DPS(), MCG()], ids=["dps", "mcg"])
def test_latent_priors_are_refused(solver: Any) -> None:
    with pytest.raises(RequestError, match=f"solver {solver.name} needs a pixel prior"):
        solver.check(parse_task({"operator": "super_resolution"}), frozenset({"latent"}))
