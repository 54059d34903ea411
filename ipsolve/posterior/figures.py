"""The figures of a posterior report."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ipsolve.posterior.experiment import EXACT
from ipsolve.posterior.results import LEVELS
from ipsolve.posterior.view import PosteriorView
from ipsolve.report.figures import INK, PALETTE, STYLE, Drawing, draw, forest, solver_style
from ipsolve.runs.cells import describe

DISTANCE = "sliced_wasserstein_1"
COLUMNS = 4  # panels side by side


def draw_figures(view: PosteriorView) -> dict[str, Drawing]:
    """Return ``{name: SVG}``: ``particles``, ``calibration``, ``samples``, ``forest_*``, where there is data."""
    drawn = {}
    with mpl.rc_context(STYLE):
        if sweeps(view):
            drawn["particles"] = draw(_particles(view))
        if len(view.rows):
            drawn["calibration"] = draw(_calibration(view))
            drawn["samples"] = draw(_samples(view))
        table = view.comparisons[view.comparisons["metric"] == DISTANCE]
        if len(table):
            caption = f"sliced Wasserstein-1 minus {view.config.baseline} (left of zero is better)"
            drawn[f"forest_{DISTANCE}"] = draw(forest(view, table, caption))
    return drawn


def sweeps(view: PosteriorView) -> dict[str, list[str]]:
    """Return the solvers that differ in their number of particles alone, by a common name, fewest particles first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in view.solvers:
        entry = view.experiment.entries.get(name)
        if entry is not None and "num_particles" in (described := describe(entry.solver, "solver")):
            rest = described | {"num_particles": None, "keep": entry.sampling.keep}
            groups[json.dumps(rest, default=str)].append(name)
    found = {}
    for names in groups.values():
        names.sort(key=lambda name: _num_particles(view, name))
        if len(names) > 1:
            found[_common(view, names)] = names
    return found


def _common(view: PosteriorView, names: list[str]) -> str:
    stem = names[0].rstrip("0123456789").rstrip("_")
    return stem if view.experiment.entries[names[0]].sampling.keep == "one" else f"{stem} (all particles)"


def _num_particles(view: PosteriorView, name: str) -> int:
    return view.experiment.entries[name].solver.num_samples


def _panels(view: PosteriorView, figure: Figure, height: float = 2.5) -> Iterator[tuple[str, Axes]]:
    """Yield the axes of each set of problems; ``height`` of a panel in inches."""
    columns = min(len(view.tasks), COLUMNS)
    rows = math.ceil(len(view.tasks) / columns)
    figure.set_size_inches(max(2.7 * columns, 4) + 0.4, height * rows + 1)
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(grid.flat):
        axes.set_visible(index < len(view.tasks))
        if index < len(view.tasks):
            axes.set_title(view.tasks[index], loc="left")
            axes.grid(True)
            axes.set_axisbelow(True)
            yield view.tasks[index], axes


def _legend(figure: Figure) -> None:
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        entries |= {text: handle for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside upper left", ncols=COLUMNS, fontsize=8)


def _particles(view: PosteriorView) -> Figure:
    style, figure = solver_style(view), Figure(layout="constrained")
    table = view.summary.set_index(["task", "solver"])
    for task, axes in _panels(view, figure):
        floor = table.loc[task, EXACT]
        axes.axhline(floor[DISTANCE], color=INK, linewidth=1, linestyle="--", label="exact (floor)")
        for label, names in sweeps(view).items():
            there = [name for name in names if (task, name) in table.index and table.loc[task, name]["n"]]
            axes.errorbar(
                [_num_particles(view, name) for name in there],
                [table.loc[task, name][DISTANCE] for name in there],
                yerr=np.nan_to_num([table.loc[task, name][f"{DISTANCE}_ci95"] for name in there]),
                label=label,
                markersize=5,
                linewidth=1.3,
                **style(names[0]),
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    figure.supxlabel("particles", fontsize=10)
    figure.supylabel("sliced Wasserstein-1", fontsize=10)
    _legend(figure)
    return figure


def _calibration(view: PosteriorView) -> Figure:
    figure, names = Figure(layout="constrained"), view.solvers
    for task, axes in _panels(view, figure, 0.6 + 0.17 * len(names)):
        table = view.summary[(view.summary["task"] == task) & (view.summary["n"] > 0)].set_index("solver")
        heights = [names.index(name) for name in table.index]
        for (column, level), color in zip(LEVELS.items(), PALETTE, strict=False):
            axes.axvline(level, color=color, linewidth=1, linestyle="--")
            axes.scatter(table[column], heights, s=16, color=color, linewidths=0, label=f"{level:.0%} intervals")
        axes.set_yticks(range(len(names)), [view.label(name) for name in names], fontsize=7)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
    for axes in figure.axes[1:]:
        if not axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.tick_params(labelleft=False)
    figure.supxlabel("measured coverage (dashed: the level)", fontsize=10)
    _legend(figure)
    return figure


def _samples(view: PosteriorView) -> Figure:
    """Draw the first problem of the first set: the first two coordinates of each solver's samples on the exact ones."""
    task = view.tasks[0]
    problem = view.rows[view.rows["task"] == task]["image_id"].min()
    clouds = {name: view.points(task, name, problem) for name in view.solvers}
    exact = clouds.pop(EXACT)
    clouds = {name: points for name, points in clouds.items() if len(points)}
    rows = math.ceil(max(len(clouds), 1) / COLUMNS)
    figure = Figure(figsize=(2.4 * COLUMNS, 2.4 * rows + 0.4), layout="constrained")
    everything = np.concatenate([exact, *clouds.values()])
    low, high = np.quantile(everything, [0.005, 0.995]) + np.array([-2, 2])
    style = solver_style(view)
    for axes, (name, points) in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, clouds.items(), strict=False):
        # as one picture: thousands of separate marks would make the page slow
        axes.scatter(*exact.T, s=9, color="#8a8f94", linewidths=0, rasterized=True)
        axes.scatter(*points.T, s=7, color=style(name)["color"], linewidths=0, alpha=0.8, rasterized=True)
        axes.set_title(view.label(name), loc="left", fontsize=9)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
    for axes in figure.axes[len(clouds) :]:
        axes.set_visible(False)
    return figure
