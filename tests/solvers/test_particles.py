"""Resampling within images, and Gaussian filtering in singular directions against dense matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ipsolve.evaluation.sampling import draw
from ipsolve.operators.matrix import Matrix
from ipsolve.priors import Level, Prior
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.problem import Problem, Solution, inverse_cdf, systematic
from ipsolve.randomness import ImageRng, image_rng
from ipsolve.solvers.steps.filtering import GaussianStep, Observation, diffused_measurement
from ipsolve.solvers.steps.particles import ParticleSolver, effective_sample_size, gather, multinomial
from ipsolve.solvers.steps.spectral import inverse_singular_values

from .conftest import posed

F64 = torch.float64
WEIGHTS = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.3], dtype=F64)


def streams(count: int) -> ImageRng:
    return image_rng(0, [f"image{i}" for i in range(count)], "solver")


def as_many(log_weights: Tensor, rng: ImageRng) -> Tensor:
    return systematic(log_weights, log_weights.shape[1], rng)


def offspring(ancestors: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(ancestors, len(WEIGHTS)).sum(1).double()


@pytest.mark.parametrize("resample", [multinomial, as_many])
def test_every_particle_has_as_many_descendants_as_its_weight_says(resample: object) -> None:
    images = 8000
    children = offspring(resample((WEIGHTS.log() + 3.0).expand(images, -1), streams(images)))  # type: ignore[operator]
    expected = 5 * WEIGHTS
    error = (children.mean(0) - expected).abs()
    assert (error <= 4.5 * children.std(0) / math.sqrt(images)).all()
    assert children[:, 2].sum() == 0


def test_systematic_rounds_the_expected_number_up_or_down() -> None:
    children = offspring(systematic(WEIGHTS.log().expand(500, -1), 5, streams(500)))
    assert ((children - 5 * WEIGHTS).abs() < 1).all()
    assert (systematic(torch.zeros(20, 7, dtype=F64), 7, streams(20)) == torch.arange(7)).all()


def test_multinomial_numbers_have_the_binomial_variance() -> None:
    images = 8000
    children = offspring(multinomial(WEIGHTS.log().expand(images, -1), streams(images)))
    torch.testing.assert_close(children.var(0), 5 * WEIGHTS * (1 - WEIGHTS), rtol=0.06, atol=0)


@pytest.mark.parametrize("resample", [multinomial, as_many])
def test_images_are_resampled_apart(resample: object) -> None:
    log_weights = streams(6).child("weights").normal(9, dtype=F64)
    together = resample(log_weights, streams(6))  # type: ignore[operator]
    for row in range(6):
        index = torch.tensor([row])
        alone = resample(log_weights[index], streams(6).select(index))  # type: ignore[operator]
        assert (alone[0] == together[row]).all()
    x = torch.arange(6).repeat_interleave(9)
    assert (gather(x, together) == x).all()
    inside = torch.arange(9).repeat(6)
    assert (gather(inside, together) == together.flatten()).all()


def test_weights_of_any_size_do_not_break_resampling() -> None:
    log_weights = torch.tensor([[-1e6, -1e6 - 1e3, -2e6], [0.0, -math.inf, -math.inf]], dtype=F64)
    assert (multinomial(log_weights, streams(2)) == 0).all()
    assert (systematic(log_weights, 3, streams(2)) == 0).all()


def test_the_very_first_position_skips_a_particle_without_weight() -> None:
    log_weights = torch.tensor([[-math.inf, 0.0, 0.0]], dtype=F64)
    assert inverse_cdf(log_weights, torch.tensor([[0.0, 0.5]], dtype=F64)).tolist() == [[1, 2]]


def test_effective_sample_size() -> None:
    log_weights = torch.tensor([[1.0, 1, 1, 1], [0.5, 0.5, 0, 0], [1.0, 0, 0, 0]], dtype=F64).log()
    torch.testing.assert_close(effective_sample_size(log_weights), torch.tensor([4.0, 2, 1], dtype=F64))


@dataclass(frozen=True)
class Fixed(ParticleSolver):
    """A method that knows its answer: particle p of every image is the number p, with weights WEIGHTS."""

    num_particles: int = 5

    def solve(self, problem: Problem) -> Solution:
        batch = problem.batch_size
        return Solution(torch.arange(5.0).expand(batch, -1)[..., None], WEIGHTS.log().expand(batch, -1))


def test_one_particle_is_drawn_by_its_weight() -> None:
    images = 8000
    operator = Matrix(torch.eye(1, dtype=F64)[None])
    prior = MixturePrior(GaussianMixture.isotropic(torch.ones(1), torch.zeros(1, 1), 1.0), (1,))
    y, noise_std = torch.zeros(images, 1, dtype=F64), torch.full((images,), 0.1, dtype=F64)
    drawn = draw(Fixed(), Problem(y, noise_std, operator, prior, streams(images)))[:, 0]
    assert drawn.shape == (images, 1)
    frequency = offspring(drawn.long()).mean(0)
    assert ((frequency - WEIGHTS).abs() <= 4.5 * (WEIGHTS * (1 - WEIGHTS) / images).sqrt()).all()


TASKS = [
    {"operator": "super_resolution", "factor": 4},
    {"operator": "random_inpainting"},
    {"operator": "motion_blur", "kernel_size": 3, "boundary": "circular"},
    {"operator": "grayscale"},
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task["operator"])
@pytest.mark.parametrize(("v", "noise_std"), [(0.3, 0.2), (0.3, 0.0)])
def test_filtering_is_gaussian_conditioning(
    task: dict[str, object], v: float, noise_std: float, pixel_prior: Prior
) -> None:
    """Evidence, mean and covariance of the filtered state, for any SVD, complex ones too, by dense matrices."""
    alone = posed(task, pixel_prior, batch=1).problem
    operator, y = alone.spectral_operator, alone.y
    d, shape = math.prod(operator.image_shape), operator.image_shape
    basis = torch.eye(d, dtype=F64).reshape(d, *shape)
    rows = torch.zeros(d, dtype=torch.int64)
    swarm = operator.select(rows)
    a = swarm.forward(basis).flatten(1).T
    inverse = inverse_singular_values(operator)
    observed = Observation(inverse * operator.measurement_to_spectral(y), (noise_std * inverse).square(), inverse > 0)
    mean = streams(1).normal(2, *shape, dtype=F64)[0]
    pair = operator.select(rows[:2])

    total = v * a @ a.T + noise_std**2 * torch.eye(len(a), dtype=F64)
    errors = y.flatten() - mean.flatten(1) @ a.T
    # the pseudo-inverse leaves out what no image can produce, in which both particles agree
    quadratic = torch.einsum("bi,ij,bj->b", errors, torch.linalg.pinv(total, hermitian=True, rtol=1e-9), errors)
    evidence = observed.log_evidence(GaussianStep.around(pair, mean, v))
    torch.testing.assert_close(evidence[0, 0] - evidence[0, 1], -0.5 * (quadratic[0] - quadratic[1]), rtol=1e-8, atol=0)

    gain = v * a.T @ torch.linalg.pinv(total, hermitian=True, rtol=1e-9)
    step = GaussianStep.around(swarm, mean[:1].expand(d, *shape), v)
    expected = mean[0].flatten() + gain @ (y.flatten() - a @ mean[0].flatten())
    centre = observed.sample(step, torch.zeros_like(basis))
    torch.testing.assert_close(centre[0].flatten(), expected, rtol=0, atol=1e-10)
    root = (observed.sample(step, basis) - centre).flatten(1)
    covariance = v * torch.eye(d, dtype=F64) - v * gain @ a
    torch.testing.assert_close(root.T @ root, covariance, rtol=0, atol=1e-10)


def test_a_step_without_variance() -> None:
    """A certain state is not moved by a noisy measurement, and gives way to an exact one."""
    operator = Matrix(torch.tensor([[[2.0, 0.0]]], dtype=F64))
    seen = operator.singular_values() > 0
    x = torch.ones(1, 2, dtype=F64)
    step = GaussianStep.around(operator, x, 0.0)
    z = operator.to_spectral(3 * x)
    assert (Observation(z, seen * 0.1, seen).sample(step, x) == x).all()
    exact = Observation(z, seen * 0.0, seen)
    torch.testing.assert_close(exact.sample(step, x), torch.tensor([[3.0, 1.0]], dtype=F64))
    assert (exact.log_evidence(step) == 0).all()


def test_the_path_of_measurements_is_that_of_the_forward_diffusion() -> None:
    """With the share of DDPM, z_s and z_t have the covariance of x_s and x_t = alpha_t / alpha_s x_s + noise."""
    t, s = Level(0.0, 0.6, 0.8), Level(0.0, 0.9, math.sqrt(1 - 0.81))
    transition = t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2
    # the map from (n_t, fresh noise) to (z_t, z_s) around z_0 is linear: take it from unit vectors
    n_t, fresh = torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    z_0, z_t = torch.tensor(2.0, dtype=F64), t.alpha * 2.0 + t.sigma * n_t
    share = torch.tensor(transition / t.sigma**2, dtype=F64)
    std_t, std_s = torch.tensor(t.sigma, dtype=F64), torch.tensor(s.sigma, dtype=F64)
    z_s = diffused_measurement(z_0, z_t, t, s, std_t=std_t, std_s=std_s, share=share, noise=fresh)
    row_t, row_s = z_t - t.alpha * z_0, z_s - s.alpha * z_0
    assert row_s @ row_s == pytest.approx(s.sigma**2, rel=1e-12)
    assert row_t @ row_s == pytest.approx(t.alpha / s.alpha * s.sigma**2, rel=1e-12)
