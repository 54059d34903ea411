"""Distances on samples whose distance is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from ipsolve.posterior import PosteriorReference, compare
from ipsolve.posterior.kernels import gaussian_kernel, off_diagonal_mean, squared_distances, stein_kernel
from ipsolve.posterior.sliced import LEVELS, SlicedReference
from ipsolve.priors import GaussianMixture
from ipsolve.randomness import ImageRng

D = 6


def streams(n: int, seed: int = 0) -> ImageRng:
    return ImageRng(torch.arange(n) + seed * 10**9)


def posterior() -> GaussianMixture:
    """Two modes, tightly determined along two of six directions."""
    means = torch.stack([torch.zeros(D), 3 * torch.ones(D)])
    prior = GaussianMixture.isotropic(torch.ones(2), means, torch.tensor([0.5, 1.0]))
    a = streams(2).normal(D, dtype=torch.float64)
    return prior.posterior(a, a @ (0.4 * means.sum(0).double()), 0.05)


POSTERIOR = posterior()
REFERENCE = POSTERIOR.sample(streams(800))
RULER = PosteriorReference(POSTERIOR, REFERENCE, num_slices=500)


def exact(seed: int, n: int = 800) -> Tensor:
    return POSTERIOR.sample(streams(n, seed))


def test_nothing_is_between_a_set_and_itself() -> None:
    shuffled = REFERENCE[torch.randperm(len(REFERENCE), generator=torch.Generator().manual_seed(0))]
    found = SlicedReference(REFERENCE, 100).compare(shuffled)
    assert found["sliced_wasserstein_1"] == pytest.approx(0, abs=1e-7)
    assert found["sliced_wasserstein_2"] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 100), (30, 7), (1, 5)])
def test_one_dimension_is_scipys_wasserstein_distance(n: int, m: int) -> None:
    """In one dimension every direction is 1 or -1; sets of different size too."""
    x, y = streams(n, 1).normal(1), 2 * streams(m, 2).normal(1) + 1
    found = SlicedReference(y, 10).compare(x)
    expected = wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert found["sliced_wasserstein_1"] == pytest.approx(expected, rel=1e-5)
    a, b = (np.sort(v[:, 0].numpy()).repeat(k) for v, k in ((x, m), (y, n)))
    assert found["sliced_wasserstein_2"] == pytest.approx(math.sqrt(np.square(a - b).mean()), rel=1e-5)


def test_gaussians_of_one_dimension() -> None:
    """W_2 of N(0, 1) and N(m, s^2) is sqrt(m^2 + (s - 1)^2); W_1 of N(0, 1) and N(0, s^2) is |s - 1| sqrt(2 / pi)."""
    x = streams(40_000, 1).normal(1, dtype=torch.float64)
    y = 1.7 * streams(40_000, 2).normal(1, dtype=torch.float64)
    assert SlicedReference(y + 0.6, 2).compare(x)["sliced_wasserstein_2"] == pytest.approx(
        math.hypot(0.6, 0.7), abs=0.02
    )
    assert SlicedReference(y, 2).compare(x)["sliced_wasserstein_1"] == pytest.approx(
        0.7 * math.sqrt(2 / math.pi), abs=0.02
    )


def test_a_shift_is_seen_by_its_projections() -> None:
    """SW_1 is E|<u, delta>| and SW_2 is |delta| / sqrt(d) for a shift by delta."""
    delta = streams(1, 5).normal(D, dtype=torch.float64)[0]
    found = SlicedReference(REFERENCE[:200], 20_000).compare(REFERENCE[:200] + delta)
    length = float(delta.norm())
    mean_cosine = math.gamma(D / 2) / (math.sqrt(math.pi) * math.gamma((D + 1) / 2))
    assert found["sliced_wasserstein_1"] == pytest.approx(length * mean_cosine, rel=0.02)
    assert found["sliced_wasserstein_2"] == pytest.approx(length / math.sqrt(D), rel=0.02)


def test_slices_are_a_function_of_the_seed() -> None:
    x = exact(1, 300)
    one, same, other = (SlicedReference(REFERENCE[:300], 40, seed).compare(x) for seed in (0, 0, 1))
    assert one == same
    assert one["sliced_wasserstein_1"] != other["sliced_wasserstein_1"]


def test_a_long_list_of_slices_is_made_of_different_directions() -> None:
    reference = SlicedReference(REFERENCE[:50], 1100)
    first = [float(each[0, 0]) for each in reference._sorted]
    assert [len(each) for each in reference._sorted] == [500, 500, 100]
    assert len(set(first)) == 3


def test_exact_samples_are_calibrated() -> None:
    """Coverage equals the level, also for few samples, whose quantiles are biased."""
    reference = SlicedReference(exact(9, 8_000), 20)
    for n, sets in ((400, 30), (60, 120)):
        found = [reference.compare(exact(10 + i, n)) for i in range(sets)]
        for level in LEVELS:
            mean = np.mean([each[f"coverage_{100 * level:.0f}"] for each in found])
            assert mean == pytest.approx(level, abs=0.015)


@pytest.mark.parametrize(("scale", "sign"), [(0.7, -1), (1.4, 1)])
def test_too_narrow_covers_less_and_too_wide_more(scale: float, sign: int) -> None:
    mean = POSTERIOR.mean()
    found = RULER.compare(mean + scale * (exact(1) - mean))
    for level in LEVELS:
        assert sign * (found[f"coverage_{100 * level:.0f}"] - level) > 0.01


def test_stein_kernel_is_the_stein_operator_applied_twice() -> None:
    """Against autograd: (s + grad_z)^T (s' + grad_z') k(z, z')."""
    z, s = streams(2, 3).normal(2, D, dtype=torch.float64).unbind(1)

    def k(a: Tensor, b: Tensor) -> Tensor:
        return (1 + (a - b).square().sum() / D) ** -0.5

    jac = torch.autograd.functional.jacobian
    (g_a, g_b), mixed = jac(k, (z[0], z[1])), jac(lambda b: jac(lambda a: k(a, b), z[0], create_graph=True), z[1])
    expected = k(z[0], z[1]) * (s[0] @ s[1]) + s[0] @ g_b + s[1] @ g_a + mixed.trace()
    torch.testing.assert_close(stein_kernel(z, s)[0, 1], expected)
    torch.testing.assert_close(stein_kernel(z, s)[1, 0], expected)


def test_gaussian_kernel_and_distances_by_their_definition() -> None:
    x, y = streams(5, 1).normal(D, dtype=torch.float64), streams(4, 2).normal(D, dtype=torch.float64)
    squared = (x[:, None] - y).square().sum(2)
    torch.testing.assert_close(squared_distances(x, y), squared)
    expected = sum((-squared / (2 * b * 3.0)).exp() for b in (4, 1, 1 / 4, 1 / 16)) / 4
    torch.testing.assert_close(gaussian_kernel(squared, 3.0), expected)


def test_means_of_pairs_leave_out_the_diagonal() -> None:
    assert off_diagonal_mean(torch.tensor([[9.0, 1.0], [3.0, 9.0]])) == 2


@pytest.mark.parametrize("column", ["mmd", "ksd"])
def test_discrepancies_are_zero_on_average_over_exact_samples(column: str) -> None:
    """And clearly above for a shift, a loss of spread and a lost mode. Averages also over the reference."""
    found = []
    for i in range(24):
        ruler = PosteriorReference(POSTERIOR, exact(100 + i, 200), num_slices=1)
        found.append(ruler.compare(exact(200 + i, 200))[column])
    mean, error = np.mean(found), np.std(found) / math.sqrt(len(found))
    assert abs(mean) < 4 * error
    spread = np.std(found)
    x = exact(1)
    centre = POSTERIOR.mean()
    wrong = {
        "shifted": x + 0.5,
        "narrow": centre + 0.5 * (x - centre),
        "one mode": x[x[:, 0] < x[:, 0].median()] if column == "mmd" else x + 0.3,
    }
    for samples in wrong.values():
        assert RULER.compare(samples)[column] > 5 * spread


def test_ksd_does_not_depend_on_the_units_of_a_direction() -> None:
    """Whitened by the posterior: one narrow Gaussian counts as the standard one."""
    wide = GaussianMixture.full(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    narrow = GaussianMixture.full(torch.ones(1), torch.zeros(1, 2), torch.diag(torch.tensor([1e-6, 4.0]))[None])
    z = streams(200).normal(2, dtype=torch.float64) + 0.3
    scale = torch.tensor([1e-3, 2.0], dtype=torch.float64)
    one = compare(z, z[:50], wide, num_slices=1)["ksd"]
    other = compare(scale * z, scale * z[:50], narrow, num_slices=1)["ksd"]
    assert other == pytest.approx(one, rel=1e-8)


def test_errors_of_moments() -> None:
    x = exact(1, 400)
    found = RULER.compare(x)
    assert found["mean_error"] == pytest.approx(float((x.mean(0) - POSTERIOR.mean()).norm()))
    covariance = POSTERIOR.covariance()
    expected = np.linalg.norm(np.cov(x.T.numpy()) - covariance.numpy()) / np.linalg.norm(covariance.numpy())
    assert found["covariance_error"] == pytest.approx(expected)
    moved = RULER.compare(x - x.mean(0) + POSTERIOR.mean() + 0.1)
    assert moved["mean_error"] == pytest.approx(0.1 * math.sqrt(D))
    assert moved["covariance_error"] == pytest.approx(expected)


def test_samples_that_are_not_finite_have_no_figures() -> None:
    x = exact(1, 50)
    x[3, 2] = torch.nan
    assert math.isnan(RULER.compare(x)["sliced_wasserstein_1"])
    assert math.isnan(RULER.compare(x)["ksd"])


def test_compare_is_the_reference_used_once() -> None:
    x = exact(1, 100)
    reference = REFERENCE[:200]
    ruler = PosteriorReference(POSTERIOR, reference, num_slices=30, seed=2)
    found = compare(x, reference, POSTERIOR, num_slices=30, seed=2)
    assert found == ruler.compare(x)
    assert list(found) == [
        "sliced_wasserstein_1", "sliced_wasserstein_2", "coverage_50", "coverage_80", "coverage_90", "coverage_95",
        "mmd", "ksd", "mean_error", "covariance_error",
    ]  # fmt: skip
