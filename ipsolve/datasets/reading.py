"""From numbers to signals that are no colour photographs.

Values become float32 in [-1, 1]. Integers are read from 0, which is -1, to the largest number of their type (of the
bits that a DICOM file stores); ``value_range: [low, high]`` says otherwise, and says it of floating-point numbers,
which without it must lie in [-1, 1] as they are. Complex numbers are divided by ``high``; without it their modulus must
not exceed 1. What is outside of a given range stays outside: nothing is clipped.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ipsolve.datasets.base import ImageError
from ipsolve.datasets.containers.npy import MAGIC, load_npy
from ipsolve.datasets.containers.picture import Picture
from ipsolve.requests.errors import RequestError
from ipsolve.signal import Signal

Array = NDArray[Any]
_TOLERANCE = 1e-3  # of float32 and of files that were made by dividing


@dataclass(frozen=True)
class Reading:
    """How numbers in a file become a signal.

    Attributes:
        value_range: what is -1 and what is 1; None, as said above.
    """

    signal: Signal
    value_range: tuple[float, float] | None = None

    def to_signal(self, values: Array, most: float | None = None) -> NDArray[np.float32]:
        """Return values as float32 of the signal's shape.

        Args:
            most: the integer that is 1, where it is not the largest of their type.

        Raises:
            ImageError: another shape, values that are no numbers, are not finite or are out of range.
        """
        kind, shape = self.signal.kind, self.signal.shape
        if values.dtype.kind not in "biufc":
            raise ImageError(f"an array of {values.dtype}; allowed: numbers")
        if values.dtype.kind == "c":
            if kind != "complex":
                raise ImageError(f"complex numbers, and the prior is of {kind} signals")
            values = np.stack([values.real, values.imag])  # of [1, H, W], too, which is then refused by its shape
            if self.value_range is not None:
                values = values / self.value_range[1]
        else:
            values = self._real(values, most)
        if kind == "gray" and values.shape == shape[1:]:
            values = values[None]
        if kind == "video" and values.shape != shape and values.shape == (shape[0], *shape[2:], shape[1]):
            values = np.moveaxis(values, -1, 1)  # channels last, as frames are often kept
        if values.shape != shape:
            raise ImageError(f"an array of shape {list(values.shape)}, and the prior is of {list(shape)}")
        found = np.asarray(values, np.float32)
        if not np.isfinite(found).all():
            raise ImageError("values that are NaN or infinite")
        largest = float(np.hypot(*found).max() if kind == "complex" else np.abs(found).max())
        if self.value_range is None and largest > 1 + _TOLERANCE:
            raise ImageError(f"values reach {largest:.4g}; data.value_range: [low, high] says which are -1 and 1")
        return found

    def _real(self, values: Array, most: float | None = None) -> Array:
        if self.value_range is not None:
            low, high = self.value_range
            return (values.astype(np.float64) - low) * (2 / (high - low)) - 1
        if values.dtype.kind == "f":
            return values
        most = float(np.iinfo(values.dtype).max if values.dtype.kind != "b" else 1) if most is None else most
        return values.astype(np.float64) * (2 / most) - 1

    def of_bytes(self, content: bytes) -> NDArray[np.float32]:
        """Return the signal in a file's content: npy, or an image of one channel; ImageError if it is neither."""
        return self.to_signal(load_npy(content)) if content.startswith(MAGIC) else self.of_picture(io.BytesIO(content))

    def of_list(self, cell: list[Any]) -> NDArray[np.float32]:
        """Return the signal in a (nested) list of numbers; a flat one is in the order of the signal's own shape."""
        try:
            values = np.asarray(cell, np.float64)
            return self.to_signal(values.reshape(self.signal.shape) if values.ndim == 1 else values)
        except ImageError:
            raise
        except (ValueError, TypeError) as error:
            raise ImageError(f"a list that is no array: {error}") from None

    def of_picture(self, file: Path | BinaryIO) -> NDArray[np.float32]:
        """Return a gray image, PNG, BMP or TIFF, or a volume in a TIFF; ImageError if it is none."""
        with Picture(file) as picture:
            return self.to_signal(*picture.read("", None))


def axes(signal: Signal, shape: tuple[int, ...], kind: str) -> int:
    """Return how many axes one signal has in an array of this shape and this kind of numbers (numpy's ``dtype.kind``).

    Gray images may come without their channel axis, complex numbers come without the axis of their pairs.
    """
    if signal.kind == "complex":
        return 2 if kind == "c" else 3
    if signal.kind == "gray":
        return 3 if len(shape) > 2 and shape[-3] == 1 else 2
    return len(signal.shape)


def check_range(value_range: tuple[float, float] | None) -> None:
    """Raise RequestError unless a range goes up."""
    if value_range is not None and not value_range[0] < value_range[1]:
        raise RequestError("data.value_range", f"must be [low, high] with low < high (got {list(value_range)})")
