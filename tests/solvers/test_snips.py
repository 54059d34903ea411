"""SNIPS: every kind of direction by hand, the law that it anneals to, and that no basis and no index plays a part."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ipsolve.operators.base import SpectralOperator
from ipsolve.operators.circulant import Circulant
from ipsolve.operators.matrix import Matrix
from ipsolve.priors import Prior
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedules import Edm
from ipsolve.problem import Problem
from ipsolve.randomness import image_rng
from ipsolve.requests.errors import RequestError
from ipsolve.solvers import parse_solver
from ipsolve.solvers.projection.snips import SNIPS

from .dense_gaussian import SCHEDULES, DenseGaussian
from .test_ddrm import MEAN, SINGULAR, VARIANCE, A, D, U, V, Y

NOISE_STD = 0.1
F64 = torch.float64


def run(solver: SNIPS, p: DenseGaussian) -> Tensor:
    with torch.no_grad():
        return solver.solve(p.problem)


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("schedule", ["vp", "ve"])
def test_every_direction_by_hand(schedule: str, denoise: bool) -> None:
    """The three updates as they are published, with their denominators."""
    p = DenseGaussian(A, Y, MEAN, VARIANCE**0.5, NOISE_STD, SCHEDULES[schedule])
    c, levels = 0.3, SCHEDULES[schedule].levels(6)[:-1]
    rng = p.rng()
    y_bar, mean = U.T @ Y[0], V.T @ MEAN
    z = levels[0].sigma / levels[0].alpha * (V.T @ p.normal(rng)[0])
    kinds = set()
    for t in levels:
        r = t.sigma / t.alpha
        for _ in range(2):
            score, n = (mean - z) / (VARIANCE + r**2), V.T @ p.normal(rng)[0]
            g, a = score.clone(), torch.full((D,), c * r**2, dtype=F64)
            for i, s_i in enumerate(SINGULAR):
                pull = s_i * (y_bar[i] - s_i * z[i])
                if r * s_i > NOISE_STD:
                    g[i] = pull / (s_i**2 * r**2 - NOISE_STD**2)
                    a[i] = c * (r**2 - (NOISE_STD / s_i) ** 2)
                else:
                    g[i] = pull / (NOISE_STD**2 - s_i**2 * r**2) + score[i]
                    a[i] = c * r**2 * (1 - (s_i * r / NOISE_STD) ** 2)
                kinds.add((i, r * s_i > NOISE_STD))
            z = z + a * g + (2 * a).sqrt() * n
    assert kinds >= {(0, True), (0, False), (1, True), (1, False), (2, False)}
    x = (V @ z)[None]
    if denoise:
        x = p.denoise(levels[-1].alpha * x, levels[-1])
    solver = SNIPS(num_steps=6, langevin_steps=2, step_size=c, denoise=denoise)
    torch.testing.assert_close(run(solver, p), x, rtol=1e-9, atol=1e-9)


def test_where_y_is_better_than_the_level_one_step_goes_a_share_of_the_way() -> None:
    """At r s_i > sigma_y the mean of an update is z + c (y_i / s_i - z), whatever s_i: the prior has no say."""
    p = DenseGaussian(A, Y, MEAN, VARIANCE**0.5, 1e-4, SCHEDULES["ve"])
    t, z = SCHEDULES["ve"].level(3.0), torch.linspace(2, -1, D, dtype=F64)[None]
    score = torch.full_like(z, 7.0)
    moved = SNIPS(step_size=0.2)._step(p.operator, p.problem, z, score, t, torch.zeros_like(z))
    seen = V[:, :3]
    expected = 0.8 * z @ seen + 0.2 * (Y @ U) / torch.tensor(SINGULAR, dtype=F64)
    torch.testing.assert_close(moved @ seen, expected, rtol=1e-10, atol=1e-10)
    unseen = V[:, 3:]
    torch.testing.assert_close(moved @ unseen, (z + 0.2 * 9 * score) @ unseen, rtol=1e-10, atol=1e-10)


def test_a_direction_just_at_the_noise_of_the_level_is_pulled_and_not_shaken() -> None:
    p = DenseGaussian(torch.eye(D, dtype=F64)[:1], Y[:, :1], MEAN, 1.0, 0.5, SCHEDULES["ve"])
    t, z = SCHEDULES["ve"].level(0.5), torch.zeros(1, D, dtype=F64)
    moved = SNIPS(step_size=0.2)._step(p.operator, p.problem, z, torch.ones_like(z), t, torch.ones_like(z))
    assert moved[0, 0] == pytest.approx(0.2 * float(Y[0, 0]), rel=1e-12)


@pytest.mark.parametrize("rank", [2, D], ids=["wide", "full rank"])
def test_it_samples_the_posterior(rank: int) -> None:
    """Annealed slowly; at full column rank too, where the slice [-0:] of the authors' code loses the measurement."""
    batch, sigma_y = 2000, 0.3
    s = torch.diag(torch.linspace(1.2, 0.4, rank, dtype=F64))
    a = s @ V[:, :rank].T
    y = torch.linspace(1, -1, rank, dtype=F64).expand(batch, -1)
    schedule = Edm(sigma_min=0.02, sigma_max=2.0)  # dynamics of step c r^2 freeze long before r = 0.02
    p = DenseGaussian(a, y, MEAN, VARIANCE**0.5, sigma_y, schedule)
    x = run(SNIPS(num_steps=150, langevin_steps=20, step_size=0.2), p)
    covariance = torch.linalg.inv(torch.eye(D, dtype=F64) / VARIANCE + a.T @ a / sigma_y**2)
    mean = covariance @ (MEAN / VARIANCE + a.T @ y[0] / sigma_y**2)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (x - mean).T, upper=False)
    assert (white.mean(1).abs() < 5 / batch**0.5).all()
    torch.testing.assert_close(white.cov(), torch.eye(D, dtype=F64), rtol=0, atol=0.12)


