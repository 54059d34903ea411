"""Noise schedules: x_t = alpha_t x_0 + sigma_t eps, whatever (alpha, sigma) may be.

Variance preserving, variance exploding and flow matching differ in these two functions alone; solvers are written
for any of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ipsolve.requests.errors import RequestError

Spacing = Literal["leading", "trailing", "linspace"]

# stands for the ratio 0 of a clean entry where logarithms are taken, its inverse for pure noise
_SMALLEST_RATIO = 1e-30


class Level(NamedTuple):
    """One noise level. ``time`` is what the denoiser was trained to read; x_t = alpha x_0 + sigma eps."""

    time: float
    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """sigma / alpha: the noise std of x_t / alpha, the level in variance-exploding terms; inf for pure noise."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf


class Schedule(ABC):
    """A noise schedule."""

    @abstractmethod
    def level(self, time: float) -> Level:
        """Return the level at ``time`` (fractional times allowed)."""

    @abstractmethod
    def levels(self, num_steps: int, spacing: Spacing | None = None) -> list[Level]:
        """Return ``num_steps`` levels from the noisiest down, and after them the level at which sampling ends.

        Args:
            spacing: how S of the N times of a table are chosen (Lin et al. 2024, arXiv 2305.08891, Table 2).
                ``leading``, floor(i N / S) and an offset, leaves the noisiest out; ``trailing``, N - 1 - i N / S, the
                cleanest; ``linspace``, i (N - 1) / (S - 1), has both: the even spacing of guided-diffusion, on which
                DPS, DSG and ILVR run. None is the schedule's own.

        Raises:
            RequestError: ``num_steps`` or ``spacing`` is not possible on this schedule.
        """

    def thousandth(self, index: int) -> Level:
        """Return level ``index`` of 1000, 1 the cleanest: papers state times on such a grid."""
        return self.levels(1000)[1000 - index]

    @abstractmethod
    def at_ratio(self, ratio: float) -> Level:
        """Return the level whose sigma / alpha is ``ratio`` (clipped to the range of the schedule)."""


