"""ES-WMV on paths whose best point is known, and the fits that it stops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from ipsolve.solvers.steps.early_stopping import Render, WindowedVariance, settle

from .dense_gaussian import dense_gaussian

F64 = torch.float64
WINDOW, PATIENCE = 8, 15
RATES = torch.tensor([0.8, 0.9, 0.95], dtype=F64)


def path(k: int) -> Tensor:
    """x_k = x* + a^k e + 1e-3 a^-k n: the image is learned, at a rate of its own, and then the noise."""
    e, n = torch.tensor([1.0, 0, 0, 0], dtype=F64), torch.tensor([0, 1.0, 0, 0], dtype=F64)
    return 0.3 + RATES[:, None] ** k * e + 1e-3 * RATES[:, None] ** -k * n


def distances(steps: int) -> Tensor:
    return torch.stack([(path(k) - 0.3).norm(dim=1) for k in range(steps)])


def variances(steps: int) -> Tensor:
    """The variance of each window by its definition, at the place of its newest member."""
    xs = torch.stack([path(k) for k in range(steps)])
    result = torch.full((steps, 3), torch.inf, dtype=F64)
    for k in range(WINDOW - 1, steps):
        window = xs[k - WINDOW + 1 : k + 1]
        result[k] = ((window - window.mean(0)) ** 2).mean(2).mean(0)
    return result


def stops(steps: int = 300) -> tuple[list[int], Tensor]:
    """Return after how many reconstructions each image is done, and the best ones."""
    stopping, found, best = WindowedVariance(WINDOW, PATIENCE), [0, 0, 0], torch.zeros(3, 4, dtype=F64)
    rows = torch.arange(3)
    for k in range(steps):
        done = stopping.push(path(k)[rows])
        for row in rows[done].tolist():
            found[row] = k + 1
        best[rows] = stopping.best
        rows = rows[~done]
        if len(rows) == 0:
            break
        stopping.keep(~done)
    return found, best


def test_the_answer_is_where_the_variance_is_lowest_and_close_to_where_the_error_is() -> None:
    found, best = stops()
    lowest = variances(300).argmin(0)
    assert lowest.unique().numel() == 3, "the case must have images that stop at different times"
    for row, k in enumerate(lowest.tolist()):
        torch.testing.assert_close(best[row], path(k)[row], rtol=0, atol=0)
        assert found[row] == k + 1 + PATIENCE
        assert abs(k - int(distances(300)[:, row].argmin())) <= WINDOW


def test_nothing_is_decided_before_the_window_is_full() -> None:
    stopping = WindowedVariance(WINDOW, 1)
    for k in range(WINDOW - 1):
        assert not stopping.push(path(k)).any()
        assert torch.equal(stopping.best, path(k))


def along_the_path(rows: Tensor) -> Render:
    """A fit whose reconstructions are the path, whatever its parameters."""

    def render(points: list[Tensor], iteration: int) -> tuple[Tensor, Tensor]:
        return points[0].sum(1), path(iteration)[rows]

    return render


def adam(points: list[Tensor]) -> Optimizer:
    return torch.optim.Adam(points, lr=0.1)


def test_a_fit_is_stopped_for_each_image_by_itself() -> None:
    _, best = stops()
    start = [torch.zeros(3, 2, dtype=F64)]
    found = settle(along_the_path, start, adam, max_iterations=300, stopping=WindowedVariance(WINDOW, PATIENCE))
    torch.testing.assert_close(found, best, rtol=0, atol=0)
    # and if the iterations run out before, the best so far is kept
    cut = settle(along_the_path, start, adam, max_iterations=40, stopping=WindowedVariance(WINDOW, PATIENCE))
    torch.testing.assert_close(cut[0], best[0], rtol=0, atol=0)
    torch.testing.assert_close(cut[2], path(int(variances(40)[:, 2].argmin()))[2], rtol=0, atol=0)


def quadratic(targets: Tensor) -> Callable[[Tensor], Render]:
    def render_of(rows: Tensor) -> Render:
        def render(points: list[Tensor], iteration: int) -> tuple[Tensor, Tensor]:
            x = points[0] + points[1].sum(2)
            return (x - targets[rows]).square().sum(1), x

        return render

    return render_of


def test_images_that_leave_do_not_disturb_the_moments_of_the_others() -> None:
    """Every image of a batch ends where it ends alone, whoever left before."""
    targets = torch.tensor([[0.5, -1.0], [3.0, 8.0], [0.01, 0.0]], dtype=F64)
    start = [torch.zeros(3, 2, dtype=F64), torch.ones(3, 2, 2, dtype=F64)]

    def run(rows: Tensor) -> Tensor:
        stopping = WindowedVariance(5, 3)
        points = [point[rows] for point in start]
        return settle(quadratic(targets[rows]), points, adam, max_iterations=200, stopping=stopping)

    together = run(torch.arange(3))
    for row in range(3):
        torch.testing.assert_close(run(torch.tensor([row]))[0], together[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("iterations", [1, 7, 40])
def test_gradient_descent_on_the_image_itself_is_a_landweber_filter(iterations: int) -> None:
    """f_theta = theta from 0: what is learned of A^+ y along a singular vector is 1 - (1 - 2 lr s^2)^k."""
    p, lr = dense_gaussian(m=3, d=5), 0.2

    def render_of(rows: Tensor) -> Render:
        def render(points: list[Tensor], iteration: int) -> tuple[Tensor, Tensor]:
            return (points[0] @ p.a.T - p.y[rows]).square().sum(1), points[0]

        return render

    def descent(points: list[Tensor]) -> Optimizer:
        return torch.optim.SGD(points, lr=lr)

    start = [torch.zeros(3, 5, dtype=F64)]
    found = settle(render_of, start, descent, max_iterations=iterations, stopping=None)
    u, s, vt = torch.linalg.svd(p.a, full_matrices=False)
    learned = (1 - (1 - 2 * lr * s**2) ** iterations) * (p.y @ u) / s
    torch.testing.assert_close(found, learned @ vt, rtol=0, atol=1e-12)
