"""The ranking of a run as words, a table and a critical-difference figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from ipsolve.runs.ranks import Ranking

RANK_HEAD = ("solver", "mean rank", "95% interval", "best of resampled")
_ROW, _LANE = 0.27, 0.09  # inches of a solver, and between two bars


def rank_words(ranking: Ranking) -> str:
    """Return what the table and the figure show."""
    tasks = f"{ranking.tasks} task{'s' if ranking.tasks > 1 else ''}"
    without = f" Not ranked, without a result on some task: {', '.join(ranking.left_out)}."
    left_out = without if ranking.left_out else ""
    return (
        f"Each image ranks the solvers on {tasks}; 1 is best. Means over {ranking.images} images, with 95% intervals "
        "by resampling them. Two on one bar are not told apart: paired t-tests of ranks, corrected for their number "
        "(Holm). The last column is how often a solver has the best mean rank of a resampled set of images."
        f"{left_out}"
    )


def rank_lines(ranking: Ranking) -> list[list[str]]:
    """Return the lines of the table, the best solver first."""
    return [
        [each.solver, f"{each.mean:.2f}", f"{each.low:.2f} to {each.high:.2f}", f"{100 * each.best:.0f}%"]
        for each in ranking.ranks
    ]


def rank_figure(ranking: Ranking, style: Callable[[str], dict[str, Any]]) -> Figure:
    """Draw the mean ranks with their intervals, and a bar along those that are not told apart (Demsar 2006)."""
    count = len(ranking.ranks)
    width, height = 6.2, 0.8 + _ROW * count
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for row, each in enumerate(ranking.ranks):
        look = style(each.solver)
        axes.plot([each.low, each.high], [row, row], color=look["color"], gid=look["gid"], linewidth=1.8)
        axes.plot([each.mean], [row], linestyle="none", markersize=6.5, **look)
    for lane, (first, last) in enumerate(ranking.groups):
        place = 1.02 + _LANE * lane / width
        bar: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "clip_on": False, "linewidth": 3}
        axes.plot([place, place], [first - 0.25, last + 0.25], color="#8b949e", solid_capstyle="butt", **bar)
    axes.set_yticks(range(count), [each.solver for each in ranking.ranks])
    axes.set_ylim(count - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel("mean rank (1 is best); on one bar: not told apart")
    return figure
