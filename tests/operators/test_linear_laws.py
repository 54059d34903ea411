"""Laws of linear operators, in float64, for every registered one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ipsolve.conventions import norm, per_image
from ipsolve.operators import LinearOperator, Operator, OperatorSpec

from .conftest import shape_for

Draw = Callable[..., LinearOperator]
Measurements = Callable[[Operator], Tensor]

WEIGHTS = [1e-3, 0.1, 10.0, torch.tensor([0.01, 0.3, 5.0], dtype=torch.float64)]


def inner(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).flatten(1).sum(1)


def assert_small(error: Tensor, scale: Tensor, tolerance: float) -> None:
    assert (norm(error) <= tolerance * norm(scale)).all(), f"{norm(error)} against {norm(scale)}"


def test_is_what_its_spec_says(linear_spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor) -> None:
    operator = draw(linear_spec, ids)
    y = operator.forward(x)
    assert isinstance(operator, LinearOperator)
    assert operator.image_shape == x.shape[1:]
    assert y.shape == (len(x), *operator.measurement_shape)
    assert y.dtype == x.dtype


def test_forward_is_linear(linear_spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor) -> None:
    operator = draw(linear_spec, ids)
    u = x.flip(-1)
    expected = 2 * operator.forward(x) - 3 * operator.forward(u)
    assert_small(operator.forward(2 * x - 3 * u) - expected, x, 1e-13)


def test_adjoint(
    linear_spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor, random_measurement: Measurements
) -> None:
    operator = draw(linear_spec, ids)
    y = random_measurement(operator)
    torch.testing.assert_close(inner(operator.forward(x), y), inner(x, operator.adjoint(y)), rtol=1e-11, atol=1e-11)


def test_autograd_of_forward_is_the_adjoint(
    linear_spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor, random_measurement: Measurements
) -> None:
    operator = draw(linear_spec, ids)
    y = random_measurement(operator)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(inner(operator.forward(x), y).sum(), x)
    torch.testing.assert_close(gradient, operator.adjoint(y), rtol=1e-11, atol=1e-11)


def test_autograd_passes_through_pinv(
    linear_spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor, random_measurement: Measurements
) -> None:
    """<w, A^+ y> has the gradient (A^+)^T w, found here by finite differences along one direction."""
    operator = draw(linear_spec, ids)
    y, step = random_measurement(operator), random_measurement(operator).flip(-1)
    y.requires_grad_()
    (gradient,) = torch.autograd.grad(inner(operator.pinv(y, 0.1), x).sum(), y)
    # A^+ is linear, so a difference is exact
    expected = inner(operator.pinv(y + step, 0.1) - operator.pinv(y, 0.1), x)
    torch.testing.assert_close(inner(gradient, step), expected, rtol=1e-7, atol=1e-9)


def test_pinv_inverts_what_is_seen(invertible_spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor) -> None:
    """A A^+ A = A."""
    operator = draw(invertible_spec, ids)
    y = operator.forward(x)
    assert_small(operator.forward(operator.pinv(y)) - y, y, 1e-9)


def test_pinv_has_no_part_of_its_own(
    invertible_spec: OperatorSpec, draw: Draw, ids: list[str], random_measurement: Measurements
) -> None:
    """A^+ A A^+ = A^+."""
    operator = draw(invertible_spec, ids)
    z = operator.pinv(random_measurement(operator))
    assert_small(operator.pinv(operator.forward(z)) - z, z, 1e-8)


def test_projection_fits_the_data(invertible_spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor) -> None:
    """A ((I - A^+ A) u + A^+ y) = y for y in the range, whatever u is; the projection is that point of prox."""
    operator = draw(invertible_spec, ids)
    y = operator.forward(x)
    u = x.flip(-1)
    projected = u - operator.pinv(operator.forward(u)) + operator.pinv(y)
    assert_small(operator.forward(projected) - y, y, 1e-9)
    assert_small(operator.forward(operator.prox(u, y)) - y, y, 1e-9)


@pytest.mark.parametrize("weight", WEIGHTS, ids=["1e-3", "0.1", "10", "per image"])
def test_prox_is_optimal(
    linear_spec: OperatorSpec,
    draw: Draw,
    ids: list[str],
    x: Tensor,
    random_measurement: Measurements,
    weight: float | Tensor,
) -> None:
    """The gradient of ||A z - y||^2 + weight ||z - x||^2 vanishes at z = prox(x, y, weight)."""
    operator = draw(linear_spec, ids)
    y = random_measurement(operator)
    z = operator.prox(x, y, weight)
    gradient = operator.adjoint(operator.forward(z) - y) + per_image(weight, x) * (z - x)
    assert_small(gradient, operator.adjoint(y), 1e-10)


@pytest.mark.parametrize("damping", [1e-3, torch.tensor([0.01, 0.3, 5.0], dtype=torch.float64)], ids=["one", "each"])
def test_damped_pinv_is_the_dense_formula(
    linear_spec: OperatorSpec, draw: Draw, ids: list[str], damping: float | Tensor
) -> None:
    """pinv(y, d) = A^T (A A^T + d I)^-1 y with A written out column by column."""
    shape = shape_for(linear_spec, 16, 8)
    operator = draw(linear_spec, ids, shape)
    pixels = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    y = operator.forward(torch.rand(len(ids), *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    found = operator.pinv(y, damping)
    for i in range(len(ids)):
        a = operator.select(torch.tensor([i])).forward(pixels).flatten(1).T
        d = damping if isinstance(damping, float) else damping[i]
        expected = a.T @ torch.linalg.solve(a @ a.T + d * torch.eye(len(a), dtype=torch.float64), y[i].flatten())
        torch.testing.assert_close(found[i].flatten(), expected, rtol=1e-9, atol=1e-10)


def test_support_is_where_measurements_are(
    linear_spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor, random_measurement: Measurements
) -> None:
    operator = draw(linear_spec, ids)
    support = operator.support()
    expected = torch.full((len(ids),), float(random_measurement(operator)[0].numel()), dtype=torch.float64)
    if support is not None:
        assert ((support == 0) | (support == 1)).all()
        y = operator.forward(x)
        assert torch.equal(y * support, y)
        expected = (torch.ones_like(y) * support).flatten(1).sum(1)
    assert torch.equal(operator.num_measurements(len(ids)), expected)
