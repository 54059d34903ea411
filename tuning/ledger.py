"""The study: what has been tried and what came of it, in a SQLite file that outlives the driver.

Optuna draws the points and decides which trials stop early. All it decides by is in the file, so that a driver that
was killed is followed by one that goes on where it was: finished trials are kept, unfinished ones are started again
under their number and with their point, and their finished rungs are known already.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from ipsolve.requests.errors import RequestError
from ipsolve.runs.results import RunFolder
from ray_jobs.pipeline.stages.worker import MAX_DEATHS
from tuning.dimensions import Choice, Parameters
from tuning.problem import Report
from tuning.request import Sweep
from tuning.stopping import below_median, halved

STUDY = "study.db"
REFERENCE = 0  # the number of the trial with the solver's own settings; it is never stopped early
COMPLETE, STOPPED, DIVERGED, UNFINISHED = "complete", "stopped", "diverged", "unfinished"
MOST_POINTS = 10_000  # of a grid


class Ledger:
    """The trials of a sweep."""

    def __init__(self, sweep: Sweep, run: RunFolder, say: Callable[[str], None] = print) -> None:
        """Open the study of a run, or begin one.

        Raises:
            RequestError: the run holds another sweep, or a grid is too large.
        """
        _quiet()
        self.grid = grid_of(sweep)
        self.sweep, self.say = sweep, say
        self.rungs = sweep.config.search.rungs
        self.study = optuna.create_study(
            storage=optuna.storages.RDBStorage(f"sqlite:///{run.path(STUDY)}"),
            study_name=sweep.config.name,
            directions=["maximize" if objective.mode == "max" else "minimize" for objective in sweep.objectives],
            load_if_exists=True,
        )
        self._check_identity(run)
        trials = self.trials()
        self.study.sampler = _sampler(sweep, len(trials))
        self._left = [trial for trial in trials if trial.state == TrialState.RUNNING]
        self._live: dict[int, optuna.Trial] = {}
        self._failures: dict[int, tuple[str, bool]] = {}
        self.fault: str | None = None  # what broke the sweep off, being no trial's own

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, by number."""
        return self.study.get_trials(deepcopy=False)

    def missing(self) -> int:
        """Return how many trials are still to be run."""
        finished = sum(trial.state.is_finished() for trial in self.trials())
        return max(self.num_trials - finished, len(self._left))

    @property
    def num_trials(self) -> int:
        """Trials in all."""
        search = self.sweep.config.search
        return search.num_trials if self.grid is None else min(search.num_trials, 1 + len(self.grid))

    @property
    def waits(self) -> bool:
        """Whether nothing can be started now: several tasks are measured by the reference, which goes first."""
        return len(self.sweep.config.tasks) > 1 and REFERENCE in self._live

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """Return the number and the fields of the next trial to run, None where there is none left."""
        if self._left:
            trial = optuna.Trial(self.study, self._left.pop(0)._trial_id)
        else:
            known = self.trials()
            if not any(trial.state == TrialState.WAITING for trial in known):
                point = self._point(known) if len(known) < self.num_trials else None
                if point is None:
                    return None
                if point:
                    self.study.enqueue_trial(point)
            trial = self.study.ask()
        fields = self.sweep.space.suggest(trial)
        trial.set_user_attr("start", time.time())
        self._live[trial.number] = trial
        return trial.number, fields

    def _point(self, known: list[FrozenTrial]) -> dict[str, Any] | None:
        """Return the parameters of the next trial: {} for the sampler's choice, None where nothing is left."""
        if not known:
            return self.sweep.space.nearest(self.sweep.experiment.solvers["trial"])
        if self.grid is None:
            return {}
        seen = {frozenset(trial.params.items()) for trial in known if trial.number != REFERENCE}
        return next((point for point in self.grid if frozenset(point.items()) not in seen), None)

    def report(self, number: int, report: Report) -> bool:
        """Take in a rung of a trial; return whether the trial should stop here."""
        trial = self._live[number]
        # of one that is begun again the first time counts
        trial.set_user_attr("rungs", {str(report.images): time.time()} | trial.user_attrs.get("rungs", {}))
        if len(self.sweep.objectives) > 1:
            return False
        trial.report(report.values[0], report.images)
        return number != REFERENCE and self._stops(number, report.images)

    def _stops(self, number: int, rung: int) -> bool:
        """Return whether a trial is not worth more images than those of ``rung``, by what is in the study."""
        trials = self.trials()
        if any(step > rung for step in trials[number].intermediate_values):
            return False  # it has gone on from here before, and its driver or its process died
        sign = self.sweep.objectives[0].sign
        values = {t.number: sign * t.intermediate_values[rung] for t in trials if rung in t.intermediate_values}
        own = values.pop(number)
        others = list(values.values())
        if self.sweep.scheduler == "asha":
            return halved(own, others, self.sweep.config.search.reduction_factor)
        return self.sweep.scheduler == "median" and below_median(own, others)

    def failed(self, number: int, reason: str, died: bool) -> None:
        """Take in that a trial broke off, and why; that its process ``died`` is counted in the study."""
        trial, self._failures[number] = self._live[number], (reason, died)
        if died:
            trial.set_user_attr("deaths", trial.user_attrs.get("deaths", 0) + 1)
        self.say(f"trial {number}: {'its process died: ' if died else ''}{reason}")

    def give_up(self, number: int) -> None:
        """Close a trial whose process has died too often; where it failed of something else the sweep has a ``fault``.

        A full disk or a prior that cannot be read is not of the trial, and would meet every other: the trial stays
        unfinished, and the same command repeats it.
        """
        deaths, (reason, died) = self._live[number].user_attrs.get("deaths", 0), self._failures[number]
        if died and deaths >= MAX_DEATHS:
            self.finish(number, Report(0, (), f"its process died {deaths} times: {reason}"))
        else:
            self.fault = f"trial {number}: {reason}"

    def finish(self, number: int, report: Report) -> None:
        """Close a trial."""
        trial = self._live.pop(number)
        if report.note:
            trial.set_user_attr("note", report.note)
        if report.error is None:
            trial.set_user_attr("images", report.images)
        state = STOPPED
        if report.error is not None:
            # no value stands for "worst"; a broken constraint ranks behind every trial that has one
            trial.set_user_attr("error", report.error)
            trial.set_constraint(DIVERGED, 1.0)
            self.study.tell(trial, state=TrialState.PRUNED)
            state = DIVERGED
        elif report.images == self.rungs[-1]:
            if len(report.values) == 1:
                trial.report(report.values[0], report.images)
            self.study.tell(trial, list(report.values))
            state = COMPLETE
        else:
            self.study.tell(trial, state=TrialState.PRUNED)
        names = [objective.name for objective in self.sweep.objectives]
        words = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, report.values, strict=False))
        finished = sum(each.state.is_finished() for each in self.trials())
        reason = report.error or f"{words} over {report.images} images"
        note = f"; {report.note}" if report.note else ""
        self.say(f"[{finished}/{self.num_trials}] trial {number} {state}: {reason}{note}")

    def _check_identity(self, run: RunFolder) -> None:
        identity = json.loads(json.dumps(self.sweep.identity(), default=str))
        known = self.study.user_attrs.get("identity")
        if known is None:
            self.study.set_user_attr("identity", identity)
        elif known != identity:
            keys = ", ".join(key for key in identity if identity[key] != known.get(key))
            raise RequestError("name", f"{run.root} holds another sweep ({keys} differ); allowed: another name")


