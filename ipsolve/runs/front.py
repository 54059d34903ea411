"""The front of quality against cost: which solvers are worth what they cost, as far as a run can tell.

A front of means (Pareto) is a front of noise where methods lie close. Here a method is better than another only where
the paired 95% interval of their difference over the same images does not hold zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import pandas as pd

from ipsolve.requests.errors import RequestError
from ipsolve.runs.results import COUNTS
from ipsolve.runs.summary import Pairs, higher_is_better

CALLS = "calls"  # all network calls of an image together, the same on every machine
Place = Literal["front", "tied", "behind"]


class Standing(NamedTuple):
    """Where a solver stands on a task.

    ``front``: it is told to be better than everything that costs less, and nothing of its cost or less is better.
    ``tied``: nothing of its cost or less is better, but ``rival``, which costs less (or as much, with the better mean),
    is not told to be worse. So the front always has a member.
    ``behind``: ``rival``, which costs no more, is better.
    """

    solver: str
    cost: float
    value: float
    place: Place
    rival: str | None


def costs_of(rows: pd.DataFrame, cost: str = CALLS) -> dict[tuple[str, str], float]:
    """Return the mean cost of an image by (task, solver).

    Args:
        rows: as :func:`ipsolve.runs.summary.read_rows` returns them.
        cost: ``calls``, one of the kinds of network calls, or ``seconds``.

    Raises:
        RequestError: another cost.
    """
    allowed = (CALLS, *COUNTS, "seconds")
    if cost not in allowed:
        raise RequestError("cost", f"{cost!r}; allowed: {', '.join(allowed)}")
    each = rows[list(COUNTS)].sum(axis=1) if cost == CALLS else rows[cost]
    means = each.groupby([rows["task"], rows["solver"]]).mean()
    return {(str(task), str(solver)): float(value) for (task, solver), value in means.items()}


def front(
    pairs: Pairs, costs: Mapping[tuple[str, str], float], task: str, metric: str, budget: float | None = None
) -> list[Standing]:
    """Return where the solvers of a task stand, the cheapest first.

    Args:
        pairs: of the results.
        costs: as :func:`costs_of` returns them.
        task: of the run.
        metric: of images.
        budget: solvers that cost more are left out.
    """
    means = pairs.rows[pairs.rows["task"] == task].groupby("solver")[metric].mean().dropna()
    within = [name for name in means.index if budget is None or costs[task, name] <= budget]
    sign = 1 if higher_is_better(metric) else -1
    order = sorted(within, key=lambda name: (costs[task, name], -sign * means[name]))
    found = []
    for name in order:
        rivals = [other for other in order if other != name and costs[task, other] <= costs[task, name]]
        place, rival = _place(pairs, task, metric, name, rivals, set(order[: order.index(name)]), sign)
        found.append(Standing(name, costs[task, name], float(means[name]), place, rival))
    return found


def _place(
    pairs: Pairs, task: str, metric: str, name: str, rivals: list[str], before: set[str], sign: int
) -> tuple[Place, str | None]:
    """Return the place of a solver among ``rivals``, and the one that keeps it off the front, the best of them.

    Of two at the same cost that cannot be told apart, only the one with the lower mean is tied: ``before`` names those
    that a solver has to beat.
    """
    differences = {other: pairs.difference(task, metric, name, other) for other in rivals}
    ahead = sorted(rivals, key=lambda other: sign * differences[other].difference)
    for other in ahead:
        if not differences[other].tie and sign * differences[other].difference < 0:
            return "behind", other
    for other in ahead:
        if differences[other].tie and other in before:
            return "tied", other
    return "front", None
