"""Samples of a posterior: independent runs of a solver on one problem, and exact ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ipsolve.evaluation.sampling import draw
from ipsolve.posterior.experiment import Entry
from ipsolve.posterior.problems import PosteriorProblem
from ipsolve.priors import MeteredPrior
from ipsolve.priors.base import COUNTED
from ipsolve.problem import Problem, Solution
from ipsolve.randomness import ImageRng, image_rng


@dataclass(frozen=True)
class Samples:
    """Samples x, (N, d) float64, and what one run cost: network calls by kind, seconds."""

    x: Tensor
    num_runs: int
    calls: dict[str, float]
    seconds: float


def run_solver(problem: PosteriorProblem, entry: Entry, count: int, seed: int, batch_size: int) -> Samples:
    """Return ``count`` samples of a solver, from independent runs that all see the same measurement.

    A run draws from its own stream, so that its sample depends neither on the other runs nor on ``batch_size``.

    Args:
        batch_size: states solved together.
    """
    num_runs = entry.num_runs(count)
    drawn, calls = [], dict.fromkeys(COUNTED, 0.0)
    start = time.perf_counter()
    for rng in _streams(problem, "solver", num_runs, seed, max(batch_size // entry.states_per_run, 1)):
        runs = problem.runs(rng)
        prior = MeteredPrior(runs.prior, rng.batch_size)
        drawn.append(_draw(entry, replace(runs, prior=prior)).flatten(0, 1).flatten(1).double())
        for name, counts in prior.counts.items():
            calls[name] += float(counts.sum()) / num_runs
    seconds = (time.perf_counter() - start) / num_runs
    x = torch.cat(drawn)[:count]
    if x.shape != (count, problem.posterior.dimension):
        raise ValueError(f"{tuple(x.shape)} came back for {count} samples of dimension {problem.posterior.dimension}")
    return Samples(x, num_runs, calls, seconds)


def exact_samples(problem: PosteriorProblem, count: int, seed: int, role: str, batch_size: int) -> Samples:
    """Return ``count`` exact samples; another ``role`` or ``seed`` is another sample set."""
    start = time.perf_counter()
    x = torch.cat([problem.posterior.sample(rng) for rng in _streams(problem, role, count, seed, batch_size)])
    return Samples(x, count, dict.fromkeys(COUNTED, 0.0), (time.perf_counter() - start) / count)


def _streams(problem: PosteriorProblem, role: str, count: int, seed: int, size: int) -> Iterator[ImageRng]:
    device = problem.posed.x.device
    for first in range(0, count, size):
        yield image_rng(seed, [f"{problem.id}/{run}" for run in range(first, min(first + size, count))], role, device)


def _draw(entry: Entry, runs: Problem) -> Tensor:
    """Return what each run leaves: one draw, or as many as it has samples, as their weights say, (B, S, ...)."""
    if entry.sampling.keep == "one":
        return draw(entry.solver, runs)
    solution = Solution.of(entry.solver.solve(runs), (runs.batch_size, *runs.prior.image_shape))
    # equal weights keep every sample once: each of the S teeth of the comb lies in its own sample's share
    return solution.draw(entry.solver.num_samples, runs.rng.child("keep"))
