"""Signals that are no colour photographs, in files of arrays: see :mod:`ipsolve.datasets.containers`."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

from ipsolve.datasets.base import ImageError, Source, digest
from ipsolve.datasets.containers import GRAY_SUFFIXES, Container, Opening
from ipsolve.datasets.decoding import MAX_PIXELS
from ipsolve.datasets.listed import Listed
from ipsolve.datasets.reading import Reading, axes
from ipsolve.datasets.remote import raise_of_store
from ipsolve.files.filesystems import is_of_store
from ipsolve.requests.errors import RequestError

_THREADS = 16


class ArrayFiles(Source):
    """Signals in files of arrays: one each, or a stack of them along the first axis.

    Of files that can hold several only headers are read when the source is made. Identifiers are the file's name, with
    ``#name`` for the arrays of a npz and ``#row`` in a stack.

    Args:
        by_file: the largest modulus in an array is 1 (and zero is -1, of real numbers); it is found when a signal of
            the array is first read, by reading all of it once, a row at a time.

    Raises:
        RequestError: a reader is not installed, or what is asked of a kind of file does not fit one of them.
    """

    def __init__(self, files: Listed, reading: Reading, opening: Opening | None = None, by_file: bool = False) -> None:
        self.files, self.reading, self.opening, self.by_file = files, reading, opening or Opening(), by_file
        self._forget()
        self._arrays: list[tuple[int, str, bool]] = []  # (file, name in it, whether it is a stack)
        lengths: list[int] = []
        with ThreadPoolExecutor(_THREADS) as pool:  # a store takes its time for each
            found = list(pool.map(self._contents, range(len(files))))
        for file, contents in enumerate(found):
            for name, count in contents.items():
                self._arrays.append((file, name, count is not None))
                lengths.append(1 if count is None else count)
        self._ends = list(accumulate(lengths))

    def _forget(self) -> None:
        self._last: tuple[int, _Open] | None = None
        self._largest: dict[tuple[int, str], float] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_last", "_largest")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._forget()

    def _contents(self, file: int) -> dict[str, int | None]:
        """Return the arrays in a file by name, with the number of signals of each that is a stack."""
        if self.files.name(file).lower().endswith(GRAY_SUFFIXES):
            return {"": None}
        try:
            opened = _Open(self.files, file, self.opening)
        except ImageError:
            return {"": None}  # its own fault, said where it is read
        headers, signal = opened.container.headers, self.reading.signal
        opened.close()
        stacks = {name: len(each.shape) > axes(signal, each.shape, each.kind) for name, each in headers.items()}
        return {name: headers[name].shape[0] if stack else None for name, stack in stacks.items()}

    def _locate(self, index: int) -> tuple[int, str, int | None]:
        """Return (file, name of the array, row of the stack or None)."""
        place = bisect.bisect_right(self._ends, index)
        file, name, stack = self._arrays[place]
        return file, name, index - (self._ends[place - 1] if place else 0) if stack else None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def image_ids(self, indices: Sequence[int]) -> list[str]:
        places = map(self._locate, indices)
        return ["#".join([self.files.name(file), *filter(None, [name]), *([] if row is None else [str(row)])])
                for file, name, row in places]  # fmt: skip

    def load(self, index: int, size: int) -> Any:
        """Return one signal, float32 of the shape of the prior's; ``size`` is that of photographs and not used."""
        file, name, row = self._locate(index)
        opened = self._opened(file)
        try:
            self._require_size(opened.container.headers[name].shape[row is not None :])
            values, most = opened.container.read(name, row)
            reading = self._reading_of(file, name, opened.container)
        except Exception as error:  # readers raise nearly everything on damaged bytes
            opened.fail(error)
        return reading.to_signal(values, most)

    def _require_size(self, shape: tuple[int, ...]) -> None:
        # before memory is asked for: a few bytes of a compressed file can claim to be any number of values
        if math.prod(shape) > max(MAX_PIXELS, 2 * math.prod(self.reading.signal.shape)):
            raise ImageError(f"an array of shape {list(shape)}, and the prior is of {list(self.reading.signal.shape)}")

    def _opened(self, file: int) -> _Open:
        """Return an open file. The last one is kept: the next row, or the next cell, wants it again."""
        if self._last is None or self._last[0] != file:
            if self._last is not None:
                self._last[1].close()
            self._last = None
            self._last = file, _Open(self.files, file, self.opening)
        return self._last[1]

    def _reading_of(self, file: int, name: str, container: Container) -> Reading:
        if not self.by_file:
            return self.reading
        if (file, name) not in self._largest:
            self._largest[file, name] = container.largest(name)
        if (largest := self._largest[file, name]) == 0:
            raise ImageError("all values of the file are zero, and its largest is to be 1")
        return replace(self.reading, value_range=(0.0, largest))

    def left_out(self) -> dict[str, int]:
        return dict(self.files.left_out)

    def describe(self) -> dict[str, str | int]:
        kind, facts = self.reading.signal.kind, digest(self.files.facts())
        return {"kind": "arrays", "files": len(self.files), "n": len(self), "signal": kind, "digest": facts}


class _Open:
    """A container and the stream it reads from.

    Raises:
        ImageError: the file is not what its name tells.
    """

    def __init__(self, files: Listed, file: int, opening: Opening) -> None:
        self.stream = files.stream(file)
        try:
            self.container = opening.open(self.stream, files.name(file), files.where(file))
        except Exception as error:  # readers raise nearly everything on damaged bytes
            self._close_stream()
            self.fail(error)

    def fail(self, error: Exception) -> NoReturn:
        """Raise an error as that of the image, unless it is that of a store, a disk or the request."""
        raise_of_store(self.stream)
        if isinstance(error, ImageError | RequestError) or (isinstance(error, OSError) and is_of_store(error)):
            raise error
        raise ImageError(f"not a file of numbers: {' '.join(str(error).split()) or type(error).__name__}") from None

    def close(self) -> None:
        self.container.close()
        self._close_stream()

    def __del__(self) -> None:
        if hasattr(self, "container"):
            self.close()

    def _close_stream(self) -> None:
        if not isinstance(self.stream, Path):
            self.stream.close()
