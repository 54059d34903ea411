"""Runs beside each other: two priors, two versions, two settings, on the images that they share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import matplotlib as mpl
import pandas as pd
import yaml

from ipsolve.metrics import METRICS
from ipsolve.report.figures import STYLE, Drawing, draw, forest
from ipsolve.report.page import fill
from ipsolve.report.tables import label, metric_column, shown_columns, task_lines
from ipsolve.report.text import aligned, starred
from ipsolve.report.view import RunView
from ipsolve.requests.errors import RequestError
from ipsolve.runs.config import Config
from ipsolve.runs.results import COUNTS, image_metrics
from ipsolve.runs.summary import Pairs, compare, higher_is_better, summarise

SEPARATOR = " / "


@dataclass(frozen=True)
class ComparisonConfig:
    """What the page asks of a configuration: a name, and who is the baseline."""

    name: str
    baseline: str


@dataclass(frozen=True)
class Comparison:
    """Runs as lines of one table: a *task* is a (task, solver) that at least two of them have, a *solver* a run.

    Means and differences are over the images that all runs share, so that a difference is that of the means beside it.
    """

    config: Any
    config_text: str
    provenance: dict[str, Any]
    rows: pd.DataFrame
    summary: pd.DataFrame
    comparisons: pd.DataFrame
    failures: pd.DataFrame
    names: list[str]
    notes: list[str]
    images: int
    headline: str | None
    unranked: Collection[str] = ()

    @cached_property
    def pairs(self) -> Pairs:
        return Pairs(self.rows)

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(self.summary["task"]))

    @property
    def solvers(self) -> list[str]:
        return self.names


def compare_runs(views: Sequence[RunView]) -> Comparison:
    """Return runs beside each other; the first is what the others are compared with.

    Raises:
        RequestError: they share no image, or no task and solver.
    """
    names = _names(views)
    shared = set.intersection(*(set(view.rows["image_id"]) for view in views))
    if not shared:
        raise RequestError("runs", f"{' and '.join(names)} share no image; allowed: runs over the same images")
    parts = []
    for name, view in zip(names, views, strict=True):
        own = view.rows[view.rows["image_id"].isin(shared)]
        parts.append(own.assign(task=own["task"] + SEPARATOR + own["solver"], solver=name))
    rows = pd.concat(parts, ignore_index=True)
    counts = rows.groupby("task")["solver"].nunique()
    order = [f"{task}{SEPARATOR}{solver}" for view in views for task in view.tasks for solver in view.solvers]
    common = [task for task in dict.fromkeys(order) if counts.get(task, 0) > 1]
    if not common:
        raise RequestError("runs", f"{' and '.join(names)} have no task and solver of the same name in common")
    rows = rows[rows["task"].isin(common)].reset_index(drop=True)
    cells = [(task, name) for task in common for name in names]
    nothing = pd.DataFrame(columns=["task", "solver", "image_id"])
    columns = [*image_metrics(), "consistency", *COUNTS, "seconds"]
    rows[columns] = rows[columns].astype(float)
    summary = summarise(rows, nothing, {}, cells)
    config = ComparisonConfig(" and ".join(names), names[0])
    text = "\n---\n".join(view.config_text for view in views)
    origin = {name: _origin(view) for name, view in zip(names, views, strict=True)}
    headline = views[0].headline
    found = compare(rows, names[0], cells)
    notes = _notes(names, views)
    return Comparison(config, text, origin, rows, summary, found, nothing, names, notes, len(shared), headline)


def _names(views: Sequence[RunView]) -> list[str]:
    names = [view.config.name for view in views]
    return names if len(set(names)) == len(names) else [view.run.location.rstrip("/") for view in views]


def _origin(view: RunView) -> dict[str, Any]:
    kept = ("git_commit", "git_dirty", "start", "end", "devices", "packages")
    found = {name: view.provenance[name] for name in kept if name in view.provenance}
    return {"location": view.run.location, **found}


def _notes(names: Sequence[str], views: Sequence[RunView]) -> list[str]:
    """Return lines on what is not the same, beside what is compared on purpose."""
    first = views[0].config
    return [
        line
        for name, view in zip(names[1:], views[1:], strict=True)
        for line in _unlike(names[0], first, name, view.config)
    ]


def _unlike(one: str, a: Config, other: str, b: Config) -> list[str]:
    tasks = [task for task in a.tasks if task in b.tasks and a.tasks[task] != b.tasks[task]]
    solvers = [name for name in a.solvers if name in b.solvers and a.solvers[name] != b.solvers[name]]
    parts = [what for what in ("prior", "seed") if getattr(a, what) != getattr(b, what)]
    images = f"the images of {other} are of another source than those of {one}, with the same ids"
    return [
        *(f"{task} is another task in {other} than in {one}: the measurements differ" for task in tasks),
        *([images] if _source(a) != _source(b) else []),
        *(f"{what} differs: {_flow(a, what)} in {one}, {_flow(b, what)} in {other}" for what in parts),
        *(f"{name} has other settings in {other} than in {one}" for name in solvers),
    ]


def _source(config: Config) -> Mapping[str, Any]:
    return {key: value for key, value in config.data.items() if key not in ("limit", "offset")}


def _flow(config: Config, what: str) -> str:
    return yaml.safe_dump(getattr(config, what), default_flow_style=True, sort_keys=False).split("\n...")[0].strip()


def draw_comparison(view: Comparison) -> dict[str, Drawing]:
    """Return the paired differences to the first run, a figure for each metric of images."""
    drawn = {}
    with mpl.rc_context(STYLE):
        for metric in image_metrics():
            table = view.comparisons[view.comparisons["metric"] == metric]
            if len(table):
                side, unit = "right" if higher_is_better(metric) else "left", METRICS[metric].unit
                what = f"{label(metric)} minus {view.config.baseline}{f' [{unit}]' if unit else ''}"
                drawn[f"forest_{metric}"] = draw(forest(view, table, f"{what} ({side} of zero is better)"))
    return drawn


def render_comparison(view: Comparison) -> str:
    """Return the page of a comparison as HTML."""
    columns = shown_columns(view.summary)
    tables = {task: task_lines(view, task, columns) for task in view.tasks}
    parts = {"unit": "image", "columns": columns, "tables": tables, "notes": view.notes, "num_images": view.images}
    return fill("comparison.html.j2", view, draw_comparison(view), **parts)


def comparison_table(view: Comparison) -> str:
    """Return the comparison for a terminal: means, and the differences in the headline metric."""
    columns = [column for column in shown_columns(view.summary) if column.key != "failed"]
    blocks = []
    for task in view.tasks:
        lines = [[line.solver, *map(starred, line.entries)] for line in task_lines(view, task, columns)]
        blocks.append(aligned([[task, *(column.heading for column in columns)], *lines]))
    notes = ["* best mean, = not distinguishable from it (paired 95% interval), ± 95% interval"]
    if view.headline is not None:
        digits = metric_column(view.headline).decimals or 4
        own = view.comparisons[view.comparisons["metric"] == view.headline]
        for row in own.to_dict("records"):
            low, high, n = row["ci95_low"], row["ci95_high"], row["n"]
            notes.append(
                f"{row['task']}: {label(view.headline)} of {row['solver']} minus {row['baseline']} "
                f"{row['difference']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] over {n} images"
            )
    return "\n\n".join([*blocks, "\n".join([*notes, *view.notes])])
