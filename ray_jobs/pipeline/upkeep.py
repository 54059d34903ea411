"""Keeping the files of a run in order between two stretches of work.

The rule: ``results`` holds exactly the cells and images of the present configuration, each image once. What belongs
to another configuration waits under ``superseded/<cell>/`` and comes back when its configuration does. Every step is
a rename, or a write before a delete, so that a crash at any point loses nothing; what it may leave twice is put
right by the next call, and never read twice (:meth:`ipsolve.results.RunFolder.results`).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ipsolve.cells import Cell
from ipsolve.results import ATTEMPTS, FAILURES, REFERENCES, RESULTS, SUPERSEDED, RunFolder, cell_of
from ray_jobs.pipeline.storage import file_name, folder_of, read_ids

Index = dict[str, list[str]]  # image ids by file
COMPACT_BYTES = 256 * 2**20


def scan(run: RunFolder, files: Iterable[str]) -> tuple[Index, list[str]]:
    """Return the image ids in each file, and the files that are torn."""

    def ids(path: str) -> list[str] | None:
        try:
            return read_ids(run, path)
        except (pa.ArrowException, KeyError, OSError):
            return None

    paths = list(files)
    found = dict(zip(paths, run.each(ids, paths), strict=True))
    return {path: names for path, names in found.items() if names is not None}, [p for p in paths if found[p] is None]


def tidy(run: RunFolder, cells: Iterable[Cell], wanted: set[str], retry_failed: bool = False) -> list[str]:
    """Make the rule of this module true; return a line for each thing that had to be done.

    Args:
        cells: the cells of the present configuration, the reference cell among them.
        wanted: the image ids of the present configuration.
        retry_failed: forget the failures of these cells, so that their images are tried again.
    """
    notes: list[str] = []
    by_hash = {cell.hash: cell for cell in cells}
    if torn_writes := run.sweep():
        notes.append(f"{torn_writes} files that a killed process left half written were deleted")
    run.empty(ATTEMPTS)  # deaths are counted within one driver's life: starting again is a new chance
    stale = [path for path in _rows(run) if cell_of(path) not in by_hash]
    for path in stale:
        run.move(path, run.path(SUPERSEDED, cell_of(path), _kind(run, path), os.path.basename(path)))
    if stale:
        moved = len({cell_of(path) for path in stale})
        notes.append(f"rows of {moved} cells that are not in this configuration moved to {SUPERSEDED}/")
    for path in run.files(SUPERSEDED):
        name, *_, kind = os.path.dirname(path).removeprefix(run.path(SUPERSEDED)).strip("/").split("/")
        if name in by_hash:
            folder = (FAILURES,) if kind == FAILURES else folder_of(by_hash[name])
            run.move(path, run.path(*folder, os.path.basename(path)))
    if retry_failed:
        run.delete(run.files(FAILURES))
    index, torn = scan(run, _rows(run))
    for path in torn:
        notes.append(f"torn file {os.path.basename(path)} moved to {SUPERSEDED}/torn; its images are done again")
        run.move(path, run.path(SUPERSEDED, "torn", os.path.basename(path)))
    _each_once(run, index, wanted)
    return notes


def done_images(
    run: RunFolder, cells: Iterable[Cell], wanted: set[str]
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return the image ids with a result, and those with a failure, of each cell; nothing is changed.

    The ground truth has no failures of its own: an image that no cell could read counts as failed for it.
    """
    cells = list(cells)
    hashes = {cell.hash for cell in cells}
    index, _ = scan(run, [p for p in [*_rows(run), *run.files(SUPERSEDED)] if cell_of(p) in hashes])
    done: dict[str, set[str]] = defaultdict(set)
    failed: dict[str, set[str]] = defaultdict(set)
    for path, ids in index.items():
        is_failure = os.path.basename(os.path.dirname(path)) == FAILURES
        (failed if is_failure else done)[cell_of(path)].update(wanted.intersection(ids))
    for name in hashes:
        failed[name] -= done[name]
    unreadable = pc.field("stage") == "read"
    for cell in cells:
        if cell.is_reference:
            failed[cell.hash] = {*run.failures().filter(unreadable)["image_id"].to_pylist()} & wanted - done[cell.hash]
    return done, failed


def compact(run: RunFolder, cells: Iterable[Cell]) -> None:
    """Gather the small files of each cell into few of at most 256 MB."""
    by_hash = {cell.hash: cell for cell in cells}
    groups: dict[str, list[str]] = defaultdict(list)
    sizes = {path: size for folder in (RESULTS, FAILURES, REFERENCES) for path, size in run.sizes(folder).items()}
    for path in sizes:
        groups[f"{cell_of(path)}/{_kind(run, path)}"].append(path)
    for group in groups.values():
        cell, heap, size = by_hash[cell_of(group[0])], list[str](), 0
        for path in group:
            if sizes[path] > COMPACT_BYTES // 2:
                continue
            if heap and size + sizes[path] > COMPACT_BYTES:
                _merge(run, cell, heap)
                heap, size = [], 0
            heap.append(path)
            size += sizes[path]
        _merge(run, cell, heap)


def _merge(run: RunFolder, cell: Cell, paths: list[str]) -> None:
    if len(paths) < 2:
        return
    table = pa.concat_tables(run.each(lambda path: _read(run, path), paths))
    target = f"{os.path.dirname(paths[0])}/{file_name(cell.hash, table['image_id'].to_pylist())}"
    run.write_table(target, table)
    # after the write: a crash here leaves rows twice, which tidy and every reader put right
    run.delete(path for path in paths if path != target)


def _each_once(run: RunFolder, index: Index, wanted: set[str]) -> None:
    seen: dict[str, set[str]] = defaultdict(set)
    # results before failures, and large files first: what a crashed compaction left behind is in the small ones
    for path in sorted(index, key=lambda path: (_kind(run, path) == FAILURES, -len(index[path]))):
        ids, cell = index[path], cell_of(path)
        keep = [name in wanted and name not in seen[cell] for name in ids]
        extra = [name not in wanted for name in ids]
        if not all(keep):
            table = _read(run, path)
            if any(extra):
                aside = table.filter(pa.array(extra))
                name = file_name(cell, aside["image_id"].to_pylist())
                run.write_table(run.path(SUPERSEDED, cell, _kind(run, path), name), aside)
            if any(keep):
                run.write_table(path, table.filter(pa.array(keep)))
            else:
                run.filesystem.delete_file(path)
        seen[cell].update(name for name, kept in zip(ids, keep, strict=True) if kept)


def _rows(run: RunFolder) -> list[str]:
    return [path for folder in (RESULTS, FAILURES, REFERENCES) for path in run.files(folder)]


def _kind(run: RunFolder, path: str) -> str:
    return path.removeprefix(f"{run.root}/").split("/", 1)[0]


def _read(run: RunFolder, path: str) -> pa.Table:
    with run.filesystem.open_input_file(path) as file:
        return pq.read_table(file)
