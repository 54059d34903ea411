"""Keeping the files of a run in order between two stretches of work.

The rule: ``results`` holds exactly the cells and images of the present configuration, each image once. What belongs
to another configuration waits under ``superseded/<cell>/`` and comes back when its configuration does. Every step is
a rename, or a write before a delete, so that a crash at any point loses nothing; what it may leave twice is put
right by the next call, and never read twice (:meth:`ipsolve.runs.results.RunFolder.results`).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable

import pyarrow as pa

from ipsolve.runs.cells import Cell
from ipsolve.runs.results import ATTEMPTS, FAILURES, SUPERSEDED, cell_of
from ray_jobs.pipeline.folder.batches import file_name, folder_of, read_rows
from ray_jobs.pipeline.folder.index import TORN, RunIndex, kind_of

COMPACT_BYTES = 256 * 2**20


def tidy(index: RunIndex, cells: Iterable[Cell], wanted: set[str], retry_failed: bool = False) -> list[str]:
    """Make the rule of this module true; return a line for each thing that had to be done.

    Args:
        index: of the run; it is brought up to date first.
        cells: the cells of the present configuration, the reference cell among them.
        wanted: the image ids of the present configuration.
        retry_failed: forget the failures of these cells, so that their images are tried again.
    """
    run, notes = index.run, list[str]()
    by_hash = {cell.hash: cell for cell in cells}
    if torn_writes := run.sweep():
        notes.append(f"{torn_writes} files that a killed process left half written were deleted")
    run.empty(ATTEMPTS)  # deaths are counted within one driver's life: starting again is a new chance
    index.refresh()
    stale = [path for path in [*index.others, *index.present, *index.torn] if cell_of(path) not in by_hash]
    for path in stale:
        index.move(path, run.path(SUPERSEDED, cell_of(path), kind_of(run, path), os.path.basename(path)))
    if stale:
        moved = len({cell_of(path) for path in stale})
        notes.append(f"rows of {moved} cells that are not in this configuration moved to {SUPERSEDED}/")
    aside = [path for path in [*index.contents, *index.torn] if kind_of(run, path) == SUPERSEDED]
    for path in aside:
        below = os.path.dirname(path).removeprefix(run.path(SUPERSEDED)).strip("/").split("/")
        if len(below) == 2 and below[0] in by_hash:
            folder = (FAILURES,) if below[1] == FAILURES else folder_of(by_hash[below[0]])
            index.move(path, run.path(*folder, os.path.basename(path)))
    if retry_failed:
        index.delete(run.files(FAILURES))
    return notes + settle(index, wanted)


def settle(index: RunIndex, wanted: Collection[str] | None = None) -> list[str]:
    """Set torn files aside and leave each image of a cell once; return a line for each torn file.

    Args:
        wanted: as in :func:`each_once`.
    """
    run = index.refresh().run
    torn = [path for path in index.torn if kind_of(run, path) != SUPERSEDED]
    for path in torn:
        run.move(path, run.path(SUPERSEDED, TORN, kind_of(run, path), os.path.basename(path)))
    index.torn = []
    each_once(index, wanted)
    return [f"torn file {os.path.basename(path)} moved to {SUPERSEDED}/torn; its images are missing" for path in torn]


def each_once(index: RunIndex, wanted: Collection[str] | None = None) -> None:
    """Leave each image of a cell in one file alone, with all its samples, a result rather than a failure.

    Args:
        wanted: the images of the present configuration, others are set aside; None, all.
    """
    run, contents = index.run, index.present
    seen: dict[str, set[str]] = defaultdict(set)
    # results before failures, and large files first: what a crashed compaction left behind is in the small ones
    for path in sorted(contents, key=lambda path: (kind_of(run, path) == FAILURES, -len(contents[path].image_ids))):
        ids, known = contents[path].image_ids.to_pylist(), seen[cell_of(path)]
        extra = [wanted is not None and name not in wanted for name in ids]
        rows, keep = set[tuple[str, int]](), list[bool]()  # a merge that was killed can leave a row twice in a file
        for row, more in zip(zip(ids, contents[path].samples.to_pylist(), strict=True), extra, strict=True):
            keep.append(not more and row[0] not in known and row not in rows)
            rows.add(row)
        known.update(name for name, kept in zip(ids, keep, strict=True) if kept)
        if all(keep):
            continue
        table = read_rows(run, path)
        if any(extra):
            aside = table.filter(pa.array(extra))
            name = file_name(cell_of(path), aside["image_id"].to_pylist())
            index.write(run.path(SUPERSEDED, cell_of(path), kind_of(run, path), name), aside)
        if any(keep):
            index.write(path, table.filter(pa.array(keep)))
        else:
            index.delete([path])
