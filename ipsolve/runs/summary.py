"""The tables of a run: a row per task and solver with intervals, and paired comparisons with the baseline."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ipsolve.metrics import FEATURES, METRICS, SET_METRICS, SetMetric
from ipsolve.runs.results import COUNTS, RunFolder, image_metrics
from ipsolve.runs.statistics import PairedDifference, mean_interval, paired_difference, without_exact

COMPARISON_COLUMNS = (*("task", "metric", "solver", "baseline", "difference", "ci95_low", "ci95_high", "p_value", "n"),)
Cell = tuple[str, str]  # task, solver
_SETS = ("fid", "kid", "fd_prior")  # first among the metrics of sets


@dataclass(frozen=True)
class Summary:
    """The contents of ``summary.csv`` and ``comparisons.csv``."""

    summary: pd.DataFrame
    comparisons: pd.DataFrame


def set_metrics() -> tuple[str, ...]:
    """Return the names of all metrics of sets, in the order of the tables."""
    return (*_SETS, *sorted(set(SET_METRICS) - {*_SETS}))


def summary_columns() -> list[str]:
    """Return the columns of ``summary.csv``: those of every metric that is registered."""
    of_images = [column for name in image_metrics() for column in (name, f"{name}_ci95")]
    of_sets = [column for name in set_metrics() for column in ((name, "fid_n") if name == "fid" else (name,))]
    ends = ["consistency", "denoiser_calls", "seconds_per_image"]
    return ["task", "solver", "n", "failed", *of_images, *of_sets, *ends]


def write_summary(
    location: RunFolder | str | Path,
    cells: Iterable[Cell] | None = None,
    baseline: str | None = None,
    image_ids: Collection[str] | None = None,
    sets: Collection[SetMetric] = (),
) -> Summary:
    """Write ``summary.csv`` and ``comparisons.csv`` of a run and return their contents.

    Args:
        location: the run.
        cells: the (task, solver) pairs of the present plan, in the order of the tables; all in the files if left out.
        baseline: the solver that the others are compared with; none, no comparisons.
        image_ids: the images of the present plan; all in the files if left out.
        sets: metrics of sets with settings of their own; the others have their defaults.
    """
    run = location if isinstance(location, RunFolder) else RunFolder(location)
    rows, failures = read_rows(run, image_ids), read_failures(run, image_ids)
    order = list(cells) if cells is not None else _cells(rows, failures)
    distances = set_distances(run, order, image_ids, sets)
    result = Summary(summarise(rows, failures, distances, order), compare(rows, baseline, order))
    write_tables(run, result)
    return result


def write_tables(run: RunFolder, tables: Summary) -> None:
    """Write ``summary.csv`` and ``comparisons.csv``."""
    for name, table in (("summary.csv", tables.summary), ("comparisons.csv", tables.comparisons)):
        buffer = io.StringIO()
        table.to_csv(buffer, index=False)
        run.write(run.path(name), buffer.getvalue().encode())


def read_tables(run: RunFolder) -> Summary:
    """Return ``summary.csv`` and ``comparisons.csv`` as they are."""
    summary, comparisons = (
        pd.read_csv(io.BytesIO(run.read(run.path(f"{name}.csv")))) for name in Summary.__annotations__
    )
    return Summary(summary, comparisons)


def read_rows(run: RunFolder, image_ids: Collection[str] | None = None) -> pd.DataFrame:
    """Return the scalar columns of the results, a row per (task, solver, seed, image, sample), of the plan only."""
    scalars = ("image_id", "task", "solver", "seed", "sample", *image_metrics(), "consistency", *COUNTS, "seconds")
    return planned(run.results(scalars), image_ids).to_pandas()


def over_samples(rows: pd.DataFrame, key: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Return rows with one for each (*key, seed) in the place of one for each of its samples, their mean.

    Samples of an image share it and its measurement: they are no sample of images.
    """
    if "sample" not in rows or not rows["sample"].any():
        return rows
    return rows.groupby([*key, "seed"], as_index=False)[list(columns)].mean()


def read_failures(run: RunFolder, image_ids: Collection[str] | None = None) -> pd.DataFrame:
    """Return the failures, images of the plan only."""
    return planned(run.failures(), image_ids).to_pandas()


def summarise(
    rows: pd.DataFrame,
    failures: pd.DataFrame,
    distances: dict[Cell, dict[str, float]],
    cells: Iterable[Cell],
) -> pd.DataFrame:
    """Return ``summary.csv``: means over images with half widths of 95% intervals.

    Of an image the samples are averaged first, then the seeds.

    Args:
        rows: as :func:`read_rows` returns them.
        failures: likewise, one row per (task, solver, seed, image) that has no result.
        distances: set metrics by cell, as :func:`set_distances` returns them.
        cells: the rows of the table in their order; a cell with neither a result nor a failure is left out.
    """
    names = image_metrics()
    scalars, key = [*names, "consistency", "denoiser_calls", "seconds"], ["task", "solver", "image_id"]
    means = over_samples(rows, key, scalars).groupby(key)[scalars].mean()
    images = dict(list(means.groupby(level=["task", "solver"])))
    failed_rows = failures.groupby(["task", "solver"]).size().to_dict()
    nothing = pd.DataFrame(columns=scalars, dtype=float)
    table = []
    for cell in cells:
        values, failed = images.get(cell, nothing), failed_rows.get(cell, 0)
        if values.empty and not failed:
            continue
        task, solver = cell
        line: dict[str, Any] = {"task": task, "solver": solver, "n": len(values), "failed": failed}
        for name in names:
            own = without_exact(values[name]) if higher_is_better(name) else values[name]
            line[name], line[f"{name}_ci95"], _ = mean_interval(own)
        line |= distances.get(cell, {})
        line["consistency"] = mean_interval(values["consistency"]).value
        line["denoiser_calls"] = values["denoiser_calls"].mean()
        line["seconds_per_image"] = values["seconds"].mean()
        table.append(line)
    return pd.DataFrame(table, columns=summary_columns()).astype({"fid_n": "Int64"})


