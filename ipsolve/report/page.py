"""The page: everything of a run in one file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ipsolve.citation import bibliography
from ipsolve.conventions import UNITS
from ipsolve.report.figures import Drawing, draw_figures, inline, stand_alone
from ipsolve.report.ranks import RANK_HEAD, rank_lines, rank_words
from ipsolve.report.strips import anchor, strips, within
from ipsolve.report.tables import (
    FRONT,
    ON_FRONT,
    corrected,
    front_lines,
    headline,
    label,
    number,
    overview,
    p_value,
    published_lines,
    shown_columns,
    standard_columns,
    task_lines,
)
from ipsolve.report.text import markdown
from ipsolve.report.view import RunView, TableView, open_run
from ipsolve.runs.results import RunFolder
from ipsolve.runs.summary import higher_is_better

ASSETS = Path(__file__).parent / "assets"
MAX_BYTES = 24_000_000  # of images: a page of more is slow to open and no use in a mail
MAX_FAILURES = 200  # shown; all of them are in failures/


def build_report(location: RunFolder | str, image_ids: Collection[str] | None = None) -> str:
    """Write summary, figures, ``report.md`` and ``report.html`` of a run, and return the path of the page.

    Args:
        location: the run, a folder or a URI.
        image_ids: the images of the present plan; all in the files if left out.

    Raises:
        RequestError: there is no such run, or it holds no result.
    """
    return write_report(open_run(location, image_ids=image_ids))


def write_report(view: RunView) -> str:
    """Write the figures and both renderings of a run that is already open; return the path of the page."""
    figures = draw_figures(view)
    return write_page(view.run, figures, markdown(view), render(view, figures))


def write_page(run: RunFolder, figures: dict[str, Drawing], text: str, page: str) -> str:
    """Write the files of a report; return the path of the page."""
    for name, drawing in figures.items():
        run.write(run.path("figures", f"{name}.svg"), stand_alone(drawing.svg).encode())
        run.write(run.path("figures", f"{name}.png"), drawing.png)
    run.write(run.path("report.md"), text.encode())
    run.write(run.path("report.html"), page.encode())
    return run.address("report.html")


def render(view: RunView, figures: dict[str, Drawing]) -> str:
    """Return the page as HTML."""
    columns = shown_columns(view.summary)
    every = {task: own for task in view.tasks if len(view.rows) and (own := strips(view, task))}
    drawn, left_out = within(every, MAX_BYTES)
    return fill(
        "report.html.j2",
        view,
        figures,
        unit="image",
        units=UNITS,
        columns=columns,
        headline=label(view.headline or ""),
        better="Up" if view.headline is None or higher_is_better(view.headline) else "Down",
        headlines=[found for task in view.tasks if (found := headline(view, task))],
        overview=overview(view) if view.headline else [],
        tables={task: task_lines(view, task, columns) for task in view.tasks},
        front=front_lines(view),
        rank_head=RANK_HEAD,
        rank_lines=rank_lines(view.ranking) if view.ranking else [],
        rank_words=rank_words(view.ranking) if view.ranking else "",
        legend=f"{FRONT} Front: {ON_FRONT}",
        anchor=anchor(view) if view.solvers else "",
        strips=drawn,
        left_out=left_out,
        absent=view.absent_metrics(),
        references=view.citations,
        bibtex=bibliography(view.citations),
        published=view.published,
        published_lines=published_lines(view, view.published) if view.published else [],
        notes=view.notes,
        image_columns=standard_columns(),
        num_images=view.rows["image_id"].nunique(),
        seeds=view.config.seeds,
    )


def fill(template: str, view: TableView, figures: dict[str, Drawing], **parts: Any) -> str:
    """Return a page of any kind of run: ``template`` with what all of them show, and with ``parts``."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "p_value": p_value}
    return environment.get_template(template).render(
        style=(ASSETS / "report.css").read_text(),
        script=(ASSETS / "report.js").read_text(),
        config=view.config,
        config_text=view.config_text,
        comparisons=corrected(view.comparisons).to_dict("records"),
        figures={name: inline(drawing.svg) for name, drawing in figures.items()},
        failures=view.failures.head(MAX_FAILURES).to_dict("records"),
        num_failures=len(view.failures),
        provenance=_flat(view.provenance),
        **parts,
    )


def _flat(mapping: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in mapping.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{key}.")
        else:
            lines.append((prefix + key, value if isinstance(value, str) else json.dumps(value)))
    return lines
