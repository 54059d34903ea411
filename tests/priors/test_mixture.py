import math

import pytest
import torch
from torch import Tensor

from ipsolve.priors import (
    Edm,
    FlowMatching,
    GaussianMixture,
    MixturePrior,
    cosine,
    linear,
    load_prior,
    prior_summary,
    scaled_linear,
)
from ipsolve.priors.schedules import mcgdiff
from ipsolve.randomness import ImageRng
from ipsolve.requests.errors import RequestError

SCHEDULES = [scaled_linear(0.0015, 0.0195), cosine(), mcgdiff(), Edm(), FlowMatching()]
RATIOS = [0.05, 0.7, 10.0]


def streams(n: int, seed: int = 0) -> ImageRng:
    return ImageRng(torch.arange(n) + seed * 10**9)


def isotropic(d: int = 6, k: int = 3) -> GaussianMixture:
    rng = streams(1, seed=5)
    stds = 0.1 + 0.4 * rng.uniform(k, dtype=torch.float64)[0]
    weights = 0.2 + rng.uniform(k, dtype=torch.float64)[0]
    return GaussianMixture.isotropic(weights, rng.normal(k, d, dtype=torch.float64)[0], stds)


def full(d: int = 6, k: int = 3) -> GaussianMixture:
    rng = streams(1, seed=6)
    root = 0.4 * rng.normal(k, d, d, dtype=torch.float64)[0]
    covariances = root @ root.mT + 0.02 * torch.eye(d, dtype=torch.float64)
    return GaussianMixture.full(rng.uniform(k)[0] + 0.2, rng.normal(k, d, dtype=torch.float64)[0], covariances)


def low_rank(d: int = 6, k: int = 3, r: int = 2) -> GaussianMixture:
    """Components that vary more, or less, along r directions of their own than across them."""
    rng = streams(1, seed=8)
    bases = torch.linalg.qr(rng.normal(k, d, r, dtype=torch.float64)[0]).Q
    variances, residual = (0.02 + rng.uniform(*shape, dtype=torch.float64)[0] for shape in ((k, r), (k,)))
    log_weights = rng.normal(k, dtype=torch.float64)[0].log_softmax(0)
    return GaussianMixture(log_weights, rng.normal(k, d, dtype=torch.float64)[0], variances, bases, residual)


def shared_basis(d: int = 6, k: int = 3, m: int = 2) -> GaussianMixture:
    """Isotropic components after a measurement: narrow along the same directions."""
    rng = streams(1, seed=9)
    a, y = rng.normal(m, d, dtype=torch.float64)[0], rng.normal(m, dtype=torch.float64)[0]
    return isotropic(d, k).posterior(a, y, 0.3)


def by_covariances(mixture: GaussianMixture) -> GaussianMixture:
    """Return the same density, its components as full covariances."""
    return GaussianMixture.full(mixture.log_weights.exp(), mixture.means, mixture.covariances())


MAKERS = {"isotropic": isotropic, "full": full, "low_rank": low_rank, "shared_basis": shared_basis}
MIXTURES = {name: make() for name, make in MAKERS.items()}
every_mixture = pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES.keys())


@every_mixture
def test_log_density_is_that_of_torch(mixture: GaussianMixture) -> None:
    components = torch.distributions.MultivariateNormal(mixture.means, mixture.covariances())
    theirs = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=mixture.log_weights), components
    )
    x = streams(20).normal(6, dtype=torch.float64)
    assert torch.allclose(mixture.log_density(x), theirs.log_prob(x), rtol=1e-12)


