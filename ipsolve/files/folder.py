"""A folder of files that are never seen half done, on a disk or in an object store."""

from __future__ import annotations

import errno
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ipsolve.files.filesystems import is_local, is_object_store, is_uri, join, open_location
from ipsolve.requests.errors import RequestError
from ipsolve.requests.secrets import redact_all

T = TypeVar("T")

# beside the file that it becomes, so that the rename stays on one disk; hidden, so that no reader takes it for a result
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.unfinished")
ROW_GROUP = 1024  # rows: what a reader of a few columns or images holds at a time, where a file is 256 MB
THREADS = 16  # requests at a time where there are many: each waits, none computes


class Folder:
    """Files under one location.

    Nothing outside of it is listed, moved or deleted: a folder in it that is a symbolic link is refused, and so is an
    object of a store that is called ``../x``, which would become a file elsewhere wherever it is copied to.

    Attributes:
        location: for people and commands, a path or the URI.
        filesystem, root: where that is, as pyarrow sees it.
    """

    def __init__(self, location: str | Path) -> None:
        """Open a location; RequestError if it is not one, or a URI that holds a secret."""
        self.filesystem, self.root = open_location(location)
        self.location = str(location) if is_uri(location) and not self.local else self.root

    @property
    def local(self) -> bool:
        return is_local(self.filesystem)

    def path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def address(self, *parts: str) -> str:
        """Return where something in this folder is, for people and commands."""
        return join(self.location, *parts)

    def exists(self, *parts: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(*parts)).type != pafs.FileType.NotFound)

    def files(self, *parts: str, suffix: str = ".parquet") -> list[str]:
        """Return the finished files under a folder of this one, sorted; a missing folder has none."""
        return list(self.sizes(*parts, suffix=suffix))

    def sizes(self, *parts: str, suffix: str = ".parquet") -> dict[str, int]:
        """Return the bytes of each finished file under a folder of this one, by its path, sorted.

        One listing, also in an object store: a page per thousand files and no request for a file.
        """
        found = {
            info.path: int(info.size)
            for info in self._list(self.path(*parts))
            if info.is_file and info.path.endswith(suffix) and not os.path.basename(info.path).startswith(".")
        }
        return dict(sorted(found.items()))

    def _list(self, path: str) -> list[pafs.FileInfo]:
        found = self.filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True, recursive=True))
        if self.local:  # where pyarrow lists through links to folders, and what is listed may be moved and deleted
            below = path.removeprefix(self.root).split("/")[1:]
            parents = [self.path(*below[: i + 1]) for i in range(len(below))]
            for folder in [*parents, *(info.path for info in found if info.type == pafs.FileType.Directory)]:
                if os.path.islink(folder):
                    raise RequestError(f"{folder} is a symbolic link to a folder; allowed: folders of this run only")
        for info in found:
            if not {".", "..", ""}.isdisjoint(info.path.removeprefix(f"{path}/").split("/")):
                raise RequestError(f"{info.path} is not the name of a file of a run; delete it from the store")
        return list(found)

    def write(self, path: str, content: bytes, durable: bool = False) -> None:
        """Write a file that is never seen half done: all of it or none.

        Args:
            path: of the file; a file that is there is replaced.
            content: of the file.
            durable: return once it would outlive a power cut, as must be before what it replaces is deleted.
        """
        if is_object_store(self.filesystem):  # shows an object only once its upload is complete, and has no folders
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(content)
            return
        folder, name = os.path.split(path)
        unfinished = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.unfinished"
        self.filesystem.create_dir(folder, recursive=True)
        try:
            with self.filesystem.open_output_stream(unfinished) as stream:
                stream.write(content)
            if durable and self.local:
                _sync(unfinished)
            self.filesystem.move(unfinished, path)
            if durable and self.local:
                _sync(folder)
        except BaseException:  # a full disk must not be left fuller
            with suppress(OSError):
                self.filesystem.delete_file(unfinished)
            raise

    def write_table(self, path: str, table: pa.Table, durable: bool = False) -> None:
        """Write a Parquet file, all of it or none; ``durable`` as in :meth:`write`."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP)
        self.write(path, sink.getvalue(), durable)

    def write_json(self, name: str, content: object, durable: bool = False) -> None:
        """Write a JSON file, without what is secret in the environment; ``durable`` as in :meth:`write`."""
        text = json.dumps(redact_all(json.loads(json.dumps(content, default=str))), indent=2)
        self.write(self.path(name), f"{text}\n".encode(), durable)

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        with self.filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a JSON file of this folder, ``{}`` if there is none, or one that a power cut has left empty."""
        with suppress(FileNotFoundError, ValueError):
            content = json.loads(self.read(self.path(name)))
            if isinstance(content, dict):
                return content
        return {}

    def move(self, source: str, target: str) -> None:
        """Give a file another path. In an object store it is copied there and then deleted here, each a request."""
        if not is_object_store(self.filesystem):
            self.filesystem.create_dir(os.path.dirname(target), recursive=True)
        self.filesystem.move(source, target)

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files."""
        self.each(self.filesystem.delete_file, paths)

    def each(self, action: Callable[[str], T], paths: Iterable[str]) -> list[T]:
        """Return ``action(path)`` for all paths, several at a time."""
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(action, paths))

    def empty(self, name: str) -> None:
        """Delete what is in a folder of this one; it may be absent."""
        self._list(self.path(name))  # refuses a link to elsewhere
        self.filesystem.delete_dir_contents(self.path(name), missing_dir_ok=True)

    def sweep(self) -> int:
        """Delete what killed writers left unfinished, and return how many files; only while nobody writes here."""
        if is_object_store(self.filesystem):  # an upload that was cut off leaves no object
            return 0
        left = [info.path for info in self._list(self.root) if _UNFINISHED.fullmatch(os.path.basename(info.path))]
        self.delete(left)
        return len(left)


def _sync(path: str) -> None:
    """Bring a file, or the names in a folder, from memory to the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # those file systems that cannot do it for a folder
            raise
    finally:
        os.close(file)
