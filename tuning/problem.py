"""What every trial is measured on, and how far a trial has been measured.

The rows of a trial are kept per image, in ``images/<cell>/<batch>.parquet`` under the cell hash of its settings. They
are the durable part of a sweep: whoever holds the same settings again (a trial that is started again after its driver
died, one that draws the same point) finds them, and no image is solved twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from ipsolve.runs.cells import Cell
from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import COUNTS, RunFolder, image_metrics
from ipsolve.solvers import parse_solver
from ray_jobs.pipeline.folder.batches import file_name
from tuning.objective import Objective

TRIAL = "trial"  # the name of the solver in the cells of all trials: their hash is of settings alone
IMAGES = "images"
Fields = Mapping[str, Any]


def _scalars() -> list[str]:
    """Return the columns of a trial's rows: those of results but for pictures and features."""
    return ["image_id", *image_metrics(), "consistency", *COUNTS, "seconds"]


@dataclass(frozen=True)
class Problem:
    """What every trial is measured on.

    Args:
        experiment: the tasks, the prior and the metrics.
        fixed: the solver's name and the fields that are not searched.
        reference: the searched fields of trial 0.
        rungs: numbers of images after which a trial reports.
        image_ids: in the order in which every trial sees them; the last rung of them.
        images: (N, H, W, 3) uint8.
        captions, negative_captions: the words that they come with, by image id, where any are asked for.
    """

    experiment: Experiment
    fixed: Fields
    reference: Fields
    objectives: tuple[Objective, ...]
    rungs: tuple[int, ...]
    image_ids: tuple[str, ...]
    images: Tensor
    captions: Mapping[str, str] = field(default_factory=dict)
    negative_captions: Mapping[str, str] = field(default_factory=dict)

    def trial(self, fields: Fields) -> Experiment:
        """Return the experiment of a trial: the same but for the solver."""
        return dataclasses.replace(self.experiment, solvers={TRIAL: parse_solver({**self.fixed, **fields})})


class Scores:
    """The rows of trials, and their objectives."""

    def __init__(self, problem: Problem, run: RunFolder) -> None:
        self.problem = problem
        self.run = run

    def save(self, cell: Cell, rows: pa.Table) -> None:
        """Keep the rows of a batch, without its pictures."""
        name = file_name(cell.hash, rows["image_id"].to_pylist())
        self.run.write_table(self.run.path(IMAGES, cell.hash, name), rows.select(_scalars()))

    def rows(self, cell: Cell) -> pd.DataFrame:
        """Return the rows of a cell by image id, in the order of the images."""
        tables = []
        for path in self.run.files(IMAGES, cell.hash):
            with self.run.filesystem.open_input_file(path) as file:
                tables.append(pq.read_table(file).to_pandas())
        if not tables:
            return pd.DataFrame(columns=_scalars()[1:])
        table = pd.concat(tables).drop_duplicates("image_id").set_index("image_id")
        return table.reindex([name for name in self.problem.image_ids if name in table.index])

    def rows_by_task(self, fields: Fields, n: int) -> dict[str, pd.DataFrame]:
        """Return the rows of a trial on the first ``n`` images, by task."""
        ids = self.problem.image_ids[:n]
        tables = {cell.task: self.rows(cell) for cell in self.problem.trial(fields).cells}
        return {task: table[table.index.isin(ids)] for task, table in tables.items()}

    def done(self, rows: Mapping[str, pd.DataFrame]) -> int:
        """Return how many images, from the first on, have a row in every task."""
        ids = self.problem.image_ids
        missing = (i for i, name in enumerate(ids) if any(name not in table.index for table in rows.values()))
        return next(missing, len(ids))

    def objectives(self, fields: Fields, n: int) -> list[pd.Series]:
        """Return each objective by image, on the first ``n`` images; for several tasks in units of the reference."""
        rows = self.rows_by_task(fields, n)
        reference = self._scale(fields) if len(rows) > 1 else None
        return [objective.per_image(rows, reference) for objective in self.problem.objectives]

    def _scale(self, fields: Fields) -> dict[str, pd.DataFrame] | None:
        """Return the rows of the reference; None where it diverged, and objectives stay in their own units."""
        tables = self.rows_by_task(self.problem.reference, len(self.problem.image_ids))
        complete = all(len(table) == len(self.problem.image_ids) for table in tables.values())
        return tables if complete or fields == self.problem.reference else None


@dataclass(frozen=True)
class Report:
    """How far a trial is: its objectives over the first images, or why it has none.

    Args:
        note: what its user should know of how it was done.
    """

    images: int
    values: tuple[float, ...]
    error: str | None = None
    note: str = ""

    @classmethod
    def of(cls, scores: Scores, fields: Fields, n: int) -> Report:
        """Return the report on the first ``n`` images, whose rows are there."""
        found = scores.objectives(fields, n)
        for objective, series in zip(scores.problem.objectives, found, strict=True):
            bad = series[~np.isfinite(series)]  # a mean would leave out what is NaN
            if len(bad):
                return cls(n, (), f"{objective.name} of image {bad.index[0]} is {bad.iloc[0]}")
        return cls(n, tuple(float(series.mean()) for series in found))
