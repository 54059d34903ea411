"""The unit of an experiment: a *cell*, one solver on one task with one seed.

The hash of a cell is of everything its numbers depend on except which images (or problems) are asked for, so that a
run can be extended by them, and a changed setting is another cell.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ipsolve.requests.errors import RequestError, did_you_mean
from ipsolve.requests.secrets import refuse_secrets
from ipsolve.requests.validation import field_names
from ipsolve.runs.config import RunConfig, Tracking


@dataclass(frozen=True)
class Cell:
    """One solver on one task with one seed; the cell of the ground truth itself has neither task nor solver."""

    task: str
    solver: str
    seed: int
    hash: str

    @property
    def is_reference(self) -> bool:
        return not self.solver

    def __str__(self) -> str:
        return "references" if self.is_reference else f"{self.task} / {self.solver} / seed {self.seed}"


class Grid(Protocol):
    """What the pipeline asks of an experiment: its cells, and the ids that each of them is to have a row for."""

    @property
    def config(self) -> RunConfig: ...

    @property
    def all_cells(self) -> list[Cell]:
        """The cells of the solvers, and before them that of the ground truth where there is one."""

    @property
    def image_ids(self) -> list[str]:
        """The ids of all cells, each once."""

    @property
    def batch_size(self) -> int:
        """How many ids are done together."""

    def ids_of(self, cell: Cell) -> Sequence[str]:
        """Return the ids of one cell, by their index."""

    def origin(self) -> dict[str, Any]:
        """Return what a run records of where its numbers come from: its data, its prior."""

    def resolved(self) -> dict[str, Any]:
        """Return the configuration with every default written out; running it gives the same numbers."""


def check_run(baseline: str | None, solvers: Collection[str], tracking: Tracking) -> None:
    """Raise RequestError where a key that all kinds of runs share is wrong."""
    if baseline is not None and baseline not in solvers:
        hint = did_you_mean(baseline, solvers)
        raise RequestError("baseline", f"no solver {baseline!r}{hint}; allowed: {', '.join(solvers)}")
    refuse_secrets(tracking.uri, "tracking.uri")


def at(where: str, check: Any, *arguments: Any) -> Any:
    """Return ``check(*arguments)``; the key of a RequestError from it is ``where``, and its whole line the reason."""
    try:
        return check(*arguments)
    except RequestError as error:
        raise RequestError(where, str(error)) from None


def describe(part: Any, kind: str) -> dict[str, Any]:
    """Return a registered object as a configuration writes it: its name under ``kind``, and its fields.

    A field that holds a registered object is written likewise, the name of the field being its kind.
    """
    return {kind: part.name, **{name: _plain(getattr(part, name), name) for name in field_names(type(part))}}


def _plain(value: Any, kind: str) -> Any:
    if isinstance(value, tuple):
        return [_plain(each, kind) for each in value]
    return describe(value, kind) if dataclasses.is_dataclass(value) and hasattr(value, "name") else value


def hash_of(identity: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that change when anything in ``identity`` does."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
