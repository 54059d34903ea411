"""What follows the last batch: files in order, what they lack, and where everything is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from ipsolve.files.filesystems import join
from ipsolve.runs.cells import Cell, Grid
from ipsolve.runs.results import RunFolder
from ray_jobs.pipeline.folder.index import RunIndex
from ray_jobs.pipeline.folder.tidy import COMPACT_BYTES, tidy


def put_in_order(index: RunIndex, experiment: Grid) -> list[str]:
    """Gather the small files of a finished run into few; return notes."""
    notes = tidy(index, experiment.all_cells, set(experiment.image_ids))
    index.compact(COMPACT_BYTES)
    return notes


def gaps(index: RunIndex, cells: Iterable[Cell], columns: Mapping[str, str], absent: Collection[str]) -> list[str]:
    """Return a line for each cell and metric that some of its rows lack: a mean of it is of fewer images than ``n``.

    Rows that were solved without a metric, or where its weights were absent, stay so: nothing is solved again for it.

    Args:
        columns: of the results, by the metric that is made of them.
        absent: the metrics that cannot be computed here. Where no row has one, that is known already.
    """
    metrics: dict[str, list[str]] = defaultdict(list)
    for name, column in columns.items():
        metrics[column].append(name)
    lines = []
    for column, names in metrics.items():
        lacking = index.lacking(column)
        for cell in cells:
            lack, rows = lacking.get(cell.hash, (0, 0))
            if lack and (lack < rows or not set(names) & set(absent)):
                lines.append(
                    f"{', '.join(names)}: {lack} of {rows} rows of {cell} lack it (not asked for, or its weights "
                    "absent when they were solved); a run of another name solves all with it"
                )
    return lines


def where_things_are(run: RunFolder, location: str, tracking: str) -> str:
    """Return the places of what a run leaves behind."""
    report = join(location, "report.html") if run.exists("report.html") else "none"
    tables = f"{join(location, 'summary.csv')}, comparisons.csv"
    return f"report   {report}\nParquet  {join(location, 'results')}\ntables   {tables}\nMLflow   {tracking}"
