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
from tuning.ledger import DIVERGED, Ledger, state_of
from tuning.outcome import best_trials, objective_columns
from tuning.problem import Scores
from tuning.request import Sweep

if TYPE_CHECKING:
    from mlflow.entities import Metric

ARTIFACTS = ("report.html", "trials.csv", "best.yaml", "config.yaml", "provenance.json")


def send(run: RunFolder, sweep: Sweep, ledger: Ledger, scores: Scores, table: pd.DataFrame) -> str:
    """Send a sweep as far as it is; return where it is, or one line on why it is not there."""
    try:
        return twice(lambda: _send(run, sweep, ledger, scores, table))
    except Exception as error:  # tracking never costs a result, whatever a server or its client does
        return f"not sent ({one_line(error)}); the same command sends it later"


def _send(run: RunFolder, sweep: Sweep, ledger: Ledger, scores: Scores, table: pd.DataFrame) -> str:
    from mlflow.entities import Metric

    config = dataclasses.asdict(sweep.config)
    uri, artifacts = store_of(run, config)
    client = client_of(uri)
    experiment_id = experiment_of(client, sweep.config.tracking.experiment, artifacts)
    memory = Memory(run, store_name(config, experiment_id), experiment_id)
    identity = sweep.identity()
    tags = {"kind": "sweep", "num_trials": str(len(table)), "algorithm": sweep.config.search.algorithm}
    finished = [trial for trial in ledger.trials() if trial.state.is_finished()]
    # of the run as well as of its trials: the first of them waits for a cluster, and the last one for the tables
    start, end = run_span(run.read_json("provenance.json"))
    began = min([*([start] if start else []), *map(_start, finished)], default=None)
    end = max([end, *map(_end, finished)])
    parent = memory.run_of(client, f"sweep/{digest(identity)}", sweep.config.name, tags, began)
    memory.remember_parent(parent)
    shared = {**flat("data", sweep.config.data), **flat("prior", sweep.config.prior)}
    fixed = {"scheduler": sweep.scheduler, "rungs": sweep.config.search.rungs, "tasks": list(sweep.config.tasks)}
    described = shared | fixed | flat("solver", sweep.config.solver) | flat("space", sweep.config.space)
    best = best_trials(sweep, ledger)
    ids: dict[int, str] = {}
    rows = table.set_index("number")
    for trial in finished:
        tags = {"mlflow.parentRunId": parent, "state": state_of(trial), "reference": str(trial.number == 0).lower()}
        tags |= {"best": str(trial.number in [each.number for each in best]).lower()}
        tags |= {"error": trial.user_attrs["error"]} if "error" in trial.user_attrs else {}
        child = memory.run_of(client, f"trial/{trial.number}/{parent}", f"trial {trial.number}", tags, _start(trial))
        ids[trial.number] = child
        fields = sweep.space.values(trial.params)
        parameters = shared | sweep.config.solver | fields | {"number": trial.number}
        metrics = _metrics(sweep, trial, scores, rows.loc[trial.number], _end(trial))
        log(client, child, parameters, metrics)
        client.set_terminated(child, "FAILED" if state_of(trial) == DIVERGED else "FINISHED", _end(trial))
    client.set_tag(parent, "best_trial", ", ".join(str(trial.number) for trial in best))
    client.set_tag(parent, "best_run", ", ".join(ids[trial.number] for trial in best))
    objective = best and len(sweep.objectives) == 1
    # at the end of the last trial, which stays the same when a finished sweep is sent again
    last = max(map(_end, finished), default=0)
    metrics = [Metric("objective", best[0].values[0], last, 0)] if objective else []
    # what broke off goes on with the same command, and is sent again then
    log(client, parent, described, metrics)
    client.set_terminated(parent, "KILLED" if ledger.missing() else "FINISHED", end or None)
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(run.exists, ARTIFACTS):
            Path(folder, name).write_bytes(Path(run.path(name)).read_bytes())
        client.log_artifacts(parent, folder)
    place = f"{uri}, experiment {sweep.config.tracking.experiment!r}, run {parent}"
    return redact("\n".join([place, *links([Shown.of(run, config)])]))


def _metrics(sweep: Sweep, trial: FrozenTrial, scores: Scores, row: pd.Series, end: int) -> list[Metric]:
    """Return the objectives of a trial after each rung, the step being the number of images, at the last of them each
    column of an objective per task, and what the trial cost."""
    from mlflow.entities import Metric

    fields, images = sweep.space.values(trial.params), int(row["images"])
    rungs = [n for n in sweep.config.search.rungs if n < images or (n == images and state_of(trial) != DIVERGED)]
    found = [
        # the same number at the same time is the same row in MLflow: sending twice leaves one
        Metric(name, float(values.mean()), end, n)
        for n in rungs
        for name, values in zip(objective_columns(sweep), scores.objectives(fields, n), strict=True)
    ]
    columns = dict.fromkeys(name for objective in sweep.objectives for name in objective.weights)
    per_task = {key: row.get(key, math.nan) for key in (f"{t}.{name}" for t in sweep.config.tasks for name in columns)}
    found += [Metric(key, float(value), end, images) for key, value in per_task.items() if math.isfinite(value)]
    return [*found, Metric("images", images, end, 0), Metric("seconds", float(row["seconds"]), end, 0)]


def _start(trial: FrozenTrial) -> int:
    """Return when a trial was begun last, in milliseconds; one of an interrupted sweep is begun again."""
    return int(trial.user_attrs["start"] * 1000)


def _end(trial: FrozenTrial) -> int:
    assert trial.datetime_complete is not None, "of a finished trial"
    return int(trial.datetime_complete.timestamp() * 1000)
