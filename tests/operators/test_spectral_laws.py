"""Laws of the singular value decompositions, in float64, for every operator that has one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ipsolve.conventions import norm
from ipsolve.operators import Operator, OperatorSpec, SpectralOperator
from ipsolve.operators.matrix import Matrix
from ipsolve.operators.separable import Separable

Draw = Callable[..., SpectralOperator]
Measurements = Callable[[Operator], Tensor]
EXACT = {"rtol": 1e-11, "atol": 1e-11}


def test_a_spec_tells_the_truth(linear_spec: OperatorSpec, draw: Draw, ids: list[str]) -> None:
    assert isinstance(draw(linear_spec, ids), SpectralOperator) == linear_spec.spectral


def test_v_is_an_isometry_onto_images(spectral_spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor) -> None:
    operator = draw(spectral_spec, ids)
    c = operator.to_spectral(x)
    torch.testing.assert_close(norm(c), norm(x), **EXACT)
    torch.testing.assert_close(operator.from_spectral(c), x, **EXACT)


def test_u_is_an_isometry_onto_measurements(
    spectral_spec: OperatorSpec, draw: Draw, ids: list[str], random_measurement: Measurements
) -> None:
    operator = draw(spectral_spec, ids)
    y = random_measurement(operator)
    c = operator.measurement_to_spectral(y)
    torch.testing.assert_close(norm(c), norm(y), **EXACT)
    torch.testing.assert_close(operator.measurement_from_spectral(c), y, **EXACT)


def test_coordinates_line_up(
    spectral_spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor, random_measurement: Measurements
) -> None:
    """U^T A x = s V^T x and V^T A^T y = s U^T y: an index means the same direction on both sides."""
    operator = draw(spectral_spec, ids)
    y, s = random_measurement(operator), operator.singular_values()
    assert (s >= 0).all()
    seen = operator.measurement_to_spectral(operator.forward(x))
    torch.testing.assert_close(seen, s * operator.to_spectral(x), **EXACT)
    back = operator.to_spectral(operator.adjoint(y))
    torch.testing.assert_close(back, s * operator.measurement_to_spectral(y), **EXACT)


def test_shortcuts_agree_with_the_definition(
    spectral_spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor, random_measurement: Measurements
) -> None:
    operator = draw(spectral_spec, ids)
    y = random_measurement(operator)
    torch.testing.assert_close(operator.forward(x), SpectralOperator.forward(operator, x), **EXACT)
    torch.testing.assert_close(operator.adjoint(y), SpectralOperator.adjoint(operator, y), **EXACT)
    torch.testing.assert_close(operator.pinv(y, 0.1), SpectralOperator.pinv(operator, y, 0.1), **EXACT)


@pytest.mark.parametrize("size", [(4, 9), (9, 4), (6, 6)])
@pytest.mark.parametrize("problems", [1, 5])
def test_dense_matrices(size: tuple[int, int], problems: int) -> None:
    generator = torch.Generator().manual_seed(3)
    a = torch.randn(problems, *size, dtype=torch.float64, generator=generator)
    x = torch.randn(5, size[1], dtype=torch.float64, generator=generator)
    y = torch.randn(5, size[0], dtype=torch.float64, generator=generator)
    operator = Matrix(a)
    torch.testing.assert_close(operator.forward(x), (a @ x[..., None])[..., 0], **EXACT)
    torch.testing.assert_close(operator.adjoint(y), (a.mT @ y[..., None])[..., 0], **EXACT)
    torch.testing.assert_close(operator.pinv(y), (torch.linalg.pinv(a) @ y[..., None])[..., 0], **EXACT)
    rows = torch.tensor([3, 1])
    torch.testing.assert_close(operator.select(rows).forward(x[rows]), operator.forward(x)[rows], **EXACT)


def test_separable_matrices_may_be_tall() -> None:
    """More measurements than pixels along one side, fewer along the other."""
    generator = torch.Generator().manual_seed(4)
    rows, columns = (torch.randn(*size, dtype=torch.float64, generator=generator) for size in ((9, 5), (3, 7)))
    operator = Separable(rows.numpy(), columns.numpy(), 2, torch.float64, torch.device("cpu"))
    x = torch.randn(4, 2, 5, 7, dtype=torch.float64, generator=generator)
    y = torch.randn(4, 2, 9, 3, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(operator.forward(x), rows @ x @ columns.T, **EXACT)
    expected = torch.linalg.pinv(rows) @ y @ torch.linalg.pinv(columns).T
    torch.testing.assert_close(operator.pinv(y), expected, **EXACT)
    torch.testing.assert_close(operator.from_spectral(operator.to_spectral(x)), x, **EXACT)
    torch.testing.assert_close(operator.measurement_from_spectral(operator.measurement_to_spectral(y)), y, **EXACT)
