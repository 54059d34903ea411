"""Optimal covariance: both types are exact on Gaussians where V is; V itself; Heun's order; the wavelet."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.operators.mask import Mask
from ipsolve.priors import Level, Prior
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.problem import Problem
from ipsolve.randomness import image_rng
from ipsolve.requests.errors import RequestError
from ipsolve.solvers import parse_solver
from ipsolve.solvers.guidance.optimal_covariance import OptimalCovariance
from ipsolve.solvers.steps.diffusion import posterior_std, transition_variance
from ipsolve.solvers.steps.haar import haar, haar_bands, inverse_haar
from ipsolve.solvers.steps.variances import estimate_variances, variances_at

from .gaussian_problem import IDS, SCHEDULES, D, GaussianProblem, gaussian_problem, mv

F64 = torch.float64
TYPES = ["I", "II"]
both_types = pytest.mark.parametrize("guidance", TYPES)


def state(gauss: GaussianProblem, t: Level) -> Tensor:
    return t.alpha * gauss.mean + t.sigma * image_rng(0, IDS, "state").normal(D, dtype=F64)


def with_covariance(gauss: GaussianProblem, covariance: Tensor) -> GaussianProblem:
    mixture = GaussianMixture.full(torch.ones(1), gauss.mean[None], covariance[None])
    prior = MixturePrior(mixture, (D,), gauss.problem.prior.schedule)
    return replace(gauss, covariance=covariance, problem=replace(gauss.problem, prior=prior))


@both_types
@pytest.mark.parametrize("step", [0, 10, 19])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_covariance_that_is_exact_gives_the_posterior_mean(schedule: str, step: int, guidance: Any) -> None:
    """pgdm for N(mean, I), tmpd for a diagonal covariance: against the sum of precisions."""
    t = SCHEDULES[schedule].levels(20)[step]
    gauss = gaussian_problem(schedule, std=1.0)
    diagonal = with_covariance(gauss, torch.diag(torch.tensor([2.0, 0.1, 1.0, 0.5, 3.0], dtype=F64)))
    solvers = [
        (gauss, OptimalCovariance(guidance=guidance, covariance="pgdm")),
        (diagonal, OptimalCovariance(guidance=guidance, covariance="tmpd", mle_sigma_thres=1e9)),
    ]
    for problem, solver in solvers:
        x_t = state(problem, t)
        found, expected = solver._posterior_mean(problem.problem, x_t, t), problem.posterior(x_t, t)[0]
        # CG stops at 1e-4 of the residual
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 if solver.covariance == "tmpd" else 1e-9)


class Learned(MixturePrior):
    """A Gaussian that has learned the exact variance of its steps, of each entry."""

    abilities = frozenset({"learned_variance"})

    def __init__(self, gauss: GaussianProblem) -> None:
        assert isinstance(gauss.problem.prior, MixturePrior)
        super().__init__(gauss.problem.prior.mixture, (D,), gauss.problem.prior.schedule)
        self.variances = torch.diagonal(gauss.covariance)

    def denoise_with_variance(self, x_t: Tensor, t: Level) -> tuple[Tensor, Tensor]:
        s = self.schedule.level(t.time - 1)
        beta = transition_variance(t, s)
        # of q(x_s | x_t), by Gaussian conditioning on the chain x_0 -> x_s -> x_t
        of_s, of_t = (level.alpha**2 * self.variances + level.sigma**2 for level in (s, t))
        exact = of_s * beta / of_t
        v = torch.log(exact / posterior_std(t, s) ** 2) / math.log(beta / posterior_std(t, s) ** 2)
        return self.denoise(x_t, t), v.expand_as(x_t)


@both_types
@pytest.mark.parametrize("step", [0, 10, 18])
def test_the_variance_of_a_step_converts_to_that_of_x_0(guidance: Any, step: int) -> None:
    t = SCHEDULES["vp"].levels(20)[step]
    diagonal = torch.diag(torch.tensor([2.0, 0.1, 1.0, 0.5, 3.0], dtype=F64))
    gauss = with_covariance(gaussian_problem("vp", std=1.0), diagonal)
    problem = replace(gauss.problem, prior=Learned(gauss))
    solver = OptimalCovariance(guidance=guidance, covariance="convert", mle_sigma_thres=1e9)
    x_t = state(gauss, t)
    torch.testing.assert_close(
        solver._posterior_mean(problem, x_t, t), gauss.posterior(x_t, t)[0], rtol=1e-4, atol=1e-4
    )
    assert solver.needs() >= {"learned_variance", "linear", "pixel"}
    above = replace(solver, mle_sigma_thres=t.ratio)._posterior_mean(problem, x_t, t)
    pgdm = replace(solver, covariance="pgdm")._posterior_mean(problem, x_t, t)
    torch.testing.assert_close(above, pgdm, rtol=0, atol=0)


def test_above_its_threshold_every_covariance_is_that_of_pgdm() -> None:
    gauss, t = gaussian_problem("ve", std=None), SCHEDULES["ve"].level(0.3)
    x_t = state(gauss, t)
    tmpd, pgdm = OptimalCovariance(covariance="tmpd"), OptimalCovariance(covariance="pgdm")
    same = tmpd._posterior_mean(gauss.problem, x_t, t), pgdm._posterior_mean(gauss.problem, x_t, t)
    torch.testing.assert_close(*same, rtol=0, atol=0)
    below = replace(tmpd, mle_sigma_thres=0.31)._posterior_mean(gauss.problem, x_t, t)
    assert (below - same[0]).abs().max() > 1e-4


def test_dps_and_diffpir_by_hand() -> None:
    gauss = gaussian_problem("vp", std=None)
    t = SCHEDULES["vp"].levels(20)[15]
    x_t, r = state(gauss, t), t.sigma / t.alpha
    x_0 = gauss.denoise(x_t, t)
    residual = gauss.y - mv(gauss.a, x_0)
    # J = d x_0 / d z = alpha d x_0 / d x_t
    dps = x_0 + r**2 * t.alpha * mv(gauss.jacobian(t).T, mv(gauss.a.mT, residual)) / gauss.noise_std**2
    found = OptimalCovariance(covariance="dps")._posterior_mean(gauss.problem, x_t, t)
    torch.testing.assert_close(found, dps, rtol=1e-9, atol=1e-9)
    v = r**2 / 3
    evidence = gauss.noise_std**2 * torch.eye(2, dtype=F64) + v * gauss.a @ gauss.a.mT
    diffpir = x_0 + v * mv(gauss.a.mT, torch.linalg.solve(evidence, residual))
    solver = OptimalCovariance(guidance="II", covariance="diffpir", lambda_=3.0)
    torch.testing.assert_close(solver._posterior_mean(gauss.problem, x_t, t), diffpir, rtol=1e-9, atol=1e-9)
    # V -> 0: type II is the estimate of the prior
    nothing = replace(solver, lambda_=1e12)._posterior_mean(gauss.problem, x_t, t)
    torch.testing.assert_close(nothing, x_0, rtol=1e-8, atol=1e-8)


@both_types
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_heun_converges_at_second_order_to_the_posterior(schedule: str, guidance: Any) -> None:
    """The exact probability flow of p(x_0 | y), from the same noise; the last step is one of Euler's, and tiny."""
    gauss, errors = gaussian_problem(schedule, std=1.0, noise_std=0.3), []
    for num_steps in (40, 160):
        x_hat = gauss.solve(OptimalCovariance(num_steps=num_steps, guidance=guidance, covariance="pgdm"))
        errors.append((x_hat - gauss.flow_map(SCHEDULES[schedule].levels(num_steps))).abs().max())
    euler = gauss.solve(OptimalCovariance(num_steps=160, covariance="pgdm", sampler="ddim", eta=0.0))
    first_order = (euler - gauss.flow_map(SCHEDULES[schedule].levels(160))).abs().max()
    assert errors[1] < 0.15 * errors[0]
    assert errors[1] < 0.2 * first_order


