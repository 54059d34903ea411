"""When to stop a fit that learns the image first and its noise after: ES-WMV.

Wang, Li, Zhuang, Chen, Liang & Sun 2023, "Early Stopping for Deep Image Prior" (TMLR, arXiv 2112.06074), Algorithm 1.
The variance of the last W reconstructions falls while the image is learned and rises when noise is: the reconstruction
at its minimum is the answer, found once there was no lower one for P iterations. Only reconstructions are looked at:
neither the truth nor a noise level is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ipsolve.solvers.steps.optimise import MakeOptimiser, survivors

Render = Callable[[list[Tensor], int], tuple[Tensor, Tensor]]


class WindowedVariance:
    """The windowed moving variance of each image's reconstructions, and the reconstruction at its minimum.

    VAR = mean over the window of ||x_w - mean||^2 / n. Memory is that of ``window`` reconstructions.

    Args:
        window: W.
        patience: P.
    """

    best: Tensor  # the reconstructions at the lowest variance so far, (k, ...); the newest while the window fills

    def __init__(self, window: int, patience: int) -> None:
        self.window, self.patience, self.count = window, patience, 0

    def push(self, x: Tensor) -> Tensor:
        """Take the next reconstruction of each image, (k, ...); return whose fit is over, (k,) bool."""
        x = x.detach()
        if self.count == 0:
            self._ring = x.new_empty(len(x), self.window, x[0].numel())
            self._lowest = x.new_full((len(x),), torch.inf)
            self._waited = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self._ring[:, self.count % self.window] = x.flatten(1)
        self.count += 1
        if self.count < self.window:
            self.best = x
            return torch.zeros_like(self._waited, dtype=torch.bool)
        variance = self._ring.var(1, correction=0).mean(1)
        lower = variance < self._lowest
        self._lowest = torch.where(lower, variance, self._lowest)
        self._waited = torch.where(lower, 0, self._waited + 1)
        self.best = torch.where(lower.reshape(-1, *[1] * (x.ndim - 1)), x, self.best)
        return self._waited >= self.patience

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the images, a mask (k,)."""
        self._ring, self.best = self._ring[rows], self.best[rows]
        self._lowest, self._waited = self._lowest[rows], self._waited[rows]


def settle(
    render_of: Callable[[Tensor], Render],
    start: Sequence[Tensor],
    make: MakeOptimiser,
    *,
    max_iterations: int,
    stopping: WindowedVariance | None,
) -> Tensor:
    """Minimise each image's loss and return its reconstruction, (B, ...): where its variance was lowest.

    Images whose fit is over leave the batch. Without ``stopping`` all iterations are made, and the reconstruction is
    that of the last parameters, rendered once more.

    Args:
        render_of: maps int64 ``rows`` (images still running) to what takes their parameters and the iteration and
            returns their losses (k,) and reconstructions (k, ...).
        start: the parameters, (B, ...) each.
        make: makes the optimiser of parameters; it must treat every entry on its own, or every image.
    """
    points = [point.detach().clone().requires_grad_() for point in start]
    rows, optimiser = torch.arange(len(points[0]), device=points[0].device), make(points)
    render = render_of(rows)
    result: Tensor | None = None
    for iteration in range(max_iterations):
        with torch.enable_grad():
            loss, x = render(points, iteration)
            slopes = torch.autograd.grad(loss.sum(), points)
        for point, slope in zip(points, slopes, strict=True):
            point.grad = slope
        optimiser.step()
        if stopping is None:
            continue
        done = stopping.push(x)
        if not bool(done.any()):
            continue
        result = x.new_empty(len(start[0]), *x.shape[1:]).detach() if result is None else result
        result[rows[done]] = stopping.best[done]
        rows = rows[~done]
        if len(rows) == 0:
            return result
        stopping.keep(~done)
        points, optimiser = survivors(points, optimiser, ~done, make)
        render = render_of(rows)
    if stopping is None:
        with torch.no_grad():
            return render(points, max_iterations)[1]
    if result is None:
        return stopping.best
    result[rows] = stopping.best
    return result
