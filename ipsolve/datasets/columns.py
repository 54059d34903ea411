"""Which column of Parquet files holds the images, the same in every file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.types as types

from ipsolve.datasets.base import ImageError
from ipsolve.requests.errors import RequestError

IMAGE_NAMES = ("image", "img", "bytes", "jpg", "jpeg", "png", "webp")
Steps = tuple[str | int, ...]


@dataclass(frozen=True)
class Column:
    """A column, and the way from a cell of it to the image: names of fields, and numbers in lists.

    Written as ``photo.picture``, or ``pictures[0]`` for the first of each list.
    """

    root: str
    steps: Steps = ()

    def __str__(self) -> str:
        return self.root + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.steps)

    @property
    def leaf(self) -> str:
        """The dotted path of all that has to be read of a row."""
        fields = [self.root]
        for step in self.steps:
            if isinstance(step, int):
                break
            fields.append(step)
        return ".".join(fields)

    @property
    def in_list(self) -> bool:
        return any(isinstance(step, int) for step in self.steps)

    def of(self, cell: Any) -> Any:
        """Return what is at the end of the way from a cell of the root, None for nothing; ImageError: a list ends."""
        for step in self.steps:
            if isinstance(step, int):
                if cell is not None and step >= len(cell):
                    raise ImageError(f"the row has {len(cell)} in {self.root}, and {self} is asked for")
                cell = None if cell is None else cell[step]
            else:
                cell = cell.get(step) if isinstance(cell, Mapping) else None
        return cell


def image_column(schema: Any, wanted: str | None, where: str, numbers: bool) -> Column:
    """Return the column of images of a schema.

    Args:
        wanted: its name, if it was given.
        numbers: whether (nested) lists of numbers are images, too.

    Raises:
        RequestError: there is none, or it cannot be told which.
    """
    candidates = [Column(f.name, steps) for f in schema for steps in _ways(f.type, numbers)]
    listed = ", ".join(map(str, candidates)) or "none"
    if wanted is not None:
        column = Column(wanted) if wanted in schema.names else _parsed(wanted)
        if column is None or not is_image(schema, column, numbers):
            raise RequestError(
                "data.image_column", f"{wanted!r} is not a column of image bytes in {where}; such are: {listed}"
            )
        return column
    plain = [column for column in candidates if not column.in_list]
    if named := [column for name in IMAGE_NAMES for column in plain if column.root == name]:
        return named[0]
    if len(plain) == 1:
        return plain[0]
    if plain:
        problem = f"columns {', '.join(map(str, plain))} could all be it"
    elif candidates:
        problem = f"lists hold them, of which one is taken by its number: {listed}"
    else:
        problem = f"columns: {', '.join(schema.names)}"
    raise RequestError(
        "data.image_column", f"no image column (bytes, or a struct with bytes) found in {where}; {problem}"
    )


def is_image(schema: Any, column: Column, numbers: bool) -> bool:
    """Return whether a schema has a column of images under this name."""
    if column.root not in schema.names:
        return False
    kind = schema.field(column.root).type
    for step in column.steps:
        kind = _plain(kind)
        if isinstance(step, int) and _is_list(kind):
            kind = kind.value_type
        elif isinstance(step, str) and types.is_struct(kind) and kind.get_field_index(step) >= 0:
            kind = kind.field(step).type
        else:
            return False
    return () in _ways(kind, numbers)


def _ways(kind: Any, numbers: bool) -> Iterator[Steps]:
    """Yield the ways from a type to images in it."""
    kind = _plain(kind)
    if _is_bytes(kind) or (numbers and _is_list(kind) and _is_numbers(kind)):
        yield ()
    elif types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        if any(f.name == "bytes" and _is_bytes(_plain(f.type)) for f in fields):
            yield ()
            return
        for f in fields:
            yield from ((f.name, *steps) for steps in _ways(f.type, numbers))
    elif _is_list(kind):
        yield from ((0, *steps) for steps in _ways(kind.value_type, numbers))


def _plain(kind: Any) -> Any:
    return kind.value_type if types.is_dictionary(kind) else kind


def _is_bytes(kind: Any) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_list(kind: Any) -> bool:
    views = types.is_list_view(kind) or types.is_large_list_view(kind)
    return bool(views or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_numbers(kind: Any) -> bool:
    while _is_list(kind):
        kind = kind.value_type
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def is_text(kind: Any) -> bool:
    """Return whether a type is text."""
    kind = _plain(kind)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_identifier(kind: Any) -> bool:
    """Return whether values of a type name things: text and whole numbers do."""
    return is_text(kind) or bool(types.is_integer(_plain(kind)))


def _parsed(name: str) -> Column | None:
    found = re.fullmatch(r"([^.\[\]]+)((?:\.[^.\[\]]+|\[\d+\])*)", name)
    if found is None:
        return None
    steps = re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", found[2])
    return Column(found[1], tuple(field or int(number) for field, number in steps))