@dataclass(frozen=True)
class DiscreteSchedule(Schedule):
    """A table of cumulative alphas: alpha_t = sqrt(alphas_cumprod[t]), sigma_t = sqrt(1 - alphas_cumprod[t]).

    ``levels`` follows, unless told otherwise, DDIM's leading spacing with an offset, the grid of the CompVis sampler:
    times floor(i N / S) + offset, so that S = 500, N = 1000, offset 1 gives 999, 997, ..., 1. Sampling ends at
    entry 0 of the table, or at the clean image if ``end_clean`` (Song et al. 2021, arXiv 2010.02502;
    ``set_alpha_to_one`` in diffusers).
    With as many steps as there are times every time is used and the end is clean. Between two times log(sigma / alpha)
    is linear, so that ``at_ratio`` inverts ``level`` exactly.
    """

    alphas_cumprod: tuple[float, ...]
    steps_offset: int = 1
    end_clean: bool = False

    @cached_property
    def _log_ratios(self) -> NDArray[np.float64]:
        table = np.asarray(self.alphas_cumprod)
        log_variances = np.full(table.shape, 2 * math.log(_SMALLEST_RATIO))
        np.log1p(-table, out=log_variances, where=table < 1)
        log_signals = np.full(table.shape, 2 * math.log(_SMALLEST_RATIO))
        np.log(table, out=log_signals, where=table > 0)
        return np.asarray(0.5 * (log_variances - log_signals))

    @cached_property
    def _times(self) -> NDArray[np.float64]:
        return np.arange(len(self.alphas_cumprod), dtype=np.float64)

    def level(self, time: float) -> Level:
        if time < 0:
            return Level(-1.0, 1.0, 0.0)
        if time == 0 and self.alphas_cumprod[0] == 1:
            return Level(0.0, 1.0, 0.0)
        if time >= self._times[-1] and self.alphas_cumprod[-1] == 0:
            return Level(float(self._times[-1]), 0.0, 1.0)
        ratio = math.exp(np.interp(time, self._times, self._log_ratios))
        alpha = 1 / math.hypot(1.0, ratio)
        return Level(float(time), alpha, ratio * alpha)

    def levels(self, num_steps: int, spacing: Spacing | None = None) -> list[Level]:
        n = len(self.alphas_cumprod)
        if not 1 <= num_steps <= n:
            raise RequestError(f"num_steps={num_steps} is not possible on this schedule; allowed: 1 to {n}")
        steps = range(num_steps)
        if spacing == "linspace":
            times = [round(time) for time in np.linspace(0, n - 1, num_steps)[::-1].tolist()]
        elif spacing == "trailing":
            times = [round(n - i * n / num_steps) - 1 for i in steps]
        else:
            offset = self.steps_offset if num_steps < n else 0
            times = [min(i * n // num_steps + offset, n - 1) for i in reversed(steps)]
        end = -1 if self.end_clean or times[-1] == 0 else 0
        return [self.level(time) for time in [*times, end]]

    def thousandth(self, index: int) -> Level:
        return self.level(index * len(self.alphas_cumprod) / 1000 - 1)

    def at_ratio(self, ratio: float) -> Level:
        logarithm = math.log(min(max(ratio, _SMALLEST_RATIO), 1 / _SMALLEST_RATIO))
        return self.level(float(np.interp(logarithm, self._log_ratios, self._times)))


@dataclass(frozen=True)
class EqualDecrements(DiscreteSchedule):
    """A table that starts clean, alphas_cumprod[0] = 1, with the time grid of MCGDiff's Gaussian mixture experiment.

    Cardoso et al. 2024 (arXiv 2308.07983) walk up the table and keep a time whenever alpha has fallen by
    (1 - alpha_end) / (S - 1) since the last one kept, where alpha_end is the first below 1/100; the remaining of the
    S steps are spread evenly over the times left. Sampling ends at entry 0.

    This is the grid that their script arrives at, the same for every measurement. The script means to add the times
    at which sigma_t / alpha_t = sigma_y / s_i for the singular values s_i of A, but a flattened table makes it look
    them up in the wrong place, and they only ever count in the S - 1 (as one). Its ``n`` counts levels: n = S + 1.
    """

    def levels(self, num_steps: int, spacing: Spacing | None = None) -> list[Level]:
        require_steps(num_steps, spacing)
        alphas = np.sqrt(np.asarray(self.alphas_cumprod))
        last = len(alphas) - 1
        end = int(np.argmax(alphas < 0.01)) or last
        decrement = (1 - alphas[end]) / max(num_steps - 1, 1)
        kept = [0]
        for time in range(1, end):
            if len(kept) < num_steps and alphas[kept[-1]] - alphas[time] >= decrement:
                kept.append(time)
        left = num_steps + 1 - len(kept)
        if not 1 <= left <= last - kept[-1]:
            raise RequestError(
                f"num_steps={num_steps} is not possible on this schedule; allowed: 1 to about {last // 2}"
            )
        rest = np.ceil(np.linspace(kept[-1], last, left + 1))[1:].astype(int).tolist()
        return [self.level(time) for time in reversed([*kept, *rest])]


@dataclass(frozen=True)
class Edm(Schedule):
    """The variance-exploding schedule of EDM: alpha = 1, sigma = time in [sigma_min, sigma_max].

    ``levels`` are evenly spaced in sigma^(1 / rho) and end at the clean image (Karras et al. 2022, arXiv 2206.00364,
    eq. 5).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def level(self, time: float) -> Level:
        return Level(time, 1.0, time)

    def levels(self, num_steps: int, spacing: Spacing | None = None) -> list[Level]:
        require_steps(num_steps, spacing)
        roots = np.linspace(self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho), num_steps)
        return [self.level(float(sigma)) for sigma in [*roots**self.rho, 0.0]]

    def at_ratio(self, ratio: float) -> Level:
        return self.level(min(max(ratio, self.sigma_min), self.sigma_max))


@dataclass(frozen=True)
class FlowMatching(Schedule):
    """The straight path of flow matching: alpha = 1 - t, sigma = t, t in [0, 1] (Lipman et al. 2023, arXiv 2210.02747).

    ``levels`` run evenly from pure noise, t = 1, to the clean image, t = 0; ``shift`` above 1 spends more of them on
    high noise: t' = shift t / (1 + (shift - 1) t) (Esser et al. 2024, arXiv 2403.03206, eq. 23). ``start`` below 1 is
    where they begin, and the most noise of ``at_ratio``: of a network that was never shown more.
    """

    shift: float = 1.0
    start: float = 1.0

    def level(self, time: float) -> Level:
        return Level(time, 1 - time, time)

    def levels(self, num_steps: int, spacing: Spacing | None = None) -> list[Level]:
        require_steps(num_steps, spacing)
        times = [1 - i / num_steps for i in range(num_steps + 1)]
        return [self.level(self.start * (self.shift * t / (1 + (self.shift - 1) * t))) for t in times]

    def at_ratio(self, ratio: float) -> Level:
        return self.level(self.start if math.isinf(ratio) else min(ratio / (1 + ratio), self.start))


def require_steps(num_steps: int, spacing: Spacing | None) -> None:
    """Raise RequestError for no steps, or for a spacing: only a table of times has one to choose."""
    if num_steps < 1:
        raise RequestError(f"num_steps={num_steps} is not possible on this schedule; allowed: 1 and more")
    if spacing is not None:
        what = f"timestep_spacing={spacing} is of schedules that are a table of times"
        raise RequestError(f"{what}, which this one is not; allowed: null")


def scaled_linear(
    beta_start: float, beta_end: float, num_timesteps: int = 1000, steps_offset: int = 1, end_clean: bool = False
) -> DiscreteSchedule:
    """Return the schedule of latent diffusion: beta = linspace(sqrt(start), sqrt(end), N)^2 (Rombach et al. 2022)."""
    betas = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), num_timesteps) ** 2
    return from_betas(betas, steps_offset, end_clean)


def linear(
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    num_timesteps: int = 1000,
    steps_offset: int = 0,
    end_clean: bool = True,
) -> DiscreteSchedule:
    """Return the schedule of DDPM: beta = linspace(start, end, N) (Ho et al. 2020, arXiv 2006.11239)."""
    return from_betas(np.linspace(beta_start, beta_end, num_timesteps), steps_offset, end_clean)


def cosine(num_timesteps: int = 1000, steps_offset: int = 0, end_clean: bool = True) -> DiscreteSchedule:
    """Return the cosine schedule, beta capped at 0.999 (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17)."""
    u = np.arange(num_timesteps + 1) / num_timesteps
    cumulative = np.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return from_betas(np.minimum(1 - cumulative[1:] / cumulative[:-1], 0.999), steps_offset, end_clean)


def mcgdiff(beta_start: float = 0.02, beta_end: float = 1e-4, num_timesteps: int = 1000) -> EqualDecrements:
    """Return the schedule of MCGDiff's Gaussian mixture experiment: entry 0 is clean and beta runs from large to small.

    alphas_cumprod[t] = prod_{s <= t} (1 - beta_s), beta = linspace(start, end, N - 1): the reverse of DDPM's order.
    """
    table = np.cumprod(1 - np.linspace(beta_start, beta_end, num_timesteps - 1))
    return EqualDecrements((1.0, *table.tolist()))


def from_betas(betas: NDArray[np.float64], steps_offset: int = 0, end_clean: bool = True) -> DiscreteSchedule:
    """Return the schedule with alphas_cumprod[t] = prod_{s <= t} (1 - beta_s); ``betas`` is (N,), each in (0, 1)."""
    return DiscreteSchedule(tuple(np.cumprod(1 - betas).tolist()), steps_offset, end_clean)


def zero_terminal_snr(schedule: DiscreteSchedule, last: float = 0.0) -> DiscreteSchedule:
    """Return the schedule with sqrt(alphas_cumprod) shifted and scaled to end at 0, its first entry as it was.

    Lin et al. 2024 (arXiv 2305.08891, algorithm 1). ``last`` takes the place of the 0.
    """
    alphas = np.sqrt(np.asarray(schedule.alphas_cumprod))
    table = ((alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])) ** 2
    return replace(schedule, alphas_cumprod=(*table[:-1].tolist(), last))
