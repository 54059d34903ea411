"""What a prior is told of the images of a batch, and weights of an image's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ipsolve.priors import Context, MeteredPrior, load_prior, prior_summary
from ipsolve.priors.context import per_row, select_entries
from tests.priors.conftest import small_unet

Make = Callable[..., Path]


def test_rows_of_one_image_lie_side_by_side() -> None:
    entries = torch.tensor([[1.0], [2.0]])
    assert per_row(entries, 6).flatten().tolist() == [1, 1, 1, 2, 2, 2]
    assert per_row(entries[:1], 3).flatten().tolist() == [1, 1, 1]
    for count in (0, 1, 3):
        with pytest.raises(ValueError, match=f"{count} rows for a context of 2 images"):
            per_row(entries, count)


def test_an_entry_for_all_images_is_that_of_some() -> None:
    rows = torch.tensor([1, 1, 0])
    assert select_entries(torch.tensor([5]), rows).tolist() == [5]
    assert select_entries(torch.tensor([5, 6]), rows).tolist() == [6, 6, 5]


def test_a_prior_in_closed_form_can_neither_be_told_nor_adapted() -> None:
    prior = load_prior({"prior": "mixture", "image_shape": [3, 4, 4]})
    assert not prior.traits & {"text", "adaptable"}
    for each in (prior, MeteredPrior(prior, 2)):
        assert each.parameters() == []
        with pytest.raises(TypeError, match="prior mixture cannot be told a prompt and negative prompt"):
            each.conditioned(Context(prompt=("a",), negative_prompt=("b",)))
        with pytest.raises(TypeError, match="prior mixture has no weights that could be adapted"):
            each.adapted()


def test_an_adapted_network_is_a_copy(make_folder: Make) -> None:
    request = {"prior": "pixel", "path": str(make_folder(unet=small_unet()))}
    prior = load_prior(request)
    assert "adaptable" in prior.traits
    assert prior_summary(request).traits == prior.traits == MeteredPrior(prior, 1).traits
    x, t = torch.randn(1, 3, 8, 8), prior.schedule.level(300)
    before = prior.denoise(x, t)
    first, second = prior.adapted(), prior.adapted()
    assert prior.parameters() == []
    assert len(first.parameters()) == len(list(small_unet().parameters()))
    torch.testing.assert_close(first.denoise(x, t), before)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1)
    assert not torch.allclose(first.denoise(x, t), before, atol=1e-3)
    for other in (prior, second):
        torch.testing.assert_close(other.denoise(x, t), before)
