"""Families of problems: pure functions of (spec, index, seed) with the distribution that they state."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ipsolve.operators.base import SpectralOperator
from ipsolve.operators.matrix import Matrix
from ipsolve.posterior import PosteriorProblem, parse_problems
from ipsolve.priors import Edm
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.priors.schedules import mcgdiff
from ipsolve.randomness import image_rng
from ipsolve.requests.errors import RequestError

VECTORS = {"prior": {"means": [[0, 0, 0], [2, 1, 0]], "weights": [1, 3], "std": 0.5}, "noise_std": 0.2}
LITERAL = {"generator": "explicit", **VECTORS, "operator": {"matrix": [[1, 2, 0], [0, 0, 1]]}, "num_problems": 3}
IMAGES = {"prior": {"prior": "mixture", "image_shape": [3, 8, 8]}, "noise_std": 0.1, "num_problems": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "mcgdiff": {"generator": "mcgdiff", "dimension": 8, "num_measurements": 2},
    "gaussian": {"generator": "random_gaussian", "dimension": 6, "num_measurements": 4, "num_problems": 3},
    "literal": LITERAL,
    "sr": {"generator": "explicit", **IMAGES, "operator": {"operator": "super_resolution", "factor": 2}},
    "inpainting": {"generator": "explicit", **IMAGES, "operator": {"operator": "random_inpainting", "drop_rate": 0.8}},
    "motion": {"generator": "explicit", **IMAGES, "operator": {"operator": "motion_blur", "kernel_size": 5}},
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def fingerprint(problem: PosteriorProblem) -> list[float]:
    posed, posterior = problem.posed, problem.posterior
    tensors = [posed.x, posed.problem.y, posterior.means, posterior.variances, posed.problem.noise_std]
    return [float(each.sum()) for each in tensors]


def prior_of(problem: PosteriorProblem) -> MixturePrior:
    prior = problem.posed.problem.prior
    assert isinstance(prior, MixturePrior)
    return prior


@every_family
def test_a_problem_is_a_function_of_its_index_and_the_seed(family: dict[str, Any]) -> None:
    spec = parse_problems(family)
    problem = spec.problem(1, seed=5)
    assert fingerprint(parse_problems(family).problem(1, seed=5)) == fingerprint(problem)
    more = parse_problems(family | {"num_problems": 7})
    assert fingerprint(more.problem(1, seed=5)) == fingerprint(problem)
    assert problem.id == spec.problem_ids()[1] == more.problem_ids()[1]
    assert len(set(spec.problem_ids())) == spec.num_problems
    assert fingerprint(spec.problem(0, seed=5)) != fingerprint(problem)
    assert fingerprint(spec.problem(1, seed=6)) != fingerprint(problem)


@every_family
def test_the_posterior_is_prior_times_likelihood(family: dict[str, Any]) -> None:
    """log p(x|y) - log p(x) - log N(y; A x, sigma^2 I) is the same for every x."""
    problem = parse_problems(family).problem(0, seed=1)
    x = problem.posed.x.flatten(1) + 0.05 * torch.randn(
        5, problem.posterior.dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    runs, prior = problem.runs(image_rng(0, list("abcde"), "solver")), prior_of(problem)
    residual = runs.known_operator.forward(x.reshape(5, *prior.image_shape)) - runs.y
    support = runs.known_operator.support()
    residual = (residual if support is None else residual * support).flatten(1)
    likelihood = -residual.square().sum(1) / (2 * runs.noise_std**2)
    difference = problem.posterior.log_density(x) - prior.mixture.log_density(x) - likelihood
    assert torch.allclose(difference, difference[:1], rtol=1e-7, atol=1e-6)
    assert {problem.posed.x.dtype, runs.y.dtype, runs.noise_std.dtype, difference.dtype} == {torch.float64}


@every_family
def test_every_run_is_the_same_problem_with_a_stream_of_its_own(family: dict[str, Any]) -> None:
    problem = parse_problems(family).problem(0, seed=1)
    posed = problem.posed.problem
    runs, alone = (problem.runs(image_rng(2, names, "solver")) for names in (["a", "b", "c"], ["b"]))
    assert torch.equal(runs.y, posed.y.expand_as(runs.y))
    assert torch.equal(runs.noise_std, posed.noise_std.expand(3))
    x = problem.posed.x
    torch.testing.assert_close(
        runs.known_operator.forward(x.repeat(3, *[1] * (x.ndim - 1))),
        posed.known_operator.forward(x).repeat(3, *[1] * (posed.y.ndim - 1)),
    )
    noise = runs.noise()
    assert torch.equal(noise[1:2], alone.noise())
    assert not torch.equal(noise[0], noise[1])


@every_family
def test_what_solvers_are_told_before_a_draw_is_true(family: dict[str, Any]) -> None:
    spec = parse_problems(family)
    operator, traits = spec.task.operator, spec.task.traits
    problem = spec.problem(0, seed=0)
    assert (operator.linear, operator.spectral) == (True, isinstance(problem.posed.operator, SpectralOperator))
    assert traits == {"linear", "known", "noisy"} | ({"spectral"} if operator.spectral else set())
    assert prior_of(problem).traits == spec.prior_traits
    assert operator.name == family.get("operator", {}).get("operator", "matrix")
    bound = spec.task.noise.std
    assert all(0 < spec.problem(i, 0).posed.problem.noise_std <= bound for i in range(spec.num_problems))


def test_the_mcgdiff_prior() -> None:
    spec = parse_problems({"generator": "mcgdiff", "dimension": 6, "num_measurements": 1})
    prior = prior_of(spec.problem(0, seed=3))
    mixture = prior.mixture
    assert prior.schedule == mcgdiff()
    corners = {tuple(mean.tolist()) for mean in mixture.means}
    assert corners == {(-8.0 * i, -8.0 * j) * 3 for i in range(-2, 3) for j in range(-2, 3)}
    assert torch.equal(mixture.covariances(), torch.eye(6, dtype=torch.float64).expand(25, 6, 6))
    # drawn once for each dimension and seed
    assert torch.equal(prior_of(spec.problem(7, seed=3)).mixture.log_weights, mixture.log_weights)
    other_m = parse_problems({"generator": "mcgdiff", "dimension": 6, "num_measurements": 2})
    assert torch.equal(prior_of(other_m.problem(0, seed=3)).mixture.log_weights, mixture.log_weights)
    assert not torch.equal(prior_of(spec.problem(0, seed=4)).mixture.log_weights, mixture.log_weights)


def test_the_weights_of_the_mcgdiff_prior_are_chi_squared() -> None:
    """Sorted, the 25 normalised weights have the means that 25 sorted normalised chi^2_1 have."""
    spec: Any = parse_problems({"generator": "mcgdiff", "dimension": 2, "num_measurements": 1})
    ours = torch.stack([spec.mixture(seed).log_weights.exp().sort().values for seed in range(400)]).mean(0)
    squares = torch.randn(20_000, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).square()
    theirs = (squares / squares.sum(1, keepdim=True)).sort(1).values.mean(0)
    assert torch.allclose(ours, theirs, rtol=0.1, atol=2e-3)


def test_the_mcgdiff_operator_and_noise() -> None:
    m, n = 3, 150
    spec = parse_problems({"generator": "mcgdiff", "dimension": 8, "num_measurements": m, "num_problems": n})
    problems = [spec.problem(i, seed=0) for i in range(n)]
    operators = [problem.posed.operator for problem in problems]
    assert all(isinstance(operator, Matrix) for operator in operators)
    s = torch.cat([operator.singular_values() for operator in operators])
    assert (s.diff(dim=1) <= 0).all()
    # order statistics of three uniform numbers have means 3/4, 1/2, 1/4 and standard errors of 0.02
    assert torch.allclose(s.mean(0), torch.tensor([0.75, 0.5, 0.25], dtype=torch.float64), atol=0.08)
    matrices = torch.cat([operator.matrix for operator in operators])
    torch.testing.assert_close(torch.linalg.svdvals(matrices), s, rtol=1e-9, atol=1e-9)
    assert (matrices.mean(0).abs() < 0.08).all()  # no direction is preferred
    assert torch.equal(matrices, torch.cat([problem.posed.theta["matrix"] for problem in problems]))
    noise_std = torch.cat([problem.posed.problem.noise_std for problem in problems])
    u = noise_std / s[:, 0]
    assert ((u >= 0) & (u <= 1)).all()
    assert u.mean() == pytest.approx(0.5, abs=0.1)
    assert u.std() == pytest.approx(math.sqrt(1 / 12), abs=0.05)
    residuals = [p.posed.problem.y - p.posed.operator.forward(p.posed.x) for p in problems]
    noise = torch.cat(residuals) / noise_std[:, None]
    assert noise.mean() == pytest.approx(0, abs=0.19)
    assert noise.std() == pytest.approx(1, abs=0.14)
    truths = torch.cat([problem.posed.x for problem in problems])
    offsets = truths - 8 * (truths / 8).round().clamp(-2, 2)
    assert (offsets.abs() < 5).all()
    mean = prior_of(problems[0]).mixture.mean()
    assert torch.allclose(truths.mean(0), mean, atol=4 * 16 / math.sqrt(n))


def test_problems_of_neighbouring_sizes_share_no_numbers() -> None:
    specs = [parse_problems({"generator": "mcgdiff", "dimension": 8, "num_measurements": m}) for m in (1, 2)]
    first = [spec.problem(i, 0).posed.theta["matrix"][0, 0] for spec in specs for i in range(3)]
    directions = torch.stack([row / row.norm() for row in first])
    overlap = (directions @ directions.T - torch.eye(6, dtype=torch.float64)).abs().max()
    assert overlap < 0.99


def test_the_random_gaussian_prior_has_the_stated_condition() -> None:
    problem = parse_problems({"generator": "random_gaussian", "dimension": 20, "condition": 50}).problem(0, 0)
    variances = torch.linalg.eigvalsh(prior_of(problem).mixture.covariances()[0])
    assert float(variances[-1]) == pytest.approx(1)
    assert float(variances[0]) == pytest.approx(1 / 50)
    assert problem.posed.problem.noise_std.tolist() == [0.1]
    assert problem.posed.operator.measurement_shape == (50,)


def test_an_explicit_problem_is_what_is_written() -> None:
    spec = parse_problems(LITERAL | {"truth": [1, 2, 3], "prior": VECTORS["prior"] | {"schedule": {"schedule": "edm"}}})
    problem = spec.problem(2, seed=0)
    posed, prior = problem.posed, prior_of(problem)
    assert prior.schedule == Edm()
    assert prior.mixture.log_weights.exp().tolist() == pytest.approx([0.25, 0.75])
    assert prior.mixture.means.tolist() == VECTORS["prior"]["means"]
    assert posed.x.tolist() == [[1, 2, 3]]
    assert posed.operator.forward(posed.x).tolist() == [[pytest.approx(5), pytest.approx(3)]]
    assert posed.problem.noise_std.tolist() == [0.2]
    assert not torch.equal(posed.problem.y, spec.problem(1, seed=0).posed.problem.y)


def test_covariances_and_images_in_numbers() -> None:
    covariances = [torch.diag(torch.arange(1.0, 13.0)).tolist()]
    prior = {"means": [[0.0] * 12], "covariances": covariances, "image_shape": [3, 2, 2]}
    spec = parse_problems(
        {"generator": "explicit", "prior": prior, "operator": {"operator": "grayscale"}, "noise_std": 1}
    )
    prior = prior_of(spec.problem(0, 0))
    assert prior.image_shape == (3, 2, 2)
    assert torch.allclose(prior.mixture.covariances(), torch.tensor(covariances).double())


PRIOR = VECTORS["prior"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"generator": "mcgdif"}, "problems.generator: unknown problem generator 'mcgdif' (did you mean 'mcgdiff'?)"),
        ({"generator": None}, "problems.generator: is required; allowed: explicit, mcgdiff"),
        ({"noise_std": 0}, "problems.noise_std: must be greater than 0 (got 0)"),
        ({"noise": 1}, "problems.noise: unknown key (did you mean 'noise_std'?)"),
        ({"operator": {"matrix": [[1, 2]]}}, "problems: matrix: its rows must have the 3 entries of a vector x"),
        ({"operator": {"matrx": [[1, 2]]}}, "problems: operator: needs matrix or operator"),
        ({"operator": {"operator": "super_resolution"}}, "problems: operator: super_resolution takes images"),
        ({"truth": [1, 2]}, "problems: truth: must have the 3 entries of x"),
        ({"prior": PRIOR | {"stdd": 1}}, "problems: prior.stdd: unknown key (did you mean 'std'?)"),
        ({"prior": PRIOR | {"covariances": []}}, "problems: prior: give std or covariances"),
        ({"prior": PRIOR | {"weights": [1]}}, "problems: prior: weights: must be 2"),
        ({"prior": PRIOR | {"weights": [1, -1]}}, "problems: prior.weights.1: must be greater than 0 (got -1)"),
        ({"prior": PRIOR | {"image_shape": [2, 2]}}, "problems: prior: image_shape: must have 3 entries"),
        ({"prior": {"prior": "latent", "path": "builtin:portraits-64"}}, "problems: prior.prior: must be a mixture"),
        (
            {"prior": IMAGES["prior"], "operator": {"operator": "jpeg"}},
            "problems: operator: the posterior is known for linear operators, jpeg is not",
        ),
    ],
)
def test_wrong_requests_are_one_line(change: dict[str, Any], line: str) -> None:
    with pytest.raises(RequestError) as error:
        parse_problems(LITERAL | change)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(RequestError, match=r"^problems\.generator: is required; allowed: explicit, mcgdiff"):
        parse_problems({"dimension": 8})
    with pytest.raises(RequestError, match=r"^problems\.gmm\.num_measurements: is required"):
        parse_problems({"generator": "mcgdiff", "dimension": 8}, "problems.gmm")
    with pytest.raises(RequestError, match="num_measurements: must be at most dimension"):
        parse_problems({"generator": "mcgdiff", "dimension": 2, "num_measurements": 4})
    with pytest.raises(RequestError, match="too many for a closed form"):
        parse_problems(
            {"generator": "explicit", "prior": {"prior": "mixture", "image_shape": [3, 40, 40]},
             "operator": {"operator": "denoising"}, "noise_std": 1}
        ).problem(0, 0)  # fmt: skip
