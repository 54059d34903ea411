"""What a sweep leaves behind: the table of its trials, and a configuration that measures its best on other images."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from optuna.trial import FrozenTrial

from ipsolve.metrics import METRICS
from ipsolve.runs.experiment import Experiment
from ipsolve.runs.results import RunFolder
from ipsolve.runs.statistics import mean_interval, without_exact
from tuning.dimensions import Choice
from tuning.ledger import COMPLETE, DIVERGED, REFERENCE, Ledger, state_of
from tuning.objective import columns
from tuning.problem import Scores
from tuning.request import TUNED, Sweep

MOST_TUNED = 5  # of a Pareto front, in best.yaml


def objective_columns(sweep: Sweep) -> list[str]:
    """Return the columns of the objectives in the table: ``objective``, or ``objective_1`` and ``objective_2``."""
    n = len(sweep.objectives)
    return ["objective"] if n == 1 else [f"objective_{i + 1}" for i in range(n)]


def trial_table(sweep: Sweep, ledger: Ledger, scores: Scores) -> pd.DataFrame:
    """Return a row per trial: number, state, fields, objectives with the half widths of their 95% intervals, ``images``
    (how many it has done of the common order), cost, times, and why it diverged; and per task the mean of every column
    of an objective.

    Cost is the images that a trial ``solved`` itself, and their ``seconds``: rows that it shares with an earlier trial
    at the same point are counted there.
    """
    counted: dict[str, set[str]] = {}
    table = pd.DataFrame([_row(sweep, trial, scores, counted) for trial in ledger.trials()])
    for dimension in sweep.space.dimensions:
        options = dimension.options if isinstance(dimension, Choice) else ()
        if len({type(option) for option in options if option is not None}) > 1:  # a column of Parquet has one type
            table[dimension.field] = table[dimension.field].map(str)
    return table


def _row(sweep: Sweep, trial: FrozenTrial, scores: Scores, counted: dict[str, set[str]]) -> dict[str, Any]:
    state = state_of(trial)
    row: dict[str, Any] = {"number": trial.number, "state": state, "reference": trial.number == REFERENCE}
    row |= {dimension.field: None for dimension in sweep.space.dimensions}
    row |= {f"{name}{end}": np.nan for name in objective_columns(sweep) for end in ("", "_ci95")}
    row |= {"images": 0, "solved": 0, "seconds": 0.0, "start": None, "end": None}
    row["error"] = trial.user_attrs.get("error")
    if not trial.state.is_finished():
        return row
    fields = sweep.space.values(trial.params)
    # one that diverged has its rows up to where it did
    rows = scores.rows_by_task(fields, trial.user_attrs.get("images", len(scores.problem.image_ids)))
    row |= fields
    row["images"] = images = scores.done(rows)
    row |= _cost(rows, {cell.task: counted.setdefault(cell.hash, set()) for cell in scores.problem.trial(fields).cells})
    row["start"] = _time(trial.user_attrs["start"])
    row["end"] = None if trial.datetime_complete is None else trial.datetime_complete.astimezone(UTC).isoformat()
    if state != DIVERGED:
        for name, values in zip(objective_columns(sweep), scores.objectives(fields, images), strict=True):
            row[name], row[f"{name}_ci95"], _ = mean_interval(values)
    for task, table in rows.items():
        for column in dict.fromkeys(name for objective in sweep.objectives for name in objective.weights):
            values = table[columns()[column]].astype(float)
            exact = column in METRICS and METRICS[column].higher_is_better
            row[f"{task}.{column}"] = mean_interval(without_exact(values) if exact else values).value
    return row


def _cost(rows: dict[str, pd.DataFrame], counted: dict[str, set[str]]) -> dict[str, Any]:
    """Return what the rows have cost that no trial before has ``counted``, by task, and count them."""
    own = {task: table[~table.index.isin(counted[task])] for task, table in rows.items()}
    for task, table in own.items():
        counted[task].update(table.index)
    solved = {image_id for table in own.values() for image_id in table.index}
    return {"solved": len(solved), "seconds": float(sum(table["seconds"].sum() for table in own.values()))}


def best_trials(sweep: Sweep, ledger: Ledger) -> list[FrozenTrial]:
    """Return the best of the trials that did all images: one, or the Pareto front by its first objective."""
    complete = [trial for trial in ledger.trials() if state_of(trial) == COMPLETE]
    if not complete:
        return []
    if len(sweep.objectives) == 1:
        sign = sweep.objectives[0].sign
        return [max(complete, key=lambda trial: (sign * trial.values[0], -trial.number))]
    return sorted(ledger.study.best_trials, key=lambda trial: trial.values[0])


def write_outcome(run: RunFolder, sweep: Sweep, ledger: Ledger, scores: Scores) -> pd.DataFrame:
    """Write ``trials.parquet``, ``trials.csv`` and ``best.yaml``; return the table of trials."""
    table = trial_table(sweep, ledger, scores)
    run.write_table(run.path("trials.parquet"), pa.Table.from_pandas(table, preserve_index=False))
    buffer = io.StringIO()
    table.to_csv(buffer, index=False)
    run.write(run.path("trials.csv"), buffer.getvalue().encode())
    tuned = tuned_solvers(sweep, best_trials(sweep, ledger))
    if tuned:
        best = Experiment.of(sweep.evaluation(tuned)).resolved()
        text = f"# python -m ray_jobs.evaluate {sweep.config.run_location}/best.yaml\n"
        run.write(run.path("best.yaml"), (text + yaml.safe_dump(best, sort_keys=False, allow_unicode=True)).encode())
    return table


def tuned_solvers(sweep: Sweep, best: list[FrozenTrial]) -> dict[str, dict[str, Any]]:
    """Return the solvers of ``best.yaml`` beside the published one; of a long front some, its ends among them."""
    if len(sweep.objectives) == 1:
        return {TUNED: sweep.fields(sweep.space.values(best[0].params))} if best else {}
    chosen = sorted({round(index) for index in np.linspace(0, len(best) - 1, min(MOST_TUNED, len(best)))})
    return {f"{TUNED}_{best[i].number}": sweep.fields(sweep.space.values(best[i].params)) for i in chosen}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
