"""Tiles cover a photograph without overlap, and are known before it is decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
from PIL import Image

from ipsolve.datasets import ImageError, open_source
from ipsolve.requests.errors import RequestError


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two of the photographs that ship with scikit-learn, two with scikit-image."""
    for name, picture in zip(("china", "flower"), sklearn.datasets.load_sample_images().images, strict=True):
        Image.fromarray(picture).save(tmp_path / f"{name}.jpg")
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "astronaut.png")
    Image.fromarray(skimage.data.camera()).save(tmp_path / "camera.webp")
    return tmp_path


def test_tiles_put_together_are_the_photograph(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    source = open_source({"source": str(tmp_path), "tile": 16})
    tiles = source.load_batch(range(len(source)), 16)
    assert len(tiles) == 3 * 4
    rows = [np.concatenate(tiles[start : start + 4], 1) for start in range(0, 12, 4)]
    np.testing.assert_array_equal(np.concatenate(rows, 0), picture[1:49, 3:67])  # margins of 2 and 6, split evenly


def test_number_and_names_of_tiles(photographs: Path) -> None:
    source = open_source({"source": str(photographs), "tile": True}, size=128)
    assert len(source) == 16 + 16 + 3 * 5 + 3 * 5  # 512 x 512 twice, 427 x 640 twice
    ids = source.image_ids(range(len(source)))
    assert len(set(ids)) == len(ids)
    assert ids[0] == "astronaut.png@00-00"
    assert ids[-1] == "flower.jpg@02-04"


def test_downscale_comes_first(photographs: Path) -> None:
    source = open_source({"source": str(photographs / "astronaut.png"), "tile": 64, "downscale": 4})
    assert len(source) == 4
    whole = Image.fromarray(skimage.data.astronaut()).resize((128, 128), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(source.load(3, 64), np.asarray(whole)[64:, 64:])


def test_order_of_reading_does_not_matter(photographs: Path) -> None:
    source = open_source({"source": str(photographs), "tile": 128})
    mixed = [40, 0, 17, 1, 61]
    for index, tile in zip(mixed, source.load_batch(mixed, 64), strict=True):
        np.testing.assert_array_equal(tile, source.load(index, 64))


def test_what_cannot_be_tiled_is_a_failure_of_its_own(photographs: Path) -> None:
    (photographs / "broken.png").write_bytes(b"broken")
    Image.new("RGB", (30, 200)).save(photographs / "narrow.png")
    source = open_source({"source": str(photographs), "tile": 64})
    loaded = dict(zip(source.image_ids(range(len(source))), source.load_batch(range(len(source)), 64), strict=True))
    errors = {name: str(value) for name, value in loaded.items() if isinstance(value, ImageError)}
    assert set(errors) == {"broken.png@00-00", "narrow.png@00-00"}
    assert "30 x 200" in errors["narrow.png@00-00"]


def test_tile_true_needs_a_size(photographs: Path) -> None:
    with pytest.raises(RequestError, match=r"^data\.tile: true takes the prior's size"):
        open_source({"source": str(photographs), "tile": True})


def test_nothing_large_enough_is_refused(photographs: Path) -> None:
    with pytest.raises(RequestError, match="no image is as large as one tile"):
        open_source({"source": str(photographs), "tile": 64, "downscale": 16})


def test_whole_photographs_are_cropped(photographs: Path) -> None:
    source = open_source(str(photographs))
    assert source.image_ids(range(4)) == ["astronaut.png", "camera.webp", "china.jpg", "flower.jpg"]
    assert all(image.shape == (64, 64, 3) for image in source.load_batch(range(4), 64))
