"""A sweep in MLflow while it searches: its trials as they begin, report and end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from ipsolve.evaluation.isolation import one_line
from ray_jobs.tracking.live import PATIENCE, SECONDS
from tuning.tracking import Copies


class Live:
    """Copies trials to MLflow from a thread that nothing waits for; use as a context manager around the search.

    What it knows is in the study: a store that is slow or down delays its own thread and nothing else, and is sent all
    of it at the end.

    Args:
        connect: returns the runs of the sweep in MLflow; fails while the store does not answer.
        seconds: between two looks at a young sweep; an old one is looked at every hundredth of its age.
    """

    def __init__(self, connect: Callable[[], Copies], seconds: float = SECONDS) -> None:
        self._connect, self._seconds = connect, seconds
        self._copies: Copies | None = None
        self._sent: dict[int, tuple[str, int]] = {}  # by the number of a trial: its state and the rungs that are there
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")

    def __enter__(self) -> Live:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()  # as long as a request may take: seconds

    def _work(self) -> None:
        begun, pause = time.monotonic(), 0.0
        while not self._over.wait(pause):
            pause = max(self._seconds, (time.monotonic() - begun) / 100)
            try:
                self._send()
            except Exception as error:  # tracking never costs a result; what is not sent now is sent at the end
                logging.getLogger(__name__).debug("MLflow: %s", one_line(error))
                pause = min(max(2 * pause, 10 * self._seconds), PATIENCE)

    def _send(self) -> None:
        if self._copies is None:
            copies = self._connect()
            copies.client.update_run(copies.open_parent(), "RUNNING")
            self._copies = copies
        for trial in self._copies.ledger.trials():
            if self._over.is_set():  # the rest is sent with the end of the sweep
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
