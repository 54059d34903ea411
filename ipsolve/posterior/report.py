"""The report of a posterior run: one self-contained page, its figures, and the same tables as text."""

from __future__ import annotations

from ipsolve.posterior.experiment import EXACT
from ipsolve.posterior.figures import draw_figures
from ipsolve.posterior.view import PosteriorView, open_run
from ipsolve.report.page import fill, write_page
from ipsolve.report.tables import Column, Entry, Line, shown_columns, task_lines
from ipsolve.report.text import aligned, bold, differences, markdown_table, starred

__all__ = ["PosteriorView", "console_table", "document_tables", "markdown", "open_run", "write_report"]

COLUMNS = (
    Column("sliced_wasserstein_1", "SW1 ↓", 3, "sliced Wasserstein-1 distance to exact samples", -1),
    Column("sliced_wasserstein_2", "SW2 ↓", 3, "sliced Wasserstein-2 distance to exact samples", -1),
    Column("mmd", "MMD ↓", 3, "maximum mean discrepancy to exact samples", -1),
    Column("ksd", "KSD ↓", 3, "kernel Stein discrepancy with the exact score", -1),
    Column("mean_error", "mean ↓", 3, "error of the mean", -1),
    Column("covariance_error", "cov ↓", 3, "error of the covariance", -1),
    Column("coverage_50", "in 50%", 2, "share of posterior mass in the samples' central 50% intervals; 0.50 is right"),
    Column("coverage_80", "in 80%", 2, "0.80 is right"),
    Column("coverage_90", "in 90%", 2, "0.90 is right"),
    Column("coverage_95", "in 95%", 2, "0.95 is right"),
    Column("denoiser_calls_per_run", "calls / run", 0, "denoiser calls of one run; a particle's call is a call"),
    Column("denoiser_backward_calls_per_run", "backward / run", 0, "backward calls of one run"),
    Column("seconds_per_run", "s / run", None, "measured seconds of one run"),
    Column("num_runs", "runs", 0, "runs per problem"),
    Column("n", "n", 0, "problems"),
    Column("failed", "failed", 0, "problems without a result"),
)
NOT_IN_TERMINAL = (
    "sliced_wasserstein_2",
    "coverage_50",
    "coverage_80",
    "coverage_95",
    "denoiser_backward_calls_per_run",
    "num_runs",
)
LEGEND = (
    "Means over problems ± half width of the 95% interval (Student t). exact (floor): a second exact sample set of the "
    "same size in the place of a solver's. All particles: the samples are the particles of few runs, else each sample "
    "is a run of its own."
)


def lines_of(view: PosteriorView, task: str, columns: list[Column]) -> list[Line]:
    """Return the lines of one set of problems, the floor first."""
    return [Line(view.label(line.solver), line.entries) for line in task_lines(view, task, columns)]


def overview(view: PosteriorView, column: Column = COLUMNS[0]) -> tuple[list[str], list[tuple[str, list[Entry]]]]:
    """Return one figure of all solvers on all sets of problems: the sets, and for each solver its entries."""
    found = {task: {line.solver: line.entries[0] for line in task_lines(view, task, [column])} for task in view.tasks}
    lines = [(view.label(name), [found[task].get(name, Entry()) for task in view.tasks]) for name in view.solvers]
    return view.tasks, lines


def overview_markdown(view: PosteriorView, column: Column = COLUMNS[0]) -> str:
    """Return an overview as a Markdown table."""
    tasks, lines = overview(view, column)
    return markdown_table(["solver", *tasks], [[name, *map(bold, entries)] for name, entries in lines])


def document_tables(view: PosteriorView) -> str:
    """Return the tables that a document shows: one figure of all solvers on all sets of problems each."""
    shown = [COLUMNS[0], *(column for column in COLUMNS if column.key in ("ksd", "coverage_90"))]
    parts = [_setting(view)]
    for column in shown:
        parts += [f"{column.heading} ({column.title}):", overview_markdown(view, column)]
    return "\n\n".join(parts)


def markdown(view: PosteriorView) -> str:
    """Return the report's tables as Markdown."""
    columns = shown_columns(view.summary, COLUMNS)
    parts = [
        f"# {view.config.name}",
        _setting(view),
        f"{LEGEND} **Bold**: best mean; =: its paired interval holds zero.",
    ]
    if len(view.tasks) > 1:
        parts += [f"## {COLUMNS[0].heading}", overview_markdown(view)]
    for task in view.tasks:
        lines = [[line.solver, *map(bold, line.entries)] for line in lines_of(view, task, columns)]
        parts += [f"## {task}", markdown_table(["solver", *(column.heading for column in columns)], lines)]
    if len(view.comparisons):
        parts += [f"## Differences to {view.config.baseline}", differences(view)]
    return "\n\n".join(parts) + "\n"


def console_table(view: PosteriorView) -> str:
    """Return the summary for a terminal."""
    columns = [c for c in shown_columns(view.summary, COLUMNS) if c.key not in NOT_IN_TERMINAL]
    blocks = []
    for task in view.tasks:
        lines = [[line.solver, *map(starred, line.entries)] for line in lines_of(view, task, columns)]
        blocks.append(aligned([[task, *(column.heading for column in columns)], *lines]))
    notes = ["* best mean, = not distinguishable from it (paired 95% interval), ± 95% interval over problems"]
    return "\n\n".join([*blocks, "\n".join([*notes, _setting(view), LEGEND])])


def write_report(view: PosteriorView) -> str:
    """Write the figures and both renderings of a posterior run; return the path of the page."""
    figures = draw_figures(view)
    columns = shown_columns(view.summary, COLUMNS)
    page = fill(
        "posterior.html.j2",
        view,
        figures,
        unit="problem",
        legend=LEGEND,
        setting=_setting(view),
        columns=columns,
        overview=overview(view),
        tables={task: lines_of(view, task, columns) for task in view.tasks},
        num_solvers=len(view.solvers) - (EXACT in view.solvers),
    )
    return write_page(view.run, figures, markdown(view), page)


def _setting(view: PosteriorView) -> str:
    config = view.config
    return f"{config.samples} samples per problem, {config.slices} slices, problem seed {config.problem_seed}."
