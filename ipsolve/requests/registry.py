"""Name tables: how a word in a configuration becomes a class."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

from ipsolve.requests.errors import RequestError

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Generic[T]):
    """Classes by their ``name``; an unknown name answers with the nearest known one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def register(self, cls: C) -> C:  # not type[T]: pydantic types what its decorator returns as another class
        """Class decorator: enter ``cls`` under its class attribute ``name``."""
        name: str = cls.name  # type: ignore[attr-defined]
        if name in self._classes:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._classes[name] = cls
        return cls

    def __getitem__(self, name: str) -> type[T]:
        """Return the class called ``name``.

        Raises:
            RequestError: no such class; the message names the nearest one and all that exist.
        """
        if name in self._classes:
            return self._classes[name]
        raise RequestError(f"unknown {self.kind} {name!r}{did_you_mean(name, self)}; allowed: {', '.join(self)}")

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        return len(self._classes)

    def __contains__(self, name: object) -> bool:
        return name in self._classes


def did_you_mean(name: str, allowed: object) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest of ``allowed`` (an iterable of str), or ``""``."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)  # type: ignore[call-overload]
    return f" (did you mean {close[0]!r}?)" if close else ""
