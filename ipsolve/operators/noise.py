"""Noise models: what happens to A(x) on its way to y."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ipsolve.randomness import ImageRng
from ipsolve.requests.registry import Registry


class Noise(ABC):
    """A noise model; a frozen dataclass. ``std`` is the level told to the solvers, in units of [-1, 1] images."""

    name: ClassVar[str]
    of_intensities: ClassVar[bool] = False  # of values between black and white, which complex numbers have not

    @property
    @abstractmethod
    def std(self) -> float:
        """The (effective) standard deviation of y - A(x)."""

    @abstractmethod
    def apply(self, clean: Tensor, rng: ImageRng) -> Tensor:
        """Return the noisy measurement, the shape of ``clean``; randomness per image from ``rng``."""


NOISES: Registry[Noise] = Registry("noise")


@NOISES.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Gaussian(Noise):
    """y = A(x) + noise_std n, n ~ N(0, I)."""

    name: ClassVar[str] = "gaussian"
    noise_std: Annotated[float, Field(ge=0)] = 0.0

    @property
    def std(self) -> float:
        return self.noise_std

    def apply(self, clean: Tensor, rng: ImageRng) -> Tensor:
        if self.noise_std == 0:
            return clean
        return clean + self.noise_std * rng.normal(*clean.shape[1:], dtype=clean.dtype)


@NOISES.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Shot(Noise):
    """Photon counts: intensity u = (A(x) + 1) / 2 becomes Poisson(photons u) / photons; u below 0 counts as 0.

    ``std`` is that at mid-grey, u = 1/2: 2 sqrt(u / photons) = sqrt(2 / photons).

    Args:
        photons: expected number at a white pixel.
    """

    name: ClassVar[str] = "shot"
    of_intensities: ClassVar[bool] = True
    photons: Annotated[float, Field(gt=0, le=1e9)] = 100.0

    @property
    def std(self) -> float:
        return math.sqrt(2 / self.photons)

    def apply(self, clean: Tensor, rng: ImageRng) -> Tensor:
        expected = ((clean.double() + 1) / 2 * self.photons).clamp(min=0).cpu().numpy()
        counts = [generator.poisson(mean) for generator, mean in zip(rng.numpy_generators(), expected, strict=True)]
        return (torch.from_numpy(np.stack(counts)).to(clean.device) * (2 / self.photons) - 1).to(clean.dtype)


@NOISES.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Impulse(Noise):
    """Salt and pepper: each value is replaced, with ``probability``, by -1 or 1 at equal chances.

    ``std`` is the root mean square of y - A(x) at mid-grey, A(x) = 0: sqrt(probability).
    """

    name: ClassVar[str] = "impulse"
    of_intensities: ClassVar[bool] = True
    probability: Annotated[float, Field(ge=0, le=1)] = 0.05

    @property
    def std(self) -> float:
        return math.sqrt(self.probability)

    def apply(self, clean: Tensor, rng: ImageRng) -> Tensor:
        u = rng.uniform(*clean.shape[1:], dtype=torch.float64)
        struck = torch.where(u < self.probability / 2, -1.0, 1.0).to(clean.dtype)
        return torch.where(u < self.probability, struck, clean)


@NOISES.register
@dataclass(frozen=True, config={"extra": "forbid"})
class Speckle(Noise):
    """Multiplicative noise: intensity u = (A(x) + 1) / 2 becomes u (1 + speckle_std n), n ~ N(0, 1).

    ``std`` is that at mid-grey, u = 1/2: 2 u speckle_std = speckle_std.

    Args:
        speckle_std: relative standard deviation of an intensity.
    """

    name: ClassVar[str] = "speckle"
    of_intensities: ClassVar[bool] = True
    speckle_std: Annotated[float, Field(ge=0)] = 0.1

    @property
    def std(self) -> float:
        return self.speckle_std

    def apply(self, clean: Tensor, rng: ImageRng) -> Tensor:
        return clean + (clean + 1) * self.speckle_std * rng.normal(*clean.shape[1:], dtype=clean.dtype)
