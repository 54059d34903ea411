"""The files of a run, and how they are read: the contract between the job that writes and everything that reads.

::

    runs/<name>/
      config.yaml  provenance.json  status.json
      results/task=T/solver=S/<cell>-<batch>.parquet     a row per image, seed and sample
      failures/<cell>-<batch>.parquet                    a row per image and seed that has no result, and why
      references/<cell>-<batch>.parquet                  the ground truth and its features, a row per image
      superseded/<cell>/...                              rows of configurations that are no longer the run's
      attempts/                                          batches that were begun, until the work is done
      summary.csv  comparisons.csv  report.html  report.md  figures/
      curves.parquet                                     running means: see :mod:`ipsolve.runs.curves`

``<cell>`` is the hash of everything that the numbers of a (task, solver, seed) depend on, ``<batch>`` a hash of its
image ids. Task and solver of a result are its hive path and nothing else: a column of the same name inside the
file makes pyarrow and pandas refuse the folder.

The columns of results are made when they are asked for (:func:`result_schema`): a metric has one by being registered.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
from numpy.typing import NDArray

from ipsolve.files.folder import Folder
from ipsolve.metrics import FEATURES, METRICS

RESULTS = "results"
FAILURES = "failures"
REFERENCES = "references"
SUPERSEDED = "superseded"
ATTEMPTS = "attempts"

KEY = ("task", "solver", "seed", "image_id", "sample")
FAILURE_KEY = KEY[:-1]  # an image fails as a whole
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


COUNTS = ("denoiser_calls", "denoiser_backward_calls", "decoder_calls", "decoder_backward_calls", "encoder_calls")
_LATER = ("encoder_calls",)  # of COUNTS: files of earlier runs have none, and are read with nulls
_STANDARD = ("psnr", "ssim", "lpips")  # of every paper: always there
_STANDARD_FEATURES = ("features", "inception_features")


def image_metrics(metrics: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return the columns of metrics of images, those of every paper first.

    Args:
        metrics: their names; all that are registered if left out.
    """
    return (*_STANDARD, *sorted(set(METRICS if metrics is None else metrics) - {*_STANDARD}))


def count_fields(kind: pa.DataType) -> list[pa.Field]:
    """Return the columns of network calls of a kind of numbers."""
    return [pa.field(name, kind, nullable=name in _LATER) for name in COUNTS]


def result_schema(metrics: Iterable[str] | None = None, features: Iterable[str] | None = None) -> pa.Schema:
    """Return the columns of results.

    psnr in dB, consistency in units of the noise (null where there is none), seconds: the measured time of the batch's
    solve divided by its size, *_calls: network calls made for the image, images as PNG. Null: not measured. A null
    sample is 0, the only one of the image: earlier runs have no such column.

    Args:
        metrics: names of metrics of images; all that are registered if left out.
        features: columns of feature extractors; likewise.
    """
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("seed", pa.int64(), nullable=False),
            pa.field("sample", pa.int64()),
            *(pa.field(name, pa.float64()) for name in (*image_metrics(metrics), "consistency")),
            *count_fields(pa.int64()),
            pa.field("seconds", pa.float64(), nullable=False),
            pa.field("measurement", pa.binary()),
            pa.field("reconstruction", pa.binary(), nullable=False),
            *_feature_fields(features),
        ]
    )


def reference_schema(features: Iterable[str] | None = None) -> pa.Schema:
    """Return the columns of the ground truth; images that could not be read are in failures instead.

    digest: sha256 of the image as it was read, null in rows of earlier runs.

    Args:
        features: columns of feature extractors; those of all that are registered if left out.
    """
    own = [pa.field("image_id", pa.string(), nullable=False), pa.field("image", pa.binary(), nullable=False)]
    return pa.schema([*own, pa.field("digest", pa.string()), *_feature_fields(features)])


def _feature_fields(columns: Iterable[str] | None) -> list[pa.Field]:
    names = {FEATURES[name].column for name in FEATURES} if columns is None else set(columns)
    # variable-length lists: pyarrow cannot read a null back from a column of fixed-size lists
    kind = pa.list_(pa.float16())
    return [pa.field(name, kind) for name in (*_STANDARD_FEATURES, *sorted(names - {*_STANDARD_FEATURES}))]


