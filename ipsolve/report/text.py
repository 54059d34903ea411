"""The tables as plain text: Markdown for a paper or README, fixed width for a terminal."""

from __future__ import annotations

from ipsolve.conventions import UNITS
from ipsolve.report.tables import Entry, headline, number, p_value, published_lines, shown_columns, task_lines
from ipsolve.report.view import RunView

LEGEND = (
    "Means over images with 95% intervals. **Bold**: best mean. =: the paired 95% interval of the difference to the "
    "best holds zero. p-values are of paired t-tests and not corrected for their number."
)


def markdown(view: RunView) -> str:
    """Return the report's tables as Markdown."""
    parts = [f"# {view.config.name}", f"Units: {UNITS}.", LEGEND]
    columns = shown_columns(view.summary)
    head = [[column.heading for column in columns]]
    for task in view.tasks:
        lines = [[line.solver, *map(_bold, line.entries)] for line in task_lines(view, task, columns)]
        parts += [f"## {task}", *_sentence(view, task), _table(["solver", *head[0]], lines)]
    if len(view.comparisons):
        parts += [f"## Differences to {view.config.baseline}", _comparisons(view)]
    if view.published:
        lines = [
            [line.task, line.solver, *(f"{told} / {own} {margin}".rstrip() for told, own, margin, _ in line.entries)]
            for line in published_lines(view, view.published)
        ]
        parts += [f"## {view.published.title}", "Published / measured."]
        parts += [_table(["task", "solver", "PSNR", "SSIM", "LPIPS"], lines)]
    parts += view.notes
    absent = [f"- {name}: {reason}" for name, reason in view.absent_metrics().items()]
    if absent:
        parts += ["## Absent metrics", "\n".join(absent)]
    return "\n\n".join(parts) + "\n"


def console_table(view: RunView) -> str:
    """Return the summary for a terminal, with the units and what is absent."""
    columns = shown_columns(view.summary)
    blocks = []
    for task in view.tasks:
        lines = [[line.solver, *map(_starred, line.entries)] for line in task_lines(view, task, columns)]
        blocks.append(_aligned([[task, *(column.heading for column in columns)], *lines]))
    absent = [f"{name} is absent: {reason}" for name, reason in view.absent_metrics().items()]
    notes = ["* best mean, = not distinguishable from it (paired 95% interval), ± 95% interval", f"units: {UNITS}"]
    return "\n\n".join([*blocks, "\n".join([*notes, *view.notes, *absent])])


def _sentence(view: RunView, task: str) -> list[str]:
    found = headline(view, task)
    if found is None:
        return []
    ties = f"; not distinguishable from {', '.join(found.ties)}" if found.ties else ""
    against = f"; {found.against_baseline}" if found.against_baseline else ""
    return [f"Best PSNR: {found.best}, {found.figure}{against}{ties}."]


def _comparisons(view: RunView) -> str:
    decimals = {"psnr": 2}
    lines = []
    for row in view.comparisons.to_dict("records"):
        digits = decimals.get(row["metric"], 4)
        interval = f"[{number(row['ci95_low'], digits, True)}, {number(row['ci95_high'], digits, True)}]"
        difference = number(row["difference"], digits, True)
        lines.append(
            [row["task"], row["metric"], row["solver"], difference, interval, p_value(row["p_value"]), str(row["n"])]
        )
    return _table(["task", "metric", "solver", "difference", "95% interval", "p", "n"], lines)


def _bold(entry: Entry) -> str:
    text = f"**{entry.text}**" if entry.best else entry.text
    return " ".join(filter(None, [text, entry.margin, "=" if entry.tie else ""]))


def _starred(entry: Entry) -> str:
    mark = "*" if entry.best else "=" if entry.tie else " "
    return f"{entry.text} {entry.margin}".rstrip() + mark


def _table(head: list[str], lines: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    return "\n".join([rows[0], "─" * len(rows[0]), *rows[1:]])
