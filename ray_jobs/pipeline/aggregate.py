"""What follows the last batch: files in order, tables and report."""

from __future__ import annotations

from ipsolve.report import console_table, open_run, write_report
from ipsolve.results import RunFolder
from ipsolve.summary import write_summary
from ray_jobs.pipeline.isolation import one_line
from ray_jobs.pipeline.plan import Plan
from ray_jobs.pipeline.upkeep import compact, tidy


def aggregate(run: RunFolder, plan: Plan) -> tuple[str, list[str]]:
    """Compact the files, write tables and report; return the table for a terminal, and notes."""
    experiment = plan.experiment
    image_ids = set(experiment.image_ids)
    notes = tidy(run, plan.cells, image_ids)
    compact(run, plan.cells)
    pairs = list(dict.fromkeys((cell.task, cell.solver) for cell in experiment.cells))
    summary = write_summary(run, pairs, experiment.config.baseline, image_ids)
    view = open_run(run, summary, image_ids)
    try:
        write_report(view)
    except Exception as error:  # the numbers are on disk, and a figure must not fail the run
        notes.append(f"no report: {one_line(error)}")
    return console_table(view), notes


def where_things_are(run: RunFolder, location: str, tracking: str) -> str:
    """Return the places of what a run leaves behind."""
    report = f"{location}/report.html" if run.exists("report.html") else "none"
    tables = f"{location}/summary.csv, comparisons.csv"
    return f"report   {report}\nParquet  {location}/results\ntables   {tables}\nMLflow   {tracking}"
