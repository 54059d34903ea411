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
import pyarrow.compute as pc

from ipsolve.files.filesystems import is_of_store
from ipsolve.runs.cells import Cell
from ipsolve.runs.results import ATTEMPTS, FAILURES, REFERENCES, RESULTS, SUPERSEDED, RunFolder, cell_of
from ray_jobs.pipeline.folder.batches import file_name, folder_of, merge_files, read_ids, read_rows

Index = dict[str, list[str]]  # image ids by file
COMPACT_BYTES = 256 * 2**20


def scan(run: RunFolder, files: Iterable[str]) -> tuple[Index, list[str]]:
    """Return the image ids in each file, and the files that are torn; one that has gone meanwhile is in neither."""
    index, torn = Index(), list[str]()

    def look(path: str) -> None:
        try:
            index[path] = read_ids(run, path)
        except FileNotFoundError:  # an actor at work has put it into a larger one
            pass
        except (pa.ArrowException, KeyError, OSError) as error:
            if not is_damage(error):
                raise
            torn.append(path)

    paths = list(files)
    run.each(look, paths)
    return {path: index[path] for path in paths if path in index}, sorted(torn)


def is_damage(error: Exception) -> bool:
    """Return whether it was the content of a file that could not be read: one that cannot be had now is not torn."""
    return isinstance(error, pa.ArrowException | KeyError) or (isinstance(error, OSError) and not is_of_store(error))


def settle(run: RunFolder, wanted: Collection[str] | None = None) -> list[str]:
    """Set torn files aside and leave each image of a cell once; return a line for each torn file.

    Args:
        wanted: as in :func:`each_once`.
    """
    index, torn = scan(run, rows_of(run))
    for path in torn:
        run.move(path, run.path(SUPERSEDED, "torn", _kind(run, path), os.path.basename(path)))
    each_once(run, index, wanted)
    return [f"torn file {os.path.basename(path)} moved to {SUPERSEDED}/torn; its images are missing" for path in torn]


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
    stale = [path for path in rows_of(run) if cell_of(path) not in by_hash]
    for path in stale:
        run.move(path, run.path(SUPERSEDED, cell_of(path), _kind(run, path), os.path.basename(path)))
    if stale:
        moved = len({cell_of(path) for path in stale})
        notes.append(f"rows of {moved} cells that are not in this configuration moved to {SUPERSEDED}/")
    for path in run.files(SUPERSEDED):
        below = os.path.dirname(path).removeprefix(run.path(SUPERSEDED)).strip("/").split("/")
        if len(below) == 2 and below[0] in by_hash:
            folder = (FAILURES,) if below[1] == FAILURES else folder_of(by_hash[below[0]])
            run.move(path, run.path(*folder, os.path.basename(path)))
    if retry_failed:
        run.delete(run.files(FAILURES))
    return notes + settle(run, wanted)


def done_images(
    run: RunFolder, cells: Iterable[Cell], wanted: set[str]
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return the image ids with a result, and those with a failure, of each cell; nothing is changed.

    The ground truth has no failures of its own: an image that no cell could read counts as failed for it.
    """
    cells = list(cells)
    hashes = {cell.hash for cell in cells}
    index, _ = scan(run, [p for p in [*rows_of(run), *run.files(SUPERSEDED)] if cell_of(p) in hashes])
    done: dict[str, set[str]] = defaultdict(set)
    failed: dict[str, set[str]] = defaultdict(set)
    failures = list[str]()
    for path, ids in index.items():
        is_failure = os.path.basename(os.path.dirname(path)) == FAILURES
        (failed if is_failure else done)[cell_of(path)].update(wanted.intersection(ids))
        failures += [path] if is_failure else []
    for name in hashes:
        failed[name] -= done[name]
    for cell in cells:
        if cell.is_reference and failures:
            unreadable = run.dataset(failures, FAILURES).to_table(["image_id"], filter=pc.field("stage") == "read")
            failed[cell.hash] = {*unreadable["image_id"].to_pylist()} & wanted - done[cell.hash]
    return done, failed


def compact(run: RunFolder) -> None:
    """Gather the small files of each cell into few of at most 256 MB."""
    groups: dict[str, list[str]] = defaultdict(list)
    sizes = {path: size for folder in (RESULTS, FAILURES, REFERENCES) for path, size in run.sizes(folder).items()}
    for path in sizes:
        groups[f"{cell_of(path)}/{_kind(run, path)}"].append(path)
    for group in groups.values():
        heap, size = list[str](), 0
        for path in group:
            if sizes[path] > COMPACT_BYTES // 4:  # large enough: writing it again would gain little
                continue
            if heap and size + sizes[path] > COMPACT_BYTES:
                merge_files(run, heap)
                heap, size = [], 0
            heap.append(path)
            size += sizes[path]
        merge_files(run, heap)


def each_once(run: RunFolder, index: Index, wanted: Collection[str] | None = None) -> None:
    """Leave each image of a cell in one row alone, a result rather than a failure.

    Args:
        index: the ids in each file, as :func:`scan` returns them.
        wanted: the images of the present configuration, others are set aside; None, all.
    """
    seen: dict[str, set[str]] = defaultdict(set)
    # results before failures, and large files first: what a crashed compaction left behind is in the small ones
    for path in sorted(index, key=lambda path: (_kind(run, path) == FAILURES, -len(index[path]))):
        ids, known = index[path], seen[cell_of(path)]
        extra = [wanted is not None and name not in wanted for name in ids]
        keep = list[bool]()
        for name, more in zip(ids, extra, strict=True):
            keep.append(not more and name not in known)
            if keep[-1]:
                known.add(name)
        if not all(keep):
            table = read_rows(run, path)
            if any(extra):
                aside = table.filter(pa.array(extra))
                name = file_name(cell_of(path), aside["image_id"].to_pylist())
                run.write_table(run.path(SUPERSEDED, cell_of(path), _kind(run, path), name), aside, durable=True)
            if any(keep):
                run.write_table(path, table.filter(pa.array(keep)), durable=True)
            else:
                run.filesystem.delete_file(path)


def rows_of(run: RunFolder) -> list[str]:
    """Return the files of rows that belong to the present configuration."""
    return [path for folder in (RESULTS, FAILURES, REFERENCES) for path in run.files(folder)]


def _kind(run: RunFolder, path: str) -> str:
    return path.removeprefix(f"{run.root}/").split("/", 1)[0]
