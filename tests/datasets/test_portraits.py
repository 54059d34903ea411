"""The portraits are a fixed data set: the built-in prior was trained on exactly these images."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from ipsolve.datasets import open_source
from ipsolve.datasets.portraits import SPLITS, Portraits, render
from ipsolve.datasets.portraits.splits import SPLIT_LENGTH
from ipsolve.requests.errors import RequestError

GOLDEN = Path(__file__).parent / "portraits_64.npz"  # written by the generator that the prior was trained with


def test_images_are_those_the_prior_was_trained_on() -> None:
    golden = np.load(GOLDEN)
    images = (render(golden["indices"]) * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(images - golden["images"]).max() < 0.5 + 1e-3  # half a grey level: the golden file is rounded


@pytest.mark.parametrize("size", [32, 64, 96])
def test_an_image_does_not_depend_on_its_batch(size: int) -> None:
    indices = [5, 1_000_003, 17, 2_000_000, 40]
    together = render(indices, size)
    alone = torch.cat([render([index], size) for index in indices])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_a_long_batch_keeps_order() -> None:
    many = render(range(70), 16)
    torch.testing.assert_close(many[65:67], render([65, 66], 16), rtol=0, atol=1e-6)


def test_values_are_an_image_in_the_unit_range() -> None:
    images = render(range(200), 32)
    assert images.shape == (200, 3, 32, 32)
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    assert images.min() >= 0
    assert images.max() <= 1


def test_a_larger_size_shows_the_same_sitter() -> None:
    small, large = render(range(8), 32), render(range(8), 128)
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    same = (shrunk - small).square().mean((1, 2, 3))
    other = (shrunk.roll(1, 0) - small).square().mean((1, 2, 3))
    assert (same < 0.2 * other).all()


def test_another_seed_is_another_population() -> None:
    assert (render(range(4), 16, seed=1) - render(range(4), 16, seed=0)).abs().mean() > 0.05


def test_splits_are_disjoint() -> None:
    ranges = [set(range(start, start + SPLIT_LENGTH, 1000)) | {start + SPLIT_LENGTH - 1} for start in SPLITS.values()]
    assert sum(map(len, ranges)) == len(set.union(*ranges))


def test_source_gives_the_portraits_of_its_split() -> None:
    source = open_source("portraits:test")
    expected = (render([2_000_003], 64)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    np.testing.assert_array_equal(source.load(3, 64), expected)
    np.testing.assert_array_equal(source.load_batch([9, 3], 64)[1], expected)
    assert source.image_ids([0, 3]) == ["portraits/test/000000", "portraits/test/000003"]
    assert source.describe()["n"] == len(source) == SPLIT_LENGTH


def test_source_is_small_when_pickled() -> None:
    source = open_source("portraits:val")
    assert pickle.loads(pickle.dumps(source)) == source
    assert len(pickle.dumps(source)) < 1000


def test_digest_tells_splits_and_seeds_apart() -> None:
    sources = [Portraits("val"), Portraits("test"), Portraits("test", seed=1)]
    assert len({source.describe()["digest"] for source in sources}) == 3


def test_unknown_split_is_refused_in_one_line() -> None:
    with pytest.raises(RequestError, match=r"^data\.source: .*'tests'.*did you mean 'test'.*train, val, test$"):
        open_source("portraits:tests")


def test_an_index_outside_the_split_would_be_another_split() -> None:
    with pytest.raises(IndexError):
        open_source("portraits:train").load(SPLIT_LENGTH, 16)
