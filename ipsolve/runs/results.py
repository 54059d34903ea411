"""The files of a run, and how they are read: the contract between the job that writes and everything that reads.

::

    runs/<name>/
      config.yaml  provenance.json  status.json
      results/task=T/solver=S/<cell>-<batch>.parquet     a row per image and seed
      failures/<cell>-<batch>.parquet                    a row per image and seed that has no result, and why
      references/<cell>-<batch>.parquet                  the ground truth and its features, a row per image
      superseded/<cell>/...                              rows of configurations that are no longer the run's
      attempts/                                          batches that were begun, until the work is done
      summary.csv  comparisons.csv  report.html  report.md  figures/

``<cell>`` is the hash of everything that the numbers of a (task, solver, seed) depend on, ``<batch>`` a hash of its
image ids. Task and solver of a result are its hive path and nothing else: a column of the same name inside the
file makes pyarrow and pandas refuse the folder.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
from numpy.typing import NDArray

from ipsolve.files.folder import Folder
from ipsolve.metrics import METRICS

RESULTS = "results"
FAILURES = "failures"
REFERENCES = "references"
SUPERSEDED = "superseded"
ATTEMPTS = "attempts"

KEY = ("task", "solver", "seed", "image_id")
HIVE = pds.partitioning(pa.schema([("task", pa.string()), ("solver", pa.string())]), flavor="hive")

FAILURE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("solver", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),  # read, solve, score or crash
        pa.field("error", pa.string(), nullable=False),
    ]
)


# variable-length lists: pyarrow cannot read a null back from a column of fixed-size lists
_FEATURES = [pa.field("features", pa.list_(pa.float16())), pa.field("inception_features", pa.list_(pa.float16()))]
# the metrics of images, those of every paper first; one that is registered gets its column by that
IMAGE_METRICS = ("psnr", "ssim", "lpips", *sorted(set(METRICS) - {"psnr", "ssim", "lpips"}))
COUNTS = ("denoiser_calls", "denoiser_backward_calls", "decoder_calls", "decoder_backward_calls")

# psnr in dB, consistency in units of the noise (null where there is none), seconds: the measured time of the batch's
# solve divided by its size, *_calls: network calls made for the image, images as PNG. Null: not measured.
RESULT_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in (*IMAGE_METRICS, "consistency")),
        *(pa.field(name, pa.int64(), nullable=False) for name in COUNTS),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("measurement", pa.binary()),
        pa.field("reconstruction", pa.binary(), nullable=False),
        *_FEATURES,
    ]
)

# images that could not be read are absent here and in failures instead
REFERENCE_SCHEMA = pa.schema(
    [pa.field("image_id", pa.string(), nullable=False), pa.field("image", pa.binary(), nullable=False), *_FEATURES]
)

_SCHEMAS = {
    RESULTS: pa.schema([*RESULT_SCHEMA, *HIVE.schema]),
    REFERENCES: REFERENCE_SCHEMA,
    FAILURES: FAILURE_SCHEMA,
}


def feature_matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return a column of feature lists as (n, d), rows without features left out."""
    present = column.drop_null()
    values = present.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float32).reshape(len(present), len(values) // max(len(present), 1))


def cell_of(path: str) -> str:
    """Return the cell hash in a file's name."""
    return os.path.basename(path).split("-", 1)[0]


class RunFolder(Folder):
    """A run: a local path or a URI such as ``s3://bucket/runs/demo``."""

    def results(
        self,
        columns: Sequence[str] | None = None,
        task: str | None = None,
        solver: str | None = None,
        schema: pa.Schema = RESULT_SCHEMA,
    ) -> pa.Table:
        """Return the result rows with their ``task`` and ``solver``, each (task, solver, seed, image) once.

        Args:
            columns: the columns wanted (all); asking for few is cheap, images are not read.
            task: only this task.
            solver: only this solver.
            schema: of the rows of this kind of run.
        """
        wanted = {"task": task, "solver": solver}
        selection = [pc.field(name) == value for name, value in wanted.items() if value is not None]
        filters = selection[0] if len(selection) == 1 else (selection[0] & selection[1] if selection else None)
        names = None if columns is None else list(dict.fromkeys((*KEY, *columns)))
        table = self._read(RESULTS, names, filters, pa.schema([*schema, *HIVE.schema]))
        table = _once(table, KEY)
        return table if columns is None else table.select(list(columns))

    def references(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the ground truth, a row per image: ``image_id, image, features, inception_features``."""
        names = None if columns is None else list(dict.fromkeys(("image_id", *columns)))
        table = _once(self._read(REFERENCES, names), ("image_id",))
        return table if columns is None else table.select(list(columns))

    def failures(self) -> pa.Table:
        """Return the failures, a row per (task, solver, seed, image) without a result."""
        return _once(self._read(FAILURES), KEY)

    def pick(self, columns: Sequence[str], image_ids: Collection[str], *folder: str) -> pa.Table:
        """Return the rows of a few images in the files of ``folder``; of all others only the names are read."""
        files = self.files(*folder)
        if not files:
            return pa.table({name: pa.array([], pa.null()) for name in columns})
        wanted = pc.field("image_id").isin(list(image_ids))
        found = self.dataset(files, folder[0]).to_table(columns=["__filename"], filter=wanted)
        holding = found["__filename"].unique().to_pylist()
        return self.dataset(holding or files[:1], folder[0]).to_table(columns=list(columns), filter=wanted)

    def features(self, column: str, cell: tuple[str, str] | None, wanted: Collection[str] | None = None) -> Features:
        """Return a column of feature lists, to be read in pieces.

        Args:
            column: its name.
            cell: the (task, solver) whose results are meant; None, the ground truth.
            wanted: only these images.
        """
        return Features(self, column, cell, wanted)

    def _read(
        self, folder: str, columns: list[str] | None = None, filters: object = None, schema: pa.Schema | None = None
    ) -> pa.Table:
        files, schema = self.files(folder), schema or _SCHEMAS[folder]
        if not files:
            return (schema if columns is None else pa.schema([schema.field(name) for name in columns])).empty_table()
        return self.dataset(files, folder, schema).to_table(columns=columns, filter=filters)

    def dataset(self, files: Sequence[str], folder: str, schema: pa.Schema | None = None) -> pds.Dataset:
        """Return files of rows of one folder as a dataset; results have their task and solver as columns.

        A file that was written before a metric was registered has nulls for it.
        """
        return pds.dataset(
            list(files),
            schema=schema or _SCHEMAS[folder],
            format="parquet",
            filesystem=self.filesystem,
            partitioning=HIVE if folder == RESULTS else None,
            partition_base_dir=self.path(folder),
        )


class Features:
    """Features of a set of images, an iterable of (n, d) arrays as they are on disk; each row once.

    Inception's features of ten million images take 40 GB: what needs a look at each of them only takes them in pieces.
    ``count`` is the number of rows, once they have been gone through.
    """

    ROWS = 4096

    def __init__(
        self, run: RunFolder, column: str, cell: tuple[str, str] | None, wanted: Collection[str] | None
    ) -> None:
        self._run, self._column, self._cell = run, column, cell
        self._wanted = wanted if wanted is None else frozenset(wanted)
        self.count = 0

    def __iter__(self) -> Iterator[NDArray[np.float16]]:
        self.count = 0
        seen: set[tuple[int, str]] = set()  # a crash between two steps of a compaction leaves a row in two files
        for batch in self._batches():
            table = batch.filter(pc.is_valid(batch[self._column]))
            seeds = table["seed"].to_pylist() if self._cell else [0] * len(table)
            keep = []
            for key in zip(seeds, table["image_id"].to_pylist(), strict=True):
                keep.append(key not in seen and (self._wanted is None or key[1] in self._wanted))
                if keep[-1]:
                    seen.add(key)
            rows = table[self._column].filter(pa.array(keep, pa.bool_()))
            if len(rows):
                self.count += len(rows)
                yield np.asarray(rows.flatten().to_numpy(zero_copy_only=False)).reshape(len(rows), -1)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        folder = (RESULTS, f"task={self._cell[0]}", f"solver={self._cell[1]}") if self._cell else (REFERENCES,)
        columns = ["image_id", self._column, *(["seed"] if self._cell else [])]
        files = self._run.files(*folder)
        if files:
            reader = self._run.dataset(files, folder[0])
            # two row groups ahead, not 16 of each of four files: a row group is up to 256 MB where images are in it
            yield from reader.to_batches(columns=columns, batch_size=self.ROWS, batch_readahead=2, fragment_readahead=1)


def _once(table: pa.Table, key: Sequence[str]) -> pa.Table:
    """Keep the first row of each key: a crash between two steps of a compaction leaves a row in two files."""
    index = pa.array(range(len(table)), pa.int64())
    first = (
        pa.table([*(table[name] for name in key), index], [*key, "index"])
        .group_by(list(key))
        .aggregate([("index", "min")])
    )
    if len(first) == len(table):
        return table
    rows = first["index_min"]
    return table.take(rows.take(pc.sort_indices(rows)))
