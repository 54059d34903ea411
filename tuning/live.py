"""A sweep in MLflow while it searches: its trials as they begin, report and end."""

from __future__ import annotations

from collections.abc import Callable

from ray_jobs.tracking.background import SECONDS, Background
from tuning.tracking import Copies


class Live(Background):
    """Copies trials to MLflow; use as a context manager around the search. What it knows is in the study.

    Args:
        connect: returns the runs of the sweep in MLflow; fails while the store does not answer.
        seconds: between two looks.
    """

    def __init__(self, connect: Callable[[], Copies], seconds: float = SECONDS) -> None:
        super().__init__(seconds)
        self._connect = connect
        self._copies: Copies | None = None
        self._sent: dict[int, tuple[str, int]] = {}  # by the number of a trial: its state and the rungs that are there

    def send(self) -> None:
        """Send the trials that have changed."""
        if self._copies is None:
            copies = self._connect()
            copies.client.update_run(copies.open_parent(), "RUNNING")
            self._copies = copies
        for trial in self._copies.ledger.trials():
            if self._over.is_set():
                return
            state = str(trial.state), len(trial.user_attrs.get("rungs", {}))
            if "start" not in trial.user_attrs or self._sent.get(trial.number) == state:
                continue
            child = self._copies.open_trial(trial)
            if trial.state.is_finished():
                self._copies.close_trial(trial, child)
            elif trial.number not in self._sent:
                self._copies.client.update_run(child, "RUNNING")
            self._sent[trial.number] = state