SHAPE, LEVELS = (1, 4, 4), 2
BANDS = torch.tensor([2.0, 0.8, 0.5, 0.4, 0.2, 0.1, 0.05], dtype=F64)


def wavelet_prior() -> tuple[MixturePrior, Tensor]:
    """Return N(0, W^T diag(c) W) with one c for each band, and the covariance."""
    eye = torch.eye(16, dtype=F64).reshape(16, *SHAPE)
    w = haar(eye, LEVELS).flatten(1).T
    c = BANDS[haar_bands(4, 4, LEVELS)].flatten()
    covariance = w.T @ torch.diag(c) @ w
    mixture = GaussianMixture.full(torch.ones(1), torch.zeros(1, 16, dtype=F64), covariance[None])
    return MixturePrior(mixture, SHAPE, SCHEDULES["ve"]), covariance


@both_types
def test_a_diagonal_in_the_wavelet_is_exact_where_the_covariance_is_one(guidance: Any) -> None:
    """For an A that does not commute with it, a mask, against the sum of precisions."""
    prior, covariance = wavelet_prior()
    r, noise_std = 0.5, 0.1
    t = SCHEDULES["ve"].level(r)
    v = (r**2 * BANDS / (BANDS + r**2)).tolist()
    mask = torch.tensor([1.0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0], dtype=F64).reshape(1, *SHAPE)
    generator = torch.Generator().manual_seed(1)
    x_t, y = (torch.randn(2, *SHAPE, generator=generator, dtype=F64) for _ in range(2))
    rng = image_rng(0, ["a", "b"], "solver")
    problem = Problem(mask * y, torch.full((2,), noise_std, dtype=F64), Mask(mask, SHAPE), prior, rng)
    solver = OptimalCovariance(
        guidance=guidance, covariance="analytic", variances=((r, *v), (2 * r, *v)), mle_sigma_thres=1.0
    )
    precision = torch.linalg.inv(covariance) + torch.eye(16, dtype=F64) / r**2
    precision = precision + torch.diag(mask.flatten()) / noise_std**2
    shift = x_t.flatten(1) / r**2 + (mask * y).flatten(1) / noise_std**2
    expected = torch.linalg.solve(precision, shift.T).T.reshape(2, *SHAPE)
    torch.testing.assert_close(solver._posterior_mean(problem, x_t, t), expected, rtol=1e-4, atol=2e-4)


