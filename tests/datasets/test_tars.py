"""Tars of WebDataset, by its own writer and by tarfile: read by members, named, counted, refused."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import webdataset

from ipsolve.datasets import ImageError, open_source
from ipsolve.datasets.listed import LocalFiles
from ipsolve.requests.errors import RequestError
from ipsolve.signal import Signal
from tests.datasets.test_parquet import picture, png, value


def write(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards as the package writes them: an image, a class, and words in two ways."""
    folder = tmp_path / "shards"
    folder.mkdir()
    with webdataset.ShardWriter(f"{folder}/test-%03d.tar", maxcount=3, verbose=0) as writer:
        for i in range(5):
            sample = {"png": picture(i), "cls": i, "json": {"caption": f"number {i}"}}
            writer.write({"__key__": f"{i:05d}", **sample, **({"txt": f"text {i}"} if i != 1 else {})})
    return folder


def test_shards_of_webdataset(shards: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source(str(shards))))
    assert source.image_ids([0, 3]) == ["test-000.tar#00000.png", "test-001.tar#00003.png"]
    assert [value(image) for image in source.load_batch([4, 0, 2, 1, 3], 8)] == [4, 0, 2, 1, 3]
    assert source.captions([0]) == [None]  # none were asked for
    assert source.left_out() == {".cls": 5, ".json": 5, ".txt": 4}


def test_captions_of_a_sample_are_its_text_or_a_key_of_its_json(shards: Path) -> None:
    texts = open_source({"source": str(shards), "captions": "txt"})
    assert texts.captions(range(5)) == ["text 0", None, "text 2", "text 3", "text 4"]
    keys = open_source({"source": str(shards), "captions": "caption"})
    assert keys.captions([3, 0]) == ["number 3", "number 0"]


def test_negative_captions_of_a_sample_are_a_text_or_a_key_of_its_own(tmp_path: Path) -> None:
    for name, words in (("a", "blur"), ("b", None)):
        members = {f"{name}/0.png": png(0), f"{name}/0.txt": b"a face"}
        members |= {f"{name}/0.json": b'{"caption": "mine", "not": "noise"}'}
        members |= {} if words is None else {f"{name}/0.negative.txt": words.encode()}
        write(tmp_path / f"{name}.tar", members)
    request = {"source": str(tmp_path), "captions": "txt", "negative_captions": "txt"}
    texts = pickle.loads(pickle.dumps(open_source(request)))
    assert texts.captions([0, 1]) == ["a face", "a face"]
    assert texts.captions([0, 1], negative=True) == ["blur", None]
    assert texts.left_out() == {".json": 2}
    keys = open_source({"source": str(tmp_path), "captions": "caption", "negative_captions": "not"})
    assert (keys.captions([1]), keys.captions([1], negative=True)) == (["mine"], ["noise"])
    with pytest.raises(
        RequestError, match=r"data\.negative_captions: no image in .* has a \.negative\.txt of its name"
    ):
        open_source({"source": str(tmp_path / "b.tar"), "negative_captions": "txt"})


def test_a_store_gives_the_same_and_only_the_members_asked_for_are_read(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fsspec.filesystem("memory")
    for path in shards.iterdir():
        store.pipe(f"/shards/{path.name}", path.read_bytes())
    here, there = (open_source({"source": place, "captions": "txt"}) for place in (str(shards), "memory://shards"))
    assert there.image_ids(range(5)) == here.image_ids(range(5))
    assert there.captions(range(5)) == here.captions(range(5))
    assert there.describe() == here.describe()
    np.testing.assert_array_equal(np.stack(there.load_batch(range(5), 8)), np.stack(here.load_batch(range(5), 8)))
    opened: list[int] = []
    original = LocalFiles.stream
    monkeypatch.setattr(LocalFiles, "stream", lambda self, i: (opened.append(i), original(self, i))[1])
    pickle.loads(pickle.dumps(here)).load_batch([4, 3], 8)
    assert opened == [1]


def test_which_image_of_a_sample_is_said_by_its_ending(tmp_path: Path) -> None:
    pairs = {f"{i}.{kind}.png": png(10 * i + j) for i in range(2) for j, kind in enumerate(("input", "target"))}
    write(tmp_path / "a.tar", pairs)
    with pytest.raises(RequestError, match=r"data\.image_column: .* '/0' has: input\.png, target\.png"):
        open_source(str(tmp_path))
    source = open_source({"source": str(tmp_path), "image_column": "target.png"})
    assert [value(image) for image in source.load_batch([0, 1], 8)] == [1, 11]
    with pytest.raises(RequestError, match=r"data\.image_column: no files ending in \.mask\.png in the tars"):
        open_source({"source": str(tmp_path), "image_column": "mask.png"})


def test_hidden_members_are_left_out_and_a_damaged_one_stands_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", {"./x/1.png": png(1), "x/._1.png": b"of a Mac", "x/2.png": png(2)[:20], "x/3.png": b""})
    source = open_source(str(tmp_path / "a.tar"))
    assert source.image_ids(range(3)) == ["a.tar#./x/1.png", "a.tar#x/2.png", "a.tar#x/3.png"]
    assert [isinstance(each, ImageError) for each in source.load_batch(range(3), 8)] == [False, True, True]
    assert source.left_out() == {"hidden": 1}


def test_npy_members_are_signals(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-0.7, 0.7, (2, 6, 5))
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write({"__key__": "0", "npy": x})
    (found,) = open_source(str(tmp_path), None, Signal.of((2, 6, 5))).load_batch([0], 5)
    np.testing.assert_allclose(found, x, atol=1e-7)


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"no tar"), "a.tar is no whole, uncompressed tar"),
        (lambda path: write(path, {"1.png": png(1)}, "w:gz"), "a.tar is no whole, uncompressed tar"),
        (lambda path: (write(path, {"1.png": bytes(900)}), halved(path)), "a.tar is no whole, uncompressed tar"),
        (lambda path: write(path, {"1.txt": b"a"}), r"no images .* in the tars, such as .*a\.tar; there are: 1 \.txt"),
        (lambda path: write(path, {}), r"no images .*; there are: nothing"),
    ],
    ids=["text", "compressed", "half", "no images", "empty"],
)
def test_a_wrong_tar_is_one_line_before_anything_starts(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "a.tar")
    with pytest.raises(RequestError, match=message) as caught:
        open_source(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_compressed_tar_by_name_and_a_folder_of_both_are_one_line(tmp_path: Path) -> None:
    write(tmp_path / "a.tar.gz", {"1.png": png(1)}, "w:gz")
    with pytest.raises(RequestError, match=r"a compressed tar, which cannot be read in parts; unpack it"):
        open_source(str(tmp_path / "a.tar.gz"))
    write(tmp_path / "a.tar", {"1.png": png(1)})
    (tmp_path / "b.png").write_bytes(png(2))
    with pytest.raises(RequestError, match=r"holds both images and tars; use a glob such as \*\.png or \*\.tar"):
        open_source(str(tmp_path))
    assert len(open_source(f"{tmp_path}/*.tar")) == 1
    store = fsspec.filesystem("memory")
    for name in ("a.tar", "b.png"):
        store.pipe(f"/both/{name}", (tmp_path / name).read_bytes())
    with pytest.raises(RequestError, match=r"holds both images and tars; give each a folder of its own"):
        open_source("memory://both")
    with pytest.raises(RequestError, match=r"data\.captions: no image in .*a\.tar has a \.txt of its name"):
        open_source({"source": f"{tmp_path}/*.tar", "captions": "txt"})
