"""What a solver knows of a diffusion prior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from ipsolve.priors.context import Context
from ipsolve.priors.schedules import Level, Schedule
from ipsolve.requests.traits import Traits
from ipsolve.signal import IMAGES, Signal

Shape = tuple[int, ...]
COUNTED = ("denoiser", "denoiser_backward", "decoder", "decoder_backward", "encoder")


class Prior(ABC):
    """A diffusion model of images: x_t = alpha_t x_0 + sigma_t eps on its state space.

    The state space is the latent space for latent priors and the image space for pixel priors, whose ``encode``
    and ``decode`` are the identity. All methods treat every image of a batch on its own and are differentiable
    in their tensor argument; parameters never require a gradient, save those of :meth:`adapted`.

    One call of ``denoise`` is one call, also where guidance by a text makes it two rows of the network for each image.

    Attributes:
        abilities: traits beyond the kind of its states: ``adaptable``, ``text``, ``negative_text``, ``flow``,
            ``learned_variance``.
    """

    name: str
    latent: bool = False
    abilities: Traits = frozenset()
    image_shape: Shape
    latent_shape: Shape
    schedule: Schedule

    @abstractmethod
    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        """Return E[x_0 | x_t], (B, *latent_shape) -> (B, *latent_shape)."""

    def denoise_with_variance(self, x_t: Tensor, t: Level) -> tuple[Tensor, Tensor]:
        """Return E[x_0 | x_t] and, of the same call, where the variance of a step from t lies: both (B, *latent_shape).

        It is v of Nichol & Dhariwal 2021 (arXiv 2102.09672, eq. 15), 0 for the smallest of a step's variances and 1 for
        the largest, without a graph.

        Raises:
            TypeError: a prior that is not ``learned_variance``.
        """
        raise TypeError(f"prior {self.name} has not learned the variance of its steps")

    def encode(self, x: Tensor) -> Tensor:
        """Return the state of images, (B, *image_shape) -> (B, *latent_shape)."""
        return x

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of states, (B, *latent_shape) -> (B, *image_shape)."""
        return z

    def select(self, rows: Tensor) -> Self:
        """Return the prior as seen by some images of a batch (one that is metered or conditioned cares)."""
        return self

    def conditioned(self, context: Context) -> Self:
        """Return the prior of images of which ``context`` is known: the same, but for what its denoiser is told.

        Raises:
            TypeError: a prior that cannot be told so.
        """
        raise TypeError(f"prior {self.name} cannot be told a {context}")

    def adapted(self) -> Self:
        """Return the prior with a copy of the weights of its denoiser, which a solver may change for one image.

        They are :meth:`parameters`, and require a gradient; those of the prior itself stay what they are. As an image
        stands alone, each has a copy of its own: ``select`` one row first.

        Raises:
            TypeError: a prior that is not ``adaptable``.
        """
        raise TypeError(f"prior {self.name} has no weights that could be adapted")

    def parameters(self) -> list[nn.Parameter]:
        """Return the weights that may be changed: none, but of an adapted prior."""
        return []

    @property
    def traits(self) -> Traits:
        """What a solver can rely on: ``latent`` or ``pixel``, the kind of signals, and the abilities."""
        return prior_traits(self.image_shape, self.latent) | self.abilities


def prior_traits(image_shape: Shape, latent: bool) -> Traits:
    """Return the traits of a prior: ``latent`` or ``pixel``; ``image``, where x is one (rgb, gray, complex)."""
    is_image = Signal.of(image_shape).kind in IMAGES
    return frozenset({"latent" if latent else "pixel"} | ({"image"} if is_image else set()))


class MeteredPrior(Prior):
    """A prior that counts, per image of one batch, the network calls made on its behalf.

    ``counts`` maps each of :data:`COUNTED` to (B,) int64. A batch given as (B * particles, ...) counts ``particles``
    calls for each image.

    Raises:
        ValueError: a call whose rows are no multiple of the batch: it would belong to nobody.
    """

    def __init__(self, prior: Prior, batch_size: int) -> None:
        self.prior = prior
        self.name, self.latent, self.schedule, self.abilities = (
            prior.name,
            prior.latent,
            prior.schedule,
            prior.abilities,
        )
        self.image_shape, self.latent_shape = prior.image_shape, prior.latent_shape
        self.counts = {name: torch.zeros(batch_size, dtype=torch.int64) for name in COUNTED}
        self.rows = torch.arange(batch_size)

    def select(self, rows: Tensor) -> MeteredPrior:
        return self._on_account(self.prior.select(rows), self.rows[rows.cpu()])

    def conditioned(self, context: Context) -> MeteredPrior:
        return self._on_account(self.prior.conditioned(context), self.rows)

    def adapted(self) -> MeteredPrior:
        return self._on_account(self.prior.adapted(), self.rows)

    def parameters(self) -> list[nn.Parameter]:
        return self.prior.parameters()

    def _on_account(self, prior: Prior, rows: Tensor) -> MeteredPrior:
        metered = MeteredPrior(prior, 0)
        metered.counts, metered.rows = self.counts, rows
        return metered

    def _count(self, name: str, out: Tensor) -> Tensor:
        calls, rest = divmod(len(out), len(self.rows))
        if rest or not calls:
            raise ValueError(f"a {name} call of {len(out)} rows for a batch of {len(self.rows)}: select the rows first")
        self._add(name, calls)
        if out.requires_grad and name != "encoder":  # no method takes a gradient through an encoder

            def on_backward(gradient: Tensor) -> None:
                self._add(f"{name}_backward", calls)

            out.register_hook(on_backward)  # type: ignore[no-untyped-call]
        return out

    def _add(self, name: str, calls: int) -> None:
        # not +=, which would count an image once whose rows are there several times
        self.counts[name].index_add_(0, self.rows, torch.full_like(self.rows, calls))

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        return self._count("denoiser", self.prior.denoise(x_t, t))

    def denoise_with_variance(self, x_t: Tensor, t: Level) -> tuple[Tensor, Tensor]:
        x_0, v = self.prior.denoise_with_variance(x_t, t)
        return self._count("denoiser", x_0), v

    def encode(self, x: Tensor) -> Tensor:
        return self._count("encoder", self.prior.encode(x)) if self.latent else x

    def decode(self, z: Tensor) -> Tensor:
        return self._count("decoder", self.prior.decode(z)) if self.latent else z
