"""Latent DPS and PSLD with a single Gaussian as the prior, where every update can be worked out by hand.

And one law for all guided samplers: a schedule is a choice of units.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ipsolve.conventions import norm
from ipsolve.priors import Level, MeteredPrior, Prior
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.problem import Problem
from ipsolve.solvers import Solver, parse_solver
from ipsolve.solvers.guidance.dps import DPS
from ipsolve.solvers.guidance.dsg import DSG
from ipsolve.solvers.guidance.latent_dps import LatentDPS
from ipsolve.solvers.guidance.mcg import MCG
from ipsolve.solvers.guidance.mmps import MMPS
from ipsolve.solvers.guidance.mpgd import MPGD
from ipsolve.solvers.guidance.pigdm import PiGDM
from ipsolve.solvers.guidance.psld import PSLD

from .conftest import SHAPE, ShuffledPrior, mixture, posed
from .gaussian_problem import D, Reparametrised, gaussian_problem

STD = 0.3
TASK = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}
NUM_STEPS = 5


def gaussian_gain(t: Level) -> float:
    """d E[x_0 | x_t] / d x_t for x_0 ~ N(m, STD^2 I)."""
    return t.alpha * STD**2 / (t.alpha**2 * STD**2 + t.sigma**2)


def by_hand(problem: Problem, omega: float, gamma: float) -> Tensor:
    """z_s = DDIM(z_t) - k J^T grad, written out for a linear denoiser and an orthonormal decoder."""
    prior, operator = problem.prior, problem.linear_operator
    levels = prior.schedule.levels(NUM_STEPS)
    z = levels[0].sigma * problem.noise()
    for t, s in pairwise(levels):
        z_0 = prior.denoise(z, t)
        eps = (z - t.alpha * z_0) / t.sigma
        residual = operator.forward(prior.decode(z_0)) - problem.y
        back = operator.adjoint(residual)
        length = norm(residual).reshape(-1, 1, 1, 1)
        # glued - x = -A^T r for an orthonormal autoencoder, and grad ||A^T r|| = A^T A A^T r / ||A^T r||
        glue = operator.adjoint(operator.forward(back)) / norm(back).reshape(-1, 1, 1, 1)
        update = gaussian_gain(t) * prior.encode(omega * back / length + gamma * glue)
        z = s.alpha * z_0 + s.sigma * eps - update
    return prior.decode(z)


@pytest.mark.parametrize("latent", [False, True])
def test_latent_dps_by_hand(latent: bool) -> None:
    prior: Prior = ShuffledPrior(mixture(1, STD)) if latent else MixturePrior(mixture(1, STD), SHAPE)
    x_hat = LatentDPS(num_steps=NUM_STEPS, guidance_scale=0.7).solve(posed(TASK, prior).problem)
    expected = by_hand(posed(TASK, prior).problem, 0.7, 0.0)
    torch.testing.assert_close(x_hat, expected, rtol=0, atol=1e-9)


def test_psld_by_hand() -> None:
    prior = ShuffledPrior(mixture(1, STD))
    solver = PSLD(num_steps=NUM_STEPS, measurement_weight=0.7, gluing_weight=0.4)
    x_hat = solver.solve(posed(TASK, prior).problem)
    expected = by_hand(posed(TASK, prior).problem, 0.7, 0.4)
    torch.testing.assert_close(x_hat, expected, rtol=0, atol=1e-9)


def test_psld_without_gluing_is_latent_dps(latent_prior: Prior) -> None:
    settings = {"num_steps": NUM_STEPS, "eta": 0.5, "max_update_rms": 0.05}
    psld = parse_solver({"solver": "psld", "measurement_weight": 0.3, "gluing_weight": 0.0, **settings})
    dps = parse_solver({"solver": "latent_dps", "guidance_scale": 0.3, **settings})
    outputs = [s.solve(posed(TASK, latent_prior).problem) for s in (psld, dps)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)


def test_guidance_lowers_the_residual(latent_prior: Prior) -> None:
    residuals = []
    for scale in (0.0, 2.0):
        problem = posed(TASK, latent_prior).problem
        x_hat = LatentDPS(num_steps=50, guidance_scale=scale).solve(problem)
        residuals.append(norm(problem.residual(x_hat)))
    assert (residuals[1] < 0.5 * residuals[0]).all()


def test_gradients_pass_through_denoiser_and_decoder(latent_prior: Prior) -> None:
    metered = MeteredPrior(latent_prior, 3)
    LatentDPS(num_steps=NUM_STEPS).solve(posed(TASK, metered).problem)
    counts = {name: count.tolist() for name, count in metered.counts.items()}
    assert counts == {
        "denoiser": [5] * 3,
        "denoiser_backward": [5] * 3,
        "decoder": [6] * 3,
        "decoder_backward": [5] * 3,
        "encoder": [0] * 3,
    }


@pytest.mark.parametrize(
    "solver",
    [
        DPS(num_steps=12),
        DSG(num_steps=12),
        LatentDPS(num_steps=12, eta=0.5, max_update_rms=0.05),
        MCG(num_steps=12),
        MMPS(num_steps=12, iterations=2),
        MPGD(num_steps=12, guidance_scale=0.5),
        PiGDM(num_steps=12),
        PiGDM(num_steps=12, adaptive_weight=False, start=0.5),
    ],
    ids=lambda solver: solver.name,
)
def test_a_schedule_is_a_choice_of_units(solver: Solver) -> None:
    """The same levels of sigma / alpha give the same image, whether variance preserving or exploding."""
    gauss = gaussian_problem("vp", std=None)
    prior = gauss.problem.prior
    exploding = MixturePrior(prior.mixture, (D,), Reparametrised(prior.schedule))
    torch.testing.assert_close(gauss.solve(solver), gauss.solve(solver, exploding), rtol=0, atol=1e-7)
