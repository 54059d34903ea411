"""Tables for people: rounded numbers with intervals, the best of each column, and what cannot be told from it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median
from typing import Any, NamedTuple

import pandas as pd

from ipsolve.metrics import METRICS, SET_METRICS
from ipsolve.report.view import RunView, TableView
from ipsolve.runs.config import Published
from ipsolve.runs.front import costs_of, front
from ipsolve.runs.results import image_metrics
from ipsolve.runs.statistics import holm
from ipsolve.runs.summary import present, set_metrics


class Column(NamedTuple):
    """A column of the shown table: its key in ``summary.csv``, heading, decimals, and what it means."""

    key: str
    heading: str
    decimals: int | None  # None: three significant digits
    title: str
    better: int = 0  # 1: higher, -1: lower, 0: neither


class Entry(NamedTuple):
    """A table entry. ``best``: the best mean of the column; ``tie``: its paired interval with the best holds zero."""

    text: str = "–"
    margin: str = ""
    value: float = math.nan
    best: bool = False
    tie: bool = False


class Line(NamedTuple):
    """One solver of a task."""

    solver: str
    entries: list[Entry]


COSTS = (
    Column("consistency", "residual", 2, "||A x - y|| / (noise_std sqrt(m)): 1 is the noise level"),
    Column("denoiser_calls", "denoiser", 0, "denoiser calls per image"),
    Column("seconds_per_image", "s / image", None, "measured seconds per image"),
    Column("n", "n", 0, "images"),
    Column("failed", "failed", 0, "images without a result"),
)


def label(metric: str) -> str:
    """Return a metric of images as it is called in sentences."""
    return metric.upper()


def with_unit(figure: str, metric: str) -> str:
    """Return a figure of a metric of images with its unit, if it has one."""
    return " ".join(filter(None, [figure, METRICS[metric].unit]))


def metric_column(name: str) -> Column:
    """Return the column of a metric of images."""
    cls = METRICS[name]
    better = 1 if cls.higher_is_better else -1
    return Column(name, f"{label(name)} {'↑' if better > 0 else '↓'}", cls.decimals, cls.meaning or name, better)


def all_columns() -> list[Column]:
    """Return the columns of the table: those of every metric that is registered, the standard ones first."""
    of_sets = [
        Column(name, f"{cls.heading or name.upper()} ↓", cls.decimals, cls.meaning or name, -1)
        for name, cls in ((name, SET_METRICS[name]) for name in set_metrics())
    ]
    return [*map(metric_column, image_metrics()), *of_sets, *COSTS]


def standard_columns() -> list[Column]:
    """Return the columns of what every paper reports."""
    return [metric_column(name) for name in image_metrics(())]


def shown_columns(summary: pd.DataFrame, columns: Iterable[Column] | None = None) -> list[Column]:
    """Return the columns that have at least one number (``failed`` only where something failed).

    Args:
        columns: to choose from; all of an evaluation if left out.
    """
    chosen = all_columns() if columns is None else columns
    columns = [column for column in chosen if summary[column.key].notna().any()]
    return [column for column in columns if column.key != "failed" or summary["failed"].sum()]


def number(value: object, decimals: int | None, signed: bool = False) -> str:
    """Return a number rounded to ``decimals`` (None: 3 significant digits) with a true minus sign, a dash for none."""
    if not present(value):
        return "–"
    style = ".3g" if decimals is None else f".{decimals}f"
    return f"{float(value):{'+' if signed else ''}{style}}".replace("-", "−")  # type: ignore[arg-type]


def task_lines(view: TableView, task: str, columns: list[Column]) -> list[Line]:
    """Return the lines of one task, solvers in the order of the configuration."""
    own = view.summary[view.summary["task"] == task]
    rivals = own[~own["solver"].isin(view.unranked)]
    best = {column.key: best_solver(rivals, column) for column in columns}
    lines = []
    for row in own.to_dict("records"):
        entries = [_entry(view, task, row, column, best[column.key]) for column in columns]
        lines.append(Line(row["solver"], entries))
    return lines


def best_solver(own: pd.DataFrame, column: Column) -> str | None:
    """Return the solver with the best mean of a column, None where the column has no direction or no rival."""
    values = own.dropna(subset=[column.key])
    if column.better == 0 or len(values) < 2:
        return None
    chosen = values[column.key].astype(float)
    return str(values["solver"][chosen.idxmax() if column.better > 0 else chosen.idxmin()])


def tied(view: TableView, task: str, metric: str, solver: str, other: str) -> bool:
    """Return whether the paired interval of two solvers holds zero."""
    means = view.summary[view.summary["task"] == task].set_index("solver")[metric]
    if math.isinf(means[solver]) != math.isinf(means[other]):  # exact on all images: no pair is finite, and no tie
        return False
    return view.pairs.difference(task, metric, solver, other).tie


def _entry(view: TableView, task: str, row: dict[str, Any], column: Column, best: str | None) -> Entry:
    value, solver = row[column.key], row["solver"]
    if not present(value):
        return Entry()
    margin = row.get(f"{column.key}_ci95")
    tie = (
        best not in (None, solver)
        and solver not in view.unranked
        and column.key in view.pairs.metrics
        and tied(view, task, column.key, solver, str(best))
    )
    shown = f"± {number(margin, column.decimals)}" if present(margin) else ""
    return Entry(number(value, column.decimals), shown, float(value), best == solver, tie)


class Shaded(NamedTuple):
    """An entry of the overview; ``shade`` is 1 for the best of the task and falls to 0, None where there is nothing."""

    task: str
    entry: Entry
    shade: float | None


def overview(view: RunView) -> list[tuple[str, list[Shaded]]]:
    """Return for each solver its headline metric on each task.

    Shades are linear from the best down to three times as far from it as the median is, or to the worst: one method
    that failed must not make all others look alike.
    """
    column = metric_column(view.headline or "psnr")
    found: dict[tuple[str, str], Shaded] = {}
    for task in view.tasks:
        entries = {line.solver: line.entries[0] for line in task_lines(view, task, [column])}
        behind = {name: -column.better * each.value for name, each in entries.items() if math.isfinite(each.value)}
        best, middle = min(behind.values(), default=0.0), median(behind.values()) if behind else 0.0
        reach = min(max(behind.values(), default=0.0) - best, 3 * (middle - best)) or 1.0
        for name, entry in entries.items():
            shade = max(0.0, 1 - (behind[name] - best) / reach) if name in behind else None
            found[task, name] = Shaded(task, entry, shade)
    nothing = [Shaded(task, Entry(), None) for task in view.tasks]
    return [(name, [found.get((each.task, name), each) for each in nothing]) for name in view.solvers]


class Headline(NamedTuple):
    """The result of one task in words."""

    task: str
    best: str
    figure: str
    against_baseline: str
    ties: list[str]


def headline(view: RunView, task: str) -> Headline | None:
    """Return which solver is best on a task by the headline metric, by how much, and what cannot be told from it."""
    name = view.headline
    if name is None:
        return None
    own = view.summary[(view.summary["task"] == task) & view.summary[name].notna()]
    if own.empty:
        return None
    column = metric_column(name)
    best = best_solver(own, column) or str(own["solver"].iloc[0])
    row = own[own["solver"] == best].iloc[0]
    width = row[f"{name}_ci95"]
    margin = f" ± {number(width, column.decimals)}" if present(width) else ""
    figure = with_unit(f"{number(row[name], column.decimals)}{margin}", name)
    over = f"{figure} over {row['n']} image{'s' if row['n'] != 1 else ''}"
    ties = [rival for rival in own["solver"] if rival != best and tied(view, task, name, best, rival)]
    return Headline(task, best, over, _against(view, task, best, column), ties)


def _against(view: RunView, task: str, best: str, column: Column) -> str:
    table = view.comparisons
    found = table[(table["task"] == task) & (table["solver"] == best) & (table["metric"] == column.key)]
    if found.empty:
        return ""
    row = found.iloc[0]
    difference, low, high = (
        number(row[name], column.decimals, signed=True) for name in ("difference", "ci95_low", "ci95_high")
    )
    words = f"{with_unit(difference, column.key)} against {row['baseline']}"
    return f"{words} [{low}, {high}], {p_value(row['p_value'])}" if present(row["ci95_low"]) else words


def p_value(value: float) -> str:
    """Return a p-value in words, such as ``p = 0.013`` or ``p < 0.001``."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if present(value) else ""


