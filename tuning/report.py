"""The report of a sweep: one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from optuna.trial import FrozenTrial

import ipsolve.report.page
from ipsolve.report.tables import number
from ipsolve.runs.results import RunFolder
from tuning.figures import draw_figures
from tuning.ledger import REFERENCE, Ledger
from tuning.outcome import best_trials, objective_columns
from tuning.problem import Scores
from tuning.request import Sweep

CAPTIONS = {
    "front": "Every trial that did all images; the Pareto front in red.",
    "history": "The objective of each trial. One that was stopped early stands at the reference's value over all "
    "images plus its mean difference to the reference over the images it did, here and in the figures below.",
    "rungs": "The running objective after each rung: only lines that reach the right end did all images.",
    "importance": "PED-ANOVA: how much each parameter decides whether a trial is among the best.",
    "slices": "Parameters against the objective, the most important first.",
    "contour": "The two most important parameters.",
}


class Line(NamedTuple):
    """A trial in the table of the page."""

    number: int
    state: str
    objectives: list[tuple[str, str, float]]  # value, margin, number to sort by
    tasks: list[tuple[str, float]]  # value, number to sort by
    settings: list[str]
    images: int
    seconds: float
    error: str
    best: bool
    reference: bool


def write_report(run: RunFolder, sweep: Sweep, ledger: Ledger, scores: Scores, table: pd.DataFrame) -> list[str]:
    """Write ``report.html`` of a sweep, with or without a best trial; return a line for each thing not shown."""
    figures, notes = draw_figures(sweep, ledger, scores)
    own, shared = Path(__file__).parent / "assets", ipsolve.report.page.ASSETS
    environment = Environment(
        loader=FileSystemLoader(own), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    best = best_trials(sweep, ledger)
    page = environment.get_template("sweep.html.j2").render(
        style=(shared / "report.css").read_text(),
        script=(shared / "report.js").read_text(),
        config=sweep.config,
        config_text=Path(run.path("config.yaml")).read_text(encoding="utf-8"),
        best_text=Path(run.path("best.yaml")).read_text(encoding="utf-8") if best else None,
        scheduler=sweep.scheduler,
        objectives=sweep.objectives,
        fields=[dimension.field for dimension in sweep.space.dimensions],
        task_columns=_task_columns(sweep),
        lines=_lines(sweep, ledger, table, best),
        figures=[(name, CAPTIONS[name.split()[0]], svg) for name, svg in figures.items()],
        states=table["state"].value_counts().to_dict(),
        seconds=float(table["seconds"].sum()),
        notes=notes,
        provenance=[(key, value if isinstance(value, str) else json.dumps(value)) for key, value in _provenance(run)],
    )
    run.write(run.path("report.html"), page.encode())
    return notes


def console(sweep: Sweep, table: pd.DataFrame, best: list[FrozenTrial]) -> str:
    """Return the best trials and the reference as lines for a terminal."""
    names = [objective.name for objective in sweep.objectives]
    rows = table.set_index("number")
    lines = []
    chosen = {trial.number: sweep.space.values(trial.params) for trial in best}
    for index, values in (chosen | {REFERENCE: sweep.reference}).items():
        row = rows.loc[index]
        shown = [
            f"{name} {row[column]:.4g} ± {row[f'{column}_ci95']:.2g}"
            for name, column in zip(names, objective_columns(sweep), strict=True)
        ]
        settings = " ".join(f"{name}={value}" for name, value in _settings(sweep, values))
        label = "best" if index in chosen else "reference"
        own = " (the reference)" if index == REFERENCE and index in chosen else ""
        lines.append(
            f"{label:9} trial {index}{own}: {', '.join(shown)} over {row['images']} images\n          {settings}"
        )
    return "\n".join(lines)


def _lines(sweep: Sweep, ledger: Ledger, table: pd.DataFrame, best: list[FrozenTrial]) -> list[Line]:
    columns = objective_columns(sweep)
    # from the parameters: in the table a field that is null and one that was not searched are both empty
    values = {t.number: sweep.space.values(t.params) for t in ledger.trials() if t.state.is_finished()}
    order = table.sort_values(
        ["images", columns[0]], ascending=[False, sweep.objectives[0].mode == "min"], na_position="last"
    )
    numbers = {trial.number for trial in best}
    return [
        Line(
            number=row["number"],
            state=row["state"],
            objectives=[(_value(row[column]), _margin(row[f"{column}_ci95"]), row[column]) for column in columns],
            tasks=[(_value(row.get(column)), row.get(column)) for column in _task_columns(sweep)],
            settings=[value for _, value in _settings(sweep, values.get(row["number"], {}))],
            images=row["images"],
            seconds=row["seconds"],
            error=row["error"] or "",
            best=row["number"] in numbers,
            reference=row["reference"],
        )
        for row in order.to_dict("records")
    ]


def _task_columns(sweep: Sweep) -> list[str]:
    """Return the columns per task that say more than the objectives: of several tasks, or of a weighted sum."""
    names = dict.fromkeys(name for objective in sweep.objectives for name in objective.weights)
    columns = [f"{task}.{name}" for task in sweep.config.tasks for name in names]
    return columns if len(columns) > len(sweep.objectives) else []


def _value(value: Any) -> str:
    return "–" if pd.isna(value) else number(value, None if abs(value) < 1 else 2)


def _margin(value: float) -> str:
    return "" if pd.isna(value) else f"± {number(value, None)}"


def _settings(sweep: Sweep, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the searched fields in words, a dash for one that was not searched in this trial."""
    fields = [dimension.field for dimension in sweep.space.dimensions]
    return [(field, _short(values[field]) if field in values else "–") for field in fields]


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_short(each) for each in value) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "null" if value is None else str(value)


def _provenance(run: RunFolder) -> list[tuple[str, Any]]:
    return list(run.read_json("provenance.json").items())
