"""The tables as plain text: Markdown for a paper or README, fixed width for a terminal."""

from __future__ import annotations

from ipsolve.citation import bibliography
from ipsolve.conventions import UNITS
from ipsolve.metrics import METRICS
from ipsolve.report.ranks import RANK_HEAD, rank_lines, rank_words
from ipsolve.report.tables import (
    COSTS,
    FRONT,
    ON_FRONT,
    Entry,
    corrected,
    front_lines,
    headline,
    label,
    metric_column,
    number,
    p_value,
    published_lines,
    shown_columns,
    standard_columns,
    task_lines,
)
from ipsolve.report.view import RunView, TableView
from ipsolve.requests.errors import RequestError

LEGEND = (
    "Means over images with 95% intervals. **Bold**: best mean. =: the paired 95% interval of the difference to the "
    "best holds zero. p-values are of paired t-tests, and beside them corrected for all of the same metric (Holm)."
)


def markdown(view: RunView) -> str:
    """Return the report's tables as Markdown."""
    parts = [f"# {view.config.name}", f"Units: {UNITS}.", LEGEND]
    columns = shown_columns(view.summary)
    head = [[column.heading for column in columns]]
    for task in view.tasks:
        lines = [[line.solver, *map(bold, line.entries)] for line in task_lines(view, task, columns)]
        parts += [f"## {task}", *_sentence(view, task), markdown_table(["solver", *head[0]], lines)]
    if table := front_table(view):
        parts += ["## What quality costs", *table]
    if view.ranking:
        parts += ["## Ranks over the tasks", rank_words(view.ranking)]
        parts += [markdown_table(list(RANK_HEAD), rank_lines(view.ranking))]
    if len(view.comparisons):
        parts += [f"## Differences to {view.config.baseline}", differences(view)]
    if view.published:
        lines = [
            [line.task, line.solver, *(f"{told} / {own} {margin}".rstrip() for told, own, margin, _ in line.entries)]
            for line in published_lines(view, view.published)
        ]
        parts += [f"## {view.published.title}", "Published / measured."]
        parts += [markdown_table(["task", "solver", *(label(column.key) for column in standard_columns())], lines)]
    parts += view.notes
    absent = [f"- {name}: {reason}" for name, reason in view.absent_metrics().items()]
    if absent:
        parts += ["## Absent metrics", "\n".join(absent)]
    if view.citations:
        parts += ["## References", f"```bibtex\n{bibliography(view.citations)}```"]
    return "\n\n".join(parts) + "\n"


def document_table(view: RunView) -> str:
    """Return what a document shows of a run: its headline metric by solver and task, and what an image costs.

    Raises:
        RequestError: the run has no metric of images.
    """
    if view.headline is None:
        raise RequestError("metrics", f"{view.config.name} asks for no metric of images, which the table is of")
    metric = metric_column(view.headline)
    calls, seconds = (
        next(column for column in COSTS if column.key == key) for key in ("denoiser_calls", "seconds_per_image")
    )
    lines: dict[str, list[str]] = {}
    for task in view.tasks:
        for line in task_lines(view, task, [metric]):
            lines.setdefault(line.solver, []).append(bold(line.entries[0]))
    costs = view.summary.groupby("solver")[[calls.key, seconds.key]].mean()
    rows = [
        [name, *entries, *(number(costs.loc[name, column.key], column.decimals) for column in (calls, seconds))]
        for name, entries in lines.items()
    ]
    images, unit = int(view.summary["n"].max()), METRICS[metric.key].unit
    what = f"{label(metric.key)} in {unit}" if unit else label(metric.key)
    setting = (
        f"{what}, means over {images} images of {view.config.data.get('source')} with 95% intervals; **bold**: the "
        "best mean, =: the paired interval of the difference to it holds zero. Denoiser calls and seconds are per "
        "image, means over the tasks."
    )
    table = markdown_table(["solver", *view.tasks, "denoiser calls", "s / image"], rows)
    return "\n\n".join([setting, table, *front_table(view)])


def front_table(view: RunView) -> list[str]:
    """Return a legend and a table of where solvers stand on the front; nothing where there is no choice."""
    lines = front_lines(view)
    head = ["task", "front", "not told from a cheaper one", "behind"]
    return [f"{FRONT} *Front*: {ON_FRONT}", markdown_table(head, lines)] if lines else []


def console_table(view: RunView) -> str:
    """Return the summary for a terminal, with the units and what is absent."""
    columns = shown_columns(view.summary)
    blocks = []
    for task in view.tasks:
        lines = [[line.solver, *map(starred, line.entries)] for line in task_lines(view, task, columns)]
        blocks.append(aligned([[task, *(column.heading for column in columns)], *lines]))
    absent = [f"{name} is absent: {reason}" for name, reason in view.absent_metrics().items()]
    notes = ["* best mean, = not distinguishable from it (paired 95% interval), ± 95% interval", f"units: {UNITS}"]
    return "\n\n".join([*blocks, "\n".join([*notes, *view.notes, *absent])])


def _sentence(view: RunView, task: str) -> list[str]:
    found = headline(view, task)
    if found is None:
        return []
    ties = f"; not distinguishable from {', '.join(found.ties)}" if found.ties else ""
    against = f"; {found.against_baseline}" if found.against_baseline else ""
    return [f"Best {label(str(view.headline))}: {found.best}, {found.figure}{against}{ties}."]


def differences(view: TableView) -> str:
    """Return the differences to the baseline as Markdown."""
    lines = []
    for row in corrected(view.comparisons).to_dict("records"):
        digits = METRICS[row["metric"]].decimals if row["metric"] in METRICS else 4
        interval = f"[{number(row['ci95_low'], digits, True)}, {number(row['ci95_high'], digits, True)}]"
        difference = number(row["difference"], digits, True)
        p_values = [p_value(row["p_value"]), p_value(row["p_holm"])]
        lines.append([row["task"], row["metric"], row["solver"], difference, interval, *p_values, str(row["n"])])
    return markdown_table(["task", "metric", "solver", "difference", "95% interval", "p", "Holm", "n"], lines)


def bold(entry: Entry) -> str:
    """Return an entry for Markdown."""
    text = f"**{entry.text}**" if entry.best else entry.text
    return " ".join(filter(None, [text, entry.margin, "=" if entry.tie else ""]))


def starred(entry: Entry) -> str:
    """Return an entry for a terminal."""
    mark = "*" if entry.best else "=" if entry.tie else " "
    return f"{entry.text} {entry.margin}".rstrip() + mark


def markdown_table(head: list[str], lines: list[list[str]]) -> str:
    """Return a Markdown table."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])


def aligned(lines: list[list[str]]) -> str:
    """Return a table of fixed width; the first of ``lines`` is its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    return "\n".join([rows[0], "─" * len(rows[0]), *rows[1:]])
