"""Non-linear operators: what they keep, what they lose, and that a gradient comes through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ipsolve.operators import Operator, OperatorSpec, describe_task, parse_task
from ipsolve.randomness import image_rng
from ipsolve.runs.config import read_yaml

from .conftest import shape_for

Draw = Callable[..., Operator]


def test_gradients_are_finite_and_not_zero(nonlinear_spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor) -> None:
    operator = draw(nonlinear_spec, ids)
    y = operator.forward(x.flip(-1))
    for start, flat in ((0.5 * x, False), (torch.zeros_like(x), True)):
        start.requires_grad_()
        (operator.forward(start) - y).square().sum().backward()
        assert start.grad is not None
        assert start.grad.isfinite().all()
        assert flat or (start.grad.flatten(1).abs().amax(1) > 0).all()


def test_shapes_are_as_announced(nonlinear_spec: OperatorSpec, draw: Draw, ids: list[str], x: Tensor) -> None:
    operator = draw(nonlinear_spec, ids)
    y = operator.forward(x)
    assert not operator.linear
    assert y.shape == (len(x), *operator.measurement_shape)
    shown = operator.as_image(y)
    assert shown is not None
    assert shown.shape[:2] == (len(x), 3)


def test_phase_retrieval_is_the_fourier_modulus(draw: Draw, ids: list[str], x: Tensor) -> None:
    y = draw(parse_task({"operator": "phase_retrieval"}).operator, ids).forward(x)
    assert y.shape[2:] == (16 * 3 // 2, 24 * 3 // 2)
    expected = np.abs(
        np.fft.fft2(x.numpy(), s=y.shape[2:], norm="ortho")
    )  # where the zeros stand changes the phase only
    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_phase_retrieval_cannot_see_sign_shift_or_turn(draw: Draw, ids: list[str], x: Tensor) -> None:
    operator = draw(parse_task({"operator": "phase_retrieval", "oversample": 2.0}).operator, ids)
    island = torch.nn.functional.pad(x[..., 4:12, 6:18], (6, 6, 4, 4))
    y = operator.forward(island)
    for twin in (-island, island.roll((3, -5), dims=(-2, -1)), island.flip(-1, -2)):
        torch.testing.assert_close(operator.forward(twin), y, rtol=1e-10, atol=1e-12)
    assert (operator.forward(island.flip(-1)) - y).abs().max() > 0.1


def test_saturation_clips_and_passes_gradients_inside(draw: Draw, ids: list[str], x: Tensor) -> None:
    operator = draw(parse_task({"operator": "hdr"}).operator, ids)
    x.requires_grad_()
    y = operator.forward(x)
    y.sum().backward()
    inside = x.abs() < 0.5
    torch.testing.assert_close(y[inside], 2 * x[inside])
    assert torch.equal(y[~inside], x[~inside].sign())
    assert x.grad is not None
    assert torch.equal(x.grad, 2.0 * inside)


def test_jpeg_at_full_quality_is_nearly_the_identity(draw: Draw, ids: list[str], x: Tensor) -> None:
    operator = draw(parse_task({"operator": "jpeg", "quality": 100, "subsampling": "4:4:4"}).operator, ids)
    error = (operator.forward(x) - x).square().mean().sqrt() * 127.5
    assert 0 < error < 1  # of 255; coefficients are rounded to integers


def test_jpeg_keeps_what_it_wrote_and_loses_more_at_lower_quality(draw: Draw, ids: list[str], x: Tensor) -> None:
    errors = []
    for quality in (95, 75, 50, 10):
        operator = draw(parse_task({"operator": "jpeg", "quality": quality, "subsampling": "4:4:4"}).operator, ids)
        y = operator.forward(x)
        torch.testing.assert_close(operator.forward(y), y, rtol=0, atol=1e-9)
        errors.append(float((y - x).square().mean()))
    assert errors == sorted(errors)


def test_jpeg_passes_gradients_straight_through(draw: Draw, ids: list[str], x: Tensor) -> None:
    """The Jacobian is that of the chain without rounding, the identity."""
    operator = draw(parse_task({"operator": "jpeg", "quality": 5, "subsampling": "4:4:4"}).operator, ids)
    weights = x.flip(-1)
    x.requires_grad_()
    (weights * operator.forward(x)).sum().backward()
    torch.testing.assert_close(x.grad, weights, rtol=0, atol=1e-10)


def test_halved_chroma_leaves_grey_alone(draw: Draw, ids: list[str], x: Tensor) -> None:
    """Of grey pictures nothing is halved: both samplings give the same, and J u = u for a grey u."""
    grey = x.mean(1, keepdim=True).expand_as(x)
    each = [draw(parse_task({"operator": "jpeg", "subsampling": s}).operator, ids) for s in ("4:4:4", "4:2:0")]
    torch.testing.assert_close(each[0].forward(grey), each[1].forward(grey), rtol=0, atol=1e-12)
    assert (each[0].forward(x) - each[1].forward(x)).abs().mean() > 0.01
    weights, start = x.flip(-1), x.clone().requires_grad_()
    (weights * each[1].forward(start)).sum().backward()
    torch.testing.assert_close((start.grad * grey).sum(), (weights * grey).sum(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_subsampling_may_stand_without_quotes(sampling: str, quote: str) -> None:
    """YAML takes 4:2:0 for a number in base 60."""
    text = (
        f"{{operator: jpeg, subsampling: {quote}{sampling}{quote}}}"
        if quote
        else f"operator: jpeg\nsubsampling: {sampling}"
    )
    assert describe_task(parse_task(read_yaml(text)))["subsampling"] == sampling


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_image(spec: OperatorSpec, dtype: torch.dtype) -> None:
    operator = spec.draw(shape_for(spec), image_rng(0, ["a"], "operator"), dtype)
    assert operator.forward(torch.zeros(1, *shape_for(spec), dtype=dtype)).dtype == dtype
