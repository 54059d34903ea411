"""Images per second of every registered solver, and how much of its time is not spent in networks.

Super-resolution x4 of 64 pixel portraits with the built-in prior. Every solver has the same reduced number of steps
and, where it optimises, of iterations (REDUCED), so a row compares batch sizes and overheads, not methods at their
published settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch

from benchmarks.harness import Options, Row, clock, say, take_turns
from benchmarks.problem import PRIOR, SR4, portraits
from benchmarks.timed_prior import TimedPrior
from ipsolve.operators.tasks import parse_task
from ipsolve.priors import load_prior
from ipsolve.problem import Problem
from ipsolve.requests.errors import RequestError
from ipsolve.requests.validation import field_names
from ipsolve.solvers import SOLVERS, Solver, parse_solver

REDUCED = {"num_steps": 20, "iterations": 20, "latent_iterations": 10, "pixel_iterations": 50}
QUICK = {"num_steps": 2, "iterations": 2, "latent_iterations": 1, "pixel_iterations": 2}


def rows(options: Options) -> list[Row]:
    batch_sizes = [2] if options.quick else [1, 8, 32]
    return options.apart(
        measure_solvers,
        options.threads,
        batch_sizes=batch_sizes,
        rounds=options.rounds_or(3),
        limits=QUICK if options.quick else REDUCED,
    )


def measure_solvers(batch_sizes: list[int], rounds: int, limits: dict[str, int]) -> list[Row]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prior = load_prior(PRIOR, device)
    found: list[Row] = []
    for batch_size in batch_sizes:
        trial = portraits(SR4, range(batch_size), prior, device)
        arms = {}
        for name in SOLVERS:
            solver = reduced_solver(name, {key: min(2, value) for key, value in limits.items()})
            if solver is not None:
                Arm(solver, trial.problem)()  # kernels are chosen and memory is taken at the first call
                arms[name] = Arm(reduced_solver(name, limits), trial.problem)
        seconds = take_turns(arms, rounds)
        for name, arm in arms.items():
            elapsed = median(seconds[name])
            say(f"batch {batch_size:2} {name:20} {batch_size / elapsed:.2f} images/s")
            found.append(
                {
                    "solver": name,
                    "batch": batch_size,
                    "images/s": batch_size / elapsed,
                    "outside networks %": 100 * median(arm.shares),
                    "settings": ", ".join(f"{key}={getattr(arm.solver, key)}" for key in _limited(name, limits)),
                    "threads": torch.get_num_threads(),
                    "device": device,
                    "rounds": rounds,
                }
            )
    return sorted(found, key=lambda row: row["solver"])


def reduced_solver(name: str, limits: dict[str, int]) -> Solver | None:
    """Return a solver with reduced steps, or None (and say so) if it cannot do this task with this prior."""
    try:
        solver = parse_solver({"solver": name, **{key: limits[key] for key in _limited(name, limits)}})
        solver.check(parse_task(SR4), frozenset({"latent"}))
    except RequestError as reason:
        say(f"{name} is left out: {reason}")
        return None
    return solver


def _limited(name: str, limits: dict[str, int]) -> list[str]:
    return [key for key in field_names(SOLVERS[name]) if key in limits]


@dataclass
class Arm:
    """Solves a problem when called, and notes the share of the time outside of networks."""

    solver: Any
    problem: Problem
    shares: list[float] = field(default_factory=list)

    @torch.no_grad()
    def __call__(self) -> None:
        timed = TimedPrior(self.problem.prior)
        problem = replace(self.problem, prior=timed, rng=self.problem.rng.repeat(1))  # from the start of the streams
        start = clock()
        self.solver.solve(problem)
        self.shares.append(1 - timed.watch.seconds / (clock() - start))
