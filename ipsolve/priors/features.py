"""A descriptor of images in a prior's own state space, for Frechet distances that need no other network's weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ipsolve.priors.base import Prior

MAX_FEATURES = 512


def feature_grid(latent_shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the (rows, columns) to which a state of shape (C, h, w) is pooled.

    It is the largest square grid with at most 512 numbers over all channels, never finer than the state:
    8 x 8 for the 8-channel latents of ``portraits-64``, 13 x 13 for 3-channel ones.
    """
    channels, height, width = latent_shape
    side = max(math.isqrt(MAX_FEATURES // channels), 1)
    return min(side, height), min(side, width)


@torch.no_grad()
def prior_features(prior: Prior, images: Tensor) -> Tensor:
    """Return the average-pooled state of each image: ``encode``, then area means on :func:`feature_grid`.

    For an AutoencoderKL the state is the mean of the posterior, so that the descriptor is deterministic; every
    image is described on its own. Distances between such descriptors are called ``fd_prior``, never ``fid``: they
    are blind to what the encoder does not see and to structure finer than the grid.

    Args:
        prior: the prior whose state space is used.
        images: (B, *image_shape) in [-1, 1], on the prior's device.

    Returns:
        (B, d) float32, d = C * rows * columns <= 512 (512 for ``portraits-64``), channel-major.
    """
    states = prior.encode(images).float()
    return F.adaptive_avg_pool2d(states, feature_grid(prior.latent_shape)).flatten(1)
