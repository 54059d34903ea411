"""The study as Ray Tune's searcher, scheduler and stopper.

Tune's own OptunaSearch and ASHAScheduler keep what they know in the driver: with it dies the ranking of the rungs,
and a trial that was stopped after four images is told to Optuna as if it had done all. Here all ask the study.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError
from ray.tune import Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ipsolve.evaluation.isolation import BrokenDeviceError, one_line
from ipsolve.requests.secrets import redact
from tuning.ledger import Ledger
from tuning.problem import Report


class StudySearcher(Searcher):
    """Hands out the trials of the study and closes them."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial, None where it has to wait, or that there is none left."""
        if self.ledger.waits:
            return None
        trial = self.ledger.ask()
        if trial is None:
            return Searcher.FINISHED
        self.numbers[trial_id], fields = trial
        return {"number": self.numbers[trial_id], "fields": fields}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self.numbers[trial_id]
        if error or not result:
            self.ledger.give_up(number)
        else:
            self.ledger.finish(number, _report(result))

    def save(self, checkpoint_path: str) -> None:
        raise NotImplementedError  # the study is its own record

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


class StudyScheduler(FIFOScheduler):
    """Stops the trials that the study says are not worth more images."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = ledger

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stop = self.ledger.report(trial.config["number"], _report(result))
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Tell the study of a failure; Tune asks for this after each, and repeats the trial or gives it up."""
        self.ledger.failed(trial.config["number"], *_failure(trial))


class StudyStopper(Stopper):
    """Ends the search where it is no trial's fault that one cannot go on; those at work stay unfinished."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.ledger.fault is not None


def _failure(trial: Any) -> tuple[str, bool]:
    """Return the last error of a trial, and whether it was the death of its process, or of the device in it."""
    if trial.pickled_error_file is None:  # an error of Tune itself
        return Path(trial.error_file).read_text().strip().splitlines()[-1], False
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    if isinstance(error, RayTaskError):
        return one_line(error.cause), isinstance(error.cause, BrokenDeviceError)
    # what happened is the last line, before it are the names of the actor
    return redact(str(error).strip().splitlines()[-1])[:500], isinstance(error, RayActorError)


def _report(result: dict[str, Any]) -> Report:
    return Report(result["images"], tuple(result["values"]), result["error"], result["note"])
