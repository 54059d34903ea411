"""What a network is given at a noise level, and what its output says of x_0."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ipsolve.priors.schedules import Level, Schedule


class Prediction(ABC):
    """How a network is to be read."""

    def time(self, t: Level) -> float:
        """Return the time that the network reads at a level."""
        return t.time

    def inputs(self, x_t: Tensor, t: Level) -> Tensor:
        """Return what the network reads of a state."""
        return x_t

    @abstractmethod
    def clean(self, x_t: Tensor, out: Tensor, t: Level) -> Tensor:
        """Return E[x_0 | x_t] from the output of the network."""


class Epsilon(Prediction):
    """The noise (Ho et al. 2020, arXiv 2006.11239)."""

    def clean(self, x_t: Tensor, out: Tensor, t: Level) -> Tensor:
        return (x_t - t.sigma * out) / t.alpha


class Sample(Prediction):
    """x_0 itself."""

    def clean(self, x_t: Tensor, out: Tensor, t: Level) -> Tensor:
        return out


class V(Prediction):
    """v = alpha eps - sigma x_0, where alpha^2 + sigma^2 = 1 (Salimans & Ho 2022, arXiv 2202.00512, app. D)."""

    def clean(self, x_t: Tensor, out: Tensor, t: Level) -> Tensor:
        return t.alpha * x_t - t.sigma * out


@dataclass(frozen=True)
class Velocity(Prediction):
    """eps - x_0, the velocity of x_t = (1 - t) x_0 + t eps (Lipman et al. 2023, arXiv 2210.02747).

    Attributes:
        num_timesteps: the network reads ``num_timesteps`` t.
    """

    num_timesteps: float = 1000

    def time(self, t: Level) -> float:
        return self.num_timesteps * t.time

    def clean(self, x_t: Tensor, out: Tensor, t: Level) -> Tensor:
        return x_t - t.sigma * out


@dataclass(frozen=True)
class Preconditioned(Prediction):
    """x_0 = c_skip x_t + c_out F(c_in x_t, ln(sigma) / 4), alpha = 1 (Karras et al. 2022, arXiv 2206.00364, table 1).

    Attributes:
        sigma_data: the standard deviation of the data.
        sign: of c_out: 1 as in the paper; -1 is what diffusers calls ``v_prediction``.
    """

    sigma_data: float = 0.5
    sign: int = 1

    def time(self, t: Level) -> float:
        return 0.25 * math.log(t.sigma)

    def inputs(self, x_t: Tensor, t: Level) -> Tensor:
        return x_t / math.hypot(t.sigma, self.sigma_data)

    def clean(self, x_t: Tensor, out: Tensor, t: Level) -> Tensor:
        total = math.hypot(t.sigma, self.sigma_data)
        return (self.sigma_data / total) ** 2 * x_t + self.sign * t.sigma * self.sigma_data / total * out


class UnitRangeScore(Prediction):
    """grad log p_t of images in [0, 1], alpha = 1: ``google/ncsnpp-*`` (Song et al. 2021, arXiv 2011.13456).

    x in [-1, 1] at sigma is (x + 1) / 2 at sigma / 2; there, the denoised image is x + sigma^2 score (Tweedie).
    """

    def time(self, t: Level) -> float:
        return t.sigma / 2

    def inputs(self, x_t: Tensor, t: Level) -> Tensor:
        return (x_t + 1) / 2

    def clean(self, x_t: Tensor, out: Tensor, t: Level) -> Tensor:
        return x_t + 0.5 * t.sigma**2 * out


@dataclass(frozen=True)
class ConsistencyFunction(Prediction):
    """f(x, sigma) = c_skip x + c_out F(c_in x, 250 ln sigma), where the probability flow from x ends; alpha = 1.

    At ``sigma_min``, where it ends, f is x (Song et al. 2023, arXiv 2303.01469, eq. 5 and appendix C).

    Attributes:
        sigma_min: the level that stands for the clean image.
        sigma_data: the standard deviation of the data.
    """

    sigma_min: float = 0.002
    sigma_data: float = 0.5

    def time(self, t: Level) -> float:
        return 250 * math.log(t.sigma)

    def inputs(self, x_t: Tensor, t: Level) -> Tensor:
        return x_t / math.hypot(t.sigma, self.sigma_data)

    def clean(self, x_t: Tensor, out: Tensor, t: Level) -> Tensor:
        beyond = max(t.sigma - self.sigma_min, 0.0)
        skip = self.sigma_data**2 / (beyond**2 + self.sigma_data**2)
        return skip * x_t + beyond * self.sigma_data / math.hypot(t.sigma, self.sigma_data) * out


@dataclass(frozen=True)
class LatentConsistencyFunction(Prediction):
    """f(x_t, t) = c_skip x_t + c_out x_0, on a table of times, x_0 as ``base`` reads it from the same output.

    c_skip = s^2 / (k^2 t^2 + s^2), c_out = k t / sqrt(k^2 t^2 + s^2), s = 0.5: at time 0 f is x_t (Luo et al. 2023,
    arXiv 2310.04378, eq. 9).

    Attributes:
        base: how the network was read before it was distilled.
        timestep_scaling: k.
    """

    base: Prediction
    timestep_scaling: float = 10.0

    def time(self, t: Level) -> float:
        return self.base.time(t)

    def inputs(self, x_t: Tensor, t: Level) -> Tensor:
        return self.base.inputs(x_t, t)

    def clean(self, x_t: Tensor, out: Tensor, t: Level) -> Tensor:
        squared: float = (self.timestep_scaling * t.time) ** 2
        x_0 = self.base.clean(x_t, out, t)
        blend: Tensor = 0.25 * x_t + (squared * (squared + 0.25)) ** 0.5 * x_0
        return blend / (squared + 0.25)


@dataclass(frozen=True)
class OnSchedule(Prediction):
    """A network that was trained on one schedule, read at the levels of another, of the same sigma / alpha.

    Their states differ by a factor, and nothing else (Karras et al. 2022, arXiv 2206.00364, section 2). A ratio
    beyond the ends of the network's schedule is read as that of the end: there the larger part of the state, noise at
    the one end and image at the other, has the size that the network knows.

    Attributes:
        base: how the network is read on its own schedule.
        schedule: the one it was trained on.
    """

    base: Prediction
    schedule: Schedule

    def time(self, t: Level) -> float:
        return self.base.time(self._own(t))

    def inputs(self, x_t: Tensor, t: Level) -> Tensor:
        own = self._own(t)
        return self.base.inputs(self._factor(t, own) * x_t, own)

    def clean(self, x_t: Tensor, out: Tensor, t: Level) -> Tensor:
        own = self._own(t)
        return self.base.clean(self._factor(t, own) * x_t, out, own)

    def _own(self, t: Level) -> Level:
        return self.schedule.at_ratio(t.ratio)

    @staticmethod
    def _factor(t: Level, own: Level) -> float:
        # of the same ratio both are the same; beyond an end only the larger of noise and image can keep its size
        return own.sigma / t.sigma if t.sigma >= t.alpha else own.alpha / t.alpha


CONSISTENCY = ConsistencyFunction, LatentConsistencyFunction
PREDICTIONS: dict[str, Prediction] = {"epsilon": Epsilon(), "v_prediction": V(), "sample": Sample()}
