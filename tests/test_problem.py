"""Measurements: where noise lands, and what consistency means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.problem import Measurement, consistency, measure

IDS = ["a", "b", "c", "d"]


@pytest.fixture
def x() -> Tensor:
    return 2 * torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 1


def test_noise_is_added_at_its_level(x: Tensor) -> None:
    spec, noise = parse_task({"operator": "super_resolution", "noise_std": 0.05})
    operator, measurement = measure(spec, noise, x, 0, IDS)
    assert measurement.noise_std == 0.05
    assert (measurement.y - operator.forward(x)).std().item() == pytest.approx(0.05, rel=0.1)


def test_noise_keeps_to_observed_pixels_unless_asked(x: Tensor) -> None:
    task = {"operator": "random_inpainting", "drop_rate": 0.5, "noise_std": 0.1}
    operator, measurement = measure(*parse_task(task), x, 0, IDS)
    support = operator.support()
    assert support is not None
    assert torch.equal(measurement.y * support, measurement.y)
    loud_operator, loud = measure(*parse_task({**task, "noise_on_masked": True}), x, 0, IDS)
    assert torch.equal(loud.y * support, measurement.y)
    assert (loud.y * (1 - support)).std() > 0.05
    assert torch.equal(loud_operator.forward(x), operator.forward(x))


@pytest.mark.parametrize(
    "task",
    [
        {"operator": "denoising"},
        {"operator": "random_inpainting"},
        {"operator": "random_inpainting", "noise_on_masked": True},
        {"operator": "super_resolution", "factor": 2},
        {"operator": "motion_blur"},
        {"operator": "compressed_sensing"},
        {"operator": "phase_retrieval"},
    ],
    ids=lambda task: "-".join(map(str, task.values())),
)
def test_the_truth_is_consistent_at_the_noise_level(task: dict[str, object], x: Tensor) -> None:
    operator, measurement = measure(*parse_task({**task, "noise_std": 0.02}), x, 0, IDS)
    level = consistency(operator, measurement, x)
    assert level.dtype == torch.float64
    spread = 1 / (2 * operator.num_measurements(4)).sqrt()  # of a root mean square of m normal numbers
    assert ((level - 1).abs() < 5 * spread).all()


def test_consistency_counts_residuals_in_noise_units(x: Tensor) -> None:
    operator, measurement = measure(*parse_task({"operator": "denoising", "noise_std": 0.1}), x, 0, IDS)
    torch.testing.assert_close(
        consistency(operator, measurement, measurement.y + 0.3), torch.full((4,), 3.0, dtype=torch.float64)
    )


def test_noiseless_measurements_have_no_noise_level(x: Tensor) -> None:
    operator, measurement = measure(*parse_task({"operator": "super_resolution"}), x, 0, IDS)
    assert torch.equal(measurement.y, operator.forward(x))
    assert consistency(operator, measurement, x).isnan().all()


def test_the_operator_does_not_depend_on_the_noise(x: Tensor) -> None:
    quiet, _ = measure(*parse_task({"operator": "motion_blur"}), x, 0, IDS)
    loud, _ = measure(*parse_task({"operator": "motion_blur", "noise_std": 0.3}), x, 0, IDS)
    assert torch.equal(quiet.forward(x), loud.forward(x))


def test_select_keeps_rows() -> None:
    y = torch.arange(8.0).reshape(4, 2)
    chosen = Measurement(y, 0.1).select(torch.tensor([3, 1]))
    assert torch.equal(chosen.y, y[[3, 1]])
    assert chosen.noise_std == 0.1
