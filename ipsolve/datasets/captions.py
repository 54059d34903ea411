"""Words beside image files: a ``.txt`` of the same name, or the ``metadata.jsonl`` (or ``.csv``) of a folder.

Negative ones, what an image is not to show, are in ``NAME.negative.txt``, or under another key of the same tables.

The latter is the layout that ``imagefolder`` of the ``datasets`` library reads: a row for each image, of which
``file_name`` is its path from the folder of the table on.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ipsolve.datasets.listed import Listed
from ipsolve.requests.errors import RequestError

TEXT_FILES = "txt"  # what data.captions says for them
KEYS = ("data.captions", "data.negative_captions")
SUFFIXES = ("txt", "negative.txt")  # of the text file of an image's name, and of the negative one
_TABLES = ("metadata.jsonl", "metadata.csv")
_LOOKED_AT = 64


class Captions(ABC):
    """The captions of files by their number.

    Attributes:
        endings: of the files that they are in, which are not left out then.
    """

    endings: ClassVar[tuple[str, ...]]

    @abstractmethod
    def of(self, file: int) -> str | None:
        """Return the caption of a file, None if it has none."""


@dataclass(frozen=True)
class TextFiles(Captions):
    """``a/b.txt`` is the caption of ``a/b.png``; it is read when it is asked for."""

    endings: ClassVar[tuple[str, ...]] = (".txt",)
    files: Listed
    suffix: str = SUFFIXES[False]

    def of(self, file: int) -> str | None:
        content = self.files.neighbour(f"{posixpath.splitext(self.files.name(file))[0]}.{self.suffix}")
        return None if content is None else words(content)


@dataclass(frozen=True)
class FromTables(Captions):
    """Captions that were read from tables when the source was made."""

    endings: ClassVar[tuple[str, ...]] = (".jsonl", ".csv")
    files: Listed
    captions: Mapping[str, str]

    def of(self, file: int) -> str | None:
        return self.captions.get(self.files.name(file))


def beside(files: Listed, wanted: str, negative: bool = False) -> Captions:
    """Return the captions of image files.

    Args:
        wanted: ``txt``, or the key of the caption in the tables.
        negative: whether they are what images are not to show.

    Raises:
        RequestError: there are none.
    """
    if wanted == TEXT_FILES:
        found = TextFiles(files, SUFFIXES[negative])
        first = range(min(len(files), _LOOKED_AT))
        if all(found.of(file) is None for file in first):
            raise RequestError(KEYS[negative], f"none of the first {len(first)} images has a .{found.suffix} beside it")
        return found
    names = {files.name(file) for file in range(len(files))}
    captions = dict[str, str]()
    keys = dict[str, None]()
    for folder in sorted(set(_folders(names))):
        for row in _rows(files, folder, KEYS[negative]):
            keys |= dict.fromkeys(row)
            name = posixpath.normpath(posixpath.join(folder, str(row.get("file_name"))))
            if row.get(wanted) is not None and name in names:
                captions[name] = str(row[wanted])
    if not captions:
        there = f"their keys: {', '.join(keys)}" if keys else "there are none"
        raise RequestError(
            KEYS[negative],
            f"no {wanted!r} of these images in {' or '.join(_TABLES)} beside or above them ({there}); "
            f"allowed: such a key, or {TEXT_FILES}",
        )
    return FromTables(files, captions)


def _folders(names: Iterable[str]) -> Iterable[str]:
    for folder in {posixpath.dirname(name) for name in names}:
        while folder:
            yield folder
            folder = posixpath.dirname(folder)
        yield ""


def _rows(files: Listed, folder: str, key: str) -> Iterable[dict[str, Any]]:
    for table in _TABLES:
        place = posixpath.join(folder, table)
        content = files.neighbour(place)
        if content is None:
            continue
        text = words(content)
        try:
            rows = (
                list(csv.DictReader(io.StringIO(text)))
                if table.endswith(".csv")
                else [json.loads(line) for line in text.splitlines() if line.strip()]
            )
        except (ValueError, csv.Error) as error:
            raise RequestError(key, f"{place} is not {table.rpartition('.')[2]}: {error}") from None
        if not all(isinstance(row, dict) for row in rows):
            raise RequestError(key, f"a line of {place} is no JSON object")
        yield from rows


def words(content: bytes) -> str:
    """Return the text of a file, without the white space around it; bytes that are no UTF-8 are marked as such."""
    return content.decode("utf-8-sig", "replace").strip()
