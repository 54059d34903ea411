"""What follows the last batch: files in order, what they lack, and where everything is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

import pyarrow.parquet as pq

from ipsolve.files.filesystems import join
from ipsolve.runs.cells import Cell, Grid
from ipsolve.runs.results import RESULTS, RunFolder, cell_of
from ray_jobs.pipeline.folder.tidy import compact, tidy


def put_in_order(run: RunFolder, experiment: Grid) -> list[str]:
    """Gather the small files of a finished run into few; return notes."""
    notes = tidy(run, experiment.all_cells, set(experiment.image_ids))
    compact(run)
    return notes


def gaps(run: RunFolder, cells: Iterable[Cell], columns: Mapping[str, str], absent: Collection[str]) -> list[str]:
    """Return a line for each cell and metric that some of its rows lack: a mean of it is of fewer images than ``n``.

    Rows that were solved without a metric, or where its weights were absent, stay so: nothing is solved again for it.

    Args:
        columns: of the results, by the metric that is made of them.
        absent: the metrics that cannot be computed here. Where no row has one, that is known already.
    """
    metrics: dict[str, list[str]] = defaultdict(list)
    for name, column in columns.items():
        metrics[column].append(name)
    rows, lacking = Counter[str](), Counter[tuple[str, str]]()
    files = run.files(RESULTS)
    for path, (count, nulls) in zip(files, run.each(lambda path: _nulls(run, path, metrics), files), strict=True):
        rows[cell_of(path)] += count
        lacking.update({(cell_of(path), column): number for column, number in nulls.items()})
    return [
        f"{', '.join(names)}: {lack} of {rows[cell.hash]} rows of {cell} lack it (not asked for, or its weights absent "
        "when they were solved); a run of another name solves all with it"
        for column, names in metrics.items()
        for cell in cells
        if (lack := lacking[cell.hash, column]) and (lack < rows[cell.hash] or not set(names) & set(absent))
    ]


def _nulls(run: RunFolder, path: str, columns: Iterable[str]) -> tuple[int, Counter[str]]:
    """Return the number of rows in a file and of those without a value, by column; only its footer is read."""
    with run.filesystem.open_input_file(path) as file:
        footer = pq.read_metadata(file)
    nulls = Counter[str]()
    for group in map(footer.row_group, range(footer.num_row_groups)):
        leaves = {leaf.path_in_schema.split(".")[0]: leaf for leaf in map(group.column, range(group.num_columns))}
        for column in columns:
            nulls[column] += leaves[column].statistics.null_count if column in leaves else group.num_rows
    return footer.num_rows, nulls


def where_things_are(run: RunFolder, location: str, tracking: str) -> str:
    """Return the places of what a run leaves behind."""
    report = join(location, "report.html") if run.exists("report.html") else "none"
    tables = f"{join(location, 'summary.csv')}, comparisons.csv"
    return f"report   {report}\nParquet  {join(location, 'results')}\ntables   {tables}\nMLflow   {tracking}"