def test_nearly_exact_measurements_are_met() -> None:
    """sigma_y -> 0: what A sees ends on y_i / s_i, to sigma_y / s_i."""
    sigma_y, a = 1e-3, torch.diag(torch.tensor([1.5, 0.5], dtype=F64)) @ V[:, :2].T
    y = Y[:, :2].expand(3, -1)
    p = DenseGaussian(a, y, MEAN, VARIANCE**0.5, sigma_y, Edm(sigma_min=1e-4, sigma_max=2.0))
    x = run(SNIPS(num_steps=100, langevin_steps=5, step_size=0.2), p)
    assert (x @ a.T - y).abs().max() < 5 * sigma_y


def as_matrix(operator: SpectralOperator) -> Matrix:
    basis = torch.eye(math.prod(operator.image_shape), dtype=F64).reshape(-1, *operator.image_shape)
    return Matrix(operator.forward(basis).flatten(1).T[None])


def answer(operator: SpectralOperator, y: Tensor, prior: Prior) -> Tensor:
    noise_std = torch.full((1,), NOISE_STD, dtype=F64)
    problem = Problem(y, noise_std, operator, prior, image_rng(0, ["image0"], "solver"))
    return SNIPS(num_steps=6, langevin_steps=3, step_size=0.3).solve(problem).flatten(1)


def test_complex_coordinates_give_what_a_dense_svd_gives() -> None:
    """A blur in the Fourier basis and as a matrix, whose SVD has another basis: the same image, and a real one."""
    shape = (1, 4, 4)
    kernel = torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=F64)
    blur = Circulant(kernel / kernel.sum(), shape)
    means = torch.randn(2, 16, generator=torch.Generator().manual_seed(3), dtype=F64)
    mixture = GaussianMixture.isotropic(torch.ones(2), means, 0.4)
    y = torch.randn(1, *shape, generator=torch.Generator().manual_seed(4), dtype=F64)
    found = answer(blur, y, MixturePrior(mixture, shape))
    dense = answer(as_matrix(blur), y.flatten(1), MixturePrior(mixture, (16,)))
    torch.testing.assert_close(found, dense, rtol=1e-8, atol=1e-8)


def test_the_official_levels_are_those_of_its_code_on_images_of_twice_the_range() -> None:
    official = parse_solver({"solver": "snips", "preset": "official"})
    assert isinstance(official, SNIPS)
    assert official.cost(frozenset()).denoiser == 2500
    assert official.step_size == pytest.approx(3.3e-6 / 0.01**2)
    with pytest.raises(RequestError, match="which ratio_range replaces"):
        parse_solver({"solver": "snips", "preset": "official", "timestep_spacing": "linspace"})
