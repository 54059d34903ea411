"""The figures of a report, as SVG whose ink and grid take the colours of the page they are in."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ipsolve.metrics import METRICS
from ipsolve.report.ranks import rank_figure
from ipsolve.report.tables import label
from ipsolve.report.view import RunView, TableView
from ipsolve.runs.results import COUNTS, image_metrics
from ipsolve.runs.summary import higher_is_better

INK, GRID, PAPER = "#010203", "#040506", "#070809"  # stand-ins, replaced in the SVG
ON_PAPER = {INK: "#1f2328", GRID: "#d0d7de", PAPER: "#ffffff"}
PNG_DPI, MOST_PIXELS = 150, 8000
MARK = "solver:"  # before the name of a solver: the id of what is drawn of it
LEGEND_COLUMNS = 6
WIDTH = 12.0  # inches of a figure over the whole page
# after Okabe & Ito (2008), told apart with any colour vision; markers repeat at another period
PALETTE = ("#1f83c6", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31")
MARKERS = "osD^vPX*<>h"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: the page's font, searchable
    "svg.hashsalt": "ipsolve",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure: an SVG with stand-ins for the colours of its page, and a PNG with dark ink on white."""

    svg: str
    png: bytes


def draw_figures(view: RunView) -> dict[str, Drawing]:
    """Return figures by name, those with data: ``forest_<metric>``, ``ranks``, ``cost_seconds``, ``cost_calls``."""
    drawn = {}
    with mpl.rc_context(STYLE):
        for metric in image_metrics():
            table = view.comparisons[view.comparisons["metric"] == metric]
            if len(table):
                side = "right" if higher_is_better(metric) else "left"
                what = f"{label(metric)} minus {view.config.baseline}{_unit(metric)}"
                drawn[f"forest_{metric}"] = draw(forest(view, table, f"{what} ({side} of zero is better)"))
        if view.ranking:
            drawn["ranks"] = draw(rank_figure(view.ranking, solver_style(view)))
        headline = view.headline
        if headline is not None and np.isfinite(view.summary[headline]).any():  # an infinite one is on no axis
            calls = view.rows.assign(calls=view.rows[list(COUNTS)].sum(axis=1))
            drawn["cost_seconds"] = draw(_cost(view, headline, _cell_means(view.rows, "seconds"), "seconds per image"))
            what = "network calls per image (forward and backward)"
            if calls["calls"].any():
                drawn["cost_calls"] = draw(_cost(view, headline, _cell_means(calls, "calls"), what))
    return drawn


def _unit(metric: str) -> str:
    return f" [{unit}]" if (unit := METRICS[metric].unit) else ""


def inline(svg: str) -> str:
    """Return an SVG for a page: ink and grid are the page's own colours."""
    svg = svg.replace(f'id="{MARK}', 'data-solver="')  # a page has several figures, and an id once
    return svg.replace(INK, "currentColor").replace(GRID, "var(--rule)").replace(PAPER, "var(--paper)")


def stand_alone(svg: str) -> str:
    """Return an SVG for a file: dark ink on white."""
    for stand_in, paint in ON_PAPER.items():
        svg = svg.replace(stand_in, paint)
    return svg


def draw(figure: Figure) -> Drawing:
    """Return a figure as SVG and PNG."""
    text = svg(figure)
    for artist in figure.findobj():
        for kind in ("color", "edgecolor", "facecolor", "markerfacecolor", "markeredgecolor"):
            if hasattr(artist, f"set_{kind}") and (paint := ON_PAPER.get(_hex(artist, kind))):
                getattr(artist, f"set_{kind}")(paint)
    for axes in figure.axes:
        axes.tick_params(colors=ON_PAPER[INK], which="both", grid_color=ON_PAPER[GRID])
    buffer = io.BytesIO()
    figure.set_layout_engine("none")  # it has its layout from the first drawing
    dpi = min(PNG_DPI, MOST_PIXELS / max(figure.get_size_inches()))
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=ON_PAPER[PAPER], bbox_inches="tight")
    return Drawing(text, buffer.getvalue())


def _hex(artist: Any, kind: str) -> str:
    try:
        return str(mpl.colors.to_hex(getattr(artist, f"get_{kind}")()))
    except (AttributeError, ValueError, TypeError):  # several colours, or none
        return ""


