"""The files of a source as they were listed: on a disk, or in a store that a URI names."""

from __future__ import annotations

import errno
import io
import os
import socket
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ipsolve.datasets.base import ImageError
from ipsolve.datasets.remote import RemoteFile
from ipsolve.datasets.walking import HIDDEN, hidden_root, is_hidden
from ipsolve.files.filesystems import is_local, join, open_location, patiently, reason
from ipsolve.requests.errors import RequestError

_CACHE_BYTES = 64 * 2**20


class Listed(ABC):
    """Files in an order; cheap to pickle, holds no content.

    Attributes:
        left_out: how many files were passed over when they were listed, by why.
    """

    left_out: Mapping[str, int]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Return a file's path relative to the root of the source, with forward slashes."""

    @abstractmethod
    def where(self, index: int) -> str:
        """Return a file's path or URI, for messages."""

    @abstractmethod
    def image(self, index: int) -> Path | BinaryIO:
        """Return what a decoder reads a file from.

        Raises:
            ImageError: it is not there any more.
        """

    @abstractmethod
    def stream(self, index: int) -> Path | BinaryIO:
        """Return a file to be read in parts, a path or an open file that seeks; ImageError if it is not there any more.

        What a store answers when it fails is kept by the file: see :mod:`ipsolve.datasets.remote`.
        """

    @abstractmethod
    def neighbour(self, name: str) -> bytes | None:
        """Return the content of a file by its path relative to the root, such as a caption's; None if there is none."""

    @abstractmethod
    def table(self, index: int) -> pq.ParquetFile:
        """Return a Parquet file, opened; an error of pyarrow's or the system's if it is not one."""

    @abstractmethod
    def beside(self, index: int, path: str) -> Path | BinaryIO:
        """Return what a decoder reads the image from that a Parquet file names instead of holding it.

        Raises:
            ImageError: it is not there.
        """

    @abstractmethod
    def facts(self) -> list[tuple[str, int]]:
        """Return (name, bytes) of each file: what a digest can know of them without reading them."""


@dataclass(frozen=True)
class LocalFiles(Listed):
    """Files below a folder.

    A file that is gone or closed to this user is its image's own fault, and so is what is damaged in it. A disk that
    fails, or a machine that does not have the folder at all, ends the work, which the same command takes up.
    """

    root: Path
    paths: list[Path]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index].relative_to(self.root).as_posix()

    def where(self, index: int) -> str:
        return str(self.paths[index])

    def image(self, index: int) -> Path | BinaryIO:
        return self._readable(self.paths[index])

    def stream(self, index: int) -> Path:
        return self._readable(self.paths[index])

    def neighbour(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            return None

    def beside(self, index: int, path: str) -> Path | BinaryIO:
        return self._readable(self.paths[index].parent / path)

    def _readable(self, path: Path) -> Path:
        try:
            with path.open("rb"):
                return path
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            self._require_root()
            raise ImageError(f"{type(error).__name__}: {error.strerror}") from None

    def table(self, index: int) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.paths[index])
        except OSError:  # not looked for before: ten thousand files would be ten thousand looks at the folder
            self._require_root()
            raise

    def _require_root(self) -> None:
        # a folder in which a share is to be mounted is there, and empty, where it is not
        if not self.root.is_dir() or not self._holds_anything():
            raise OSError(
                errno.ENOENT,
                f"machine {socket.gethostname()} does not see the images of data.source; every node must have them",
                str(self.root),
            )

    def _holds_anything(self) -> bool:
        with os.scandir(self.root) as entries:
            return any(True for _ in entries)

    def facts(self) -> list[tuple[str, int]]:
        sizes = [path.stat().st_size if path.exists() else -1 for path in self.paths]
        return [(self.name(index), size) for index, size in enumerate(sizes)]


