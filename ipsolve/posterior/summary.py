"""The tables of a posterior run: a row per set of problems and solver; means over problems with 95% intervals."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pandas as pd

from ipsolve.posterior.results import SAMPLE_METRICS, SAMPLE_SCHEMA
from ipsolve.runs.results import COUNTS, RunFolder
from ipsolve.runs.statistics import mean_interval
from ipsolve.runs.summary import Cell, planned

SCALARS = ("image_id", "task", "solver", "seed", *SAMPLE_METRICS, *COUNTS, "seconds", "num_samples", "num_runs")
COSTS = (*COUNTS, "seconds")
SUMMARY_COLUMNS = (
    *("task", "solver", "sampling", "n", "failed"),
    *(column for name in SAMPLE_METRICS for column in (name, f"{name}_ci95")),
    *(f"{name}_per_run" for name in COSTS),
    *("num_samples", "num_runs"),
)


def read_rows(run: RunFolder, ids: Collection[str]) -> pd.DataFrame:
    """Return the scalar columns of the results, a row per (task, solver, seed, problem) of the problems ``ids``."""
    return planned(run.results(SCALARS, schema=SAMPLE_SCHEMA), ids).to_pandas()


def summarise(
    rows: pd.DataFrame, failures: pd.DataFrame, cells: Iterable[Cell], sampling: Mapping[str, str]
) -> pd.DataFrame:
    """Return ``summary.csv``: means over problems (seeds of a problem averaged first) with half widths of intervals.

    Args:
        rows: as :func:`read_rows` returns them.
        failures: one row per (task, solver, seed, problem) that has no result.
        cells: the (task, solver) pairs in their order; one with neither a result nor a failure is left out.
        sampling: by solver, how its samples were made.
    """
    scalars = [*SAMPLE_METRICS, *COSTS, "num_samples", "num_runs"]
    problems = dict(
        list(rows.groupby(["task", "solver", "image_id"])[scalars].mean().groupby(level=["task", "solver"]))
    )
    failed_rows = failures.groupby(["task", "solver"]).size().to_dict()
    nothing = pd.DataFrame(columns=scalars, dtype=float)
    table = []
    for cell in cells:
        values, failed = problems.get(cell, nothing), failed_rows.get(cell, 0)
        if values.empty and not failed:
            continue
        task, solver = cell
        line: dict[str, Any] = {"task": task, "solver": solver, "sampling": sampling[solver]}
        line |= {"n": len(values), "failed": failed}
        for name in SAMPLE_METRICS:
            line[name], line[f"{name}_ci95"], _ = mean_interval(values[name])
        line |= {f"{name}_per_run": values[name].mean() for name in COSTS}
        line |= {name: values[name].mean() for name in ("num_samples", "num_runs")}
        table.append(line)
    return pd.DataFrame(table, columns=list(SUMMARY_COLUMNS))
