"""Images behind a URI are those of the same files on a disk; a store that fails is no unreadable image."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ipsolve.datasets import ImageError, Source, open_source
from ipsolve.requests.errors import RequestError
from tests.object_store import BUCKET, SECRET, ObjectStore, object_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("store")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        patch.setattr("ipsolve.files.filesystems._PAUSES", (0.1,))
        yield running


@pytest.fixture(scope="module")
def photos(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images and the same files under s3://bucket/photos."""
    folder = tmp_path_factory.mktemp("photos")
    names = ("b/2.png", "a/1.PNG", "c.jpg", "a b/ü%+.png", "notes.txt", ".hidden.png", "z.png", "b/.cache/y/3.png")
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.lower().endswith((".png", ".jpg")):
            Image.fromarray(np.full((20, 24, 3), 30 * i, np.uint8)).save(path)
        else:
            path.write_text("text")
    (folder / "z.png").write_bytes(b"not an image")
    for path in folder.rglob("*"):
        if path.is_file():
            store.put(f"photos/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return folder


def same(stored: Source, local: Source) -> None:
    everything = range(len(local))
    assert stored.image_ids(everything) == local.image_ids(everything)
    assert stored.describe() == local.describe()
    for there, here in zip(stored.load_batch(everything, 8), local.load_batch(everything, 8), strict=True):
        if isinstance(here, ImageError):
            assert str(there) == str(here)
        else:
            np.testing.assert_array_equal(there, here)


def test_images_ids_and_digest_are_those_of_the_files(store: ObjectStore, photos: Path) -> None:
    stored = open_source("s3://bucket/photos/")
    assert stored.image_ids(range(len(stored))) == ["a b/ü%+.png", "a/1.PNG", "b/2.png", "c.jpg", "z.png"]
    same(stored, open_source(str(photos)))
    same(open_source(f"file://{photos}"), open_source(str(photos)))
    same(open_source("s3://bucket/photos/c.jpg"), open_source(str(photos / "c.jpg")))


def test_a_source_pickles_small_and_without_credentials(store: ObjectStore, photos: Path) -> None:
    source = open_source("s3://bucket/photos")
    source.load_batch(range(len(source)), 8)
    pickled = pickle.dumps(source)
    assert len(pickled) < 1000
    assert SECRET.encode() not in pickled
    same(pickle.loads(pickled), open_source(str(photos)))


def test_parquet_is_read_by_row_group_and_named_alike(store: ObjectStore, tmp_path: Path) -> None:
    images = [Path(tmp_path, f"{i}.png") for i in range(6)]
    for i, path in enumerate(images):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(path)
    folder = tmp_path / "tables"
    folder.mkdir()
    for name, part in (("a", images[:4]), ("b", images[4:])):
        table = pa.table({"image": [path.read_bytes() for path in part], "label": [0] * len(part)})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=2)
        store.put(f"tables/{name}.parquet", (folder / f"{name}.parquet").read_bytes())
    same(open_source("s3://bucket/tables"), open_source(str(folder)))
    same(pickle.loads(pickle.dumps(open_source("s3://bucket/tables/a.parquet"))), open_source(f"{folder}/a.parquet"))
    source = open_source("s3://bucket/tables")
    source.load_batch([0, 1], 8)
    before = len(store.requests())
    source.load_batch([1, 0], 8)  # as the next cell does
    assert len(store.requests()) == before


def test_many_objects_are_one_listing(store: ObjectStore) -> None:
    for i in range(60):
        store.put(f"many/{i:05}.png", b"x")
    before = len(store.requests())
    source = open_source("s3://bucket/many")
    assert len(source) == source.describe()["n"] == 60
    # is it an object, is it a folder, and a page for every thousand objects
    assert [line.split("?")[0] for line in store.requests()[before:]] == [
        "HEAD /bucket/many",
        "GET /bucket",
        "GET /bucket",
    ]


def test_an_object_that_is_gone_is_an_image_error_and_a_store_that_fails_is_not(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        store.put(f"gone/{name}.png", store.get("photos/b/2.png"))
    source = open_source("s3://bucket/gone")
    store.client.delete_object(Bucket=BUCKET, Key="gone/a.png")
    there, here = source.load_batch([0, 1], 8)
    assert isinstance(there, ImageError)
    assert not isinstance(here, ImageError)
    store.wants_credentials(True)
    try:
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            open_source_again(source).load_batch([1], 8)
    finally:
        store.wants_credentials(False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        open_source_again(source).load_batch([1], 8)


def open_source_again(source: Source) -> Source:
    """Return a source as another process gets it, nothing read yet."""
    again = pickle.loads(pickle.dumps(source))
    assert isinstance(again, Source)
    return again


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("s3://bucket/nothing/here", "data.source: no images in s3://bucket/nothing/here"),
        ("s3://no-bucket/x", "data.source: no images in s3://no-bucket/x"),
        ("s3://bucket/photos/*.png", "data.source: a URI takes no glob"),
        ({"source": "s3://bucket/photos", "tile": 16}, "data.tile: photographs are cut on a local disk only"),
        ("nonsense://x", "data.source: cannot open 'nonsense://x'"),
        ("s3://AKIA:xyzxyzxyz@bucket/x", "data.source: must not hold a password"),
    ],
)
def test_a_wrong_request_is_one_line(store: ObjectStore, spec: str | dict[str, object], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        open_source(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "xyzxyzxyz" not in str(caught.value)


def test_a_dead_store_is_said_within_seconds(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(RequestError, match=r"data\.source: cannot list s3://bucket/photos: the store does not answer"):
        open_source("s3://bucket/photos")
    assert time.monotonic() - start < 20
