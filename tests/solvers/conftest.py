"""Small exact problems for solvers: a Gaussian mixture prior in pixels, and behind an orthonormal 'autoencoder'."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ipsolve.operators import parse_task
from ipsolve.priors import Prior, scaled_linear
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.problem import Posed, pose

SHAPE = (3, 8, 8)
LATENT = (12, 4, 4)


class ShuffledPrior(MixturePrior):
    """A latent prior with known answers: the latent is the image with its pixels moved into channels."""

    latent = True

    def __init__(self, mixture: GaussianMixture) -> None:
        super().__init__(mixture, LATENT, scaled_linear(0.0015, 0.0195))
        self.image_shape = SHAPE

    def encode(self, x: Tensor) -> Tensor:
        return pixel_unshuffle(x, 2)

    def decode(self, z: Tensor) -> Tensor:
        return pixel_shuffle(z, 2)


def mixture(components: int = 3, std: float = 0.3) -> GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    means = 0.4 * torch.randn(components, 192, generator=generator, dtype=torch.float64)
    return GaussianMixture.isotropic(torch.ones(components), means, std)


@pytest.fixture(scope="session")
def pixel_prior() -> Prior:
    return MixturePrior(mixture(), SHAPE)


@pytest.fixture(scope="session")
def latent_prior() -> Prior:
    return ShuffledPrior(mixture())


IDS = [f"image{i}" for i in range(3)]


def truth(batch: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return (0.4 * torch.randn(batch, *SHAPE, generator=generator, dtype=torch.float64)).to(dtype)


def posed(
    task: dict[str, object], prior: Prior, batch: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Posed:
    """Return the problem of a batch of images, image0, image1, ..., with its truth."""
    return pose(parse_task(task), truth(batch, dtype), prior, seed, [f"image{i}" for i in range(batch)])
