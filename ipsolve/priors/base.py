"""What a solver knows of a diffusion prior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from ipsolve.priors.schedules import Level, Schedule

Shape = tuple[int, ...]


class Prior(ABC):
    """A diffusion model of images: x_t = alpha_t x_0 + sigma_t eps on its state space.

    The state space is the latent space for latent priors and the image space for pixel priors, whose ``encode``
    and ``decode`` are the identity. All methods treat every image of a batch on its own and are differentiable
    in their tensor argument; parameters never require a gradient.
    """

    name: str
    latent: bool = False
    image_shape: Shape
    latent_shape: Shape
    schedule: Schedule

    @abstractmethod
    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        """Return E[x_0 | x_t], (B, *latent_shape) -> (B, *latent_shape)."""

    def encode(self, x: Tensor) -> Tensor:
        """Return the state of images, (B, *image_shape) -> (B, *latent_shape)."""
        return x

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of states, (B, *latent_shape) -> (B, *image_shape)."""
        return z

    def select(self, rows: Tensor) -> Self:
        """Return the prior as seen by some images of a batch (only a metered prior cares)."""
        return self


class MeteredPrior(Prior):
    """A prior that counts, per image of one batch, the network calls made on its behalf.

    ``counts`` maps ``denoiser``, ``denoiser_backward``, ``decoder``, ``decoder_backward`` to (B,) int64. A batch
    given as (B * particles, ...) counts ``particles`` calls for each image.
    """

    COUNTED = ("denoiser", "denoiser_backward", "decoder", "decoder_backward")

    def __init__(self, prior: Prior, batch_size: int) -> None:
        self.prior = prior
        self.name, self.latent, self.schedule = prior.name, prior.latent, prior.schedule
        self.image_shape, self.latent_shape = prior.image_shape, prior.latent_shape
        self.counts = {name: torch.zeros(batch_size, dtype=torch.int64) for name in self.COUNTED}
        self.rows = torch.arange(batch_size)

    def select(self, rows: Tensor) -> MeteredPrior:
        chosen = MeteredPrior(self.prior, 0)
        chosen.counts = self.counts
        chosen.rows = self.rows[rows.cpu()]
        return chosen

    def _count(self, name: str, out: Tensor) -> Tensor:
        calls = len(out) // len(self.rows)
        self.counts[name][self.rows] += calls
        if out.requires_grad:

            def on_backward(gradient: Tensor) -> None:
                self.counts[f"{name}_backward"][self.rows] += calls

            out.register_hook(on_backward)  # type: ignore[no-untyped-call]
        return out

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        return self._count("denoiser", self.prior.denoise(x_t, t))

    def encode(self, x: Tensor) -> Tensor:
        return self.prior.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return self._count("decoder", self.prior.decode(z)) if self.latent else z
