"""Images of a Hugging Face data set."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ipsolve.datasets.base import Image, ImageError, Source, digest
from ipsolve.datasets.decoding import centre_square, read_rgb
from ipsolve.requests.errors import RequestError


class HuggingFaceSource(Source):
    """One split of a data set, downloaded by the ``datasets`` package to its own cache (not streamed).

    Identifiers are ``NAME/SPLIT/ROW``. A pickled source carries its name alone and opens the cache again.

    Raises:
        RequestError: the package is absent, or the data set, the split or its image column is.
    """

    def __init__(self, repository: str, split: str, image_column: str | None = None) -> None:
        self.repository, self.split = repository, split
        self._wanted_column = image_column
        self._length = len(self._rows)

    @classmethod
    def parse(cls, reference: str, image_column: str | None = None) -> Self:
        """Return the source that ``ORG/NAME:SPLIT`` names."""
        repository, _, split = reference.rpartition(":")
        if not repository or not split:
            raise RequestError("data.source", f"hf:{reference} names no split; allowed: hf:ORG/NAME:SPLIT")
        return cls(repository, split, image_column)

    @cached_property
    def _rows(self) -> Any:
        try:
            import datasets
        except ModuleNotFoundError:
            raise RequestError(
                "data.source", "hf: needs the datasets package; install it with: pip install datasets"
            ) from None
        try:
            rows = datasets.load_dataset(self.repository, split=self.split)
        except Exception as error:  # hub, network, cache and builder errors share no base class
            reason = " ".join(str(error).split())
            raise RequestError(
                "data.source", f"hf:{self.repository}:{self.split} cannot be loaded: {reason}"
            ) from error
        columns = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
        if self._wanted_column is not None:
            columns = [name for name in columns if name == self._wanted_column]
        if len(columns) != 1:
            there = ", ".join(rows.features)
            raise RequestError(
                "data.image_column", f"say which column of hf:{self.repository} holds images; columns: {there}"
            )
        column = columns[0]
        return (
            rows.select_columns([column])
            .cast_column(column, datasets.Image(decode=False))
            .rename_column(column, "image")
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_rows"}

    def __len__(self) -> int:
        return self._length

    def image_ids(self, indices: Sequence[int]) -> list[str]:
        return [f"{self.repository}/{self.split}/{index:08d}" for index in indices]

    def load(self, index: int, size: int) -> Image:
        cell = self._rows[int(index)]["image"]
        if not cell or (cell["bytes"] is None and cell["path"] is None):
            raise ImageError("the row has no image")
        file = Path(cell["path"]) if cell["bytes"] is None else io.BytesIO(cell["bytes"])
        return centre_square(read_rgb(file), size)

    def describe(self) -> dict[str, str | int]:
        version = digest([self.repository, self.split, self._rows._fingerprint])
        return {"kind": "hf", "repository": self.repository, "split": self.split, "n": len(self), "digest": version}
