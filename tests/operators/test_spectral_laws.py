"""Laws of the singular value decompositions, in float64, for every operator that has one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from skimage import data
from torch import Tensor

from ipsolve.conventions import norm
from ipsolve.operators import Operator, OperatorSpec, SpectralOperator, parse_task
from ipsolve.operators.base import damped_inverse
from ipsolve.operators.matrix import Matrix
from ipsolve.operators.separable import Separable, SeparableSpec
from ipsolve.randomness import image_rng

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


BLURS = [
    {"operator": "gaussian_blur"},
    {"operator": "gaussian_blur", "boundary": "circular", "std": 1.5},
    {"operator": "motion_blur", "kernel_size": 61, "boundary": "circular"},
]


@pytest.mark.parametrize("task", BLURS, ids=lambda task: "-".join(map(str, task.values())))
def test_float32_images_lose_nothing_to_a_pseudo_inverse(task: dict[str, object]) -> None:
    """The noiseless A^+ A x of a photograph is as near to x from float32 measurements as from float64 ones.

    To 0.25 dB where float64 has lost anything to speak of; above 90 dB what is left is the rounding of y itself.
    """
    picture = torch.from_numpy(data.astronaut()[:256, 100:356].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    errors = []
    for dtype in (torch.float32, torch.float64):
        operator = parse_task(task).operator.draw((3, 256, 256), image_rng(0, ["a"], "operator"), dtype)
        assert isinstance(operator, SpectralOperator)
        x = picture.to(dtype)
        back = operator.pinv(operator.forward(x))
        c = operator.measurement_to_spectral(operator.forward(x))
        gain = damped_inverse(operator.singular_values(), 0.0)
        assert back.dtype == operator.singular_values().dtype == dtype
        # what solvers do in coordinates
        torch.testing.assert_close(
            operator.from_spectral(gain * c), back, rtol=0, atol=2e-3 if dtype == torch.float32 else 1e-6
        )
        errors.append(-10 * math.log10(float((back - x).double().square().mean()) / 4))
    assert errors[0] > min(errors[1] - 0.25, 90)


def test_truncation_is_that_of_the_small_matrices() -> None:
    """Of rows and of columns the directions with a singular value under 0.03 go, wherever their product is."""
    spec = parse_task({"operator": "gaussian_blur", "truncation": 0.03}).operator
    assert isinstance(spec, SeparableSpec)
    operator, whole = (
        parse_task({"operator": "gaussian_blur", "truncation": t}).operator.draw(
            (1, 40, 40), image_rng(0, ["a"], "operator"), torch.float64
        )
        for t in (0.03, 0.0)
    )
    assert isinstance(operator, Separable)
    assert isinstance(whole, Separable)
    u, s, vt = torch.linalg.svd(torch.from_numpy(spec.matrix(40)))
    kept = s >= 0.03
    assert 0 < int(kept.sum()) < int((s > 1e-6).sum())
    matrix = u[:, kept] * s[kept] @ vt[kept]
    x = torch.randn(1, 1, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(operator.forward(x), matrix @ x @ matrix.T, **EXACT)
    inverse = torch.linalg.pinv(matrix, rtol=1e-3)
    torch.testing.assert_close(operator.pinv(x), inverse @ x @ inverse.T, rtol=1e-9, atol=1e-9)
    assert operator.singular_values().count_nonzero() < whole.singular_values().count_nonzero()
