"""Batched AdamW with per-image stops against torch's AdamW on one image at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ipsolve.solvers.steps.optimise import Objective, adamw

TARGETS = torch.tensor([[0.0, 0.5], [3.0, -1.0], [0.02, 0.01]], dtype=torch.float64)
START = torch.zeros_like(TARGETS)


def objective_of(rows: Tensor) -> Objective:
    return lambda x: (x - TARGETS[rows]).square().mean(1)


def reference(row: int, iterations: int, threshold: float) -> tuple[Tensor, int]:
    x = START[row].clone().requires_grad_()
    optimiser = torch.optim.AdamW([x], lr=0.05)
    for step in range(iterations):
        optimiser.zero_grad()
        loss = (x - TARGETS[row]).square().mean()
        loss.backward()
        optimiser.step()
        if loss.item() < threshold:
            return x.detach(), step + 1
    return x.detach(), iterations


def test_each_image_is_optimised_as_if_alone_and_stops_by_itself() -> None:
    out = adamw(objective_of, START, lr=0.05, max_iterations=60, threshold=1e-3)
    stops = []
    for row in range(3):
        expected, steps = reference(row, 60, 1e-3)
        torch.testing.assert_close(out[row], expected, rtol=0, atol=1e-12)
        stops.append(steps)
    assert len(set(stops)) == 3, "the case must have images that stop at different times"


def test_an_image_may_leave_as_it_was_before_the_step() -> None:
    """What is returned then meets the threshold itself; it is what one step fewer gives."""
    out = adamw(objective_of, START, lr=0.05, max_iterations=60, threshold=1e-3, stop_before=True)
    steps = [reference(row, 60, 1e-3)[1] for row in range(3)]
    stopped = [row for row in range(3) if steps[row] < 60]
    assert stopped == [0, 2]
    for row in stopped:
        torch.testing.assert_close(out[row], reference(row, steps[row] - 1, 0.0)[0], rtol=0, atol=1e-12)
        assert objective_of(torch.tensor([row]))(out[[row]]) < 1e-3
    torch.testing.assert_close(out[1], reference(1, 60, 0.0)[0], rtol=0, atol=1e-12)


def test_finished_images_cost_nothing_more() -> None:
    seen = [0, 0, 0]

    def counting(rows: Tensor) -> Objective:
        def objective(x: Tensor) -> Tensor:
            for row in rows.tolist():
                seen[row] += 1
            return objective_of(rows)(x)

        return objective

    adamw(counting, START, lr=0.05, max_iterations=60, threshold=1e-3)
    assert seen == [reference(row, 60, 1e-3)[1] for row in range(3)]


def test_patience_stops_an_image_whose_loss_has_risen() -> None:
    calls = 0

    def rising(rows: Tensor) -> Objective:
        def objective(x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return x.sum(1) * 0 + calls

        return objective

    adamw(rising, START, lr=0.05, max_iterations=60, threshold=0.0, patience=5)
    assert calls == 6  # the first iteration that has a loss of 5 iterations before it


def test_the_start_is_returned_when_nothing_is_to_be_done() -> None:
    out = adamw(objective_of, START + 1, lr=0.05, max_iterations=0, threshold=0.0)
    torch.testing.assert_close(out, START + 1)
