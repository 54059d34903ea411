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

from ipsolve.errors import RequestError
from ipsolve.results import RunFolder
from tuning.problem import Report
from tuning.request import Sweep

STUDY = "study.db"
REFERENCE = 0  # the number of the trial with the solver's own settings; it is never stopped early
COMPLETE, STOPPED, DIVERGED, UNFINISHED = "complete", "stopped", "diverged", "unfinished"


class Ledger:
    """The trials of a sweep."""

    def __init__(self, sweep: Sweep, run: RunFolder, say: Callable[[str], None] = print) -> None:
        """Open the study of a run, or begin one.

        Raises:
            RequestError: the run holds another sweep.
        """
        _quiet()
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
        self.study.pruner = _pruner(sweep)
        self._left = [trial for trial in trials if trial.state == TrialState.RUNNING]
        self._live: dict[int, optuna.Trial] = {}

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
        if search.algorithm != "grid":
            return search.num_trials
        return min(search.num_trials, 1 + len(self.sweep.space.grid(search.grid_size)))

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
        space, search = self.sweep.space, self.sweep.config.search
        if not known:
            return space.nearest(self.sweep.experiment.solvers["trial"])
        if search.algorithm != "grid":
            return {}
        seen = [trial.params for trial in known if trial.number != REFERENCE]
        return next((point for point in space.grid(search.grid_size) if point not in seen), None)

    def report(self, number: int, report: Report) -> bool:
        """Take in a rung of a trial; return whether the trial should stop here."""
        trial = self._live[number]
        if len(self.sweep.objectives) > 1:
            return False
        trial.report(report.values[0], report.images)
        return number != REFERENCE and trial.should_prune()

    def finish(self, number: int, report: Report) -> None:
        """Close a trial."""
        trial = self._live.pop(number)
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
        self.say(f"[{finished}/{self.num_trials}] trial {number} {state}: {reason}")

    def _check_identity(self, run: RunFolder) -> None:
        identity = json.loads(json.dumps(self.sweep.identity(), default=str))
        known = self.study.user_attrs.get("identity")
        if known is None:
            self.study.set_user_attr("identity", identity)
        elif known != identity:
            keys = ", ".join(key for key in identity if identity[key] != known.get(key))
            raise RequestError(f"name: {run.root} holds another sweep ({keys} differ); allowed: another name")


def state_of(trial: FrozenTrial) -> str:
    """Return what became of a trial, in a word."""
    if not trial.state.is_finished():
        return UNFINISHED
    if "error" in trial.user_attrs:
        return DIVERGED
    return COMPLETE if trial.state == TrialState.COMPLETE else STOPPED


def _sampler(sweep: Sweep, position: int) -> optuna.samplers.BaseSampler:
    # a sampler that is begun again with the same seed would draw the same points again
    seed = int(np.random.SeedSequence([sweep.config.seed, position]).generate_state(1)[0])
    search = sweep.config.search
    if search.algorithm == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.num_startup)
    if search.algorithm == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, search.num_trials // 4)))
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    search = sweep.config.search
    if sweep.scheduler == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(search.rungs[0], search.reduction_factor)
    return optuna.pruners.MedianPruner() if sweep.scheduler == "median" else optuna.pruners.NopPruner()


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    # a rung that is reported again after a restart is known to be ignored
    warnings.filterwarnings("ignore", category=UserWarning, module="optuna")
