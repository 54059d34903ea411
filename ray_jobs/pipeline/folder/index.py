"""What the files of rows of a run hold: looked at once, and kept up with what changes."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ipsolve.files.filesystems import is_of_store
from ipsolve.runs.cells import Cell
from ipsolve.runs.results import FAILURES, REFERENCES, RESULTS, SUPERSEDED, RunFolder, cell_of
from ray_jobs.pipeline.folder.batches import merge_files

TORN = "torn"  # under SUPERSEDED


@dataclass(frozen=True)
class Content:
    """What is in one file.

    Attributes:
        image_ids, samples: of its rows, in their order.
        seconds: summed over its rows.
        nulls: rows without a value, by column; a column that is not there is absent.
        unreadable: image ids whose failure is that they could not be read.
    """

    image_ids: pa.Array
    samples: pa.Array
    seconds: float
    nulls: Mapping[str, int]
    unreadable: frozenset[str] = frozenset()

    @classmethod
    def read(cls, run: RunFolder, path: str) -> Content:
        """Look into a file: its footer, and the few columns that count."""
        with run.filesystem.open_input_file(path) as opened:
            file = pq.ParquetFile(opened)
            footer = file.metadata
            columns = [name for name in ("image_id", "sample", "seconds", "stage") if name in file.schema_arrow.names]
            table = file.read(columns=columns)
        nulls = Counter[str]()
        for group in map(footer.row_group, range(footer.num_row_groups)):
            for leaf in map(group.column, range(group.num_columns)):
                if leaf.statistics is not None:  # pictures have none
                    nulls[leaf.path_in_schema.split(".")[0]] += leaf.statistics.null_count
        seconds = pc.sum(table["seconds"], min_count=0).as_py() if "seconds" in columns else 0.0
        unreadable = table.filter(pc.field("stage") == "read")["image_id"].to_pylist() if "stage" in columns else []
        # failures and the ground truth have no samples, nor had results before there were any
        zeros = pa.chunked_array([pa.array([0] * len(table), pa.int64())])
        samples = table["sample"].fill_null(0).cast(pa.int64()) if "sample" in columns else zeros
        ids = table["image_id"].cast(pa.string())
        return cls(ids.combine_chunks(), samples.combine_chunks(), seconds, nulls, frozenset(unreadable))

    @classmethod
    def joined(cls, parts: Collection[Content]) -> Content:
        """Return the content of a file that holds the rows of others."""
        nulls = Counter[str]()
        for name in {name for part in parts for name in part.nulls}:
            nulls[name] = sum(part.nulls.get(name, len(part.image_ids)) for part in parts)
        ids = pa.concat_arrays([part.image_ids for part in parts])
        unreadable = frozenset().union(*(part.unreadable for part in parts))
        samples = pa.concat_arrays([part.samples for part in parts])
        return cls(ids, samples, sum(part.seconds for part in parts), nulls, unreadable)


def scan(run: RunFolder, files: Iterable[str]) -> tuple[dict[str, Content], list[str]]:
    """Return what is in each file, and the files that are torn; one that has gone meanwhile is in neither."""
    found, torn = dict[str, Content](), list[str]()

    def look(path: str) -> None:
        try:
            found[path] = Content.read(run, path)
        except FileNotFoundError:  # an actor at work has put it into a larger one
            pass
        except (pa.ArrowException, KeyError, OSError) as error:
            if not is_damage(error):
                raise
            torn.append(path)

    paths = list(files)
    run.each(look, paths)
    return {path: found[path] for path in paths if path in found}, sorted(torn)


def is_damage(error: Exception) -> bool:
    """Return whether it was the content of a file that could not be read: one that cannot be had now is not torn."""
    return isinstance(error, pa.ArrowException | KeyError) or (isinstance(error, OSError) and not is_of_store(error))


def rows_of(run: RunFolder) -> list[str]:
    """Return the files of rows that belong to the present configuration."""
    return [path for folder in (RESULTS, FAILURES, REFERENCES) for path in run.files(folder)]


def kind_of(run: RunFolder, path: str) -> str:
    """Return which folder of the run a file is in: results, failures, references, superseded."""
    return path.removeprefix(f"{run.root}/").split("/", 1)[0]


class RunIndex:
    """The files of rows of a run.

    A file is opened once in the life of an index, however often the run is planned, counted and put in order: what is
    done to files through :func:`ray_jobs.pipeline.folder.tidy.tidy` and :meth:`compact` is kept up, what actors make
    is found by :meth:`refresh`, a listing.

    Args:
        cells: the cells that count; files of others are known by name alone. None: all.

    Attributes:
        contents: of each whole file of those cells, also of those that are set aside under ``superseded``.
        torn: files that cannot be read.
        others: files of rows of other cells.
    """

    def __init__(self, run: RunFolder, cells: Iterable[Cell] | None = None) -> None:
        self.run = run
        self.hashes = None if cells is None else {cell.hash for cell in cells}
        self.contents: dict[str, Content] = {}
        self.torn: list[str] = []
        self.others: list[str] = []
        self._sizes: dict[str, int] = {}

    def refresh(self) -> RunIndex:
        """Look into the files that are new since the last time, and forget those that are gone."""
        sizes: dict[str, int] = {}
        for folder in (RESULTS, FAILURES, REFERENCES):
            sizes |= self.run.sizes(folder)
        self.others = [path for path in sizes if not self._counts(path)]
        aside = self.run.path(SUPERSEDED, TORN)
        sizes |= {path: size for path, size in self.run.sizes(SUPERSEDED).items() if not path.startswith(f"{aside}/")}
        sizes = {path: size for path, size in sizes.items() if self._counts(path)}
        new = [path for path, size in sizes.items() if self._sizes.get(path) != size]
        found, self.torn = scan(self.run, [*new, *(path for path in self.torn if path in sizes and path not in new)])
        kept = {path: content for path, content in self.contents.items() if path in sizes}
        self.contents = dict(sorted((kept | found).items()))
        self._sizes = sizes
        return self

    def _counts(self, path: str) -> bool:
        return self.hashes is None or cell_of(path) in self.hashes

    @property
    def present(self) -> dict[str, Content]:
        """The files that are not set aside."""
        return {path: each for path, each in self.contents.items() if kind_of(self.run, path) != SUPERSEDED}

    def move(self, path: str, target: str) -> None:
        """Give a file another path."""
        self.run.move(path, target)
        if path in self.contents:
            self.contents[target] = self.contents.pop(path)
            self._sizes[target] = self._sizes.pop(path)

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files."""
        paths = list(paths)
        self.run.delete(paths)
        for path in paths:
            self.contents.pop(path, None)
            self._sizes.pop(path, None)

    def write(self, path: str, table: pa.Table) -> None:
        """Write a file of rows durably, or write it anew."""
        self.run.write_table(path, table, durable=True)
        self._look_again(path)

    def merge(self, paths: list[str]) -> None:
        """Put files of rows of one cell into one."""
        if len(paths) < 2:
            return
        target = merge_files(self.run, paths)
        content = Content.joined([self.contents[path] for path in paths])
        for path in paths:
            self.contents.pop(path)
            self._sizes.pop(path)
        self.contents[target] = content
        self._sizes[target] = int(self.run.filesystem.get_file_info(target).size)

    def _look_again(self, path: str) -> None:
        if self._counts(path):
            self.contents[path] = Content.read(self.run, path)
            self._sizes[path] = int(self.run.filesystem.get_file_info(path).size)

    def done(self, cells: Iterable[Cell], wanted: Collection[str]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
        """Return the image ids with a result, and those with a failure, of each cell by its hash.

        The ground truth has no failures of its own: an image that no cell could read counts as failed for it.
        """
        done: dict[str, set[str]] = defaultdict(set)
        failed: dict[str, set[str]] = defaultdict(set)
        unreadable = set[str]()
        wanted = set(wanted)
        for path, content in self.contents.items():
            is_failure = os.path.basename(os.path.dirname(path)) == FAILURES
            (failed if is_failure else done)[cell_of(path)].update(wanted.intersection(content.image_ids.to_pylist()))
            unreadable |= content.unreadable
        for cell in cells:
            if cell.is_reference:
                failed[cell.hash] = unreadable & wanted
            failed[cell.hash] -= done[cell.hash]
        return done, failed

    def seconds(self, cells: Iterable[Cell]) -> dict[str, float]:
        """Return the mean seconds that an image took, by the hash of each cell that has any."""
        sums: dict[str, float] = defaultdict(float)
        images: dict[str, set[str]] = defaultdict(set)
        for path, content in self.contents.items():
            if os.path.basename(os.path.dirname(path)) != FAILURES:
                sums[cell_of(path)] += content.seconds
                images[cell_of(path)].update(content.image_ids.to_pylist())
        hashes = {cell.hash for cell in cells if not cell.is_reference}
        return {name: sums[name] / len(images[name]) for name in sums if name in hashes and images[name]}

    def lacking(self, column: str) -> dict[str, tuple[int, int]]:
        """Return by cell hash how many rows of results lack a value in a column, and how many rows there are."""
        rows, lacking = Counter[str](), Counter[str]()
        for path, content in self.present.items():
            if kind_of(self.run, path) == RESULTS:
                rows[cell_of(path)] += len(content.image_ids)
                lacking[cell_of(path)] += content.nulls.get(column, len(content.image_ids))
        return {name: (lacking[name], rows[name]) for name in rows}

    def compact(self, most: int) -> None:
        """Gather the small files of each cell into few of at most ``most`` bytes."""
        groups: dict[str, list[str]] = defaultdict(list)
        for path in self.present:
            groups[f"{cell_of(path)}/{kind_of(self.run, path)}"].append(path)
        for group in groups.values():
            heap, size = list[str](), 0
            for path in group:
                if self._sizes[path] > most // 4:  # large enough: writing it again would gain little
                    continue
                if heap and size + self._sizes[path] > most:
                    self.merge(heap)
                    heap, size = [], 0
                heap.append(path)
                size += self._sizes[path]
            self.merge(heap)
