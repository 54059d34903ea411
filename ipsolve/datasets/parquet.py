"""Images in a column of Parquet files."""

from __future__ import annotations

import bisect
import io
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from ipsolve.datasets.base import Image, ImageError, Source, digest
from ipsolve.datasets.captions import KEYS
from ipsolve.datasets.columns import image_column, is_identifier, is_image, is_text
from ipsolve.datasets.decoding import centre_square, read_rgb
from ipsolve.datasets.listed import Listed
from ipsolve.datasets.reading import Reading
from ipsolve.files.filesystems import is_of_store, patiently
from ipsolve.requests.errors import RequestError

ID_NAME = "image_id"
_THREADS = 16


class ParquetImages(Source):
    """Encoded images in a binary column, or in the ``bytes`` field of a struct column, however deep or in a list.

    A struct without bytes, as ``datasets`` writes a column of image paths, is the file at its ``path`` (a relative one
    is taken from the Parquet file's folder).

    Only footers are read when the source is made (and the id column, if there is one); images are read one row
    group at a time. Identifiers are the id column's values, else ``file#row``.

    Args:
        files: the files, in order.
        image_column_name: as :class:`~ipsolve.datasets.columns.Column` writes it; None takes the binary column
            called ``image`` (or alike), else the only one.
        id_column: its name; None takes ``image_id`` where it exists.
        reading: of what are no photographs: the bytes of npy files, gray images, or (nested) lists of numbers.
        captions, negative_captions: the columns of text that images come with.

    Raises:
        RequestError: a file is not Parquet, lacks one of the columns or has another kind of it, holds paths under which
            there is nothing, or identifiers repeat or are null.
    """

    def __init__(
        self,
        files: Listed,
        image_column_name: str | None = None,
        id_column: str | None = None,
        reading: Reading | None = None,
        captions: str | None = None,
        negative_captions: str | None = None,
    ) -> None:
        self.files = files
        self.reading, self.caption_columns = reading, (captions, negative_captions)
        self._last: dict[str, tuple[int, Any]] = {}
        self._groups: list[tuple[int, int, int]] = []  # (file, row group, row of the file at which it starts)
        lengths: list[int] = []
        schemas = []
        with ThreadPoolExecutor(_THREADS) as pool:  # a store takes its time for each, a disk does not mind
            footers = list(pool.map(partial(_open, files), range(len(files))))
        for file, footer in enumerate(footers):
            schemas.append(footer.schema_arrow)
            start = 0
            for group in range(footer.metadata.num_row_groups):
                rows = footer.metadata.row_group(group).num_rows
                self._groups.append((file, group, start))
                lengths.append(rows)
                start += rows
        self._ends = list(accumulate(lengths))
        if not self._ends or self._ends[-1] == 0:
            raise RequestError("data.source", f"the Parquet files in {files.where(0)} have no rows")
        self.column = image_column(schemas[0], image_column_name, files.where(0), reading is not None)
        self._id_column = id_column or (ID_NAME if ID_NAME in schemas[0].names else None)
        for file, schema in enumerate(schemas):
            self._require_columns(schema, files.where(file), schemas[0])
        self._require_named_images(footers)
        self._ids = self._read_ids()

    def _require_columns(self, schema: Any, where: str, first: Any) -> None:
        """Raise RequestError unless a file has the columns that are read, of the kinds that the first file has."""
        if not is_image(schema, self.column, self.reading is not None):
            root = self.column.root
            there = f"it is {schema.field(root).type} there" if root in schema.names else "it is not there"
            raise RequestError(
                "data.source", f"{where} has no column {str(self.column)!r} of images, as the first file has: {there}"
            )
        wanted = ((self._id_column, "data.id_column", is_identifier, "text or whole numbers"),
                  *((name, key, is_text, "text")
                    for name, key in zip(self.caption_columns, KEYS, strict=True)))  # fmt: skip
        for name, key, fits, kinds in wanted:
            if name is None:
                continue
            if name not in schema.names:
                raise RequestError(key, f"no column {name!r} in {where}; there are: {', '.join(schema.names)}")
            kind, usual = schema.field(name).type, first.field(name).type
            if not fits(kind):
                raise RequestError(key, f"{name!r} of {where} is {kind}; allowed: {kinds}")
            if is_text(kind) != is_text(usual):
                raise RequestError(key, f"{name!r} of {where} is {kind}, and {usual} in the first file")

    def _require_named_images(self, footers: Sequence[Any]) -> None:
        # of each file the first row group: one wrong folder would make a failure of every row, hours later
        for file, footer in enumerate(footers):
            leaf = self.column.leaf
            if footer.metadata.num_row_groups == 0 or not _is_without_bytes(footer.metadata.row_group(0), leaf):
                continue
            rows = footer.read_row_group(0, columns=[f"{leaf}.path"])[self.column.root].to_pylist()
            cells = [self.column.of(cell) for cell in rows]
            paths = [cell["path"] for cell in cells if cell and cell["path"]]
            if paths and not any(self._is_there(file, path) for path in paths):
                raise RequestError(
                    "data.source",
                    f"column {str(self.column)!r} of {self.files.where(file)} holds paths and no image bytes, "
                    f"and none of them can be read, such as {paths[0]!r}; allowed: paths on a local disk, absolute "
                    "or relative to the Parquet file's folder, or the bytes themselves",
                )

    def _is_there(self, file: int, path: str) -> bool:
        try:
            self.files.beside(file, path)
        except (ImageError, OSError, ValueError):
            return False
        return True

    def _read_ids(self) -> list[str] | None:
        column = self._id_column
        if column is None:
            return None
        with ThreadPoolExecutor(_THREADS) as pool:
            read = pool.map(lambda file: _open(self.files, file).read([column])[column], range(len(self.files)))
            columns = list(read)
        for file, values in enumerate(columns):
            if values.null_count:
                raise RequestError(
                    "data.id_column",
                    f"{column!r} of {self.files.where(file)} is null in {values.null_count} of {len(values)} rows; "
                    "every image has a name",
                )
        ids = [str(value) for values in columns for value in values.to_pylist()]
        if len(set(ids)) < len(ids):
            raise RequestError("data.id_column", f"the values of {column!r} are not unique")
        return ids

    def __len__(self) -> int:
        return self._ends[-1]

    def _locate(self, index: int) -> tuple[int, int]:
        """Return (row group, row within it)."""
        group = bisect.bisect_right(self._ends, index)
        return group, index - (self._ends[group - 1] if group else 0)

    def image_ids(self, indices: Sequence[int]) -> list[str]:
        if self._ids is not None:
            return [self._ids[index] for index in indices]
        ids = []
        for index in indices:
            group, row = self._locate(index)
            file, _, start = self._groups[group]
            ids.append(f"{self.files.name(file)}#{start + row}")
        return ids

    def load(self, index: int, size: int) -> Image:
        image = self.load_batch([index], size)[0]
        if isinstance(image, ImageError):
            raise image
        return image

    def load_batch(self, indices: Sequence[int], size: int) -> list[Image | ImageError]:
        """Return images in the order of ``indices``; every row group that they touch is read once."""
        wanted: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for place, index in enumerate(indices):
            group, row = self._locate(index)
            wanted[group].append((place, row))
        loaded: dict[int, Image | ImageError] = {}
        for group, rows in wanted.items():
            cells = self._read_cells(group, [row for _, row in rows])
            for (place, _), cell in zip(rows, cells, strict=True):
                loaded[place] = self._decode(group, cell, size)
        return [loaded[place] for place in range(len(indices))]

    def _decode(self, group: int, cell: Any, size: int) -> Image | ImageError:
        if isinstance(cell, ImageError):
            return cell
        try:
            cell = self.column.of(cell)
            encoded = cell.get("bytes") if isinstance(cell, dict) else cell
            path = cell.get("path") if isinstance(cell, dict) else None
            if self.reading is not None and isinstance(cell, list):
                return self.reading.of_list(cell)
            if encoded is None and not path:
                return ImageError("the row has no image bytes")
            file = self.files.beside(self._groups[group][0], str(path)) if encoded is None else io.BytesIO(encoded)
            if self.reading is None:
                return centre_square(read_rgb(file), size)
            return self.reading.of_bytes(file.read_bytes() if isinstance(file, Path) else file.read())
        except ImageError as error:
            return error

    def _read_cells(self, group: int, rows: list[int]) -> list[Any]:
        try:
            column = self._column(group, self.column.leaf)
            return [column[row].as_py() for row in rows]
        except Exception as error:  # a damaged page costs the images in it, not the run
            if isinstance(error, OSError) and is_of_store(error):
                raise  # Listed says why
            reason = ImageError(f"{type(error).__name__}: {' '.join(str(error).split())}")
            return [reason] * len(rows)

    def captions(self, indices: Sequence[int], negative: bool = False) -> list[str | None]:
        column = self.caption_columns[negative]
        if column is None:
            return super().captions(indices)
        return [self._column(group, column)[row].as_py() for group, row in map(self._locate, indices)]

    def _column(self, group: int, name: str) -> Any:
        """Return a column of a row group. The last is kept: the next batch, or the next cell, wants it again."""
        if name not in self._last or self._last[name][0] != group:
            file, group_of_file, _ = self._groups[group]
            table = patiently(lambda: self.files.table(file).read_row_group(group_of_file, columns=[name]))
            self._last[name] = group, table.column(0)
        return self._last[name][1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": {}}

    def left_out(self) -> dict[str, int]:
        return dict(self.files.left_out)

    def describe(self) -> dict[str, str | int]:
        facts, column = digest([*self.files.facts(), self.column]), str(self.column)
        return {"kind": "parquet", "files": len(self.files), "column": column, "n": len(self), "digest": facts}


def _open(files: Listed, file: int) -> Any:
    try:
        return files.table(file)
    except (pa.ArrowException, OSError) as error:
        where, why = files.where(file), (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError("data.source", f"{where} is not readable Parquet: {why}") from None


def _is_without_bytes(group: Any, column: str) -> bool:
    """Return whether the footer tells that no row of a row group has bytes, and that there are paths to look at."""
    chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
    held = chunks.get(f"{column}.bytes")
    if held is None or f"{column}.path" not in chunks or held.statistics is None or not held.num_values:
        return False
    return bool(held.statistics.has_null_count and held.statistics.null_count == held.num_values)