def corrected(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return rows of ``comparisons.csv`` with ``p_holm``, corrected for all those of the same metric."""
    by_metric = comparisons.groupby("metric")["p_value"] if len(comparisons) else comparisons["p_value"]
    return comparisons.assign(p_holm=by_metric.transform(holm))


FRONT = (
    "The front of quality against cost, in brackets the network calls of an image, of all kinds, forward and backward."
)
ON_FRONT = (
    "told to be better than everything cheaper, and nothing as cheap is better, by paired 95% intervals, which are not "
    "corrected for their number."
)


def front_lines(view: RunView) -> list[list[str]]:
    """Return for each task who is on the front of the headline metric, who is not told from a cheaper one, the rest.

    Nothing where there is no choice: of one solver, or without the metric.
    """
    if view.headline is None or len(view.solvers) < 2:
        return []
    costs, lines = costs_of(view.rows), []
    for task in view.tasks:
        standings = front(view.pairs, costs, task, view.headline)
        named = [
            ", ".join(f"{each.solver} ({each.cost:.0f})" for each in standings if each.place == place) or "–"
            for place in ("front", "tied", "behind")
        ]
        lines.append([task, *named])
    return lines


class PublishedLine(NamedTuple):
    """A published figure beside the measured one."""

    task: str
    solver: str
    entries: list[tuple[str, str, str, str]]  # published, measured, margin, difference of one metric each


def published_lines(view: RunView, published: Published) -> list[PublishedLine]:
    """Return the published figures of every task and solver, with the measured ones where this run has them."""
    lines = []
    measured = {(row["task"], row["solver"]): row for row in view.summary.to_dict("records")}
    for task, solvers in published.results.items():
        for solver, figures in solvers.items():
            row = measured.get((task, solver), {})
            entries = []
            for column in standard_columns():
                told, own, margin = figures.get(column.key), row.get(column.key), row.get(f"{column.key}_ci95")
                both = present(told) and present(own)
                entries.append(
                    (
                        number(told, min(column.decimals or 0, 3)),
                        number(own, column.decimals),
                        f"± {number(margin, column.decimals)}" if present(margin) else "",
                        number(float(own) - float(told), column.decimals, True) if both else "–",  # type: ignore[arg-type]
                    )
                )
            lines.append(PublishedLine(task, solver, entries))
    return lines
