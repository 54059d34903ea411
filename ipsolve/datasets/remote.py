"""An object in a store as a file that seeks, for readers that know nothing of stores."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from ipsolve.files.filesystems import patiently

_BUFFER = 256 * 2**10  # of one request: readers look at headers a few bytes at a time


class RemoteFile(io.RawIOBase):
    """An open file of pyarrow's, read in parts.

    Attributes:
        name: of the object; some readers ask for it.
        failed: what the store answered last instead of bytes. Readers in C turn it into an error of their own, and
            it must not be taken for damage of the file: see :func:`raise_of_store`.
    """

    def __init__(self, opened: Any, name: str = "") -> None:
        super().__init__()
        self._opened, self.name = opened, name
        self.failed: OSError | None = None

    def buffered(self) -> BinaryIO:
        return io.BufferedReader(self, _BUFFER)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._opened.seek(offset, whence))

    def tell(self) -> int:
        return int(self._opened.tell())

    def readinto(self, buffer: Any) -> int:
        start = self._opened.tell()
        try:
            content = patiently(lambda: self._opened.read_at(len(buffer), start))
        except OSError as error:
            self.failed = error
            raise
        buffer[: len(content)] = content
        self._opened.seek(start + len(content))
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()


def raise_of_store(file: object) -> None:
    """Raise what a store answered while an open file was read, if it did not give bytes; do nothing for other files."""
    raw = getattr(file, "raw", None)
    if isinstance(raw, RemoteFile) and raw.failed is not None:
        raise raw.failed
