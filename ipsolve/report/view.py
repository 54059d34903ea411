"""What a report shows, gathered once from the files of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import pandas as pd
import yaml

from ipsolve.citation import Citation
from ipsolve.metrics import Asked, headline_of, names_of
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import build
from ipsolve.runs.citations import citations
from ipsolve.runs.config import Config, Published, RunConfig, load_published
from ipsolve.runs.ranks import Ranking, ranking
from ipsolve.runs.results import RESULTS, RunFolder, image_metrics
from ipsolve.runs.summary import (
    Cell,
    Pairs,
    Summary,
    exact_images,
    higher_is_better,
    read_failures,
    read_rows,
    write_summary,
)


class TableView(Protocol):
    """What tables, figures and pages of every kind of run are made from."""

    @property
    def unranked(self) -> Collection[str]:
        """Lines of a table that are no rivals, such as a floor."""

    @property
    def config(self) -> RunConfig: ...
    @property
    def config_text(self) -> str: ...
    @property
    def provenance(self) -> dict[str, Any]: ...
    @property
    def summary(self) -> pd.DataFrame: ...
    @property
    def comparisons(self) -> pd.DataFrame: ...
    @property
    def failures(self) -> pd.DataFrame: ...
    @property
    def pairs(self) -> Pairs: ...
    @property
    def tasks(self) -> list[str]: ...
    @property
    def solvers(self) -> list[str]: ...


@dataclass(frozen=True)
class RunView:
    """A run as a report sees it: its configuration, its tables, and where its images are."""

    run: RunFolder
    config: Config
    asked: Asked
    config_text: str
    provenance: dict[str, Any]
    summary: pd.DataFrame
    comparisons: pd.DataFrame
    rows: pd.DataFrame
    failures: pd.DataFrame
    published: Published | None
    notes: list[str]  # what could not be shown, and why
    unranked: Collection[str] = ()

    @cached_property
    def pairs(self) -> Pairs:
        """The paired differences between any two solvers."""
        return Pairs(self.rows)

    @property
    def tasks(self) -> list[str]:
        """The tasks that have something to show, in the order of the configuration."""
        return list(dict.fromkeys(self.summary["task"]))

    @property
    def solvers(self) -> list[str]:
        """The solvers that have something to show, in the order of the configuration."""
        shown = set(self.summary["solver"])
        return [name for name in self.config.solvers if name in shown]

    @property
    def headline(self) -> str | None:
        """The metric of images that the run is read by; None where none was asked for."""
        return headline_of(self.config.metrics, self.config.headline)

    @cached_property
    def ranking(self) -> Ranking | None:
        """The solvers by their ranks over the tasks in the headline metric."""
        return None if self.headline is None else ranking(self.rows, self.headline)

    @cached_property
    def citations(self) -> list[Citation]:
        """What the run uses that was published."""
        return citations(dataclasses.asdict(self.config))

    def absent_metrics(self) -> dict[str, str]:
        """Return why each requested metric has no value in this run, and how to get it."""
        names = names_of(self.config.metrics)
        return {name: self._why_absent(name) for name in names if self.summary[name].isna().all()}

    def _why_absent(self, name: str) -> str:
        sets = self.asked.sets
        source = self.asked.features[sets[name].features] if name in sets else self.asked.images[name]
        try:
            reason = source.unavailable()
        except RequestError as error:
            reason = str(error)
        if reason is None and name in sets and self.summary["n"].max() < 2:
            reason = "a distance between sets needs at least two images"
        return reason or "it can be computed here, but was not when these results were written; solve them anew"


def open_run(
    location: RunFolder | str, summary: Summary | None = None, image_ids: Collection[str] | None = None
) -> RunView:
    """Read a run, and compute its summary if it is not given.

    Raises:
        RequestError: there is no such run, or it holds no result.
    """
    run = location if isinstance(location, RunFolder) else RunFolder(location)
    if not run.exists("config.yaml"):
        raise RequestError(
            run.location, "not a run folder (no config.yaml); allowed: a folder written by ray_jobs.evaluate"
        )
    text = read_text(run, "config.yaml")
    config = build(Config, yaml.safe_load(text), "config.yaml")
    rows, failures = read_rows(run, image_ids), read_failures(run, image_ids)
    cells: list[Cell] = [(task, solver) for task in config.tasks for solver in config.solvers]
    planned = pd.Index(cells)
    rows = rows[pd.MultiIndex.from_frame(rows[["task", "solver"]]).isin(planned)]
    if rows.empty and failures.empty:
        raise RequestError(run.location, f"this run has no results yet (nothing under {RESULTS}/)")
    asked = Asked.of(config.metrics, config.weights)
    tables = summary or write_summary(run, cells, config.baseline, image_ids, asked.sets.values())
    provenance = run.read_json("provenance.json")
    published, notes = _published(config.published)
    notes += _exact(rows)
    means, differences = tables.summary, tables.comparisons
    return RunView(run, config, asked, text, provenance, means, differences, rows, failures, published, notes)


def _exact(rows: pd.DataFrame) -> list[str]:
    notes = []
    for name in filter(higher_is_better, image_metrics()):
        cells = [f"{n} by {solver} on {task}" for (task, solver), n in exact_images(rows, name).items()]
        what = f"images reproduced exactly, left out of mean {name.upper()} and its differences"
        notes += [f"{what}: {', '.join(cells)}"] if cells else []
    return notes


def _published(path: str | None) -> tuple[Published | None, list[str]]:
    if path is None:
        return None, []
    try:
        return load_published(path), []
    except RequestError as error:  # the run is measured: a table that has moved since costs a note, not the report
        return None, [f"published figures are not shown: {error}"]


def read_text(run: RunFolder, name: str) -> str:
    """Return a text file of a run."""
    return run.read(run.path(name)).decode("utf-8")
