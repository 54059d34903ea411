"""Every registered operator at its defaults, and variants that take another path through the code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ipsolve.operators import OPERATORS, LinearOperator, Operator, OperatorSpec, parse_task
from ipsolve.randomness import image_rng

SHAPE = (3, 16, 24)
BATCH = 3
VARIANTS: list[dict[str, Any]] = [
    {"operator": "random_inpainting", "drop_rate": 0.5},
    {"operator": "box_inpainting", "position": "random", "box": 6},
    {"operator": "super_resolution", "factor": 2},
    {"operator": "super_resolution", "factor": 8},
    {"operator": "gaussian_blur", "std": 0.8, "boundary": "circular"},
    {"operator": "gaussian_blur", "kernel_size": 3, "std": 1.0},
    {"operator": "gaussian_blur", "truncation": 0.03},
    {"operator": "motion_blur", "shape": "centred"},
    {"operator": "motion_blur", "kernel_size": 7, "boundary": "circular"},
    {"operator": "compressed_sensing", "ratio": 0.1},
    {"operator": "grayscale", "weights": [0.299, 0.587, 0.114]},
    {"operator": "jpeg", "quality": 90, "subsampling": "4:4:4"},
    {"operator": "jpeg", "quality": 30},
]
# its singular values go down to rounding without a gap, so that nothing can say which of them A^+ is to invert
UNCERTAIN_RANK: list[dict[str, Any]] = [
    {"operator": "motion_blur"},
    {"operator": "motion_blur", "kernel_size": 5, "intensity": 1.0},
    {"operator": "motion_blur", "kernel_size": 15, "intensity": 1.0, "shape": "centred"},
]
CASES = [{"operator": name} for name in OPERATORS if {"operator": name} not in UNCERTAIN_RANK] + VARIANTS


def describe(case: dict[str, Any]) -> str:
    return "-".join(str(value) for value in case.values())


def shape_for(spec: OperatorSpec, *size: int) -> tuple[int, ...]:
    """Return the shape of images that an operator is made for: rgb if it can be, else complex."""
    return (3 if "rgb" in spec.signals else 2, *(size or SHAPE[1:]))


def draw_operator(
    spec: OperatorSpec, ids: list[str], shape: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float64
) -> Operator:
    operator = spec.draw(shape or shape_for(spec), image_rng(0, ids, "operator"), dtype)
    if isinstance(operator, LinearOperator):  # so that laws hold to the last digits where A^+ is iterative
        operator.cg_iterations, operator.cg_tolerance = 2_000, 1e-13
    return operator


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``spec``, ``linear_spec`` ... runs for every case of that kind.

    ``invertible_spec`` is the linear ones for which A^+ without damping is well defined in float64.
    """
    kinds: dict[str, Callable[[OperatorSpec], bool]] = {
        "spec": lambda spec: True,
        "linear_spec": lambda spec: spec.linear,
        "invertible_spec": lambda spec: spec.linear,
        "spectral_spec": lambda spec: spec.spectral,
        "nonlinear_spec": lambda spec: not spec.linear,
    }
    for argument, belongs in kinds.items():
        if argument in metafunc.fixturenames:
            cases = CASES if argument == "invertible_spec" else CASES + UNCERTAIN_RANK
            pairs = [(parse_task(case).operator, describe(case)) for case in cases]
            chosen = [(spec, label) for spec, label in pairs if belongs(spec)]
            metafunc.parametrize(argument, [spec for spec, _ in chosen], ids=[label for _, label in chosen])


@pytest.fixture
def draw() -> Callable[..., Operator]:
    return draw_operator


@pytest.fixture
def ids() -> list[str]:
    return [f"image-{i}" for i in range(BATCH)]


@pytest.fixture
def x(request: pytest.FixtureRequest) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    given = request.node.callspec.params.values() if hasattr(request.node, "callspec") else ()
    shape = next((shape_for(each) for each in given if isinstance(each, OperatorSpec)), SHAPE)
    return 2 * torch.rand(BATCH, *shape, generator=generator, dtype=torch.float64) - 1


@pytest.fixture
def random_measurement() -> Callable[[Operator], Tensor]:
    """Return white noise in the place of a measurement, where there are measurements."""

    def make(operator: Operator) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        y = torch.randn(BATCH, *operator.measurement_shape, generator=generator, dtype=torch.float64)
        support = operator.support()
        return y if support is None else y * support

    return make
