"""HDF5: data sets of numbers, and the k-space of fastMRI, which becomes images as it is read."""

from __future__ import annotations

import math
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np

from ipsolve.datasets.containers.base import Array, Container, Damaged, File, Header, absent
from ipsolve.requests.errors import RequestError

KSPACE, HEADER = "kspace", "ismrmrd_header"
Coils = Literal["rss"] | None
_MAX_HEADER_BYTES = 10_000_000
_MAX_BYTES = 4 * 2**30
_NAMESPACE = {"mrd": "http://www.ismrm.org/ISMRMRD"}


class Hdf5(Container):
    """One data set of a file, of which single entries along the first axis are read.

    Args:
        dataset: its path in the file; None, the only one that has two axes or more.
        coils: how k-space of several coils is combined, see :class:`KSpace`.
        where: the file's place, for messages.

    Raises:
        RequestError: h5py is absent, or the file has no such data set.
        Damaged: it is no HDF5 file.
    """

    def __init__(self, file: File, dataset: str | None, coils: Coils, where: str) -> None:
        try:
            import h5py
        except ModuleNotFoundError:
            raise absent("h5py", "hdf5", f"HDF5 ({where})") from None
        try:
            self._file = h5py.File(file, "r")
        except OSError as error:
            raise Damaged(f"not a HDF5 file that can be read: {' '.join(str(error).split())}") from error
        try:
            self._open(h5py, dataset, coils, where)
        except BaseException:
            self._file.close()
            raise

    def _open(self, h5py: Any, dataset: str | None, coils: Coils, where: str) -> None:
        there: dict[str, Any] = {}
        own: dict[str, Any] = {}

        def note(name: str, each: Any) -> None:
            # what lies in another file is not read: a file could name any that this user can read
            if isinstance(each, h5py.Dataset) and not each.external and not each.is_virtual:
                own[name] = each
                if each.dtype.kind in "biufc" and each.ndim >= 2:
                    there[name] = each

        self._file.visititems(note)  # which follows no links
        listed = ", ".join(there) or "none"
        if dataset is None and len(there) != 1:
            raise RequestError("data.dataset", f"say which data set of {where} is meant; it has: {listed}")
        name = (dataset or next(iter(there))).strip("/")
        if name not in there:
            raise RequestError("data.dataset", f"{where} has no data set {dataset!r} of numbers; it has: {listed}")
        self._data = there[name]
        _require_sizes(self._data)
        self._kspace = None
        if name.rpartition("/")[2] == KSPACE and self._data.dtype.kind == "c":
            self._kspace = KSpace.of(self._data.shape, own.get(HEADER), coils, where)
        elif coils is not None:
            raise RequestError("data.coils", f"is of complex numbers called {KSPACE!r}, not of {name!r} ({where})")
        shape = self._data.shape if self._kspace is None else self._kspace.shape
        kind = self._data.dtype.kind if self._kspace is None else self._kspace.kind
        self.headers = {"": Header(tuple(shape), kind)}

    def read(self, name: str, row: int | None) -> tuple[Array, float | None]:
        if self._kspace is None:
            return np.asarray(self._data[()] if row is None else self._data[row]), None
        if row is None:
            return np.stack([self._kspace.image(each) for each in self._data]), None
        return self._kspace.image(self._data[row]), None

    def close(self) -> None:
        self._file.close()


class KSpace:
    """How a slice of k-space becomes an image.

    The inverse Fourier transform, orthonormal and with zero frequency and origin in the middle, as in the code of
    fastMRI (Zbontar et al. 2018, arXiv 1811.08839, section 4); its middle of the size of the header's reconstruction
    space, which takes the oversampling of the readout away. Nothing is divided: numbers are those of the scanner.

    Attributes:
        shape: of the stack of images, (slices, H, W).
        kind: ``c``, or ``f`` where coils are combined.
    """

    def __init__(self, shape: tuple[int, ...], coils: Coils) -> None:
        self.shape, self.coils = shape, coils
        self.kind = "c" if coils is None else "f"

    @classmethod
    def of(cls, shape: tuple[int, ...], header: Any, coils: Coils, where: str) -> KSpace:
        """Return the way for k-space of a shape, (slices, H, W) or (slices, coils, H, W).

        Args:
            coils: ``rss``: the root of the sum of squares over coils, of one coil the modulus (real numbers); None:
                complex images of one coil.

        Raises:
            RequestError: several coils, and it is not said how they are combined.
        """
        if len(shape) not in (3, 4):
            raise Damaged(f"k-space of shape {list(shape)}; read are [slices, H, W] and [slices, coils, H, W]")
        if len(shape) == 4 and shape[1] > 1 and coils is None:
            raise RequestError(
                "data.coils",
                f"{where} holds k-space of {shape[1]} coils; allowed: rss, the root of the sum of squares, for gray "
                "priors; complex images are read of one coil",
            )
        height, width = (min(sides) for sides in zip(shape[-2:], _recon_size(header) or shape[-2:], strict=True))
        return cls((shape[0], height, width), coils)

    def image(self, kspace: Array) -> Array:
        """Return the image of a slice, (H, W) or (coils, H, W) -> (H, W)."""
        height, width = self.shape[1:]
        whole = np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho")
        whole = np.fft.fftshift(whole, axes=(-2, -1))
        top, left = (whole.shape[-2] - height) // 2, (whole.shape[-1] - width) // 2
        image = whole[..., top : top + height, left : left + width]
        if self.coils is None:
            return np.asarray(image.reshape(height, width))
        return np.asarray(np.sqrt((np.abs(image.reshape(-1, height, width)) ** 2).sum(0)))


def _require_sizes(data: Any) -> None:
    """Raise Damaged for a data set of which a single entry could fill the memory."""
    entry, chunk = math.prod(data.shape[1:]), math.prod(data.chunks or ())
    if max(entry, chunk) * data.dtype.itemsize > _MAX_BYTES:
        raise Damaged(f"entries of shape {list(data.shape[1:])} in chunks of {list(data.chunks or ())}: too large")


def _recon_size(header: Any) -> tuple[int, int] | None:
    """Return (H, W) of the reconstruction space in an ISMRMRD header (its x is the readout, the rows of k-space)."""
    if header is None:
        return None
    content = header[()]
    text = content if isinstance(content, bytes | str) else bytes(content)
    marks = text.encode() if isinstance(text, str) else text
    if len(text) > _MAX_HEADER_BYTES or b"<!DOCTYPE" in marks or b"<!ENTITY" in marks:
        raise Damaged(f"an ISMRMRD header of {len(text)} bytes, or with entities of its own")
    try:
        size = ElementTree.fromstring(text).find("mrd:encoding/mrd:reconSpace/mrd:matrixSize", _NAMESPACE)
        found = [] if size is None else [int(size.findtext(f"mrd:{axis}", "", _NAMESPACE)) for axis in "xy"]
    except (ElementTree.ParseError, ValueError) as error:
        raise Damaged(f"an ISMRMRD header that is no XML of its kind: {error}") from None
    if len(found) != 2 or min(found) < 1:
        raise Damaged("an ISMRMRD header without the matrix size of its reconstruction space")
    return found[0], found[1]
