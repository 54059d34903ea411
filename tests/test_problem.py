"""Problems: where noise lands, what consistency means, and which numbers belong to which row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ipsolve.operators import parse_task
from ipsolve.priors import MeteredPrior, Prior
from ipsolve.priors.mixtures.gaussian_mixture import GaussianMixture
from ipsolve.priors.mixtures.mixture import MixturePrior
from ipsolve.problem import Posed, pose

IDS = ["a", "b", "c", "d"]
SHAPE = (3, 32, 32)
BLUR = {"operator": "motion_blur", "kernel_size": 5, "boundary": "circular", "noise_std": 0.1}


@pytest.fixture
def x() -> Tensor:
    return 2 * torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0)) - 1


def white() -> Prior:
    return MixturePrior(GaussianMixture.isotropic(torch.ones(1), torch.zeros(1, 3 * 32 * 32), 1.0), SHAPE)


def posed(task: dict[str, object], x: Tensor, prior: Prior | None = None) -> Posed:
    return pose(parse_task(task), x, prior or white(), 0, IDS)


def test_noise_is_added_at_its_level(x: Tensor) -> None:
    made = posed({"operator": "super_resolution", "noise_std": 0.05}, x)
    # exact, whatever the precision of y: what comes of it is rounded once
    assert torch.equal(made.problem.noise_std, torch.full((4,), 0.05, dtype=torch.float64))
    assert made.problem.residual(x).std().item() == pytest.approx(0.05, rel=0.1)


def test_noise_keeps_to_observed_pixels_unless_asked(x: Tensor) -> None:
    task = {"operator": "random_inpainting", "drop_rate": 0.5, "noise_std": 0.1}
    quiet, loud = posed(task, x), posed({**task, "noise_on_masked": True}, x)
    support = quiet.operator.support()
    assert support is not None
    assert torch.equal(quiet.problem.y * support, quiet.problem.y)
    assert torch.equal(loud.problem.y * support, quiet.problem.y)
    assert (loud.problem.y * (1 - support)).std() > 0.05
    assert torch.equal(loud.operator.forward(x), quiet.operator.forward(x))


@pytest.mark.parametrize(
    "task",
    [
        {"operator": "denoising"},
        {"operator": "random_inpainting"},
        {"operator": "random_inpainting", "noise_on_masked": True},
        {"operator": "super_resolution", "factor": 2},
        {"operator": "motion_blur"},
        {"operator": "motion_blur", "blind": True},
        {"operator": "compressed_sensing"},
        {"operator": "phase_retrieval"},
    ],
    ids=lambda task: "-".join(map(str, task.values())),
)
def test_the_truth_is_consistent_at_the_noise_level(task: dict[str, object], x: Tensor) -> None:
    made = posed({**task, "noise_std": 0.02}, x)
    level = made.consistency(x)
    assert level.dtype == torch.float64
    spread = 1 / (2 * made.operator.num_measurements(4)).sqrt()  # of a root mean square of m normal numbers
    assert ((level - 1).abs() < 5 * spread).all()


def test_consistency_counts_residuals_in_noise_units(x: Tensor) -> None:
    made = posed({"operator": "denoising", "noise_std": 0.1}, x)
    expected = torch.full((4,), 3.0, dtype=torch.float64)
    torch.testing.assert_close(made.consistency(made.problem.y + 0.3), expected)


def test_noiseless_measurements_have_no_noise_level(x: Tensor) -> None:
    made = posed({"operator": "super_resolution"}, x)
    assert torch.equal(made.problem.y, made.operator.forward(x))
    assert made.consistency(x).isnan().all()
    assert made.problem.noiseless


def test_the_operator_does_not_depend_on_the_noise(x: Tensor) -> None:
    quiet = posed({"operator": "motion_blur"}, x).operator
    loud = posed({"operator": "motion_blur", "noise_std": 0.3}, x).operator
    assert torch.equal(quiet.forward(x), loud.forward(x))


def test_a_blind_task_keeps_the_operator_and_measures_the_same(x: Tensor) -> None:
    told, blind = posed(BLUR, x), posed({**BLUR, "blind": True}, x)
    assert torch.equal(blind.problem.y, told.problem.y)
    assert told.problem.known_operator is told.operator
    assert torch.equal(blind.problem.residual(x, blind.operator), told.problem.residual(x))
    for name in ("known_operator", "linear_operator", "spectral_operator"):
        with pytest.raises(TypeError, match="the operator is not known, only that it is of the family motion_blur"):
            getattr(blind.problem, name)


def test_an_operator_without_the_structure_that_is_asked_for_is_refused(x: Tensor) -> None:
    with pytest.raises(TypeError, match="is not linear"):
        _ = posed({"operator": "hdr"}, x).problem.linear_operator
    with pytest.raises(TypeError, match="has no known singular value decomposition"):
        _ = posed({"operator": "motion_blur", "kernel_size": 5}, x).problem.spectral_operator


def test_select_keeps_rows(x: Tensor) -> None:
    metered, rows = MeteredPrior(white(), 4), torch.tensor([3, 1])
    made = posed(BLUR, x, metered)
    chosen = made.select(rows)
    assert torch.equal(chosen.problem.y, made.problem.y[rows])
    assert torch.equal(chosen.theta["kernel"], made.theta["kernel"][rows])
    torch.testing.assert_close(chosen.problem.residual(chosen.x), made.problem.residual(x)[rows], rtol=0, atol=1e-6)
    torch.testing.assert_close(chosen.consistency(chosen.x), made.consistency(x)[rows])
    assert torch.equal(chosen.problem.noise(), made.problem.noise()[rows])
    chosen.problem.prior.denoise(chosen.x, metered.schedule.level(9))
    assert metered.counts["denoiser"].tolist() == [0, 1, 0, 1]


def test_the_first_of_repeated_streams_is_the_problems_own(x: Tensor) -> None:
    repeated = posed(BLUR, x).problem.repeat(3)
    own = posed(BLUR, x).problem
    assert torch.equal(repeated.y.unflatten(0, (4, 3)), own.y[:, None].expand(-1, 3, -1, -1, -1))
    noise = repeated.noise().unflatten(0, (4, 3))
    assert torch.equal(noise[:, 0], own.noise())
    assert len(torch.unique(noise.flatten(0, 1).flatten(1), dim=0)) == 12


@pytest.mark.parametrize("moved", [False, True])
def test_samples_drawn_together_are_those_drawn_apart(moved: bool, x: Tensor) -> None:
    """Row i * count + j is problem i with stream first + j, wherever the streams stand."""
    problem = posed(BLUR, x).problem
    if moved:
        problem.noise()
    together = problem.repeat(5)
    expected = together.noise().unflatten(0, (4, 5))
    for first, count in ((0, 2), (2, 3)):
        apart = problem.repeat(count, first)
        assert torch.equal(apart.noise().unflatten(0, (4, count)), expected[:, first : first + count])
    state = x.repeat_interleave(5, 0)
    found = together.residual(state).unflatten(0, (4, 5))
    torch.testing.assert_close(found, problem.residual(x)[:, None].expand_as(found), rtol=0, atol=1e-6)


def test_a_repeated_truth_stays_with_its_problem(x: Tensor) -> None:
    made = posed(BLUR, x)
    repeated = made.repeat(2, 1)
    assert torch.equal(repeated.x, x.repeat_interleave(2, 0))
    assert torch.equal(repeated.theta["kernel"], made.theta["kernel"].repeat_interleave(2, 0))
    assert torch.equal(repeated.problem.noise(), made.problem.repeat(2, 1).noise())
    torch.testing.assert_close(repeated.consistency(repeated.x), made.consistency(x).repeat_interleave(2))


def test_calls_for_repeated_rows_go_on_the_account_of_their_image(x: Tensor) -> None:
    metered = MeteredPrior(white(), 4)
    repeated = posed(BLUR, x, metered).problem.repeat(3)
    repeated.prior.denoise(repeated.noise(), metered.schedule.level(9))
    assert metered.counts["denoiser"].tolist() == [3] * 4


def test_a_batch_is_noisy_or_noiseless(x: Tensor) -> None:
    problem = posed(BLUR, x).problem
    assert not problem.noiseless
    with pytest.raises(ValueError, match="noise_std: of one batch all are above 0, or all 0"):
        _ = replace(problem, noise_std=torch.tensor([0.1, 0.1, 0.0, 0.1])).noiseless
