"""One prior in the coordinates of another kind of schedule: a change of units, not of the model.

Levels with the same sigma / alpha are one noise level whatever (alpha, sigma) may be, and their states differ by a
factor. Divided by alpha + sigma, the state of any schedule is that of a flow, (1 - t) x_0 + t eps at t = sigma /
(alpha + sigma); divided by sqrt(alpha^2 + sigma^2), that of a variance preserving one. Both are exact at every level,
pure noise included, and undo each other. What is written for one kind of prior so runs on every other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from ipsolve.priors.base import Prior
from ipsolve.priors.context import Context
from ipsolve.priors.schedules import FlowMatching, Level, Schedule, Spacing

Unit = Callable[[Level], float]


def flow_unit(t: Level) -> float:
    """Return alpha_t + sigma_t: the state over that of the flow with the same sigma / alpha."""
    return t.alpha + t.sigma


def variance_preserving_unit(t: Level) -> float:
    """Return sqrt(alpha_t^2 + sigma_t^2): the state over the variance preserving one with the same sigma / alpha."""
    return math.hypot(t.alpha, t.sigma)


@dataclass(frozen=True)
class InUnits(Schedule):
    """The levels of a schedule, their times kept, with alpha and sigma divided by ``unit``."""

    schedule: Schedule
    unit: Unit

    def level(self, time: float) -> Level:
        return self._converted(self.schedule.level(time))

    def levels(self, num_steps: int, spacing: Spacing | None = None) -> list[Level]:
        return [self._converted(t) for t in self.schedule.levels(num_steps, spacing)]

    def thousandth(self, index: int) -> Level:
        return self._converted(self.schedule.thousandth(index))

    def at_ratio(self, ratio: float) -> Level:
        return self._converted(self.schedule.at_ratio(ratio))

    def _converted(self, t: Level) -> Level:
        unit = self.unit(t)
        return Level(t.time, t.alpha / unit, t.sigma / unit)


class PriorInUnits(Prior):
    """The same prior, whose states are divided by ``unit`` of their level. Calls are those of ``prior``."""

    def __init__(self, prior: Prior, unit: Unit) -> None:
        self.prior, self.unit = prior, unit
        self.name, self.latent, self.abilities = prior.name, prior.latent, prior.abilities
        self.image_shape, self.latent_shape = prior.image_shape, prior.latent_shape
        self.schedule = InUnits(prior.schedule, unit)

    def denoise(self, x_t: Tensor, t: Level) -> Tensor:
        own = self.prior.schedule.level(t.time)
        return self.prior.denoise(self.unit(own) * x_t, own)

    def encode(self, x: Tensor) -> Tensor:
        return self.prior.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.prior.decode(z)

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.prior.select(rows), self.unit)

    def conditioned(self, context: Context) -> Self:
        return type(self)(self.prior.conditioned(context), self.unit)

    def adapted(self) -> Self:
        return type(self)(self.prior.adapted(), self.unit)

    def parameters(self) -> list[nn.Parameter]:
        return self.prior.parameters()


def as_flow(prior: Prior) -> Prior:
    """Return the prior as a flow: at every level alpha = 1 - sigma, and sigma is the time t of the flow.

    The levels are those of the prior, so that a number of steps and a spacing mean what they mean on it.
    """
    return prior if isinstance(prior.schedule, FlowMatching) else PriorInUnits(prior, flow_unit)


def as_variance_preserving(prior: Prior) -> Prior:
    """Return the prior with alpha^2 + sigma^2 = 1 at every level, on the levels that it has."""
    return PriorInUnits(prior, variance_preserving_unit)
