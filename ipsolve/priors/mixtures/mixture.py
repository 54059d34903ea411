"""A Gaussian mixture as a diffusion prior: the ruler by which posterior samplers are judged."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.priors.base import Prior, Shape
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.networks.unet import Precision
from ipsolve.priors.schedule_spec import ScheduleMapping, load_schedule
from ipsolve.priors.schedules import Level, Schedule, linear
from ipsolve.priors.spec import PRIORS, PriorSpec, PriorSummary
from ipsolve.randomness import ImageRng
from ipsolve.requests.errors import RequestError
from ipsolve.signal import Signal


class MixturePrior(Prior):
    """A Gaussian mixture with exact denoiser, score and conditional covariance on any schedule.

    Everything is computed in float64 and returned in the dtype of the argument.

    Args:
        mixture: the density of x_0, flattened.
        image_shape: the shape of x_0, of mixture.dimension entries; vectors are (d,).
        schedule: any; the default is that of DDPM.
    """

    name = "mixture"

    def __init__(self, mixture: GaussianMixture, image_shape: Shape, schedule: Schedule | None = None) -> None:
        if math.prod(image_shape) != mixture.dimension:
            raise RequestError(f"prior.image_shape: {image_shape} does not have {mixture.dimension} entries")
        self.mixture = mixture
        self.image_shape = self.latent_shape = image_shape
        self.schedule = linear() if schedule is None else schedule

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        return self._shaped(self.mixture.denoise(x_t.flatten(1), t.alpha, t.sigma), x_t)

    def score(self, x_t: Tensor, t: Level) -> Tensor:
        """Return grad log p_t(x_t), the shape of ``x_t``."""
        return self._shaped(self.mixture.diffused(t.alpha, t.sigma).score(x_t.flatten(1)), x_t)

    def covariance_product(self, x_t: Tensor, v: Tensor, t: Level) -> Tensor:
        """Return Cov[x_0 | x_t] v, the shape of ``x_t``."""
        return self._shaped(self.mixture.denoiser_covariance(x_t.flatten(1), v.flatten(1), t.alpha, t.sigma), x_t)

    def log_density(self, x_t: Tensor, t: Level) -> Tensor:
        """Return log p_t(x_t), (B,) float64."""
        return self.mixture.diffused(t.alpha, t.sigma).log_density(x_t.flatten(1))

    def sample(self, rng: ImageRng) -> Tensor:
        """Draw one x_0 per stream of ``rng``, (B, *image_shape) float64."""
        return self.mixture.sample(rng).reshape(-1, *self.image_shape)

    def _shaped(self, flat: Tensor, like: Tensor) -> Tensor:
        return flat.reshape(like.shape).to(like.dtype)


@PRIORS.register
@dataclass(frozen=True, config={"extra": "forbid"})
class MixtureSpec(PriorSpec):
    """A random isotropic mixture of signals: means ~ N(0, spread^2 I), equal weights, from ``seed``.

    It costs next to nothing, so it also serves to try a pipeline without a network.

    Args:
        image_shape: of x, which says what it is (:mod:`ipsolve.signal`): [3, H, W], [1, H, W], [2, H, W] for complex
            numbers, [D, H, W] for a volume, [T, 3, H, W] for a video.
        num_components: K.
        std: the standard deviation within a component.
        spread: that of the means.
        seed: of the means.
        schedule: ``schedule`` (its name) and the schedule's own keys.
    """

    name: ClassVar[str] = "mixture"
    image_shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    num_components: Annotated[int, Field(ge=1)] = 4
    std: Annotated[float, Field(gt=0)] = 0.1
    spread: Annotated[float, Field(ge=0)] = 0.5
    seed: int = 0
    schedule: ScheduleMapping = dataclasses.field(default_factory=lambda: {"schedule": "linear"})

    def __post_init__(self) -> None:
        try:
            Signal.of(self.image_shape)
        except ValueError as error:
            raise RequestError("image_shape", str(error)) from None

    def summary(self) -> PriorSummary:
        return PriorSummary(self.image_shape, latent=False, schedule=load_schedule(self.schedule))

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def load(self, device: torch.device | str = "cpu", precision: Precision = "float32") -> MixturePrior:
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.num_components, math.prod(self.image_shape))
        means = self.spread * torch.randn(shape, generator=generator, dtype=torch.float64).to(device)
        mixture = GaussianMixture.isotropic(torch.ones(len(means)), means, self.std)
        return MixturePrior(mixture, self.image_shape, load_schedule(self.schedule))
