"""NIfTI, DICOM and TIFF as the writers of their fields make them, read to the same numbers; and wrong files of all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from ipsolve.datasets import ImageError, open_source
from ipsolve.requests.errors import RequestError
from ipsolve.signal import Signal
from tests.signals.test_arrays import read, values
from tests.signals.test_hdf5 import ids, write_fastmri

Array = NDArray[Any]
GRAY, COMPLEX = Signal.of((1, 6, 5)), Signal.of((2, 6, 5))


# NIfTI


def anatomy() -> Array:
    """Return a volume as [slice, row, column] of LPS: no axis and no direction is like another."""
    return values(7, 6, 5).astype(np.float32)


def as_stored(lps: Array, codes: str) -> nibabel.Nifti1Image:
    """Return an image with the axes of its file in some other order, of which its affine tells."""
    image = nibabel.Nifti1Image(np.transpose(lps, (2, 1, 0)), np.diag([-2.0, -2.0, 3.0, 1.0]))  # L, P, S
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
    return image.as_reoriented(turn)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "ASL", "SRP"])
def test_axes_of_nifti_are_those_of_the_patient_whatever_the_order_in_the_file(
    tmp_path: Path, codes: str, suffix: str
) -> None:
    nibabel.save(as_stored(anatomy(), codes), tmp_path / f"a.{suffix}")
    (volume,) = read(tmp_path, Signal.of((7, 6, 5)))
    np.testing.assert_array_equal(volume, anatomy())
    slices = read(tmp_path, GRAY)
    np.testing.assert_array_equal(np.stack(slices)[:, 0], anatomy())


def test_slope_intercept_time_and_the_second_version_of_nifti(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(-1000, 2000, (5, 6, 7, 3), dtype=np.int16)
    image = nibabel.Nifti2Image(stored, np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.header.set_slope_inter(0.5, -10)
    nibabel.save(image, tmp_path / "a.nii")
    found = np.stack(read(tmp_path / "a.nii", Signal.of((7, 6, 5)), value_range=[-510, 990]))
    numbers = nibabel.load(tmp_path / "a.nii").get_fdata()  # by its own reader
    expected = (np.moveaxis(numbers, -1, 0).transpose(0, 3, 2, 1) + 510) / 750 - 1
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # whole numbers without a slope are numbers, too, not parts of the largest of their type
    nibabel.save(nibabel.Nifti1Image(stored[..., 0], np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ImageError, match=r"values reach .*; data\.value_range"):
        open_source(str(tmp_path), None, Signal.of((7, 6, 5))).load(0, 5)


def test_of_a_nifti_file_that_is_not_compressed_a_slice_is_read_by_itself(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((64, 64, 200), np.float32), np.diag([-1, -1, 1, 1])), tmp_path / "a.nii")
    whole = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").write_bytes(whole[: len(whole) // 2])  # the second half is not there, and is not missed
    found = open_source(str(tmp_path), None, Signal.of((1, 64, 64))).load_batch([3, 190], 64)
    assert [isinstance(each, ImageError) for each in found] == [False, True]


# DICOM


def write_dicom(path: Path, stored: Array, bits: int = 12, **tags: Any) -> None:
    """Write an image with the tags of a CT slice, by pydicom."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    if stored.ndim == 3:
        dataset.NumberOfFrames = len(stored)
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = stored.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def counts(*shape: int) -> Array:
    return np.random.default_rng(0).integers(0, 4096, shape, dtype=np.uint16)


