"""What the report of a posterior run shows, gathered once from its files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset as pds
import yaml
from numpy.typing import NDArray

from ipsolve.posterior.config import PosteriorConfig
from ipsolve.posterior.experiment import EXACT, PosteriorExperiment
from ipsolve.posterior.results import SAMPLE_METRICS, shown_points
from ipsolve.posterior.summary import read_rows, summarise
from ipsolve.report.view import read_text
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build
from ipsolve.runs.results import RESULTS, RunFolder
from ipsolve.runs.summary import Pairs, Summary, compare, read_failures, write_tables


@dataclass(frozen=True)
class PosteriorView:
    """A posterior run as its report sees it."""

    run: RunFolder
    experiment: PosteriorExperiment
    config_text: str
    provenance: dict[str, Any]
    summary: pd.DataFrame
    comparisons: pd.DataFrame
    rows: pd.DataFrame
    failures: pd.DataFrame
    unranked: Collection[str] = (EXACT,)

    @property
    def config(self) -> PosteriorConfig:
        return self.experiment.config

    @cached_property
    def pairs(self) -> Pairs:
        """The paired differences between any two solvers."""
        return Pairs(self.rows, SAMPLE_METRICS)

    @property
    def tasks(self) -> list[str]:
        """The sets of problems that have something to show, in the order of the configuration."""
        return list(dict.fromkeys(self.summary["task"]))

    @property
    def solvers(self) -> list[str]:
        """The solvers that have something to show, in the order of the configuration, the floor first."""
        shown = set(self.summary["solver"])
        return [name for name in (EXACT, *self.config.solvers) if name in shown]

    def label(self, solver: str) -> str:
        """Return a solver's name for a table or figure; it says where a sample is not a run of its own."""
        if solver == EXACT:
            return f"{EXACT} (floor)"
        keeps_all = self.experiment.entries[solver].sampling.keep == "all"
        return f"{solver} (all particles)" if keeps_all else solver

    def points(self, task: str, solver: str, problem: str) -> NDArray[np.float32]:
        """Return samples of a problem to look at, the first two coordinates of at most 200, (n, 2)."""
        files = self.run.files(RESULTS, f"task={task}", f"solver={solver}")
        if not files:
            return np.zeros((0, 2), np.float32)
        wanted = (pc.field("image_id") == problem) & (pc.field("seed") == self.config.seeds[0])
        table = pds.dataset(files, format="parquet", filesystem=self.run.filesystem).to_table(["shown"], filter=wanted)
        return shown_points(table["shown"][0].as_py() if len(table) else [])


def open_run(location: RunFolder | str, experiment: PosteriorExperiment | None = None) -> PosteriorView:
    """Read a posterior run, and write its ``summary.csv`` and ``comparisons.csv``.

    Args:
        experiment: what was asked for; that of ``config.yaml`` if left out.

    Raises:
        RequestError: there is no such run, or it holds no result.
    """
    run = location if isinstance(location, RunFolder) else RunFolder(location)
    text = read_text(run, "config.yaml")
    if experiment is None:
        experiment = PosteriorExperiment.of(build(PosteriorConfig, yaml.safe_load(text), "config.yaml"))
    ids = set(experiment.image_ids)
    rows, failures = read_rows(run, ids), read_failures(run, ids)
    if rows.empty and failures.empty:
        raise RequestError(run.location, f"this run has no results yet (nothing under {RESULTS}/)")
    cells = list(dict.fromkeys((cell.task, cell.solver) for cell in experiment.all_cells))
    how = {"one": "one draw per run", "all": "all particles"}
    sampling = {name: how[entry.sampling.keep] for name, entry in experiment.entries.items()} | {EXACT: EXACT}
    solvers = [cell for cell in cells if cell[1] != EXACT]
    summary = summarise(rows, failures, cells, sampling)
    comparisons = compare(rows, experiment.config.baseline, solvers, SAMPLE_METRICS)
    write_tables(run, Summary(summary, comparisons))
    return PosteriorView(run, experiment, text, run.read_json("provenance.json"), summary, comparisons, rows, failures)
