"""What a container is: arrays in one file, of which the headers tell the shapes and single rows can be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ipsolve.requests.errors import RequestError

Array = NDArray[Any]
File = Path | BinaryIO


class Header(NamedTuple):
    """What is known of an array before it is read; ``kind`` is that of numpy's ``dtype.kind``."""

    shape: tuple[int, ...]
    kind: str


class Damaged(Exception):
    """A file is not of its kind, or is of a part of its kind that is not read; the message is one line."""


class Container(ABC):
    """An open file. Headers are read when it is opened, numbers when they are asked for.

    Attributes:
        headers: of its arrays by name; a file of one array calls it ``""``.
    """

    headers: dict[str, Header]

    @abstractmethod
    def read(self, name: str, row: int | None) -> tuple[Array, float | None]:
        """Return an array, or a row of it (``None``: all), and the integer that is 1 (``None``: that of its type)."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file; a stream is closed by whoever opened it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def largest(self, name: str) -> float:
        """Return the largest modulus in an array, read a row at a time."""
        shape = self.headers[name].shape
        rows = range(shape[0]) if len(shape) > 2 else [None]
        return max((float(np.abs(self.read(name, row)[0]).max()) for row in rows), default=0.0)


def absent(package: str, extra: str, kind: str) -> RequestError:
    """Return the error for a file whose reader is not installed."""
    return RequestError("data.source", f"{kind} needs {package}; install it with: pip install 'ipsolve[{extra}]'")
