"""What a person sees first of a run in MLflow: its headline numbers, a table, the command, who and whence."""

from __future__ import annotations

import getpass
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ipsolve.metrics import METRICS, headline_of
from ipsolve.runs.results import RunFolder, image_metrics
from ipsolve.runs.summary import set_metrics
from ipsolve.solvers import SOLVERS

Row = Mapping[str, str]  # a line of summary.csv
MAX_NOTE = 7500  # characters of a description; the store of MLflow takes 8,000


def numbers(row: Row) -> dict[str, float]:
    """Return the finite numbers of a line of ``summary.csv``: MLflow's databases have no infinity."""
    words = ("task", "solver", "sampling")
    found = {name: float(value) for name, value in row.items() if name not in words and value}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def infinite(row: Row) -> dict[str, str]:
    """Return a tag that names the infinite numbers of a line, such as the PSNR of perfect reconstructions."""
    names = [name for name, value in row.items() if value in ("inf", "-inf")]
    return {"infinite": ", ".join(names)} if names else {}


def headline_in(config: Mapping[str, Any]) -> str | None:
    """Return the metric of images that a run is read by; None where it has no such."""
    return headline_of(config.get("metrics", []), config.get("headline"))


def best_of(rows: Sequence[Row], task: str, headline: str) -> Row | None:
    """Return the line of a task that is best by the headline metric, None if no line has it."""
    sign = 1 if METRICS[headline].higher_is_better else -1
    having = [row for row in rows if row["task"] == task and headline in numbers(row)]
    return max(having, key=lambda row: sign * numbers(row)[headline], default=None)


def totals(rows: Sequence[Row], config: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """Return the metrics and the tags of a whole run: how much, how long, and per task the baseline and the best."""
    metrics = {name: sum(float(row[name]) for row in rows) for name in ("n", "failed")}
    seconds = [float(row["n"]) * numbers(row).get("seconds_per_image", 0.0) for row in rows]
    if any(seconds):
        metrics["seconds"] = sum(seconds)
    tags: dict[str, str] = {}
    headline = headline_in(config)
    if headline is None:
        return metrics, tags
    tags["headline"] = headline
    for task in dict.fromkeys(row["task"] for row in rows):
        for row in rows:
            if row["task"] == task and row["solver"] == config.get("baseline") and headline in numbers(row):
                metrics[f"{task}/{headline}_baseline"] = numbers(row)[headline]
        best = best_of(rows, task, headline)
        if best is not None:
            metrics[f"{task}/{headline}_best"] = numbers(best)[headline]
            tags[f"best.{task}"] = best["solver"]
    return metrics, tags


def origin_tags(run: RunFolder, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return tags that fill the columns source, user and version of MLflow, and those for prior, data and git state."""
    job = provenance.get("ray_job_id")
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.name": f"python -m {module_of(config)}",
        "mlflow.source.type": "JOB" if job else "LOCAL",
        "mlflow.source.git.commit": str(provenance.get("git_commit")),
        "git_dirty": str(provenance.get("git_dirty")).lower(),
        "folder": run.location,
    }
    tags |= {"ray_job_id": str(job)} if job else {}
    tags |= {"prior": prior_of(config)} if "prior" in config else {}
    return tags | ({"data": str(config["data"].get("source"))} if "data" in config else {})


def cell_tags(config: Mapping[str, Any], row: Row) -> dict[str, str]:
    """Return the tags of a (task, solver) by which runs are filtered and grouped."""
    tags = {"task": row["task"], "solver": row["solver"]}
    tags |= {"prior": prior_of(config)} if "prior" in config else {}
    given = config["solvers"].get(row["solver"])
    return tags | ({"preset": preset_of(given)} if given else {}) | infinite(row)


def prior_of(config: Mapping[str, Any]) -> str:
    """Return a prior in a word: where it lies, else its kind."""
    return str(config["prior"].get("path") or config["prior"].get("prior"))


def preset_of(solver: Mapping[str, Any]) -> str:
    """Return the preset that a solver's fields agree with; ``default`` or ``custom`` if there is none such."""
    cls = SOLVERS[solver["solver"]] if solver.get("solver") in SOLVERS else None
    if cls is None:
        return "custom"
    fields = {name: value for name, value in solver.items() if name not in ("solver", "preset")}
    try:
        candidates = {"default": cls(), **{name: cls(**values) for name, values in cls.PRESETS.items()}}
        own = cls(**fields)
    except (TypeError, ValueError):  # a field has no default
        return "custom"
    return next((name for name, candidate in candidates.items() if candidate == own), "custom")


def module_of(config: Mapping[str, Any]) -> str:
    """Return the command that makes such a run."""
    return "ray_jobs.posterior" if "problems" in config else "ray_jobs.evaluate"


def description(run: RunFolder, config: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the description of a run in Markdown: the summary, shortened to baseline and best if it is too long."""
    command = shlex.join(["python", "-m", module_of(config), run.address("config.yaml")])
    ending = f"\n\nAgain, or to go on with it: `{command}`. ± is the half width of a 95% interval over images."
    headline = headline_in(config)
    shown = [row for row in rows if headline and _stands_out(row, rows, config, headline)]
    for chosen, remark in ((rows, ""), (shown, "Baseline and best of each task; all are in summary.csv.\n\n")):
        text = f"{remark}{_table(chosen)}{ending}"
        if chosen and len(text) <= MAX_NOTE:
            return text
    return f"{len(rows)} pairs of task and solver: see summary.csv and report.html among the artifacts.{ending}"


def _stands_out(row: Row, rows: Sequence[Row], config: Mapping[str, Any], headline: str) -> bool:
    return row["solver"] == config.get("baseline") or row is best_of(rows, row["task"], headline)


def _table(rows: Sequence[Row]) -> str:
    every = (*image_metrics(), *set_metrics(), "consistency", "seconds_per_image")
    columns = [name for name in every if any(row.get(name) for row in rows)]
    titles = ["s/image" if name == "seconds_per_image" else name for name in columns]
    lines = [["task", "solver", "n", "failed", *titles], ["---", "---", *["---:"] * (2 + len(columns))]]
    lines += [[row["task"], row["solver"], row["n"], row["failed"], *(_entry(row, c) for c in columns)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _entry(row: Row, column: str) -> str:
    if not row.get(column):
        return ""
    width = row.get(f"{column}_ci95")
    # no-break spaces: MLflow's page is narrow, and breaks a figure into three lines
    return f"{float(row[column]):.4g}" + (f"\u00a0±\u00a0{float(width):.2g}" if width else "")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user id has no name
        return "unknown"
