"""A fault stays with the image that caused it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from ipsolve.requests.secrets import redact

T = TypeVar("T")


class Fault(NamedTuple):
    """Why an image has no outcome, in one line."""

    reason: str


class BrokenDeviceError(RuntimeError):
    """The device of this process answers no more calls: whatever is tried next would fail, too, and not by its own."""


def isolate(work: Callable[[list[int]], list[T | Fault]], rows: list[int], notes: list[str]) -> list[T | Fault]:
    """Return ``work(rows)``; a batch for which it raises, as for want of memory, is halved until the fault is alone.

    Args:
        work: does a batch, given by its row numbers; one outcome per row.
        notes: what was halved and why is appended, so that no exception passes unseen.

    Raises:
        BrokenDeviceError: only another process can go on.
    """
    try:
        return work(rows)
    except Exception as error:  # whatever a solver or a metric raises costs one image, not the run
        fault = Fault(one_line(error))
        if _breaks_device(error):
            raise BrokenDeviceError(fault.reason) from None
    # only here, past the handler: the traceback keeps the tensors of the failed attempt alive
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(rows) == 1:
        return [fault]
    half = len(rows) // 2
    notes.append(f"a batch of {len(rows)} was halved: {fault.reason}")
    return isolate(work, rows[:half], notes) + isolate(work, rows[half:], notes)


def _breaks_device(error: Exception) -> bool:
    # after an illegal access or an assertion in a kernel every later call of the process raises the same error, so
    # that each image that follows would be charged with it. Want of memory is not of this kind, whoever lacks it.
    text = str(error)
    if "out of memory" in text or "ALLOC_FAILED" in text:
        return False
    return isinstance(error, getattr(torch, "AcceleratorError", ())) or text.startswith("CUDA error")


def one_line(error: BaseException) -> str:
    """Return an exception as one line of at most 500 characters, without what is secret in the environment."""
    return redact(f"{type(error).__name__}: {' '.join(str(error).split())}")[:500]
