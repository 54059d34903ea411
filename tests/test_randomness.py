"""Randomness that belongs to an image: what it depends on, and that it is random."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ipsolve.randomness import ImageRng, image_rng

IDS = ["a", "b", "c", "d"]
DRAWS: dict[str, Callable[[ImageRng], Tensor]] = {
    "uniform": lambda rng: rng.uniform(3, 5),
    "normal": lambda rng: rng.normal(3, 5),
    "normal, odd": lambda rng: rng.normal(7, dtype=torch.float64),
    "permutation": lambda rng: rng.permutation(20),
    "numpy": lambda rng: torch.tensor([g.poisson(50, 4).tolist() for g in rng.numpy_generators()]),
}


@pytest.fixture(params=list(DRAWS))
def draw(request: pytest.FixtureRequest) -> Callable[[ImageRng], Tensor]:
    return DRAWS[request.param]


def test_rows_do_not_depend_on_the_batch(draw: Callable[[ImageRng], Tensor]) -> None:
    together = draw(image_rng(3, IDS, "solver"))
    assert together.shape[0] == len(IDS)
    for i, image_id in enumerate(IDS):
        assert torch.equal(draw(image_rng(3, [image_id], "solver"))[0], together[i])
    assert torch.equal(draw(image_rng(3, IDS[::-1], "solver")), together.flip(0))


def test_seed_image_role_and_position_all_matter(draw: Callable[[ImageRng], Tensor]) -> None:
    rng = image_rng(3, IDS, "solver")
    first, second = draw(rng), draw(rng)
    others = [second, draw(image_rng(4, IDS, "solver")), draw(image_rng(3, IDS, "operator"))]
    for other in others:
        assert not any(torch.equal(first[i], other[i]) for i in range(len(IDS)))
    assert len(torch.unique(first, dim=0)) == len(IDS)
    assert torch.equal(draw(image_rng(3, IDS, "solver")), first)


def test_select_goes_on_where_the_streams_are(draw: Callable[[ImageRng], Tensor]) -> None:
    rng = image_rng(0, IDS, "solver")
    draw(rng)
    rows = torch.tensor([2, 0])
    chosen = rng.select(rows)
    assert torch.equal(draw(chosen), draw(rng)[rows])


def test_a_child_leaves_its_parent_alone_and_has_its_own_numbers() -> None:
    plain, with_child = image_rng(0, IDS, "solver"), image_rng(0, IDS, "solver")
    child = with_child.child("restart")
    child_numbers = child.normal(100)
    parent_numbers = with_child.normal(100)
    assert torch.equal(parent_numbers, plain.normal(100))
    assert not torch.equal(child_numbers, parent_numbers)
    assert torch.equal(image_rng(0, IDS, "solver").child("restart").normal(100), child_numbers)
    assert not torch.equal(with_child.child("other").normal(100), child_numbers)
    # a child is a function of the keys and the label, not of how much the parent has drawn
    assert torch.equal(with_child.child("restart").normal(100), child_numbers)
    assert torch.equal(child.select(torch.tensor([1])).uniform(4), child.uniform(4)[1:2])


def test_draws_are_one_stream_however_they_are_cut() -> None:
    whole = image_rng(0, IDS, "solver").uniform(12, dtype=torch.float64)
    rng = image_rng(0, IDS, "solver")
    pieces = torch.cat([rng.uniform(5, dtype=torch.float64), rng.uniform(7, dtype=torch.float64)], dim=1)
    assert torch.equal(pieces, whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_moments_and_range(dtype: torch.dtype) -> None:
    u = image_rng(0, IDS, "solver").uniform(100_000, dtype=dtype).double()
    assert (u >= 0).all()
    assert (u < 1).all()
    n = u.numel()
    for power in (1, 2, 3, 4):
        mean = 1 / (power + 1)
        std = math.sqrt(1 / (2 * power + 1) - mean**2)
        assert u.pow(power).mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(n))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_moments(dtype: torch.dtype) -> None:
    z = image_rng(0, IDS, "solver").normal(100_000, dtype=dtype).double()
    assert z.isfinite().all()
    n = z.numel()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert z.pow(power).mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / n))
    assert (z.abs() > 3).double().mean().item() == pytest.approx(math.erfc(3 / math.sqrt(2)), rel=0.1)


def test_nothing_is_correlated() -> None:
    """Neither neighbours in a stream, nor images, roles, children, nor the two outputs of one Box-Muller pair."""
    n = 50_000
    rng = image_rng(0, IDS, "solver")
    streams = torch.cat([rng.normal(n), rng.child(0).normal(n), image_rng(0, IDS, "operator").normal(n)]).double()
    bound = 5 / math.sqrt(n)
    correlation = torch.corrcoef(streams) - torch.eye(len(streams))
    assert correlation.abs().max() < bound
    for lag in (1, 2, 3, 64):
        assert (streams[:, lag:] * streams[:, :-lag]).mean(1).abs().max() < bound
    assert torch.corrcoef(streams.square()).fill_diagonal_(0).abs().max() < bound


def test_numbers_do_not_repeat() -> None:
    """53-bit numbers of 200 images, 5,000 draws each: a chance repeat has odds of 1 in 18,000."""
    u = image_rng(0, [str(i) for i in range(200)], "solver").uniform(5_000, dtype=torch.float64)
    assert len(torch.unique(u)) == u.numel()


def test_permutations_are_permutations_and_fair() -> None:
    orders = image_rng(0, [str(i) for i in range(6_000)], "operator").permutation(3)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(3).expand(6_000, 3))
    codes = orders @ torch.tensor([9, 3, 1])
    _, counts = torch.unique(codes, return_counts=True)
    assert len(counts) == 6
    assert float(((counts - 1_000.0) ** 2 / 1_000).sum()) < 20.5  # chi-square with 5 degrees, p = 0.001


def test_ids_that_could_be_confused_are_not() -> None:
    """(1, "1a") and (11, "a"): the parts of a key are kept apart."""
    streams = [image_rng(1, ["1a"], "solver"), image_rng(11, ["a"], "solver"), image_rng(1, ["1"], "asolver")]
    assert len({tuple(rng.uniform(4)[0].tolist()) for rng in streams}) == 3
