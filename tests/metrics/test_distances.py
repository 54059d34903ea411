"""Frechet and kernel distances equal clean-fid's, stream, merge, and obey their closed forms."""

import math
import warnings

import numpy as np
import pytest

from ipsolve.metrics import SET_METRICS
from ipsolve.metrics.distances import (
    Gaussian,
    MomentAccumulator,
    frechet_distance,
    kernel_distance,
    moments,
    sample_rows,
)


def rows(n: int, d: int = 24, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / math.sqrt(d) + rng.normal(size=d) + offset


def chunks(x: np.ndarray, size: int) -> list[np.ndarray]:
    return [x[i : i + size] for i in range(0, len(x), size)]


@pytest.mark.parametrize("size", [1, 7, 500])
def test_streamed_moments_are_those_of_all_rows(size: int) -> None:
    x = rows(500, offset=1e4)  # a far mean: sums of squares would cancel
    found = moments(chunks(x, size))
    assert found is not None
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), rtol=1e-8, atol=1e-10)


def test_accumulators_of_several_workers_merge() -> None:
    x = rows(300)
    parts = [MomentAccumulator() for _ in range(4)]  # the last one stays empty
    for part, piece in zip(parts[:3], (x[:10], x[10:11], x[11:]), strict=True):
        part.add(piece)
    total = MomentAccumulator()
    for part in parts:
        total.merge(part)
    found = total.gaussian()
    assert found is not None
    assert total.count == 300
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(400, 300), (2000, 2000)])
def test_fid_is_that_of_clean_fid(n: int, m: int) -> None:
    from cleanfid.fid import fid_from_feats

    x, y = rows(n, seed=1), rows(m, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its call of scipy's sqrtm
        expected = fid_from_feats(x, y)
    for name in ("fid", "fd_prior"):
        assert SET_METRICS[name]()(chunks(x, 64), chunks(y, 100)) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_diagonal_gaussians_is_closed_form() -> None:
    rng = np.random.default_rng(3)
    s, t, shift = rng.uniform(0, 2, 16), rng.uniform(0, 2, 16), rng.normal(size=16)
    s[:3] = 0  # singular covariances are no special case
    p, q = Gaussian(np.zeros(16), np.diag(s**2)), Gaussian(shift, np.diag(t**2))
    assert frechet_distance(p, q) == pytest.approx(((s - t) ** 2).sum() + shift @ shift, rel=1e-12)


def test_frechet_distance_is_symmetric_zero_on_itself_and_sees_a_shift() -> None:
    x, y = rows(10, seed=1), rows(9, seed=2)  # fewer rows than features
    p, q = moments([x]), moments([y])
    assert p is not None
    assert q is not None
    assert frechet_distance(p, q) == pytest.approx(frechet_distance(q, p), rel=1e-12)
    assert frechet_distance(p, p) == pytest.approx(0, abs=1e-10)
    shifted = moments([x + 2.0])
    assert shifted is not None
    assert frechet_distance(p, shifted) == pytest.approx(4.0 * x.shape[1], rel=1e-10)


def test_half_precision_rows_cost_little_accuracy() -> None:
    x, y = rows(400, seed=1), rows(300, seed=2)
    exact = SET_METRICS["fid"]()([x], [y])
    assert SET_METRICS["fid"]()([x.astype(np.float16)], [y.astype(np.float16)]) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("name", ["fid", "kid", "fd_prior"])
def test_one_row_or_none_has_no_distance(name: str) -> None:
    x = rows(1)
    assert math.isnan(SET_METRICS[name]()([x], [rows(5)]))
    assert math.isnan(SET_METRICS[name]()([], [rows(5)]))


def test_kernel_distance_is_the_estimator_of_clean_fid() -> None:
    from cleanfid.fid import kernel_distance as reference

    x, y = rows(120, seed=1), rows(120, seed=2)
    # with the whole set as the only subset both are deterministic
    expected = reference(x, y, num_subsets=1, max_subset_size=1000)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)
    assert SET_METRICS["kid"]()(chunks(x, 50), chunks(y, 50)) == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_of_subsets_is_seeded_and_agrees_with_clean_fid() -> None:
    from cleanfid.fid import kernel_distance as reference

    x, y = rows(400, seed=1), rows(300, seed=2)
    found = kernel_distance(x, y, seed=5, subsets=400, subset_size=100)
    assert found == kernel_distance(x, y, seed=5, subsets=400, subset_size=100)
    np.random.seed(0)  # noqa: NPY002  (clean-fid draws from the global state)
    expected = reference(x, y, num_subsets=400, max_subset_size=100)
    assert found == pytest.approx(expected, rel=0.05)  # two Monte Carlo means over 400 subsets


def test_a_sample_of_many_rows_is_uniform_and_of_few_is_all_of_them() -> None:
    rows = np.arange(1000, dtype=np.float16)[:, None]
    chunks = [rows[start : start + 30] for start in range(0, 1000, 30)]
    assert sample_rows(chunks, 1000).tolist() == rows.tolist()
    drawn = [sample_rows(chunks, 50, seed)[:, 0] for seed in range(400)]
    assert all(len(set(sample)) == 50 and sample.dtype == np.float16 for sample in drawn)
    counts = np.bincount(np.concatenate(drawn).astype(int), minlength=1000)
    # 20 of each on average, binomial: the sum of squares is chi-squared of 999 degrees of freedom, to 0.95
    assert 850 < ((counts - 20) ** 2 / (20 * 0.95)).sum() < 1150


def test_kernel_distance_is_unbiased() -> None:
    rng = np.random.default_rng(6)
    values = [kernel_distance(rng.normal(size=(20, 4)), rng.normal(size=(20, 4))) for _ in range(600)]
    assert abs(np.mean(values)) < 3.5 * np.std(values) / math.sqrt(len(values))
