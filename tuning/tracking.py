"""A sweep in MLflow: a parent run for the sweep, a child run for each trial.

The study and the Parquet files are the record and this is a copy, as for evaluations: sending again updates the same
MLflow runs, and a server that is slow or down costs seconds.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from optuna.trial import FrozenTrial

from ipsolve.evaluation.isolation import one_line
from ipsolve.requests.secrets import redact
from ipsolve.runs.results import RunFolder
from ray_jobs.tracking.links import Shown, links
from ray_jobs.tracking.store import Memory, client_of, digest, experiment_of, flat, log, store_name, store_of, twice
from ray_jobs.tracking.times import run_span
from tuning.ledger import DIVERGED, UNFINISHED, Ledger, state_of
from tuning.outcome import best_trials, objective_columns
from tuning.problem import Scores
from tuning.request import Sweep

if TYPE_CHECKING:
    from mlflow.entities import Metric

ARTIFACTS = ("report.html", "trials.csv", "best.yaml", "config.yaml", "provenance.json")


class Copies:
    """The runs in MLflow of a sweep, found again or made when they are asked for.

    Args:
        run: the folder, whose ``provenance.json`` is written.
        sweep, ledger, scores: what is in it.
    """

    def __init__(self, run: RunFolder, sweep: Sweep, ledger: Ledger, scores: Scores) -> None:
        self.run, self.sweep, self.ledger, self.scores = run, sweep, ledger, scores
        self.config = dataclasses.asdict(sweep.config)
        self.uri, artifacts = store_of(run, self.config)
        self.client = client_of(self.uri)
        self.experiment_id = experiment_of(self.client, sweep.config.tracking.experiment, artifacts)
        self._memory = Memory(run, store_name(self.config, self.experiment_id), self.experiment_id)
        self._shared = {**flat("data", sweep.config.data), **flat("prior", sweep.config.prior)}
        self.parent = ""

    def open_parent(self) -> str:
        """Return the id of the sweep's own run, with its parameters."""
        config, ledger = self.sweep.config, self.ledger
        tags = {"kind": "sweep", "num_trials": str(ledger.num_trials), "algorithm": config.search.algorithm}
        # of the run as well as of its trials: the first of them waits for a cluster
        start, _ = run_span(self.run.read_json("provenance.json"))
        began = min([*([start] if start else []), *map(_start, self._begun())], default=None)
        key = f"sweep/{digest(self.sweep.identity())}"
        self.parent = self._memory.run_of(self.client, key, config.name, tags, began)
        self._memory.remember_parent(self.parent)
        fixed = {"scheduler": self.sweep.scheduler, "rungs": config.search.rungs, "tasks": list(config.tasks)}
        log(self.client, self.parent, {**self._shared, **fixed, **flat("solver", config.solver),
                                       **flat("space", config.space)}, [])  # fmt: skip
        return self.parent

    def _begun(self) -> list[FrozenTrial]:
        return [trial for trial in self.ledger.trials() if "start" in trial.user_attrs]

    def open_trial(self, trial: FrozenTrial) -> str:
        """Return the id of the run of a trial, its state as it is now and its objectives after each rung so far."""
        tags = {"mlflow.parentRunId": self.parent, "state": state_of(trial)}
        tags |= {"reference": str(trial.number == 0).lower()}
        tags |= {"error": trial.user_attrs["error"]} if "error" in trial.user_attrs else {}
        key, name = f"trial/{trial.number}/{self.parent}", f"trial {trial.number}"
        child = self._memory.run_of(self.client, key, name, tags, _start(trial))
        fields = self.sweep.space.values(trial.params)
        log(self.client, child, self._shared | self.sweep.config.solver | fields | {"number": trial.number},
            self._objectives(trial))  # fmt: skip
        return child

    def close_trial(self, trial: FrozenTrial, child: str) -> None:
        """Say how the run of a finished trial ended."""
        self.client.set_terminated(child, "FAILED" if state_of(trial) == DIVERGED else "FINISHED", _end(trial))

    def _objectives(self, trial: FrozenTrial) -> list[Metric]:
        """Return the objectives of a trial after each rung that it has done, the step being the number of images."""
        from mlflow.entities import Metric

        fields, times = self.sweep.space.values(trial.params), dict(trial.user_attrs.get("rungs", {}))
        if state_of(trial) not in (DIVERGED, UNFINISHED):
            times.setdefault(str(trial.user_attrs["images"]), _end(trial) / 1000)
        return [
            # the same number at the same time is the same row in MLflow: sending twice leaves one
            Metric(name, float(values.mean()), round(time * 1000), int(n))
            for n, time in times.items()
            for name, values in zip(objective_columns(self.sweep), self.scores.objectives(fields, int(n)), strict=True)
        ]

    def log_costs(self, trial: FrozenTrial, child: str, row: pd.Series) -> None:
        """Send each column of an objective per task, and what a finished trial cost."""
        from mlflow.entities import Metric

        end, images, config = _end(trial), int(row["images"]), self.sweep.config
        columns = dict.fromkeys(name for objective in self.sweep.objectives for name in objective.weights)
        per_task = {key: row.get(key, math.nan) for key in (f"{t}.{name}" for t in config.tasks for name in columns)}
        found = [Metric(key, float(value), end, images) for key, value in per_task.items() if math.isfinite(value)]
        cost = [Metric("images", images, end, 0), Metric("seconds", float(row["seconds"]), end, 0)]
        log(self.client, child, {}, [*found, *cost])

    def close_unfinished(self) -> None:
        """Say of trials that were at work, and are not any more, that they were broken off."""
        for trial in self._begun():
            if not trial.state.is_finished():
                child = self.open_trial(trial)
                self.client.set_terminated(child, "KILLED", _end(trial))

    def close_parent(self, ids: dict[int, str]) -> None:
        """Send the best of the finished trials, whose runs have ``ids``, and how the sweep ended."""
        from mlflow.entities import Metric

        client, best = self.client, best_trials(self.sweep, self.ledger)
        ends = [_end(trial) for trial in self._begun()]
        for number, child in ids.items():
            client.set_tag(child, "best", str(number in [each.number for each in best]).lower())
        client.set_tag(self.parent, "best_trial", ", ".join(str(trial.number) for trial in best))
        client.set_tag(self.parent, "best_run", ", ".join(ids[trial.number] for trial in best))
        if best and len(self.sweep.objectives) == 1:
            # at the end of the last trial, which stays the same when a finished sweep is sent again
            log(client, self.parent, {}, [Metric("objective", best[0].values[0], max(ends), 0)])
        _, end = run_span(self.run.read_json("provenance.json"))  # after the last trial, for the tables
        # what broke off goes on with the same command, and is sent again then
        client.set_terminated(
            self.parent, "KILLED" if self.ledger.missing() else "FINISHED", max([end, *ends], default=0) or None
        )
        with tempfile.TemporaryDirectory() as folder:
            for name in filter(self.run.exists, ARTIFACTS):
                Path(folder, name).write_bytes(Path(self.run.path(name)).read_bytes())
            client.log_artifacts(self.parent, folder)

    @property
    def place(self) -> str:
        """Where the sweep is, in words, and links to it."""
        where = f"{self.uri}, experiment {self.sweep.config.tracking.experiment!r}, run {self.parent}"
        return redact("\n".join([where, *links([Shown.of(self.run, self.config)])]))


