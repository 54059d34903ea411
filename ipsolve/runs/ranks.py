"""Ranks of solvers over the tasks of a run, and which of them the images can tell apart.

An image ranks the solvers on each task, and its rank of a solver is the mean over the tasks: images are the unit, and
tasks are not sampled from anything. Averages of ranks are those of Friedman (1937, JASA 32); groups that are not told
apart are drawn as by Demsar (2006, JMLR 7), with pairwise tests under Holm's correction in the place of Nemenyi's
single distance (Benavoli, Corani & Mangili 2016, JMLR 17).
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ipsolve.runs.statistics import CONFIDENCE, holm, paired_difference
from ipsolve.runs.summary import higher_is_better, over_samples

RESAMPLES = 4000
_COUNTS = 4_000_000  # numbers in memory at once


class Rank(NamedTuple):
    """The mean rank of a solver (1 is best), its interval, and the share of resampled sets of images it is best on."""

    solver: str
    mean: float
    low: float
    high: float
    best: float


class Ranking(NamedTuple):
    """Solvers by mean rank, the best first.

    ``groups``: runs of solvers of which no two are told apart, the longest ones, by their places in ``ranks``.
    ``left_out``: solvers without a result on some task.
    """

    ranks: list[Rank]
    groups: list[tuple[int, int]]
    tasks: int
    images: int
    left_out: list[str]


def ranking(rows: pd.DataFrame, metric: str, seed: int = 0) -> Ranking | None:
    """Return the ranking by a metric of images, over the images that have a value of every solver on every task.

    None where fewer than three solvers or two images can be ranked.

    Args:
        rows: as :func:`ipsolve.runs.summary.read_rows` returns them.
        metric: of images; equal values share their ranks.
        seed: of the resampling.
    """
    each = over_samples(rows, ["task", "image_id", "solver"], [metric]).dropna(subset=[metric])
    wide = each.groupby(["image_id", "task", "solver"])[metric].mean().unstack(["task", "solver"])
    tasks, solvers = list(dict.fromkeys(rows["task"])), list(dict.fromkeys(rows["solver"]))
    ranked = [name for name in solvers if all((task, name) in wide.columns for task in tasks)]
    whole = wide[[(task, name) for task in tasks for name in ranked]].dropna() if ranked else wide.iloc[:0]
    if len(ranked) < 3 or len(whole) < 2:
        return None
    values = whole.to_numpy(float).reshape(len(whole), len(tasks), len(ranked))
    of_image = stats.rankdata(-values if higher_is_better(metric) else values, axis=2).mean(1)
    order = np.argsort(of_image.mean(0), kind="stable")
    of_image = of_image[:, order]
    low, high, best = _resampled(of_image, seed)
    names = [ranked[i] for i in order]
    ranks = [
        Rank(*each) for each in zip(names, *(a.tolist() for a in (of_image.mean(0), low, high, best)), strict=True)
    ]
    left_out = [name for name in solvers if name not in ranked]
    return Ranking(ranks, _groups(of_image), len(tasks), len(whole), left_out)


def _resampled(of_image: NDArray[np.float64], seed: int) -> tuple[NDArray[np.float64], ...]:
    """Return both ends of the interval of each mean rank, and the share of resamples in which it is the lowest.

    Percentiles are widened for few images so that the interval of a normal mean would be Student's (Hesterberg 2015,
    American Statistician 69, arXiv 1411.5279, "expanded percentile interval").
    """
    n = len(of_image)
    draws, together = np.random.default_rng(seed), max(1, _COUNTS // n)
    sizes = [min(together, RESAMPLES - done) for done in range(0, RESAMPLES, together)]
    means = np.concatenate([draws.multinomial(n, np.full(n, 1 / n), size) @ of_image / n for size in sizes])
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    tail = float(stats.norm.cdf(-math.sqrt(n / (n - 1)) * quantile))
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    lowest = np.isclose(means, means.min(1, keepdims=True))
    return low, high, (lowest / lowest.sum(1, keepdims=True)).mean(0)


def _groups(of_image: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the longest runs [first, last] of columns of which no two are told apart."""
    k = of_image.shape[1]
    pairs = list(combinations(range(k), 2))
    corrected = holm([paired_difference(of_image[:, i], of_image[:, j]).p_value for i, j in pairs])
    told = {pair for pair, p in zip(pairs, corrected, strict=True) if p < 1 - CONFIDENCE}
    found: list[tuple[int, int]] = []
    for first in range(k):
        last = first
        while last + 1 < k and not any((i, last + 1) in told for i in range(first, last + 1)):
            last += 1
        if last > first and not (found and found[-1][1] >= last):
            found.append((first, last))
    return found
