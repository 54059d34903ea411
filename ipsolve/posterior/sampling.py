"""Samples of a posterior: independent runs of a solver on one problem, and exact ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ipsolve.operators.base import Operator
from ipsolve.posterior.experiment import Entry
from ipsolve.posterior.problems import PosteriorProblem
from ipsolve.priors import MeteredPrior
from ipsolve.problem import Measurement
from ipsolve.randomness import ImageRng, image_rng
from ipsolve.solvers.steps.particles import ParticleSolver, gather, systematic


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
    drawn, calls = [], dict.fromkeys(MeteredPrior.COUNTED, 0.0)
    start = time.perf_counter()
    for rng in _streams(problem, "solver", num_runs, seed, max(batch_size // entry.states_per_run, 1)):
        operator, measurement = problem.runs(rng.batch_size)
        prior = MeteredPrior(problem.prior, rng.batch_size)
        drawn.append(_draw(entry, measurement, operator, prior, rng).flatten(1).double())
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
    calls = dict.fromkeys(MeteredPrior.COUNTED, 0.0)
    return Samples(x, count, calls, (time.perf_counter() - start) / count)


def _streams(problem: PosteriorProblem, role: str, count: int, seed: int, size: int) -> Iterator[ImageRng]:
    device = problem.measurement.y.device
    for first in range(0, count, size):
        yield image_rng(seed, [f"{problem.id}/{run}" for run in range(first, min(first + size, count))], role, device)


def _draw(entry: Entry, measurement: Measurement, operator: Operator, prior: MeteredPrior, rng: ImageRng) -> Tensor:
    """Return what a batch of runs leaves: their draws, or all their particles, (B * P, ...), as their weights say."""
    if entry.sampling.keep == "one":
        return entry.solver.solve(measurement, operator, prior, rng)
    assert isinstance(entry.solver, ParticleSolver)
    x, log_weights = entry.solver.particles(measurement, operator, prior, rng)
    # equal weights keep every particle once: each of the P teeth of the comb lies in its own particle's share
    return gather(x.flatten(0, 1), systematic(log_weights, rng.child("keep")))
