"""Figures of calibration: those of a perfect sampler at any number of samples, and of samplers that are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ipsolve.metrics.calibration import (
    LEVELS,
    ball_coverage,
    coverage,
    crps,
    energy_score,
    rank_histogram,
    skill,
    sparsification_error,
    spread,
)

F64 = torch.float64
N, ENTRIES = 4000, 6


def drawn(count: int, scale: float = 1.0, shift: float = 0.0, n: int = N) -> tuple[Tensor, Tensor]:
    """Samples of n problems whose entries have posteriors of very different widths, and truths of the same law."""
    draws = torch.Generator().manual_seed(count)
    mean = 3 * torch.randn(n, 1, ENTRIES, generator=draws, dtype=F64)
    std = torch.exp(torch.randn(n, 1, ENTRIES, generator=draws, dtype=F64))
    noise = torch.randn(n, count + 1, ENTRIES, generator=draws, dtype=F64)
    truth = (mean + std * noise[:, :1])[:, 0]
    return mean + std * (scale * noise[:, 1:] + shift), truth


def mean_and_error(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("figure", [coverage, ball_coverage])
def test_a_perfect_sampler_covers_as_promised_at_any_number_of_samples(
    figure: Callable[[Tensor, Tensor, float], Tensor], level: float, count: int
) -> None:
    mean, error = mean_and_error(figure(*drawn(count), level))
    assert abs(mean - level) < 4 * error


@pytest.mark.parametrize("figure", [coverage, ball_coverage])
def test_an_overconfident_sampler_covers_less_and_a_timid_one_more(
    figure: Callable[[Tensor, Tensor, float], Tensor],
) -> None:
    for scale, sign in ((0.5**0.5, -1), (1.5, 1)):
        mean, error = mean_and_error(figure(*drawn(8, scale), 0.8))
        assert sign * (mean - 0.8) > 6 * error


@pytest.mark.parametrize("count", [2, 5])
def test_ranks_of_a_perfect_sampler_are_uniform(count: int) -> None:
    shares = rank_histogram(*drawn(count))
    assert torch.allclose(shares.sum(1), torch.ones(N, dtype=F64))
    error = shares.std(0) / N**0.5
    assert ((shares.mean(0) - 1 / (count + 1)).abs() < 4 * error).all()


def test_ranks_show_which_way_a_sampler_is_wrong() -> None:
    narrow, biased = (rank_histogram(*drawn(4, *wrong)).mean(0) for wrong in ((0.6, 0.0), (1.0, 0.7)))
    assert narrow[0] > 0.25
    assert narrow[-1] > 0.25
    assert narrow[2] < 0.2
    assert biased[0] > 0.3 > 0.1 > biased[-1]


def test_ties_count_to_all_ranks_they_may_have() -> None:
    """Where every sample is the truth, as of a saturated pixel, nothing is over- or under-covered."""
    x = torch.ones(1, 3, dtype=F64)
    samples = x[:, None].expand(1, 4, 3)
    assert torch.allclose(rank_histogram(samples, x), torch.full((1, 5), 0.2, dtype=F64))
    for level in LEVELS:
        assert coverage(samples, x, level).item() == pytest.approx(level)
        assert ball_coverage(samples, x, level).item() == pytest.approx(level)


@pytest.mark.parametrize("figure", [crps, energy_score])
def test_fair_scores_do_not_depend_on_the_number_of_samples_and_are_least_for_the_perfect(
    figure: Callable[[Tensor, Tensor], Tensor],
) -> None:
    few, many = (mean_and_error(figure(*drawn(count))) for count in (2, 16))
    assert abs(few[0] - many[0]) < 4 * (few[1] + many[1])
    for wrong in ((0.5, 0.0), (2.0, 0.0), (1.0, 0.5)):
        samples, x = drawn(16)
        other = drawn(16, *wrong)
        difference, error = mean_and_error(figure(*other) - figure(samples, x))
        assert difference > 4 * error


def test_crps_of_a_gaussian_is_the_closed_form() -> None:
    """sigma / sqrt(pi) for a perfect sampler of N(mu, sigma^2) (Gneiting & Raftery 2007, eq. 21 averaged)."""
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(20000, 5, 1, generator=draws, dtype=F64)
    mean, error = mean_and_error(crps(2 * noise[:, 1:], 2 * noise[:, 0]))
    assert abs(mean - 2 / torch.pi**0.5) < 4 * error


def test_scores_by_hand() -> None:
    samples = torch.tensor([[[0.0, 0.0], [1.0, 3.0], [4.0, 3.0]]], dtype=F64)
    x = torch.tensor([[2.0, 3.0]], dtype=F64)
    by_hand = [((2 + 1 + 2) / 3 - (1 + 4 + 3) / 6), ((3 + 0 + 0) / 3 - (3 + 3 + 0) / 6)]
    assert crps(samples, x).item() == pytest.approx(sum(by_hand) / 2)
    to_truth = (13**0.5 + 1 + 2) / 3
    apart = (10**0.5 + 5 + 3) / 6
    assert energy_score(samples, x).item() == pytest.approx((to_truth - apart) / 2**0.5)


@pytest.mark.parametrize("count", [2, 10])
def test_spread_is_skill_for_a_perfect_sampler(count: int) -> None:
    samples, x = drawn(count)
    mean, error = mean_and_error(spread(samples) - skill(samples, x))
    assert abs(mean) < 4 * error
    narrow, x = drawn(count, 0.5**0.5)
    mean, error = mean_and_error(spread(narrow) - skill(narrow, x))
    assert mean < -4 * error


def test_sparsification_tells_a_std_that_knows_where_the_error_is() -> None:
    draws = torch.Generator().manual_seed(3)
    std = torch.exp(torch.randn(8, 1, 4096, generator=draws, dtype=F64))
    noise = torch.randn(8, 33, 4096, generator=draws, dtype=F64)
    truth = (std * noise[:, :1])[:, 0]
    knows = std * noise[:, 1:]
    guesses = knows.mean(1, keepdim=True) + noise[:, 1:] - noise[:, 1:].mean(1, keepdim=True)
    assert (sparsification_error(knows, truth) < 0.5 * sparsification_error(guesses, truth)).all()
    oracle = truth[:, None] + (truth.abs()[:, None] * torch.tensor([2.0, 0.0], dtype=F64)[None, :, None])
    assert sparsification_error(oracle, truth).abs().max() < 1e-9