class StoredFiles(Listed):
    """Files below a URI, with the sizes that the one listing told. A pickled one opens the store again.

    Only an object that is gone is the image's own fault. Whatever else a store answers, it may answer otherwise
    tomorrow, with another token or another network: that is tried again for a minute and then ends the work, which the
    same command takes up. As failures of images, which are kept, it would turn a bad night into a spoilt run.
    """

    def __init__(self, location: str, sizes: dict[str, int], left_out: Mapping[str, int] | None = None) -> None:
        self.location, self.names, self.bytes = location, list(sizes), list(sizes.values())
        self.left_out = left_out or {}
        self._open()

    def _open(self) -> None:
        self._filesystem, self._root = open_location(self.location, "data.source")
        # every cell of a run reads the same images, one batch after the other
        self._cache: OrderedDict[int, bytes] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "names": self.names, "bytes": self.bytes, "left_out": self.left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._open()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def where(self, index: int) -> str:
        return join(self.location, self.names[index])

    def _path(self, index: int) -> str:
        return f"{self._root}/{self.names[index]}"

    def image(self, index: int) -> BinaryIO:
        if index not in self._cache:
            self._cache[index] = self._there(lambda: self._read(self._path(index)))
            while sum(map(len, self._cache.values())) > _CACHE_BYTES and len(self._cache) > 1:
                self._cache.popitem(last=False)
        return io.BytesIO(self._cache[index])

    def _there(self, action: Callable[[], Any]) -> Any:
        try:
            return patiently(action)
        except FileNotFoundError:
            raise ImageError("the object is not there any more") from None

    def _read(self, path: str) -> bytes:
        with self._filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def stream(self, index: int) -> BinaryIO:
        opened = self._there(lambda: self._filesystem.open_input_file(self._path(index)))
        return RemoteFile(opened, self.names[index]).buffered()

    def neighbour(self, name: str) -> bytes | None:
        try:
            return patiently(lambda: self._read(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None

    def table(self, index: int) -> pq.ParquetFile:
        file = self._filesystem.open_input_file(self._path(index))
        return pq.ParquetFile(file, pre_buffer=True)  # a few large requests in place of one for every page

    def beside(self, index: int, path: str) -> BinaryIO:
        # a path of the machine that wrote the file, most often: no place in a store
        raise ImageError(f"the row holds the path {path} and no bytes; paths are read on a local disk only")

    def facts(self) -> list[tuple[str, int]]:
        return list(zip(self.names, self.bytes, strict=True))


def list_uri(source: str, suffixes: Sequence[str]) -> StoredFiles | Path:
    """Return the files with one of ``suffixes`` that a URI names or that lie below it, sorted by name.

    The URI of a local file or folder becomes its path. In a store it is one listing, a page per thousand files.

    Raises:
        RequestError: the URI cannot be opened, or nothing is there.
    """
    filesystem, path = open_location(source, "data.source")
    if is_local(filesystem):
        return Path(path)
    try:
        found = filesystem.get_file_info(path)
        if found.is_file:
            location, _, query = source.partition("?")
            folder, _, name = location.rpartition("/")
            return StoredFiles(folder + (f"?{query}" if query else ""), {name: found.size})
        selector = pafs.FileSelector(path, allow_not_found=True, recursive=True)
        listed = [info for info in filesystem.get_file_info(selector) if info.is_file]
        named = {info.path.removeprefix(f"{path}/"): int(info.size) for info in listed}
    except (OSError, pa.ArrowException) as error:
        raise RequestError("data.source", f"cannot list {source}: {reason(error)}") from None
    left_out = Counter({HIDDEN: len({hidden_root(name) for name in named if is_hidden(name)})})
    visible = {name: size for name, size in named.items() if not is_hidden(name)}
    wanted = {name: size for name, size in sorted(visible.items()) if name.lower().endswith(tuple(suffixes))}
    left_out.update(ending(name) for name in visible if name not in wanted)
    return StoredFiles(source, wanted, +left_out)


def ending(name: str) -> str:
    """Return what files of a kind that is not read are counted under: ``.txt``, or ``without an ending``."""
    return os.path.splitext(name.lower())[1] or "without an ending"
