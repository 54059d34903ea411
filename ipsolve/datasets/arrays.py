"""Signals that are no colour photographs: arrays in npy, npz and Parquet, gray images of 8 to 32 bits.

Values become float32 in [-1, 1]. Integers are read from 0, which is -1, to the largest number of their type;
``value_range: [low, high]`` says otherwise, and says it of floating-point numbers, which without it must lie in [-1, 1]
as they are. Complex numbers are divided by ``high``; without it their modulus must not exceed 1. What is outside of a
given range stays outside: nothing is clipped.
"""

from __future__ import annotations

import bisect
import io
import zipfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from ipsolve.datasets.base import ImageError, Source, digest
from ipsolve.datasets.decoding import MAX_PIXELS
from ipsolve.datasets.listed import Listed
from ipsolve.files.filesystems import is_of_store
from ipsolve.requests.errors import RequestError
from ipsolve.signal import Signal

Array = NDArray[Any]
ARRAY_SUFFIXES = (".npy", ".npz")
GRAY_SUFFIXES = (".png", ".tif", ".tiff")
_TOLERANCE = 1e-3  # of float32 and of files that were made by dividing
_MAGIC = b"\x93NUMPY"
_GRAY_MODES = {"1": 1, "L": 255, "I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I": 2**31 - 1, "F": None}


@dataclass(frozen=True)
class Reading:
    """How numbers in a file become a signal.

    Attributes:
        value_range: what is -1 and what is 1; None, as said above.
    """

    signal: Signal
    value_range: tuple[float, float] | None = None

    def to_signal(self, values: Array) -> NDArray[np.float32]:
        """Return values as float32 of the signal's shape.

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
            values = self._real(values)
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
        return self.to_signal(load_npy(content)) if content.startswith(_MAGIC) else self.of_picture(io.BytesIO(content))

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
        """Return a gray image, PNG or TIFF of 8, 16 or 32 bits, at its own size; ImageError if it is none."""
        if self.signal.kind != "gray":
            raise ImageError(f"an image file, and the prior is of {self.signal.kind} signals; allowed: npy, npz")
        try:
            with Pillow.open(file, formats=("PNG", "TIFF")) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS} are read")
                if image.mode not in _GRAY_MODES:
                    raise ImageError(f"an image of mode {image.mode}; allowed: one channel of 8, 16 or 32 bits")
                values, most = np.asarray(image), _GRAY_MODES[image.mode]
                if image.format == "PNG" and image.mode == "I":  # as some versions of Pillow hold its 16 bits
                    most = 65535
        except ImageError:
            raise
        except Exception as error:  # decoders raise nearly everything on damaged bytes
            if isinstance(error, OSError) and is_of_store(error):
                raise
            raise ImageError(f"{type(error).__name__}: {' '.join(str(error).split())}") from None
        if values.dtype == np.uint32:
            most = 2**32 - 1
        return self.to_signal(np.asarray(self._real(values, most), np.float64))


def load_npy(content: bytes) -> Array:
    """Return the array in a npy file; objects, which would have to be unpickled, are refused."""
    try:
        loaded: Array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ImageError(f"not a npy file of numbers: {' '.join(str(error).split())}") from None
    return loaded


class ArrayFiles(Source):
    """Signals in npy and npz files, or gray image files: one each, or a stack of them along the first axis.

    Of npy and npz only headers are read when the source is made. Identifiers are the file's name, with ``#name`` for
    the arrays of a npz and ``#row`` in a stack.
    """

    def __init__(self, files: Listed, reading: Reading) -> None:
        self.files, self.reading = files, reading
        self._arrays: list[tuple[int, str, bool]] = []  # (file, name in a npz, whether it is a stack)
        lengths: list[int] = []
        for file in range(len(files)):
            for name, count in self._contents(file).items():
                self._arrays.append((file, name, count is not None))
                lengths.append(1 if count is None else count)
        self._ends = list(accumulate(lengths))

    def _contents(self, file: int) -> dict[str, int | None]:
        """Return the arrays in a file by name, with the number of signals of each that is a stack."""
        if self._is_picture(file):
            return {"": None}
        try:
            headers = _headers(self.files.image(file), self._is_archive(file))
        except (ValueError, OSError, EOFError, ImageError, zipfile.BadZipFile) as error:
            if isinstance(error, OSError) and is_of_store(error):
                raise
            return {"": None}  # its own fault, said where it is read
        signal = self.reading.signal
        stacks = {name: len(shape) > axes(signal, shape, kind) for name, (shape, kind) in headers.items()}
        return {name: headers[name][0][0] if stack else None for name, stack in stacks.items()}

    def _is_picture(self, file: int) -> bool:
        return self.files.name(file).lower().endswith(GRAY_SUFFIXES)

    def _is_archive(self, file: int) -> bool:
        return self.files.name(file).lower().endswith(".npz")

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
        opened = self.files.image(file)
        if self._is_picture(file):
            return self.reading.of_picture(opened)
        try:
            values = _read(opened, name if self._is_archive(file) else None, row)
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
            if isinstance(error, OSError) and is_of_store(error):
                raise
            raise ImageError(f"not a file of numbers: {' '.join(str(error).split())}") from None
        return self.reading.to_signal(values)

    def describe(self) -> dict[str, str | int]:
        kind, facts = self.reading.signal.kind, digest(self.files.facts())
        return {"kind": "arrays", "files": len(self.files), "n": len(self), "signal": kind, "digest": facts}


def axes(signal: Signal, shape: tuple[int, ...], kind: str) -> int:
    """Return how many axes one signal has in an array of this shape and this kind of numbers (numpy's ``dtype.kind``).

    Gray images may come without their channel axis, complex numbers come without the axis of their pairs.
    """
    if signal.kind == "complex":
        return 2 if kind == "c" else 3
    if signal.kind == "gray":
        return 3 if len(shape) > 2 and shape[-3] == 1 else 2
    return len(signal.shape)


def _headers(file: Path | BinaryIO, archive: bool) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and the kind of numbers of the arrays in a file, by name ("" for a npy)."""
    if not archive:
        with open(file, "rb") if isinstance(file, Path) else nullcontext(file) as opened:
            return {"": _header(opened)}
    with zipfile.ZipFile(file) as members:
        found = {}
        for member in members.namelist():
            with members.open(member) as opened:
                found[member.removesuffix(".npy")] = _header(opened)
        return found


def _header(opened: Any) -> tuple[tuple[int, ...], str]:
    version = np.lib.format.read_magic(opened)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(opened)
    return tuple(shape), dtype.kind


def _read(file: Path | BinaryIO, name: str | None, row: int | None) -> Array:
    """Return an array of a file, or a row of it; ``name`` None is a npy, of which a row on a disk is read by itself."""
    if name is None:
        whole = np.load(file, mmap_mode="r" if isinstance(file, Path) else None, allow_pickle=False)
        return np.array(whole if row is None else whole[row])
    with np.load(file, allow_pickle=False) as archive:
        return np.asarray(archive[name] if row is None else archive[name][row])


def check_range(value_range: tuple[float, float] | None) -> None:
    """Raise RequestError unless a range goes up."""
    if value_range is not None and not value_range[0] < value_range[1]:
        raise RequestError("data.value_range", f"must be [low, high] with low < high (got {list(value_range)})")
