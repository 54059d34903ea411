"""A batch on its way from reading through solving to storing, and what becomes of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ipsolve.requests.secrets import redact
from ipsolve.runs.cells import Cell

Array = NDArray[Any]
_WORDS = ("captions", "negative_captions")


@dataclass(frozen=True)
class Batch:
    """Some images of one cell, and what is to be known of those that could not be read.

    Attributes:
        cell: what is to be done with them.
        image_ids: of the images that are here.
        images: in the order of the ids, (B, ...); empty where the worker makes its own input.
        errors: why the others are not here, by image id.
        captions: the words that images come with, by image id; one that has none is absent, and so are all where none
            are asked for (``data.captions``). They are told to the prior.
        negative_captions: likewise what images are not to show (``data.negative_captions``).
    """

    cell: Cell
    image_ids: tuple[str, ...]
    images: Array = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    errors: Mapping[str, str] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    negative_captions: Mapping[str, str] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Return the batch as a row of Ray Data. All but the pixels travels as JSON, or lists would become tensors."""
        cell = [self.cell.task, self.cell.solver, self.cell.seed, self.cell.hash]
        kind = {"dtype": self.images.dtype.str, "shape": list(self.images.shape)}
        about = {"cell": cell, "image_ids": list(self.image_ids), "errors": dict(self.errors), **kind}
        about |= {name: dict(getattr(self, name)) for name in _WORDS if getattr(self, name)}
        return {"batch": json.dumps(about), "images": self.images.tobytes()}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Batch:
        """Return the batch that :meth:`to_row` made into a row."""
        about = json.loads(row["batch"])
        images = np.frombuffer(row["images"], np.dtype(about["dtype"])).reshape(about["shape"])
        words = {name: about.get(name, {}) for name in _WORDS}
        return cls(Cell(*about["cell"]), tuple(about["image_ids"]), images, about["errors"], **words)

    def select(self, rows: Sequence[int]) -> Batch:
        """Return some of the images that are here."""
        images = self.images[list(rows)] if len(self.images) else self.images
        ids = tuple(self.image_ids[i] for i in rows)
        kept = [
            {name: given[name] for name in ids if name in given} for given in (self.captions, self.negative_captions)
        ]
        return replace(self, image_ids=ids, images=images, errors={}, captions=kept[0], negative_captions=kept[1])


def image_digest(image: Array, caption: str | None = None, negative: str | None = None) -> str:
    """Return sha256, 64 hexadecimal digits, of the numbers of an image as they were read, their type and shape.

    Args:
        caption, negative: the words that it comes with, which are in the digest too.
    """
    state = hashlib.sha256(f"{image.dtype.str}{list(image.shape)}".encode())
    state.update(np.ascontiguousarray(image).data)
    if caption is not None:
        state.update(caption.encode())
    if negative is not None:
        state.update(b"\0negative\0" + negative.encode())
    return state.hexdigest()


class Failure(NamedTuple):
    """A row of ``failures``."""

    image_id: str
    task: str
    solver: str
    seed: int
    stage: str
    error: str

    @classmethod
    def of(cls, cell: Cell, image_id: str, stage: str, error: str) -> Failure:
        return cls(image_id, cell.task, cell.solver, cell.seed, stage, redact(error))


class Outcome(NamedTuple):
    """What became of a batch: rows of results (or references), failures, and what is worth a line in the log."""

    rows: pa.Table
    failures: list[Failure]
    notes: list[str]
