"""The noise levels of annealing, in variance-exploding terms z = x_t / alpha_t = x_0 + r_t eps."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from ipsolve.operators.base import require
from ipsolve.priors.schedules import Edm, Level, Schedule, Spacing


def _falling(ratios: tuple[float, float]) -> tuple[float, float]:
    if ratios[0] <= ratios[1]:
        raise ValueError("must be two falling numbers")
    return ratios


Positive = Annotated[float, Field(gt=0)]
RatioRange = Annotated[tuple[Positive, Positive], AfterValidator(_falling)]


def require_one_grid(ratio_range: tuple[float, float] | None, timestep_spacing: Spacing | None) -> None:
    """Raise RequestError where levels are both chosen on the prior's grid and replaced."""
    require(
        ratio_range is None or timestep_spacing is None,
        "timestep_spacing: is of the prior's schedule, which ratio_range replaces",
    )


def annealing_levels(
    schedule: Schedule, num_steps: int, spacing: Spacing | None, ratio_range: tuple[float, float] | None
) -> list[Level]:
    """Return the levels to anneal through, noisiest first: the schedule's, or geometric ones of a range of r_t.

    Args:
        ratio_range: r_t = sigma_t / alpha_t of the first level and of the last, clipped to what the prior knows.
    """
    if ratio_range is not None:
        return [schedule.at_ratio(float(ratio)) for ratio in np.geomspace(*ratio_range, num_steps)]
    # the end may be clean and the start pure noise, where z = x_t / alpha_t does not exist
    return [t for t in schedule.levels(num_steps, spacing)[:-1] if t.alpha > 0]


def levels_between(schedule: Schedule, num_steps: int, top: float, bottom: float, rho: float = 7.0) -> list[Level]:
    """Return ``num_steps`` levels between two ratios sigma / alpha, even in ratio^(1 / rho), both among them.

    The spacing of EDM (Karras et al. 2022, arXiv 2206.00364, eq. 5), clipped to what the prior was trained on.
    """
    highest = schedule.at_ratio(top).ratio
    lowest = min(schedule.at_ratio(bottom).ratio, highest)
    return [schedule.at_ratio(node.sigma) for node in Edm(lowest, highest, rho).levels(num_steps)[:-1]]
