"""Schedules of score-based models in continuous time: Song et al. 2021, arXiv 2011.13456, section 3.4 and app. C."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from ipsolve.priors.schedule_spec import SCHEDULES, ScheduleSpec
from ipsolve.priors.schedules import Level, Schedule, Spacing, require_steps
from ipsolve.requests.errors import RequestError

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class GeometricVe(Schedule):
    """The variance-exploding SDE: alpha = 1, sigma = time in [sigma_min, sigma_max].

    ``levels`` are evenly spaced in log(sigma), the ``discrete_sigmas`` of ``ScoreSdeVeScheduler``, and end at the clean
    image (eq. 30). Sigmas are those of images in [-1, 1]: twice those of a paper that has images in [0, 1].
    """

    sigma_min: float
    sigma_max: float

    def level(self, time: float) -> Level:
        return Level(time, 1.0, time)

    def levels(self, num_steps: int, spacing: Spacing | None = None) -> list[Level]:
        require_steps(num_steps, spacing)
        sigmas = np.geomspace(self.sigma_max, self.sigma_min, num_steps)
        return [self.level(float(sigma)) for sigma in [*sigmas, 0.0]]

    def at_ratio(self, ratio: float) -> Level:
        return self.level(min(max(ratio, self.sigma_min), self.sigma_max))


@dataclass(frozen=True)
class VpSde(Schedule):
    """The variance-preserving SDE: alpha = exp(-t^2 (beta_max - beta_min) / 4 - t beta_min / 2), t in [0, 1] (eq. 33).

    ``time`` is 999 t, what networks of score_sde and EDM's VP preconditioning read. ``levels`` run evenly from t = 1 to
    10^-3, below which the authors do not sample (app. C), and end at the clean image.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    SCALE: ClassVar[float] = 999.0
    CLEANEST: ClassVar[float] = 1e-3

    def level(self, time: float) -> Level:
        t = time / self.SCALE
        log_alpha = -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min
        return Level(time, math.exp(log_alpha), math.sqrt(-math.expm1(2 * log_alpha)))

    def levels(self, num_steps: int, spacing: Spacing | None = None) -> list[Level]:
        require_steps(num_steps, spacing)
        times = self.SCALE * np.linspace(1.0, self.CLEANEST, num_steps)
        return [self.level(float(time)) for time in [*times, 0.0]]

    def at_ratio(self, ratio: float) -> Level:
        slope = self.beta_max - self.beta_min
        # 1 + ratio^2 = 1 / alpha^2, a quadratic equation in t; its root without cancellation
        energy = 2 * math.log1p(ratio**2) if math.isfinite(ratio) else math.inf
        t = 1.0 if math.isinf(energy) else energy / (self.beta_min + math.sqrt(self.beta_min**2 + slope * energy))
        return self.level(self.SCALE * min(max(t, self.CLEANEST), 1.0))


@SCHEDULES.register
@checked_dataclass(frozen=True, config={"extra": "forbid"})
class GeometricVeSpec(ScheduleSpec):
    """:class:`GeometricVe`, by default that of NCSN++ on CIFAR-10, for images in [-1, 1]."""

    name: ClassVar[str] = "geometric_ve"
    sigma_min: Positive = 0.02
    sigma_max: Positive = 100.0

    def __post_init__(self) -> None:
        if not self.sigma_min < self.sigma_max < math.inf:
            raise RequestError(f"sigma_min must be below sigma_max (got {self.sigma_min} and {self.sigma_max})")

    def schedule(self) -> Schedule:
        return GeometricVe(self.sigma_min, self.sigma_max)


@SCHEDULES.register
@checked_dataclass(frozen=True, config={"extra": "forbid"})
class VpSdeSpec(ScheduleSpec):
    """:class:`VpSde`."""

    name: ClassVar[str] = "vp_sde"
    beta_min: Positive = 0.1
    beta_max: Positive = 20.0

    def __post_init__(self) -> None:
        if not self.beta_min < self.beta_max < 1000:
            raise RequestError(f"beta_min must be below beta_max (got {self.beta_min} and {self.beta_max})")

    def schedule(self) -> Schedule:
        return VpSde(self.beta_min, self.beta_max)