def _schema(folder: str) -> pa.Schema:
    if folder == RESULTS:
        return pa.schema([*result_schema(), *HIVE.schema])
    return reference_schema() if folder == REFERENCES else FAILURE_SCHEMA


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
        schema: pa.Schema | None = None,
    ) -> pa.Table:
        """Return the result rows with their ``task`` and ``solver``, each (task, solver, seed, image, sample) once.

        Args:
            columns: the columns wanted (all); asking for few is cheap, images are not read.
            task: only this task.
            solver: only this solver.
            schema: of the rows of this kind of run; that of an evaluation, if left out.
        """
        wanted = {"task": task, "solver": solver}
        selection = [pc.field(name) == value for name, value in wanted.items() if value is not None]
        filters = selection[0] if len(selection) == 1 else (selection[0] & selection[1] if selection else None)
        schema = pa.schema([*(schema or result_schema()), *HIVE.schema])
        key = [name for name in KEY if name in schema.names]
        names = None if columns is None else list(dict.fromkeys((*key, *columns)))
        table = _once(_whole(self._read(RESULTS, names, filters, schema)), key)
        return table if columns is None else table.select(list(columns))

    def references(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the ground truth, a row per image: ``image_id, image, digest, features, inception_features``."""
        names = None if columns is None else list(dict.fromkeys(("image_id", *columns)))
        table = _once(self._read(REFERENCES, names), ("image_id",))
        return table if columns is None else table.select(list(columns))

    def failures(self) -> pa.Table:
        """Return the failures, a row per (task, solver, seed, image) without a result."""
        return _once(self._read(FAILURES), FAILURE_KEY)

    def pick(self, columns: Sequence[str], image_ids: Collection[str], *folder: str) -> pa.Table:
        """Return the rows of a few images in the files of ``folder``; of all others only the names are read."""
        files = self.files(*folder)
        if not files:
            return pa.table({name: pa.array([], pa.null()) for name in columns})
        wanted = pc.field("image_id").isin(list(image_ids))
        found = self.dataset(files, folder[0]).to_table(columns=["__filename"], filter=wanted)
        holding = found["__filename"].unique().to_pylist()
        return _whole(self.dataset(holding or files[:1], folder[0]).to_table(columns=list(columns), filter=wanted))

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
        files, schema = self.files(folder), schema or _schema(folder)
        if not files:
            return (schema if columns is None else pa.schema([schema.field(name) for name in columns])).empty_table()
        return self.dataset(files, folder, schema).to_table(columns=columns, filter=filters)

    def dataset(self, files: Sequence[str], folder: str, schema: pa.Schema | None = None) -> pds.Dataset:
        """Return files of rows of one folder as a dataset; results have their task and solver as columns.

        A file that was written before a metric was registered has nulls for it.
        """
        return pds.dataset(
            list(files),
            schema=schema or _schema(folder),
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
        self._key = ("image_id", "seed", "sample") if cell else ("image_id",)
        self._wanted = wanted if wanted is None else frozenset(wanted)
        self.count = 0

    def __iter__(self) -> Iterator[NDArray[np.float16]]:
        self.count = 0
        seen: set[tuple[str, ...]] = set()  # a crash between two steps of a compaction leaves a row in two files
        for batch in self._batches():
            table = _whole(pa.Table.from_batches([batch.filter(pc.is_valid(batch[self._column]))]))
            keep = []
            for key in zip(*(table[name].to_pylist() for name in self._key), strict=True):
                keep.append(key not in seen and (self._wanted is None or key[0] in self._wanted))
                if keep[-1]:
                    seen.add(key)
            rows = table[self._column].filter(pa.array(keep, pa.bool_())).combine_chunks()
            if len(rows):
                self.count += len(rows)
                yield np.asarray(rows.flatten().to_numpy(zero_copy_only=False)).reshape(len(rows), -1)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        folder = (RESULTS, f"task={self._cell[0]}", f"solver={self._cell[1]}") if self._cell else (REFERENCES,)
        columns = [*self._key, self._column]
        files = self._run.files(*folder)
        if files:
            reader = self._run.dataset(files, folder[0])
            # two row groups ahead, not 16 of each of four files: a row group is up to 256 MB where images are in it
            yield from reader.to_batches(columns=columns, batch_size=self.ROWS, batch_readahead=2, fragment_readahead=1)


def _whole(table: pa.Table) -> pa.Table:
    """Return rows with the sample that they are of where an earlier run has not said so."""
    if "sample" not in table.column_names:
        return table
    return table.set_column(table.column_names.index("sample"), "sample", pc.fill_null(table["sample"], 0))


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
