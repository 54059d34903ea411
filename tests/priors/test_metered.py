"""Network calls are counted on the account of the images that they are for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ipsolve.priors import Level, MeteredPrior, Prior, linear
from ipsolve.priors.base import COUNTED


class Halving(Prior):
    """A latent prior of vectors whose networks only scale."""

    name, latent = "halving", True
    image_shape = latent_shape = (2,)
    schedule = linear()

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        return x_t / 2

    def encode(self, x: Tensor) -> Tensor:
        return x / 2

    def decode(self, z: Tensor) -> Tensor:
        return 2 * z


class Pixels(Halving):
    latent = False


T = Halving.schedule.level(9)


def counts(prior: MeteredPrior) -> dict[str, list[int]]:
    return {name: count.tolist() for name, count in prior.counts.items() if count.any()}


def test_every_kind_of_call_has_its_own_count() -> None:
    prior = MeteredPrior(Halving(), 3)
    assert set(prior.counts) == set(COUNTED)
    z = torch.ones(3, 2, requires_grad=True)
    prior.decode(prior.denoise(z, T)).sum().backward()
    prior.encode(z).sum().backward()  # no method takes a gradient through an encoder, so that none is counted
    prior.decode(z.detach())
    once = [1] * 3
    assert counts(prior) == {
        "denoiser": once,
        "denoiser_backward": once,
        "decoder": [2] * 3,
        "decoder_backward": once,
        "encoder": once,
    }


def test_a_pixel_prior_has_no_autoencoder_to_call() -> None:
    prior, x = MeteredPrior(Pixels(), 3), torch.ones(3, 2)
    assert prior.encode(x) is x
    assert prior.decode(x) is x
    assert prior.traits == {"pixel"}
    assert counts(prior) == {}


def test_particles_count_for_their_image() -> None:
    prior = MeteredPrior(Halving(), 3)
    z = torch.ones(12, 2, requires_grad=True)
    prior.denoise(z, T).sum().backward()
    assert counts(prior) == {"denoiser": [4] * 3, "denoiser_backward": [4] * 3}


def test_selected_rows_pay_for_themselves_also_where_they_are_there_twice() -> None:
    prior = MeteredPrior(Halving(), 3)
    some = prior.select(torch.tensor([2, 0, 2]))
    some.encode(torch.ones(6, 2))
    some.select(torch.tensor([1])).denoise(torch.ones(1, 2), T)
    assert counts(prior) == {"encoder": [2, 0, 4], "denoiser": [1, 0, 0]}


@pytest.mark.parametrize("rows", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("call", ["denoiser", "decoder", "encoder"])
def test_a_call_that_belongs_to_nobody_is_refused(call: str, rows: int) -> None:
    prior, z = MeteredPrior(Halving(), 3), torch.ones(rows, 2)
    calls = {
        "denoiser": lambda: prior.denoise(z, T),
        "decoder": lambda: prior.decode(z),
        "encoder": lambda: prior.encode(z),
    }
    with pytest.raises(ValueError, match=f"a {call} call of {rows} rows for a batch of 3: select the rows first"):
        calls[call]()
    assert counts(prior) == {}