def svg(figure: Figure) -> str:
    """Return a figure as SVG text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def solver_style(view: TableView) -> Callable[[str], dict[str, Any]]:
    """Return the colour and marker of each solver, the same in all figures of a run, and the name of its marks."""
    names = view.solvers
    return lambda name: {
        "color": PALETTE[names.index(name) % len(PALETTE)],
        "marker": MARKERS[names.index(name) % len(MARKERS)],
        "gid": f"{MARK}{name}",
    }


def forest(view: TableView, table: pd.DataFrame, caption: str) -> Figure:
    """Draw the differences to the baseline in one metric, rows of ``comparisons.csv``, with their intervals."""
    style = solver_style(view)
    tasks = [task for task in view.tasks if (table["task"] == task).any()]
    figure = Figure(figsize=(6.2, 0.7 + 0.25 * len(table) + 0.34 * len(tasks)), layout="constrained")
    axes = figure.add_subplot()
    heights, labels, height = [], [], 0.0
    for task in tasks:
        heights.append(height)
        labels.append(task)
        height += 1
        for row in table[table["task"] == task].to_dict("records"):
            _interval(axes, row, height, style(row["solver"]))
            heights.append(height)
            labels.append(row["solver"])
            height += 1
        height += 0.35
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_yticks(heights, labels)
    for tick in axes.get_yticklabels():
        tick.set_fontweight("bold" if tick.get_text() in tasks else "normal")
    axes.set_ylim(height - 0.4, -0.7)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel(caption)
    return figure


def _interval(axes: Axes, row: dict[str, Any], height: float, style: dict[str, Any]) -> None:
    low, high = row["ci95_low"], row["ci95_high"]
    told = low > 0 or high < 0
    if not math.isnan(low):
        shape: dict[str, Any] = {"linewidth": 1.8, "solid_capstyle": "round"}
        axes.plot([low, high], [height, height], color=style["color"], gid=style["gid"], **shape)
    axes.plot(
        [row["difference"]],
        [height],
        linestyle="none",
        markersize=6.5,
        markeredgewidth=1.5,
        # hollow where the interval holds zero: only a filled marker is a difference
        markerfacecolor=style["color"] if told else PAPER,
        **style,
    )


def _cell_means(rows: pd.DataFrame, column: str) -> pd.Series:
    return rows.groupby(["task", "solver"])[column].mean()


def _cost(view: RunView, metric: str, cost: pd.Series, caption: str) -> Figure:
    style = solver_style(view)
    columns = len(view.tasks) if len(view.tasks) <= 4 else 3
    rows = math.ceil(len(view.tasks) / columns)
    legend = math.ceil(len(view.solvers) / LEGEND_COLUMNS)
    height = (3.4 if columns == 1 else 2.9 if columns == 2 else 2.4) * rows + 0.6 + 0.22 * legend
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axes, task in zip(grid.flat, view.tasks, strict=False):
        own = view.summary[(view.summary["task"] == task) & np.isfinite(view.summary[metric])]
        for row in own.to_dict("records"):
            look = style(row["solver"])
            name = look.pop("gid")
            drawn = axes.errorbar(
                cost[task, row["solver"]],
                row[metric],
                yerr=0.0 if math.isnan(row[f"{metric}_ci95"]) else row[f"{metric}_ci95"],
                linestyle="none",
                markersize=6.5,
                elinewidth=1.2,
                label=row["solver"],
                **look,
            )
            for part in drawn.get_children():
                part.set_gid(name)
        if (cost == 0).any():  # methods without a network stand on the axis
            smallest = math.floor(math.log10(cost[cost > 0].min()))
            axes.set_xscale("symlog", linthresh=10**smallest, linscale=0.7)
        else:
            axes.set_xscale("log")
        axes.set_title(task, loc="left")
        axes.grid(True)
        axes.set_axisbelow(True)
        axes.margins(x=0.08, y=0.12)
    for index, axes in enumerate(grid.flat):
        axes.set_visible(index < len(view.tasks))
        axes.tick_params(labelbottom=index + columns >= len(view.tasks))  # the lowest of each column
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{label(metric)}{_unit(metric)}")
    figure.supxlabel(caption, fontsize=10)
    entries = {
        text: handle for axes in grid.flat for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(entries.values()), list(entries), loc="outside upper left", ncols=min(len(entries), LEGEND_COLUMNS)
    )
    return figure
