"""Calls of a solver: what is drawn from its answer, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ipsolve.priors import MeteredPrior
from ipsolve.problem import Problem, Solution
from ipsolve.solvers.base import Solver


@dataclass(frozen=True)
class Solved:
    """One sample of each image, (B, *image_shape), the seconds of each and its network calls by kind, (B,)."""

    x: Tensor
    seconds: float
    calls: Mapping[str, Tensor]


def solve(solver: Solver, problem: Problem) -> Solved:
    """Return one sample of each image, timed and metered.

    Samples are as many as the rows of the problem: several of one image are those of :meth:`Problem.repeat`, each an
    independent call with a stream of its own, so that they do not depend on how they are batched.

    Raises:
        ValueError: the solver returned another shape.
    """
    prior = MeteredPrior(problem.prior, problem.batch_size)
    _synchronize(problem.y.device)
    start = time.perf_counter()
    x = draw(solver, replace(problem, prior=prior))[:, 0]
    _synchronize(problem.y.device)
    return Solved(x, (time.perf_counter() - start) / problem.batch_size, prior.counts)


def draw(solver: Solver, problem: Problem, count: int = 1) -> Tensor:
    """Return ``count`` samples of each image from one call of a solver, (B, count, *image_shape), as weights say.

    Raises:
        ValueError: the solver returned another shape.
    """
    shape = (problem.batch_size, *problem.prior.image_shape)
    return Solution.of(solver.solve(problem), shape).draw(count, problem.rng.child("draw"))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