def test_dicom_of_twelve_bits_fills_the_range_and_monochrome1_is_turned_round(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", counts(6, 5))
    write_dicom(tmp_path / "b.dcm", counts(6, 5), PhotometricInterpretation="MONOCHROME1")
    bright, dark = np.stack(read(tmp_path, GRAY))[:, 0]
    np.testing.assert_allclose(bright, counts(6, 5) * (2 / 4095) - 1, atol=1e-6)
    np.testing.assert_allclose(dark, -bright, atol=1e-6)


def test_rescale_slope_and_intercept_are_applied_and_the_range_is_then_asked_for(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", counts(6, 5), RescaleSlope="2", RescaleIntercept="-1024")
    write_dicom(tmp_path / "b.dcm", counts(6, 5), RescaleSlope="2", RescaleIntercept="-1024",
                PhotometricInterpretation="MONOCHROME1")  # fmt: skip
    hounsfield = counts(6, 5) * 2.0 - 1024
    ct, turned = np.stack(read(tmp_path, GRAY, value_range=[-1024, 7166]))[:, 0]
    np.testing.assert_allclose(ct, (hounsfield + 1024) / 4095 - 1, atol=1e-6)
    np.testing.assert_allclose(turned, -ct, atol=1e-6)
    with pytest.raises(ImageError, match=r"values reach .*; data\.value_range"):
        open_source(str(tmp_path), None, GRAY).load(0, 5)


def test_frames_of_dicom_are_a_stack_or_a_volume_and_signed_values_are_read(tmp_path: Path) -> None:
    stored = (counts(7, 6, 5).astype(np.int16) - 2048).astype(np.int16)
    write_dicom(tmp_path / "a.dcm", stored)
    expected = stored / 2048
    options = {"value_range": [-2048, 2048]}
    np.testing.assert_allclose(np.stack(read(tmp_path, GRAY, **options))[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(read(tmp_path, Signal.of((7, 6, 5)), **options)[0], expected, atol=1e-6)


def test_dicom_is_known_by_its_content_where_its_name_has_no_ending(tmp_path: Path) -> None:
    for name in ("IM0001", "1.2.840.113619.2.55", "DICOMDIR"):
        write_dicom(tmp_path / name, counts(6, 5))
    (tmp_path / "DICOMDIR.txt").write_text("notes")
    (tmp_path / "VERSION").write_text("1")
    source = open_source(str(tmp_path), None, GRAY)
    assert ids(source) == ["1.2.840.113619.2.55", "IM0001"]
    assert source.left_out() == {".txt": 1, "without an ending": 2}


@pytest.mark.parametrize("kind", ["PALETTE COLOR", "RGB", "YBR_FULL"])
def test_colours_of_dicom_are_refused(tmp_path: Path, kind: str) -> None:
    write_dicom(tmp_path / "a.dcm", counts(6, 5), PhotometricInterpretation=kind)
    with pytest.raises(ImageError, match=rf"a colour image \({kind}\); allowed: MONOCHROME1, MONOCHROME2"):
        open_source(str(tmp_path), None, GRAY).load(0, 5)


# TIFF


@pytest.mark.parametrize(
    ("kind", "largest", "options"),
    [("uint8", 255, {}), ("uint16", 65535, {}), ("int16", 32767, {}), ("uint32", 2**32 - 1, {}),
     ("int32", 2**31 - 1, {}),
     ("float32", None, {}), ("float64", None, {}), ("uint16", 65535, {"compression": "zlib"}),
     ("uint16", 65535, {"photometric": "miniswhite"}), ("uint8", 255, {"photometric": "miniswhite"}),
     ("uint16", 65535, {"byteorder": ">"})],
)  # fmt: skip
def test_tiff_of_every_depth_is_read_to_its_precision(
    tmp_path: Path, kind: str, largest: int | None, options: dict[str, Any]
) -> None:
    x = np.abs(values(6, 5))
    stored = x.astype(kind) if largest is None else np.round((x + 1) / 2 * largest).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    (found,) = read(tmp_path, GRAY)
    sign = -1 if options.get("photometric") == "miniswhite" else 1
    np.testing.assert_allclose(sign * found[0], x, atol=1e-6 if largest is None else max(1.01 / largest, 1e-6))


def test_the_pages_of_a_tiff_are_a_stack_or_a_volume(tmp_path: Path) -> None:
    stored = counts(7, 6, 5) * 16
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack")
    expected = stored * (2 / 65535) - 1
    np.testing.assert_allclose(np.stack(read(tmp_path, GRAY))[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(read(tmp_path, Signal.of((7, 6, 5)))[0], expected, atol=1e-6)


# of all


def test_a_file_that_claims_to_be_huge_is_a_failure_before_memory_is_asked_for(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", (2, 10**6, 10**6), "u1", chunks=(1, 1000, 1000), compression="gzip")
    image = nibabel.Nifti1Image(np.zeros((5, 6, 7), np.float32), np.eye(4))
    nibabel.save(image, tmp_path / "b.nii")
    content = bytearray((tmp_path / "b.nii").read_bytes())
    content[42:48] = np.array([32000, 32000, 32000], "<i2").tobytes()  # of its header, the size
    (tmp_path / "b.nii").write_bytes(content)
    for place, signal in ((tmp_path / "a.h5", GRAY), (tmp_path / "b.nii", Signal.of((7, 6, 5)))):
        with pytest.raises(ImageError, match=r"too large|an array of shape \[32000"):
            open_source(str(place), None, signal).load(0, 5)


SUFFIXES = ("h5", "hdf5", "nii", "nii.gz", "dcm", "tif", "npy", "npz")


@pytest.mark.parametrize("content", [b"", b"no numbers", b"\x89HDF\r\n\x1a\n" + bytes(600), b"\x1f\x8b" + bytes(50),
                                     bytes(128) + b"DICM" + bytes(40), b"II*\0" + bytes(60)])  # fmt: skip
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_wrong_file_is_one_failure_and_the_others_are_read(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(content)
    np.save(tmp_path / "b.npy", np.zeros((6, 5)))
    source = open_source(str(tmp_path), None, GRAY)
    wrong, right = source.load_batch(range(len(source)), 5)
    assert isinstance(wrong, ImageError)
    assert str(wrong)
    assert "\n" not in str(wrong)
    assert isinstance(right, np.ndarray)


@pytest.mark.parametrize(("suffix", "package", "extra"), [("h5", "h5py", "hdf5"), ("nii.gz", "nibabel", "nifti"),
                                                          ("dcm", "pydicom", "dicom")])  # fmt: skip
def test_a_reader_that_is_absent_is_named_with_the_extra_that_has_it(
    tmp_path: Path, suffix: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)  # what an absent package looks like
    with pytest.raises(
        RequestError, match=rf"needs {package}; install it with: pip install 'ipsolve\[{extra}\]'"
    ) as caught:
        open_source(str(tmp_path), None, GRAY)
    assert "\n" not in str(caught.value)


def test_a_store_gives_the_same_as_a_disk(tmp_path: Path) -> None:
    import fsspec

    write_fastmri(tmp_path / "a.h5", values(3, 12, 9), (6, 5))
    nibabel.save(as_stored(anatomy(), "RAS"), tmp_path / "b.nii")
    nibabel.save(as_stored(anatomy(), "PIR"), tmp_path / "c.nii.gz")
    write_dicom(tmp_path / "d.dcm", counts(3, 6, 5))
    tifffile.imwrite(tmp_path / "e.tif", counts(3, 6, 5), photometric="minisblack")
    np.save(tmp_path / "f.npy", values(4, 6, 5))
    np.savez(tmp_path / "g.npz", x=values(4, 6, 5))
    store = fsspec.filesystem("memory")
    for path in tmp_path.iterdir():
        store.pipe(f"/medical/{path.name}", path.read_bytes())
    options = {"dataset": "kspace", "coils": "rss", "value_range": "max"}
    here = open_source({"source": str(tmp_path), **options}, None, GRAY)
    there = open_source({"source": "memory://medical", **options}, None, GRAY)
    assert ids(there) == ids(here)
    assert len(here) == 3 + 7 + 7 + 3 + 3 + 4 + 4
    assert there.describe() == here.describe()
    everything = range(len(here))
    for one, other in zip(here.load_batch(everything, 5), there.load_batch(everything, 5), strict=True):
        np.testing.assert_array_equal(one, other)