def exact_images(rows: pd.DataFrame, metric: str) -> dict[Cell, int]:
    """Return how many images have an infinite value, by cell: reproduced exactly, and left out of the mean."""
    exact = rows[np.isposinf(rows[metric].to_numpy(dtype=float))]
    return {
        (task, solver): int(n) for (task, solver), n in exact.groupby(["task", "solver"])["image_id"].nunique().items()
    }


def compare(
    rows: pd.DataFrame, baseline: str | None, cells: Iterable[Cell], metrics: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return ``comparisons.csv``: solver minus baseline, over the same (image, seed) pairs.

    Args:
        metrics: columns of ``rows``; those of all metrics of images if left out.
    """
    metrics = image_metrics() if metrics is None else metrics
    pairs = Pairs(rows, metrics)
    table = []
    for task, solver in cells:
        if baseline is None or solver == baseline:
            continue
        for metric in metrics:
            found = pairs.difference(task, metric, solver, baseline)
            if found.n:
                table.append((task, metric, solver, baseline, *found))
    return pd.DataFrame(table, columns=list(COMPARISON_COLUMNS))


@dataclass(frozen=True)
class Pairs:
    """The results of all solvers side by side, for paired differences; ``rows`` as :func:`read_rows` returns them."""

    rows: pd.DataFrame
    metrics: Sequence[str] = dataclasses.field(default_factory=image_metrics)

    @cached_property
    def _tasks(self) -> dict[str, pd.DataFrame]:
        # a line per image and seed, columns (metric, solver): sorted once, however many pairs are asked for
        rows = over_samples(self.rows, ["task", "image_id", "solver"], self.metrics)
        wide = rows.set_index(["task", "image_id", "seed", "solver"])[list(self.metrics)].unstack("solver")
        return {task: part.droplevel("task") for task, part in wide.groupby(level="task")}

    @cached_property
    def _known(self) -> dict[tuple[str, str, str, str], PairedDifference]:
        return {}  # the tables, figures and words of a report ask for the same ones

    def difference(self, task: str, metric: str, solver: str, other: str) -> PairedDifference:
        """Return the mean of solver - other over images, from the (image, seed) pairs that both have."""
        key = task, metric, solver, other
        if key not in self._known:
            self._known[key] = self._difference(*key)
        return self._known[key]

    def _difference(self, task: str, metric: str, solver: str, other: str) -> PairedDifference:
        columns = [(metric, solver), (metric, other)]
        if task not in self._tasks or not set(columns) <= set(self._tasks[task].columns):
            return paired_difference([], [])
        both = self._tasks[task][columns].dropna()
        if both.index.get_level_values("image_id").has_duplicates:
            both = both.groupby(level="image_id").mean()
        return paired_difference(both[columns[0]], both[columns[1]])


def set_distances(
    run: RunFolder,
    cells: Iterable[Cell],
    image_ids: Collection[str] | None = None,
    sets: Collection[SetMetric] = (),
) -> dict[Cell, dict[str, float]]:
    """Return ``{cell: {set metric: distance to the truths, fid_n: rows}}``; metrics without features are left out.

    A set of reconstructions has a row per image, seed and sample, the reference set a row per image of the plan.

    Args:
        sets: metrics with settings of their own.
    """
    found: dict[Cell, dict[str, float]] = {cell: {} for cell in cells}
    given = {metric.name for metric in sets}
    every = [*sets, *(SET_METRICS[name]() for name in SET_METRICS if name not in given and _needs_no_settings(name))]
    for feature, extractor in ((name, FEATURES[name]) for name in FEATURES):
        metrics = [metric for metric in every if metric.features == feature]
        truths = run.features(extractor.column, None, image_ids)
        references = {metric.name: metric.reduce(truths) for metric in metrics}
        if truths.count < 2:
            continue
        for cell, line in found.items():
            own = run.features(extractor.column, cell, image_ids)
            reduced = {metric.name: metric.reduce(own) for metric in metrics}
            if own.count < 2:
                continue
            line |= {metric.name: metric.distance(reduced[metric.name], references[metric.name]) for metric in metrics}
            if "fid" in references:
                line["fid_n"] = own.count
    return found


def _needs_no_settings(metric: str) -> bool:
    fields = dataclasses.fields(SET_METRICS[metric])  # type: ignore[arg-type]  # what is registered is a dataclass
    return all({each.default, each.default_factory} != {dataclasses.MISSING} for each in fields)


def planned(table: pa.Table, image_ids: Collection[str] | None) -> pa.Table:
    """Return the rows of the images of the plan; all rows where no plan is given."""
    if image_ids is None:
        return table
    return table.filter(pc.is_in(table["image_id"], pa.array(list(image_ids), pa.string())))


def _cells(*tables: pd.DataFrame) -> list[Cell]:
    both = pd.concat(
        [table[["task", "solver"]] for table in tables if len(table)] or [pd.DataFrame(columns=["task", "solver"])]
    )
    return sorted(both.drop_duplicates().itertuples(index=False, name=None))


def higher_is_better(metric: str) -> bool:
    """Return the direction of an image metric."""
    return METRICS[metric].higher_is_better


def present(value: object) -> bool:
    """Return whether a table entry holds a number (not empty, not NaN)."""
    return isinstance(value, (int, float, np.number)) and not math.isnan(float(value))
