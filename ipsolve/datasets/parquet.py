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

from ipsolve.datasets.arrays import Reading
from ipsolve.datasets.base import Image, ImageError, Source, digest
from ipsolve.datasets.decoding import centre_square, read_rgb
from ipsolve.datasets.listed import Listed
from ipsolve.files.filesystems import is_of_store, patiently
from ipsolve.requests.errors import RequestError

IMAGE_NAMES = ("image", "img", "bytes", "jpg", "jpeg", "png", "webp")
ID_NAME = "image_id"
_THREADS = 16


class ParquetImages(Source):
    """Encoded images (PNG, JPEG, WebP) in a binary column, or in the ``bytes`` field of a struct column.

    A struct without bytes, as ``datasets`` writes a column of image paths, is the file at its ``path`` (a relative one
    is taken from the Parquet file's folder).

    Only footers are read when the source is made (and the id column, if there is one); images are read one row
    group at a time. Identifiers are the id column's values, else ``file#row``.

    Args:
        files: the files, in order.
        image_column: its name; None takes the binary column called ``image`` (or alike), else the only one.
        id_column: its name; None takes ``image_id`` where it exists.
        reading: of what are no photographs: the bytes of npy files, gray images, or (nested) lists of numbers.

    Raises:
        RequestError: a file is not Parquet, has no image column, holds paths under which there is nothing, or
            identifiers repeat.
    """

    def __init__(
        self,
        files: Listed,
        image_column: str | None = None,
        id_column: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        self.files = files
        self.reading = reading
        self._last: tuple[int, Any] | None = None
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
        self.column = _image_column(schemas[0], image_column, files.where(0), reading is not None)
        for file, schema in enumerate(schemas):
            if self.column not in schema.names:
                raise RequestError(
                    "data.source", f"{files.where(file)} has no column {self.column!r}, the image column of the others"
                )
        self._require_named_images(footers)
        self._ids = self._read_ids(schemas[0], id_column)

    def _require_named_images(self, footers: Sequence[Any]) -> None:
        # of each file the first row group: one wrong folder would make a failure of every row, hours later
        for file, footer in enumerate(footers):
            if footer.metadata.num_row_groups == 0 or not _is_without_bytes(footer.metadata.row_group(0), self.column):
                continue
            column = footer.read_row_group(0, columns=[f"{self.column}.path"])[self.column]
            paths = [cell["path"] for cell in column.to_pylist() if cell and cell["path"]]
            if paths and not any(self._is_there(file, path) for path in paths):
                raise RequestError(
                    "data.source",
                    f"column {self.column!r} of {self.files.where(file)} holds paths and no image bytes, "
                    f"and none of them can be read, such as {paths[0]!r}; allowed: paths on a local disk, absolute "
                    "or relative to the Parquet file's folder, or the bytes themselves",
                )

    def _is_there(self, file: int, path: str) -> bool:
        try:
            self.files.beside(file, path)
        except (ImageError, OSError, ValueError):
            return False
        return True

    def _read_ids(self, schema: Any, id_column: str | None) -> list[str] | None:
        column = id_column or (ID_NAME if ID_NAME in schema.names else None)
        if column is None:
            return None
        if column not in schema.names:
            raise RequestError("data.id_column", f"no column {column!r}; there are: {', '.join(schema.names)}")
        with ThreadPoolExecutor(_THREADS) as pool:
            columns = pool.map(lambda file: _open(self.files, file).read([column])[column], range(len(self.files)))
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
        encoded = cell.get("bytes") if isinstance(cell, dict) else cell
        path = cell.get("path") if isinstance(cell, dict) else None
        try:
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
            return [self._column(group)[row].as_py() for row in rows]
        except Exception as error:  # a damaged page costs the images in it, not the run
            if isinstance(error, OSError) and is_of_store(error):
                raise  # Listed says why
            reason = ImageError(f"{type(error).__name__}: {' '.join(str(error).split())}")
            return [reason] * len(rows)

    def _column(self, group: int) -> Any:
        """Return the images of a row group. The last one is kept: the next batch, or the next cell, wants it again."""
        if self._last is None or self._last[0] != group:
            file, group_of_file, _ = self._groups[group]
            table = patiently(lambda: self.files.table(file).read_row_group(group_of_file, columns=[self.column]))
            self._last = group, table[self.column]
        return self._last[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}

    def describe(self) -> dict[str, str | int]:
        facts = digest([*self.files.facts(), self.column])
        return {"kind": "parquet", "files": len(self.files), "column": self.column, "n": len(self), "digest": facts}


def _open(files: Listed, file: int) -> Any:
    try:
        return files.table(file)
    except (pa.ArrowException, OSError) as error:
        where, why = files.where(file), (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError("data.source", f"{where} is not readable Parquet: {why}") from None


def _image_column(schema: Any, wanted: str | None, path: str, numbers: bool) -> str:
    import pyarrow.types as types

    def holds_images(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and holds_images(field.type) for field in kind)
        if numbers and (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
            return True
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    candidates: list[str] = [field.name for field in schema if holds_images(field.type)]
    if wanted is not None:
        if wanted not in candidates:
            there = ", ".join(candidates) or "none"
            raise RequestError(
                "data.image_column", f"{wanted!r} is not a column of image bytes in {path}; such are: {there}"
            )
        return wanted
    named = [column for column in IMAGE_NAMES if column in candidates]
    if named:
        return named[0]
    if len(candidates) == 1:
        return candidates[0]
    problem = (
        f"columns {', '.join(candidates)} could all be it" if candidates else f"columns: {', '.join(schema.names)}"
    )
    raise RequestError(
        "data.image_column", f"no image column (bytes, or a struct with bytes) found in {path}; {problem}"
    )


def _is_without_bytes(group: Any, column: str) -> bool:
    """Return whether the footer tells that no row of a row group has bytes, and that there are paths to look at."""
    chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
    held = chunks.get(f"{column}.bytes")
    if held is None or f"{column}.path" not in chunks or held.statistics is None or not held.num_values:
        return False
    return bool(held.statistics.has_null_count and held.statistics.null_count == held.num_values)
