"""A run in MLflow while it works: what has come in, sent by a thread that nothing waits for."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from ipsolve.runs.curves import Curves, Point, latest
from ipsolve.runs.results import RunFolder
from ray_jobs.pipeline.plan import Plan
from ray_jobs.tracking import overview
from ray_jobs.tracking.background import SECONDS, Background
from ray_jobs.tracking.copies import Copies, Pair, curve, numbers
from ray_jobs.tracking.times import solver_spans


class Live(Background):
    """Copies the progress of a run to MLflow; use as a context manager around its work.

    The curves are made from what the workers report and are written to the run's folder first. What is not sent at the
    end is sent later by ``ray_jobs.track``.

    Args:
        run: whose ``config.yaml`` and ``provenance.json`` are written.
        curves: of the run so far.
        plan: what is done of it, and what is missing yet.
        seconds: between two looks.
    """

    def __init__(self, run: RunFolder, curves: Curves, plan: Plan, seconds: float = SECONDS) -> None:
        super().__init__(seconds)
        self.run, self.curves = run, curves
        self.sent: dict[Pair, int] = {}  # up to which time the points of a child are there
        self._cells = {cell.hash: cell for cell in plan.cells if not cell.is_reference}
        self._left = Counter[Pair]()
        self._counts = Counter[str]()
        for name, cell in self._cells.items():
            self._left[cell.task, cell.solver] += len(plan.missing[name])
            self._counts.update(n=plan.done[name], failed=plan.failed[name])
        self._begun: dict[Pair, int] = {}
        self._saved = 0  # points of the curves that are in the folder
        self._lock = threading.Lock()
        self._copies: Copies | None = None
        self._finished = set[Pair]()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        now = _now()
        self.curves.close(now)
        with suppress(OSError):  # a full disk ends the run by its own error
            self.curves.save()
        if kind is not None and self._copies is not None and self._copies.parent:
            killed = issubclass(kind, KeyboardInterrupt | SystemExit)
            with suppress(Exception):
                self._end(self._copies, "KILLED" if killed else "FAILED", now)

    def update(self, report: Mapping[str, Any]) -> None:
        """Take in the report of a batch."""
        now = _now()
        with self._lock:
            cell = self._cells.get(report["cell"])
            if cell is None:  # the ground truth
                return
            pair = cell.task, cell.solver
            self._begun.setdefault(pair, now - round(report["seconds"] * 1000))
            self._left[pair] -= report["done"] + report["failed"]
            self._counts["n"] += report["done"]
            self._counts["failed"] += report["failed"]
            self.curves.update(report["cell"], report["images"], report["scores"], now)

    @property
    def is_up_to_date(self) -> bool:
        """Whether all that has been reported is in MLflow."""
        with self._lock:
            ends = {self._pair(point): point.time for point in self.curves.points if point.cell in self._cells}
            return all(self.sent.get(pair, -1) >= max(ends.get(pair, 0), 0) for pair in self._begun) and all(
                pair in self._finished for pair in self._begun if self._left[pair] <= 0
            )

    def _pair(self, point: Point) -> Pair:
        return self._cells[point.cell].task, self._cells[point.cell].solver

    def send(self) -> None:
        """Keep the curves, then send what has come in."""
        with self._lock:
            known = len(self.curves.points)
        if known > self._saved:
            self.curves.save()
            self._saved = known
        self._send()

    def _send(self) -> None:
        if self._copies is None or not self._copies.parent:
            self._copies = Copies(self.run)
            self._copies.open_parent({"mlflow.note.content": "at work: the table is here when it is done"})
            self._copies.revive(self._copies.parent)
        copies = self._copies
        earlier = solver_spans(copies.provenance)
        with self._lock:  # of one moment: a child whose images are all done is finished with its last point
            begun, counts, left = dict(self._begun), dict(self._counts), dict(self._left)
            points = list(self.curves.points)
        by_pair: dict[Pair, list[Point]] = {}
        for point in points:
            if point.cell in self._cells:
                by_pair.setdefault(self._pair(point), []).append(point)
        for pair, start in begun.items():
            if self._over.is_set():  # the rest is sent with the end of the run
                return
            if pair in self._finished:
                continue
            # the start of an earlier stretch counts, if it was before the present one
            first = min([start, *([earlier[pair][0]] if pair in earlier else [])])
            tags = overview.cell_tags(copies.config, {"task": pair[0], "solver": pair[1]})
            known = pair in self.sent
            child = copies.open_child(pair, tags, max(first, copies.start))
            if not known:
                copies.revive(child)
            own = by_pair.get(pair, [])
            new = curve(own, self.sent.get(pair, -1))
            if new:
                last = max(point.time for point in own)
                copies.log(child, [*new, *numbers(latest(own), last)])
            self.sent[pair] = max([self.sent.get(pair, -1), *(point.time for point in own)])
            if left[pair] <= 0:
                copies.finish(child, "FINISHED", _now())
                self._finished.add(pair)
        if counts:
            copies.log(copies.parent, numbers(counts, _now()))

    def _end(self, copies: Copies, status: str, now: int) -> None:
        self._over.clear()
        self._send()
        for pair in self._begun:
            if self._left[pair] > 0:
                copies.finish(copies.open_child(pair, {}, now), status, now)
        copies.client.set_tag(copies.parent, "mlflow.note.content", "not complete: the same command goes on with it")
        copies.finish(copies.parent, status, now)


def _now() -> int:
    return round(time.time() * 1000)
