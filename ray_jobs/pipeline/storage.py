"""How an actor makes a batch durable, and how it knows of earlier attempts at it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ipsolve.cells import Cell
from ipsolve.filesystems import patiently
from ipsolve.results import ATTEMPTS, FAILURE_SCHEMA, FAILURES, REFERENCES, RESULTS, RunFolder
from ipsolve.secrets import redact


class Failure(NamedTuple):
    """A row of ``failures``."""

    image_id: str
    task: str
    solver: str
    seed: int
    stage: str
    error: str

    @classmethod
    def of(cls, cell: Cell, image_id: str, stage: str, error: str) -> Failure:
        return cls(image_id, cell.task, cell.solver, cell.seed, stage, redact(error))


class Outcome(NamedTuple):
    """What became of a batch: rows of results (or references), failures, and what is worth a line in the log."""

    rows: pa.Table
    failures: list[Failure]
    notes: list[str]


def file_name(cell_hash: str, image_ids: Iterable[str]) -> str:
    """Return the name of a batch's files: a repeated batch replaces its own files and no others."""
    # as JSON: an id may hold any character, and two batches must not share a name
    digest = hashlib.sha256(json.dumps(list(image_ids)).encode()).hexdigest()[:12]
    return f"{cell_hash}-{digest}.parquet"


def folder_of(cell: Cell) -> tuple[str, ...]:
    """Return the folder of a cell's rows inside the run."""
    return (REFERENCES,) if cell.is_reference else (RESULTS, f"task={cell.task}", f"solver={cell.solver}")


class Storage:
    """The files of the batches of one run.

    A batch without a note of an attempt has no other file either, and its note stays until the work of all batches is
    done. So a batch costs an object store a HEAD (is there a note?) and two PUT (the note, the rows), and one more
    PUT where an image failed.
    """

    def __init__(self, location: str) -> None:
        self.run = RunFolder(location)
        self._known: tuple[str, int] = "", 0  # the last note, and how often its batch was begun

    def save(self, cell: Cell, image_ids: Sequence[str], rows: pa.Table, failures: Sequence[Failure]) -> None:
        """Make a batch durable, under a name made of its cell and its image ids."""
        name = file_name(cell.hash, image_ids)
        # a failure of the ground truth is recorded by the cells that need the image, under their names
        if failures and not cell.is_reference:
            columns = dict(zip(FAILURE_SCHEMA.names, map(list, zip(*failures, strict=True)), strict=True))
            self._write(self.run.path(FAILURES, name), pa.table(columns, schema=FAILURE_SCHEMA))
        if len(rows):
            self._write(self.run.path(*folder_of(cell), name), rows)

    def saved(self, cell: Cell, image_ids: Sequence[str]) -> tuple[set[str], set[str]]:
        """Return the image ids with a result and with a failure in the files of this very batch."""
        if not self._begun(cell, image_ids):
            return set(), set()
        name = file_name(cell.hash, image_ids)
        return self._ids(*folder_of(cell), name), self._ids(FAILURES, name)

    def begin(self, cell: Cell, image_ids: Sequence[str]) -> int:
        """Note an attempt at a batch, durably, and return how many were begun before.

        An earlier attempt at what :meth:`saved` does not find is one that the process did not outlive.
        """
        deaths = self._begun(cell, image_ids)
        note = {"begun": deaths + 1, "cell": str(cell), "image_ids": list(image_ids)}
        patiently(lambda: self.run.write_json(_note(cell, image_ids), note))
        self._known = _note(cell, image_ids), deaths + 1
        return deaths

    def _begun(self, cell: Cell, image_ids: Sequence[str]) -> int:
        note = _note(cell, image_ids)
        if self._known[0] != note:  # asked for twice per batch, read once
            self._known = note, int(patiently(lambda: self.run.read_json(note)).get("begun", 0))
        return self._known[1]

    def _write(self, path: str, rows: pa.Table) -> None:
        patiently(lambda: self.run.write_table(path, rows))

    def _ids(self, *parts: str) -> set[str]:
        try:
            return set(patiently(lambda: read_ids(self.run, self.run.path(*parts))))
        except FileNotFoundError:
            return set()


def _note(cell: Cell, image_ids: Sequence[str]) -> str:
    return f"{ATTEMPTS}/{file_name(cell.hash, image_ids)}.json"


def read_ids(run: RunFolder, path: str) -> list[str]:
    """Return the image ids in a file of rows; no other column is read."""
    with run.filesystem.open_input_file(path) as file:
        ids: list[str] = pq.read_table(file, columns=["image_id"])["image_id"].to_pylist()
    return ids