def test_the_table_is_that_of_the_closed_form() -> None:
    """c r^2 / (c + r^2), of an isotropic Gaussian and of every band."""
    std, count = 0.7, 20000
    isotropic = MixturePrior(GaussianMixture.isotropic(torch.ones(1), torch.ones(1, 16), std), SHAPE, SCHEDULES["ve"])
    rng = image_rng(0, [f"image{i}" for i in range(count)], "table")
    ratios = [0.05, 0.2, 1.0]
    for r, v in estimate_variances(isotropic, isotropic.sample(rng), ratios, rng):
        assert v == pytest.approx(std**2 * r**2 / (std**2 + r**2), rel=0.02)
    prior, _ = wavelet_prior()
    table = estimate_variances(prior, prior.sample(rng), ratios, rng, LEVELS)
    assert [row[0] for row in table] == pytest.approx(ratios)
    for r, *v in table:
        torch.testing.assert_close(torch.tensor(v, dtype=F64), BANDS * r**2 / (BANDS + r**2), rtol=0.05, atol=0)


def test_between_rows_variances_are_powers_of_the_ratio() -> None:
    table = ((0.1, 0.01), (0.4, 0.16))
    assert variances_at(table, 0.2) == pytest.approx([0.04])
    assert variances_at(table, 0.05) == pytest.approx([0.0025])
    assert variances_at(table, 3.0) == pytest.approx([0.16])


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_the_wavelet_is_orthonormal(levels: int) -> None:
    x = torch.randn(2, 3, 8, 16, generator=torch.Generator().manual_seed(0), dtype=F64)
    c = haar(x, levels)
    torch.testing.assert_close(c.square().sum(), x.square().sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(inverse_haar(c, levels), x, rtol=0, atol=1e-12)
    flat = haar(torch.ones(1, 8, 16, dtype=F64), levels)[0]
    bands = haar_bands(8, 16, levels)
    assert flat[bands > 0].abs().max() < 1e-12 if levels else True
    torch.testing.assert_close(flat[bands == 0], torch.full_like(flat[bands == 0], float(2**levels)))
    assert bands.max() == 3 * levels
    assert math.isclose(float((bands == 0).double().mean()), 4.0**-levels)


def test_clipping_is_of_the_corrected_estimate() -> None:
    """The end is such an estimate: in the range of images, though the prior's mean is far outside."""
    gauss = gaussian_problem("vp", std=1.0)
    solver = OptimalCovariance(num_steps=6, covariance="pgdm")
    assert gauss.solve(solver).abs().max() > 1.5
    assert gauss.solve(replace(solver, clip_denoised=True)).abs().max() <= 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"covariance": "dps", "guidance": "II"}, "with covariance=dps II is no guidance; allowed: I"),
        ({"covariance": "analytic", "variances": [[0.1, 0.1, 0.2]]}, "must be rows of a growing ratio"),
        ({"covariance": "analytic", "variances": [[0.2, 0.1], [0.1, 0.1]]}, "must be rows of a growing ratio"),
        ({"covariance": "converted"}, "covariance"),
    ],
)
def test_wrong_settings_are_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        parse_solver({"solver": "optimal_covariance", **fields})
    assert "\n" not in str(caught.value)


def test_a_table_has_to_be_given(pixel_prior: Prior) -> None:
    task = parse_task({"operator": "super_resolution", "noise_std": 0.1})
    with pytest.raises(RequestError, match="covariance=analytic needs variances"):
        OptimalCovariance(covariance="analytic").check(task, pixel_prior.traits)
    OptimalCovariance(covariance="analytic", variances=((0.1, 0.01),)).check(task, pixel_prior.traits)
