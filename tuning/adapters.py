"""The study as Ray Tune's searcher and scheduler.

Tune's own OptunaSearch and ASHAScheduler keep what they know in the driver: with it dies the ranking of the rungs,
and a trial that was stopped after four images is told to Optuna as if it had done all. Here both ask the study.
"""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tuning.ledger import Ledger
from tuning.problem import Report

LOST = "its process died, and again when it was started once more"


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
        number = self.numbers.pop(trial_id)
        self.ledger.finish(number, Report(0, (), LOST) if error or not result else _report(result))

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


def _report(result: dict[str, Any]) -> Report:
    return Report(result["images"], tuple(result["values"]), result["error"])
