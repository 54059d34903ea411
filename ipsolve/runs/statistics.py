"""Uncertainty of a mean and of a paired difference. The unit of sampling is the image, never the row.

Several seeds of one image are averaged first: they share the image, so that counting them as independent samples
would make every interval too short.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95


class Mean(NamedTuple):
    """A mean over n images and the half width of its interval (NaN where n < 2)."""

    value: float
    half_width: float
    n: int


class PairedDifference(NamedTuple):
    """A mean difference over n images that both methods have, its interval, and the p-value of "no difference"."""

    difference: float
    low: float
    high: float
    p_value: float
    n: int

    @property
    def tie(self) -> bool:
        """Whether the interval holds zero (also where there is no interval, with one image)."""
        return not (self.low > 0 or self.high < 0)


class Moments(NamedTuple):
    """What a mean and its interval are made of, for values that come in batches (Chan, Golub & LeVeque 1983, eq. 2.1).

    n values, their mean, and the sum of their squared distances to it.
    """

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: ArrayLike) -> Moments:
        """Return the moments of (n,) values; those that are not finite are left out."""
        x = np.asarray(values, dtype=np.float64)
        x = x[np.isfinite(x)]
        return cls(len(x), float(x.mean()), float(((x - x.mean()) ** 2).sum())) if len(x) else cls()

    def joined(self, other: Moments) -> Moments:
        """Return the moments of the values of both."""
        n = self.n + other.n
        if n == 0:
            return self
        apart = other.mean - self.mean
        squares = self.squares + other.squares + apart**2 * self.n * other.n / n
        return Moments(n, self.mean + apart * other.n / n, squares)

    def half_width(self, confidence: float = CONFIDENCE) -> float:
        """Return the half width of the Student t interval of the mean, NaN where n < 2."""
        if self.n < 2:
            return math.nan
        quantile = stats.t.ppf((1 + confidence) / 2, self.n - 1)
        return float(quantile * math.sqrt(self.squares / (self.n - 1) / self.n))


def mean_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Mean:
    """Return the mean of one value per image and its Student t interval. NaN entries are left out, and n tells.

    Args:
        values: (n,) one value per image.
        confidence: coverage of the interval.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x[~np.isnan(x)]
    if len(x) == 0:
        return Mean(math.nan, math.nan, 0)
    if len(x) == 1 or not np.isfinite(x).all():
        return Mean(float(x.mean()), math.nan, len(x))
    quantile = stats.t.ppf((1 + confidence) / 2, len(x) - 1)
    return Mean(float(x.mean()), float(quantile * x.std(ddof=1) / math.sqrt(len(x))), len(x))


def without_exact(values: ArrayLike) -> NDArray[np.float64]:
    """Return (n,) values of a metric without those at +inf, the PSNR of images that are reproduced exactly.

    No mean survives one of them. Where all are exact they are returned as they are, and their mean is inf. Distances
    are no case for this: an infinite one is a failure, which a mean has to show.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x[~np.isnan(x)]
    return x if np.isposinf(x).all() else x[~np.isposinf(x)]


def paired_difference(a: ArrayLike, b: ArrayLike, confidence: float = CONFIDENCE) -> PairedDifference:
    """Return the mean of a - b over the images that have both, with the paired t interval and test (Student 1908).

    Args:
        a: (n,) one value per image.
        b: (n,) the values of the same images under the other method.
        confidence: coverage of the interval.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    both = np.isfinite(x) & np.isfinite(y)  # neither missing nor infinite: inf - inf is no number
    difference = x[both] - y[both]
    mean = mean_interval(difference, confidence)
    if mean.n < 2:
        return PairedDifference(mean.value, math.nan, math.nan, math.nan, mean.n)
    low, high = mean.value - mean.half_width, mean.value + mean.half_width
    if np.ptp(difference) <= 1e-12 * abs(difference).max():  # constant: the t statistic would be 0 / 0 or infinite
        return PairedDifference(mean.value, low, high, float(mean.value == 0), mean.n)
    return PairedDifference(mean.value, low, high, float(stats.ttest_1samp(difference, 0).pvalue), mean.n)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values, (n,), corrected for their number: where nothing differs, any is below 0.05 one time in twenty.

    Holm 1979 (Scandinavian Journal of Statistics 6): valid whatever the dependence between the tests, and never above
    Bonferroni's. NaN, no test, stays NaN and is not counted.
    """
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    corrected = np.full(p.shape, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return corrected
