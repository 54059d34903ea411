"""What ended the work of a stage, on its way to the driver: in one line, whichever text Ray puts around it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ipsolve.evaluation.isolation import one_line
from ipsolve.requests.secrets import redact


class StageError(RuntimeError):
    """An error of a stage as one line. Ray hands errors on as the text of tracebacks, this at the end of it."""


@contextmanager
def as_stage_error() -> Iterator[None]:
    """Turn what the work of a stage raises into a :class:`StageError`."""
    try:
        yield
    except Exception as error:  # of whatever kind: it is raised again
        raise StageError(one_line(error)) from error


def cause_of(error: BaseException) -> str:
    """Return what an error is about, in one line of at most 500 characters.

    Of an error that Ray brings from a stage, it is that of the stage; Ray's own come whole, as their lines say
    different things: what happened, where, and what may be done.
    """
    ray = sys.modules.get("ray")  # not there, no error is of it
    if ray is not None and isinstance(error, ray.exceptions.RayError):
        marked = f"{StageError.__name__}: "
        lines = [line.partition(marked)[2] for line in str(error).splitlines() if marked in line]
        if lines:
            return redact(lines[-1])[:500]
        if isinstance(cause := getattr(error, "cause", None), Exception):
            return one_line(cause)
    if type(error) is RuntimeError and str(error).strip():  # a kind that says nothing: the pipeline's own are sentences
        return one_line(error).removeprefix("RuntimeError: ")
    return one_line(error)