@every_mixture
@pytest.mark.parametrize("schedule", SCHEDULES, ids=["vp", "cosine", "mcgdiff", "ve", "flow"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_denoiser_and_covariance_are_tweedies(mixture: GaussianMixture, schedule: object, ratio: float) -> None:
    """E[x_0|x_t] = (x_t + sigma^2 grad log p_t) / alpha; Cov[x_0|x_t] = sigma^2 / alpha dE[x_0|x_t]/dx_t."""
    prior = MixturePrior(mixture, (6,), schedule)
    t = prior.schedule.at_ratio(ratio)
    x_t = (t.alpha * prior.sample(streams(5)) + t.sigma * streams(5, 1).normal(6, dtype=torch.float64)).requires_grad_()
    (score,) = torch.autograd.grad(prior.log_density(x_t, t).sum(), x_t)
    assert torch.allclose(prior.score(x_t, t), score, rtol=1e-8, atol=1e-10)
    x_0 = prior.denoise(x_t, t)
    assert torch.allclose(x_0, (x_t + t.sigma**2 * score) / t.alpha, rtol=1e-8, atol=1e-8)
    v = streams(5, 2).normal(6, dtype=torch.float64)
    (product,) = torch.autograd.grad(x_0, x_t, v)  # the Jacobian is symmetric
    assert torch.allclose(prior.covariance_product(x_t, v, t), t.sigma**2 / t.alpha * product, rtol=1e-7, atol=1e-10)


@every_mixture
def test_denoiser_against_monte_carlo(mixture: GaussianMixture) -> None:
    prior = MixturePrior(mixture, (6,), SCHEDULES[0])
    t = prior.schedule.at_ratio(1.0)
    x_t = t.alpha * prior.sample(streams(1, 3)) + t.sigma * streams(1, 4).normal(6, dtype=torch.float64)
    x_0 = prior.sample(streams(400_000))
    weights = (-(x_t - t.alpha * x_0).square().sum(1) / (2 * t.sigma**2)).softmax(0)
    estimate = weights @ x_0
    error = (weights.square()[:, None] * (x_0 - estimate).square()).sum(0).sqrt()
    assert ((prior.denoise(x_t, t)[0] - estimate).abs() < 5 * error).all()
    assert error.max() < 0.02


@every_mixture
def test_samples_have_the_mean_and_covariance_of_the_mixture(mixture: GaussianMixture) -> None:
    x = mixture.sample(streams(200_000))
    assert torch.allclose(x.mean(0), mixture.mean(), atol=0.02)
    within = torch.einsum("k,kij->ij", mixture.log_weights.exp(), mixture.covariances())
    offset = mixture.means - mixture.mean()
    covariance = within + (offset.T * mixture.log_weights.exp()) @ offset
    assert torch.allclose(mixture.covariance(), covariance, rtol=1e-12)
    assert torch.allclose(x.T.cov(), covariance, atol=0.03)
    pooled = mixture.pooled()
    assert torch.allclose(pooled.mean(), mixture.mean(), rtol=1e-12)
    assert torch.allclose(pooled.covariance(), within, rtol=1e-12)


@every_mixture
def test_the_form_of_the_covariances_does_not_matter(mixture: GaussianMixture) -> None:
    general = by_covariances(mixture)
    exact = {"rtol": 1e-10, "atol": 1e-10}
    assert torch.allclose(general.covariances(), mixture.covariances(), **exact)
    x, v = streams(30).normal(2, 6, dtype=torch.float64).mul(2).unbind(1)
    for one, other in ((mixture, general), (mixture.diffused(0.7, 0.4), general.diffused(0.7, 0.4))):
        assert torch.allclose(one.log_joint(x), other.log_joint(x), **exact)
        assert torch.allclose(one.score(x), other.score(x), **exact)
    assert torch.allclose(mixture.denoise(x, 0.7, 0.4), general.denoise(x, 0.7, 0.4), **exact)
    products = [each.denoiser_covariance(x, v, 0.7, 0.4) for each in (mixture, general)]
    assert torch.allclose(*products, **exact)
    a, y = streams(2, 1).normal(6, dtype=torch.float64), torch.tensor([0.3, -0.2], dtype=torch.float64)
    ours, theirs = mixture.posterior(a, y, 0.1), general.posterior(a, y, 0.1)
    assert torch.allclose(ours.log_weights, theirs.log_weights, **exact)
    assert torch.allclose(ours.means, theirs.means, **exact)
    assert torch.allclose(ours.covariances(), theirs.covariances(), **exact)


@every_mixture
def test_second_derivatives_exist(mixture: GaussianMixture) -> None:
    x = streams(1).normal(6, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda x: mixture.log_density(x).sum(), x)[0, :, 0]
    jacobian = torch.autograd.functional.jacobian(mixture.score, x)[0, :, 0]
    assert torch.allclose(hessian, jacobian, rtol=1e-8, atol=1e-8)


@every_mixture
@pytest.mark.parametrize("m", [1, 4, 9])
def test_one_measurement_after_the_other_is_both_at_once(mixture: GaussianMixture, m: int) -> None:
    a, y = streams(m, 2).normal(6, dtype=torch.float64), streams(1, 3).normal(m, dtype=torch.float64)[0]
    both = mixture.posterior(a, y, 0.4)
    first = mixture.posterior(a[: m // 2], y[: m // 2], 0.4) if m > 1 else mixture
    one_by_one = first.posterior(a[m // 2 :], y[m // 2 :], 0.4)
    assert torch.allclose(one_by_one.log_weights, both.log_weights, rtol=1e-8, atol=1e-8)
    assert torch.allclose(one_by_one.means, both.means, rtol=1e-8, atol=1e-8)
    assert torch.allclose(one_by_one.covariances(), both.covariances(), rtol=1e-8, atol=1e-10)


def test_posterior_of_one_gaussian_is_the_closed_form() -> None:
    d, m, noise_std = 5, 3, 0.3
    rng = streams(1, 7)
    mean, root = rng.normal(d, dtype=torch.float64)[0], rng.normal(d, d, dtype=torch.float64)[0]
    matrix, y = rng.normal(m, d, dtype=torch.float64)[0], rng.normal(m, dtype=torch.float64)[0]
    covariance = root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)
    posterior = GaussianMixture.full(torch.ones(1), mean[None], covariance[None]).posterior(matrix, y, noise_std)
    precision = covariance.inverse() + matrix.T @ matrix / noise_std**2
    expected = precision.inverse() @ (covariance.inverse() @ mean + matrix.T @ y / noise_std**2)
    assert torch.allclose(posterior.means[0], expected, rtol=1e-9)
    assert torch.allclose(posterior.covariances()[0], precision.inverse(), rtol=1e-8, atol=1e-12)


def test_the_posterior_of_low_rank_components_stays_of_low_rank() -> None:
    d, m = 200, 3
    mixture = low_rank(d)
    a, y = streams(m).normal(d, dtype=torch.float64), streams(1).normal(m, dtype=torch.float64)[0]
    posterior = mixture.posterior(a, y, 0.2)
    assert posterior.bases is not None
    assert posterior.bases.shape == (3, d, 5)
    expected = by_covariances(mixture).posterior(a, y, 0.2)
    assert torch.allclose(posterior.covariances(), expected.covariances(), rtol=1e-8, atol=1e-10)
    assert torch.allclose(posterior.means, expected.means, rtol=1e-8, atol=1e-10)
    assert torch.allclose(posterior.log_weights, expected.log_weights, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["isotropic", "full", "low_rank"])
def test_posterior_is_bayes_rule_on_a_grid(name: str) -> None:
    """In two dimensions: prior times likelihood, normalised by the sum over a fine grid."""
    mixture = low_rank(d=2, r=1) if name == "low_rank" else MAKERS[name](d=2)
    matrix, y, noise_std = torch.tensor([[1.0, -0.5]], dtype=torch.float64), torch.tensor([0.4]), 0.25
    posterior = mixture.posterior(matrix, y, noise_std)
    axis = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    log_joint = mixture.log_density(grid) - (grid @ matrix[0] - 0.4).square() / (2 * noise_std**2)
    log_evidence = log_joint.logsumexp(0) + 2 * math.log(0.01)
    likely = log_joint > log_joint.max() - 20
    assert torch.allclose(posterior.log_density(grid)[likely], (log_joint - log_evidence)[likely], atol=1e-6)
    mean = log_joint.softmax(0) @ grid
    assert torch.allclose(posterior.mean(), mean, atol=1e-6)
    assert torch.allclose(posterior.sample(streams(100_000)).mean(0), mean, atol=0.02)


def test_posterior_against_importance_sampling() -> None:
    mixture = isotropic(d=2)
    matrix, y = torch.eye(2, dtype=torch.float64), mixture.means[0] + 0.2
    x = mixture.sample(streams(200_000))
    weights = (-(x - y).square().sum(1) / (2 * 0.5**2)).softmax(0)
    posterior = mixture.posterior(matrix, y, 0.5)
    assert torch.allclose(posterior.mean(), weights @ x, atol=0.02)


@every_mixture
def test_posterior_score_is_the_gradient_of_its_log_density(mixture: GaussianMixture) -> None:
    posterior = mixture.posterior(torch.eye(6)[:2], torch.zeros(2), 0.1)
    x = posterior.sample(streams(4)).requires_grad_()
    (gradient,) = torch.autograd.grad(posterior.log_density(x).sum(), x)
    assert torch.allclose(posterior.score(x), gradient, rtol=1e-7, atol=1e-7)


def test_far_away_points_do_not_underflow() -> None:
    """Densities below exp(-1e6), where only log-sum-exp survives."""
    mixture = GaussianMixture.isotropic(torch.ones(2), torch.tensor([[0.0], [1000.0]]), 0.1)
    x = torch.tensor([[-500.0], [2000.0]], dtype=torch.float64)
    assert torch.isfinite(mixture.log_density(x)).all()
    assert torch.equal(mixture.responsibilities(x), torch.eye(2, dtype=torch.float64))
    assert torch.allclose(mixture.denoise(x, 1.0, 0.1), (x + torch.tensor([[0.0], [1000.0]])) / 2)


def test_eight_hundred_dimensions() -> None:
    d, m = 800, 200
    mixture = GaussianMixture.isotropic(torch.ones(3), streams(3).normal(d), 0.3)
    matrix = streams(m, 9).normal(d, dtype=torch.float64) / math.sqrt(d)
    x = mixture.sample(streams(1, 1))
    y = (x @ matrix.T)[0] + 0.01 * streams(1, 2).normal(m, dtype=torch.float64)[0]
    posterior = mixture.posterior(matrix, y, 0.01)
    assert posterior.log_weights.exp().sum() == pytest.approx(1)
    # the score vanishes at the mean of the dominant component, where only it has mass
    top = posterior.means[posterior.log_weights.argmax()][None]
    assert posterior.score(top).norm() < 1e-3
    samples = posterior.sample(streams(50, 3))
    residual = (samples @ matrix.T - y).square().mean(1).sqrt()
    assert (residual < 0.02).all()
    assert torch.isfinite(posterior.log_density(samples)).all()


def test_images_and_dtypes() -> None:
    prior = load_prior({"prior": "mixture", "image_shape": [3, 4, 5], "num_components": 2})
    t = prior.schedule.level(300)
    x_t = torch.randn(7, 3, 4, 5)
    out = prior.denoise(x_t, t)
    assert (out.shape, out.dtype) == (x_t.shape, x_t.dtype)
    assert torch.allclose(out[2:3], prior.denoise(x_t[2:3], t))
    assert prior.encode(x_t) is x_t
    assert prior_summary({"prior": "mixture", "image_shape": [3, 4, 5]})[:2] == ((3, 4, 5), False)


def test_wrong_shape_is_one_line() -> None:
    with pytest.raises(RequestError, match="image_shape"):
        MixturePrior(isotropic(), (7,))


def test_a_clean_level_returns_its_argument() -> None:
    prior = MixturePrior(full(), (6,))
    x: Tensor = streams(2).normal(6, dtype=torch.float64)
    assert torch.allclose(prior.denoise(x, prior.schedule.level(-1)), x)


def test_distances_far_from_the_origin_do_not_cancel() -> None:
    """Narrow components a million widths away from 0: squared distances come from inner products."""
    shift = 1e3 * torch.ones(6, dtype=torch.float64)
    near = GaussianMixture.isotropic(torch.ones(3), 0.01 * streams(3).normal(6, dtype=torch.float64), 1e-3)
    far = GaussianMixture(near.log_weights, near.means + shift, near.variances)
    x = near.sample(streams(20, 1))
    assert torch.allclose(far.log_density(x + shift), near.log_density(x), rtol=1e-5)
    assert torch.allclose(far.denoise(x + shift, 1.0, 1e-3) - shift, near.denoise(x, 1.0, 1e-3), atol=1e-9)


def test_variances_without_bases_must_be_isotropic() -> None:
    diagonal = GaussianMixture(torch.zeros(1), torch.zeros(1, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match="isotropic"):
        diagonal.log_density(torch.zeros(1, 3))


def test_a_configuration_names_the_schedule() -> None:
    config = {"prior": "mixture", "image_shape": [3, 4, 5]}
    edm = load_prior(config | {"schedule": {"schedule": "edm", "sigma_max": 10}})
    assert edm.schedule == Edm(sigma_max=10)
    assert load_prior(config).schedule == linear()
    with pytest.raises(
        RequestError, match=r"^prior\.schedule: edm\.sigma_mx: unknown key \(did you mean 'sigma_max'\?"
    ):
        load_prior(config | {"schedule": {"schedule": "edm", "sigma_mx": 10}})
    with pytest.raises(
        RequestError, match=r"^prior\.schedule: unknown schedule 'emd' \(did you mean 'edm'\?\); allowed"
    ):
        load_prior(config | {"schedule": {"schedule": "emd"}})
