"""How an actor makes a batch durable, and how it knows of earlier attempts at it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq

from ipsolve.evaluation.batch import Failure
from ipsolve.files.filesystems import patiently
from ipsolve.runs.cells import Cell
from ipsolve.runs.results import ATTEMPTS, FAILURE_SCHEMA, FAILURES, REFERENCES, RESULTS, RunFolder, cell_of

GATHER = 64  # files of one cell that an actor makes before it puts them into one


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
    done. So a batch costs an object store a HEAD (is there a note?) and two PUT (the note, the rows), one more PUT
    where an image failed, and for its part in gathering a GET and a DELETE.
    """

    def __init__(self, location: str) -> None:
        self.run = RunFolder(location)
        self._small: dict[str, list[str]] = defaultdict(list)  # this process's files by their folder and cell
        self._known: tuple[str, int] = "", 0  # the last note, and how often its batch was begun
        self._reason = ""  # and why the process ended that had begun it last, if it could say

    def save(self, cell: Cell, image_ids: Sequence[str], rows: pa.Table, failures: Sequence[Failure]) -> None:
        """Make a batch durable, under a name made of its cell and its image ids."""
        name = file_name(cell.hash, image_ids)
        # a failure of the ground truth is recorded by the cells that need the image, under their names
        if failures and not cell.is_reference:
            columns = dict(zip(FAILURE_SCHEMA.names, map(list, zip(*failures, strict=True)), strict=True))
            self._write(self.run.path(FAILURES, name), pa.table(columns, schema=FAILURE_SCHEMA))
        if len(rows):
            path = self.run.path(*folder_of(cell), name)
            self._write(path, rows)
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
        if not self._begun(cell, image_ids):
            return set(), set()
        name = file_name(cell.hash, image_ids)
        return self._ids(*folder_of(cell), name), self._ids(FAILURES, name)

    def begin(self, cell: Cell, image_ids: Sequence[str]) -> int:
        """Note an attempt at a batch, durably, and return how many were begun before.

        An earlier attempt at what :meth:`saved` does not find is one that the process did not outlive.
        """
        deaths = self._begun(cell, image_ids)
        note = {"begun": deaths + 1, "cell": str(cell), "image_ids": list(image_ids), "reason": self._reason}
        patiently(lambda: self.run.write_json(_note(cell, image_ids), note))
        self._known = _note(cell, image_ids), deaths + 1
        return deaths

    def give_reason(self, cell: Cell, image_ids: Sequence[str], reason: str) -> None:
        """Note why the process is about to end in the middle of a batch."""
        note = _note(cell, image_ids)
        patiently(lambda: self.run.write_json(note, self.run.read_json(note) | {"reason": reason}))

    def reason(self, cell: Cell, image_ids: Sequence[str]) -> str:
        """Return why the last process ended in the middle of a batch, empty if it could not say."""
        return self._reason if self._begun(cell, image_ids) else ""

    def _begun(self, cell: Cell, image_ids: Sequence[str]) -> int:
        note = _note(cell, image_ids)
        if self._known[0] != note:  # asked for twice per batch, read once
            found = patiently(lambda: self.run.read_json(note))
            self._known, self._reason = (note, int(found.get("begun", 0))), str(found.get("reason", ""))
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


def merge_files(run: RunFolder, paths: Sequence[str]) -> str:
    """Put files of rows of one cell into one file, with patience; return its path.

    Writing and deleting are tried again each for itself: once a file is deleted it cannot be read again.
    """
    target = patiently(lambda: _write_as_one(run, paths))
    run.each(lambda path: _discard(run, path), [path for path in paths if path != target])
    return target


def _write_as_one(run: RunFolder, paths: Sequence[str]) -> str:
    # a file that was written before a metric was registered lacks its column
    table = pa.concat_tables(run.each(lambda path: read_rows(run, path), paths), promote_options="default")
    target = f"{os.path.dirname(paths[0])}/{file_name(cell_of(paths[0]), table['image_id'].to_pylist())}"
    run.write_table(target, table, durable=True)
    return target


def _discard(run: RunFolder, path: str) -> None:
    # its rows are safe in another file: one that stays, as after a crash, is what tidy and every reader put right
    with suppress(OSError):
        patiently(lambda: run.filesystem.delete_file(path))


def read_rows(run: RunFolder, path: str) -> pa.Table:
    """Return a file of rows."""
    with run.filesystem.open_input_file(path) as file:
        return pq.read_table(file)


def read_ids(run: RunFolder, path: str) -> list[str]:
    """Return the image ids in a file of rows; no other column is read."""
    with run.filesystem.open_input_file(path) as file:
        ids: list[str] = pq.read_table(file, columns=["image_id"])["image_id"].to_pylist()
    return ids
