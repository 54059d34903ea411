"""How far the run is: a live bar on a terminal, a line every few seconds in a log file, and why nothing happens yet."""

from __future__ import annotations

import sys
import threading
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from ipsolve.runs.cells import Cell
from ray_jobs.cli import printable
from ray_jobs.pipeline.cluster.autoscaling import lacking
from ray_jobs.pipeline.plan import Plan

SECONDS_BETWEEN_LINES = 10.0
SECONDS_OF_PATIENCE = 60.0


class Progress:
    """Counts the rows of this stretch of work; use as a context manager. ``unit``: what a row is of."""

    def __init__(self, plan: Plan, unit: str = "images", stream: TextIO | None = None) -> None:
        self.unit = unit
        self.cells: dict[str, Cell] = {cell.hash: cell for cell in plan.cells}
        self.total = plan.images_missing
        self.left = {name: len(indices) for name, indices in plan.missing.items()}
        self.stream = stream or sys.stdout
        self.done = self.failed = 0
        self._spans: dict[str, tuple[float, float]] = {}  # by the clock of this machine: those of nodes differ
        self.start = self.first = self.spoken = time.monotonic()
        self.first_done, self._begun = 0, time.time()
        self._bar: Any = None
        self._last = self.start  # when a batch was done
        self._usual = 0.0  # the longest time between two batches that nobody had to explain
        self._told = False
        self._over = threading.Event()

    def __enter__(self) -> Progress:
        if self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(file=self.stream))
            self._bar.start()
            self._task = self._bar.add_task("starting the actors", total=self.total)
        else:
            self._print(f"starting the actors; {self.total} {self.unit} to do")
        threading.Thread(target=self._explain, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._bar is not None:
            self._bar.stop()
        elif self.done or self.failed:
            self._print(self._line())

    def update(self, report: dict[str, Any]) -> None:
        """Take in the report of one batch."""
        count, now = report["done"] + report["failed"], time.monotonic()
        if not self.done + self.failed:
            self.first, self.first_done = now, count
        elif not self._told:
            self._usual = max(self._usual, now - self._last)
        self._last, self._told = now, False
        self.done += report["done"]
        self.failed += report["failed"]
        self.left[report["cell"]] -= count
        ended = time.time()
        begun = max(ended - report["seconds"], self._begun)
        first, _ = self._spans.get(report["cell"], (begun, ended))
        self._spans[report["cell"]] = min(first, begun), ended
        for note in report["notes"]:
            self._print(f"  note: {printable(note)}")
        if self.left[report["cell"]] == 0:
            self._print(f"  finished: {self.cells[report['cell']]}  ({self._line()})")
        elif self._bar is None and time.monotonic() - self.spoken >= SECONDS_BETWEEN_LINES:
            self._print(self._line())
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done + self.failed, description=self._line())

    def _explain(self) -> None:
        """Say what is waited for while no batch comes back: GPUs that do not come, or do not come again."""
        while not self._over.wait(SECONDS_OF_PATIENCE):
            silent = time.monotonic() - self._last
            if silent < 3 * self._usual:  # batches may take longer than a minute
                continue
            self._told = True
            try:
                state = lacking()
            except Exception as error:  # a message must not end a run, and Ray may be going down
                state = f"the cluster does not say why ({type(error).__name__})"
            waited = f"for {clock(silent)}" if self.done + self.failed else "yet"
            self._print(f"  no batch has ended {waited}: {state}")

    def facts(self) -> dict[str, Any]:
        """Return how far this stretch of work is."""
        return {"done": self.done, "failed": self.failed, "of": self.total, "per_second": round(self._rate(), 3)}

    def times(self) -> dict[str, list[str]]:
        """Return when the first batch of each cell began and its last one ended, by its hash."""
        return {cell: [iso(moment) for moment in span] for cell, span in self._spans.items()}

    def _rate(self) -> float:
        count, elapsed = self.done + self.failed - self.first_done, time.monotonic() - self.first
        # the first batch tells nothing of the rate: it waited for the actors to load the prior
        return count / elapsed if elapsed > 0 and count > 0 else 0.0

    def _line(self) -> str:
        count, rate = self.done + self.failed, self._rate()
        eta = f", {clock((self.total - count) / rate)} to go" if rate and count < self.total else ""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{count}/{self.total} {self.unit}{failed}, {rate:.2f}/s{eta}"

    def _print(self, line: str) -> None:
        self.spoken = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(f"[{clock(self.spoken - self.start)}] {line}", file=self.stream, flush=True)


def iso(moment: float) -> str:
    """Return a time in seconds since 1970 as ISO 8601, UTC, to the millisecond."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, with hours where there are any."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
