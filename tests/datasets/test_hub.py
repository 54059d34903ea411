"""Data sets by the ``datasets`` library and its layouts on a disk: loaded, streamed, with the words beside images."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from ipsolve.datasets import ImageError, Source, open_source
from ipsolve.requests.errors import RequestError
from ipsolve.signal import Signal
from tests.datasets.test_parquet import picture, png, value

datasets = pytest.importorskip("datasets")
ROWS = 5


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def imagefolder(folder: Path, table: str | None = "metadata.jsonl") -> Path:
    """Write images in two classes and a table of their captions in the layout of ``imagefolder``."""
    rows = [{"file_name": f"{'ab'[i % 2]}/{i}.png", "text": f"words {i}"} for i in range(ROWS)]
    for i, row in enumerate(rows):
        path = folder / "test" / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    if table == "metadata.jsonl":
        (folder / "test" / table).write_text("\n".join(map(json.dumps, rows)) + "\n")
    elif table == "metadata.csv":
        with (folder / "test" / table).open("w", newline="") as file:
            writer = csv.DictWriter(file, ["file_name", "text"])
            writer.writeheader()
            writer.writerows(rows)
    return folder


def parquet(folder: Path, column: str = "image") -> Path:
    """Write a set as it lies on the hub: two files of a split, by the library itself."""
    pictures = [Image.fromarray(picture(i)) for i in range(ROWS)]
    features = datasets.Features({column: datasets.Image(), "text": datasets.Value("string")})
    rows = datasets.Dataset.from_dict({column: pictures, "text": [f"words {i}" for i in range(ROWS)]}, features)
    (folder / "data").mkdir(parents=True)
    for shard in range(2):
        part = rows.shard(2, shard, contiguous=True)
        part.to_parquet(folder / "data" / f"test-{shard:05d}-of-00002.parquet")
    return folder


def webdataset_of(folder: Path) -> Path:
    folder.mkdir()
    with webdataset.ShardWriter(f"{folder}/test-%03d.tar", maxcount=3, verbose=0) as writer:
        for i in range(ROWS):
            writer.write({"__key__": f"{i:05d}", "png": picture(i), "txt": f"words {i}"})
    return folder


LAYOUTS: dict[str, Any] = {"imagefolder": imagefolder, "parquet": parquet, "webdataset": webdataset_of}


def content(source: Source) -> list[tuple[str, int, str | None]]:
    source = pickle.loads(pickle.dumps(source))
    everything = range(len(source))
    images = [value(image) for image in source.load_batch(everything, 8)]
    return list(zip(source.image_ids(everything), images, source.captions(everything), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
def test_a_set_is_the_same_loaded_and_streamed(tmp_path: Path, layout: str, streaming: bool) -> None:
    folder = LAYOUTS[layout](tmp_path / "set")
    captions = {"webdataset": "txt"}.get(layout, "text")
    request = {"source": f"hf:{folder}:test", "streaming": streaming, "captions": captions}
    if layout == "webdataset":
        request["image_column"] = "png"
    found = content(open_source(request))
    names = [f"{i:08d}" for i in range(ROWS)]
    if streaming and layout == "imagefolder":  # loaded, its rows are in the order of the table
        names = [f"{'ab'[i % 2]}/{i}.png" for i in range(ROWS)]
    if streaming and layout == "webdataset":
        names = [f"test-{i // 3:03d}.tar#{i:05d}.png" for i in range(ROWS)]
    assert sorted(found) == sorted((f"{folder}/test/{name}", i, f"words {i}") for i, name in enumerate(names))


def test_a_file_of_a_set_that_is_gone_is_a_failure_of_its_own(tmp_path: Path) -> None:
    folder = imagefolder(tmp_path / "set")
    source = open_source(f"hf:{folder}:test")
    (folder / "test/b/1.png").unlink()
    found = source.load_batch(range(ROWS), 8)
    assert [isinstance(each, ImageError) for each in found] == [False, True, False, False, False]
    assert "there is no such file" in str(found[1])


@pytest.mark.parametrize("column", ["image", "picture"])
def test_the_image_column_may_have_any_name(tmp_path: Path, column: str) -> None:
    folder = parquet(tmp_path / "set", column)
    assert [value for _, value, _ in content(open_source(f"hf:{folder}:test"))] == list(range(ROWS))


def test_gray_images_of_a_set(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    gray = [Image.fromarray(np.full((6, 5), 51 * i, np.uint8)) for i in range(ROWS)]
    folder.mkdir()
    datasets.Dataset.from_dict({"image": gray}).to_parquet(folder / "test.parquet")
    for streaming in (False, True):
        source = open_source({"source": f"hf:{folder}:test", "streaming": streaming}, None, Signal.of((1, 6, 5)))
        np.testing.assert_allclose(np.stack(source.load_batch(range(ROWS), 5))[:, 0, 0, 0], np.linspace(-1, 1, 6)[:5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "hf:nobody/nothing:test"}, r"data\.source: hf:nobody/nothing:test cannot be loaded"),
        ({"source": "hf:nobody/nothing:test", "streaming": True}, r"hf:nobody/nothing:test cannot be loaded"),
        ({"source": "hf:HERE:train", "streaming": True}, r"data\.source: hf:.* has no split 'train'; allowed: test"),
        ({"image_column": "text"}, r"data\.image_column: say which column of hf:.* holds images; columns: image, text"),
        ({"captions": "words"}, r"data\.captions: no column 'words' in hf:.*; columns: image, text"),
        ({"captions": "words", "streaming": True}, r"data\.captions: no column 'words' in .*; there are: image, text"),
        ({"source": "portraits:test", "streaming": True}, r"data\.streaming: has no meaning for portraits"),
        ({"tile": 8}, r"data\.tile: has no meaning for hf:"),
    ],
)
def test_a_wrong_request_is_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = parquet(tmp_path / "set")
    request = {"source": "hf:HERE:test", **change}
    request["source"] = request["source"].replace("HERE", str(folder))
    with pytest.raises(RequestError, match=message) as caught:
        open_source(request)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_in_parts_are_not_streamed(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "test.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RequestError, match=r"data\.streaming: hf:.* is made of csv files; allowed: parquet"):
        open_source({"source": f"hf:{tmp_path / 'set'}:test", "streaming": True})


# the same layouts as plain folders


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_an_image_folder_is_a_folder_with_captions(tmp_path: Path, table: str) -> None:
    folder = imagefolder(tmp_path / "set", table)
    found = content(open_source({"source": str(folder), "captions": "text"}))
    assert found[0] == ("test/a/0.png", 0, "words 0")
    assert {(i, words) for _, i, words in found} == {(i, f"words {i}") for i in range(ROWS)}
    with pytest.raises(RequestError, match=r"data\.captions: no 'caption' of these images .* keys: file_name, text"):
        open_source({"source": str(folder), "captions": "caption"})


def test_text_files_beside_images_are_their_captions(tmp_path: Path) -> None:
    folder = imagefolder(tmp_path / "set", None)
    with pytest.raises(RequestError, match=r"data\.captions: none of the first 5 images has a \.txt beside it"):
        open_source({"source": str(folder), "captions": "txt"})
    (folder / "test/a/2.txt").write_text("﻿a red square \n", "utf-8")
    assert [words for *_, words in content(open_source({"source": str(folder), "captions": "txt"}))] == [
        None, "a red square", None, None, None]  # fmt: skip


@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
def test_negative_captions_are_a_column_of_their_own(tmp_path: Path, streaming: bool) -> None:
    folder = parquet(tmp_path / "set")
    request = {"source": f"hf:{folder}:test", "streaming": streaming, "negative_captions": "text"}
    source = pickle.loads(pickle.dumps(open_source(request)))
    assert (source.captions([1]), source.captions([1], negative=True)) == ([None], ["words 1"])
    both = open_source(request | {"captions": "text"})
    assert both.captions([2]) == both.captions([2], negative=True) == ["words 2"]
    with pytest.raises(RequestError, match=r"data\.negative_captions: no column 'words' in .*: image, text"):
        open_source(request | {"negative_captions": "words"})


def test_negative_captions_beside_images(tmp_path: Path) -> None:
    folder = imagefolder(tmp_path / "set")
    with pytest.raises(RequestError, match=r"data\.negative_captions: none of the .* has a \.negative\.txt beside it"):
        open_source({"source": str(folder), "negative_captions": "txt"})
    with pytest.raises(RequestError, match=r"data\.negative_captions: no 'not' of these .* keys: file_name, text"):
        open_source({"source": str(folder), "negative_captions": "not"})
    (folder / "test/a/2.negative.txt").write_text("blur")
    texts = open_source({"source": str(folder), "captions": "text", "negative_captions": "txt"})
    assert texts.captions([0, 1]) == ["words 0", "words 2"]
    assert texts.captions([0, 1], negative=True) == [None, "blur"]
    for source, kind in (("portraits:test", "portraits"), (str(folder), "tiles")):
        request = {"source": source, "negative_captions": "txt"} | ({"tile": 8} if kind == "tiles" else {})
        with pytest.raises(RequestError, match=rf"data\.negative_captions: has no meaning for {kind}"):
            open_source(request)


@pytest.mark.parametrize("line", ["{", "3", '{"file_name": "a/0.png"'])
def test_a_table_that_is_none_is_one_line(tmp_path: Path, line: str) -> None:
    folder = imagefolder(tmp_path / "set")
    (folder / "test/metadata.jsonl").write_text(line)
    with pytest.raises(RequestError, match=r"data\.captions: .*metadata\.jsonl") as caught:
        open_source({"source": str(folder), "captions": "text"})
    assert "\n" not in str(caught.value)


def test_the_tree_of_ffhq(tmp_path: Path) -> None:
    for i in (0, 999, 1000):
        path = tmp_path / f"{i // 1000 * 1000:05d}" / f"{i:05d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(i % 256))
    (tmp_path / "LICENSE.txt").write_text("of the images")
    source = open_source(str(tmp_path))
    assert source.image_ids(range(3)) == ["00000/00000.png", "00000/00999.png", "01000/01000.png"]
    assert source.left_out() == {".txt": 1}
    (tmp_path / "00000/00000.txt").write_text("a face")
    assert open_source({"source": str(tmp_path), "captions": "txt"}).left_out() == {}
