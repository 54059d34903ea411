"""Batched first-order optimisation in which every image stops on its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

Objective = Callable[[Tensor], Tensor]
MakeOptimiser = Callable[[list[Tensor]], Optimizer]


def adamw(
    objective_of: Callable[[Tensor], Objective],
    start: Tensor,
    *,
    lr: float,
    max_iterations: int,
    threshold: float | Tensor,
    weight_decay: float = 0.01,
    patience: int | None = None,
    proximity: float = 0.0,
    stop_before: bool = False,
) -> Tensor:
    """Minimise each image's objective with AdamW (Loshchilov & Hutter 2019) until that image is done.

    An image is done after the step whose objective was below ``threshold``, or, with ``patience``, exceeded its
    own value of ``patience`` iterations before. Finished images leave the batch: the remaining ones do not pay for
    them, and no image's answer depends on its neighbours.

    Args:
        objective_of: maps int64 ``rows`` (images still running) to their objective, (k, ...) -> (k,).
        start: (B, ...).
        threshold: one for all images, or one each, (B,).
        proximity: weight of ||x - start||^2, which is minimised with the objective but does not count for the stop.
        stop_before: an image that is done leaves as it was before the step.

    Returns:
        The last iterates, (B, ...).
    """
    result = start.detach().clone()
    rows = torch.arange(len(start), device=start.device)
    point = result.clone().requires_grad_()

    def make(points: list[Tensor]) -> Optimizer:
        return torch.optim.AdamW(points, lr=lr, weight_decay=weight_decay)

    optimiser = make([point])
    objective = objective_of(rows)
    history: list[Tensor] = []
    for iteration in range(max_iterations):
        with torch.enable_grad():
            loss = objective(point)
            total = loss.sum() + proximity * (point - start[rows]).square().sum() if proximity > 0 else loss.sum()
            point.grad = torch.autograd.grad(total, point)[0]
        before = point.detach().clone() if stop_before else None
        optimiser.step()
        loss = loss.detach()
        done = loss < (threshold[rows] if isinstance(threshold, Tensor) else threshold)
        if patience is not None:
            history.append(loss)
            if iteration >= patience:
                done |= loss > history.pop(0)
        if not bool(done.any()):
            continue
        result[rows[done]] = (point.detach() if before is None else before)[done]
        keep = ~done
        rows = rows[keep]
        if len(rows) == 0:
            return result
        history = [values[keep] for values in history]
        (point,), optimiser = survivors([point], optimiser, keep, make)
        objective = objective_of(rows)
    result[rows] = point.detach()
    return result


def survivors(
    points: list[Tensor], optimiser: Optimizer, keep: Tensor, make: MakeOptimiser
) -> tuple[list[Tensor], Optimizer]:
    """Return the iterates and the optimiser of the images that go on, moments and step count carried over.

    Args:
        points: what is optimised, (k, ...) each.
        keep: of the k images, bool.
        make: makes the optimiser of new iterates.
    """
    remaining = [point.detach()[keep].requires_grad_() for point in points]
    successor = make(remaining)
    for old, new in zip(points, remaining, strict=True):
        successor.state[new] = {
            name: value[keep] if isinstance(value, Tensor) and value.ndim > 0 else value
            for name, value in optimiser.state[old].items()
        }
    return remaining, successor


def descend(
    objective_of: Callable[[Tensor], Objective],
    start: Tensor,
    *,
    step_size: float,
    max_iterations: int,
    threshold: Tensor,
) -> Tensor:
    """Descend each image's objective by plain gradient steps while it is at or above the image's ``threshold``.

    The stop comes before the step: an image that is below from the start stays where it is. Finished images leave the
    batch.

    Args:
        objective_of: maps int64 ``rows`` (images still running) to their objective, (k, ...) -> (k,).
        start: (B, ...).
        threshold: (B,).

    Returns:
        The last iterates, (B, ...).
    """
    result = start.detach().clone()
    rows = torch.arange(len(start), device=start.device)
    objective = objective_of(rows)
    for _ in range(max_iterations):
        with torch.enable_grad():
            point = result[rows].requires_grad_()
            loss = objective(point)
            slope = torch.autograd.grad(loss.sum(), point)[0]
        running = loss.detach() >= threshold[rows]
        if not bool(running.all()):
            rows, slope = rows[running], slope[running]
            if len(rows) == 0:
                break
            objective = objective_of(rows)
        result[rows] -= step_size * slope
    return result