def send(run: RunFolder, sweep: Sweep, ledger: Ledger, scores: Scores, table: pd.DataFrame) -> str:
    """Send a sweep as far as it is; return where it is, or one line on why it is not there."""
    try:
        return twice(lambda: _send(Copies(run, sweep, ledger, scores), table))
    except Exception as error:  # tracking never costs a result, whatever a server or its client does
        return f"not sent ({one_line(error)}); the same command sends it later"


def _send(copies: Copies, table: pd.DataFrame) -> str:
    copies.open_parent()
    ids, rows = dict[int, str](), table.set_index("number")
    for trial in copies.ledger.trials():
        if trial.state.is_finished():
            ids[trial.number] = child = copies.open_trial(trial)
            copies.log_costs(trial, child, rows.loc[trial.number])
            copies.close_trial(trial, child)
    copies.close_unfinished()
    copies.close_parent(ids)
    return copies.place


def _start(trial: FrozenTrial) -> int:
    """Return when a trial was begun last, in milliseconds; one of an interrupted sweep is begun again."""
    return int(trial.user_attrs["start"] * 1000)


def _end(trial: FrozenTrial) -> int:
    """Return when a trial was done, in milliseconds; of one that is not, when it was last heard of."""
    if trial.datetime_complete is not None:
        return int(trial.datetime_complete.timestamp() * 1000)
    return int(max([trial.user_attrs["start"], *trial.user_attrs.get("rungs", {}).values()]) * 1000)
