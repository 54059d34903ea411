"""Levels between two noise stds, on any schedule."""

from __future__ import annotations

from ipsolve.priors.schedules import Edm, Level, Schedule


def levels_between(schedule: Schedule, num_steps: int, top: float, bottom: float, rho: float = 7.0) -> list[Level]:
    """Return ``num_steps`` levels between two ratios sigma / alpha, even in ratio^(1 / rho), both among them.

    The spacing of EDM (Karras et al. 2022, arXiv 2206.00364, eq. 5), clipped to what the prior was trained on.
    """
    highest = schedule.at_ratio(top).ratio
    lowest = min(schedule.at_ratio(bottom).ratio, highest)
    return [schedule.at_ratio(node.sigma) for node in Edm(lowest, highest, rho).levels(num_steps)[:-1]]
