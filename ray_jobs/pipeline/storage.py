"""How an actor makes a batch durable, and how it knows of earlier attempts at it."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ipsolve.cells import Cell
from ipsolve.results import ATTEMPTS, FAILURE_SCHEMA, FAILURES, REFERENCES, RESULTS, RunFolder, cell_of

GATHER = 64  # files of one cell that an actor makes before it puts them into one


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
        return cls(image_id, cell.task, cell.solver, cell.seed, stage, error)


class Outcome(NamedTuple):
    """What became of a batch: rows of results (or references), failures, and what is worth a line in the log."""

    rows: pa.Table
    failures: list[Failure]
    notes: list[str]


def file_name(cell_hash: str, image_ids: Iterable[str]) -> str:
    """Return the name of a batch's files: a repeated batch replaces its own files and no others."""
    digest = hashlib.sha256("\n".join(image_ids).encode()).hexdigest()[:12]
    return f"{cell_hash}-{digest}.parquet"


def folder_of(cell: Cell) -> tuple[str, ...]:
    """Return the folder of a cell's rows inside the run."""
    return (REFERENCES,) if cell.is_reference else (RESULTS, f"task={cell.task}", f"solver={cell.solver}")


class Storage:
    """The files of the batches of one run."""

    def __init__(self, location: str) -> None:
        self.run = RunFolder(location)
        self._small: dict[str, list[str]] = defaultdict(list)  # this process's files by their folder and cell

    def save(self, cell: Cell, image_ids: Sequence[str], rows: pa.Table, failures: Sequence[Failure]) -> None:
        """Make a batch durable, under a name made of its cell and its image ids."""
        name = file_name(cell.hash, image_ids)
        # a failure of the ground truth is recorded by the cells that need the image, under their names
        if failures and not cell.is_reference:
            columns = dict(zip(FAILURE_SCHEMA.names, map(list, zip(*failures, strict=True)), strict=True))
            self.run.write_table(self.run.path(FAILURES, name), pa.table(columns, schema=FAILURE_SCHEMA))
        if len(rows):
            path = self.run.path(*folder_of(cell), name)
            self.run.write_table(path, rows)
            self._gather(path)

    def _gather(self, path: str) -> None:
        """Put the files that this process has made of a cell into one, now and then.

        A file for each batch is what makes a batch durable, and millions of files are what nobody can list. Each row
        is written once more at most, by the process that has it, so that no single machine has to do it for all.
        """
        small = self._small[f"{os.path.dirname(path)}/{cell_of(path)}"]
        small.append(path)
        if len(small) >= GATHER:
            merge_files(self.run, small)
            small.clear()

    def saved(self, cell: Cell, image_ids: Sequence[str]) -> tuple[set[str], set[str]]:
        """Return the image ids with a result and with a failure in the files of this very batch."""
        name = file_name(cell.hash, image_ids)
        return self._ids(*folder_of(cell), name), self._ids(FAILURES, name)

    def begin(self, cell: Cell, image_ids: Sequence[str]) -> int:
        """Count an attempt at a batch, durably, and return how many were begun before and never ended."""
        path = f"{ATTEMPTS}/{file_name(cell.hash, image_ids)}.json"
        before = self.run.read_json(path)
        deaths = int(before.get("begun", 0))
        content = {"begun": deaths + 1, "cell": str(cell), "image_ids": list(image_ids)}
        self.run.write_json(path, content | ({"reason": before["reason"]} if "reason" in before else {}))
        return deaths

    def give_reason(self, cell: Cell, image_ids: Sequence[str], reason: str) -> None:
        """Write down why the process is about to end in the middle of a batch."""
        path = f"{ATTEMPTS}/{file_name(cell.hash, image_ids)}.json"
        self.run.write_json(path, self.run.read_json(path) | {"reason": reason})

    def reason(self, cell: Cell, image_ids: Sequence[str]) -> str:
        """Return why the last process ended in the middle of a batch, empty if it could not say."""
        return str(self.run.read_json(f"{ATTEMPTS}/{file_name(cell.hash, image_ids)}.json").get("reason", ""))

    def end(self, cell: Cell, image_ids: Sequence[str]) -> None:
        """Strike out the attempts at a batch: the process lived to its end."""
        self.run.filesystem.delete_file(self.run.path(ATTEMPTS, f"{file_name(cell.hash, image_ids)}.json"))

    def _ids(self, *parts: str) -> set[str]:
        if not self.run.exists(*parts):
            return set()
        return set(read_ids(self.run, self.run.path(*parts)))


def merge_files(run: RunFolder, paths: Sequence[str]) -> None:
    """Put files of rows of one cell into one file."""
    if len(paths) < 2:
        return
    tables = []
    for path in paths:
        with run.filesystem.open_input_file(path) as file:
            tables.append(pq.read_table(file))
    table = pa.concat_tables(tables)
    target = f"{os.path.dirname(paths[0])}/{file_name(cell_of(paths[0]), table['image_id'].to_pylist())}"
    run.write_table(target, table)
    for path in paths:  # after the write: a crash here leaves rows twice, which tidy and every reader put right
        if path != target:
            run.filesystem.delete_file(path)


def read_ids(run: RunFolder, path: str) -> list[str]:
    """Return the image ids in a file of rows; no other column is read."""
    with run.filesystem.open_input_file(path) as file:
        ids: list[str] = pq.read_table(file, columns=["image_id"])["image_id"].to_pylist()
    return ids
