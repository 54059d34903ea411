"""Arrays as numpy writes them: npy, and npz, an archive of them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from ipsolve.datasets.base import ImageError
from ipsolve.datasets.containers.base import Array, Container, Damaged, File, Header

MAGIC = b"\x93NUMPY"


class Npy(Container):
    """One array. Of a stack in the order of C a row is read by itself."""

    def __init__(self, file: File) -> None:
        self._file: Any = file.open("rb") if isinstance(file, Path) else file
        try:
            shape, self._fortran, self._dtype = _header(self._file)
        except BaseException:
            self._file.close()
            raise
        self._start = self._file.tell()
        self.headers = {"": Header(shape, self._dtype.kind)}

    def read(self, name: str, row: int | None) -> tuple[Array, float | None]:
        shape = self.headers[name].shape
        if self._dtype.hasobject:
            raise Damaged("Object arrays cannot be loaded: they would have to be unpickled")
        if row is None or self._fortran:
            self._file.seek(0)
            whole = np.lib.format.read_array(self._file, allow_pickle=False)
            return np.asarray(whole if row is None else whole[row]), None
        size = int(np.prod(shape[1:], dtype=np.int64)) * self._dtype.itemsize
        self._file.seek(self._start + row * size)
        content = self._file.read(size)
        if len(content) < size:
            raise Damaged(f"the file ends in row {row} of {shape[0]}")
        return np.frombuffer(content, self._dtype).reshape(shape[1:]), None

    def close(self) -> None:
        self._file.close()


class Npz(Container):
    """Several arrays by name; each is read whole, because it is compressed, and the last one is kept."""

    def __init__(self, file: File) -> None:
        self._archive = zipfile.ZipFile(file)
        self._last: tuple[str, Array] | None = None
        self.headers = {}
        try:
            for member in self._archive.namelist():
                with self._archive.open(member) as opened:
                    shape, _, dtype = _header(opened)
                    self.headers[member.removesuffix(".npy")] = Header(shape, dtype.kind)
        except BaseException:
            self._archive.close()
            raise

    def read(self, name: str, row: int | None) -> tuple[Array, float | None]:
        if self._last is None or self._last[0] != name:
            member = f"{name}.npy" if f"{name}.npy" in self._archive.namelist() else name
            with self._archive.open(member) as opened:
                self._last = name, np.lib.format.read_array(cast(BinaryIO, opened), allow_pickle=False)
        whole = self._last[1]
        return np.asarray(whole if row is None else whole[row]), None

    def close(self) -> None:
        self._archive.close()


def load_npy(content: bytes) -> Array:
    """Return the array in a npy file; objects, which would have to be unpickled, are refused."""
    try:
        loaded: Array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ImageError(f"not a npy file of numbers: {' '.join(str(error).split())}") from None
    return loaded


def _header(opened: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(opened)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(opened)
    return tuple(shape), bool(fortran), dtype
