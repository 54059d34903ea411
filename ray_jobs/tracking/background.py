"""What is sent to MLflow while the work goes on: by a thread that nothing waits for."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from ipsolve.evaluation.isolation import one_line

SECONDS = 5.0  # between two looks at young work; an old one is looked at every hundredth of its age
PATIENCE = 300.0  # at most between two tries at a store that does not answer


class Background(ABC):
    """Sends what is new, again and again, from a thread of its own; use as a context manager around the work.

    A store that is slow or down delays this thread and nothing else: what is not sent now is sent at the end.

    Args:
        seconds: between two looks.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._over = threading.Event()  # the work is: what is left is sent with its end
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")

    @abstractmethod
    def send(self) -> None:
        """Send what is new; may raise whatever a store or its client does."""

    def __enter__(self) -> Self:
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
                self.send()
            except Exception as error:  # tracking never costs a result
                logging.getLogger(__name__).debug("MLflow: %s", one_line(error))
                pause = min(max(2 * pause, 10 * self._seconds), PATIENCE)
