"""CCDF is its parent method, entered late: what it shares, where it starts, and how fast starts are forgotten."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ipsolve.evaluation.sampling import draw
from ipsolve.priors import MeteredPrior, Prior
from ipsolve.priors.schedules import linear
from ipsolve.problem import Problem
from ipsolve.solvers.base import Cost
from ipsolve.solvers.projection.ccdf import CCDF
from ipsolve.solvers.projection.ilvr import ILVR
from ipsolve.solvers.projection.score_sde import ScoreSDE

from .conftest import posed
from .dense_gaussian import DenseGaussian, dense_gaussian
from .test_explicit import PROBLEM, SCHEDULES, A, Y, ancestral, draws, normal, replaced, run

F64 = torch.float64
SR: dict[str, object] = {"operator": "super_resolution", "factor": 2, "noise_std": 0.05}


@pytest.mark.parametrize("corrector_steps", [0, 1])
def test_the_whole_trajectory_is_the_parent(corrector_steps: int, pixel_prior: Prior) -> None:
    parent = ScoreSDE(num_steps=6, corrector_steps=corrector_steps)
    whole = CCDF(num_steps=6, corrector_steps=corrector_steps, start=1.0)
    outputs = [draw(solver, posed(SR, pixel_prior).problem) for solver in (parent, whole)]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


def test_without_a_corrector_the_parent_is_ilvr(pixel_prior: Prior) -> None:
    solvers = ILVR(num_steps=6, signal_std=0.5), CCDF(num_steps=6, start=1.0, signal_std=0.5)
    outputs = [draw(solver, posed(SR, pixel_prior).problem) for solver in solvers]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_ccdf_by_hand(schedule: Any) -> None:
    """The last two of eight steps, from alpha A^+ y + sigma z."""
    rng, levels = draws(), schedule.levels(8)[-3:]
    x = levels[0].sigma * normal(rng) + levels[0].alpha * Y @ torch.linalg.pinv(A).T
    for t, s in pairwise(levels):
        x = replaced(ancestral(x, t, s, normal(rng)), s, normal(rng))
    torch.testing.assert_close(run(CCDF(num_steps=8, start=0.25), schedule, 0.1), x, rtol=1e-10, atol=1e-10)
    assert PROBLEM.std > 0


def test_the_reconstruction_is_damped_with_the_replacement() -> None:
    wiener = A.T @ torch.linalg.inv(A @ A.T + (0.1 / 0.4) ** 2 * torch.eye(2, dtype=F64))
    made = replace(PROBLEM, schedule=linear(), noise_std=0.1, y=Y)
    torch.testing.assert_close(CCDF(signal_std=0.4)._reconstruction(made.problem), Y @ wiener.T, rtol=1e-10, atol=1e-10)


@dataclass(frozen=True)
class From(CCDF):
    """CCDF from a reconstruction that is given: A^+ y moved by ``shift`` in every entry."""

    shift: float = 0.0

    def _reconstruction(self, problem: Problem) -> Tensor:
        return super()._reconstruction(problem) + self.shift


def white() -> DenseGaussian:
    return replace(dense_gaussian(), mean=torch.zeros(5, dtype=F64), std=1.0)


def test_two_starts_come_closer_at_the_rate_of_the_schedule() -> None:
    """Of x_0 ~ N(0, I) a step keeps alpha_t / alpha_s of a difference that A does not see, none of one that it sees."""
    p, num_steps, share = white(), 20, 0.5
    first = p.schedule.levels(num_steps)[-num_steps // 2 - 1]
    settings: dict[str, Any] = {"num_steps": num_steps, "start": share}
    ends = [draw(From(shift=shift, **settings), p.problem)[:, 0] for shift in (0.0, 1.0)]
    null = torch.eye(5, dtype=F64) - torch.linalg.pinv(p.a) @ p.a
    # alpha of the start once, as it is noised, and once again over all steps to the clean image
    expected = first.alpha**2 * (null @ torch.ones(5, dtype=F64)).expand(3, -1)
    torch.testing.assert_close(ends[1] - ends[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_better_start_ends_nearer(share: float) -> None:
    """The distance to the run from the right start grows with the error of the start, in proportion here."""
    settings: dict[str, Any] = {"num_steps": 20, "start": share}
    ends = [draw(From(shift=shift, **settings), white().problem)[:, 0] for shift in (0.0, 0.5, 1.0)]
    near, far = (ends[1] - ends[0]).norm(dim=1), (ends[2] - ends[0]).norm(dim=1)
    torch.testing.assert_close(far, 2 * near, rtol=1e-9, atol=0)
    assert (near > 1e-3).all()


def test_only_the_last_share_of_the_calls_is_made(pixel_prior: Prior) -> None:
    metered = MeteredPrior(pixel_prior, 3)
    solver = CCDF(num_steps=40, start=0.1, corrector_steps=2, reconstruction="measurement")
    assert draw(solver, posed(SR, metered).problem).isfinite().all()
    assert metered.counts["denoiser"].tolist() == [12] * 3
    assert solver.cost(pixel_prior.traits) == Cost(denoiser=12)
    assert CCDF().cost(pixel_prior.traits) == Cost(denoiser=100)
