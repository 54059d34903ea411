"""Distilling a denoiser into a consistency function: f(x_t, t) where the probability flow from x_t ends.

Song, Dhariwal, Chen & Sutskever 2023, "Consistency Models" (arXiv 2303.01469), Algorithm 2, and Song & Dhariwal 2024,
"Improved Techniques for Training Consistency Models" (arXiv 2310.14189). In terms of u = x_t / alpha_t and r =
sigma_t / alpha_t, where every schedule is variance exploding, on levels r_0 < ... < r_N:

    u_{n+1} = x_0 + r_{n+1} eps
    u_n     = u_{n+1} + (r_n - r_{n+1}) (u_{n+1} - D(u_{n+1})) / r_{n+1}     the flow, by Euler's or Heun's rule
    loss    = lambda_n d(f(u_{n+1}), f_target(u_n))

Consistency training, without a teacher, takes u_n = x_0 + r_n eps instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ipsolve.priors.networks.prediction import Prediction
from ipsolve.priors.schedules import Level, Schedule

# x_t (B, ...) at the levels of a grid with these numbers, (B,) int64, -> an estimate of x_0 (B, ...)
Estimate = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Grid:
    """N + 1 levels from the cleanest to the noisiest, each (N + 1,) float64: times, alpha_t, sigma_t."""

    time: Tensor
    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, schedule: Schedule, intervals: int, rho: float = 7.0) -> Grid:
        """Return levels even in r^(1 / rho) between the ends of a schedule (2303.01469, section 5)."""
        ends = (schedule.thousandth(1).ratio, schedule.thousandth(1000).ratio)
        if math.isinf(ends[1]):  # pure noise, from which the flow in terms of r cannot start
            ends = (ends[0], schedule.thousandth(999).ratio)
        roots = torch.linspace(ends[0] ** (1 / rho), ends[1] ** (1 / rho), intervals + 1, dtype=torch.float64)
        levels = [schedule.at_ratio(float(root) ** rho) for root in roots]
        return cls(*torch.tensor([tuple(level) for level in levels], dtype=torch.float64).T.contiguous())

    @property
    def ratio(self) -> Tensor:
        """sigma_t / alpha_t, (N + 1,)."""
        return self.sigma / self.alpha

    def to(self, device: torch.device) -> Grid:
        return Grid(self.time.to(device), self.alpha.to(device), self.sigma.to(device))

    def noisy(self, x_0: Tensor, noise: Tensor, n: Tensor) -> Tensor:
        """Return x_t = alpha_t x_0 + sigma_t noise of each row at level n, (B, ...), (B, ...), (B,) -> (B, ...)."""
        return column(self.alpha[n], x_0) * x_0 + column(self.sigma[n], x_0) * noise

    def flow(self, estimate: Estimate, x: Tensor, n: Tensor, heun: bool) -> Tensor:
        """Follow the probability flow from level n + 1 to level n: one step of Euler's rule (DDIM), or of Heun's."""
        start, end = (column(self.ratio[level], x) for level in (n + 1, n))
        alphas = [column(self.alpha[level], x) for level in (n + 1, n)]
        u = x / alphas[0]
        slope = (u - estimate(x, n + 1)) / start
        ahead = u + (end - start) * slope
        if heun:
            slope = (slope + (ahead - estimate(alphas[1] * ahead, n)) / end) / 2
            ahead = u + (end - start) * slope
        return alphas[1] * ahead


def read_rows(prediction: Prediction, grid: Grid, x: Tensor, out: Tensor, n: Tensor) -> Tensor:
    """Return the estimate of x_0 in the output of a network, each row at a level of its own, (B, ...)."""
    level = [column(values[n], x) for values in (grid.time, grid.alpha, grid.sigma)]
    return prediction.clean(x, out, Level(*level))  # type: ignore[arg-type]  # arithmetic goes row by row as well


def column(values: Tensor, like: Tensor) -> Tensor:
    """Return one number for each row, (B,), so that it multiplies (B, ...) in its dtype."""
    return values.to(like.dtype).reshape(-1, *(1,) * (like.ndim - 1))


def pseudo_huber(difference: Tensor) -> Tensor:
    """Return sqrt(|d|^2 + c^2) - c of each row, c = 0.00054 sqrt(numbers of a row) (2310.14189, section 3.3)."""
    c = 0.00054 * math.sqrt(difference[0].numel())
    return (difference.flatten(1).square().sum(1) + c**2).sqrt() - c


def mean_squared(difference: Tensor) -> Tensor:
    """Return the mean of the squares of each row."""
    return difference.flatten(1).square().mean(1)


METRICS = {"pseudo_huber": pseudo_huber, "squared": mean_squared}


def draw_levels(grid: Grid, uniform: Tensor, lognormal: bool) -> Tensor:
    """Return the number of an interval for each of ``uniform`` numbers in [0, 1), (B,) -> (B,) int64.

    All are as likely, or those near ln r ~ N(-1.1, 2^2) are the likelier (2310.14189, section 3.4).
    """
    intervals = len(grid.time) - 1
    if not lognormal:
        return (uniform * intervals).long().clamp(max=intervals - 1)
    cumulative = torch.special.erf((grid.ratio.log() + 1.1) / (2 * math.sqrt(2)))
    shares = (cumulative - cumulative[0]) / (cumulative[-1] - cumulative[0])
    return (torch.searchsorted(shares, uniform.double(), right=True) - 1).clamp(0, intervals - 1)


def num_intervals(step: int, steps: int, first: int, last: int) -> int:
    """Return N at a step: doubled from ``first`` to ``last`` in stretches of one length (2310.14189, section 3.4)."""
    doublings = math.floor(math.log2(last / first)) + 1
    return int(min(first * 2 ** (step * doublings // max(steps, 1)), last))


def consistency_loss(
    student: Estimate,
    target: Estimate,
    teacher: Estimate | None,
    grid: Grid,
    x_0: Tensor,
    noise: Tensor,
    n: Tensor,
    *,
    metric: str = "pseudo_huber",
    heun: bool = True,
    weighted: bool = True,
) -> Tensor:
    """Return the loss of each row, (B,).

    Args:
        student: f, which learns.
        target: f of the goal (2303.01469: an average of the student; 2310.14189: the student); it gets no gradient.
        teacher: the denoiser whose flow is followed; None: the noise that was added is taken away, which is
            consistency training.
        grid: N + 1 levels.
        x_0: clean states, (B, ...).
        noise: N(0, I), (B, ...).
        n: intervals, (B,) int64 in [0, N).
        metric: ``pseudo_huber`` or ``squared``.
        heun: the rule of the teacher's step; Euler's is half as dear.
        weighted: lambda_n = 1 / (r_{n+1} - r_n) (2310.14189, section 3.2), else 1.
    """
    above = grid.noisy(x_0, noise, n + 1)
    with torch.no_grad():
        below = grid.noisy(x_0, noise, n) if teacher is None else grid.flow(teacher, above, n, heun)
        goal = target(below, n)
    losses = METRICS[metric](student(above, n + 1) - goal)
    return losses / (grid.ratio[n + 1] - grid.ratio[n]).to(losses.dtype) if weighted else losses
