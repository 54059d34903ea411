"""Dense operators: coordinates of the singular directions alone."""

import pytest
import torch
from torch import Tensor

from ipsolve.operators.matrix import Matrix

EXACT = {"rtol": 1e-11, "atol": 1e-11}
sizes = pytest.mark.parametrize("size", [(4, 9), (9, 4), (6, 6)])
shared = pytest.mark.parametrize("problems", [1, 5])


def draw(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@sizes
@shared
def test_coordinates_are_those_of_row_and_column_space(size: tuple[int, int], problems: int) -> None:
    a, x, y = draw(problems, *size), draw(5, size[1], seed=4), draw(5, size[0], seed=5)
    operator = Matrix(a)
    inverse = torch.linalg.pinv(a)
    assert operator.to_spectral(x).shape == operator.measurement_to_spectral(y).shape == (5, min(size))
    onto_rows = (inverse @ a @ x[..., None])[..., 0]
    onto_columns = (a @ inverse @ y[..., None])[..., 0]
    torch.testing.assert_close(operator.from_spectral(operator.to_spectral(x)), onto_rows, **EXACT)
    seen = operator.measurement_from_spectral(operator.measurement_to_spectral(y))
    torch.testing.assert_close(seen, onto_columns, **EXACT)


@sizes
@shared
def test_v_and_u_are_isometries_on_coordinates(size: tuple[int, int], problems: int) -> None:
    operator, c = Matrix(draw(problems, *size)), draw(5, min(size), seed=4)
    torch.testing.assert_close(operator.to_spectral(operator.from_spectral(c)), c, **EXACT)
    torch.testing.assert_close(operator.measurement_to_spectral(operator.measurement_from_spectral(c)), c, **EXACT)


@shared
def test_directions_below_the_rank_tolerance_are_not_inverted(problems: int) -> None:
    a = draw(problems, 3, 6)
    a[:, 2] = a[:, 0] + a[:, 1]
    operator, y = Matrix(a), draw(5, 3, seed=4)
    assert ((operator.singular_values() > 0).sum(1) == 2).all()
    torch.testing.assert_close(operator.pinv(y), (torch.linalg.pinv(a) @ y[..., None])[..., 0], rtol=1e-9, atol=1e-9)


def test_a_shared_matrix_serves_any_choice_of_rows() -> None:
    operator = Matrix(draw(1, 2, 3))
    assert operator.select(torch.tensor([4, 7])) is operator
    own = Matrix(draw(3, 2, 3))
    assert torch.equal(own.select(torch.tensor([2])).matrix, own.matrix[2:])
