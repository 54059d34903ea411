"""Consistency distillation where the flow is known.

x_0 ~ N(0, c I): E[x_0 | x_t] = c alpha / v x_t, v = alpha^2 c + sigma^2, and the flow from x_t ends at sqrt(c / v) x_t.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ipsolve.learning.consistency import (
    Estimate,
    Grid,
    column,
    consistency_loss,
    draw_levels,
    mean_squared,
    num_intervals,
    pseudo_huber,
)
from ipsolve.priors import Edm, FlowMatching, Schedule, scaled_linear

C = 0.3
SCHEDULES: dict[str, Schedule] = {
    "vp": scaled_linear(0.00085, 0.012),
    "ve": Edm(sigma_min=0.02, sigma_max=20.0),
    "flow": FlowMatching(),
}


def gaussian(grid: Grid, kind: str) -> Estimate:
    """Return the exact denoiser, or where the exact flow ends (at the clean image), of N(0, C I)."""
    v = grid.alpha**2 * C + grid.sigma**2
    gain = C * grid.alpha / v if kind == "mean" else (C / v).sqrt()
    return lambda x, n: column(gain[n], x) * x


def draws(seed: int = 0, count: int = 512) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, count, 3, generator=generator, dtype=torch.float64)
    return C**0.5 * x, noise


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_step_of_the_flow_is_that_of_the_gaussian(name: str) -> None:
    """u_n = sqrt((c + r_n^2) / (c + r_{n+1}^2)) u_{n+1}; an error of third order with Heun's rule, else of second."""
    errors = {}
    for intervals in (200, 400):
        grid = Grid.of(SCHEDULES[name], intervals)
        n = torch.full((512,), intervals // 2 - 1)
        x = grid.noisy(*draws(), n + 1)
        u = x / column(grid.alpha[n + 1], x)
        exact = column(((C + grid.ratio[n] ** 2) / (C + grid.ratio[n + 1] ** 2)).sqrt() * grid.alpha[n], x) * u
        for heun in (False, True):
            found = grid.flow(gaussian(grid, "mean"), x, n, heun)
            errors[heun, intervals] = float((found - exact).abs().max())
    assert errors[False, 200] / errors[False, 400] == pytest.approx(4, rel=0.1)
    assert errors[True, 200] / errors[True, 400] == pytest.approx(8, rel=0.1)


@pytest.mark.parametrize("teaches", [True, False])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_flow_of_the_teacher_is_the_minimum(name: str, teaches: bool) -> None:
    """The gradient over a gain of f at one level is 0 there; at that of the mean, or of the identity, it is not.

    Without a teacher in expectation only (2303.01469, theorem 2): the step follows E[x_0 | x_t], which the noise is of.
    """
    grid = Grid.of(SCHEDULES[name], 320 if teaches else 640)
    exact, mean = gaussian(grid, "flow"), gaussian(grid, "mean")
    n = torch.full((200_000,), len(grid.time) // 2)
    x_0, noise = draws(count=len(n))

    def slope(base: Estimate) -> float:
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        student, teacher = lambda x, n: scale * base(x, n), mean if teaches else None
        losses = consistency_loss(student, exact, teacher, grid, x_0, noise, n, metric="squared")
        return float(torch.autograd.grad(losses.mean(), scale)[0])

    far = min(abs(slope(mean)), abs(slope(lambda x, n: x / column(grid.alpha[n], x))))
    assert abs(slope(exact)) < (1e-3 if teaches else 0.05) * far


def test_no_gradient_goes_into_the_goal() -> None:
    grid = Grid.of(SCHEDULES["vp"], 10)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    x_0, noise = draws(count=4)
    n = torch.tensor([0, 3, 5, 9])
    losses = consistency_loss(lambda x, n: x, lambda x, n: weight * x, lambda x, n: weight * x, grid, x_0, noise, n)
    assert losses.shape == (4,)
    assert not losses.requires_grad


@pytest.mark.parametrize("name", SCHEDULES)
def test_grids_reach_from_end_to_end(name: str) -> None:
    schedule = SCHEDULES[name]
    grid = Grid.of(schedule, 18)
    assert len(grid.ratio) == 19
    assert (grid.ratio.diff() > 0).all()
    assert float(grid.ratio[0]) == pytest.approx(schedule.thousandth(1).ratio, rel=1e-9)
    assert grid.ratio.isfinite().all()
    roots = grid.ratio ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(18), rtol=1e-6, atol=0)


def test_levels_are_drawn_as_they_should() -> None:
    grid = Grid.of(SCHEDULES["ve"], 10)
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    even = draw_levels(grid, uniform, lognormal=False).bincount(minlength=10) / 100_000
    torch.testing.assert_close(even, torch.full((10,), 0.1), atol=1e-4, rtol=0)
    found = draw_levels(grid, uniform, lognormal=True).bincount(minlength=10).double() / 100_000
    normal = torch.distributions.Normal(torch.tensor(-1.1, dtype=torch.float64), 2.0)
    shares = normal.cdf(grid.ratio.log()).diff()
    torch.testing.assert_close(found, shares / shares.sum(), atol=1e-4, rtol=0)


def test_intervals_are_doubled() -> None:
    found = [num_intervals(step, 400, 10, 80) for step in range(400)]
    assert [found[0], found[99], found[100], found[200], found[399]] == [10, 10, 20, 40, 80]
    assert {num_intervals(step, 50, 18, 18) for step in range(50)} == {18}


def test_metrics() -> None:
    d = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(pseudo_huber(d), torch.tensor([5.0, 0.0], dtype=torch.float64), atol=2e-3, rtol=0)
    torch.testing.assert_close(mean_squared(d), torch.tensor([12.5, 0.0], dtype=torch.float64))
