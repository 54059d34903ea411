"""Every image stands alone: the operator, the measurement and A^+ of an image do not depend on its batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ipsolve.operators import LinearOperator, Operator, OperatorSpec, parse_task
from ipsolve.operators.noise import Gaussian
from ipsolve.operators.tasks import Task
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.problem import pose
from ipsolve.randomness import image_rng

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


def measured(task: Task, x: Tensor, seed: int, ids: list[str]) -> Tensor:
    white = GaussianMixture.isotropic(torch.ones(1), torch.zeros(1, x[0].numel()), 1.0)
    return pose(task, x, MixturePrior(white, tuple(x.shape[1:])), seed, ids).problem.y


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
    task = Task(spec, Gaussian(noise_std=0.1))
    y = measured(task, x, 0, ids)
    order = torch.tensor([2, 0, 1])
    shuffled = measured(task, x[order], 0, [ids[i] for i in order])
    torch.testing.assert_close(shuffled, y[order], **SAME)
    assert not torch.equal(measured(task, x, 1, ids), y)


@pytest.mark.parametrize("task", RANDOM, ids=lambda task: "-".join(map(str, task.values())))
def test_random_operators_differ_between_images_and_seeds(task: dict[str, object], x: Tensor) -> None:
    many = [str(i) for i in range(8)]
    same_image = x[:1].expand(8, -1, -1, -1)
    y = measured(parse_task(task), same_image, 0, many)
    assert len(torch.unique(y.flatten(1), dim=0)) >= 7  # two random boxes may meet
    assert not torch.equal(measured(parse_task(task), same_image, 1, many), y)


def test_theta_is_all_that_is_random(spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor) -> None:
    """A_theta of the drawn theta is the drawn operator, also where theta was kept for some images only."""
    family = spec.family(tuple(x.shape[1:]), x.dtype)
    theta = family.parameters(image_rng(0, ids, "operator"))
    assert torch.equal(family.at(theta).forward(x), draw(spec, ids).forward(x))
    rows = torch.tensor([2, 0])
    kept = family.at({name: values[rows] for name, values in theta.items()}).forward(x[rows])
    torch.testing.assert_close(kept, family.at(theta).forward(x)[rows], **SAME)


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
def test_a_blind_operator_is_differentiable_in_theta(boundary: str, ids: list[str], x: Tensor) -> None:
    """A blur is linear in its kernel: <dA(x)/dk, k> = A(x)."""
    spec = parse_task({"operator": "motion_blur", "kernel_size": 3, "boundary": boundary}).operator
    family = spec.family(tuple(x.shape[1:]), x.dtype)
    kernel = family.parameters(image_rng(0, ids, "operator"))["kernel"].requires_grad_()
    y = family.at({"kernel": kernel}).forward(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), kernel)
    assert spec.blind
    torch.testing.assert_close((gradient * kernel).sum((1, 2)), 2 * y.square().sum((1, 2, 3)), **SAME)
