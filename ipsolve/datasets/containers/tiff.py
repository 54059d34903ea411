"""TIFF of kinds that Pillow does not know, such as floating-point numbers of 64 bits."""

from __future__ import annotations

import numpy as np

from ipsolve.datasets.containers.base import Array, Container, Damaged, File, Header, absent
from ipsolve.datasets.decoding import MAX_PIXELS


class Tiff(Container):
    """The pages of a file, one channel each."""

    def __init__(self, file: File, where: str) -> None:
        try:
            import tifffile
        except ModuleNotFoundError:
            raise absent("tifffile", "tiff", f"TIFF of a kind that Pillow does not read ({where})") from None
        try:
            self._file = tifffile.TiffFile(file)
        except (tifffile.TiffFileError, ValueError, OverflowError) as error:
            raise Damaged(f"not a TIFF that can be read: {' '.join(str(error).split())}") from None
        pages = [page for page in self._file.pages if isinstance(page, tifffile.TiffPage | tifffile.TiffFrame)]
        if not pages:
            self._file.close()
            raise Damaged("a TIFF without pages")
        shape, kind = tuple(pages[0].shape), np.dtype(pages[0].dtype or "u1").kind
        if int(np.prod(shape, dtype=np.int64)) > MAX_PIXELS:
            self._file.close()
            raise Damaged(f"pages of {list(shape)} pixels; at most {MAX_PIXELS} are read")
        self.headers = {"": Header((len(pages), *shape) if len(pages) > 1 else shape, kind)}

    def read(self, name: str, row: int | None) -> tuple[Array, float | None]:
        count = len(self._file.pages)
        if row is None and count > 1:
            return np.stack([self._file.pages[page].asarray() for page in range(count)]), None
        return np.asarray(self._file.pages[row or 0].asarray()), None

    def close(self) -> None:
        self._file.close()
