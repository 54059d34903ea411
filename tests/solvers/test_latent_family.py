"""TReg, P2L and STSL, and the corrector MCLC, on exact priors."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ipsolve.conventions import norm
from ipsolve.operators import parse_task
from ipsolve.operators.matrix import Matrix
from ipsolve.priors import Edm, MeteredPrior, Prior
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.problem import Problem
from ipsolve.randomness import image_rng
from ipsolve.solvers import Solver, parse_solver
from ipsolve.solvers.guidance.latent_dps import LatentDPS
from ipsolve.solvers.guidance.p2l import P2L
from ipsolve.solvers.guidance.stsl import STSL
from ipsolve.solvers.projection.treg import TReg
from ipsolve.solvers.steps.corrector import corrected, orthogonal
from ipsolve.solvers.steps.diffusion import gradient, langevin_step

from .conftest import ShuffledPrior, mixture, posed
from .dense_gaussian import SCHEDULES, dense_gaussian
from .gaussian_problem import IDS, D, Reparametrised, gaussian_problem, mv
from .test_every_solver import SMALL, one_sample

TASK = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


@every_schedule
def test_treg_by_hand(schedule: str) -> None:
    """Conjugate gradients run to the end; the two noises of a data step have variance sigma_s^2 together."""
    p = dense_gaussian(schedule)
    rng = p.rng()
    levels = p.schedule.levels(7)
    gram = p.a.T @ p.a + 0.2 * torch.eye(5, dtype=torch.float64)
    x = levels[0].sigma * p.normal(rng)
    for step, (t, s) in enumerate(pairwise(levels)):
        z_0 = p.denoise(x, t)
        eps = (x - t.alpha * z_0) / t.sigma
        if step % 2 != 0 or step >= 0.6 * 7:
            x = s.alpha * z_0 + s.sigma * eps
            continue
        ab = s.alpha**2 / (s.alpha**2 + s.sigma**2)
        consistent = torch.linalg.solve(gram, (p.y @ p.a + 0.2 * z_0).T).T
        z_0 = ab * consistent + (1 - ab) * z_0
        k = math.hypot(s.alpha, s.sigma)
        # the published line, for the variance preserving state
        vp = math.sqrt(ab) * z_0 + (1 - ab) * eps + math.sqrt((1 - ab) * ab) * p.normal(rng)
        x = k * vp
    solver = TReg(num_steps=7, interval=2, until=0.6, cg_steps=5, lambda_=0.2)
    torch.testing.assert_close(solver.solve(p.problem), z_0, rtol=1e-7, atol=1e-7)


def test_the_last_estimate_of_treg_fits_the_data_where_its_last_step_is_a_data_step(latent_prior: Prior) -> None:
    """Of a schedule that ends clean the answer is then E(x*) alone, and lambda -> 0 is the null-space projection."""
    task = {"operator": "random_inpainting", "noise_std": 0.0}
    problem = posed(task, latent_prior).problem
    x = TReg(num_steps=4, interval=1, until=1.0, lambda_=1e-9, cg_steps=20).solve(problem)
    ab = latent_prior.schedule.levels(4)[-1].alpha ** 2
    assert (norm(problem.residual(x)) < 2 * (1 - ab) * norm(problem.y)).all()


@pytest.mark.parametrize("settings", [{}, {"eta": 0.6, "max_update_rms": 0.05}])
@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_p2l_without_projection_is_latent_dps(
    kind: str, settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    prior = request.getfixturevalue(f"{kind}_prior")
    plain = LatentDPS(num_steps=6, guidance_scale=0.7, **settings).solve(posed(TASK, prior).problem)
    p2l = P2L(num_steps=6, guidance_scale=0.7, interval=None, **settings)
    assert torch.equal(p2l.solve(posed(TASK, prior).problem), plain)
    # an estimate that is all but held goes through an encoder that loses nothing
    held = replace(p2l, interval=2, lambda_=1e12)  # type: ignore[type-var]
    torch.testing.assert_close(held.solve(posed(TASK, prior).problem), plain, rtol=0, atol=1e-9)
    assert not torch.allclose(replace(held, lambda_=1.0).solve(posed(TASK, prior).problem), plain, atol=1e-3)


@every_schedule
def test_p2l_by_hand(schedule: str) -> None:
    p = dense_gaussian(schedule)
    levels = p.schedule.levels(6)
    x = levels[0].sigma * p.normal(p.rng())
    gram = p.a.T @ p.a + 0.5 * torch.eye(5, dtype=torch.float64)
    for step, (t, s) in enumerate(pairwise(levels)):
        z_0 = p.denoise(x, t)
        eps = (x - t.alpha * z_0) / t.sigma
        r = p.residual(z_0)
        slope = p.gain(t) * (r / r.norm(dim=1, keepdim=True)) @ p.a
        if step in (1, 3):  # two and four steps before the last one, 5
            z_0 = torch.linalg.solve(gram, (p.y @ p.a + 0.5 * z_0).T).T
        x = s.alpha * z_0 + s.sigma * eps
        x = x - 0.3 * math.hypot(s.alpha, s.sigma) * math.hypot(t.alpha, t.sigma) * slope
    solver = P2L(num_steps=6, guidance_scale=0.3, interval=2, lambda_=0.5)
    torch.testing.assert_close(solver.solve(p.problem), x, rtol=1e-8, atol=1e-8)


@every_schedule
def test_stsl_by_hand_on_a_gaussian_whose_uncertainty_is_the_same_everywhere(schedule: str) -> None:
    p = dense_gaussian(schedule)
    levels = p.schedule.levels(5)
    x = levels[0].sigma * p.normal(p.rng())
    for t, s in pairwise(levels):
        for _ in range(2):
            r = p.residual(p.denoise(x, t))
            x = x - 0.3 * (t.alpha**2 + t.sigma**2) * p.gain(t) * (r / r.norm(dim=1, keepdim=True)) @ p.a
        z_0 = p.denoise(x, t)
        x = s.alpha * z_0 + s.sigma * (x - t.alpha * z_0) / t.sigma
    for eta in (0.0, 5.0):
        solver = STSL(num_steps=5, inner_steps=2, zeta=0.3, eta=eta, num_probes=2)
        torch.testing.assert_close(solver.solve(p.problem), x, rtol=1e-8, atol=1e-8)


def two_modes(x: float, batch: int = 3) -> tuple[MixturePrior, Problem, Tensor]:
    """Modes at -1 and 1 on a line, nothing measured, and the state x."""
    means = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    prior = MixturePrior(GaussianMixture.isotropic(torch.ones(2), means, 0.1), (1,), Edm())
    ids = [f"image{i}" for i in range(batch)]
    zeros = torch.zeros(batch, 1, dtype=torch.float64)
    problem = Problem(zeros, zeros[:, 0] + 0.1, Matrix(zeros[:1, :, None]), prior, image_rng(0, ids, "solver"))
    return prior, problem, torch.full_like(zeros, x)


@pytest.mark.parametrize("x", [0.3, -0.3, 1.5])
def test_stsl_descends_the_variance_of_the_posterior(x: float) -> None:
    """With small probes the gradient is eta / d e^2 times that of Var[x_0 | x_t]: away from the ridge at 0."""
    prior, problem, state = two_modes(x)
    t = prior.schedule.level(0.8)
    e = problem.rng.select(torch.arange(3)).normal(1, dtype=torch.float64)
    found = STSL(zeta=0.0, eta=0.7, probe_std=1e-5)._gradient(problem, state, t)
    h = 1e-4
    one = torch.ones_like(state)
    above, below = (prior.covariance_product(state + d, one, t) for d in (h, -h))
    torch.testing.assert_close(found, 0.7 * e**2 * (above - below) / (2 * h), rtol=1e-3, atol=1e-6)
    assert (found * x < 0).all()  # a step against it leads away from 0


def test_stsl_at_pure_noise_has_nothing_to_say_of_uncertainty() -> None:
    p = dense_gaussian("flow")
    for eta in (0.0, 1.0):
        assert STSL(num_steps=3, eta=eta).solve(p.problem).isfinite().all()


@pytest.mark.parametrize(
    "solver",
    [
        TReg(num_steps=8, until=1.0),
        P2L(num_steps=8, interval=2, eta=0.5),
        STSL(num_steps=8, inner_steps=2, eta=0.5),
        LatentDPS(num_steps=8, corrector_steps=2, corrector_step_size=0.1),
    ],
    ids=lambda solver: solver.name,
)
def test_a_schedule_is_a_choice_of_units(solver: Solver) -> None:
    gauss = gaussian_problem("vp", std=None)
    prior = gauss.problem.prior
    assert isinstance(prior, MixturePrior)
    exploding = MixturePrior(prior.mixture, (D,), Reparametrised(prior.schedule))
    torch.testing.assert_close(gauss.solve(solver), gauss.solve(solver, exploding), rtol=0, atol=1e-7)


@every_schedule
def test_a_correction_leaves_the_data_term_to_first_order(schedule: str) -> None:
    """<grad r, dz> = 0, and the rest of the Langevin step is all there."""
    p = dense_gaussian(schedule)
    s = p.schedule.levels(6)[3]
    z = s.sigma * p.normal(image_rng(5, IDS, "state"))
    noise = p.normal(p.rng())
    moved = corrected(p.problem, z, s, steps=1, step_size=0.2) - z
    slope = gradient(lambda x: p.problem.distance(p.prior.denoise(x, s)), z)
    whole = 0.2 * (s.alpha * p.denoise(z, s) - z) + math.sqrt(0.4) * s.sigma * noise
    g = slope / slope.norm(dim=1, keepdim=True)
    assert ((moved * g).sum(1).abs() < 1e-12 * whole.norm(dim=1)).all()
    assert ((whole * g).sum(1).abs() > 1e-3 * whole.norm(dim=1)).all()
    torch.testing.assert_close(moved, whole - (whole * g).sum(1, keepdim=True) * g, rtol=1e-9, atol=1e-9)


def test_a_step_without_slope_is_left_whole() -> None:
    step, slope = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(orthogonal(step, torch.zeros_like(slope)), step)
    mixed = orthogonal(step, torch.stack([slope[0], torch.zeros_like(slope[1])]))
    assert torch.equal(mixed[1], step[1])
    assert abs(float((mixed[0] * slope[0]).sum())) < 1e-12


@every_schedule
def test_a_correction_without_data_is_langevin_to_the_marginal_of_the_prior(schedule: str) -> None:
    p = dense_gaussian(schedule, batch=4000)
    blind = replace(p.problem, operator=Matrix(torch.zeros(1, 2, 5, dtype=torch.float64)))
    s = p.schedule.levels(6)[3]
    start = torch.zeros(4000, 5, dtype=torch.float64)
    one = langevin_step(
        start, (s.alpha * p.denoise(start, s) - start) / s.sigma**2, 0.3 * s.sigma**2, p.normal(p.rng())
    )
    torch.testing.assert_close(corrected(blind, start, s, steps=1, step_size=0.3), one, rtol=1e-10, atol=1e-10)
    z = corrected(replace(blind, rng=p.rng()), start, s, steps=150, step_size=0.05)
    variance = s.alpha**2 * p.std**2 + s.sigma**2
    # of 20000 numbers to 1%, and an Euler step of 0.05 sigma^2 / variance widens it by half of that at most
    torch.testing.assert_close((z - s.alpha * p.mean).square().mean().item(), variance, rtol=0.08, atol=0)


CORRECTED = ["latent_dps", "psld", "resample"]


@pytest.mark.parametrize("name", CORRECTED)
def test_a_correction_that_is_off_is_the_plain_method_to_the_last_bit(name: str, latent_prior: Prior) -> None:
    plain = parse_solver({"solver": name, **SMALL[name]})
    off = replace(plain, corrector_step_size=0.5)  # type: ignore[type-var]
    on = replace(off, corrector_steps=1)
    with torch.no_grad():
        x, y, z = (one_sample(solver, posed(TASK, latent_prior).problem) for solver in (plain, off, on))
    assert torch.equal(x, y)
    assert not torch.allclose(x, z, atol=1e-3)


@pytest.mark.parametrize("kind", ["pixel", "latent"])
@pytest.mark.parametrize("name", CORRECTED)
def test_with_corrections_every_image_stands_alone_and_costs_what_is_said(
    name: str, kind: str, request: pytest.FixtureRequest
) -> None:
    prior = request.getfixturevalue(f"{kind}_prior")
    solver = parse_solver({"solver": name, **SMALL[name], "corrector_steps": 2, "corrector_step_size": 0.1})
    if not solver.needs() <= parse_task(TASK).traits | prior.traits:
        return
    metered = MeteredPrior(prior, 3)
    with torch.no_grad():
        together = one_sample(solver, posed(TASK, metered).problem)
        for row in range(3):
            alone = one_sample(solver, posed(TASK, prior).problem.select(torch.tensor([row])))
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-9)
    stated = solver.cost(parse_task(TASK).traits | prior.traits)
    for each, counts in metered.counts.items():
        bound = getattr(stated, each)
        assert (counts <= bound if each in stated.up_to else counts == bound).all(), each


def test_corrections_draw_towards_the_prior() -> None:
    """Guided too far, a state is corrected back: the answer is more likely under the prior, on average over images."""
    prior = ShuffledPrior(mixture(1, 0.3))
    known = {"operator": "super_resolution", "factor": 2, "noise_std": 0.5}
    likely = []
    for steps in (0, 3):
        solver = LatentDPS(num_steps=20, guidance_scale=5.0, corrector_steps=steps, corrector_step_size=0.2)
        x = solver.solve(posed(known, prior, batch=8).problem)
        likely.append(prior.log_density(prior.encode(x), prior.schedule.levels(20)[-1]).mean())
    assert likely[1] > likely[0]


def test_the_gaussian_problem_is_used_as_it_is() -> None:
    """One matrix for each problem of the batch: TReg without a shared A."""
    gauss = gaussian_problem("vp", noise_std=0.0001)
    x = gauss.solve(TReg(num_steps=10, interval=1, until=1.0, lambda_=1e-8, cg_steps=10))
    torch.testing.assert_close(mv(gauss.a, x), gauss.y, rtol=0, atol=1e-3)
