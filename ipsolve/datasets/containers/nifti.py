"""NIfTI volumes, in the axes of DICOM."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ipsolve.datasets.containers.base import Array, Container, Damaged, File, Header, absent
from ipsolve.files.filesystems import is_of_store

_GZIP = b"\x1f\x8b"
_NIFTI_2 = 540  # bytes of its header, and the first number of it


class Nifti(Container):
    """A volume as [slice, row, column], of 4 axes a stack of them, with the slope and intercept of its header.

    Its axes are turned to the closest of the patient: slices from inferior to superior, rows from anterior to
    posterior, columns from right to left (LPS, that of DICOM and ITK). Of a file that is not compressed slices are read
    by themselves.
    """

    def __init__(self, file: File, where: str) -> None:
        try:
            import nibabel
            from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
        except ModuleNotFoundError:
            raise absent("nibabel", "nifti", f"NIfTI ({where})") from None
        self._opened: list[Any] = []
        try:
            image = self._image(nibabel, file)
            if len(image.shape) < 2 or sum(n > 1 for n in image.shape[3:]) > 1:
                raise Damaged(f"a NIfTI file of shape {list(image.shape)}; read are 3 axes, and 4 with time")
            self._data, self._shape = image.dataobj, tuple(image.shape[:3]) + (1,) * (3 - len(image.shape))
            turn = ornt_transform(io_orientation(image.affine), axcodes2ornt("LPS"))
        except Damaged:
            self.close()
            raise
        except Exception as error:  # a header of nonsense is whatever its reader makes of it
            self.close()
            if isinstance(error, OSError) and is_of_store(error):
                raise
            raise Damaged(f"not a NIfTI file that can be read: {' '.join(str(error).split())}") from error
        # of each axis of the patient (left, posterior, superior) the axis of the file, and whether it goes that way
        axes = {int(to): (own, int(way)) for own, (to, way) in enumerate(turn)}
        self._axes = [axes[patient] for patient in (2, 1, 0)]  # slice, row, column
        spatial = tuple(self._shape[own] for own, _ in self._axes)
        times = tuple(n for n in image.shape[3:] if n > 1)
        self.headers = {"": Header((*times, *spatial), "c" if image.get_data_dtype().kind == "c" else "f")}

    def _image(self, nibabel: Any, file: File) -> Any:
        opened: Any = file.open("rb") if isinstance(file, Path) else file
        self._opened.append(opened)
        start = opened.read(2)
        opened.seek(0)
        if start == _GZIP:
            opened = gzip.GzipFile(fileobj=opened)
            self._opened.append(opened)
        size = opened.read(4)
        opened.seek(0)
        second = _NIFTI_2 in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
        return (nibabel.Nifti2Image if second else nibabel.Nifti1Image).from_stream(opened)

    def read(self, name: str, row: int | None) -> tuple[Array, float | None]:
        shape = self.headers[name].shape
        picked: list[Any] = [slice(None)] * len(self._data.shape)
        spatial = list(range(3))
        if len(shape) == 3 and row is not None:  # one slice of a volume
            own, way = self._axes[0]
            picked[own] = row if way > 0 else self._shape[own] - 1 - row
            return self._turned(self._values(picked), [a for a in spatial if a != own], self._axes[1:]), None
        if row is not None:  # one volume of a series
            picked[next(i for i, n in enumerate(self._data.shape) if i > 2 and n > 1)] = row
        values = self._values(picked)
        volumes = values.reshape(*self._shape, -1)
        turned = np.moveaxis(self._turned(volumes, spatial, self._axes), -1, 0)
        return (turned if row is None and len(shape) > 3 else turned[0]), None

    def _values(self, picked: list[Any]) -> Array:
        try:
            values = np.asarray(self._data[tuple(picked)])
            # whole numbers are numbers of a unit here, as all others: not parts of the largest of their type
            return values.astype(np.float64) if values.dtype.kind in "iu" else values
        except (EOFError, ValueError, zlib.error, gzip.BadGzipFile, OSError) as error:
            if isinstance(error, OSError) and is_of_store(error) and not isinstance(error, gzip.BadGzipFile):
                raise
            raise Damaged(f"the volume cannot be read: {' '.join(str(error).split())}") from error

    def _turned(self, values: Array, there: list[int], wanted: list[tuple[int, int]]) -> Array:
        order = [there.index(own) for own, _ in wanted]
        turned = np.transpose(values, [*order, *range(len(order), values.ndim)])
        return turned[tuple(slice(None, None, way) for _, way in wanted)]

    def close(self) -> None:
        for opened in reversed(self._opened):
            opened.close()
