"""The actor stage: one process that holds the prior and works through batches, whatever a batch is of."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, Protocol

import pyarrow as pa
import torch

from ipsolve.evaluation.batch import Batch, Failure, Outcome
from ipsolve.evaluation.isolation import BrokenDeviceError
from ipsolve.runs.cells import Cell
from ipsolve.runs.curves import scores_of
from ipsolve.runs.results import RunFolder
from ipsolve.runs.statistics import Moments
from ray_jobs.pipeline.causes import as_stage_error
from ray_jobs.pipeline.folder.batches import Storage
from ray_jobs.pipeline.stages.malloc import keep_freed_memory

MAX_DEATHS = 3
PAUSES = (1.0, 5.0, 15.0, 45.0, 0.0)
# reads a batch, given its cell and indices, and maybe a watch: see stages.reading.load
Loader = Callable[..., Batch]


class Evaluates(Protocol):
    """What does the work of an actor."""

    def evaluate(self, batch: Batch) -> Outcome:
        """Return the rows and failures of a batch."""


class Work(Protocol):
    """What an actor is told when it starts: small, and the same for all."""

    @property
    def location(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def num_threads(self) -> int: ...

    def start(self, device: str) -> Evaluates:
        """Return what does the work of one process."""


class Worker:
    """Degrades, solves, scores and persists; only small progress rows leave it.

    Ray restarts a dead actor and repeats its batch without end (ray.md 1d), so bounding that is done here: an
    attempt is counted on disk before a batch is begun. A batch whose process died is repeated image by image, and an
    image that outlived ``MAX_DEATHS`` processes becomes a failure of stage ``crash``.

    Args:
        work: what there is to do.
        written: what the driver has left in ``config.yaml`` of the run, to see that this process sees the same folder.

    Raises:
        RuntimeError: it does not: results would be lost on the disk of a node.
    """

    @as_stage_error()
    def __init__(self, work: Work, written: bytes | None = None) -> None:
        torch.set_num_threads(work.num_threads)
        keep_freed_memory()
        self.storage = Storage(work.location)
        if written is not None and not sees(self.storage.run, written):
            raise RuntimeError(
                f"output: node {socket.gethostname()} does not see what the driver writes to {work.location}; "
                "it must be a place that all nodes share, such as s3://BUCKET/runs"
            )
        self.notes: list[str] = []
        self._images, self._scores = 0, dict[str, Moments]()  # of the rows of the present batch
        device = work.device
        if device == "cuda" and not torch.cuda.is_available():
            self.notes.append("an actor was given a GPU that torch cannot use: it works on the CPU")
            device = "cpu"
        self.evaluator = work.start(device)

    @as_stage_error()
    def __call__(self, table: pa.Table) -> dict[str, list[Any]]:
        """Do the batches in ``table`` of :func:`ray_jobs.pipeline.stages.reading.read`, one progress row for each."""
        reports = [self.process(Batch.of_row(row)) for row in table.to_pylist()]
        return {"report": [json.dumps(report) for report in reports]}

    def process(self, batch: Batch) -> dict[str, Any]:
        """Do one batch; return its cell, the numbers of results and failures, its seconds, notes for the log, and the
        moments of its scores, which are of ``images`` that were solved now."""
        start = time.monotonic()
        self._images, self._scores = 0, {}
        notes, self.notes = self.notes, []
        if batch.errors:
            unreadable = [Failure.of(batch.cell, name, "read", error) for name, error in batch.errors.items()]
            self.storage.save(batch.cell, list(batch.errors), pa.table({}), unreadable)
        done = self._complete(batch, notes) if batch.image_ids else 0
        failed = len(batch.image_ids) + len(batch.errors) - done
        seconds = time.monotonic() - start
        report = {"cell": batch.cell.hash, "done": done, "failed": failed, "seconds": seconds, "notes": notes}
        return report | {"images": self._images, "scores": self._scores}

    def _complete(self, batch: Batch, notes: list[str]) -> int:
        """Bring a batch to its end, whatever earlier attempts left; return the number of its images with a result."""
        cell, image_ids = batch.cell, batch.image_ids
        solved, failed = self.storage.saved(cell, image_ids)
        left = [i for i, name in enumerate(image_ids) if name not in solved and name not in failed]
        if not left:
            return len(solved)
        if len(left) < len(image_ids):
            return len(solved) + self._complete(batch.select(left), notes)
        deaths = self.storage.begin(cell, image_ids)
        last = self.storage.reason(cell, image_ids) if deaths else ""
        why = f": {last}" if last else ""
        if deaths and len(image_ids) > 1:
            what = f"the process died on a batch of {len(image_ids)} ({cell}), it is repeated image by image"
            notes.append(f"{what}{why}")
            done = sum(self._complete(batch.select([i]), notes) for i in range(len(image_ids)))
        elif deaths >= MAX_DEATHS:
            reason = f"its process died {deaths} times{why}"
            notes.append(f"{image_ids[0]} ({cell}): {reason}")
            self.storage.save(cell, image_ids, pa.table({}), [Failure.of(cell, image_ids[0], "crash", reason)])
            done = 0
        else:
            if deaths:
                notes.append(f"the process died on {image_ids[0]} ({cell}), it is done again{why}")
            try:
                outcome = self.evaluator.evaluate(batch)
            except BrokenDeviceError as error:
                self._die(cell, image_ids, str(error))
            self.storage.save(cell, image_ids, outcome.rows, outcome.failures)
            self._count(outcome.rows)
            notes.extend(outcome.notes)
            if cell.is_reference:  # its failures have no file: the image itself was read, and its cells have their rows
                notes.extend(f"no reference for {each.image_id}: {each.error}" for each in outcome.failures)
            done = len(image_ids) - len(outcome.failures)
        return done

    def _count(self, rows: pa.Table) -> None:
        images, scores = scores_of(rows)
        self._images += images
        for name, found in scores.items():
            self._scores[name] = self._scores.get(name, Moments()).joined(found)

    def _die(self, cell: Cell, image_ids: Sequence[str], reason: str) -> NoReturn:
        """End this process; Ray starts another, which finds the attempt and its reason."""
        self.storage.give_reason(cell, image_ids, reason)
        os._exit(1)


def sees(run: RunFolder, written: bytes) -> bool:
    """Return whether ``config.yaml`` of a run is what the driver has written, or is so before long."""
    for pause in PAUSES:  # NFS remembers for a while that a file was not there
        with suppress(FileNotFoundError):
            if run.read(run.path("config.yaml")) == written:
                return True
        time.sleep(pause)
    return False
