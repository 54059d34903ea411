"""Files that hold arrays: which reader is for which."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from ipsolve.datasets.containers.base import Array, Container, Damaged, File, Header
from ipsolve.datasets.containers.dicom import Dicom, may_be_dicom
from ipsolve.datasets.containers.hdf5 import Coils, Hdf5
from ipsolve.datasets.containers.nifti import Nifti
from ipsolve.datasets.containers.npy import Npy, Npz
from ipsolve.datasets.containers.picture import Picture, UnknownPicture
from ipsolve.datasets.containers.tiff import Tiff

__all__ = ["ARRAY_SUFFIXES", "GRAY_SUFFIXES", "PAGED", "Array", "Container", "Damaged", "Header", "Opening"]

HDF5_SUFFIXES = (".h5", ".hdf5")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
DICOM_SUFFIXES = (".dcm", ".ima")
PAGED = (".tif", ".tiff")  # pictures that may hold several, and volumes
ARRAY_SUFFIXES = (".npy", ".npz", *HDF5_SUFFIXES, *NIFTI_SUFFIXES, *DICOM_SUFFIXES, *PAGED)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GRAY_SUFFIXES = (".png", ".bmp")  # one gray image each


@dataclass(frozen=True)
class Opening:
    """How files of arrays are opened.

    Args:
        dataset: of HDF5, see :class:`ipsolve.datasets.containers.hdf5.Hdf5`.
        coils: of k-space, likewise.
    """

    dataset: str | None = None
    coils: Coils = None

    def open(self, file: File, name: str, where: str) -> Container:
        """Return a file, opened by the reader that its name tells.

        Args:
            where: its place, for messages.

        Raises:
            RequestError: the reader is not installed, or the request does not fit the file.
            Damaged: the file is not what its name tells; other errors are possible on nonsense.
        """
        name = name.lower()
        if name.endswith(HDF5_SUFFIXES):
            return Hdf5(file, self.dataset, self.coils, where)
        if name.endswith(NIFTI_SUFFIXES):
            return Nifti(file, where)
        if name.endswith(".npz"):
            return Npz(file)
        if name.endswith(".npy"):
            return Npy(file)
        if name.endswith(PAGED):
            return self._pages(file, where)
        if name.endswith(GRAY_SUFFIXES):
            return Picture(file)
        assert name.endswith(DICOM_SUFFIXES) or may_be_dicom(name.rpartition("/")[2])
        return Dicom(file, where)

    def _pages(self, file: File, where: str) -> Container:
        try:
            return Picture(file)
        except UnknownPicture:
            with file.open("rb") if isinstance(file, Path) else nullcontext(file) as opened:
                opened.seek(0)
                start = opened.read(4)
                opened.seek(0)
            if start not in _TIFF:
                raise
            return Tiff(file, where)
