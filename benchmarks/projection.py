"""The null-space projection in closed form against ReSample's pixel optimisation, on the same input.

Both start from the same image (the average of the truth and another portrait) and the same noisy measurement. ``error``
is the root mean square distance to the truth; fitting the noise of y completely raises it where A has small singular
values, which is why ``nullspace_resample`` damps the projection (last arm).
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from benchmarks.harness import Options, Row, say, take_turns
from benchmarks.problem import SR4, portraits
from ipsolve.conventions import squared_norm
from ipsolve.priors import load_prior
from ipsolve.problem import Posed, Problem
from ipsolve.solvers import parse_solver
from ipsolve.solvers.steps.hard_consistency import fit_pixels

INPAINTING = {"operator": "random_inpainting", "noise_std": 0.01}
# image size: batch, and the kernels that belong to it
SIZES = {64: (8, {"kernel_size": 15, "std": 1.5}, {"kernel_size": 15}), 256: (1, {}, {})}


def rows(options: Options) -> list[Row]:
    rounds = options.rounds_or(3)
    found: list[Row] = []
    for size in [64] if options.quick else SIZES:
        work = {"batch": 1 if options.quick else SIZES[size][0], "iterations": 20 if options.quick else 2000}
        found += options.apart(measure_size, options.threads, size=size, rounds=rounds, **work)
    return found


@torch.no_grad()
def measure_size(size: int, batch: int, rounds: int, iterations: int) -> list[Row]:
    _, gaussian, motion = SIZES[size]
    tasks = {
        "random_inpainting": INPAINTING,
        "sr4": SR4,
        "gaussian_blur": {"operator": "gaussian_blur", "noise_std": 0.01, **gaussian},
        "motion_blur": {"operator": "motion_blur", "shape": "centred", "noise_std": 0.01, **motion},
    }
    # a problem asks for a prior, of which a fit in pixels makes no use
    prior = load_prior({"prior": "mixture", "image_shape": [3, size, size]})
    found: list[Row] = []
    for task, mapping in tasks.items():
        trial = portraits(mapping, range(batch + 1), prior)  # one more, so that each has another one to be mixed with
        start = (trial.x + trial.x.roll(1, 0))[:batch] / 2
        trial = trial.select(torch.arange(batch))
        arms = {name: _Arm(function, start) for name, function in _methods(trial.problem, iterations).items()}
        for warm_up in _methods(
            trial.problem, 1
        ).values():  # libraries are loaded; decompositions are cached, as in a solver
            warm_up(start)
        seconds = take_turns(arms, rounds)
        slow = median(seconds["optimisation"])
        for name, arm in arms.items():
            elapsed = median(seconds[name])
            row = {
                "size": size,
                "task": task,
                "method": name,
                "ms per image": 1000 * elapsed / batch,
                "times faster": slow / elapsed,
                "residual": _residual(trial, arm.result),
                "error": squared_norm(arm.result - trial.x).mean().div(trial.x[0].numel()).sqrt().item(),
                "batch": batch,
                "threads": torch.get_num_threads(),
                "rounds": rounds,
            }
            say(f"{size} {task} {name}: {row['ms per image']:.3g} ms per image, residual {row['residual']:.2g}")
            found.append(row)
    return found


class _Arm:
    def __init__(self, function: Callable[[Tensor], Tensor], start: Tensor) -> None:
        self.function, self.start, self.result = function, start, start

    def __call__(self) -> None:
        self.result = self.function(self.start)


def _methods(problem: Problem, iterations: int) -> dict[str, Callable[[Tensor], Tensor]]:
    operator, y = problem.linear_operator, problem.y
    published = parse_solver({"solver": "resample"})
    assumed = parse_solver({"solver": "nullspace_resample"}).estimate_std or 1.0
    damping = (problem.noise_std / assumed) ** 2

    def optimise(x: Tensor) -> Tensor:
        lr, threshold = published.pixel_lr, published.stop_threshold
        return fit_pixels(problem, x, lr=lr, max_iterations=iterations, threshold=threshold)

    return {
        "optimisation": optimise,
        "closed form": lambda x: operator.prox(x, y),
        "closed form, noise-aware": lambda x: operator.prox(x, y, damping),
    }


def _residual(trial: Posed, x: Tensor) -> float:
    """Return ||A x - y|| / sqrt(m), the root mean square over the batch."""
    return trial.problem.image_mean_square(x).mean().sqrt().item()
