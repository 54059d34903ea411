"""Errors that are meant for the person who wrote the request."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RequestError(ValueError):
    """The request itself is wrong (a key, a value, a path, a shape, a checkpoint).

    Its message is one line that names what is wrong and what is allowed. Command-line jobs print it and
    exit with code 2 before any actor starts.

    Args:
        key: dotted path of what is wrong in the request, such as ``solvers.resample.num_steps``; may be empty. A text
            alone is the reason, of no key.
        reason: what is wrong with it, and what is allowed.
    """

    def __init__(self, key: str, reason: str | None = None) -> None:
        super().__init__(key, reason)
        self.key, self.reason = ("", key) if reason is None else (key, reason)

    def __str__(self) -> str:
        # a key is a name of somebody's choice, and a reason may quote what they wrote
        return (f"{self.key}: {self.reason}" if self.key else self.reason).replace("\n", " ")


def dotted(*parts: str) -> str:
    """Return the path of a key from those of what it is in; empty parts are left out."""
    return ".".join(filter(None, parts))


def did_you_mean(name: object, allowed: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest of ``allowed``, or ``""``."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
