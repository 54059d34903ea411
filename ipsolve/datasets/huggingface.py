"""Images of a Hugging Face data set."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ipsolve.datasets.base import Image, ImageError, Source, digest
from ipsolve.datasets.captions import KEYS
from ipsolve.datasets.decoding import centre_square, read_rgb
from ipsolve.datasets.reading import Reading
from ipsolve.requests.errors import RequestError


def parse(reference: str) -> tuple[str, str]:
    """Return (ORG/NAME or a local folder, SPLIT) of a reference; RequestError if it names no split."""
    repository, _, split = reference.rpartition(":")
    if not repository or not split:
        raise RequestError("data.source", f"hf:{reference} names no split; allowed: hf:ORG/NAME:SPLIT")
    return repository, split


def library() -> Any:
    """Return the ``datasets`` package; RequestError if it is absent."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise RequestError(
            "data.source", "hf: needs the datasets package; install it with: pip install datasets"
        ) from None
    return datasets


def cannot_load(repository: str, split: str, error: Exception) -> RequestError:
    """Return the error of a data set that the package does not give; its errors share no base class."""
    return RequestError("data.source", f"hf:{repository}:{split} cannot be loaded: {' '.join(str(error).split())}")


class HuggingFaceSource(Source):
    """One split of a data set, downloaded by the ``datasets`` package to its own cache.

    Identifiers are ``NAME/SPLIT/ROW``. A pickled source carries its name alone and opens the cache again.

    Args:
        image_column: its name, where there are several.
        captions, negative_captions: the columns of text that images come with.
        reading: of what are no photographs: gray images.

    Raises:
        RequestError: the package is absent, or the data set, the split or its image column is.
    """

    def __init__(
        self,
        repository: str,
        split: str,
        image_column: str | None = None,
        captions: str | None = None,
        reading: Reading | None = None,
        negative_captions: str | None = None,
    ) -> None:
        self.repository, self.split, self.reading = repository, split, reading
        self.caption_columns = (captions, negative_captions)
        self._wanted_column = image_column
        self._length = len(self._rows)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The rows, of which images are left encoded, and the column of the images."""
        datasets = library()
        try:
            rows = datasets.load_dataset(self.repository, split=self.split)
        except Exception as error:
            raise cannot_load(self.repository, self.split, error) from error
        columns = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
        if self._wanted_column is not None:
            columns = [name for name in columns if name == self._wanted_column]
        there = ", ".join(rows.features)
        if len(columns) != 1:
            raise RequestError(
                "data.image_column", f"say which column of hf:{self.repository} holds images; columns: {there}"
            )
        for name, key in zip(self.caption_columns, KEYS, strict=True):
            if name is not None and name not in rows.features:
                raise RequestError(key, f"no column {name!r} in hf:{self.repository}; columns: {there}")
        column = columns[0]
        wanted = dict.fromkeys([column, *(name for name in self.caption_columns if name is not None)])
        return rows.select_columns(list(wanted)).cast_column(column, datasets.Image(decode=False)), column

    @property
    def _rows(self) -> Any:
        return self._opened[0]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_opened"}

    def __len__(self) -> int:
        return self._length

    def image_ids(self, indices: Sequence[int]) -> list[str]:
        return row_ids(self.repository, self.split, indices)

    def load(self, index: int, size: int) -> Image:
        rows, column = self._opened
        cell = rows[int(index)][column]
        if not cell or (cell["bytes"] is None and cell["path"] is None):
            raise ImageError("the row has no image")
        file = Path(cell["path"]) if cell["bytes"] is None else io.BytesIO(cell["bytes"])
        if isinstance(file, Path) and not file.is_file():
            raise ImageError(f"the row has the path {file} and no bytes, and there is no such file")
        return self.reading.of_picture(file) if self.reading else centre_square(read_rgb(file), size)

    def captions(self, indices: Sequence[int], negative: bool = False) -> list[str | None]:
        column = self.caption_columns[negative]
        if column is None:
            return super().captions(indices)
        found = self._rows.select_columns([column])
        cells = [found[int(index)][column] for index in indices]
        return [None if cell is None else str(cell) for cell in cells]

    def describe(self) -> dict[str, str | int]:
        version = digest([self.repository, self.split, self._rows._fingerprint])
        return {"kind": "hf", "repository": self.repository, "split": self.split, "n": len(self), "digest": version}


def row_ids(repository: str, split: str, indices: Sequence[int]) -> list[str]:
    """Return the identifiers of rows of a data set, streamed or not."""
    return [f"{repository}/{split}/{index:08d}" for index in indices]
