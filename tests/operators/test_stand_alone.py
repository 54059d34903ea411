"""Every image stands alone: the operator, the measurement and A^+ of an image do not depend on its batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ipsolve.operators import LinearOperator, Operator, OperatorSpec, parse_task
from ipsolve.operators.noise import Gaussian
from ipsolve.problem import measure

Draw = Callable[..., Operator]
SAME = {"rtol": 1e-10, "atol": 1e-10}  # float64; BLAS and FFT may sum a batch in another order
RANDOM = [
    {"operator": "random_inpainting"},
    {"operator": "random_inpainting", "drop_rate": 0.5},
    {"operator": "box_inpainting", "position": "random", "box": 4},
    {"operator": "motion_blur", "kernel_size": 7},
    {"operator": "motion_blur", "kernel_size": 7, "boundary": "circular"},
    {"operator": "compressed_sensing"},
]


def results(operator: Operator, x: Tensor) -> list[Tensor]:
    y = operator.forward(x)
    if not isinstance(operator, LinearOperator):
        return [y]
    return [y, operator.adjoint(y), operator.pinv(y, 0.1), operator.prox(x.flip(-1), y, 0.1)]


def test_a_row_of_a_batch_is_a_batch_of_one(spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor) -> None:
    together = results(draw(spec, ids), x)
    for i, image_id in enumerate(ids):
        alone = results(draw(spec, [image_id]), x[i : i + 1])
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[i], **SAME)


def test_select_keeps_rows(spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor) -> None:
    rows = torch.tensor([2, 0])
    operator = draw(spec, ids)
    chosen = operator.select(rows)
    assert (chosen.image_shape, chosen.measurement_shape) == (operator.image_shape, operator.measurement_shape)
    assert (chosen.support() is None) == (operator.support() is None)
    assert torch.equal(chosen.num_measurements(2), operator.num_measurements(3)[rows])
    for some, all_of_them in zip(results(chosen, x[rows]), results(operator, x), strict=True):
        torch.testing.assert_close(some, all_of_them[rows], **SAME)


def test_a_measurement_is_a_function_of_seed_and_image(spec: OperatorSpec, ids: list[str], x: Tensor) -> None:
    noise = Gaussian(noise_std=0.1)
    y = measure(spec, noise, x, 0, ids)[1].y
    order = torch.tensor([2, 0, 1])
    shuffled = measure(spec, noise, x[order], 0, [ids[i] for i in order])[1].y
    torch.testing.assert_close(shuffled, y[order], **SAME)
    assert not torch.equal(measure(spec, noise, x, 1, ids)[1].y, y)


@pytest.mark.parametrize("task", RANDOM, ids=lambda task: "-".join(map(str, task.values())))
def test_random_operators_differ_between_images_and_seeds(task: dict[str, object], x: Tensor) -> None:
    spec, noise = parse_task(task)
    many = [str(i) for i in range(8)]
    same_image = x[:1].expand(8, -1, -1, -1)
    y = measure(spec, noise, same_image, 0, many)[1].y
    assert len(torch.unique(y.flatten(1), dim=0)) >= 7  # two random boxes may meet
    assert not torch.equal(measure(spec, noise, same_image, 1, many)[1].y, y)
