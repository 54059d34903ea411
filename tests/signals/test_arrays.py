"""From files of numbers to signals: the same values from every format, and one line where there is none."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from ipsolve.datasets import ImageError, open_source
from ipsolve.requests.errors import RequestError
from ipsolve.signal import Signal

GRAY = Signal.of((1, 6, 5))
SHAPES = {"gray": (1, 6, 5), "complex": (2, 6, 5), "volume": (7, 6, 5), "video": (4, 3, 6, 5)}
Array = NDArray[Any]


def values(*shape: int, seed: int = 0) -> Array:
    """Return numbers in [-0.7, 0.7]: as a complex pair the modulus stays below 1."""
    return np.random.default_rng(seed).uniform(-0.7, 0.7, shape)


def read(source: Path | str, signal: Signal, **options: Any) -> list[Array]:
    opened = open_source({"source": str(source), **options}, None, signal)
    opened = pickle.loads(pickle.dumps(opened))  # as it travels to the readers
    found = opened.load_batch(range(len(opened)), signal.shape[-1])
    for each in found:
        if isinstance(each, ImageError):
            raise each
        assert each.dtype == np.float32
        assert each.shape == signal.shape
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "mode", "levels"),
    [("x.png", "uint8", 255), ("x.png", "uint16", 65535), ("x.tif", "uint8", 255), ("x.tiff", "uint16", 65535),
     ("x.tif", "int32", 2**31 - 1), ("x.tif", "float32", None)],
)  # fmt: skip
def test_gray_images_of_8_16_and_32_bits_are_read_to_their_precision(
    tmp_path: Path, name: str, mode: str, levels: int | None
) -> None:
    x = values(6, 5)
    stored = x.astype(np.float32) if levels is None else np.round((x + 1) / 2 * levels).astype(mode)
    Image.fromarray(stored).save(tmp_path / name)
    (found,) = read(tmp_path / name, GRAY)
    np.testing.assert_allclose(found[0], x, rtol=0, atol=1e-6 if levels is None else max(1.01 / levels, 1e-6))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arrays_are_read_one_each_and_in_stacks(tmp_path: Path, kind: str, dtype: str) -> None:
    signal, x = Signal.of(SHAPES[kind]), values(3, *SHAPES[kind]).astype(dtype)
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", x[i])
    np.save(tmp_path / "stack.npy", x)
    np.savez(tmp_path / "y.npz", one=x[0], all=x)
    found = read(tmp_path, signal)
    ids = open_source({"source": str(tmp_path)}, None, signal).image_ids(range(10))
    assert ids == [*(f"{i}.npy" for i in range(3)), *(f"stack.npy#{i}" for i in range(3)), "y.npz#one",
                   *(f"y.npz#all#{i}" for i in range(3))]  # fmt: skip
    for each, expected in zip(found, [*x, *x, x[0], *x], strict=True):
        np.testing.assert_array_equal(each, expected.astype(np.float32))


def test_axes_that_a_format_leaves_out_or_puts_last(tmp_path: Path) -> None:
    gray, z, frames = values(4, 6, 5), values(3, 6, 5) + 1j * values(3, 6, 5, seed=1), values(4, 6, 5, 3)
    np.save(tmp_path / "gray.npy", gray)
    np.save(tmp_path / "complex.npy", z.astype(np.complex64))
    np.save(tmp_path / "video.npy", frames)
    for found, expected in zip(read(tmp_path / "gray.npy", GRAY), gray, strict=True):
        np.testing.assert_allclose(found[0], expected, atol=1e-7)
    for found, expected in zip(read(tmp_path / "complex.npy", Signal.of((2, 6, 5))), z, strict=True):
        np.testing.assert_allclose(found[0] + 1j * found[1], expected, atol=1e-6)
    (found,) = read(tmp_path / "video.npy", Signal.of((4, 3, 6, 5)))
    np.testing.assert_allclose(np.moveaxis(found, 1, -1), frames, atol=1e-7)


@pytest.mark.parametrize("kind", SHAPES)
def test_a_parquet_column_holds_npy_files_or_lists(tmp_path: Path, kind: str) -> None:
    signal, x = Signal.of(SHAPES[kind]), values(2, *SHAPES[kind])
    files = []
    for each in x:
        file = io.BytesIO()
        np.save(file, each)
        files.append(file.getvalue())
    pq.write_table(pa.table({"image_id": ["a", "b"], "x": files}), tmp_path / "bytes.parquet")
    nested = pa.table({"image_id": ["a", "b"], "x": x.tolist(), "flat": x.reshape(2, -1).tolist()})
    pq.write_table(nested, tmp_path / "lists.parquet")
    for source, options in (("bytes.parquet", {}), ("lists.parquet", {"image_column": "x"}),
                            ("lists.parquet", {"image_column": "flat"})):  # fmt: skip
        found = read(tmp_path / source, signal, **options)
        np.testing.assert_allclose(np.stack(found), x, atol=1e-7)
        assert open_source({"source": str(tmp_path / source), **options}, None, signal).image_ids([1]) == ["b"]


def test_a_range_says_what_is_black_and_white(tmp_path: Path) -> None:
    np.save(tmp_path / "hounsfield.npy", np.array([[-1000.0, 0.0], [1000.0, 3000.0]]))
    (found,) = read(tmp_path / "hounsfield.npy", Signal.of((1, 2, 2)), value_range=[-1000, 1000])
    np.testing.assert_allclose(found[0], [[-1, 0], [1, 3]], atol=1e-7)
    np.save(tmp_path / "kspace.npy", np.array([[3 + 4j, 0], [0, 10j]]))
    (found,) = read(tmp_path / "kspace.npy", Signal.of((2, 2, 2)), value_range=[0, 10])
    np.testing.assert_allclose(found[0] + 1j * found[1], [[0.3 + 0.4j, 0], [0, 1j]], atol=1e-7)


BAD = {
    "values reach 7": (GRAY, np.full((6, 5), 7.0)),
    "values that are NaN": (GRAY, np.full((6, 5), np.nan)),
    r"an array of shape \[5, 5\], and the prior is of \[1, 6, 5\]": (GRAY, np.zeros((5, 5))),
    "complex numbers, and the prior is of gray signals": (GRAY, np.zeros((6, 5), complex)),
    "an array of <U1; allowed: numbers": (GRAY, np.full((6, 5), "x")),
    "values reach 1.131": (Signal.of((2, 6, 5)), np.full((2, 6, 5), 0.8)),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_a_signal_is_its_own_failure(tmp_path: Path, message: str) -> None:
    signal, array = BAD[message]
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", np.zeros(signal.shape))
    source = open_source({"source": str(tmp_path)}, None, signal)
    found = source.load_batch(range(len(source)), 5)
    assert isinstance(found[0], ImageError)
    with pytest.raises(ImageError, match=message):
        raise found[0]
    assert not isinstance(found[-1], ImageError)


def test_files_that_are_none_are_failures_and_objects_are_not_unpickled(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"no numbers")
    (tmp_path / "b.npz").write_bytes(b"no archive")
    np.save(tmp_path / "c.npy", np.array([{"an": "object"}], object), allow_pickle=True)
    (tmp_path / "d.png").write_bytes(b"no image")
    np.save(tmp_path / "e.npy", np.zeros((6, 5)))
    source = open_source({"source": str(tmp_path)}, None, GRAY)
    found = source.load_batch(range(len(source)), 5)
    assert [isinstance(each, ImageError) for each in found] == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"source": "portraits:test"}, "data.source: portraits:test holds rgb photographs"),
        ({"source": "HERE", "tile": 8}, "data.tile: has no meaning for gray signals"),
        ({"source": "HERE", "value_range": [1, 0]}, r"data.value_range: must be \[low, high\] with low < high"),
        ({"source": "EMPTY"}, r"read are files ending in .npy, .npz, .h5, .*, .tif, .tiff, .png, .bmp, .parquet, .tar"),
    ],
)
def test_a_wrong_request_is_one_line(tmp_path: Path, spec: dict[str, Any], message: str) -> None:
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "a.npy", np.zeros((6, 5)))
    places = {"HERE": str(tmp_path / "a.npy"), "EMPTY": str(tmp_path / "empty")}
    with pytest.raises(RequestError, match=message):
        open_source({**spec, "source": places.get(spec["source"], spec["source"])}, None, GRAY)
    with pytest.raises(RequestError, match=r"data\.value_range: has no meaning for photographs"):
        open_source({"source": "portraits:test", "value_range": [0, 1]})
