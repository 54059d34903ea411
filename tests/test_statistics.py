"""Intervals cover as often as they say, and pairing is what makes them narrow."""

import math

import numpy as np
import pytest
from scipy import stats

from ipsolve.runs.statistics import mean_interval, paired_difference, without_exact


def test_mean_interval_is_the_student_interval() -> None:
    values = np.random.default_rng(0).normal(25, 3, 17)
    mean = mean_interval(values)
    low, high = stats.t.interval(0.95, 16, loc=values.mean(), scale=stats.sem(values))
    assert mean.n == 17
    assert (mean.value - mean.half_width, mean.value + mean.half_width) == pytest.approx((low, high), rel=1e-12)


def test_mean_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(1)
    runs = [mean_interval(rng.normal(2.0, 1.0, 8)) for _ in range(4000)]
    covered = np.mean([abs(run.value - 2.0) <= run.half_width for run in runs])
    assert covered == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_missing_values_are_left_out_and_counted() -> None:
    mean = mean_interval([1.0, math.nan, 3.0])
    assert (mean.value, mean.n) == (2.0, 2)
    assert math.isnan(mean_interval([math.nan]).value)


def test_one_image_has_a_mean_but_no_interval() -> None:
    mean = mean_interval([30.0])
    assert mean.value == 30.0
    assert math.isnan(mean.half_width)
    assert paired_difference([30.0], [29.0]).tie


def test_paired_difference_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(2)
    b = rng.normal(25, 4, 30)
    a = b + rng.normal(0.3, 0.4, 30)
    found, expected = paired_difference(a, b), stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-10)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-10)


def test_pairing_sees_what_separate_intervals_cannot() -> None:
    rng = np.random.default_rng(3)
    b = rng.normal(25, 4, 30)  # images differ by 4 dB, methods by 0.3 dB
    a = b + 0.3 + rng.normal(0, 0.2, 30)
    assert abs(a.mean() - b.mean()) < mean_interval(a).half_width
    assert not paired_difference(a, b).tie


def test_paired_difference_uses_only_images_that_both_have() -> None:
    found = paired_difference([1.0, math.nan, 3.0, 4.0], [0.0, 1.0, math.nan, 2.0])
    assert (found.n, found.difference) == (2, 1.5)


def test_equal_methods_tie_and_swapping_flips_the_sign() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=9), rng.normal(size=9)
    assert paired_difference(a, a) == (0.0, 0.0, 0.0, 1.0, 9)
    assert paired_difference(a, a + 1).p_value == 0.0
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert forward.difference == -backward.difference
    assert forward.low == pytest.approx(-backward.high)
    assert forward.p_value == pytest.approx(backward.p_value)


@pytest.mark.filterwarnings("error")
def test_exact_images_are_left_out_of_means_and_differences_and_infinite_distances_are_not() -> None:
    assert mean_interval(without_exact([1.0, math.inf, 3.0])) == mean_interval([1.0, 3.0])
    assert mean_interval(without_exact([math.inf, 30.0]))[::2] == (30.0, 1)
    everything = mean_interval(without_exact([math.inf, math.inf, math.nan]))
    assert (everything.value, everything.n) == (math.inf, 2)
    assert math.isnan(everything.half_width)
    a, b = [1.0, math.inf, 3.0, math.inf, 5.0], [0.0, 1.0, 2.5, math.inf, math.inf]
    assert paired_difference(a, b) == paired_difference([1.0, 3.0], [0.0, 2.5])
    assert mean_interval([1.0, math.inf]).value == math.inf
    assert math.isnan(mean_interval(without_exact([1.0, -math.inf, math.nan])).half_width)
