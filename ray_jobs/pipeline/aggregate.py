"""What follows the last batch: files in order, and where everything is."""

from __future__ import annotations

from ipsolve.cells import Grid
from ipsolve.filesystems import join
from ipsolve.results import RunFolder
from ray_jobs.pipeline.upkeep import compact, tidy


def put_in_order(run: RunFolder, experiment: Grid) -> list[str]:
    """Gather the small files of a finished run into few; return notes."""
    notes = tidy(run, experiment.all_cells, set(experiment.image_ids))
    compact(run)
    return notes


def where_things_are(run: RunFolder, location: str, tracking: str) -> str:
    """Return the places of what a run leaves behind."""
    report = join(location, "report.html") if run.exists("report.html") else "none"
    tables = f"{join(location, 'summary.csv')}, comparisons.csv"
    return f"report   {report}\nParquet  {join(location, 'results')}\ntables   {tables}\nMLflow   {tracking}"
