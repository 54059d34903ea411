"""A Hugging Face data set read where it lies: its files are those that ``datasets`` finds, read in parts.

Rows of a stream can only be had one after the other. Its files can be opened anywhere: Parquet by row groups, tars of
WebDataset by members, image files one by one, so that batches are shared out and taken up again as always.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipsolve.datasets.base import Image, ImageError, Source, digest
from ipsolve.datasets.huggingface import cannot_load, library, row_ids
from ipsolve.datasets.listed import Listed, LocalFiles, StoredFiles
from ipsolve.files.filesystems import is_uri, open_location, reason
from ipsolve.requests.errors import RequestError

Opener = Callable[[Listed], Source]


@dataclass(frozen=True)
class Streamed(Source):
    """The images of the files of a split.

    Of Parquet they are named as its rows are where it is loaded. Of other files, whose rows may come in an order of
    their own, ``NAME/SPLIT/FILE``.
    """

    repository: str
    split: str
    source: Source
    by_row: bool

    def __len__(self) -> int:
        return len(self.source)

    def image_ids(self, indices: Sequence[int]) -> list[str]:
        if self.by_row:
            return row_ids(self.repository, self.split, indices)
        return [f"{self.repository}/{self.split}/{name}" for name in self.source.image_ids(indices)]

    def load(self, index: int, size: int) -> Image:
        return self.source.load(index, size)

    def load_batch(self, indices: Sequence[int], size: int) -> list[Image | ImageError]:
        return self.source.load_batch(indices, size)

    def captions(self, indices: Sequence[int], negative: bool = False) -> list[str | None]:
        return self.source.captions(indices, negative)

    def left_out(self) -> dict[str, int]:
        return self.source.left_out()

    def describe(self) -> dict[str, str | int]:
        below = self.source.describe()
        version = digest([self.repository, self.split, below["digest"]])
        return {**below, "repository": self.repository, "split": self.split, "digest": version}


def stream(repository: str, split: str, openers: dict[str, tuple[tuple[str, ...], Opener]]) -> Streamed:
    """Return a split of a data set.

    Args:
        openers: for each kind of files that can be read in parts, as ``datasets`` calls it, what they end in and what
            makes a source of them.

    Raises:
        RequestError: the package is absent, the data set or the split is, or its files are of another kind.
    """
    datasets = library()
    try:
        builder = datasets.load_dataset_builder(repository)
    except Exception as error:
        raise cannot_load(repository, split, error) from error
    kind = type(builder).__module__.rpartition(".")[2]
    files = {str(name): list(map(str, found)) for name, found in (builder.config.data_files or {}).items()}
    if split not in files:
        raise RequestError("data.source", f"hf:{repository} has no split {split!r}; allowed: {', '.join(files)}")
    if kind not in openers:
        raise RequestError(
            "data.streaming", f"hf:{repository} is made of {kind} files; allowed: {', '.join(openers)}, or false"
        )
    suffixes, opener = openers[kind]
    wanted = [file for file in files[split] if file.lower().endswith(suffixes)]
    if not wanted:
        raise RequestError("data.source", f"hf:{repository}:{split} has no files ending in {', '.join(suffixes)}")
    return Streamed(repository, split, opener(_listed(wanted, files[split])), kind == "parquet")


def _listed(files: list[str], everything: list[str]) -> Listed:
    """Return files; their root is that of all files of the split, such as a table of captions above them."""
    if not any(map(is_uri, files)):
        root = Path(os.path.commonpath([os.path.dirname(file) for file in everything]))
        return LocalFiles(root, [Path(file) for file in files])
    root_uri = posixpath.commonpath([posixpath.dirname(file) for file in everything]).replace(":/", "://", 1)
    names = [file.removeprefix(f"{root_uri}/") for file in files]
    filesystem, path = open_location(root_uri, "data.source")
    try:
        infos: list[Any] = filesystem.get_file_info([f"{path}/{name}" for name in names])
    except OSError as error:
        raise RequestError("data.source", f"cannot list {root_uri}: {reason(error)}") from None
    return StoredFiles(root_uri, {name: int(info.size or 0) for name, info in zip(names, infos, strict=True)})
