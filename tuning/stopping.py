"""Which trials stop early: rules over the values that all trials have after the same images, larger being better."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

FEWEST = 5  # values of others before a median says anything


def halved(value: float, others: Sequence[float], reduction_factor: int) -> bool:
    """Return whether successive halving stops a trial: it is not among the best 1 / ``reduction_factor`` at this rung.

    Asynchronous successive halving (Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020,
    arXiv:1810.05934, Algorithm 2) promotes the best ``floor(n / reduction_factor)`` of the n values that a rung has at
    this moment, and lets the others wait there. A trial here cannot wait, so that it stops instead, and goes on where
    the rung has too few values to promote any. Equal values are equally good.
    """
    best = (len(others) + 1) // reduction_factor
    return best > 0 and sum(other > value for other in others) >= best


def below_median(value: float, others: Sequence[float]) -> bool:
    """Return whether the median rule stops a trial: the others' median at this rung is better.

    Golovin et al., Google Vizier, KDD 2017, section 3.2, here between values over the same images.
    """
    return len(others) >= FEWEST and value < statistics.median(others)
