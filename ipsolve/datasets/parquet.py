"""Images in a column of Parquet files."""

from __future__ import annotations

import bisect
import io
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from ipsolve.datasets.base import Image, ImageError, Source, digest
from ipsolve.datasets.decoding import centre_square, read_rgb
from ipsolve.datasets.files import file_facts, name
from ipsolve.errors import RequestError

IMAGE_NAMES = ("image", "img", "bytes", "jpg", "jpeg", "png", "webp")
ID_NAME = "image_id"


class ParquetImages(Source):
    """Encoded images (PNG, JPEG, WebP) in a binary column, or in the ``bytes`` field of a struct column.

    Only footers are read when the source is made (and the id column, if there is one); images are read one row
    group at a time. Identifiers are the id column's values, else ``file#row``.

    Args:
        root: the folder that identifiers are relative to.
        paths: the files, in order.
        image_column: its name; None takes the binary column called ``image`` (or alike), else the only one.
        id_column: its name; None takes ``image_id`` where it exists.

    Raises:
        RequestError: a file is not Parquet, has no image column, or identifiers repeat.
    """

    def __init__(
        self, root: Path, paths: Sequence[Path], image_column: str | None = None, id_column: str | None = None
    ) -> None:
        self.root, self.paths = root, list(paths)
        self._groups: list[tuple[int, int, int]] = []  # (file, row group, row of the file at which it starts)
        lengths: list[int] = []
        schemas = []
        for file, path in enumerate(self.paths):
            footer = _open(path)
            schemas.append(footer.schema_arrow)
            start = 0
            for group in range(footer.metadata.num_row_groups):
                rows = footer.metadata.row_group(group).num_rows
                self._groups.append((file, group, start))
                lengths.append(rows)
                start += rows
        self._ends = list(accumulate(lengths))
        if not self._ends or self._ends[-1] == 0:
            raise RequestError(f"data.source: the Parquet files in {root} have no rows")
        self.column = _image_column(schemas[0], image_column, self.paths[0])
        for path, schema in zip(self.paths, schemas, strict=True):
            if self.column not in schema.names:
                raise RequestError(f"data.source: {path} has no column {self.column!r}, the image column of the others")
        self._ids = self._read_ids(schemas[0], id_column)

    def _read_ids(self, schema: Any, id_column: str | None) -> list[str] | None:
        column = id_column or (ID_NAME if ID_NAME in schema.names else None)
        if column is None:
            return None
        if column not in schema.names:
            raise RequestError(f"data.id_column: no column {column!r}; there are: {', '.join(schema.names)}")
        ids = [str(value) for path in self.paths for value in _open(path).read([column])[column].to_pylist()]
        if len(set(ids)) < len(ids):
            raise RequestError(f"data.id_column: the values of {column!r} are not unique")
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
            ids.append(f"{name(self.root, self.paths[file])}#{start + row}")
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
                loaded[place] = _decode(cell, size)
        return [loaded[place] for place in range(len(indices))]

    def _read_cells(self, group: int, rows: list[int]) -> list[Any]:
        file, group_of_file, _ = self._groups[group]
        try:
            column = _open(self.paths[file]).read_row_group(group_of_file, columns=[self.column])[self.column]
            return [column[row].as_py() for row in rows]
        except Exception as error:  # a damaged page costs the images in it, not the run
            reason = ImageError(f"{type(error).__name__}: {' '.join(str(error).split())}")
            return [reason] * len(rows)

    def describe(self) -> dict[str, str | int]:
        facts = digest([*file_facts(self.root, self.paths), self.column])
        return {"kind": "parquet", "files": len(self.paths), "column": self.column, "n": len(self), "digest": facts}


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"data.source: {path} is not readable Parquet: {str(error).splitlines()[0]}") from None


def _image_column(schema: Any, wanted: str | None, path: Path) -> str:
    import pyarrow.types as types

    def holds_images(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and holds_images(field.type) for field in kind)
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    candidates: list[str] = [field.name for field in schema if holds_images(field.type)]
    if wanted is not None:
        if wanted not in candidates:
            there = ", ".join(candidates) or "none"
            raise RequestError(
                f"data.image_column: {wanted!r} is not a column of image bytes in {path}; such are: {there}"
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
    raise RequestError(f"data.image_column: no image column (bytes, or a struct with bytes) found in {path}; {problem}")


def _decode(cell: Any, size: int) -> Image | ImageError:
    if isinstance(cell, ImageError):
        return cell
    encoded = cell.get("bytes") if isinstance(cell, dict) else cell
    if encoded is None:
        return ImageError("the row has no image bytes")
    try:
        return centre_square(read_rgb(io.BytesIO(encoded)), size)
    except ImageError as error:
        return error