def state_of(trial: FrozenTrial) -> str:
    """Return what became of a trial, in a word."""
    if not trial.state.is_finished():
        return UNFINISHED
    if "error" in trial.user_attrs:
        return DIVERGED
    return COMPLETE if trial.state == TrialState.COMPLETE else STOPPED


def grid_of(sweep: Sweep) -> list[Parameters] | None:
    """Return the points of a grid, None for other searches; RequestError if they are too many."""
    search = sweep.config.search
    if search.algorithm != "grid":
        return None
    points: dict[tuple[Any, ...], int] = {(): 1}  # their number by the choices made, on which the other fields depend
    for dimension in sweep.space.dimensions:
        own = dimension.grid(search.grid_size)
        following: dict[tuple[Any, ...], int] = {}
        for choices, n in points.items():
            if not dimension.active(dict(choices)):
                following[choices] = n
            elif isinstance(dimension, Choice):
                following |= {(*choices, *point.items()): n for point in own}
            else:
                following[choices] = n * len(own)
        points = following
        if sum(points.values()) > MOST_POINTS:  # said before they are made: nine fields have a quarter of a million
            raise RequestError(
                "search.algorithm",
                f"the grid has more than {MOST_POINTS} points; "
                "allowed: a smaller search.grid_size, fewer fields in space, or random",
            )
    return sweep.space.grid(search.grid_size)


def _sampler(sweep: Sweep, position: int) -> optuna.samplers.BaseSampler:
    # a sampler that is begun again with the same seed would draw the same points again
    seed = int(np.random.SeedSequence([sweep.config.seed, position]).generate_state(1)[0])
    search = sweep.config.search
    if search.algorithm == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.num_startup)
    if search.algorithm == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, search.num_trials // 4)))
    return optuna.samplers.RandomSampler(seed=seed)


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    # a rung that is reported again after a restart is known to be ignored
    warnings.filterwarnings("ignore", category=UserWarning, module="optuna")
