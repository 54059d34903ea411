"""HDF5 of fastMRI and LoDoPaB as their authors write it: k-space by its definition, slices by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from ipsolve.datasets import ImageError, Source, open_source
from ipsolve.requests.errors import RequestError
from ipsolve.signal import Signal
from tests.signals.test_arrays import read, values

Array = NDArray[Any]
GRAY, COMPLEX = Signal.of((1, 6, 5)), Signal.of((2, 6, 5))


def ids(source: Source) -> list[str]:
    return source.image_ids(range(len(source)))


# fastMRI


def header(height: int, width: int) -> bytes:
    """Return what of an ISMRMRD header says how large the reconstruction is: x is the readout."""
    size = f"<matrixSize><x>{height}</x><y>{width}</y><z>1</z></matrixSize>"
    space = f"<encoding><encodedSpace/><reconSpace>{size}</reconSpace></encoding>"
    return f'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{space}</ismrmrdHeader>'.encode()


def kspace_of(images: Array) -> Array:
    """Return the centred orthonormal Fourier transform, by its definition and in float64."""

    def matrix(n: int) -> Array:
        place = np.arange(n) - n // 2
        return np.exp(-2j * np.pi * np.outer(place, place) / n) / np.sqrt(n)

    return np.einsum("kh,...hw,lw->...kl", matrix(images.shape[-2]), images, matrix(images.shape[-1]))


def write_fastmri(path: Path, images: Array, recon: tuple[int, int], **more: Any) -> None:
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace_of(images).astype(np.complex64)
        file["ismrmrd_header"] = header(*recon)
        file["reconstruction_rss"] = np.abs(images if images.ndim == 3 else images[:, 0]).astype(np.float32)
        file.attrs.update({"max": 1.0, "acquisition": "CORPD_FBK", "patient_id": "0"})
        for name, value in more.items():
            file[name] = value


@pytest.fixture
def coils() -> Array:
    """Images of 3 slices by 4 coils on an oversampled grid, of which the middle is the reconstruction space."""
    return values(3, 4, 12, 9) + 1j * values(3, 4, 12, 9, seed=1)


def test_single_coil_kspace_becomes_complex_images_of_the_size_that_the_header_says(
    tmp_path: Path, coils: Array
) -> None:
    images = coils[:, 0]
    write_fastmri(tmp_path / "a.h5", images, (6, 5))
    found = read(tmp_path, COMPLEX, dataset="kspace", value_range=[0, 2])
    for image, (real, imaginary) in zip(images[:, 3:9, 2:7], found, strict=True):
        np.testing.assert_allclose(real + 1j * imaginary, image / 2, atol=1e-6)
    assert ids(open_source({"source": str(tmp_path), "dataset": "kspace"}, None, COMPLEX)) == [
        f"a.h5#{i}" for i in range(3)
    ]


def test_the_largest_of_a_volume_is_one_where_that_is_asked(tmp_path: Path, coils: Array) -> None:
    for name, factor in (("a", 1e-5), ("b", 3.0)):
        write_fastmri(tmp_path / f"{name}.h5", factor * coils[:, 0], (6, 5))
    found = np.stack(read(tmp_path, COMPLEX, dataset="kspace", value_range="max"))
    np.testing.assert_allclose(found[:3], found[3:], atol=1e-5)  # of each file its own
    assert np.hypot(found[:, 0], found[:, 1]).max() == pytest.approx(1, abs=1e-6)
    middle = coils[:, 0, 3:9, 2:7]
    np.testing.assert_allclose(found[:3, 0], middle.real / np.abs(middle).max(), atol=1e-5)


def test_coils_are_combined_by_the_root_of_the_sum_of_squares_when_asked_and_never_silently(
    tmp_path: Path, coils: Array
) -> None:
    write_fastmri(tmp_path / "a.h5", coils, (6, 5))
    expected = np.sqrt((np.abs(coils[:, :, 3:9, 2:7]) ** 2).sum(1))
    found = np.stack(read(tmp_path, GRAY, dataset="kspace", coils="rss", value_range=[0, 4]))[:, 0]
    np.testing.assert_allclose((found + 1) * 2, expected, atol=1e-5)
    with pytest.raises(RequestError, match=r"data\.coils: .*a\.h5 holds k-space of 4 coils; allowed: rss"):
        open_source({"source": str(tmp_path), "dataset": "kspace"}, None, COMPLEX)
    with pytest.raises(RequestError, match=r"data\.coils: is of complex numbers called 'kspace', not of 'reconst"):
        open_source({"source": str(tmp_path), "dataset": "reconstruction_rss", "coils": "rss"}, None, GRAY)


def test_a_file_of_several_data_sets_is_asked_which(tmp_path: Path, coils: Array) -> None:
    write_fastmri(tmp_path / "a.h5", coils[:, 0], (6, 5))
    with pytest.raises(RequestError, match=r"data\.dataset: say which data set of .*a\.h5.*kspace, recon"):
        open_source(str(tmp_path), None, COMPLEX)
    with pytest.raises(RequestError, match=r"data\.dataset: .*a\.h5 has no data set 'kspase' of numbers"):
        open_source({"source": str(tmp_path), "dataset": "kspase"}, None, COMPLEX)


@pytest.mark.parametrize(
    "broken", [b"<ismrmrdHeader", b"<a/>", b"x" * 20, header(0, 5), b"<!DOCTYPE a []>" + header(6, 5)]
)
def test_a_broken_header_is_the_failure_of_its_file(tmp_path: Path, coils: Array, broken: bytes) -> None:
    write_fastmri(tmp_path / "a.h5", coils[:, 0, 3:9, 2:7], (6, 5))
    write_fastmri(tmp_path / "b.h5", coils[:, 0, 3:9, 2:7], (6, 5))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = broken
    source = open_source({"source": str(tmp_path), "dataset": "kspace", "value_range": "max"}, None, COMPLEX)
    found = source.load_batch(range(len(source)), 5)
    assert [isinstance(each, ImageError) for each in found] == [True, False, False, False]
    assert "ISMRMRD header" in str(found[0])


def test_nothing_is_read_that_lies_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(30 * 8))
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["data"] = np.zeros((1, 6, 5))
    layout = h5py.VirtualLayout((1, 6, 5), float)
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "data", (1, 6, 5))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("stored", (1, 6, 5), float, external=[(str(tmp_path / "secret.bin"), 0, 30 * 8)])
        file.create_virtual_dataset("virtual", layout)
        file["linked"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "data")
        file["soft"] = h5py.SoftLink("/linked")
    for name in (None, "stored", "virtual", "linked", "soft"):
        with pytest.raises(RequestError, match=r"data\.dataset: .*it has: none"):
            open_source({"source": str(tmp_path / "a.h5"), "dataset": name}, None, GRAY)


# LoDoPaB


def test_ground_truth_and_sinograms_of_lodopab(tmp_path: Path) -> None:
    truth, sinograms = (values(4, *shape, seed=i).astype(np.float32) for i, shape in enumerate([(6, 5), (10, 7)]))
    for name, stack in (("ground_truth_test_000", truth), ("observation_test_000", sinograms)):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            file.create_dataset("data", data=stack, maxshape=stack.shape)  # as its authors write it, one data set
    found = read(tmp_path / "ground_truth_test_000.hdf5", GRAY)
    np.testing.assert_array_equal(np.stack(found)[:, 0], truth)
    found = read(tmp_path / "observation_test_000.hdf5", Signal.of((1, 10, 7)), dataset="data")
    np.testing.assert_array_equal(np.stack(found)[:, 0], sinograms)


def test_of_a_hdf5_file_no_more_than_the_slice_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = values(20, 6, 5)
    source = open_source(str(tmp_path), None, GRAY)
    asked = []
    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, key: (asked.append(key), original(self, key))[1])
    source.load_batch([7, 3], 5)
    assert asked == [7, 3]
