"""DICOM: the stored values of gray images, in the units that the file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ipsolve.datasets.base import ImageError
from ipsolve.datasets.containers.base import Array, Container, Damaged, File, Header, absent
from ipsolve.datasets.decoding import MAX_PIXELS
from ipsolve.files.filesystems import is_of_store

_PREAMBLE, _MAGIC = 128, b"DICM"
_INDEX = "DICOMDIR"  # of the images on a medium, and none of them


class Dicom(Container):
    """An image, or the frames of one, after the modality's rescale (slope and intercept, or its table).

    MONOCHROME1, where the smallest value is white, is turned round within the bits that are stored, before the
    rescale. Windows, which are for looking at it, are not applied. Frames are read by themselves.
    """

    def __init__(self, file: File, where: str) -> None:
        try:
            import pydicom
        except ModuleNotFoundError:
            raise absent("pydicom", "dicom", f"DICOM ({where})") from None
        self._file = file
        try:
            about = pydicom.dcmread(file, stop_before_pixels=True)
            frames, rows, columns = int(about.get("NumberOfFrames") or 1), int(about.Rows), int(about.Columns)
            self._stored, samples = int(about.BitsStored), int(about.get("SamplesPerPixel", 1))
            self._signed = bool(about.get("PixelRepresentation", 0))
            kind = str(about.get("PhotometricInterpretation"))
            self._white_first = kind == "MONOCHROME1"
        except Exception as error:  # whatever pydicom makes of bytes that are no DICOM
            if isinstance(error, OSError) and is_of_store(error):
                raise
            raise Damaged(f"not a DICOM file with an image: {' '.join(str(error).split())}") from error
        if samples != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):  # of a palette the numbers are names of colours
            raise Damaged(f"a colour image ({kind}); allowed: MONOCHROME1, MONOCHROME2")
        if rows * columns > MAX_PIXELS:
            raise Damaged(f"{columns} x {rows} pixels; at most {MAX_PIXELS} are read")
        self._about = about
        self._rescaled = "ModalityLUTSequence" in about or (
            float(about.get("RescaleSlope", 1)), float(about.get("RescaleIntercept", 0))
        ) != (1.0, 0.0)  # fmt: skip
        size = (rows, columns)
        numbers = "f" if self._rescaled else "i" if self._signed else "u"
        self.headers = {"": Header((frames, *size) if frames > 1 else size, numbers)}

    def read(self, name: str, row: int | None) -> tuple[Array, float | None]:
        shape = self.headers[name].shape
        if len(shape) == 2 or row is not None:
            return self._frame(row or 0), self._most
        if shape[0] * shape[1] * shape[2] > MAX_PIXELS:
            raise ImageError(f"{shape[0]} frames of {shape[2]} x {shape[1]} pixels; at most {MAX_PIXELS} are read")
        return np.stack([self._frame(frame) for frame in range(shape[0])]), self._most

    def close(self) -> None:
        pass  # pydicom opens a path for each frame anew

    @property
    def _most(self) -> float | None:
        return None if self._rescaled else float(2 ** (self._stored - self._signed) - 1)

    def _frame(self, number: int) -> Array:
        from pydicom.pixels import apply_modality_lut, pixel_array

        try:
            if not isinstance(self._file, Path):
                self._file.seek(0)
            values = pixel_array(self._file, index=number)
            if self._white_first:
                low = -(2 ** (self._stored - 1)) if self._signed else 0
                values = (2 * low + 2**self._stored - 1 - values.astype(np.int64)).astype(values.dtype)
            return np.asarray(apply_modality_lut(values, self._about) if self._rescaled else values)
        except Exception as error:  # damaged or compressed in a way that no installed decoder knows
            if isinstance(error, OSError) and is_of_store(error):
                raise
            raise Damaged(f"its pixels cannot be read: {' '.join(str(error).split())}") from error


def is_dicom(file: Path) -> bool:
    """Return whether a file begins as DICOM does: most have no ending, or a number in its place."""
    try:
        with file.open("rb") as opened:
            return opened.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC
    except OSError:
        return False


def may_be_dicom(name: str) -> bool:
    """Return whether a name has no ending that tells what the file is: ``IM0001``, ``1.2.840.113619.2.55``."""
    ending = name.rpartition(".")[2] if "." in name else ""
    return (not ending or ending.isdigit()) and name != _INDEX
