"""A fault stays with the image that caused it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from ipsolve.secrets import redact

T = TypeVar("T")


class Fault(NamedTuple):
    """Why an image has no outcome, in one line."""

    reason: str


def isolate(work: Callable[[list[int]], list[T | Fault]], rows: list[int], notes: list[str]) -> list[T | Fault]:
    """Return ``work(rows)``; a batch for which it raises is halved until the fault is alone.

    Args:
        work: does a batch, given by its row numbers; one outcome per row.
        notes: what was halved and why is appended, so that no exception passes unseen.
    """
    try:
        return work(rows)
    except Exception as error:  # whatever a solver or a metric raises costs one image, not the run
        fault = Fault(one_line(error))
    # only here, past the handler: the traceback keeps the tensors of the failed attempt alive
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(rows) == 1:
        return [fault]
    half = len(rows) // 2
    notes.append(f"a batch of {len(rows)} was halved: {fault.reason}")
    return isolate(work, rows[:half], notes) + isolate(work, rows[half:], notes)


def one_line(error: BaseException) -> str:
    """Return an exception as one line of at most 500 characters, without what is secret in the environment."""
    return redact(f"{type(error).__name__}: {' '.join(str(error).split())}")[:500]
