"""Images in Parquet: found, read by row group, named, and refused where they are not there."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ipsolve.datasets import ImageError, open_source
from ipsolve.requests.errors import RequestError


def picture(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(value)).save(buffer, format="PNG")
    return buffer.getvalue()


def write(path: Path, columns: dict[str, Any], rows_per_group: int = 2) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=rows_per_group)


def value(image: np.ndarray | ImageError) -> int:
    assert isinstance(image, np.ndarray)
    return int(image[0, 0, 0])


def test_bytes_over_files_and_row_groups(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": [png(v) for v in (1, 2, 3)], "label": [0, 0, 0]})
    write(tmp_path / "b.parquet", {"image": [png(v) for v in (4, 5)], "label": [0, 0]})
    source = open_source(str(tmp_path))
    assert len(source) == 5
    order = [4, 0, 2, 1, 3, 0]
    assert [value(image) for image in source.load_batch(order, 8)] == [5, 1, 3, 2, 4, 1]
    assert value(source.load(3, 8)) == 4
    assert source.image_ids([0, 2, 3]) == ["a.parquet#0", "a.parquet#2", "b.parquet#0"]
    assert open_source(str(tmp_path / "*.parquet")).image_ids([3]) == ["b.parquet#0"]
    assert value(pickle.loads(pickle.dumps(source)).load(1, 8)) == 2


def test_struct_with_bytes_as_hugging_face_writes_it(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"picture": [{"bytes": png(7), "path": "x.png"}, {"bytes": None, "path": "y.png"}]})
    source = open_source(str(tmp_path / "a.parquet"))
    there, absent = source.load_batch([0, 1], 8)
    assert value(there) == 7
    assert isinstance(absent, ImageError)


@pytest.fixture
def by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table as the ``datasets`` library makes it of a column of paths: bytes are null, and the files were there."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "tables"
    (folder / "here").mkdir(parents=True)
    paths = ["here/x.png", str(tmp_path / "x.png"), "here/gone.png"]
    for number, path in enumerate(paths):
        (folder / path).write_bytes(png(number))
    with monkeypatch.context() as patch:
        patch.chdir(folder)  # the library takes the paths from where it runs
        images = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
        images.to_parquet(folder / "a.parquet")
    cells = pq.read_table(folder / "a.parquet")["image"].to_pylist()
    assert cells == [{"bytes": None, "path": path} for path in paths]
    (folder / "here/gone.png").unlink()
    return folder / "a.parquet"


def test_paths_in_place_of_bytes_are_read_from_the_folder_of_the_table(by_path: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source(str(by_path))))
    first, second, gone = source.load_batch(range(3), 8)
    assert (value(first), value(second)) == (0, 1)
    assert isinstance(gone, ImageError)
    assert "No such file" in str(gone)


def test_paths_under_which_there_is_nothing_are_one_line_before_anything_starts(by_path: Path) -> None:
    (by_path.parent / "here/x.png").unlink()
    (by_path.parent.parent / "x.png").unlink()
    with pytest.raises(
        RequestError, match=r"^data\.source: .*paths and no image bytes.*'here/x\.png'; allowed"
    ) as caught:
        open_source(str(by_path))
    assert "\n" not in str(caught.value)


def test_only_the_row_groups_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.parquet", {"image": [png(v) for v in range(10)]})
    source = open_source(str(tmp_path))
    read = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **keys: (read.append(i), original(self, i, **keys))[1]
    )
    source.load_batch([3, 2, 8], 8)
    assert sorted(read) == [1, 4]


def test_damaged_rows_stand_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": [png(1), b"", png(3)[:20], png(4)]})
    loaded = open_source(str(tmp_path)).load_batch(range(4), 8)
    assert [isinstance(image, ImageError) for image in loaded] == [False, True, True, False]


def test_id_column(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": [png(1), png(2)], "image_id": ["x", "y"], "number": [5, 5]})
    assert open_source(str(tmp_path)).image_ids([1, 0]) == ["y", "x"]
    with pytest.raises(RequestError, match=r"data\.id_column: the values of 'number' are not unique"):
        open_source({"source": str(tmp_path), "id_column": "number"})
    with pytest.raises(RequestError, match=r"data\.id_column: no column 'name' in .*a\.parquet; there are: .*number"):
        open_source({"source": str(tmp_path), "id_column": "name"})


def test_image_column_by_name_or_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"left": [png(1)], "right": [png(2)], "label": [3]})
    with pytest.raises(RequestError, match="left, right could all be it"):
        open_source(str(tmp_path))
    assert value(open_source({"source": str(tmp_path), "image_column": "right"}).load(0, 8)) == 2
    with pytest.raises(RequestError, match="'label' is not a column of image bytes"):
        open_source({"source": str(tmp_path), "image_column": "label"})


def test_no_image_column(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"text": ["a"], "label": [3]})
    with pytest.raises(RequestError, match=r"no image column .* columns: text, label$"):
        open_source(str(tmp_path))


def test_not_parquet_and_empty(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"text")
    with pytest.raises(RequestError, match="is not readable Parquet"):
        open_source(str(tmp_path))
    write(tmp_path / "a.parquet", {"image": pa.array([], pa.binary())})
    with pytest.raises(RequestError, match="have no rows"):
        open_source(str(tmp_path))


def test_files_with_different_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": [png(1)]})
    write(tmp_path / "b.parquet", {"photo": [png(2)]})
    with pytest.raises(RequestError, match=r"b\.parquet has no column 'image'"):
        open_source(str(tmp_path))


def test_images_beside_parquet_are_ambiguous(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": [png(1)]})
    (tmp_path / "b.png").write_bytes(png(2))
    with pytest.raises(RequestError, match="holds both"):
        open_source(str(tmp_path))


KINDS = {
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.binary()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inside", [False, True], ids=["plain", "struct"])
def test_every_kind_of_bytes_that_arrow_has(tmp_path: Path, kind: str, inside: bool) -> None:
    cells = [png(1), None, png(3), png(3)]
    column = pa.array(cells, pa.binary())
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(KINDS[kind])
    if inside:
        column = pa.StructArray.from_arrays([column, pa.nulls(4, pa.string())], ["bytes", "path"])
    write(tmp_path / "a.parquet", {"image": column}, rows_per_group=4)  # pyarrow cannot cut views inside of structs
    assert pa.types.is_struct(pq.read_schema(tmp_path / "a.parquet").field("image").type) == inside
    images = open_source(str(tmp_path)).load_batch(range(4), 8)
    assert [value(image) for image in images if isinstance(image, np.ndarray)] == [1, 3, 3]
    assert str(images[1]) == "the row has no image bytes"


def cell(number: int) -> dict[str, Any]:
    return {"bytes": png(number), "path": None}


def test_images_in_nested_structs_are_found_or_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"sample": [{"id": i, "photo": {"view": cell(i), "text": "x"}} for i in range(3)]})
    source = open_source(str(tmp_path))
    assert source.describe()["column"] == "sample.photo.view"
    assert [value(image) for image in source.load_batch([2, 0], 8)] == [2, 0]
    write(tmp_path / "a.parquet", {"pair": [{"left": cell(i), "right": cell(10 + i)} for i in range(3)]})
    with pytest.raises(RequestError, match=r"columns pair\.left, pair\.right could all be it"):
        open_source(str(tmp_path))
    source = open_source({"source": str(tmp_path), "image_column": "pair.right"})
    assert [value(image) for image in source.load_batch([2, 0], 8)] == [12, 10]


@pytest.mark.parametrize("inside", [False, True], ids=["bytes", "struct"])
def test_of_lists_of_images_one_is_taken_by_its_number(tmp_path: Path, inside: bool) -> None:
    make = cell if inside else png
    write(tmp_path / "a.parquet", {"images": [[make(i), make(10 + i)] for i in range(2)] + [[make(2)], None]})
    with pytest.raises(RequestError, match=r"lists hold them, of which one is taken by its number: images\[0\]"):
        open_source(str(tmp_path))
    source = pickle.loads(pickle.dumps(open_source({"source": str(tmp_path), "image_column": "images[1]"})))
    images = source.load_batch(range(4), 8)
    assert [value(image) for image in images[:2]] == [10, 11]
    assert str(images[2]) == "the row has 1 in images, and images[1] is asked for"
    assert isinstance(images[3], ImageError)
    for wrong in ("images", "images[x]", "images[0].left", "image[0]"):
        with pytest.raises(RequestError, match=r"is not a column of image bytes in .*; such are: images\[0\]"):
            open_source({"source": str(tmp_path), "image_column": wrong})


@pytest.mark.parametrize(
    ("other", "request_", "message"),
    [
        ({"image": ["a.png"], "image_id": ["c"], "text": ["t"]}, {},
         r"data\.source: .*z\.parquet has no column 'image' of images, as the first file has: it is string there"),
        ({"photo": [b"x"], "image_id": ["c"]}, {}, r"z\.parquet has no column 'image' of images.*: it is not there"),
        ({"image": [b"x"]}, {}, r"data\.id_column: no column 'image_id' in .*z\.parquet; there are: image"),
        ({"image": [b"x"], "image_id": [3]}, {}, r"data\.id_column: 'image_id' of .*z\.parquet is int64, and string"),
        ({"image": [b"x"], "image_id": [0.5]}, {}, r"'image_id' of .*z\.parquet is double; allowed: text or whole"),
        ({"image": [b"x"], "image_id": pa.array([None], pa.string())}, {},
         r"data\.id_column: 'image_id' of .*z\.parquet is null in 1 of 1 rows; every image has a name"),
        ({"image": [b"x"], "image_id": ["c"], "text": [5]}, {"captions": "text"},
         r"data\.captions: 'text' of .*z\.parquet is int64; allowed: text"),
        ({"image": [b"x"], "image_id": ["c"]}, {"captions": "text"}, r"data\.captions: no column 'text' in .*z\."),
    ],
)  # fmt: skip
def test_the_one_file_of_another_schema_is_named_before_anything_starts(
    tmp_path: Path, other: dict[str, Any], request_: dict[str, Any], message: str
) -> None:
    for name, key in (("a", "a"), ("b", "b")):
        write(tmp_path / f"{name}.parquet", {"image": [png(1)], "image_id": [key], "text": ["words"]})
    write(tmp_path / "z.parquet", other)
    with pytest.raises(RequestError, match=message) as caught:
        open_source({"source": str(tmp_path), **request_})
    assert "\n" not in str(caught.value)


def test_captions_are_a_column_of_text(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": [png(v) for v in range(4)], "text": ["a", None, "c", "d"]})
    source = pickle.loads(pickle.dumps(open_source({"source": str(tmp_path), "captions": "text"})))
    assert source.captions([3, 1, 0]) == ["d", None, "a"]
    assert [value(image) for image in source.load_batch([3, 0], 8)] == [3, 0]
    assert open_source(str(tmp_path)).captions([0]) == [None]
